# SPDX-License-Identifier: Apache-2.0
"""Small programs and inputs for tests of the wire: real commands, real machine, a few milliseconds a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.isa import Attrs, DType, TensorSpec, infer
from ditto_cosim.protocol.program import Command, Program

Array = npt.NDArray[Any]


class Builder:
    """Grows a program command by command."""

    def __init__(self) -> None:
        self.values: list[TensorSpec] = []
        self.inputs: dict[str, int] = {}
        self.constants: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}
        self.commands: list[Command] = []

    def value(self, spec: TensorSpec) -> int:
        self.values.append(spec)
        return len(self.values) - 1

    def input(self, name: str, *shape: int) -> int:
        self.inputs[name] = self.value(TensorSpec(shape, "f32"))
        return self.inputs[name]

    def constant(self, name: str, array: Array) -> int:
        dtype: DType = "i8" if array.dtype == np.int8 else "f32"
        self.constants[name] = self.value(TensorSpec(array.shape, dtype))
        self.arrays[name] = array
        return self.constants[name]

    def do(
        self, op: str, name: str, operands: tuple[int, ...], attrs: Attrs | None = None
    ) -> tuple[int, ...]:
        specs = infer(op, [self.values[v] for v in operands], attrs or {})
        results = tuple(self.value(spec) for spec in specs)
        self.commands.append(Command(op, name, operands, results, attrs or {}))
        return results

    def program(self, **outputs: int) -> Program:
        program = Program(
            tuple(self.values), self.inputs, frozenset(), self.constants, outputs, tuple(self.commands)
        )
        program.validate()
        return program


QUANTIZE: Attrs = {
    "policy": "dynamic",
    "scales": (0.02,),
    "zero_points": (0,),
    "bounds": (0,),
    "symmetric": True,
    "hysteresis": 1.5,
}


def chain(
    layers: int = 6, rows: int = 16, width: int = 32, seed: int = 0
) -> tuple[Program, dict[str, Array]]:
    """`layers` linear layers, each with dynamic quantization and silu, so that Defo, scales and state all matter."""
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input("x", rows, width)
    for i in range(layers):
        q, params = b.do("quantize", f"quantize{i}", (x,), QUANTIZE)
        w = b.constant(f"w{i}", rng.integers(-100, 100, (width, width)).astype(np.int8))
        scale = b.constant(f"s{i}", np.full(width, 0.003, np.float32))
        (acc,) = b.do("linear", f"block{i}.linear", (q, params, w))
        (y,) = b.do("dequantize", f"dequantize{i}", (acc, params, scale), {"axis": 1})
        (x,) = b.do("silu", f"silu{i}", (y,))
    return b.program(y=x), b.arrays


def inputs_of(program: Program, step: int, seed: int = 0) -> dict[str, Array]:
    """Inputs that drift from step to step, as a denoiser's do."""
    made = {}
    for name, value in program.inputs.items():
        shape = program.values[value].shape
        if program.values[value].dtype == "i64":  # a timestep
            made[name] = np.full(shape, 900 - 20 * step)
            continue
        start = np.random.default_rng(seed).standard_normal(shape)
        drift = np.random.default_rng(seed + 1).standard_normal(shape)
        made[name] = (start + 0.02 * step * drift).astype(np.float32)
    return made
