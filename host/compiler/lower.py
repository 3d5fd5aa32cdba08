# SPDX-License-Identifier: Apache-2.0
"""Graph -> program: what each captured operation means to the accelerator.

Every conv2d, linear and attention product becomes a layer on 8-bit operands with a quantizer before and a dequantizer
behind it; the rest becomes vector and move commands. Operations on constants are folded, equal commands merged, and
Defo's static analysis marks where difference calculation and summation can be left out. An operation that the
instruction set does not have is refused by name, with the module it came from.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.builder import (
    Argument,
    Builder,
    Complex,
    LoweringError,
    Probabilities,
    Value,
)
from ditto_cosim.host.compiler.cache import CachePlan
from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.plan import FormatPlan, check
from ditto_cosim.host.compiler.points import module_path
from ditto_cosim.host.compiler.quantize import Grid
from ditto_cosim.host.compiler.rules import COMPONENTWISE, RULES
from ditto_cosim.protocol.errors import IsaError
from ditto_cosim.protocol.isa import DType, TensorSpec
from ditto_cosim.protocol.paths import bypass
from ditto_cosim.protocol.program import Program, StepClass

__all__ = ["Lowered", "LoweringError", "lower"]

INPUT_DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "f32",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i8",
}
"""Truth values cross the wire as bytes of 0 and 1."""

_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._assert_scalar")


class UnsupportedError(LoweringError):
    """Operations that the instruction set does not have, all of a denoiser's at once."""

    def __init__(self, missing: Mapping[str, Sequence[str]]) -> None:
        self.missing = dict(missing)
        told = "; ".join(f"{what}, in {_named(modules)}" for what, modules in sorted(missing.items()))
        super().__init__(f"not in the instruction set: {told}")


def _named(modules: Sequence[str]) -> str:
    shown = ", ".join(repr(m) if m else "the top level" for m in modules[:3])
    return f"{shown} and {len(modules) - 3} more" if len(modules) > 3 else shown


@dataclass(frozen=True)
class Lowered:
    """A program with the constants it needs, by name."""

    program: Program
    constants: Mapping[str, torch.Tensor]
    points: Mapping[str, str]
    """Quantization point (`layer:operand`) -> graph node that it quantizes."""


