# SPDX-License-Identifier: Apache-2.0
"""What a slot of an increment costs through RTL, over one of Ditto's own steps: a row of `ditto bench model`.

fashion-dit, once with every step full and once cached (period 3), step by step side by side on the same inputs: full steps in
temporal mode of the one, increments of the other, and all steps of the cached run together. Counted are this process's CPU
seconds, tiles and their threads in it, so that a machine with other work to do says little wrong. A slot is one operand of a
multiplier, as the lane encodes and replays it; what it meets differs (an increment's products are thin), so multiplications and
simulated cycles stand beside. With one picture a step has few slots, and an increment the fewer: what each of its 95 layers
costs whatever it holds (a full step has 59) is shared by less. So many pictures are measured too.
What this file does not do: the wire, or golden.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ditto_cosim.device.backends.rtl import RtlBackend
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host import zoo
from ditto_cosim.host.compiler.cache import Cache, plan_of
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.pipeline.factor import factor_denoiser
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.record import StepRecord

MODEL, PERIOD, RANK = "fashion-dit", 3, 21
PICTURES = (1, 16)
UNITS = {"slots": "million", "multiplications": "billion", "simulated_cycles": "million"}
_SCALES = {"million": 1e6, "billion": 1e9}
WARM = PERIOD
"""Steps before the timed ones: Defo has decided, buffers are there."""

Steps = Sequence[Mapping[str, Tensor]]


def measure_increments(steps_of: Callable[[str, torch.nn.Module, int], Any], repeats: int) -> dict[str, Any]:
    """By number of pictures: CPU seconds of full steps and of increments for a million slots, a billion multiplications, a
    million simulated cycles, and what an increment's cost over a full step's."""
    torch.manual_seed(0)
    denoiser = zoo.load_pipeline(MODEL).transformer
    steps: Steps = steps_of(MODEL, denoiser, WARM + PERIOD * repeats)
    return {
        "model": MODEL,
        "period": PERIOD,
        "rank": RANK,
        "pictures": {n: _of_steps(denoiser, _of_pictures(steps, n)) for n in PICTURES},
    }


def _of_pictures(steps: Steps, pictures: int) -> Steps:
    """The first picture's steps for so many, each from noise of its own."""
    made: list[dict[str, Tensor]] = [{} for _ in steps]
    for name, first in steps[0].items():
        own = torch.randn(pictures, *first.shape[1:]) if first.is_floating_point() and first.ndim > 1 else 0
        for inputs, step in zip(made, steps, strict=True):
            one = step[name]
            inputs[name] = one[:1].repeat(pictures, *[1] * (one.ndim - 1)) + own if one.ndim else one
    return made


def _of_steps(denoiser: torch.nn.Module, steps: Steps) -> dict[str, float]:
    captured = capture(denoiser, dict(steps[0]), extra={"return_dict": False})
    calibrator = Calibrator(captured)
    for inputs in steps:
        calibrator.observe(dict(inputs))

    def call() -> None:
        for inputs in steps:
            denoiser(**inputs, return_dict=False)

    grids = calibrator.grids(policy="static", observer="minmax")
    factors = factor_denoiser(call, denoiser, "svd", RANK, grids=grids, longest_period=PERIOD)
    plan = plan_of(Cache("icc", PERIOD, RANK), denoiser, factors)
    runs = {
        "full": _Run(compile_denoiser(captured, grids)),
        "cached": _Run(compile_denoiser(captured, grids, plan=plan)),
    }
    for step, inputs in enumerate(steps):  # side by side, so that whatever else the machine does slows both
        for run in runs.values():
            run.step(step, inputs)
    for run in runs.values():
        run.machine.close()
    found: dict[str, float] = {}
    for unit, of in UNITS.items():
        full = runs["full"].each(unit, lambda step: True)
        increment = runs["cached"].each(unit, lambda step: step % PERIOD > 0)
        found |= {f"full_cpu_s_a_{of}_{unit}": full, f"increment_cpu_s_a_{of}_{unit}": increment}
        found[f"increment_over_full_{unit}"] = increment / full
        found[f"cached_run_over_full_{unit}"] = runs["cached"].whole(unit) / runs["full"].whole(unit)
    return found


class _Run:
    """One way to run the steps, and what each took."""

    def __init__(self, compiled: Compiled) -> None:
        spec = RunSpec(backend="rtl", chip="paper_twin", design="ditto")
        self.lanes = RtlBackend(load_chip(spec.chip))
        self.machine = Machine(compiled.program, compiled.arrays, spec, backend=self.lanes)
        self.cpu_s: dict[int, float] = {}
        self.units: dict[int, dict[str, int]] = {}

    def step(self, step: int, inputs: Mapping[str, Tensor]) -> None:
        arrays = {n: t.numpy() for n, t in inputs.items()}
        met: list[LayerReport] = []
        cycles, began = self.lanes.simulated_cycles, time.process_time()
        result = self.machine.step(
            step, arrays, observe="none", timed=True, on_layer=met.append, on_value=lambda *_: None
        )
        cpu_s = time.process_time() - began
        if step >= WARM:
            assert result.record is not None
            self.cpu_s[step] = cpu_s
            self.units[step] = {
                "slots": sum(r.slots for r in met),
                "multiplications": _multiplications(result.record),
                "simulated_cycles": self.lanes.simulated_cycles - cycles,
            }

    def each(self, unit: str, counted: Callable[[int], bool]) -> float:
        """CPU seconds for the unit's scale, the median over the steps that count."""
        taken = [self.cpu_s[i] / self.units[i][unit] for i in self.cpu_s if counted(i)]
        return _SCALES[UNITS[unit]] * statistics.median(taken)

    def whole(self, unit: str) -> float:
        """The same of all steps together: whole periods, full steps and increments."""
        done = sum(of_step[unit] for of_step in self.units.values())
        return _SCALES[UNITS[unit]] * sum(self.cpu_s.values()) / done


def _multiplications(record: StepRecord) -> int:
    return sum(s.slot_total * s.work.n for layer in record.layers for s in layer.works[layer.mode])


def line(found: Mapping[str, Any]) -> str:
    """A sentence."""
    told = [
        f"{n} picture{'s' if n > 1 else ''}: a slot {row['increment_over_full_slots']:.2f}, a simulated cycle "
        f"{row['increment_over_full_simulated_cycles']:.2f}, a multiplication {row['increment_over_full_multiplications']:.2f}, "
        f"a slot of the whole run {row['cached_run_over_full_slots']:.2f}"
        for n, row in found["pictures"].items()
    ]
    return (
        f"ICC through RTL ({found['model']}, p = {found['period']}, r = {found['rank']}): CPU time of an increment over a full "
        f"step's, {'; '.join(told)}"
    )
