# SPDX-License-Identifier: Apache-2.0
"""One host cannot hurt another: whatever its board, its program or its messages do ends with its own process."""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ditto_cosim.device.serving.front import STUCK_S, Front, _Session
from ditto_cosim.device.serving.nursery import WHERE, Beat, Slate
from ditto_cosim.host.wire import link as link_module
from ditto_cosim.host.wire.client import connect
from ditto_cosim.protocol import codec, tensors
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import DeviceLostError, DittoError, QuotaError, WatchdogError
from ditto_cosim.protocol.loop import TICK_S
from ditto_cosim.protocol.program import Program
from support.device_processes import Running, running
from support.wire_harness import Given, run_steps, serving
from support.wire_programs import QUANTIZE, Builder, chain, inputs_of

STEPS = 4
OFFER = [
    text
    for name in ("Segfaulting", "Greedy", "Silent", "Locked", "Busy")
    for text in ("--offer", f"support.isolation_backends:{name}Board")
]


def bad_program() -> tuple[Program, dict[str, Any]]:
    """One layer of the name that the boards fail at."""
    b = Builder()
    x = b.input("x", 16, 32)
    q, params = b.do("quantize", "q", (x,), QUANTIZE)
    w = b.constant("w", np.ones((32, 32), np.int8))
    (y,) = b.do("linear", "bad.linear", (q, params, w))
    return b.program(y=y), b.arrays


@pytest.fixture(scope="module")
def expected() -> Given:
    program, constants = chain()
    with serving("ipc:///tmp/" + secrets.token_hex(8)) as address, connect(address) as host:
        return run_steps(host.open_run(program, constants), STEPS, observe="all")


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def boards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("boards")
    address = {"ipc": f"ipc://{path}/d", "tcp": "tcp://127.0.0.1:*"}[request.param]
    with running(address, path / "log", *OFFER, "--progress-s", "2", "--host-bytes", str(1 << 28)) as device:
        yield device


@pytest.mark.parametrize(
    ("board", "error", "says"),
    [
        (
            "Segfaulting",
            DeviceLostError,
            r"killed by signal 11 \(SIGSEGV\) while it computed layer 'bad.linear'",
        ),
        ("Greedy", QuotaError, "out of memory"),
        ("Silent", WatchdogError, r"layer 'bad.linear' \(original, .*no answer for \d+ s"),
        ("Busy", WatchdogError, r"layer 'bad.linear' \(original, .*no answer for \d+ s"),
    ],
)
def test_bad_board_ends_its_own_run_and_no_other(
    boards: Running, expected: Given, board: str, error: type, says: str
) -> None:
    if boards.address.startswith("tcp") and board not in ("Segfaulting", "Silent"):
        pytest.skip("on tcp only the ways in which a host is told are tested")
    failed: list[Exception] = []

    def fail() -> None:
        try:
            with connect(boards.address) as bad:
                bad._revivals = bad._revivals_left = 1
                mine = bad.open_run(
                    *bad_program(), m.RunSpec(backend=f"support.isolation_backends:{board}Board")
                )
                mine.step(0, inputs_of(mine.program, 0))
        except Exception as caught:
            failed.append(caught)

    with connect(boards.address) as good, good.open_run(*chain()) as run:
        thread = threading.Thread(target=fail)
        thread.start()
        assert run_steps(run, STEPS, observe="all") == expected
        thread.join()
        assert run.recoveries == 0
    assert isinstance(failed[0], error), failed
    assert re.search(says, str(failed[0])), str(failed[0])


@pytest.mark.long
def test_board_that_keeps_the_interpreters_lock_is_killed(tmp_path: Path, expected: Given) -> None:
    """Its process answers nothing, not even beats; the front notices, and the host gives it up before."""
    with (
        running(f"ipc://{tmp_path}/d", tmp_path / "log", *OFFER) as device,
        connect(device.address, dead_s=60.0) as bad,
        connect(device.address) as good,
    ):
        bad._revivals = bad._revivals_left = 0
        mine = bad.open_run(*bad_program(), m.RunSpec(backend="support.isolation_backends:LockedBoard"))
        with pytest.raises(DeviceLostError, match="did not answer for 30 s and was killed"):
            mine.step(0, inputs_of(mine.program, 0))
        with good.open_run(*chain()) as run:
            assert run_steps(run, STEPS, observe="all") == expected
    assert "isolation_backends.py" in (tmp_path / "log").read_text(), "where it was stuck"


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_device_whose_streams_are_closed_serves(tmp_path: Path, expected: Given, closed: str) -> None:
    address = f"ipc://{tmp_path}/d"
    shell = (
        f"exec {sys.executable} -m ditto_cosim.device --bind {address} --chip tiny --backend model {closed}"
    )
    with subprocess.Popen(["sh", "-c", shell], stdout=subprocess.DEVNULL) as device:
        try:
            with connect(address, dead_s=20.0) as host, host.open_run(*chain()) as run:
                assert run_steps(run, STEPS, observe="all") == expected
        finally:
            device.terminate()
        assert device.wait(15) == 0


