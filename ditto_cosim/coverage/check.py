# SPDX-License-Identifier: Apache-2.0
"""One denoiser class, small and with random weights, taken all the way: captured, lowered, run, compared.

Three steps of inputs that change a little are calibrated on, then run by the device's machine in this process with every value
held against golden's; the second and third step run as differences where they can. What this file does not do: know the
classes (`models.py`), or say anything about the quality of a trained model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host.compiler.arguments import ArgumentError, Call, take_apart
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import CaptureError
from ditto_cosim.host.compiler.compiled import Compiled, capture_to_lower, compile_denoiser, wire_array
from ditto_cosim.host.compiler.lower import UnsupportedError, lower
from ditto_cosim.host.reference.golden import Verifier
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.messages import RunSpec

STEPS = 3


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """How far a class came."""

    name: str
    captured: bool
    lowered: bool
    exact: bool
    missing: tuple[str, ...] = ()
    """What the instruction set lacks, or the sentence that says what else went wrong."""
    snr_db: float | None = None
    """Of the last step's result on the device against the live fp32 module: random weights, so only a check of sense."""
    layers: int = 0
    commands: int = 0

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return {"class": found.pop("name"), **found, "missing": list(self.missing)}


VARYING = ("hidden_states", "audio_hidden_states", "sample", "x", "timestep", "timesteps", "t")
"""Arguments that change from step to step, or begin the names of those that do; a prompt and masks stay."""


def varies(name: str) -> bool:
    """Whether this tensor, named by its argument and its place in it, changes from step to step."""
    return name.partition(".")[0] in VARYING


def trajectory(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The same inputs, what varies of them a little different in every step."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for step in range(STEPS):
        moved = dict(tensors)
        for name, tensor in tensors.items():
            if varies(name) and tensor.is_floating_point() and tensor.dim() > 1:
                moved[name] = tensor + 0.05 * step * torch.randn(tensor.shape, generator=generator)
        steps.append(moved)
    return steps


def check(
    name: str, module: nn.Module, arguments: Mapping[str, Any], backend: str = "model"
) -> CoverageReport:
    """Everything this file promises, for one module and the arguments of one call."""
    try:
        call = Call.of(inspect.signature(module.eval().forward), (), arguments)
    except ArgumentError as error:
        return CoverageReport(name, False, False, False, (_sentence(error),))
    try:
        captured = capture_to_lower(module, module.forward, call)
        lower(captured, None)
    except UnsupportedError as error:
        return CoverageReport(name, True, False, False, tuple(sorted(error.missing)))
    except CaptureError as error:
        return CoverageReport(name, False, False, False, (_sentence(error),))
    except DittoError as error:
        return CoverageReport(name, True, False, False, (_sentence(error),))
    steps = trajectory(call.tensors)
    try:
        given = [{n: t for n, t in inputs.items() if n not in captured.held} for inputs in steps]
        calibrator = Calibrator(captured)
        for inputs in given:
            calibrator.observe(inputs)
        compiled = compile_denoiser(captured, calibrator.grids(), steps=STEPS)
        output, difference = _run(compiled, given, backend)
    except DittoError as error:
        return CoverageReport(name, True, True, False, (_sentence(error),))
    with torch.no_grad():
        results, _ = take_apart(call.invoke(module.forward, list(steps[-1].values())))
    exact = next(iter(results.values())).double()
    noise = float((output.double() - exact).square().sum())
    snr_db = 10 * math.log10(float(exact.square().sum()) / noise) if noise else math.inf
    program = compiled.program
    missing = (difference,) if difference else ()
    return CoverageReport(
        name, True, True, not missing, missing, round(snr_db, 1), len(program.layers), len(program.commands)
    )


def _run(compiled: Compiled, steps: list[dict[str, Tensor]], backend: str) -> tuple[Tensor, str]:
    """The last step's output, and where a value first differed from golden's."""
    machine = Machine(
        compiled.program, compiled.arrays, RunSpec(backend=backend, chip="tiny", design="ditto")
    )
    verifier = Verifier(compiled.program, compiled.constants)
    try:
        for step, inputs in enumerate(steps):
            verifier.expect(step, inputs)
            result = machine.step(
                step,
                {name: wire_array(tensor) for name, tensor in inputs.items()},
                observe="all",
                timed=True,
                on_layer=lambda _: None,
                on_value=verifier.check,
            )
            if verifier.first_difference is not None:
                break
    finally:
        machine.close()
    return torch.from_numpy(next(iter(result.outputs.values())).copy()), str(verifier.first_difference or "")


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0]
