# SPDX-License-Identifier: Apache-2.0
"""What a program will hold of a device's memory, before any of it is allocated.

    constants + values alive at once + temporal state of every layer + the largest command's own operands and temporaries

Convolutions count padded and unrolled. Temporaries are bounds, a few copies of the operands that a command works on, not what
an allocator would report. What this file does not do: refuse (`run.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ditto_cosim.protocol.isa import ints
from ditto_cosim.protocol.program import Command, Program

_ROW_COPIES = 8
"""Of rows, at a byte an element: the step's, the previous step's, and what a backend widens them to."""
_VECTOR_COPIES = 6
"""Of a vector command's operands and results: binary64 and what it is computed through."""


@dataclass(frozen=True)
class Footprint:
    """Bytes."""

    live: int
    """Most that values take at once, constants left out."""
    state: int
    """What layers keep from step to step."""
    temporary: int
    """Most that one command takes beside them."""
    greediest: str
    """The name of that command."""

    @property
    def total(self) -> int:
        return self.live + self.state + self.temporary


def footprint(program: Program) -> Footprint:
    """Of every step of a run."""
    state, temporary, greediest = 0, 0, ""
    for command in program.commands:
        kept, needed = _layer(command, program) if command.is_layer else _vector(command, program)
        state += kept
        if kept + needed > temporary:
            temporary, greediest = kept + needed, command.name
    live = max(live_bytes(program.of(step_class)) for step_class in program.step_classes)
    return Footprint(live, state, temporary, greediest)


def live_bytes(program: Program) -> int:
    """Most bytes of values that are alive at once in a step of a program of one class, constants left out."""
    constants = set(program.constants.values())
    live = sum(program.values[v].nbytes for v in program.inputs.values())
    peak = live
    dying: dict[int, int] = {}
    for value, index in program.last_use.items():
        dying[index] = dying.get(index, 0) + program.values[value].nbytes
    for index, command in enumerate(program.commands):
        live += sum(program.values[v].nbytes for v in command.results if v not in constants)
        peak = max(peak, live)
        live -= dying.get(index, 0)
    return peak


def _layer(command: Command, program: Program) -> tuple[int, int]:
    """(state, temporaries)."""
    accumulators = program.values[command.results[0]].nbytes
    kept = program.values[command.operands[0]].nbytes
    rows = kept
    if command.op == "linear_block":
        rows = 8 * kept  # codes times scales, in binary64
    elif command.op in ("conv2d", "conv2d_block"):
        b, c, h, w = program.values[command.operands[0]].shape
        kernel = program.values[command.operands[2]].shape
        above, beside = ints(command.attrs, "padding")
        kept = b * c * (h + 2 * above) * (w + 2 * beside)
        rows = program.values[command.results[0]].elements // kernel[0] * math.prod(kernel[1:])
        rows *= 8 if command.op == "conv2d_block" else 1
    elif command.op == "matmul":
        kept += program.values[command.operands[2]].nbytes
        rows = kept
    return kept + accumulators, _ROW_COPIES * rows + kept + 2 * accumulators


def _vector(command: Command, program: Program) -> tuple[int, int]:
    """(state, temporaries)."""
    touched = sum(program.values[v].nbytes for v in {*command.operands, *command.results})
    return (touched, 0) if command.op == "keep" else (0, _VECTOR_COPIES * touched)
