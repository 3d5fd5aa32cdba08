# SPDX-License-Identifier: Apache-2.0
"""What the values of a run look like to an accelerator of differences: similarity, ranges, shares, BOPs.

    analyzer = Analyzer(program, constants)
    golden.step(step, inputs, partial(analyzer.on_value, step))       for every step
    analysis = analyzer.result()

Everything is counted on what the encoder would see: rows of a layer's input, padding included. Attention's
second operand counts in temporal mode only, where it has a difference of its own.
What this file does not do: time, or computing a recorded run again (`replay.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ditto_cosim.protocol.hardware import LowRule
from ditto_cosim.protocol.isa import Convolution
from ditto_cosim.protocol.program import Command, Program

Kind = Literal["activations", "temporal", "spatial"]
KINDS: tuple[Kind, ...] = ("activations", "temporal", "spatial")
LOW_RULES: tuple[LowRule, ...] = ("twos4", "mag4")
COUNTS = ("elements", "zero", "twos4", "mag4", "smallest", "largest")
"""What is kept of each kind: elements, zeros, low ones (zeros aside) by either rule, and the extremes."""
DENSE_BITS = 8 * 8
"""Bit operations of an 8-bit multiplication; a low difference takes half of them, a zero none."""

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def rows_of(command: Command, x: Tensor) -> Tensor:
    """A layer's operand as the encoder meets it: [chains, rows, K]; a chain is one image or one head."""
    if command.op == "matmul":
        return x.reshape(-1, *x.shape[-2:])
    return x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, x.shape[-1])


