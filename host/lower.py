"""Graph -> program: what each captured operation means to the accelerator.

Every conv2d, linear and attention product becomes a layer on 8-bit operands with a quantizer before and a dequantizer
behind it; the rest becomes vector and move commands. Operations on constants are folded, equal commands merged, and
Defo's static analysis marks where difference calculation and summation can be left out. An operation that the
instruction set does not have is refused by name, with the module it came from.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch.fx import Node

from ditto_cosim.host.capture import Captured
from ditto_cosim.host.quantize import Grid, QuantizationError, quantize_weight
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.isa import Attr, DType, TensorSpec
from ditto_cosim.protocol.program import Command, Program

_DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "f32",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}
_LINEAR_OPS = frozenset({"dequantize", "dequantize_matmul", "dequantize_attention", "quantize", "add", "sub"})
"""Commands through which a difference passes as a difference."""

LAYER_TARGETS = {"aten.conv2d.default", "aten.linear.default", "aten.matmul.default", "aten.bmm.default"}


class LoweringError(ValueError):
    """An operation that cannot run on the accelerator; the message names it, its module, and what to do."""


@dataclass(frozen=True)
class Lowered:
    """A program with the constants it needs, by name."""

    program: Program
    constants: Mapping[str, torch.Tensor]
    points: Mapping[str, str]
    """Quantization point (`layer:operand`) -> graph node that it quantizes."""


def _path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    name = str(next(reversed(stack.values()))[0]) if stack else ""
    return name.removeprefix("inner.").removeprefix("inner")


def name_layers(captured: Captured) -> dict[str, str]:
    """Graph node -> layer name, for every node that becomes a layer. Names follow the denoiser's modules."""
    names: dict[str, str] = {}
    taken: dict[str, int] = {}
    softmaxed = _softmax_results(captured)
    for node in captured.module.graph.nodes:
        if node.op != "call_function" or str(node.target) not in LAYER_TARGETS:
            continue
        name = _path(node) or node.name
        if "matmul" in str(node.target) or "bmm" in str(node.target):
            name += ".pv" if node.args[0].name in softmaxed else ".qk"
        taken[name] = taken.get(name, 0) + 1
        names[node.name] = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return names


def _softmax_results(captured: Captured) -> set[str]:
    found: set[str] = set()
    for node in captured.module.graph.nodes:
        target = str(node.target)
        is_alias = target in _ALIASES and isinstance(node.args[0], Node) and node.args[0].name in found
        if target.startswith(("aten.softmax", "aten._softmax")) or is_alias:
            found.add(node.name)
    return found


def quantization_points(captured: Captured) -> dict[str, tuple[str, bool]]:
    """Point (`layer:operand`) -> (graph node, symmetric), for every tensor that calibration must see."""
    points: dict[str, tuple[str, bool]] = {}
    softmaxed = _softmax_results(captured)
    nodes = {n.name: n for n in captured.module.graph.nodes}
    for node_name, layer in name_layers(captured).items():
        node = nodes[node_name]
        if "matmul" in str(node.target) or "bmm" in str(node.target):
            for operand, argument in zip("ab", node.args[:2], strict=True):
                assert isinstance(argument, Node)
                if argument.name not in softmaxed:
                    points[f"{layer}:{operand}"] = (argument.name, True)
        else:
            assert isinstance(node.args[0], Node)
            points[f"{layer}:x"] = (node.args[0].name, False)
    return points


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of the program under construction."""

    id: int
    spec: TensorSpec
    varying: bool
    """Whether it depends on an input that changes between steps."""


@dataclass(frozen=True, slots=True)
class _Probabilities:
    """A softmax's two results, on their way to the product that consumes them."""

    p: _Value
    sums: _Value


Operand = _Value | _Probabilities | torch.Tensor | int | float | bool | None | tuple[Any, ...] | list[Any]


