# SPDX-License-Identifier: Apache-2.0
"""Where workers are born: a process of one thread that forks them, and tells when they died.

A fork of the front itself would copy its threads' locks. The nursery is forked before there are any, has everything imported
that a worker needs, and so gives birth in milliseconds. It ends with the front, and the workers end with it. What this file
does not do: know what a worker does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import mmap
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ditto_cosim.device.process import die_with_parent

log = logging.getLogger("ditto.device")

WHERE = signal.SIGUSR1
"""A worker that gets it writes to the device's log what its threads are doing, even if one holds the interpreter's lock."""
SLOTS = 256
SLOT_BYTES = 512
_BEAT = struct.Struct("<ddH")
_TEXT = struct.Struct("<H")


@dataclass(frozen=True)
class Birth:
    """What a worker is told."""

    session: int
    slot: int
    """Its place on the slate."""
    endpoint: str


@dataclass(frozen=True)
class Death:
    """How a worker ended."""

    session: int
    status: int
    """As `os.waitstatus_to_exitcode` gives it: negative for a signal."""
    failed: str = ""
    """Why it was never born."""


@dataclass(frozen=True)
class Beat:
    """What a worker's loop says of itself when it comes round."""

    now: float
    heard_at: float
    """When its host last said something."""
    runs: int


class Slate:
    """A page that a worker writes and the front reads even after the worker's death: its last beat and what it was doing."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * SLOT_BYTES)

    def beat(self, slot: int, beat: Beat) -> None:
        _BEAT.pack_into(self._memory, slot * SLOT_BYTES, beat.now, beat.heard_at, beat.runs)

    def doing(self, slot: int, what: str) -> None:
        text = what.encode()[: SLOT_BYTES - _BEAT.size - _TEXT.size]
        at = slot * SLOT_BYTES + _BEAT.size
        self._memory[at : at + _TEXT.size + len(text)] = _TEXT.pack(len(text)) + text

    def last_beat(self, slot: int) -> Beat:
        return Beat(*_BEAT.unpack_from(self._memory, slot * SLOT_BYTES))

    def last_doing(self, slot: int) -> str:
        at = slot * SLOT_BYTES + _BEAT.size
        (length,) = _TEXT.unpack_from(self._memory, at)
        start = at + _TEXT.size
        return self._memory[start : min(start + length, (slot + 1) * SLOT_BYTES)].decode(errors="replace")


class Nursery:
    """Made while the process has one thread; `work` runs in every worker, `prepare` once in the nursery."""

    def __init__(
        self, work: Callable[[Birth, Slate], int], prepare: Callable[[], None] = lambda: None
    ) -> None:
        self.slate = Slate()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _live(theirs, work, prepare, self.slate)
        theirs.close()
        ours.setblocking(False)
        self._channel = ours
        self.fd = ours.fileno()

    def bear(self, birth: Birth) -> None:
        self._channel.send(json.dumps({"bear": asdict(birth)}).encode())

    def kill(self, session: int, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"kill": session, "signal": number}).encode())

    def deaths(self) -> list[Death]:
        """Those since the last call. Raises EOFError if the nursery itself is gone."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._channel.recv(65536)
                if not data:
                    raise EOFError
                found.append(Death(**json.loads(data)))
        return found

    def close(self) -> None:
        """Ends the nursery and whatever workers are left."""
        self._channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _live(
    channel: socket.socket, work: Callable[[Birth, Slate], int], prepare: Callable[[], None], slate: Slate
) -> None:
    """Never returns."""
    die_with_parent()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    workers: dict[int, int] = {}
    try:
        prepare()
        while True:
            sources: list[socket.socket | int] = [channel, wake_read]
            ready, _, _ = select.select(sources, [], [])
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
            if channel in ready:
                data = channel.recv(65536)
                if not data:
                    break
                order = json.loads(data)
                if "kill" in order:
                    for pid, session in workers.items():
                        if session == order["kill"]:
                            os.kill(pid, order["signal"])
                else:
                    birth = Birth(**order["bear"])
                    try:
                        pid = os.fork()
                    except OSError as error:
                        channel.send(json.dumps(asdict(Death(birth.session, 1, str(error)))).encode())
                        continue
                    if pid == 0:
                        channel.close()
                        signal.set_wakeup_fd(-1)
                        _be(birth, work, slate)
                    workers[pid] = birth.session
            for pid in list(workers):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    death = Death(workers.pop(pid), os.waitstatus_to_exitcode(status))
                    channel.send(json.dumps(asdict(death)).encode())
    except OSError:
        pass  # the front is gone
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _be(birth: Birth, work: Callable[[Birth, Slate], int], slate: Slate) -> None:
    """A worker's life."""
    status = 1
    try:
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.register(WHERE)
        os.setsid()  # schedulers that share cores by session share them between hosts
        die_with_parent()
        status = work(birth, slate)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
