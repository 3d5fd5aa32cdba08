# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the device in the middle of `ditto generate`: the same picture, record and cycles."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ditto_cosim.protocol.shelf import Shelf

STEPS = 6


def generate(backend: str, directory: Path, kill_after_steps: tuple[int, ...] = ()) -> dict[str, object]:
    command = [
        sys.executable,
        "-c",
        "from ditto_cosim.cli import main; main()",
        "generate",
        "--model",
        "fashion-ddpm",
        "--json",
        "--verify",
    ]
    command += ["--steps", str(STEPS), "--seed", "3", "--backend", backend, "-o", str(directory)]
    log = (directory.parent / f"{directory.name}.log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        for steps in kill_after_steps:
            while len(list(directory.glob("step-*.npz"))) < steps:
                assert process.poll() is None, "it ended before it could be disturbed"
                time.sleep(0.02)
            devices = [
                child
                for child in psutil.Process(process.pid).children()
                if "ditto_cosim.device" in child.cmdline()
            ]
            assert len(devices) == 1
            devices[0].kill()
            devices[0].wait(10)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
    summary: dict[str, object] = json.loads(out)
    return summary


@pytest.mark.long
@pytest.mark.parametrize("backend", ["model", "rtl"])
def test_generation_survives_two_kills(backend: str, tmp_path: Path) -> None:
    calm = generate(backend, tmp_path / "calm")
    killed = generate(backend, tmp_path / "killed", kill_after_steps=(1, 3))
    assert calm["recoveries"] == 0
    assert killed["recoveries"] == 2
    for figure in ("cycles", "verify", "steps"):
        assert killed[figure] == calm[figure]
    assert (tmp_path / "killed/picture-0.png").read_bytes() == (tmp_path / "calm/picture-0.png").read_bytes()
    for step in range(STEPS):
        calm_step, killed_step = (
            Shelf(tmp_path / run).arrays(f"step-{step:04d}.npz") for run in ("calm", "killed")
        )
        assert list(killed_step) == list(calm_step)
        for name, array in killed_step.items():
            assert np.array_equal(array, calm_step[name]), (step, name)