class Lowering:
    """One pass over the graph."""

    def __init__(self, captured: Captured, grids: Mapping[str, Grid] | None, steps: int) -> None:
        self.captured = captured
        self.grids = grids
        self.steps = steps
        self.values: list[TensorSpec] = []
        self.commands: list[Command] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.constant_values: dict[str, _Value] = {}
        self.input_values: dict[str, _Value] = {}
        self.merged: dict[Any, tuple[_Value, ...]] = {}
        self.names: dict[str, int] = {}
        self.layers = name_layers(captured)
        self.point_nodes = quantization_points(captured)
        self.env: dict[str, Any] = {}
        self.scope = ""

    # --- building blocks ------------------------------------------------------------------------------------------------

    def _value(self, spec: TensorSpec, varying: bool) -> _Value:
        self.values.append(spec)
        return _Value(len(self.values) - 1, spec, varying)

    def _unique(self, name: str) -> str:
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def emit(self, op: str, *operands: _Value, name: str | None = None, **attrs: Attr) -> tuple[_Value, ...]:
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

    def constant(self, tensor: torch.Tensor, name: str) -> _Value:
        """A constant of the program; equal ones share a value."""
        if tensor.dtype not in _DTYPES:
            tensor = tensor.to(torch.int64 if not tensor.dtype.is_floating_point else torch.float32)
        tensor = tensor.detach().contiguous()
        key = name if tensor.device.type == "meta" else _fingerprint(tensor)
        if key not in self.constant_values:
            name = self._unique(name)
            value = self._value(TensorSpec(tuple(tensor.shape), _DTYPES[tensor.dtype]), False)
            self.constants[name] = tensor
            self.constant_values[key] = value
            self.input_values[f"constant {name}"] = value
        return self.constant_values[key]

    def value(self, operand: Operand, name: str = "constant") -> _Value:
        """An operand as a value of the program."""
        if isinstance(operand, _Value):
            return operand
        if isinstance(operand, torch.Tensor):
            return self.constant(operand, f"{self.scope}/{name}".lstrip("/"))
        if isinstance(operand, int | float):
            return self.constant(torch.tensor(float(operand), dtype=torch.float32), f"{float(operand)!r}")
        raise LoweringError(f"{self.scope}: {operand!r} cannot be an operand")

    def f32(self, operand: Operand) -> _Value:
        if isinstance(operand, torch.Tensor):
            operand = operand.to(torch.float32)
        value = self.value(operand)
        return self.emit("cast", value)[0] if value.spec.dtype == "i64" else value

    def quantize(self, layer: str, operand: str, x: Operand) -> tuple[_Value, _Value]:
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

    def linear(self, node: Node, x: Operand, weight: Operand, bias: Operand = None) -> _Value:
        layer = self.layers[node.name]
        acc, params, scale = self._weighted(layer, "linear", x, weight)
        return self._dequantize(layer, acc, params, scale, bias, -1)

    def conv2d(
        self,
        node: Node,
        x: Operand,
        weight: Operand,
        bias: Operand = None,
        stride: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> _Value:
        layer = self.layers[node.name]
        if groups != 1 or tuple(dilation) not in ((1, 1), (1,)):
            raise LoweringError(
                f"{layer}: conv2d with groups = {groups}, dilation = {dilation} is not supported"
            )
        pair = {"stride": _pair(stride), "padding": _pair(padding)}
        acc, params, scale = self._weighted(layer, "conv2d", x, weight, **pair)
        return self._dequantize(layer, acc, params, scale, bias, 1)

    def _weighted(
        self, layer: str, op: str, x: Operand, weight: Operand, **attrs: Attr
    ) -> tuple[_Value, _Value, _Value]:
        if not isinstance(weight, torch.Tensor):
            raise LoweringError(
                f"{layer}: its weights are computed, not parameters; {op} needs constant weights"
            )
        reduction = weight[0].numel()
        if reduction > isa.K_EXACT:
            raise LoweringError(
                f"{layer}: K = {reduction} could overflow 32 bits; the longest exact K is {isa.K_EXACT}"
            )
        q_weight, w_scale = quantize_weight(weight)
        q, params = self.quantize(layer, "x", x)
        w = self.constant(q_weight, f"{layer}.weight")
        (acc,) = self.emit(op, q, params, w, name=layer, **attrs)
        return acc, params, self.constant(w_scale, f"{layer}.weight_scale")

    def _dequantize(
        self, layer: str, acc: _Value, params: _Value, scale: _Value, bias: Operand, axis: int
    ) -> _Value:
        operands = [acc, params, scale]
        if isinstance(bias, torch.Tensor):
            operands.append(self.constant(bias.to(torch.float32), f"{layer}.bias"))
        return self.emit("dequantize", *operands, name=f"{layer}/dequantize", axis=axis)[0]

    def matmul(self, node: Node, a: Operand, b: Operand) -> Operand:
        layer = self.layers[node.name]
        b_value = self.f32(b)
        if isinstance(a, _Probabilities):
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

    folded: set[str]

    # --- the pass -------------------------------------------------------------------------------------------------------

    def run(self) -> Lowered:
        self.folded = set()
        graph = self.captured.module.graph
        output: _Value | None = None
        for node in graph.nodes:
            self.scope = _path(node)
            if node.op == "placeholder":
                self.env[node.name] = self._placeholder(node)
            elif node.op == "call_function":
                self.env[node.name] = self._call(node)
            elif node.op == "output":
                (result,) = node.args[0]
                output = self.value(self.env[result.name], "output")
            else:
                raise LoweringError(f"{node.op} {node.target} in the captured graph is not supported")
        assert output is not None
        constants = {
            n.removeprefix("constant "): v for n, v in self.input_values.items() if n.startswith("constant ")
        }
        inputs = {n: v.id for n, v in self.input_values.items() if not n.startswith("constant ")}
        program = Program(
            values=tuple(self.values),
            inputs=inputs,
            static_inputs=self.captured.static_inputs,
            constants={n: v.id for n, v in constants.items()},
            outputs={"sample": output.id},
            commands=tuple(self.commands),
        )
        program = _prune(program)
        difference, summation = _static_analysis(program)
        program = replace(program, skip_difference=difference, skip_summation=summation)
        program.validate()
        used = program.constants.keys()
        return Lowered(
            program,
            {n: t for n, t in self.constants.items() if n in used},
            {p: n for p, (n, _) in self.point_nodes.items()},
        )

    def _placeholder(self, node: Node) -> Operand:
        if node.name in self.captured.parameters:
            return self.captured.parameters[node.name]
        name = self.captured.placeholders[node.name]
        example = self.captured.example[name]
        dtype = _DTYPES.get(example.dtype)
        if dtype not in ("f32", "i64"):
            raise LoweringError(f"input {name!r} is {example.dtype}; expected float32 or int64")
        value = self._value(TensorSpec(tuple(example.shape), dtype), name not in self.captured.static_inputs)
        self.input_values[name] = value
        return value

    def _call(self, node: Node) -> Any:
        if node.name in self.folded:
            return self._resolve(node.args[0])
        args = [self._resolve(a) for a in node.args]
        kwargs = {k: self._resolve(v) for k, v in node.kwargs.items()}
        target = str(node.target)
        if target.startswith(("aten._assert", "aten.sym_")):
            return None
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(v, _Value | _Probabilities) for v in _leaves((args, kwargs))):
            with torch.no_grad():
                return node.target(*args, **kwargs)  # type: ignore[operator]  # an aten operator on constants
        rule = _RULES.get(target)
        if rule is None:
            raise LoweringError(
                f"{target} (in module {self.scope or 'top level'!r}, node {node.name!r}) is not in the instruction set; "
                f"known operations: {', '.join(sorted(_RULES))}"
            )
        try:
            return rule(self, node, *args, **kwargs)
        except TypeError as error:
            raise LoweringError(
                f"{target} in module {self.scope!r}: unsupported arguments ({error})"
            ) from error

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self.env[argument.name]
        if isinstance(argument, list | tuple):
            return type(argument)(self._resolve(a) for a in argument)
        return argument


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for v in tree.values() for leaf in _leaves(v)]
    if isinstance(tree, list | tuple):
        return [leaf for v in tree for leaf in _leaves(v)]
    return [tree]


