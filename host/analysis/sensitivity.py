# SPDX-License-Identifier: Apache-2.0
"""How much each layer's quantization alone costs: one layer in 8 bits, everything else in fp32.

Uses the recorded inputs of a run and the scales of its program. The figure is the denoiser output's
signal-to-quantization-noise ratio in decibels: the lower, the more that layer deserves a better scale.
What this file does not do: combinations of layers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ditto_cosim.host.analysis.replay import AnalysisError, captured_again, factors_of, recorded_inputs
from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.points import name_layers
from ditto_cosim.host.compiler.quantize import quantize_weight
from ditto_cosim.protocol.isa import Attrs, ints
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import RunRecord


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One layer and what its quantization alone does to the output."""

    layer: str
    op: str
    sqnr_db: float


Change = Callable[[tuple[Any, ...], int], tuple[Any, ...]]
"""Operands of a layer and the step -> the operands in its place."""


class _OneLayer(fx.Interpreter):
    """The captured graph with the operands of one node replaced."""

    def __init__(self, captured: Captured, node: str, change: Change, step: int) -> None:
        super().__init__(captured.module)
        self._node, self._change, self._step = node, change, step

    def run_node(self, n: fx.Node) -> Any:
        if n.name != self._node:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self.call_function(n.target, self._change(args, self._step), kwargs)


def on_grid(x: Tensor, attrs: Attrs, step: int) -> Tensor:
    """Rounded to the grid of a quantize command, in real units; a dynamic one is made for this tensor."""
    cluster = bisect_right(ints(attrs, "bounds"), step) - 1
    scale: float = attrs["scales"][cluster]  # type: ignore[index, assignment]  # floats, validated
    zero = ints(attrs, "zero_points")[cluster]
    if attrs["policy"] == "dynamic":
        scale = float(x.abs().max()) / 127 or scale
    low = -127 if attrs["symmetric"] else -128
    return ((x / scale).round().add(zero).clamp(low, 127) - zero) * scale


def probabilities_on_grid(p: Tensor) -> Tensor:
    """A softmax's result as the accelerator keeps it: 127ths of the row's largest, divided by their sum."""
    steps = (p / p.amax(-1, keepdim=True) * 127).round()
    return steps / steps.sum(-1, keepdim=True)


def sensitivities(
    directory: Path, denoiser: nn.Module, steps: int = 3, progress: Callable[[int, int], None] | None = None
) -> list[Sensitivity]:
    """Every layer of a recorded run, the most sensitive first, over some of its steps spread evenly."""
    record = RunRecord(directory)
    if not len(record):
        raise AnalysisError(f"{directory}: the run has no whole step; run at least one")
    chosen = sorted({round(i * (len(record) - 1) / max(steps - 1, 1)) for i in range(steps)})
    inputs = {step: recorded_inputs(directory, record.program, step) for step in chosen}
    captured = captured_again(denoiser, inputs[chosen[0]], record.info)
    with torch.no_grad():
        exact = {s: _output(fx.Interpreter(captured.module), captured, i) for s, i in inputs.items()}
        found = []
        layers, factors = name_layers(captured), factors_of(record.info)
        ops = {command.name: command.op for command in record.program.layers}
        for done, (node, layer) in enumerate(layers.items(), start=1):
            if layer not in ops:
                continue  # computed from constants alone, so it was folded away
            change = _change(record.program, layer, factors.get(f"{layer}:x", ()))
            noise = signal = 0.0
            for step, given in inputs.items():
                runner = _OneLayer(captured, node, change, step)
                error = _output(runner, captured, given).double() - exact[step].double()
                noise += float(error.square().sum())
                signal += float(exact[step].double().square().sum())
            sqnr_db = 10 * math.log10(signal / noise) if noise and signal else math.inf
            found.append(Sensitivity(layer, ops[layer], sqnr_db))
            if progress is not None:
                progress(done, len(layers))
    return sorted(found, key=lambda row: row.sqnr_db)


def _output(runner: fx.Interpreter, captured: Captured, inputs: Mapping[str, Tensor]) -> Tensor:
    result = runner.run(*captured.interpreter_args(inputs))[0]
    assert isinstance(result, Tensor)
    return result


def _change(program: Program, layer: str, factors: tuple[float, ...]) -> Change:
    """What quantization does to a layer's operands in a step."""
    command = next(c for c in program.layers if c.name == layer)
    makers = {value: c for c in program.commands for value in c.results}

    def rounded(x: Tensor, side: int, step: int) -> Tensor:
        """On the grid of the quantize command that made the operand, perhaps some moves ago."""
        maker = makers.get(command.operands[side])
        while maker is not None and maker.op not in ("quantize", "softmax"):
            maker = makers.get(maker.operands[0])
        if maker is None:
            return x
        return probabilities_on_grid(x) if maker.op == "softmax" else on_grid(x, maker.attrs, step)

    def change(args: tuple[Any, ...], step: int) -> tuple[Any, ...]:
        first, second, *rest = args
        if command.op == "matmul":
            return (rounded(first, 0, step), rounded(second, 2, step), *rest)
        across = torch.tensor(factors or 1.0).reshape(1, -1, *[1] * (second.dim() - 2))
        weights, scale = quantize_weight(second * across)
        real = weights.float() * scale.view(-1, *[1] * (weights.dim() - 1)) / across
        along = across if command.op == "conv2d" else across.reshape(-1)
        return (rounded(first / along, 0, step) * along, real, *rest)

    return change
