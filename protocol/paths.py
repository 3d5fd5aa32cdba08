# SPDX-License-Identifier: Apache-2.0
"""Defo's static analysis: between which layers of a program a difference passes as a difference.

A layer skips difference calculation if every path back from its operands reaches layers through commands that let differences
pass, and skips summation if every path forward from its result does. Which commands do is the caller's to say: those that are
`linear`, for the host that lowers; more, for a design that masks signs. Where a layer runs in one class of steps alone its
differences are taken to another step than its neighbours', so nothing passes it. What this file does not do: cost anything.
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


def _takes_differences(command: Command) -> bool:
    """Whether it takes differences as a difference to the step before."""
    return command.is_layer and not command.when and "reference" not in command.attrs


def bypass(program: Program, passes: Passes = linear) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the layers that skip difference calculation, and of those that skip summation, in every step they run in."""
    classes = [program.of(c) for c in program.step_classes]
    skipped = [_bypass(p, passes) for p in classes]
    refused: tuple[set[str], set[str]] = (set(), set())
    for of_class, found in zip(classes, skipped, strict=True):
        for no, yes in zip(refused, found, strict=True):
            no.update({c.name for c in of_class.layers} - yes)
    difference, summation = (frozenset().union(*names) for names in zip(*skipped, strict=True))
    return difference - refused[0], summation - refused[1]


def _bypass(program: Program, passes: Passes) -> tuple[frozenset[str], frozenset[str]]:
    """Of a program of one class of steps."""
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
        clear = _takes_differences(command) or (
            passed
            and not command.is_layer
            and command.op != "recall"
            and all(back.get(v, False) for v in found)
        )
        back.update(dict.fromkeys(command.results, clear))
    ahead: dict[int, bool] = {}
    for command in reversed(program.commands):
        for value in command.results:
            readers = [(program.commands[at], through[at]) for at in consumers.get(value, [])]
            ahead[value] = value not in outputs and all(
                _takes_differences(c)
                or (passed and not c.is_layer and c.op != "keep" and ahead[c.results[0]])
                for c, passed in readers
            )
    return (
        frozenset(
            c.name
            for c, found in zip(program.commands, carried, strict=True)
            if _takes_differences(c) and all(back.get(v, False) for v in found)
        ),
        frozenset(c.name for c in program.layers if _takes_differences(c) and ahead[c.results[0]]),
    )
