"""A program under construction: values, constants, commands, and the three kinds of layer.

Equal commands on equal values are one command; equal constants one constant. A layer is a quantizer on each 8-bit operand,
the product, and a dequantizer behind it. What this file does not do: walk the graph (`lower.py`) or know aten (`aten.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.points import name_layers, quantization_points
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError, quantize_weight
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.isa import Attr, DType, TensorSpec
from ditto_cosim.protocol.program import Command

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "f32",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}


class LoweringError(DittoError):
    """An operation that cannot run on the accelerator; the message names it, its module, and what to do."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the program under construction."""

    id: int
    spec: TensorSpec
    varying: bool
    """Whether it depends on an input that changes between steps."""


@dataclass(frozen=True, slots=True)
class Probabilities:
    """A softmax's two results, on their way to the product that consumes them."""

    p: Value
    sums: Value


Argument = Value | Probabilities | torch.Tensor | int | float | bool | None | tuple[Any, ...] | list[Any]
"""What an operation of the graph is called with: values of the program, and constants not yet in it."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of the program and its value's place."""

    tensor: torch.Tensor
    value: Value


class Builder:
    """The values and commands made so far."""

    def __init__(self, captured: Captured, grids: Mapping[str, Grid] | None, steps: int) -> None:
        self.captured = captured
        self.grids = grids
        self.steps = steps
        self.values: list[TensorSpec] = []
        self.commands: list[Command] = []
        self.inputs: dict[str, Value] = {}
        self.constants: dict[str, Constant] = {}
        self._constant_of: dict[str, Value] = {}
        """By content, so that equal constants share a value."""
        self.merged: dict[Any, tuple[Value, ...]] = {}
        self.names: dict[str, int] = {}
        self.layers = name_layers(captured)
        self.point_nodes = quantization_points(captured)
        self.folded: set[str] = set()
        """Nodes that a product has taken the place of."""
        self.scope = ""
        """Module of the denoiser that is being lowered."""

    # --- building blocks ------------------------------------------------------------------------------------------------

    def _value(self, spec: TensorSpec, varying: bool) -> Value:
        self.values.append(spec)
        return Value(len(self.values) - 1, spec, varying)

    def _unique(self, name: str) -> str:
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def emit(self, op: str, *operands: Value, name: str | None = None, **attrs: Attr) -> tuple[Value, ...]:
        """One command, or the results of an equal one that is there already."""
        ids = tuple(v.id for v in operands)
        key = (op, ids, tuple(sorted(attrs.items())))
        if key in self.merged:
            return self.merged[key]
        specs = isa.infer(op, [v.spec for v in operands], attrs)
        varying = any(v.varying for v in operands)
        results = tuple(self._value(spec, varying) for spec in specs)
        label = self._unique(name if name is not None else f"{self.scope}/{op}".lstrip("/"))
        self.commands.append(Command(op, label, ids, tuple(r.id for r in results), attrs))
        self.merged[key] = results
        return results

    def constant(self, tensor: torch.Tensor, name: str) -> Value:
        """A constant of the program; equal ones share a value."""
        if tensor.dtype not in DTYPES:
            tensor = tensor.to(torch.int64 if not tensor.dtype.is_floating_point else torch.float32)
        tensor = tensor.detach().contiguous()
        key = name if tensor.device.type == "meta" else _fingerprint(tensor)
        if key not in self._constant_of:
            value = self._value(TensorSpec(tuple(tensor.shape), DTYPES[tensor.dtype]), False)
            self.constants[self._unique(name)] = Constant(tensor, value)
            self._constant_of[key] = value
        return self._constant_of[key]

    def value(self, operand: Argument, name: str = "constant") -> Value:
        """An operand as a value of the program."""
        if isinstance(operand, Value):
            return operand
        if isinstance(operand, torch.Tensor):
            return self.constant(operand, f"{self.scope}/{name}".lstrip("/"))
        if isinstance(operand, int | float):
            return self.constant(torch.tensor(float(operand), dtype=torch.float32), f"{float(operand)!r}")
        raise LoweringError(f"{self.scope}: {operand!r} cannot be an operand")

    def f32(self, operand: Argument) -> Value:
        if isinstance(operand, torch.Tensor):
            operand = operand.to(torch.float32)
        value = self.value(operand)
        return self.emit("cast", value)[0] if value.spec.dtype == "i64" else value

    def quantize(self, layer: str, operand: str, x: Argument) -> tuple[Value, Value]:
        """A layer's operand on its 8-bit grid."""
        point = f"{layer}:{operand}"
        symmetric = self.point_nodes[point][1]
        if self.grids is None:
            grid = Grid("static", (1.0,), (0,), symmetric=symmetric)
        elif point in self.grids:
            grid = self.grids[point]
        else:
            raise QuantizationError(
                f"{point} has no scale: the model was calibrated in another form; calibrate it again"
            )
        if symmetric and not grid.symmetric:
            raise QuantizationError(f"{point} is an attention operand and needs a symmetric grid")
        q, params = self.emit("quantize", self.f32(x), name=f"{point}/quantize", **grid.attrs(self.steps))
        return q, params

    # --- layers ---------------------------------------------------------------------------------------------------------

    def linear(self, node: Node, x: Argument, weight: Argument, bias: Argument = None) -> Value:
        layer = self.layers[node.name]
        acc, params, scale = self._weighted(layer, "linear", x, weight)
        return self._dequantize(layer, acc, params, scale, bias, -1)

    def conv2d(
        self,
        node: Node,
        x: Argument,
        weight: Argument,
        bias: Argument = None,
        stride: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> Value:
        layer = self.layers[node.name]
        shape = {"stride": pair(stride), "padding": pair(padding), "dilation": pair(dilation)}
        acc, params, scale = self._weighted(layer, "conv2d", x, weight, **shape, groups=groups)
        return self._dequantize(layer, acc, params, scale, bias, 1)

    def _weighted(
        self, layer: str, op: str, x: Argument, weight: Argument, **attrs: Attr
    ) -> tuple[Value, Value, Value]:
        if not isinstance(weight, torch.Tensor):
            raise LoweringError(
                f"{layer}: its weights are computed, not parameters; {op} needs constant weights"
            )
        reduction = weight[0].numel()
        if reduction > isa.K_EXACT:
            raise LoweringError(
                f"{layer}: K = {reduction} could overflow 32 bits; the longest exact K is {isa.K_EXACT}"
            )
        try:
            q_weight, w_scale = quantize_weight(weight, self.captured.weight_scales.get(layer))
        except QuantizationError as error:
            raise QuantizationError(f"{layer}: {error}") from None
        q, params = self.quantize(layer, "x", x)
        w = self.constant(q_weight, f"{layer}.weight")
        (acc,) = self.emit(op, q, params, w, name=layer, **attrs)
        return acc, params, self.constant(w_scale, f"{layer}.weight_scale")

    def _dequantize(
        self, layer: str, acc: Value, params: Value, scale: Value, bias: Argument, axis: int
    ) -> Value:
        operands = [acc, params, scale]
        if isinstance(bias, torch.Tensor):
            operands.append(self.constant(bias.to(torch.float32), f"{layer}.bias"))
        return self.emit("dequantize", *operands, name=f"{layer}/dequantize", axis=axis)[0]

    def matmul(self, node: Node, a: Argument, b: Argument) -> Argument:
        layer = self.layers[node.name]
        b_value = self.f32(b)
        if isinstance(a, Probabilities):
            q, params = self.quantize(layer, "b", b_value)
            one = self.constant(torch.tensor([1.0, 0.0]), "params of probabilities")
            (acc,) = self.emit("matmul", a.p, one, q, params, name=layer, static_b=not b_value.varying)
            return self.emit("dequantize_attention", acc, a.sums, params, name=f"{layer}/dequantize")[0]
        a_value = self.f32(a)
        if len(a_value.spec.shape) < 3 or a_value.spec.shape[:-2] != b_value.spec.shape[:-2]:
            raise LoweringError(
                f"{layer}: matmul of {a_value.spec} and {b_value.spec}; expected […,M,K] and […,K,N] with equal batch axes"
            )
        qa, pa = self.quantize(layer, "a", a_value)
        qb, pb = self.quantize(layer, "b", b_value)
        (acc,) = self.emit("matmul", qa, pa, qb, pb, name=layer, static_b=not b_value.varying)
        factor = self._fold_factor(node)
        return self.emit("dequantize_matmul", acc, pa, pb, name=f"{layer}/dequantize", factor=factor)[0]

    def _fold_factor(self, node: Node) -> float:
        """The scalar that the only user multiplies the product by; that user then becomes an alias."""
        users = list(node.users)
        if len(users) == 1 and str(users[0].target) in ("aten.mul.Tensor", "aten.mul.Scalar"):
            factor = users[0].args[1]
            if isinstance(factor, int | float) and users[0].args[0] is node:
                self.folded.add(users[0].name)
                return float(torch.tensor(float(factor), dtype=torch.float32))
        return 1.0


def _fingerprint(tensor: torch.Tensor) -> str:
    digest = hashlib.blake2b(tensor.numpy().tobytes(), digest_size=16).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {digest}"


def pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))
