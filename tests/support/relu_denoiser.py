# SPDX-License-Identifier: Apache-2.0
"""A denoiser of a few residual blocks with ReLU in front of their convolutions, its block-scaled program, and runs of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import Design, load_design
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host.compiler.calibrate import calibrate
from ditto_cosim.host.compiler.capture import Captured, capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.plan import draft
from ditto_cosim.host.reference.audit import Audit
from ditto_cosim.host.reference.golden import Verifier
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.record import RunInfo, StepRecord

STEPS = 4


class Block(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, out)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(functional.relu(self.norm1(x)))
        return self.skip(x) + self.conv2(functional.relu(self.norm2(hidden)))


class ReluDenoiser(nn.Module):
    """Four residual blocks, a strided convolution and a linear layer between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList([Block(32, 32), Block(32, 64), Block(64, 32), Block(32, 32)])
        self.down = nn.Conv2d(64, 64, 3, stride=2, padding=1)
        self.mix = nn.Linear(64, 64)
        self.conv_out = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        x = self.blocks[1](self.blocks[0](self.conv_in(sample)))
        x = self.mix(self.down(x).transpose(1, -1)).transpose(1, -1)
        x = functional.interpolate(self.blocks[2](x), scale_factor=2.0)
        return self.conv_out(self.blocks[3](x))


def module() -> ReluDenoiser:
    """The same one every time."""
    torch.manual_seed(0)
    denoiser = ReluDenoiser().eval()
    with torch.no_grad():
        for norm in (m for m in denoiser.modules() if isinstance(m, nn.GroupNorm)):
            norm.bias.copy_(
                torch.linspace(-2, 2, len(norm.bias))
            )  # channels that differ: some sparse, some not
    return denoiser


@cache
def captured() -> tuple[Captured, list[dict[str, torch.Tensor]]]:
    denoiser = module()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    inputs = []
    for _ in range(STEPS):
        inputs.append({"sample": x})
        x = x * 0.8 + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(len(inputs)))
    return capture(denoiser, inputs[0]), inputs


@cache
def compiled() -> Compiled:
    model, inputs = captured()
    return compile_denoiser(model, calibrate(model, inputs), steps=STEPS, formats=draft(model))


def design(name: str = "sq_dm", **changed: Any) -> Design:
    """A shipped design with some of its arrays' parameters changed."""
    made = load_design(name)
    assert made.hetero is not None
    return replace(made, hetero=replace(made.hetero, **changed)) if changed else made


@dataclass
class Ran:
    """What a run left."""

    outputs: list[npt.NDArray[Any]] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    reports: list[LayerReport] = field(default_factory=list)
    values: list[dict[int, npt.NDArray[Any]]] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    verifier: Verifier | None = None

    @property
    def cycles(self) -> int:
        return sum(r.charged_cycles or 0 for r in self.records)


def run(
    wanted: Design | str = "sq_dm",
    *,
    backend: str = "model",
    chip: str = "tiny",
    steps: int = STEPS,
    verify: bool = False,
    between: Callable[[Machine], Machine] = lambda machine: machine,
    spoil: Callable[[StepRecord], StepRecord] = lambda record: record,
) -> Ran:
    """The program on a machine of its own; `between` may put another in its place before the last step."""
    program, inputs, ran = compiled(), captured()[1], Ran()
    made = load_design(wanted) if isinstance(wanted, str) else wanted
    machine = machine_for(made, backend, chip)
    if verify:
        ran.verifier = Verifier(program.program, program.constants, Audit(program.program, machine.facts))
    for step in range(steps):
        if step == steps - 1:
            machine = between(machine)
        values: dict[int, npt.NDArray[Any]] = {}
        reports: list[LayerReport] = []

        def see(value: int, array: npt.NDArray[Any], values: dict[int, Any] = values) -> None:
            values[value] = array
            if ran.verifier is not None:
                ran.verifier.check(value, array)

        if ran.verifier is not None:
            ran.verifier.expect(step, inputs[step])
        numpy_inputs = {n: t.numpy() for n, t in inputs[step].items()}
        found = machine.step(
            step, numpy_inputs, observe="all", timed=True, on_layer=reports.append, on_value=see
        )
        assert found.record is not None
        record = spoil(found.record)
        if ran.verifier is not None:
            ran.verifier.check_delivered(found.outputs, record, reports, found.totals)
        ran.outputs.append(np.array(found.outputs["sample"]))
        ran.records.append(record)
        ran.reports += reports
        ran.values.append(values)
        ran.totals = dict(found.totals or {})
    machine.close()
    return ran


def machine_for(made: Design, backend: str = "model", chip: str = "tiny") -> Machine:
    """A machine of this design, shipped or not."""
    program = compiled()
    with patch("ditto_cosim.device.execution.machine.load_design", lambda name: made):
        return Machine(program.program, program.arrays, RunSpec(backend=backend, chip=chip, design=made.name))


def info(made: Design, chip: str = "tiny") -> RunInfo:
    """Of a record of such a run."""
    held = load_chip(chip)
    return RunInfo(
        program=compiled().program.to_dict(),
        model="relu-denoiser",
        chip=chip,
        chip_digest=held.digest,
        design=made.name,
        backend="model",
        low_rule=held.geometry.low_rule,
        steps=STEPS,
        seed=0,
        k_max=held.geometry.k_max,
        chip_description=json.loads(json.dumps(held.description)),
        design_description=json.loads(json.dumps(made.description)),
    )
