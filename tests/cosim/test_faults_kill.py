# SPDX-License-Identifier: Apache-2.0
"""Killed devices and killed hosts: the run goes on with the same numbers, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ditto_cosim.host.wire.client import RemoteRun
from ditto_cosim.host.wire.supervisor import LocalDevice, start_ahead
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import CancelledError, DeviceLostError
from support.wire_harness import Given, run_steps
from support.wire_programs import chain, inputs_of

STEPS = 6
PLAIN = ["--backend", "support.plain_backend:PlainBackend", "--chip", "tiny"]
SPEC = m.RunSpec(design="ditto")


def undisturbed() -> Given:
    with LocalDevice(PLAIN) as device, device.open_run(*chain(), SPEC) as run:
        return run_steps(run, STEPS, observe="all")


@pytest.fixture(scope="module")
def expected() -> Given:
    return undisturbed()


def worker(device: LocalDevice) -> int:
    """Process id of the one that serves the runs: the nursery's child."""
    (nursery,) = psutil.Process(device.pid).children()
    (found,) = nursery.children()
    return int(found.pid)


def kill(device: LocalDevice, which: str = "worker") -> None:
    """Front, nursery or worker."""
    # It may be between two lives.
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess, ValueError):
        victim = {
            "front": lambda: device.pid,
            "nursery": lambda: psutil.Process(device.pid).children()[0].pid,
            "worker": lambda: worker(device),
        }[which]
        os.kill(victim(), signal.SIGKILL)


def kill_somewhere(expected: Given, seed: int) -> None:
    """kill -9 at a random layer and moment; one time in three once more while the run is being rebuilt."""
    rng = random.Random(seed)
    at = rng.randrange(len(expected.reports))
    delay_s = rng.choice([0.0, rng.random() * 0.004])
    which = ("worker", "front", "nursery")[seed % 3]
    again_s = rng.random() * 2.0 if rng.random() < 0.34 else None
    with LocalDevice(PLAIN, restarts=10) as device:
        run = device.open_run(*chain(), SPEC)
        seen = 0

        def on_layer(report: m.LayerReport) -> None:
            nonlocal seen
            if seen == at:
                time.sleep(delay_s)
                kill(device, which)
                if again_s is not None:
                    threading.Timer(again_s, lambda: kill(device)).start()
            seen += 1

        got = run_steps(run, STEPS, observe="all", on_layer=on_layer)
        assert got == expected
        # A kill behind the last step's last layer may come too late to be noticed, and so may one that reaches the worker
        # by way of the front.
        assert run.recoveries >= 1 or at >= len(expected.reports) - 6 or which != "worker"
        run.close()


def test_device_started_ahead_is_taken_once_and_its_log_kept(expected: Given, tmp_path: Path) -> None:
    start_ahead(PLAIN)
    (started,) = psutil.Process().children()
    with LocalDevice(PLAIN, run_directory=tmp_path) as device:
        assert device.pid == started.pid
        with LocalDevice(PLAIN) as another:
            assert another.pid != started.pid
        seen: list[m.LayerReport] = []

        def on_layer(report: m.LayerReport) -> None:
            seen.append(report)
            if len(seen) == 3:
                started.kill()

        with device.open_run(*chain(), SPEC) as run:
            assert run_steps(run, STEPS, observe="all", on_layer=on_layer) == expected
        assert device.pid != started.pid
    assert (tmp_path / "device.log").read_text().count("listens") == 2