def _fingerprint(tensor: torch.Tensor) -> str:
    digest = hashlib.blake2b(tensor.numpy().tobytes(), digest_size=16).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {digest}"


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def _axis(axis: int, rank: int) -> int:
    return axis % rank


# --- rules: one aten operation each -------------------------------------------------------------------------------------

Rule = Callable[..., Any]


def _alias(low: Lowering, node: Node, x: Operand, *_: Any, **__: Any) -> Operand:
    return x


def _to_copy(
    low: Lowering, node: Node, x: _Value, *_: Any, dtype: torch.dtype | None = None, **__: Any
) -> _Value:
    if dtype in (None, torch.float32):
        return low.f32(x) if dtype is not None else x
    if dtype is not None and _DTYPES.get(dtype) == x.spec.dtype:
        return x
    raise LoweringError(f"{low.scope}: conversion of {x.spec} to {dtype} is not supported")


def _is_ones(operand: Operand) -> TypeGuard[torch.Tensor]:
    if not isinstance(operand, torch.Tensor) or operand.dtype != torch.int64:
        return False
    return operand.is_meta or bool((operand == 1).all())


def _binary(op: str) -> Rule:
    def rule(low: Lowering, node: Node, a: Operand, b: Operand, *, alpha: float = 1) -> Operand:
        if alpha != 1:
            raise LoweringError(f"{low.scope}: {op} with alpha = {alpha} is not supported")
        neutral = 0 if op in ("add", "sub") else 1
        if isinstance(a, _Value) and isinstance(b, int | float) and b == neutral:
            return a
        if (
            op == "mul" and isinstance(a, _Value) and a.spec.dtype == "i64" and _is_ones(b)
        ):  # timesteps * ones(batch)
            return low.emit("broadcast", a, shape=isa.broadcast_shape(a.spec.shape, tuple(b.shape)))[0]
        return low.emit(op, low.f32(a), low.f32(b))[0]

    return rule


