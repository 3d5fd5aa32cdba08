# SPDX-License-Identifier: Apache-2.0
"""The device's front door: it greets hosts, gives each a process of its own, and says how that process ended.

One ROUTER socket. On ipc a host that said Hello is told to go on with its worker directly (`Moved`), so that nothing it sends
touches anybody else; on tcp its messages are passed through here, undecoded. When a worker dies, the front takes its address
over and tells the host. What this file does not do: runs and limits within a host (`server.py`, in the worker).
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from ditto_cosim.device.serving.nursery import SLOTS, WHERE, Beat, Birth, Death, Nursery
from ditto_cosim.protocol import codec, security
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    CrashedError,
    DittoError,
    ProtocolError,
    QuotaError,
    SecurityError,
    describe,
)
from ditto_cosim.protocol.loop import REAL, TICK_S, Loop, Socket, World
from ditto_cosim.protocol.tensors import Buffer
from ditto_cosim.protocol.version import check_peer

log = logging.getLogger("ditto.device")

HELLO_BYTES = 4096
MESSAGES_TO_A_HOST = 100_000
MESSAGES_FROM_A_HOST = 64
STUCK_S = 30.0
"""A worker whose loop has not come round for so long holds the interpreter's lock in foreign code, and is killed. The front
counts its own ticks, so that a machine that slept, or was overloaded, kills nobody."""
SILENT_S = 1.5
"""A host that has no run and says nothing for so long makes room for another if the device is full."""
TOMBSTONE_S = 120.0
"""So long the front answers at the address of a worker that died."""


@dataclass
class _Session:
    """One host and its worker."""

    number: int
    slot: int
    """Its place on the slate."""
    name: str
    key: str
    """Its CURVE public key; empty without keys."""
    endpoint: str
    born_at: float
    beat_at: float = 0.0
    quiet_s: float = 0.0
    """Since the worker's last beat, that the front was awake."""
    back: Socket | None = None
    """Towards the worker, if the host's messages pass through here."""
    unheard_bytes: int = 0
    """Passed on since the worker last said anything."""
    ended: str = ""
    ended_at: float = 0.0
    told: bool = False
    taken_over: bool = False


