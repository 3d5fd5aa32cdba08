# SPDX-License-Identifier: Apache-2.0
"""The layer of a command: one kind a command of the instruction set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from ditto_cosim.device.designs.base import TwoArrays
from ditto_cosim.device.execution.blocks import BlockLayer
from ditto_cosim.device.execution.layers import (
    Conv2d,
    Layer,
    Linear,
    LinearIncrement,
    Matmul,
    ValueLinear,
)
from ditto_cosim.protocol.hardware import LowRule
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.program import Command, Program

Array = npt.NDArray[Any]


def make_layer(
    command: Command,
    program: Program,
    constants: Mapping[int, Array],
    k_max: int,
    rule: LowRule,
    hetero: TwoArrays | None = None,
) -> Layer:
    """The layer of a command; `constants` by value number, `hetero` the arrays of the design, if it has any."""
    if command.op == "matmul":
        return Matmul(command, k_max, rule)
    if command.op in BLOCK_LAYER_OPS:
        return _block(command, program, constants, k_max, rule, hetero)
    weights = constants[command.operands[2]]
    if command.op == "linear_increment":
        return LinearIncrement(command, k_max, rule, weights)
    if command.op == "linear":
        return (ValueLinear if "reference" in command.attrs else Linear)(command, k_max, rule, weights)
    return Conv2d(command, k_max, rule, weights, program.values[command.results[0]].shape)


def _block(
    command: Command,
    program: Program,
    constants: Mapping[int, Array],
    k_max: int,
    rule: LowRule,
    hetero: TwoArrays | None,
) -> BlockLayer:
    assert hetero is not None  # the pricer has refused the program
    layer = BlockLayer(
        command,
        k_max,
        rule,
        (constants[command.operands[2]], constants[command.operands[3]]),
        program.values[command.operands[0]].shape,
        program.values[command.results[0]].shape,
        hetero.detector if hetero.arrays == "both" else None,
    )
    layer.all_sparse = hetero.arrays == "sparse"
    return layer
