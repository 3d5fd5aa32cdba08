# SPDX-License-Identifier: Apache-2.0
"""What a slot of an increment costs through RTL, over one of Ditto's own steps: a row of `ditto bench model`.

fashion-dit, once with every step full and once cached (period 3), on the same inputs; full steps in temporal mode of the one,
increments of the other. Counted are this process's CPU seconds, tiles and their threads in it, so that a machine with other work
to do says little wrong. A slot is one operand of a multiplier, as the lane encodes and replays it; what it meets differs (an
increment's products are thin), so multiplications stand beside. What this file does not do: the wire, or golden.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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
WARM = PERIOD
"""Steps before the timed ones: Defo has decided, buffers are there."""

Steps = Sequence[Mapping[str, Tensor]]


def measure_increments(steps_of: Callable[[str, torch.nn.Module, int], Any], repeats: int) -> dict[str, Any]:
    """CPU seconds a million slots, and a billion multiplications, of full steps and of increments, and their ratios."""
    torch.manual_seed(0)
    denoiser = zoo.load_pipeline(MODEL).transformer
    steps: Steps = steps_of(MODEL, denoiser, WARM + PERIOD * repeats)
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
    found: dict[str, Any] = {"model": MODEL, "period": PERIOD, "rank": RANK}
    for unit in ("cpu_s_a_million_slots", "cpu_s_a_billion_multiplications"):
        found |= {f"full_{unit}": full[unit], f"increment_{unit}": increment[unit]}
        found[f"increment_over_full_{unit.partition('_a_')[2]}"] = increment[unit] / full[unit]
    return found


def _cost(compiled: Compiled, steps: Steps, counted: Callable[[int], bool]) -> dict[str, float]:
    machine = Machine(
        compiled.program, compiled.arrays, RunSpec(backend="rtl", chip="paper_twin", design="ditto")
    )
    by_slot, by_product = [], []
    for step, inputs in enumerate(steps):
        arrays = {n: t.numpy() for n, t in inputs.items()}
        met: list[LayerReport] = []
        began = time.process_time()
        result = machine.step(
            step, arrays, observe="none", timed=True, on_layer=met.append, on_value=lambda *_: None
        )
        spent = time.process_time() - began
        if step >= WARM and counted(step):
            assert result.record is not None
            by_slot.append(spent / sum(r.slots for r in met))
            by_product.append(spent / _multiplications(result.record))
    machine.close()
    return {
        "cpu_s_a_million_slots": 1e6 * statistics.median(by_slot),
        "cpu_s_a_billion_multiplications": 1e9 * statistics.median(by_product),
    }


def _multiplications(record: StepRecord) -> int:
    return sum(s.slot_total * s.work.n for layer in record.layers for s in layer.works[layer.mode])


def line(found: Mapping[str, Any]) -> str:
    """A sentence."""
    return (
        f"ICC through RTL ({found['model']}, p = {found['period']}, r = {found['rank']}): CPU time of an increment over a full "
        f"step's, a slot {found['increment_over_full_million_slots']:.2f}, a multiplication "
        f"{found['increment_over_full_billion_multiplications']:.2f}"
    )
