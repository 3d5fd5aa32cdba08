# SPDX-License-Identifier: Apache-2.0
"""A device that is sent rubbish goes on serving its other hosts, answers in words, and does not grow."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil
import pytest
import zmq

from ditto_cosim.host.wire.link import Link
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from support.bombard import bombard
from support.wire_harness import run_steps
from support.wire_programs import chain

PLAIN = ["--backend", "support.plain_backend:PlainBackend", "--chip", "tiny"]


def survive(seed: int, count: int) -> None:
    with LocalDevice([*PLAIN, "--log-level", "error"], restarts=0) as device:
        front = psutil.Process(device.pid)
        (nursery,) = front.children()
        address = device.link.address
        with device.open_run(*chain(), m.RunSpec()) as run:
            expected = run_steps(run, 2)
        for greets in (False, True):
            bombard(address, seed, count // 4, greets=greets)
            attacked = (lambda: max(nursery.children(), key=lambda p: p.pid)) if greets else (lambda: front)
            before = attacked().memory_info().rss
            came = bombard(address, seed + 1, count, greets=greets)
            after = attacked().memory_info().rss
            assert greets or came.get("LimitError", 0) > 0
            refused = came.get("ProtocolError", 0) + came.get("LimitError", 0)
            assert refused > count * (0.3 if greets else 0.9), came
            assert came.get("DeviceError", 0) == 0, (
                "a wrong message met an unexpected exception; see the device's log"
            )
            assert after - before < 8 << 20
            if greets:
                assert came.get("Pong", 0) > 0
        with device.open_run(*chain(), m.RunSpec()) as run:
            assert run_steps(run, 2) == expected
            assert run.recoveries == 0
        assert device.pid == front.pid


def test_device_survives_wrong_messages() -> None:
    survive(1, 4_000)


@pytest.mark.long
def test_device_survives_a_hundred_thousand_wrong_messages() -> None:
    survive(5, 100_000)


def test_host_that_is_sent_rubbish_says_so(tmp_path: Path) -> None:
    from ditto_cosim.protocol.errors import ProtocolError

    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    address = f"ipc://{tmp_path}/device"
    router.bind(address)
    try:
        import threading

        def answer() -> None:
            identity, *_ = router.recv_multipart()
            header = msgspec.msgpack.encode({"type": "Welcome", "limits": 3})
            router.send_multipart([identity, *codec.sealed(header)])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ProtocolError, match="sent what this host cannot read"):
            Link(address)
        thread.join()
    finally:
        context.destroy(0)
