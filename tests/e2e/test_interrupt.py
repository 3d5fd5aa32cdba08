# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C on `ditto generate` stops both processes, without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ditto_cosim.protocol.record import RunRecord


def hears_interrupts() -> None:
    """As from a terminal; a shell starts what it puts in the background deaf to them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_interrupt_stops_host_and_device_and_marks_the_run(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    command = "from ditto_cosim.cli import main; main()"
    host = subprocess.Popen(
        [
            sys.executable,
            "-c",
            command,
            "generate",
            "--model",
            "fashion-ddpm",
            "--backend",
            "model",
            "--steps",
            "1000",
            "-o",
            str(tmp_path),
        ],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_interrupts,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("step-0001.npz")):
        assert host.poll() is None, host.communicate()[1]
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.1)
    (device,) = psutil.Process(host.pid).children()
    host.send_signal(number)
    _, errors = host.communicate(timeout=60)
    assert host.returncode == status, errors
    assert "interrupted" in errors
    assert f"ditto resume {tmp_path}" in errors
    assert "Traceback" not in errors
    record = RunRecord(tmp_path)
    assert record.interrupted.startswith(f"{len(record)} of 1000 planned steps: ")
    psutil.wait_procs([device], timeout=30)
    assert not device.is_running() or device.status() == psutil.STATUS_ZOMBIE
