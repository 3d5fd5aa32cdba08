# SPDX-License-Identifier: Apache-2.0
"""A host's Pongs come back within a second whatever another host does, and the device stays as it was."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ditto_cosim.bench.attacks import ATTACKS, Host, p99, pongs_under
from ditto_cosim.host.wire.client import Device, connect
from ditto_cosim.protocol.codec import encode
from ditto_cosim.protocol.errors import QuotaError
from ditto_cosim.protocol.messages import Limits, Piece, PutTensors
from support.device_processes import Running, running
from support.wire_harness import run_steps
from support.wire_programs import chain


@pytest.fixture(scope="module", params=["tcp", pytest.param("ipc", marks=pytest.mark.long)])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("attacked")
    address = {"ipc": f"ipc://{path}/d", "tcp": "tcp://127.0.0.1:*"}[request.param]
    with running(address, path / "log", "--log-level", "error") as started:
        yield started


@pytest.mark.parametrize("attack", ATTACKS)
def test_pongs_come_within_a_second_under_attack(device: Running, attack: str) -> None:
    took = pongs_under(attack, device.address, 0.6)
    assert p99(took) < 1.0, (attack, len(took), sorted(took)[-5:])
    front = psutil.Process(device.process.pid)
    assert front.num_threads() < 20
    with after(device.address) as host, host.open_run(*chain(2)) as run:
        run_steps(run, 1)


def test_front_holds_two_windows_of_a_host_whose_worker_stands_still(tmp_path: Path) -> None:
    piece = 64 << 20
    put = encode(PutTensors(run="r", seq=1, pieces=[Piece(digest="0" * 32)]), [bytes(piece)])
    with running("tcp://127.0.0.1:*", tmp_path / "log", "--log-level", "error") as device:
        front, bad, good = psutil.Process(device.process.pid), Host(device.address), Host(device.address)
        bad.greet()
        (worker,) = device.workers()
        good.greet()
        before = front.memory_info().rss
        worker.suspend()
        try:
            for _ in range(24):
                bad.socket.send_multipart(put)
            most, end = 0, time.monotonic() + 3
            while time.monotonic() < end:
                assert good.pong_s(1, 10.0) < 5.0
                most = max(most, front.memory_info().rss - before)
                time.sleep(0.02)
            assert 4 * piece < most < 2 * Limits().window_bytes + 4 * piece, most >> 20
        finally:
            worker.resume()
            bad.close()
            good.close()


def test_strangers_who_hold_connections_open_keep_nobody_out_for_long(tmp_path: Path) -> None:
    """Sixty who say nothing, at a device that may hold a few more than forty."""
    with running("tcp://127.0.0.1:*", tmp_path / "log") as device, contextlib.ExitStack() as held:
        resource.prlimit(device.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        port = int(device.address.rpartition(":")[2])
        for _ in range(60):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        front = psutil.Process(device.process.pid)
        while front.num_fds() < 64:
            time.sleep(0.01)
        with connect(device.address, timeout_s=15.0):
            pass


def after(address: str) -> Device:
    """A new host; strangers that are silent make room for it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return connect(address)
        except QuotaError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
