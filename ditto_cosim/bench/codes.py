# SPDX-License-Identifier: Apache-2.0
"""What a code other than 0 costs through SQ-DM's arrays in RTL, over a slot of Ditto's in the same layers: a row of `ditto bench
model`.

fashion-ddpm-relu twice over the same inputs, steps in turn: as int8 under design `ditto`, and on its format plan under `sq_dm`.
Counted are this process's CPU seconds inside the backend, tiles and their threads in it, for the layers that the plan has at 4
bits. A code is met as often as windows meet it; so is an element that gives slots. The dense array multiplies zeros too, which
the codes pay. What the detector in RTL takes stands beside. What this file does not do: whole steps (`model.py`), the wire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto_cosim.device.backends.base import WrittenBack
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host import zoo
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.plan import PLAN_FILE, load_plan
from ditto_cosim.protocol.messages import RunSpec

MODEL = "fashion-ddpm-relu"
WARM = 2
"""Steps before the timed ones: tiles are built, Ditto has a step to take differences to."""

Steps = Sequence[Mapping[str, Tensor]]


def measure_codes(
    steps_of: Callable[[str, torch.nn.Module, int], Any], repeats: int, chip: str = "paper_twin"
) -> dict[str, Any]:
    """CPU seconds a million slots of Ditto's and a million codes of SQ-DM's, a billion multiplications of both, and ratios."""
    torch.manual_seed(0)
    denoiser = zoo.load_pipeline(MODEL).unet
    steps: Steps = steps_of(MODEL, denoiser, WARM + repeats)
    captured = capture(denoiser, dict(steps[0]), extra={"return_dict": False})
    calibrator = Calibrator(captured)
    for inputs in steps:
        calibrator.observe(dict(inputs))
    grids = calibrator.grids(policy="static", observer="minmax")
    plan = load_plan(zoo.WEIGHTS / MODEL / PLAN_FILE)
    scaled = compile_denoiser(captured, grids, formats=plan)
    layers = frozenset(c.name for c in scaled.program.layers if c.attrs.get("format") == "uint4")
    runs = {
        "slot": _Watched(compile_denoiser(captured, grids), "ditto", chip, layers),
        "code": _Watched(scaled, "sq_dm", chip, layers),
    }
    for step, inputs in enumerate(steps):
        for run in runs.values():
            run.step(step, inputs, counted=step >= WARM)
    found: dict[str, Any] = {"model": MODEL, "chip": chip, "layers": len(layers)}
    for name, run in runs.items():
        run.machine.close()
        found[f"{name}_cpu_s_a_million"] = 1e6 * run.seconds / run.met
        found[f"{name}_cpu_s_a_billion_multiplications"] = 1e9 * run.seconds / run.products
    for unit in ("million", "billion_multiplications"):
        found[f"code_over_slot_{unit}"] = found[f"code_cpu_s_a_{unit}"] / found[f"slot_cpu_s_a_{unit}"]
    sq_dm, ditto = runs["code"], runs["slot"]
    found["detector_over_arrays"] = sq_dm.detector_seconds / sq_dm.seconds
    found["layers_over_ditto_s"] = (sq_dm.seconds + sq_dm.detector_seconds) / ditto.seconds
    return found


class _Watched:
    """A machine whose backend's work in some layers is timed and counted."""

    def __init__(self, compiled: Compiled, design: str, chip: str, layers: frozenset[str]) -> None:
        self.machine = Machine(
            compiled.program, compiled.arrays, RunSpec(backend="rtl", chip=chip, design=design)
        )
        self.seconds = self.detector_seconds = 0.0
        self.met = self.products = 0
        self._layers, self._counted = layers, False
        backend: Any = self.machine.backend
        self._gemm, self._block_gemm, self._hold_tags = backend.gemm, backend.block_gemm, backend.hold_tags
        backend.gemm, backend.block_gemm, backend.hold_tags = self.gemm, self.block_gemm, self.hold_tags

    def step(self, step: int, inputs: Mapping[str, Tensor], counted: bool) -> None:
        self._counted = counted
        arrays = {n: t.numpy() for n, t in inputs.items()}
        self.machine.step(
            step, arrays, observe="none", timed=True, on_layer=lambda _: None, on_value=lambda *_: None
        )

    def gemm(self, job: Any) -> Any:
        began = time.process_time()
        result = self._gemm(job)
        if self._counted and job.name in self._layers:
            self._count(
                time.process_time() - began, int(result.slots.sum(dtype=np.int64)), job.weights.shape[2]
            )
        return result

    def block_gemm(self, codes: Any, *rest: Any) -> Any:
        began = time.process_time()
        result = self._block_gemm(codes, *rest)
        if self._counted:
            spent = time.process_time() - began
            self._count(spent, int(np.count_nonzero(codes)), result.acc.shape[1])
        return result

    def hold_tags(self, written: WrittenBack) -> None:
        began = time.process_time()
        self._hold_tags(written)
        if self._counted:
            self.detector_seconds += time.process_time() - began

    def _count(self, seconds: float, met: int, columns: int) -> None:
        self.seconds += seconds
        self.met += met
        self.products += met * columns


def line(found: Mapping[str, Any]) -> str:
    """A sentence."""
    return (
        f"SQ-DM through RTL ({found['model']}, {found['layers']} layers of 4 bits): CPU time of a code other than 0 over a slot "
        f"of Ditto's {found['code_over_slot_million']:.2f}, of a multiplication "
        f"{found['code_over_slot_billion_multiplications']:.2f}; the detector takes {found['detector_over_arrays']:.2f} of the "
        f"arrays' time; these layers over Ditto's {found['layers_over_ditto_s']:.2f}"
    )