def test_device_started_ahead_and_not_needed_leaves_nothing(tmp_path: Path) -> None:
    ahead = f"from ditto_cosim.host.wire.supervisor import start_ahead; start_ahead({PLAIN!r})"
    subprocess.run([sys.executable, "-c", ahead], check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_killed_device_changes_nothing(expected: Given, seed: int) -> None:
    kill_somewhere(expected, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_device_killed_anywhere_changes_nothing(expected: Given, seed: int) -> None:
    kill_somewhere(expected, seed)


def test_device_killed_between_steps_and_while_opening_changes_nothing(expected: Given) -> None:
    with LocalDevice(PLAIN) as device:
        threading.Timer(0.05, lambda: kill(device)).start()
        with device.open_run(*chain(), SPEC) as run:
            got = Given()
            for step in range(STEPS):
                result = run.step(step, inputs_of(run.program, step))
                got.totals.append(result.totals)
                got.outputs.append({k: v.tobytes() for k, v in result.outputs.items()})
                if step == 3:
                    kill(device)
                    time.sleep(0.3)
            assert got.totals == expected.totals
            assert got.outputs == expected.outputs
            assert run.recoveries >= 1


def test_device_that_hangs_is_replaced(expected: Given) -> None:
    with LocalDevice(PLAIN, dead_s=2.0) as device, device.open_run(*chain(), SPEC) as run:

        def stop_once(report: m.LayerReport) -> None:
            if (report.step, report.layer) == (3, 2) and not run.recoveries:
                os.kill(worker(device), signal.SIGSTOP)

        assert run_steps(run, STEPS, observe="all", on_layer=stop_once) == expected
        assert run.recoveries >= 1


def test_two_runs_of_a_killed_device_both_go_on(expected: Given) -> None:
    with LocalDevice(PLAIN) as device:
        runs = [device.open_run(*chain(), SPEC) for _ in range(2)]
        got: list[Given | None] = [None, None]

        def kill_once(report: m.LayerReport) -> None:
            if (report.step, report.layer) == (2, 1) and runs[0].recoveries == 0:
                kill(device)

        def use(i: int, run: RemoteRun) -> None:
            got[i] = run_steps(run, STEPS, observe="all", on_layer=kill_once if i == 0 else None)

        threads = [threading.Thread(target=use, args=(i, run)) for i, run in enumerate(runs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == [expected, expected]


def test_device_that_always_dies_is_given_up_with_its_log(tmp_path: Path) -> None:
    with LocalDevice(
        [*PLAIN, "--machine", "support.wire_harness:DyingMachine"], run_directory=tmp_path, restarts=2
    ) as device:
        run = device.open_run(*chain(), SPEC)
        with pytest.raises(
            DeviceLostError, match=r"killed by signal 6(.|\n)*No step was completed since 2 restarts"
        ):
            run.step(0, inputs_of(run.program, 0))
    assert "about to abort" in (tmp_path / "device.log").read_text()


def test_device_that_cannot_start_says_why() -> None:
    with pytest.raises(
        DeviceLostError, match=r"the device did not start: exit status 2(.|\n)*unrecognized arguments"
    ):
        LocalDevice(["--no-such-option"])


def test_device_stops_cleanly_on_a_signal() -> None:
    with LocalDevice([*PLAIN, "--machine", "support.wire_harness:SlowMachine"], restarts=0) as device:
        run = device.open_run(*chain(), m.RunSpec())
        process = device._process.process
        threading.Timer(0.5, process.terminate).start()
        with pytest.raises((CancelledError, DeviceLostError), match=r"stopping|exit status 0"):
            run.step(0, inputs_of(run.program, 0))
        assert process.wait(5) == 0


HOST = """
import sys, time
from support.wire_programs import chain, inputs_of
from ditto_cosim.host.wire.supervisor import LocalDevice, start_ahead
from ditto_cosim.protocol.messages import RunSpec
options = ["--backend", "support.plain_backend:PlainBackend", "--machine", "support.wire_harness:SlowMachine"]
device = LocalDevice(options)
run = device.open_run(*chain(), RunSpec(chip="tiny"))
print(device.pid, device._directory, flush=True)
for step in range(1000):
    run.step(step, inputs_of(run.program, step))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_host_leaves_no_device(number: signal.Signals) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background is deaf to it
    )
    assert host.stdout is not None
    pid, directory = host.stdout.readline().split()
    time.sleep(0.5)
    device = psutil.Process(int(pid))
    host.send_signal(number)
    host.wait(10)
    device.wait(10)
    assert not psutil.pid_exists(int(pid))
    if number == signal.SIGINT:
        assert not Path(directory).exists()