def _unary(op: str) -> Rule:
    def rule(low: Lowering, node: Node, x: Operand) -> _Value:
        return low.emit(op, low.f32(x))[0]

    return rule


def _gelu(low: Lowering, node: Node, x: Operand, *, approximate: str = "none") -> _Value:
    return low.emit("gelu", low.f32(x), tanh=approximate == "tanh")[0]


def _neg(low: Lowering, node: Node, x: Operand) -> _Value:
    return low.emit("mul", low.f32(x), low.value(-1.0))[0]


def _group_norm(
    low: Lowering,
    node: Node,
    x: _Value,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> _Value:
    extra = _affine(low, weight, bias, x.spec.shape[1])
    return low.emit("group_norm", x, *extra, groups=groups, eps=float(eps))[0]


def _layer_norm(
    low: Lowering,
    node: Node,
    x: _Value,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> _Value:
    if len(shape) != 1:
        raise LoweringError(
            f"{low.scope}: layer_norm over {len(shape)} axes is not supported, expected the last one"
        )
    return low.emit("layer_norm", x, *_affine(low, weight, bias, shape[0]), eps=float(eps))[0]


def _affine(low: Lowering, weight: Any, bias: Any, size: int) -> list[_Value]:
    if weight is None and bias is None:
        return []
    gamma = low.constant(
        torch.ones(size) if weight is None else weight.to(torch.float32), f"{low.scope}.gamma"
    )
    return [gamma] if bias is None else [gamma, low.constant(bias.to(torch.float32), f"{low.scope}.beta")]


def _softmax(low: Lowering, node: Node, x: Operand, dim: int, *_: Any) -> _Probabilities:
    value = low.f32(x)
    if _axis(dim, len(value.spec.shape)) != len(value.spec.shape) - 1:
        raise LoweringError(f"{low.scope}: softmax over axis {dim} is not supported, expected the last one")
    p, sums = low.emit("softmax", value)
    return _Probabilities(p, sums)


def _reshape_to(low: Lowering, x: _Value, shape: tuple[int, ...]) -> _Value:
    return x if shape == x.spec.shape else low.emit("reshape", x, shape=shape)[0]


def _view(low: Lowering, node: Node, x: Operand, *_: Any, **__: Any) -> Operand:
    shape = tuple(node.meta["val"].shape)
    if isinstance(x, _Probabilities):
        return _Probabilities(_reshape_to(low, x.p, shape), _reshape_to(low, x.sums, shape[:-1]))
    return _reshape_to(low, low.value(x), shape)


def _permute(low: Lowering, node: Node, x: _Value, order: Any) -> _Value:
    rank = len(x.spec.shape)
    order = tuple(_axis(i, rank) for i in order)
    return x if order == tuple(range(rank)) else low.emit("permute", x, order=order)[0]


def _transpose(low: Lowering, node: Node, x: _Value, a: int, b: int) -> _Value:
    order = list(range(len(x.spec.shape)))
    order[a], order[b] = order[b], order[a]
    return _permute(low, node, x, order)


def _concat(low: Lowering, node: Node, parts: Any, dim: int = 0) -> _Value:
    values = [low.f32(p) for p in parts]
    return low.emit("concat", *values, axis=_axis(dim, len(values[0].spec.shape)))[0]


def _pad(
    low: Lowering, node: Node, x: Operand, pad: Any, mode: str = "constant", value: float | None = None
) -> _Value:
    if mode != "constant" or min(pad) < 0:
        raise LoweringError(f"{low.scope}: padding of mode {mode!r} by {tuple(pad)} is not supported")
    padded = low.f32(x)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        at = len(padded.spec.shape) - 1 - axis
        sides = []
        for count in (before, after):
            shape = (*padded.spec.shape[:at], count, *padded.spec.shape[at + 1 :])
            sides.append(
                [low.constant(torch.full(shape, float(value or 0)), f"{low.scope}.padding")] if count else []
            )
        if before or after:
            padded = low.emit("concat", *sides[0], padded, *sides[1], axis=at)[0]
    return padded


def _slice(
    low: Lowering,
    node: Node,
    x: _Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> _Value:
    axis = _axis(dim, len(x.spec.shape))
    first, last, stride = slice(start, end, step).indices(x.spec.shape[axis])
    if (first, last, stride) == (0, x.spec.shape[axis], 1):
        return x
    return low.emit("slice", x, axis=axis, start=first, stop=last, step=stride)[0]


def _select(low: Lowering, node: Node, x: _Value, dim: int, index: int) -> _Value:
    axis = _axis(dim, len(x.spec.shape))
    start = index % x.spec.shape[axis]
    part = low.emit("slice", x, axis=axis, start=start, stop=start + 1, step=1)[0]
    return _reshape_to(low, part, tuple(d for i, d in enumerate(x.spec.shape) if i != axis))


def _split(low: Lowering, node: Node, x: _Value, size: Any, dim: int = 0) -> tuple[_Value, ...]:
    length = x.spec.shape[_axis(dim, len(x.spec.shape))]
    sizes = (
        [size] * (length // size) + ([length % size] if length % size else [])
        if isinstance(size, int)
        else size
    )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(_slice(low, node, x, dim, s, s + n) for s, n in zip(starts, sizes, strict=True))


def _chunk(low: Lowering, node: Node, x: _Value, chunks: int, dim: int = 0) -> tuple[_Value, ...]:
    return _split(low, node, x, -(-x.spec.shape[_axis(dim, len(x.spec.shape))] // chunks), dim)


def _expand(low: Lowering, node: Node, x: _Value, *_: Any, **__: Any) -> _Value:
    shape = tuple(node.meta["val"].shape)
    return x if shape == x.spec.shape else low.emit("broadcast", x, shape=shape)[0]


def _repeat_interleave(low: Lowering, node: Node, x: _Value, repeats: int, dim: int, **__: Any) -> _Value:
    shape, axis = x.spec.shape, _axis(dim, len(x.spec.shape))
    wide = _reshape_to(low, x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    stretched = low.emit("broadcast", wide, shape=(*shape[: axis + 1], repeats, *shape[axis + 1 :]))[0]
    return _reshape_to(low, stretched, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


def _upsample(low: Lowering, node: Node, x: _Value, *_: Any, **__: Any) -> _Value:
    target = tuple(node.meta["val"].shape)
    fh, fw = target[2] // x.spec.shape[2], target[3] // x.spec.shape[3]
    if (x.spec.shape[2] * fh, x.spec.shape[3] * fw) != target[2:]:
        raise LoweringError(f"{low.scope}: upsampling {x.spec} to {target} is not a whole multiple")
    return low.emit("upsample_nearest", x, factor=(fh, fw))[0]


def _avg_pool(
    low: Lowering,
    node: Node,
    x: Operand,
    kernel: Any,
    stride: Any = None,
    padding: Any = (0, 0),
    *_: Any,
    **__: Any,
) -> _Value:
    (kh, kw), padded = _pair(kernel), tuple(_pair(padding))
    if padded != (0, 0) or tuple(_pair(stride or kernel)) != (kh, kw):
        raise LoweringError(
            f"{low.scope}: average pooling with stride {stride} and padding {padded} is not supported"
        )
    value = low.f32(x)
    rows, columns = (size // k * k for size, k in zip(value.spec.shape[-2:], (kh, kw), strict=True))
    rank, total = len(value.spec.shape), None
    for i in range(kh):
        line = low.emit("slice", value, axis=rank - 2, start=i, stop=rows, step=kh)[0]
        for j in range(kw):
            part = low.emit("slice", line, axis=rank - 1, start=j, stop=columns, step=kw)[0]
            total = part if total is None else low.emit("add", total, part)[0]
    assert total is not None, "a kernel has at least one element"
    return low.emit("mul", total, low.f32(1 / (kh * kw)))[0]


def _embedding(low: Lowering, node: Node, table: Operand, index: Operand, *_: Any, **__: Any) -> _Value:
    return low.emit("gather", low.f32(table), low.value(index))[0]


def _einsum(low: Lowering, node: Node, equation: str, operands: Any, **__: Any) -> _Value:
    left, _, right = equation.replace(" ", "").partition("->")
    if len(operands) != 1 or sorted(left) != sorted(right) or len(set(left)) != len(left):
        raise LoweringError(f"{low.scope}: einsum {equation!r} is more than a reordering of axes")
    return _permute(low, node, operands[0], [left.index(c) for c in right])


_ALIASES = {
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.dropout.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
    "aten.detach_.default",
}
_RULES: dict[str, Rule] = {
    "aten.conv2d.default": Lowering.conv2d,
    "aten.linear.default": Lowering.linear,
    "aten.matmul.default": Lowering.matmul,
    "aten.bmm.default": Lowering.matmul,
    "aten._to_copy.default": _to_copy,
    "aten.to.dtype": lambda low, node, x, dtype, *_, **__: _to_copy(low, node, x, dtype=dtype),
    "aten.add.Tensor": _binary("add"),
    "aten.sub.Tensor": _binary("sub"),
    "aten.mul.Tensor": _binary("mul"),
    "aten.mul.Scalar": _binary("mul"),
    "aten.div.Tensor": _binary("div"),
    "aten.div.Scalar": _binary("div"),
    "aten.neg.default": _neg,
    "aten.silu.default": _unary("silu"),
    "aten.sigmoid.default": _unary("sigmoid"),
    "aten.tanh.default": _unary("tanh"),
    "aten.relu.default": _unary("relu"),
    "aten.exp.default": _unary("exp"),
    "aten.sin.default": _unary("sin"),
    "aten.cos.default": _unary("cos"),
    "aten.gelu.default": _gelu,
    "aten.group_norm.default": _group_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.view.default": _view,
    "aten._unsafe_view.default": _view,
    "aten.reshape.default": _view,
    "aten.flatten.using_ints": _view,
    "aten.unflatten.int": _view,
    "aten.unsqueeze.default": _view,
    "aten.squeeze.dim": _view,
    "aten.squeeze.dims": _view,
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.cat.default": _concat,
    "aten.pad.default": _pad,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _chunk,
    "aten.expand.default": _expand,
    "aten.repeat_interleave.self_int": _repeat_interleave,
    "aten.upsample_nearest2d.vec": _upsample,
    "aten.upsample_nearest2d.default": _upsample,
    "aten.avg_pool2d.default": _avg_pool,
    "aten.embedding.default": _embedding,
    "aten.einsum.default": _einsum,
    **dict.fromkeys(_ALIASES, _alias),
}


# --- passes over the finished program -----------------------------------------------------------------------------------


def _prune(program: Program) -> Program:
    """Without commands and constants that no output needs, and with values numbered in order of definition."""
    needed = set(program.outputs.values())
    kept: list[Command] = []
    for command in reversed(program.commands):
        if needed & set(command.results):
            kept.append(command)
            needed |= set(command.operands)
    kept.reverse()
    constants = {n: v for n, v in program.constants.items() if v in needed}
    order = [*program.inputs.values(), *constants.values(), *(r for c in kept for r in c.results)]
    number = {old: new for new, old in enumerate(order)}
    return Program(
        values=tuple(program.values[v] for v in order),
        inputs={n: number[v] for n, v in program.inputs.items()},
        static_inputs=program.static_inputs,
        constants={n: number[v] for n, v in constants.items()},
        outputs={n: number[v] for n, v in program.outputs.items()},
        commands=tuple(
            replace(
                c, operands=tuple(number[v] for v in c.operands), results=tuple(number[v] for v in c.results)
            )
            for c in kept
        ),
    )


def _static_analysis(program: Program) -> tuple[frozenset[str], frozenset[str]]:
    """Layers that skip difference calculation, and layers that skip summation.

    Defo at lowering: between two layers with nothing non-linear in between, differences need no detour.

    A layer skips difference calculation if every path back from its operands reaches layers through linear commands
    only, and skips summation if every path forward from its result does.
    """
    producer = {r: c for c in program.commands for r in c.results}
    constants = set(program.constants.values())

    def data_operands(command: Command) -> list[int]:
        """Operands that carry activations: no scales, weights or other constants."""
        forms = [name.rstrip("?*").partition(":")[0] for name in isa.ISA[command.op].operands]
        named = zip(command.operands, forms + forms[-1:] * len(command.operands), strict=False)
        return [v for v, name in named if not name.startswith("params") and v not in constants]

    consumers: dict[int, list[Command]] = {}
    for command in program.commands:
        for value in data_operands(command):
            consumers.setdefault(value, []).append(command)
    outputs = set(program.outputs.values())

    def is_linear(command: Command) -> bool:
        if command.op in _LINEAR_OPS or isa.ISA[command.op].kind == "move":
            return True
        return (command.op == "mul" and len(data_operands(command)) == 1) or (
            command.op == "div" and command.operands[1] in constants
        )

    backward: dict[int, bool] = {}

    def reaches_layers_back(value: int) -> bool:
        if value not in backward:
            command = producer.get(value)
            if command is None:
                backward[value] = value in constants
            elif command.is_layer:
                backward[value] = True
            else:
                backward[value] = is_linear(command) and all(map(reaches_layers_back, data_operands(command)))
        return backward[value]

    forward: dict[int, bool] = {}

    def reaches_layers_forward(value: int) -> bool:
        if value not in forward:
            forward[value] = value not in outputs and all(
                c.is_layer or (is_linear(c) and reaches_layers_forward(c.results[0]))
                for c in consumers.get(value, [])
            )
        return forward[value]

    return (
        frozenset(c.name for c in program.layers if all(map(reaches_layers_back, data_operands(c)))),
        frozenset(c.name for c in program.layers if reaches_layers_forward(c.results[0])),
    )


def lower(captured: Captured, grids: Mapping[str, Grid] | None, *, steps: int = 50) -> Lowered:
    """The program of a captured denoiser. `grids = None` gives unit scales: right in shape, for counting only."""
    return Lowering(captured, grids, steps).run()
