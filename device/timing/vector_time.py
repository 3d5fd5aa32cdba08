"""The vector unit's time: lanes that take one element each per cycle, after a fixed depth.

Contract: a command that makes several passes over n elements takes `passes × ⌈n ÷ lanes⌉ + depth` cycles.
Commands of one layer's chain run one after another. Data movement that only changes addresses takes none,
other movement one pass. The summation of the previous output (temporal) and the running sum over rows
(spatial) are one pass each over the accumulators; the transposed part of temporal attention costs two more.

What this file does not do: the arithmetic (`vector.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.program import Command

PASSES: dict[str, int] = {
    "quantize": 1,
    "dequantize": 1,
    "dequantize_matmul": 1,
    "dequantize_attention": 1,
    "softmax": 3,
    "group_norm": 2,
    "layer_norm": 2,
    "rms_norm": 2,
    "reshape": 0,
    "broadcast": 0,
    "slice": 0,
}
"""Passes over the larger of operand and result; anything else takes one."""


def command_passes(command: Command) -> int:
    """Passes of one vector or movement command."""
    return PASSES.get(command.op, 1) + (command.op == "quantize" and command.attrs["policy"] == "dynamic")


def command_cycles(
    command: Command, operands: Sequence[TensorSpec], result: TensorSpec, lanes: int, depth: int
) -> int:
    """Cycles of one vector or movement command."""
    passes = command_passes(command)
    if not passes:
        return 0
    elements = result.elements if command.op == "gather" else max(result.elements, operands[0].elements)
    return pass_cycles(elements, lanes, depth, passes)


def pass_cycles(elements: int, lanes: int, depth: int, passes: int = 1) -> int:
    return passes * math.ceil(elements / lanes) + depth