class Front:
    """`serve` runs until `stop`; nothing else may be called from another thread."""

    def __init__(
        self, nursery: Nursery, limits: m.Limits, *, parent_pid: int | None = None, world: World = REAL
    ) -> None:
        self._nursery, self._limits, self._parent_pid = nursery, limits, parent_pid
        self._world = world
        self._first = _first_limits(limits)
        self._sessions: dict[bytes, _Session] = {}
        self._born = 0
        self._ticked_at = world.now()
        self._sockets = world.sockets()
        self._loop = Loop(world, self._tick)
        self._gate: security.Gate | None = None
        self._passes_on = False
        self._beside = ""
        self._secret = ""
        self._directory: Path | None = None

    def bind(self, address: str, keys: Path | None = None) -> str:
        """Listen; anything but ipc and loopback needs `keys`, a directory that `ditto keys` made."""
        security.check_address(address, keys)
        self._passes_on = not address.startswith("ipc://")
        if self._passes_on:
            self._secret = "" if keys is not None else security.local_token(make=True)
            self._directory = security.private_directory("ditto-device")
            self._beside = str(self._directory / "host")
        else:
            self._beside = address.removeprefix("ipc://")
            security.claim_path(Path(self._beside))
            security.sweep_beside(Path(self._beside))
        self._socket = self._sockets.router(
            max(self._limits.frame_bytes, self._limits.header_bytes),
            MESSAGES_TO_A_HOST,
            MESSAGES_FROM_A_HOST,
            address,
        )
        try:
            if keys is not None:
                self._gate = security.Gate(self._sockets.context, self._socket.raw, keys)
            with security.private_files():
                return self._socket.bind(address)
        except (DittoError, zmq.ZMQError) as error:
            self._close()
            if isinstance(error, zmq.ZMQError):
                raise DittoError(f"cannot listen on {address}: {error}. Is another device there?") from None
            raise

    def stop(self) -> None:
        """Ask `serve` to end; safe from signal handlers and other threads."""
        self._loop.stop()

    def serve(self) -> None:
        self._loop.watch(self._socket, self._receive, self._limits.frames)
        self._loop.watch(self._nursery.fd, self._bury)
        try:
            self._loop.run()
        finally:
            self._shut_down()

    # --- messages -------------------------------------------------------------------------------------------

    def _receive(self, frames: list[zmq.Frame]) -> None:
        identity, body = frames[0].bytes, frames[1:]
        session = self._sessions.get(identity)
        key = _key(frames[-1]) if self._gate is not None else ""
        if session is not None and session.key != key:
            log.warning("another key under a host's identity", extra={"fields": {"host": session.name}})
            self._refuse(identity, SecurityError("this session belongs to another key"))
        elif session is None or session.ended:
            self._greet(identity, session, key, body)
        elif session.back is None:
            self._move(identity, session)
        else:
            self._pass_on(session, body)

    def _greet(self, identity: bytes, ended: _Session | None, key: str, body: list[zmq.Frame]) -> None:
        frames: list[Buffer] = [f.buffer for f in body]
        try:
            hello = codec.decode_host(frames, self._first)
            if not isinstance(hello, m.Hello):
                raise ProtocolError(f"{type(hello).__name__} before Hello; greet this device first")
            if not hmac.compare_digest(hello.token.encode(), self._secret.encode()) and self._secret:
                raise SecurityError("the device is another user's; give it keys, or start one of your own")
            check_peer("host", hello.protocol, hello.package, hello.parameters)
            self._check_room(key)
        except DittoError as error:
            if ended is not None and isinstance(error, ProtocolError):
                error = CrashedError(ended.ended)
            else:
                log.warning("host refused", extra={"fields": {"why": str(error)}})
            self._refuse(identity, error)
            return
        if ended is not None:
            self._forget(identity, ended)
        self._born += 1
        endpoint = f"ipc://{self._beside}.{self._born}"
        taken = {s.slot for s in self._sessions.values()}
        slot = next(i for i in range(SLOTS) if i not in taken)
        session = _Session(self._born, slot, hello.host, key, endpoint, self._world.now())
        self._sessions[identity] = session
        self._nursery.slate.beat(slot, Beat(session.born_at, session.born_at, 0))
        self._nursery.slate.doing(slot, "")
        self._nursery.bear(Birth(session.number, slot, endpoint))
        log.info("host greeted", extra={"fields": {"host": hello.host, "session": session.number}})
        if self._passes_on:
            session.back = self._sockets.dealer(identity, endpoint)
            session.back.connect(endpoint)
            self._loop.watch(session.back, self._back_to(identity, session), self._limits.frames)
            self._pass_on(session, body)
        else:
            self._move(identity, session)

    def _check_room(self, key: str) -> None:
        self._make_room()
        alive = [s for s in self._sessions.values() if not s.ended]
        if len(self._sessions) >= SLOTS:
            raise QuotaError("the device is still burying the hosts that it served; try again in a minute")
        if len(alive) >= self._limits.sessions:
            raise QuotaError(f"device serves {len(alive)} hosts already, its limit; close one of them")
        of_key = sum(s.key == key for s in alive)
        if key and of_key >= max(1, self._limits.sessions // 2):
            raise QuotaError(
                f"device serves {of_key} hosts with this key already, half of what it serves in all"
            )

    def _make_room(self) -> None:
        """A full device sends away the host that has been silent for longest, if it has no run."""
        alive = {i: s for i, s in self._sessions.items() if not s.ended}
        if len(alive) < self._limits.sessions:
            return
        beats = {i: self._nursery.slate.last_beat(s.slot) for i, s in alive.items()}
        silent = [i for i, b in beats.items() if not b.runs and self._world.now() - b.heard_at > SILENT_S]
        if silent:
            identity = min(silent, key=lambda i: beats[i].heard_at)
            alive[identity].ended = "the device was full, and this host silent and without a run"
            self._nursery.kill(alive[identity].number)

    def _move(self, identity: bytes, session: _Session) -> None:
        self._loop.post(self._socket, [identity, *codec.encode(m.Moved(address=session.endpoint))])

    def _pass_on(self, session: _Session, body: list[zmq.Frame]) -> None:
        assert session.back is not None
        nbytes = sum(len(f) for f in body)
        if session.unheard_bytes and session.unheard_bytes + nbytes > 2 * self._limits.window_bytes:
            return  # its host asks for what it misses
        session.unheard_bytes += nbytes
        session.back.send(body)

    def _back_to(self, identity: bytes, session: _Session) -> Callable[[list[zmq.Frame]], None]:
        def pass_back(frames: list[zmq.Frame]) -> None:
            session.unheard_bytes = 0
            self._socket.send([identity, *frames])

        return pass_back

    def _refuse(self, identity: bytes, error: Exception) -> bool:
        kind, text, state = describe(error)
        return self._socket.send(
            [identity, *codec.encode(m.Error(kind=kind, message=text[:65536], state=state))]
        )

    # --- workers --------------------------------------------------------------------------------------------

    def _bury(self, _: object) -> None:
        try:
            deaths = self._nursery.deaths()
        except EOFError:
            log.error("the nursery is gone")
            self._loop.stop()
            return
        for death in deaths:
            for identity, session in list(self._sessions.items()):
                if session.number == death.session:
                    self._end(identity, session, death)

    def _end(self, identity: bytes, session: _Session, death: Death) -> None:
        session.ended = session.ended or self._how(session, death)
        session.ended_at = self._world.now()
        log.log(
            logging.INFO if death.status == 0 else logging.ERROR,
            "worker ended",
            extra={"fields": {"host": session.name, "session": session.number, "how": session.ended}},
        )
        if self._passes_on:
            self._close_back(session)
        elif not session.taken_over:
            session.taken_over = True
            with contextlib.suppress(zmq.ZMQError), security.private_files():
                self._socket.bind(session.endpoint)
        if death.status == 0:
            session.told = True
        self._tell(identity, session)

    def _how(self, session: _Session, death: Death) -> str:
        doing = self._nursery.slate.last_doing(session.slot)
        if death.failed:
            return f"no process for this host: {death.failed}"
        if death.status == 0:
            return "this host's process ended: the host said Bye or was silent"
        code = death.status
        how = (
            f"killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit status {code}"
        )
        meanwhile = f" while it computed {doing}" if doing else ""
        return f"the process that served this host ended: {how}{meanwhile}. Other hosts are not affected."

    def _tell(self, identity: bytes, session: _Session) -> None:
        if not session.told:
            session.told = self._refuse(identity, CrashedError(session.ended))

    def _close_back(self, session: _Session) -> None:
        if session.back is not None:
            self._loop.forget(session.back)
            session.back.close()
            session.back = None

    def _forget(self, identity: bytes, session: _Session) -> None:
        self._close_back(session)
        if session.taken_over:
            self._socket.unbind(session.endpoint)
        with contextlib.suppress(OSError):
            os.unlink(session.endpoint.removeprefix("ipc://"))
        self._sessions.pop(identity, None)

    # --- time -----------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        awake_s = min(now - self._ticked_at, 2 * TICK_S)
        self._ticked_at = now
        for identity, session in list(self._sessions.items()):
            if session.ended:
                self._tell(identity, session)
                if not session.ended_at:
                    self._nursery.kill(session.number)
                elif now - session.ended_at > TOMBSTONE_S:
                    self._forget(identity, session)
            elif self._is_stuck(session, awake_s):
                session.ended = (
                    f"the process that served this host did not answer for {STUCK_S:g} s and was killed; it was computing "
                    f"{self._nursery.slate.last_doing(session.slot) or 'nothing it told of'}"
                )
                self._nursery.kill(session.number, WHERE)  # its last word; the next tick kills
        if self._gate is not None and self._gate.refresh():
            for identity, session in list(self._sessions.items()):
                if not session.ended and not self._gate.admits(session.key):
                    session.ended = "this host's key was revoked"
                    self._nursery.kill(session.number)
                    self._tell(identity, session)
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            log.warning("parent process is gone", extra={"fields": {"parent": self._parent_pid}})
            self._loop.stop()

    def _is_stuck(self, session: _Session, awake_s: float) -> bool:
        beat_at = self._nursery.slate.last_beat(session.slot).now
        session.quiet_s = session.quiet_s + awake_s if beat_at == session.beat_at else 0.0
        session.beat_at = beat_at
        return session.quiet_s > STUCK_S

    def _shut_down(self) -> None:
        living = {s.number for s in self._sessions.values() if not s.ended}
        for number in living:
            self._nursery.kill(number, signal.SIGTERM)
        deadline = self._world.now() + 4.0
        while living and self._world.now() < deadline:
            for source in [s.back for s in self._sessions.values() if s.back is not None]:
                while (frames := source.receive(self._limits.frames)) is not None:
                    identity = next(i for i, s in self._sessions.items() if s.back is source)
                    self._socket.send([identity, *frames])
            try:
                living -= {death.session for death in self._nursery.deaths()}
            except EOFError:
                break
            if living:
                self._world.sleep(0.02)
        self._loop.flush()
        for identity, session in list(self._sessions.items()):
            self._forget(identity, session)
        if not self._passes_on:
            with contextlib.suppress(OSError):
                os.unlink(self._beside)
        self._nursery.close()
        self._close()
        log.info("device stops", extra={"fields": {"sessions": self._born}})

    def _close(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._socket.close()
        self._loop.close()
        self._sockets.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _first_limits(limits: m.Limits) -> m.Limits:
    """What is decoded of a host that has not greeted."""
    return msgspec.structs.replace(limits, header_bytes=HELLO_BYTES, frames=1)


def _key(frame: zmq.Frame) -> str:
    try:
        found = frame.get("User-Id")
    except zmq.ZMQError:
        return ""
    return str(found)
