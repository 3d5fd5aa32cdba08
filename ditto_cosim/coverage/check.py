# SPDX-License-Identifier: Apache-2.0
"""One denoiser class, small and with random weights, taken all the way: captured, lowered, run, compared.

Three steps of inputs that change a little are calibrated on, then run by the device's machine in this process with every value
held against golden's; the second and third step run as differences where they can. What this file does not do: know the
classes (`models.py`), or say anything about the quality of a trained model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

STEPS = 3


@dataclass(frozen=True, slots=True)
class Coverage:
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


class Flat(nn.Module):
    """A module whose nested arguments are named tensors, and whose result is the first tensor of its own."""

    def __init__(self, inner: nn.Module, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.inner = inner
        leaves, self.structure = pytree.tree_flatten(dict(arguments))
        paths = [
            pytree.keystr(path).strip("[]'").replace("']['", ".")
            for path, _ in pytree.tree_leaves_with_path(dict(arguments))
        ]
        self.places = [
            name if isinstance(leaf, Tensor) else None for name, leaf in zip(paths, leaves, strict=True)
        ]
        self.fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.tensors = {
            name: leaf for name, leaf in zip(paths, leaves, strict=True) if isinstance(leaf, Tensor)
        }

    def forward(self, **tensors: Tensor) -> Tensor:
        leaves = [
            fixed if name is None else tensors[name]
            for name, fixed in zip(self.places, self.fixed, strict=True)
        ]
        return first_tensor(self.inner(**pytree.tree_unflatten(leaves, self.structure)))


def first_tensor(result: Any) -> Tensor:
    if hasattr(result, "to_tuple"):
        result = result.to_tuple()
    return next(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))


VARYING = ("hidden_states", "audio_hidden_states", "sample", "x", "timestep", "timesteps", "t")
"""Arguments that change from step to step, or begin the names of those that do; a prompt and masks stay."""


def varies(name: str) -> bool:
    return name.partition("'")[0].partition("[")[0].partition(".")[0] in VARYING


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


def check(name: str, module: nn.Module, arguments: Mapping[str, Any], backend: str = "model") -> Coverage:
    """Everything this file promises, for one module and the arguments of one call."""
    from ditto_cosim.host.compiler.calibrate import Calibrator
    from ditto_cosim.host.compiler.capture import CaptureError, capture
    from ditto_cosim.host.compiler.compiled import compile_denoiser
    from ditto_cosim.host.compiler.lower import UnsupportedError, lower
    from ditto_cosim.protocol.errors import DittoError

    flat = Flat(module.eval(), arguments)
    steps = trajectory(flat.tensors)
    static = frozenset(
        n for n, t in flat.tensors.items() if steps[-1][n] is t and "timestep" not in n and n != "t"
    )
    layout = frozenset(n for n in static if not flat.tensors[n].is_floating_point())
    try:
        captured = capture(flat, flat.tensors, static_inputs=static)
    except CaptureError as error:
        return Coverage(name, False, False, False, (_sentence(error),))
    try:
        try:
            lower(captured, None)
        except UnsupportedError:
            if not layout - captured.held.keys():
                raise
            captured = capture(flat, flat.tensors, static_inputs=static, hold=layout)  # indices, perhaps
            lower(captured, None)
    except UnsupportedError as error:
        return Coverage(name, True, False, False, tuple(sorted(error.missing)))
    except DittoError as error:
        return Coverage(name, True, False, False, (_sentence(error),))
    steps = [{n: t for n, t in inputs.items() if n not in captured.held} for inputs in steps]
    try:
        calibrator = Calibrator(captured)
        for inputs in steps:
            calibrator.observe(inputs)
        compiled = compile_denoiser(captured, calibrator.grids(), steps=STEPS)
        output, difference = _run(compiled, steps, backend)
    except DittoError as error:
        return Coverage(name, True, True, False, (_sentence(error),))
    with torch.no_grad():
        exact = flat(**steps[-1], **captured.held).double()
    noise = float((output.double() - exact).square().sum())
    snr_db = 10 * math.log10(float(exact.square().sum()) / noise) if noise else math.inf
    program = compiled.program
    missing = (difference,) if difference else ()
    return Coverage(
        name, True, True, not missing, missing, round(snr_db, 1), len(program.layers), len(program.commands)
    )


def _run(compiled: Any, steps: list[dict[str, Tensor]], backend: str) -> tuple[Tensor, str]:
    """The last step's output, and where a value first differed from golden's."""
    from ditto_cosim.device.execution.machine import Machine
    from ditto_cosim.host.compiler.compiled import wire_array
    from ditto_cosim.host.reference.golden import Verifier
    from ditto_cosim.protocol.messages import RunSpec

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
    return torch.from_numpy(result.outputs["sample"].copy()), str(verifier.first_difference or "")


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0]
