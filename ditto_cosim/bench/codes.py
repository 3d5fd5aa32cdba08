# SPDX-License-Identifier: Apache-2.0
"""What a code other than 0 costs through SQ-DM's arrays in RTL, over a slot of Ditto's in the same layers: a row of `ditto bench
model`.

fashion-ddpm-relu over the same inputs twice: as int8 under design `ditto`, and on its format plan under `sq_dm`. Of the last
step the products of those layers that the plan has at 4 bits are kept and given to the two backends again, in turn, when
nothing else of the process is at work: counted are its CPU seconds, tiles and their threads in it, and the median of several
rounds compared. A code is met as often as windows meet it; so is an element that gives slots. The dense array multiplies zeros
too, which the codes pay. Both encoders take eight elements a cycle whatever they are, so how many slots and codes an element has
is told as well. What the detector in RTL takes stands beside.
What this file does not do: whole steps (`model.py`), the wire, the books, where both contracts are held (`execution/machine.py`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto_cosim.device.backends.base import Gemm, WrittenBack
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

ROUNDS = 5
"""How often each backend is given its products; three times that with `repeats` of 3."""

Steps = Sequence[Mapping[str, Tensor]]


def measure_codes(
    steps_of: Callable[[str, torch.nn.Module, int], Any], repeats: int, chip: str = "paper_twin"
) -> dict[str, Any]:
    """CPU seconds a million slots of Ditto's and a million codes of SQ-DM's, a billion multiplications of both, and ratios."""
    torch.manual_seed(0)
    denoiser = zoo.load_pipeline(MODEL).unet
    steps: Steps = steps_of(MODEL, denoiser, WARM + 1)
    captured = capture(denoiser, dict(steps[0]), extra={"return_dict": False})
    calibrator = Calibrator(captured)
    for inputs in steps:
        calibrator.observe(dict(inputs))
    grids = calibrator.grids(policy="static", observer="minmax")
    plan = load_plan(zoo.WEIGHTS / MODEL / PLAN_FILE)
    scaled = compile_denoiser(captured, grids, formats=plan)
    layers = layers_of_codes(scaled)
    machines = {
        "slot": _machine(compile_denoiser(captured, grids), "ditto", chip),
        "code": _machine(scaled, "sq_dm", chip),
    }
    kept = {name: Products(machine, layers) for name, machine in machines.items()}
    for step, inputs in enumerate(steps):
        for name, machine in machines.items():
            kept[name].keeping = step >= WARM
            take_step(machine, step, inputs)
    seconds: dict[str, list[float]] = {"slot": [], "code": [], "detector": []}
    for _ in range(ROUNDS * repeats):
        for name, products in kept.items():
            seconds[name].append(products.compute())
        seconds["detector"].append(kept["code"].write_back())
    for machine in machines.values():
        machine.close()
    spent = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "model": MODEL,
        "chip": chip,
        "layers": len(layers),
        "rounds": ROUNDS * repeats,
        **{f"{name}s_an_element": p.met / p.elements for name, p in kept.items()},
        **ratios(spent, {name: (p.met, p.multiplications) for name, p in kept.items()}),
    }


def ratios(spent: Mapping[str, float], work: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """From CPU seconds, and from (slots or codes, multiplications) of each side."""
    found: dict[str, float] = {}
    for name, (met, multiplications) in work.items():
        found[f"{name}_cpu_s_a_million"] = 1e6 * spent[name] / met
        found[f"{name}_cpu_s_a_billion_multiplications"] = 1e9 * spent[name] / multiplications
    for unit in ("million", "billion_multiplications"):
        found[f"code_over_slot_{unit}"] = found[f"code_cpu_s_a_{unit}"] / found[f"slot_cpu_s_a_{unit}"]
    found["detector_over_arrays"] = spent["detector"] / spent["code"]
    found["layers_over_ditto_s"] = (spent["code"] + spent["detector"]) / spent["slot"]
    return found


def layers_of_codes(compiled: Compiled) -> frozenset[str]:
    """The layers whose activations are 4-bit codes behind a ReLU."""
    return frozenset(c.name for c in compiled.program.layers if c.attrs.get("format") == "uint4")


def take_step(machine: Machine, step: int, inputs: Mapping[str, Tensor]) -> None:
    """One step whose values nobody looks at."""
    arrays = {n: t.numpy() for n, t in inputs.items()}
    machine.step(step, arrays, observe="none", timed=True, on_layer=lambda _: None, on_value=lambda *_: None)


def _machine(compiled: Compiled, design: str, chip: str) -> Machine:
    return Machine(compiled.program, compiled.arrays, RunSpec(backend="rtl", chip=chip, design=design))


class Products:
    """What a machine asks of its backend for some layers while `keeping`, to be asked again."""

    def __init__(self, machine: Machine, layers: frozenset[str]) -> None:
        backend: Any = machine.backend
        self._gemm, self._block_gemm = backend.gemm, backend.block_gemm
        self._hold_tags = getattr(backend, "hold_tags", None)
        self._layers, self.keeping = layers, False
        self._products: list[Callable[[], Any]] = []
        self._written: list[WrittenBack] = []
        self.met = self.multiplications = self.elements = 0
        """Slots of Ditto's, or codes other than 0, what they are multiplied with, and the elements that they are of."""
        backend.gemm, backend.block_gemm = self.gemm, self.block_gemm
        if self._hold_tags is not None:
            backend.hold_tags = self.hold_tags

    def gemm(self, job: Gemm) -> Any:
        result = self._gemm(job)
        if self.keeping and job.name in self._layers:
            reference = job.reference if isinstance(job.reference, int) else job.reference.copy()
            again = replace(job, current=job.current.copy(), reference=reference, weights=job.weights.copy())
            met = int(result.slots.sum(dtype=np.int64))
            self._keep(lambda: self._gemm(again), met, job.weights.shape[2], job.current.size)
        return result

    def block_gemm(self, codes: Any, *rest: Any) -> Any:
        result = self._block_gemm(codes, *rest)
        if self.keeping:
            again = [array.copy() for array in (codes, *rest)]
            met = int(np.count_nonzero(codes))
            self._keep(lambda: self._block_gemm(*again), met, result.acc.shape[1], codes.size)
        return result

    def hold_tags(self, written: WrittenBack) -> None:
        assert self._hold_tags is not None
        self._hold_tags(written)
        if self.keeping:
            self._written.append(replace(written, codes=written.codes.copy()))

    def compute(self) -> float:
        """CPU seconds of all products, one after the other."""
        began = time.process_time()
        for product in self._products:
            product()
        return time.process_time() - began

    def write_back(self) -> float:
        """CPU seconds of the detector, over the same layers."""
        began = time.process_time()
        for written in self._written:
            self._hold_tags(written)  # type: ignore[misc]  # what is written was held once
        return time.process_time() - began

    def _keep(self, product: Callable[[], Any], met: int, columns: int, elements: int) -> None:
        self._products.append(product)
        self.elements += elements
        self.met += met
        self.multiplications += met * columns


def line(found: Mapping[str, Any]) -> str:
    """A sentence."""
    return (
        f"SQ-DM through RTL ({found['model']}, {found['layers']} layers of 4 bits): CPU time of a code other than 0 over a slot "
        f"of Ditto's {found['code_over_slot_million']:.2f}, of a multiplication "
        f"{found['code_over_slot_billion_multiplications']:.2f} ({found['codes_an_element']:.2f} codes and "
        f"{found['slots_an_element']:.2f} slots an element); the detector takes {found['detector_over_arrays']:.2f} of the "
        f"arrays' time; these layers over Ditto's {found['layers_over_ditto_s']:.2f}"
    )