class Kills:
    """A nursery that only notes whom it is to kill."""

    def __init__(self) -> None:
        self.slate, self.killed = Slate(), list[tuple[int, int]]()

    def kill(self, session: int, number: int = signal.SIGKILL) -> None:
        self.killed.append((session, number))


def test_a_machine_that_slept_kills_no_worker(tmp_path: Path) -> None:
    """Behind an hour in which nothing ran the front ticks before the worker's loop has come round."""
    nursery: Any = Kills()
    front = Front(nursery, m.Limits())
    front.bind(f"ipc://{tmp_path}/d")
    try:
        session = _Session(1, 0, "host", "", "ipc://x", 0.0, ended_at=0.0)
        front._sessions[b"host"] = session
        now = front._ticked_at
        nursery.slate.beat(0, Beat(now, now, 1))
        for later in (0.1, 3600.0, 3600.1, 3600.2):
            front._tick(now + later)
        assert not session.ended
        for tick in range(round(STUCK_S / TICK_S) + 10):
            front._tick(now + 3601 + tick * TICK_S)
        assert "did not answer" in session.ended
        assert nursery.killed[0] == (1, WHERE)
        assert set(nursery.killed[1:]) == {(1, signal.SIGKILL)}
        assert b"host" in front._sessions, "its death is still to be told"
    finally:
        front._close()


def test_padding_beyond_reason_is_refused_before_it_is_allocated(tmp_path: Path, expected: Given) -> None:
    b = Builder()
    x = b.input("x", 1, 4, 8, 8)
    q, params = b.do("quantize", "q", (x,), QUANTIZE)
    w = b.constant("w", np.ones((4, 4, 1, 1), np.int8))
    (y,) = b.do("conv2d", "conv", (q, params, w), {"stride": (40_000, 40_000), "padding": (20_000, 20_000)})
    program = b.program(y=y)
    with running(f"ipc://{tmp_path}/d", tmp_path / "log", "--run-bytes", str(1 << 30)) as device:
        with (
            connect(device.address) as host,
            pytest.raises(QuotaError, match=r"'conv'.*the quota is 1073741824"),
        ):
            host.open_run(program, b.arrays)
        with connect(device.address) as host, host.open_run(*chain()) as run:
            assert run_steps(run, STEPS, observe="all") == expected


def test_front_that_is_held_up_holds_nobody_up(tmp_path: Path, expected: Given) -> None:
    with (
        running(f"ipc://{tmp_path}/d", tmp_path / "log") as device,
        connect(device.address) as host,
        host.open_run(*chain()) as run,
    ):
        front = psutil.Process(device.process.pid)
        front.suspend()
        try:
            assert run_steps(run, STEPS, observe="all") == expected
        finally:
            front.resume()


def test_hosts_do_not_see_each_others_constants(tmp_path: Path) -> None:
    """A digest opens nothing: what one host has sent, another has to send again, and cannot spoil."""
    program, constants = chain(2)
    with running(f"ipc://{tmp_path}/d", tmp_path / "log") as device, connect(device.address) as owner:
        run = owner.open_run(program, constants)
        expected_here = run_steps(run, 2)
        with connect(device.address) as thief:
            keys = {name: tensors.key_of(name, array) for name, array in constants.items()}
            request = m.OpenRun(run="thief", seq=0, spec=m.RunSpec(), constants=keys)
            opened, _ = thief.link.request(request, [codec.encode_program(program)])
            assert isinstance(opened, m.Opened)
            assert set(opened.missing) == {key.digest for key in keys.values()}
            with contextlib.suppress(DittoError):
                for seq, digest in enumerate(opened.missing, 1):
                    size = next(
                        tensors.array_bytes(a).nbytes
                        for n, a in constants.items()
                        if keys[n].digest == digest
                    )
                    put = m.PutTensors(run="thief", seq=seq, pieces=[m.Piece(digest=digest)])
                    thief.link.request(put, [bytes(size)])
            with owner.open_run(program, constants) as again:
                assert run_steps(again, 2) == expected_here


def test_host_that_leaves_frees_its_process(tmp_path: Path) -> None:
    with running(f"ipc://{tmp_path}/d", tmp_path / "log") as device:
        with connect(device.address), connect(device.address):
            assert len(device.workers()) == 2
        deadline = time.monotonic() + 5
        while device.workers() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not device.workers()
    assert not list(tmp_path.glob("d*"))


def test_full_device_keeps_runs_and_sends_the_silent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Given
) -> None:
    monkeypatch.setattr(link_module, "BEAT_S", 0.2)
    with running(f"ipc://{tmp_path}/d", tmp_path / "log", "--hosts", "2") as device:
        busy, silent = connect(device.address), connect(device.address)
        run = busy.open_run(*chain())
        with pytest.raises(QuotaError, match="serves 2 hosts already"):
            connect(device.address)
        silent.link._loop.post = lambda socket, frames: None  # type: ignore[method-assign]  # its cable cut
        time.sleep(2.0)
        with connect(device.address) as third, third.open_run(*chain()) as theirs:
            assert run_steps(theirs, STEPS, observe="all") == expected
        assert run_steps(run, STEPS, observe="all") == expected
        assert run.recoveries == 0
        silent.close()
        busy.close()
