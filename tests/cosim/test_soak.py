# SPDX-License-Identifier: Apache-2.0
"""Soak: hundreds of runs of a whole model and a million hostile messages on one device. Nothing grows, no bit changes.

`DITTO_SOAK=0.05` takes that share of both.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import psutil
import pytest

from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.quantize import load_grids
from ditto_cosim.host.pipeline.models import load_model
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol.messages import RunSpec
from support.bombard import bombard
from support.wire_harness import Given, run_steps

SHARE = float(os.environ.get("DITTO_SOAK", "1"))
RUNS = max(50, round(500 * SHARE))
MESSAGES = round(1_000_000 * SHARE)
WARM_UP = max(30, RUNS // 10)
"""Runs until caches, pools and allocator are what they will be: 276 MiB behind the fifth, 312 from the twentieth on."""
STEPS = 2


@dataclass(frozen=True)
class Held:
    """By the device's processes together, those of departed hosts excepted."""

    memory_bytes: int
    descriptors: int
    threads: int


def held(device: LocalDevice) -> Held:
    front = psutil.Process(device.pid)
    (nursery,) = front.children()
    mine = min(nursery.children(), key=lambda p: p.pid)
    all_of_it = (front, nursery, mine)
    return Held(
        sum(p.memory_info().rss for p in all_of_it),
        sum(p.num_fds() for p in all_of_it),
        sum(p.num_threads() for p in all_of_it),
    )


def whole_model() -> Compiled:
    model = load_model("fashion-ddpm")
    assert model.scales is not None
    import torch

    inputs = {"sample": torch.zeros(1, 1, 28, 28), "timestep": torch.tensor(10)}
    captured = capture(model.denoiser, inputs, extra={"return_dict": False})
    return compile_denoiser(captured, load_grids(model.scales))


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_device_is_the_same_after_hundreds_of_runs_and_a_million_hostile_messages() -> None:
    compiled = whole_model()
    with LocalDevice(["--backend", "model", "--log-level", "error"], restarts=0) as device:
        address = device.link.address
        halves = [
            threading.Thread(target=bombard, args=(address, seed, MESSAGES // 2), kwargs={"greets": greets})
            for seed, greets in ((11, False), (12, True))
        ]
        expected: Given | None = None
        before: Held | None = None
        for run in range(RUNS):
            with device.open_run(
                compiled.program, compiled.arrays, RunSpec(chip="tiny", design="ditto")
            ) as remote:
                got = run_steps(remote, STEPS)
                assert remote.recoveries == 0
            assert expected is None or got == expected, f"run {run} gave other bits"
            expected = got
            if run == WARM_UP:
                before = held(device)
                for half in halves:
                    half.start()
        for half in halves:
            half.join()
        assert before is not None
        after = held(device)
        print(
            f"{RUNS} runs, {2 * (MESSAGES // 2)} messages: {before} behind run {WARM_UP}, {after} at the end"
        )
        assert after.memory_bytes - before.memory_bytes < 64 << 20, (before, after)
        assert after.descriptors <= before.descriptors + 8, (before, after)
        assert after.threads <= before.threads + 2, (before, after)