class Lowering(Builder):
    """One pass over the graph."""

    def __init__(
        self,
        captured: Captured,
        grids: Mapping[str, Grid] | None,
        steps: int,
        plan: CachePlan | None = None,
        formats: FormatPlan | None = None,
    ) -> None:
        super().__init__(captured, grids, steps, plan, formats)
        self.env: dict[str, Any] = {}
        self.missing: dict[str, list[str]] = {}
        """Operation, or what it was refused for -> modules that ask for it."""

    def run(self) -> Lowered:
        graph = self.captured.module.graph
        outputs: dict[str, Value] = {}
        for node in graph.nodes:
            self.scope = module_path(node)
            if node.op == "placeholder":
                self.env[node.name] = self._placeholder(node)
            elif node.op == "call_function":
                self.env[node.name] = self._call(node)
            elif node.op == "output":
                for name, result in zip(self.captured.outputs, node.args[0], strict=True):
                    outputs[name] = self.value(self._resolve(result), "output")
            else:
                self.env[node.name] = getattr(self.captured.module, str(node.target))
        if self.missing:
            raise UnsupportedError(self.missing)
        program = Program(
            values=tuple(self.values),
            inputs={n: v.id for n, v in self.inputs.items()},
            static_inputs=self.captured.static_inputs,
            constants={n: c.value.id for n, c in self.constants.items()},
            outputs={n: v.id for n, v in outputs.items()},
            commands=tuple(self.commands),
            period=1 if self.plan is None else self.plan.cache.period,
        )
        program = _prune(program)
        difference, summation = bypass(program)
        program = replace(program, skip_difference=difference, skip_summation=summation)
        program.validate()
        return Lowered(
            program,
            {n: self.constants[n].tensor for n in program.constants},
            {p: n for p, (n, _) in self.point_nodes.items()},
        )

    def _placeholder(self, node: Node) -> Argument:
        if node.name in self.captured.parameters:
            return self.captured.parameters[node.name]
        name = self.captured.placeholders[node.name]
        example = self.captured.example[name]
        dtype = INPUT_DTYPES.get(example.dtype)
        if dtype is None:
            raise LoweringError(f"input {name!r} is {example.dtype}; expected float32, int64, int32 or bool")
        value = self._value(TensorSpec(tuple(example.shape), dtype), name not in self.captured.static_inputs)
        self.inputs[name] = value
        return value

    def _call(self, node: Node) -> Any:
        """The node's results. What cannot be made is noted, and stood in for, so that all of it is told at once."""
        if node.name in self.folded:
            return self._resolve(node.args[0])
        args = [self._resolve(a) for a in node.args]
        kwargs = {k: self._resolve(v) for k, v in node.kwargs.items()}
        target = str(node.target)
        if target.startswith(_CHECKS):
            return None
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(v, Value | Probabilities | Complex) for v in _leaves((args, kwargs))):
            return self._fold(node, args, kwargs)
        made = node.meta.get("val")
        if isinstance(made, torch.Tensor) and not made.numel():
            return torch.zeros(tuple(made.shape), dtype=made.dtype)
        try:
            if target not in RULES:
                raise LoweringError(f"{target} is not in the instruction set")
            return self._apply(target, node, args, kwargs)
        except (LoweringError, IsaError, TypeError) as error:
            stand_in = self._stand_in(node.meta.get("val"))
            if stand_in is None:
                self._miss(target, error)
                raise UnsupportedError(self.missing) from error
            self._miss(target, error)
            return stand_in

    def _fold(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """An operation on constants."""
        try:
            with torch.no_grad():
                return node.target(*args, **kwargs)  # type: ignore[operator]  # an aten operator on constants
        except Exception as error:  # whatever PyTorch or a stand-in raises
            self._miss(str(node.target), LoweringError(f"on constants: {type(error).__name__}"))
            raise UnsupportedError(self.missing) from error

    def _apply(self, target: str, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        leaves = _leaves((args, kwargs))
        if target in COMPONENTWISE and any(isinstance(v, Complex) for v in leaves):
            parts = [
                RULES[target](self, node, *_part(args, name), **_part(kwargs, name))
                for name in ("real", "imag")
            ]
            if isinstance(parts[0], tuple):
                return tuple(Complex(*pair) for pair in zip(*parts, strict=True))
            return Complex(*parts)
        return RULES[target](self, node, *args, **kwargs)

    def _miss(self, target: str, error: Exception) -> None:
        text = str(error)
        known = text.startswith(f"{target} ") or not isinstance(error, LoweringError)
        what = (
            target
            if known and isinstance(error, LoweringError)
            else f"{target} ({text.removeprefix(f'{self.scope}: ')})"
        )
        modules = self.missing.setdefault(what, [])
        if self.scope not in modules:
            modules.append(self.scope)

    def _stand_in(self, example: Any) -> Any:
        """Values of the shapes that the node would have made; None if they are no tensors of known shape."""
        if isinstance(example, list | tuple):
            parts = tuple(map(self._stand_in, example))
            return None if None in parts else parts
        if not isinstance(example, torch.Tensor) or not all(type(size) is int for size in example.shape):
            return None
        spec = TensorSpec(tuple(example.shape), "i64" if example.dtype == torch.int64 else "f32")
        return (
            Complex(*(self._value(spec, True) for _ in range(2)))
            if example.is_complex()
            else self._value(spec, True)
        )

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self.env[argument.name]
        if isinstance(argument, list | tuple):
            return type(argument)(self._resolve(a) for a in argument)
        return argument


def _part(tree: Any, name: str) -> Any:
    """The same arguments with every complex number replaced by one of its parts."""
    if isinstance(tree, dict):
        return {k: _part(v, name) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_part(v, name) for v in tree)
    if isinstance(tree, Complex) or (isinstance(tree, torch.Tensor) and tree.is_complex()):
        return getattr(tree, name)
    return tree


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for v in tree.values() for leaf in _leaves(v)]
    if isinstance(tree, list | tuple):
        return [leaf for v in tree for leaf in _leaves(v)]
    return [tree]


# --- passes over the finished program ---------------------------------------------------------------------------------


def _prune(program: Program) -> Program:
    """Without commands and constants that no output needs, and with values numbered in order of definition. A command that is
    needed in steps of one class alone runs in those alone."""
    needed: dict[StepClass, set[int]] = {c: set(program.outputs.values()) for c in program.step_classes}
    needs: dict[int, set[StepClass]] = {}
    recalled: set[str] = set()
    for step_class in reversed(program.step_classes):  # what increments recall, full steps keep
        values = needed[step_class]
        for place in reversed(program.places(step_class)):
            command = program.commands[place]
            if values & set(command.results) or (command.op == "keep" and command.attrs["slot"] in recalled):
                needs.setdefault(place, set()).add(step_class)
                values |= set(command.operands)
                if command.op == "recall":
                    recalled.add(str(command.attrs["slot"]))
    kept = [
        replace(c, when="" if len(needs[i]) == len(needed) else min(needs[i]))
        for i, c in enumerate(program.commands)
        if i in needs
    ]
    used = {v for values in needed.values() for v in values}
    constants = {n: v for n, v in program.constants.items() if v in used}
    order = dict.fromkeys(
        [*program.inputs.values(), *constants.values(), *(r for c in kept for r in c.results)]
    )
    number = {old: new for new, old in enumerate(order)}
    return replace(
        program,
        values=tuple(program.values[v] for v in order),
        inputs={n: number[v] for n, v in program.inputs.items()},
        constants={n: number[v] for n, v in constants.items()},
        outputs={n: number[v] for n, v in program.outputs.items()},
        commands=tuple(
            replace(
                c, operands=tuple(number[v] for v in c.operands), results=tuple(number[v] for v in c.results)
            )
            for c in kept
        ),
    )


def lower(
    captured: Captured,
    grids: Mapping[str, Grid] | None,
    *,
    steps: int = 50,
    plan: CachePlan | None = None,
    formats: FormatPlan | None = None,
) -> Lowered:
    """The program of a captured denoiser. `grids = None` gives unit scales: right in shape, for counting only. With a plan of
    caching it has two classes of steps. Layers that `formats` names are block-scaled."""
    if formats is not None:
        check(formats, captured)
    return Lowering(captured, grids, steps, plan, formats).run()
