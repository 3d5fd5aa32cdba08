# SPDX-License-Identifier: Apache-2.0
"""Defo's static analysis: between which layers of a program a difference passes as a difference.

A layer skips difference calculation if every path back from its operands reaches layers through commands that let differences
pass, and skips summation if every path forward from its result does. Which commands do is the caller's to say: those that are
`linear`, for the host that lowers; more, for a design that masks signs. What this file does not do: cost anything.
"""

from __future__ import annotations

from collections.abc import Callable

from ditto_cosim.protocol import isa
from ditto_cosim.protocol.program import Command, Program

_LINEAR = frozenset({"dequantize", "dequantize_matmul", "dequantize_attention", "quantize", "add", "sub"})

Passes = Callable[[Command, list[int]], bool]
"""(command, its operands that carry activations) -> whether a difference comes out as a difference."""


def linear(command: Command, operands: list[int]) -> bool:
    """Whether a command is linear in what varies of its operands."""
    if command.op in _LINEAR or isa.ISA[command.op].kind == "move":
        return True
    if command.op == "mul":
        return len(operands) == 1
    return command.op == "div" and command.operands[1] not in operands


def bypass(program: Program, passes: Passes = linear) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the layers that skip difference calculation, and of those that skip summation."""
    constants, outputs = set(program.constants.values()), set(program.outputs.values())

    def activations(command: Command) -> list[int]:
        """Operands that carry activations: no scales, weights or other constants."""
        form = isa.ISA[command.op]
        return [
            v
            for at, v in enumerate(command.operands)
            if not form.operand(at).is_params and v not in constants
        ]

    carried = [activations(command) for command in program.commands]
    through = [passes(command, found) for command, found in zip(program.commands, carried, strict=True)]
    consumers: dict[int, list[int]] = {}
    for at, found in enumerate(carried):
        for value in found:
            consumers.setdefault(value, []).append(at)

    back: dict[int, bool] = {}
    for command, found, passed in zip(program.commands, carried, through, strict=True):
        clear = command.is_layer or (passed and all(back.get(v, False) for v in found))
        back.update(dict.fromkeys(command.results, clear))
    ahead: dict[int, bool] = {}
    for command in reversed(program.commands):
        for value in command.results:
            readers = [(program.commands[at], through[at]) for at in consumers.get(value, [])]
            ahead[value] = value not in outputs and all(
                c.is_layer or (passed and ahead[c.results[0]]) for c, passed in readers
            )
    return (
        frozenset(
            c.name
            for c, found in zip(program.commands, carried, strict=True)
            if c.is_layer and all(back.get(v, False) for v in found)
        ),
        frozenset(c.name for c in program.layers if ahead[c.results[0]]),
    )