def windows_of(command: Command, x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The same for a picture [B,C,H,W]: a row is the window of one output pixel, a chain one group of one image."""
    how = Convolution.of(command.attrs)
    (sh, sw), (ph, pw), (dh, dw), groups = how.stride, how.padding, how.dilation, how.groups
    padded = torch.nn.functional.pad(x, (pw, pw, ph, ph)).reshape(
        len(x) * groups, -1, x.shape[2] + 2 * ph, x.shape[3] + 2 * pw
    )
    reach = how.reach(kernel)
    windows = (
        padded.unfold(2, reach[0], sh).unfold(3, reach[1], sw)[..., ::dh, ::dw].permute(0, 2, 3, 1, 4, 5)
    )
    return windows.reshape(windows.shape[0], -1, math.prod(windows.shape[3:]))


def count(values: Tensor) -> I64:
    """`COUNTS` of 9-bit integers in int16."""
    v = values.reshape(-1).numpy()
    zero = v.size - np.count_nonzero(v)
    twos4 = np.count_nonzero((v + np.int16(8)).view(np.uint16) < 16)  # below −8 wraps to something large
    mag4 = np.count_nonzero((v + np.int16(15)).view(np.uint16) < 31)
    return np.array([v.size, zero, twos4 - zero, mag4 - zero, v.min(), v.max()], np.int64)


def merge(a: I64, b: I64) -> I64:
    """Counts of two operands together. The extremes stay the first's: the other has its own scale."""
    return np.array([*(a[:4] + b[:4]), *a[4:]], np.int64)


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine similarity; NaN if either is all zero."""
    left, right = a.reshape(-1).double(), b.reshape(-1).double()
    norms = float(left.norm()) * float(right.norm())
    return float(left @ right) / norms if norms else math.nan


@dataclass(frozen=True)
class _Operand:
    """One 8-bit operand of a layer as it was in one step."""

    values: Tensor
    """int16, the zero point taken off."""
    scale: float
    zero_point: int


@dataclass(frozen=True)
class _Layer:
    command: Command
    sides: tuple[tuple[int, int], ...]
    """(values, params) of the operands that change between steps; the second is attention's other side."""
    macs: tuple[int, ...]
    """Multiplications of each element of a side: the other operand's columns."""
    kernel: tuple[int, int]
    unit: float = 1.0
    """Factor of the first operand's scale: probabilities are kept in 127ths of their row's largest."""


class Analyzer:
    """Watches golden's values go by and counts, layer by layer. Keeps one step of layer inputs."""

    def __init__(self, program: Program, constants: Mapping[str, Tensor]) -> None:
        self.program = program
        self.layers = tuple(_layer(program, command) for command in program.layers)
        self._by_result = {layer.command.results[0]: i for i, layer in enumerate(self.layers)}
        self._wanted = {v for layer in self.layers for side in layer.sides for v in side}
        fixed = {v: constants[name] for name, v in program.constants.items() if v in self._wanted}
        self._seen: dict[int, Tensor] = fixed
        self._previous: dict[tuple[int, int], _Operand] = {}
        self._steps: list[int] = []
        self._counts: list[dict[Kind, list[I64 | None]]] = []
        self._bits: list[dict[str, list[float]]] = []
        self._cosine: list[dict[str, list[float]]] = []
        self._scales: list[list[float]] = []

    def on_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """The step's inputs, should a layer read one directly."""
        self._seen |= {v: inputs[name] for name, v in self.program.inputs.items() if v in self._wanted}

    def on_value(self, step: int, value: int, tensor: Tensor) -> None:
        """One command result; call it for every one of a step, in program order."""
        if not self._steps or self._steps[-1] != step:
            self._begin(step)
        if value in self._wanted:
            self._seen[value] = tensor
        layer = self._by_result.get(value)
        if layer is not None:
            self._count(layer)

    def _begin(self, step: int) -> None:
        count, nan = len(self.layers), math.nan
        self._steps.append(step)
        self._counts.append({kind: [None] * count for kind in KINDS})
        names = ("activations", *(f"{kind}.{rule}" for kind in KINDS for rule in LOW_RULES), "dense")
        self._bits.append({name: [nan] * count for name in names})
        self._cosine.append({kind: [nan] * count for kind in ("temporal", "spatial")})
        self._scales.append([nan] * count)

    def _operand(self, values: int, params: int) -> _Operand:
        scale, zero = self._seen[params].tolist()
        return _Operand(self._seen[values].to(torch.int16) - int(zero), scale, int(zero))

    def _rows(self, layer: _Layer, values: Tensor, side: int) -> Tensor:
        if layer.command.op == "conv2d":
            return windows_of(layer.command, values, layer.kernel)
        return rows_of(layer.command, values.transpose(-1, -2) if side else values)

    def _count(self, index: int) -> None:
        layer, counts, bits = self.layers[index], self._counts[-1], self._bits[-1]
        now = [self._operand(*side) for side in layer.sides]
        before = [self._previous.get((index, side)) for side in range(len(now))]
        first = self._rows(layer, now[0].values, 0)
        down = torch.cat([first[:, :1], first[:, 1:] - first[:, :-1]], 1)
        parts: dict[Kind, list[I64]] = {
            "activations": [count(first)],
            "temporal": [],
            "spatial": [count(down)],
        }
        usable = all(
            old is not None and (old.scale, old.zero_point) == (new.scale, new.zero_point)
            for old, new in zip(before, now, strict=True)
        )
        for side, (old, new) in enumerate(zip(before, now, strict=True)):
            if usable and old is not None:
                parts["temporal"].append(count(self._rows(layer, new.values - old.values, side)))
        for kind, found in parts.items():
            if not found:
                continue
            counts[kind][index] = found[0] if len(found) == 1 else merge(*found)
            for at, rule in enumerate(LOW_RULES, start=2):
                operations = sum(
                    macs * (DENSE_BITS // 2 * int(c[at]) + DENSE_BITS * int(c[0] - c[1] - c[at]))
                    for c, macs in zip(found, layer.macs, strict=False)
                )
                bits[f"{kind}.{rule}"][index] = operations
        bits["dense"][index] = DENSE_BITS * layer.macs[0] * first.numel()
        if before[0] is not None:
            self._cosine[-1]["temporal"][index] = cosine(now[0].values, before[0].values)
        if first.shape[1] > 1:
            self._cosine[-1]["spatial"][index] = cosine(first[:, 1:], first[:, :-1])
        self._scales[-1][index] = now[0].scale * layer.unit
        self._previous.update({(index, side): operand for side, operand in enumerate(now)})

    def result(self) -> Analysis:
        """All that was counted so far."""
        nothing = np.full(len(COUNTS), -1, np.int64)
        return Analysis(
            steps=tuple(self._steps),
            names=tuple(layer.command.name for layer in self.layers),
            ops=tuple(layer.command.op for layer in self.layers),
            counts={
                kind: np.array([[nothing if c is None else c for c in step[kind]] for step in self._counts])
                for kind in KINDS
            },
            cosine={k: np.array([s[k] for s in self._cosine]) for k in ("temporal", "spatial")},
            bit_operations={
                name: np.array([s[name] for s in self._bits])
                for name in (*(f"{kind}.{rule}" for kind in KINDS for rule in LOW_RULES), "dense")
            },
            scales=np.array(self._scales),
        )


def _layer(program: Program, command: Command) -> _Layer:
    operands, result = program.specs(command.operands), program.values[command.results[0]]
    if command.op == "matmul":
        sides = ((command.operands[0], command.operands[1]), (command.operands[2], command.operands[3]))
        macs = (result.shape[-1], operands[0].shape[-2])
        count = 1 if command.attrs["static_b"] else 2
        unit = 1 / 127 if _is_softmax(program, command.operands[0]) else 1.0
        return _Layer(command, sides[:count], macs[:count], (1, 1), unit)
    weights = operands[2].shape
    convolves = command.op == "conv2d"
    kernel = (weights[2], weights[3]) if convolves else (1, 1)
    columns = weights[0] // (Convolution.of(command.attrs).groups if convolves else 1)
    return _Layer(command, ((command.operands[0], command.operands[1]),), (columns,), kernel)


def _is_softmax(program: Program, value: int) -> bool:
    """Whether a value is a softmax's result, perhaps moved since."""
    for command in reversed(program.commands):
        if value in command.results:
            if command.op == "softmax":
                return True
            value = command.operands[0]
    return False


@dataclass(frozen=True)
class Analysis:
    """Counts by [step, layer]; a kind's counts are −1, its figures NaN, where it does not exist in a step."""

    steps: tuple[int, ...]
    names: tuple[str, ...]
    ops: tuple[str, ...]
    counts: Mapping[Kind, I64]
    """[steps, layers, COUNTS]"""
    cosine: Mapping[str, F64]
    """Of a layer's input with the step before (temporal), of its rows with the rows before (spatial)."""
    bit_operations: Mapping[str, F64]
    """`kind.rule`: zeros skipped, low ones at 4 × 8 bits; `dense`: every element at 8 × 8."""
    scales: F64

    def shares(self, kind: Kind, rule: LowRule, op: str | None = None) -> dict[str, float]:
        """Zero, low and full shares of all elements of all steps and layers, or of one operation's."""
        counts = self._existing(kind, op).sum(0)
        zero, low = int(counts[1]), int(counts[COUNTS.index(rule)])
        total = max(int(counts[0]), 1)
        return {"zero": zero / total, "low": low / total, "full": (int(counts[0]) - zero - low) / total}

    def _existing(self, kind: Kind, op: str | None = None) -> I64:
        chosen = [i for i, o in enumerate(self.ops) if op in (None, o)]
        counts = self.counts[kind][:, chosen].reshape(-1, len(COUNTS))
        return counts[counts[:, 0] >= 0]

    def ranges(self, kind: Kind) -> F64:
        """Largest minus smallest value of the first operand, in real units, by [step, layer]."""
        counts = self.counts[kind]
        width = (counts[..., 5] - counts[..., 4]) * self.scales
        return np.where(counts[..., 0] >= 0, width, np.nan)

    def bit_operations_by_step(self, name: str) -> F64:
        """Of all layers; a layer without a difference in that step counts densely."""
        chosen, dense = self.bit_operations[name], self.bit_operations["dense"]
        total: F64 = np.where(np.isnan(chosen), dense, chosen).sum(1)
        return total

    def relative_bit_operations(self, name: str) -> float:
        """Over the whole run, against dense 8 × 8."""
        return float(self.bit_operations_by_step(name).sum() / self.bit_operations["dense"].sum())

    def best_relative_bit_operations(self, rule: LowRule) -> float:
        """With the better of dense, temporal and spatial chosen for every layer and step."""
        choices = np.stack([self.bit_operations[n] for n in ("dense", f"temporal.{rule}", f"spatial.{rule}")])
        return float(np.nanmin(choices, 0).sum() / self.bit_operations["dense"].sum())

    def figures(self) -> dict[str, Any]:
        """The headline numbers."""
        ranges = {kind: self.ranges(kind) for kind in KINDS}
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = {k: np.nanmedian(ranges["activations"] / ranges[k]) for k in ("temporal", "spatial")}
        return {
            "steps": len(self.steps),
            "layers": len(self.names),
            "cosine": {name: float(np.nanmean(values)) for name, values in self.cosine.items()},
            "range_ratio": {name: float(value) for name, value in ratio.items()},
            "shares": {k: {r: self.shares(k, r) for r in LOW_RULES} for k in KINDS},
            "relative_bit_operations": {
                **{n: self.relative_bit_operations(n) for n in self.bit_operations if n != "dense"},
                **{f"best.{rule}": self.best_relative_bit_operations(rule) for rule in LOW_RULES},
            },
        }

    def to_json(self) -> str:
        """Figures and every array, by name."""
        arrays = {
            "counts": {k: v.tolist() for k, v in self.counts.items()},
            "cosine": {k: _listed(v) for k, v in self.cosine.items()},
            "bit_operations": {k: _listed(v) for k, v in self.bit_operations.items()},
            "ranges": {k: _listed(self.ranges(k)) for k in KINDS},
        }
        head = {"steps": self.steps, "names": self.names, "ops": self.ops, "count_columns": COUNTS}
        return json.dumps({"figures": self.figures(), **head, **arrays}, separators=(",", ":"))


def _listed(array: F64) -> list[list[float | None]]:
    """JSON has no NaN."""
    return [[None if math.isnan(v) else v for v in row] for row in array.tolist()]
