# SPDX-License-Identifier: Apache-2.0
"""The vector unit: lanes that take one element each per cycle, after a fixed depth; and the unit in the loop.

Contract (TLM-2.0: an initiator between lanes and writer)
    A command that makes several passes over n elements takes `passes × ⌈n ÷ lanes⌉ + depth` cycles. Commands of one layer's
    chain run one after another. Data movement that only changes addresses takes none, other movement one pass. The summation
    of the previous output (temporal) and the running sum over rows (spatial) are one pass each over the accumulators; the
    transposed part of temporal attention costs two more.
    What precedes a reduction over the whole result, and the reduction's own first pass, is streamed behind the lanes; the
    rest begins when the whole has passed. Rows reduce as they stream (softmax, layer norm).

What this file does not do: the arithmetic (`kernels/vector.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ditto_cosim.device.timing.flow import Flow, share
from ditto_cosim.device.timing.kernel import NEVER, Credits
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.program import Command

PASSES: dict[str, int] = {
    "quantize": 1,
    "dequantize": 1,
    "dequantize_matmul": 1,
    "dequantize_attention": 1,
    "quantize_block": 2,
    "softmax": 3,
    "group_norm": 2,
    "layer_norm": 2,
    "rms_norm": 2,
    "reshape": 0,
    "broadcast": 0,
    "slice": 0,
    "keep": 0,
    "recall": 0,
}
"""Passes over the larger of operand and result; anything else takes one."""


def command_passes(command: Command) -> int:
    """Passes of one vector or movement command."""
    return PASSES.get(command.op, 1) + (command.op == "quantize" and command.attrs["policy"] == "dynamic")


def reduces_whole(command: Command) -> bool:
    """Whether nothing leaves the command before everything has entered it."""
    return command.op == "group_norm" or (command.op == "quantize" and command.attrs["policy"] == "dynamic")


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


class VectorUnit:
    """The unit in the loop: parts of results in program order; a result takes room in the buffer until it is written."""

    def __init__(self, flow: Flow, room: Credits) -> None:
        self.flow, self.room = flow, room
        self.group = self.part = 0
        self.after = False
        self.free = 0

    def ready(self) -> int:
        if self.group == len(self.flow.works):
            return NEVER
        work, at = self.flow.works[self.group], self.free
        if not self.after:
            lanes = self.flow.passed[self.group].lanes
            needed = work.needed_lane_chunk(self.part)
            if needed >= len(lanes):
                return NEVER
            at = max(at, lanes[needed])
        if self.after or not work.after_cycles:
            at = max(at, self.room.when(share(work.out_bytes, work.chunks, self.part)))
        return at

    def act(self, at: int) -> bool:
        work, passed = self.flow.works[self.group], self.flow.passed[self.group]
        self.free = at + share(
            work.after_cycles if self.after else work.streamed_cycles, work.chunks, self.part
        )
        if not self.after:
            passed.streamed.append(self.free)
        if self.after or not work.after_cycles:
            self.room.take(share(work.out_bytes, work.chunks, self.part))
            passed.result.append(self.free)
        self.part += 1
        if self.part == work.chunks:
            self.after = not self.after and work.after_cycles > 0
            self.group, self.part = self.group + (not self.after), 0
        return True
