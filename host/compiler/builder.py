# SPDX-License-Identifier: Apache-2.0
"""A program under construction: values, constants, commands, and the three kinds of layer.

Equal commands on equal values are one command; equal constants one constant. A layer is a quantizer on each 8-bit operand,
the product, and a dequantizer behind it. What this file does not do: walk the graph (`lower.py`) or know aten (`aten.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.blocks import quantize_weight as quantize_weight_blocks
from ditto_cosim.host.compiler.cache import CachePlan
from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.plan import FormatPlan
from ditto_cosim.host.compiler.points import example, name_layers, quantization_points
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError, quantize_weight
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.blocks import FORMATS, BlockFormat
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.isa import Attr, Attrs, DType, TensorSpec
from ditto_cosim.protocol.program import MAX_AXES, Command, When

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


@dataclass(frozen=True, slots=True)
class Complex:
    """A complex number as its two parts."""

    real: Value
    imag: Value


Argument = (
    Value | Probabilities | Complex | torch.Tensor | int | float | bool | None | tuple[Any, ...] | list[Any]
)
"""What an operation of the graph is called with: values of the program, and constants not yet in it."""


Rule = Callable[..., Any]
"""(builder, node, the operation's own arguments) -> values."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of the program and its value's place."""

    tensor: torch.Tensor
    value: Value


class Builder:
    """The values and commands made so far."""

    def __init__(
        self,
        captured: Captured,
        grids: Mapping[str, Grid] | None,
        steps: int,
        plan: CachePlan | None = None,
        formats: FormatPlan | None = None,
    ) -> None:
        self.plan = None if plan is None or plan.cache.idle else plan
        """What increments compute in place of some layers."""
        self.formats = formats
        """Which layers are block-scaled."""
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
        self.makers: dict[int, Command] = {}
        self.by_id: dict[int, Value] = {}
        self.names: dict[str, int] = {}
        self.layers = name_layers(captured)
        self.point_nodes = quantization_points(captured)
        self.folded: set[str] = set()
        """Nodes that a product has taken the place of."""
        self.scope = ""
        """Module of the denoiser that is being lowered."""

    # --- building blocks ------------------------------------------------------------------------------------------------

    def _value(self, spec: TensorSpec, varying: bool) -> Value:
        if len(spec.shape) > MAX_AXES:
            raise LoweringError(
                f"{self.scope or 'the denoiser'}: a tensor of shape {spec.shape} has {len(spec.shape)} axes; the instruction "
                f"set has tensors of up to {MAX_AXES}"
            )
        self.values.append(spec)
        value = Value(len(self.values) - 1, spec, varying)
        self.by_id[value.id] = value
        return value

    def _unique(self, name: str) -> str:
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def emit(self, op: str, *operands: Value, name: str | None = None, **attrs: Attr) -> tuple[Value, ...]:
        """One command, or the results of an equal one that is there already."""
        return self.emit_in("", op, operands, attrs, name)

    def emit_in(
        self,
        when: When,
        op: str,
        operands: tuple[Value, ...],
        attrs: Attrs,
        name: str | None = None,
        into: Value | None = None,
    ) -> tuple[Value, ...]:
        """The same in steps of one class. `into`: the value that steps of the other define otherwise."""
        ids = tuple(v.id for v in operands)
        key = (op, ids, tuple(sorted(attrs.items())), when)
        if into is None and key in self.merged:
            return self.merged[key]
        specs = isa.infer(op, [v.spec for v in operands], attrs)
        varying = any(v.varying for v in operands) or op == "recall"
        results = (into,) if into is not None else tuple(self._value(spec, varying) for spec in specs)
        label = self._unique(name if name is not None else f"{self.scope}/{op}".lstrip("/"))
        command = Command(op, label, ids, tuple(r.id for r in results), attrs, when)
        self.commands.append(command)
        self.makers.update((r.id, command) for r in results)
        if into is None:
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

    def any(self, operand: Argument) -> Value:
        """An operand as a value of whatever type it has."""
        return self.f32(operand) if isinstance(operand, Probabilities) else self.value(operand)

    def f32(self, operand: Argument) -> Value:
        """An operand as numbers."""
        if isinstance(operand, torch.Tensor):
            operand = operand.to(torch.float32)
        if isinstance(operand, Probabilities):
            sums = self.emit("reshape", operand.sums, shape=(*operand.sums.spec.shape, 1))[0]
            return self.emit("div", self.f32(operand.p), self.f32(sums))[0]
        value = self.value(operand)
        return value if value.spec.dtype == "f32" else self.emit("cast", value)[0]

    def complex(self, operand: Argument) -> Complex:
        if isinstance(operand, torch.Tensor) and operand.is_complex():
            return Complex(self.f32(operand.real), self.f32(operand.imag))
        return operand if isinstance(operand, Complex) else Complex(self.f32(operand), self.f32(0.0))

    def scaled(self, x: Value, scale: torch.Tensor, shift: torch.Tensor, *, axis: int) -> Value | None:
        """`x × scale + shift` a channel, by another dequantization if `x` comes straight from one."""
        made = self.makers.get(x.id)
        if made is None or made.op != "dequantize" or made.attrs["axis"] != axis:
            return None
        acc, params, w_scale, *bias = (self.by_id[v] for v in made.operands)
        before = self._tensor(bias[0]).double() if bias else 0.0
        return self.emit(
            "dequantize",
            acc,
            params,
            self.constant((self._tensor(w_scale).double() * scale).float(), f"{self.scope}.weight_scale"),
            self.constant((before * scale + shift).float(), f"{self.scope}.bias"),
            name=f"{made.name}/folded",
            axis=axis,
        )[0]

    def _tensor(self, value: Value) -> torch.Tensor:
        return next(c.tensor for c in self.constants.values() if c.value == value)

    def quantize(self, layer: str, operand: str, x: Argument, axis: int = -1) -> tuple[Value, Value]:
        """A layer's operand on its 8-bit grid; `axis` is that of its channels."""
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
        value = self.f32(x)
        if grid.channels:
            shape = [-1] + [1] * (len(value.spec.shape) - 1 - axis % len(value.spec.shape))
            inverse = self.constant((1 / torch.tensor(grid.channels)).reshape(shape), f"{point}/channels")
            (value,) = self.emit("mul", value, inverse, name=f"{point}/channels")
        q, params = self.emit_in("", "quantize", (value,), self._attrs(point, grid), f"{point}/quantize")
        return q, params

    def _attrs(self, point: str, grid: Grid) -> Attrs:
        """Of a quantizer. Where differences to a full step are taken, its grid may change in full steps alone."""
        attrs = grid.attrs(self.steps)
        if self.plan is None or point.rpartition(":")[0] not in self.plan.layers:
            return attrs
        if grid.policy == "dynamic":
            raise QuantizationError(
                f"{point} has a dynamic scale, which may move between a full step and an increment, and a difference needs one "
                "grid; calibrate it with policy auto, static or clustered"
            )
        period = self.plan.cache.period
        starts = dict(
            zip(
                (round(b / period) * period for b in isa.ints(attrs, "bounds")),
                range(self.steps),
                strict=False,
            )
        )
        kept = list(starts.values())  # of clusters that begin together, the last
        scales, points = attrs["scales"], attrs["zero_points"]
        assert isinstance(scales, tuple)
        assert isinstance(points, tuple)
        return {
            **attrs,
            "scales": tuple(scales[i] for i in kept),
            "zero_points": tuple(points[i] for i in kept),
            "bounds": tuple(starts),
        }

    def _factors(self, point: str, weight: torch.Tensor) -> torch.Tensor | None:
        """What the channels of a layer's input are divided by, and its weights multiplied."""
        grid = None if self.grids is None else self.grids.get(point)
        if grid is None or not grid.channels:
            return None
        if len(grid.channels) != weight.shape[1]:
            raise QuantizationError(
                f"{point} has factors for {len(grid.channels)} channels, the layer has {weight.shape[1]}"
            )
        return torch.tensor(grid.channels)

    # --- layers ---------------------------------------------------------------------------------------------------------

    def linear(self, node: Node, x: Argument, weight: Argument, bias: Argument = None) -> Value:
        layer = self.layers[node.name]
        if (form := self._block_format(layer)) is not None:
            return self._block_scaled(layer, "linear_block", form, x, weight, bias)
        if self.plan is not None and layer in self.plan.layers and self.value(x).varying:
            return self._cached(self.plan, layer, x, weight, bias)
        acc, params, scale = self._weighted(layer, "linear", x, weight)
        return self._dequantize(layer, acc, params, scale, bias, -1)

    def _cached(self, plan: CachePlan, layer: str, x: Argument, weight: Argument, bias: Argument) -> Value:
        """A linear layer in full steps; between them, what it gave in the last one, corrected by its factors."""
        acc, params, scale = self._weighted(layer, "linear", x, weight, when="full")
        y = self._dequantize(layer, acc, params, scale, bias, -1, when="full")
        acc0, params0 = self._anchored(acc), self._anchored(params)
        factors = plan.factors.get(layer)
        if factors is None:
            return self._dequantize(layer, acc0, params0, scale, bias, -1, when="increment", into=y)
        if factors.channels != self._channels(f"{layer}:x"):
            raise QuantizationError(
                f"{layer}: its factors were made for other scales of the operand's channels; make them again with `ditto factor`"
            )
        (q,) = (self.by_id[v] for v in self.makers[acc.id].operands[:1])
        b = self.constant(factors.b, f"{layer}.B.weight")
        if plan.cache.projected:
            (projected,) = self.emit("linear", q, params, b, name=f"{layer}.B")
            products = projected, self._anchored(projected)
            (p,) = self.emit_in("increment", "difference", products, {}, f"{layer}.B/difference")
        else:
            operands = q, params, b, self._anchored(q), params0
            (p,) = self.emit_in("increment", "linear_increment", operands, {}, f"{layer}.B")
        b_scale, a_scale = (
            self.constant(scale, f"{layer}.{name}.weight_scale")
            for name, scale in (("B", factors.b_scale), ("A", factors.a_scale))
        )
        h = self._dequantize(f"{layer}.B", p, params, b_scale, None, -1, when="increment")
        grid = Grid("static", (factors.h_scale(plan.cache.period),), (0,), symmetric=True)
        name = f"{layer}.A:x/quantize"
        qh, ph = self.emit_in("increment", "quantize", (h,), grid.attrs(self.steps), name)
        a = self.constant(factors.a, f"{layer}.A.weight")
        (acc,) = self.emit_in("increment", "linear", (qh, ph, a), {"reference": "zero"}, f"{layer}.A")
        correction = self._dequantize(f"{layer}.A", acc, ph, a_scale, None, -1, when="increment")
        y0 = self._dequantize(layer, acc0, params0, scale, bias, -1, when="increment")  # in the group of A
        return self.emit_in("increment", "add", (y0, correction), {}, f"{layer}/add", y)[0]

    def _anchored(self, value: Value) -> Value:
        """What a value was in the last full step."""
        made = self.makers[value.id]
        slot = (
            made.name if made.results.index(value.id) == 0 else f"{made.name}/{made.results.index(value.id)}"
        )
        self.emit_in("full", "keep", (value,), {"slot": slot}, f"{slot}/keep")
        recalled: Attrs = {"slot": slot, "shape": value.spec.shape, "dtype": value.spec.dtype}
        return self.emit_in("increment", "recall", (), recalled, f"{slot}/recall")[0]

    def _channels(self, point: str) -> tuple[float, ...]:
        grid = None if self.grids is None else self.grids.get(point)
        return () if grid is None else grid.channels

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
        how = isa.Convolution(pair(stride), pair(padding), pair(dilation), groups)
        if (form := self._block_format(layer)) is not None:
            return self._block_scaled(layer, "conv2d_block", form, x, weight, bias, how.attrs())
        acc, params, scale = self._weighted(layer, "conv2d", x, weight, attrs=how.attrs())
        return self._dequantize(layer, acc, params, scale, bias, 1)

    def _block_format(self, layer: str) -> BlockFormat | None:
        return None if self.formats is None else self.formats.layers.get(layer)

    def _block_scaled(
        self,
        layer: str,
        op: str,
        form: BlockFormat,
        x: Argument,
        weight: Argument,
        bias: Argument,
        attrs: Attrs | None = None,
    ) -> Value:
        """A layer on block-scaled operands, from numbers to numbers."""
        if not isinstance(weight, torch.Tensor):
            raise LoweringError(
                f"{layer}: its weights are computed, not parameters; {op} needs constant weights"
            )
        assert self.formats is not None
        value = self.f32(x)
        rank = len(value.spec.shape)
        axis = 1 if op == "conv2d_block" else rank - 1
        how: dict[str, Attr] = {"format": form, "block": self.formats.block}
        codes, scales, params = self.emit(
            "quantize_block", value, name=f"{layer}:x/quantize", axis=axis, **how
        )
        held = quantize_weight_blocks(weight, FORMATS[form].weights, self.formats.block)
        w, w_scales, w_t = (
            self.constant(tensor, f"{layer}.{name}")
            for tensor, name in zip(held, ("weight", "weight_blocks", "weight_scale"), strict=True)
        )
        (acc,) = self.emit(op, codes, scales, w, w_scales, name=layer, **how, **(attrs or {}))
        operands = [acc, params, w_t]
        if isinstance(bias, torch.Tensor):
            operands.append(self.constant(bias.to(torch.float32), f"{layer}.bias"))
        return self.emit("dequantize_block", *operands, name=f"{layer}/dequantize", axis=axis)[0]

    def _weighted(
        self,
        layer: str,
        op: str,
        x: Argument,
        weight: Argument,
        operand: str = "x",
        attrs: Attrs | None = None,
        when: When = "",
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
        axis = 1 if op == "conv2d" else -1
        channels = self._factors(f"{layer}:{operand}", weight)
        if channels is not None:
            weight = weight.to(torch.float32) * channels.reshape(1, -1, *[1] * (weight.ndim - 2))
        try:
            q_weight, w_scale = quantize_weight(weight, self.captured.weight_scales.get(layer))
        except QuantizationError as error:
            raise QuantizationError(f"{layer}: {error}") from None
        q, params = self.quantize(layer, operand, x, axis)
        w = self.constant(q_weight, f"{layer}.weight")
        (acc,) = self.emit_in(when, op, (q, params, w), attrs or {}, layer)
        return acc, params, self.constant(w_scale, f"{layer}.weight_scale")

    def _dequantize(
        self,
        layer: str,
        acc: Value,
        params: Value,
        scale: Value,
        bias: Argument,
        axis: int,
        when: When = "",
        into: Value | None = None,
    ) -> Value:
        operands = [acc, params, scale]
        if isinstance(bias, torch.Tensor):
            operands.append(self.constant(bias.to(torch.float32), f"{layer}.bias"))
        name = f"{layer}/dequantize"
        return self.emit_in(when, "dequantize", tuple(operands), {"axis": axis}, name, into)[0]

    def matmul(self, node: Node, a: Argument, b: Argument) -> Argument:
        shape = tuple(example(node).shape)
        if node.name not in self.layers:  # one term a sum: a product of elements
            return self._reshaped(self.emit("mul", self.f32(a), self._row(self.f32(b)))[0], shape)
        layer = self.layers[node.name]
        if isinstance(b, torch.Tensor) and b.dim() == 2:
            return self._reshaped(self._by_parameter(layer, "a", self.f32(a), b.t(), node), shape)
        if isinstance(a, torch.Tensor) and a.dim() == 2:
            turned = self._by_parameter(layer, "b", self._turned(self.f32(b)), a, node)
            return self._reshaped(self._turned(turned), shape)
        b_value = self.f32(b)
        if len(b_value.spec.shape) == 1:
            b_value = self._reshaped(b_value, (*b_value.spec.shape, 1))
        lead = a.p.spec.shape if isinstance(a, Probabilities) else self.f32(a).spec.shape
        batch = isa.broadcast_shape(lead[:-2], b_value.spec.shape[:-2]) or (1,)
        b_value = self._stretched(b_value, (*batch, *b_value.spec.shape[-2:]))
        if isinstance(a, Probabilities):
            p = self._stretched(a.p, (*batch, *a.p.spec.shape[-2:]))
            sums = self._stretched(a.sums, (*batch, a.sums.spec.shape[-1]))
            q, params = self.quantize(layer, "b", b_value)
            one = self.constant(torch.tensor([1.0, 0.0]), "params of probabilities")
            (acc,) = self.emit("matmul", p, one, q, params, name=layer, static_b=not b_value.varying)
            (y,) = self.emit("dequantize_attention", acc, sums, params, name=f"{layer}/dequantize")
            return self._reshaped(y, shape)
        a_value = self.f32(a)
        if len(a_value.spec.shape) == 1:
            a_value = self._reshaped(a_value, (1, *a_value.spec.shape))
        a_value = self._stretched(a_value, (*batch, *a_value.spec.shape[-2:]))
        qa, pa = self.quantize(layer, "a", a_value)
        qb, pb = self.quantize(layer, "b", b_value)
        (acc,) = self.emit("matmul", qa, pa, qb, pb, name=layer, static_b=not b_value.varying)
        factor = self._fold_factor(node)
        (y,) = self.emit("dequantize_matmul", acc, pa, pb, name=f"{layer}/dequantize", factor=factor)
        return self._reshaped(y, shape)

    def _by_parameter(self, layer: str, operand: str, x: Value, weight: torch.Tensor, node: Node) -> Value:
        """A product with a matrix of parameters is a linear layer."""
        acc, params, scale = self._weighted(layer, "linear", x, weight, operand)
        return self._dequantize(layer, acc, params, scale, None, -1)

    def _reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        return x if x.spec.shape == shape else self.emit("reshape", x, shape=shape)[0]

    def _stretched(self, x: Value, shape: tuple[int, ...]) -> Value:
        return x if x.spec.shape == shape else self.emit("broadcast", x, shape=shape)[0]

    def _turned(self, x: Value) -> Value:
        rank = len(x.spec.shape)
        if rank < 2:
            return x
        return self.emit("permute", x, order=(*range(rank - 2), rank - 1, rank - 2))[0]

    def _row(self, x: Value) -> Value:
        return self._reshaped(x, (1,)) if len(x.spec.shape) == 1 else x

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
