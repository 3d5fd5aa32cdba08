# SPDX-License-Identifier: Apache-2.0
"""What a slot of an increment costs through RTL, over one of Ditto's own steps: a row of `ditto bench model`.

fashion-dit, once with every step full and once cached (period 3), on the same inputs; full steps in temporal mode of the one,
increments of the other. Counted are this process's CPU seconds, tiles and their threads in it, so that a machine with other work
to do says little wrong. A slot is one operand of a multiplier, as the lane encodes and replays it; what it meets differs (an
increment's products are thin), so multiplications and simulated cycles stand beside. With one picture a step has few slots, and
an increment the fewer: what each of its 95 layers costs whatever it holds is shared by less. So many pictures are measured too.
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
    full = _cost(compile_denoiser(captured, grids), steps, lambda step: True)
    increment = _cost(compile_denoiser(captured, grids, plan=plan), steps, lambda step: step % PERIOD > 0)
    found: dict[str, float] = {}
    for unit, of in UNITS.items():
        found |= {f"full_cpu_s_a_{of}_{unit}": full[unit], f"increment_cpu_s_a_{of}_{unit}": increment[unit]}
        found[f"increment_over_full_{unit}"] = increment[unit] / full[unit]
    return found


def _cost(compiled: Compiled, steps: Steps, counted: Callable[[int], bool]) -> dict[str, float]:
    """CPU seconds a unit of each kind, the median over steps."""
    spec = RunSpec(backend="rtl", chip="paper_twin", design="ditto")
    lanes = RtlBackend(load_chip(spec.chip))
    machine = Machine(compiled.program, compiled.arrays, spec, backend=lanes)
    spent: dict[str, list[float]] = {unit: [] for unit in UNITS}
    for step, inputs in enumerate(steps):
        arrays = {n: t.numpy() for n, t in inputs.items()}
        met: list[LayerReport] = []
        cycles, began = lanes.simulated_cycles, time.process_time()
        result = machine.step(
            step, arrays, observe="none", timed=True, on_layer=met.append, on_value=lambda *_: None
        )
        cpu_s = time.process_time() - began
        if step >= WARM and counted(step):
            assert result.record is not None
            spent["slots"].append(cpu_s / sum(r.slots for r in met))
            spent["multiplications"].append(cpu_s / _multiplications(result.record))
            spent["simulated_cycles"].append(cpu_s / (lanes.simulated_cycles - cycles))
    machine.close()
    scales = {"million": 1e6, "billion": 1e9}
    return {unit: scales[UNITS[unit]] * statistics.median(each) for unit, each in spent.items()}


def _multiplications(record: StepRecord) -> int:
    return sum(s.slot_total * s.work.n for layer in record.layers for s in layer.works[layer.mode])


def line(found: Mapping[str, Any]) -> str:
    """A sentence."""
    told = [
        f"{n} picture{'s' if n > 1 else ''}: a slot {row['increment_over_full_slots']:.2f}, a simulated cycle "
        f"{row['increment_over_full_simulated_cycles']:.2f}, a multiplication {row['increment_over_full_multiplications']:.2f}"
        for n, row in found["pictures"].items()
    ]
    return (
        f"ICC through RTL ({found['model']}, p = {found['period']}, r = {found['rank']}): CPU time of an increment over a full "
        f"step's, {'; '.join(told)}"
    )
