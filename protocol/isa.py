# SPDX-License-Identifier: Apache-2.0
"""The instruction set, specified to the bit: every command the device executes.

Each command has a form: operand and result types, attributes, a shape rule, and the exact arithmetic in words. Host and
device each implement this text; neither implementation lives here (no kernels), and they share none.

Arithmetic conventions, which hold for every command:
  * f32 is IEEE-754 binary32, f64 binary64; `+ − × ÷ √` are each rounded once, half to even, in the order written;
    products and sums are never contracted (no FMA). i32 wraps modulo 2³². `rint` rounds half to even.
  * `f32(v)` is the nearest binary32. Constants are decimal texts of binary32 values unless marked f64.
  * Reductions are over exact integers, so their order cannot matter.
  * Zeros compare equal: the sign of a zero result is not specified and no comparison looks at it.
  * A command that meets NaN or infinity where it quantizes or reduces is refused with its name (`errors.NonFiniteError`).
  * Attributes that are floats are used as f32(attribute), except eps (f64).

Shared functions, by name in the texts below:

  exp32(x)   x ← min(max(x, −87), 88); n = rint(x × 1.44269504); r = (x − n × 0.693359375) − n × −2.12194440e-4
             p = ((((1.98756915e-4 × r + 1.39819995e-3) × r + 8.33345205e-3) × r + 4.16657962e-2) × r + 1.66666657e-1) × r
                 + 5.00000012e-1
             exp32 = ((p × (r × r) + r) + 1) × 2ⁿ                                              all f32; error ≤ 2 ulp
  sigmoid32(x) = 1 ÷ (1 + exp32(−x))
  trig(x)    in f64: k = rint(x × 0.63661977236758134); r = (x − k × 1.57079632673412561417) − k × 6.07710050650619224932e-11;
             z = r × r
             s = ((((((1.58962301576546568e-10 × z − 2.50507477628578072e-8) × z + 2.75573136213857245e-6) × z
                 − 1.98412698295895385e-4) × z + 8.33333333332211858e-3) × z − 1.66666666666666307e-1) × z) × r + r
             c = (((((((−1.13585365213876817e-11 × z + 2.08757008419747316e-9) × z − 2.75573141792967388e-7) × z
                 + 2.48015872888517045e-5) × z − 1.38888888888730564e-3) × z + 4.16666666666665929e-2) × z) − 0.5) × z + 1
             sin by k mod 4 = 0,1,2,3: s, c, −s, −c; cos: c, −s, −c, s; then f32.              error ≤ 1 ulp; |x| > 2²⁰ is refused
  log32(x)   x = m × 2ᵏ with √½ ≤ m < √2 (√½ = 0.707106769): t = m − 1; z = t × t
             p = ((((((((7.03768358e-2 × t − 1.15146101e-1) × t + 1.16769984e-1) × t − 1.24201410e-1) × t + 1.42493233e-1) × t
                 − 1.66680574e-1) × t + 2.00007141e-1) × t − 2.49999940e-1) × t + 3.33333313e-1)
             y = ((t × z) × p + k × −2.12194440e-4) − 0.5 × z; log32 = (t + y) + k × 0.693359375        all f32; error ≤ 1 ulp or
             1e-7; log32(0) = −∞, log32(∞) = ∞; a negative number and NaN are refused
  moments(v) of n values: a = max|v|; refuse if not finite; with a = m·2ᵉ, ½ ≤ m < 1 (e = 0 if a = 0):
             q = rint of the exact product v × 2^(15−e) (|q| ≤ 2¹⁵); S₁ = Σq, S₂ = Σq² exact integers; n ≤ 2²³;
             in f64: μ = S₁ ÷ n; d = S₂ ÷ n − μ × μ; var = max(d, 0) × 2^(2e−30); mean = f32(μ × 2^(e−15))
             rstd = f32(1 ÷ √(var + eps))                                                       relative error ≤ 2⁻¹⁴
             rrms = f32(1 ÷ √(S₂ ÷ n × 2^(2e−30) + eps))
  total(v) of n ≤ 2²³ values: e as in moments; q = rint of the exact product v × 2^(30−e); S = Σq, an exact integer;
             total = f32(S × 2^(e−30))                                                  error ≤ n × 2⁻³¹ × max|v|, and 1 rounding
  e4m3(v)    the number of OCP's FP8 E4M3 nearest to v ≥ 0, half to even, as an integer S in units of 2⁻⁹; S ≤ 229,376
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ditto_cosim.protocol import blocks
from ditto_cosim.protocol.errors import IsaError

DType = Literal["f32", "i8", "i32", "i64"]
ITEM_BYTES: dict[DType, int] = {"f32": 4, "i8": 1, "i32": 4, "i64": 8}

Attr = int | float | str | bool | tuple[int, ...] | tuple[float, ...]
Attrs = Mapping[str, Attr]

K_EXACT = 65_793
"""Longest reduction whose int32 result cannot overflow: ⌊(2³¹ − 1) ÷ (255 × 128)⌋."""


N_MOMENTS = 2**23
"""Most values one mean and variance are taken over; Σq² stays below 2⁵³."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and type of one value."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


Infer = Callable[[Sequence[TensorSpec], Attrs], tuple[TensorSpec, ...]]
Kind = Literal["layer", "vector", "move"]


@dataclass(frozen=True, slots=True)
class Operand:
    """What a command takes in one place."""

    name: str
    dtype: DType | Literal["int", "any"]
    optional: bool = False
    repeated: bool = False

    @classmethod
    def of(cls, text: str) -> Operand:
        """From `name:dtype`; a trailing `?` marks an optional last operand, `*` a repeated one."""
        name, _, dtype = text.rstrip("?*").partition(":")
        return cls(name, dtype, text.endswith("?"), text.endswith("*"))  # type: ignore[arg-type]  # the table's own words

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype}{'?' * self.optional}{'*' * self.repeated}"

    @property
    def is_params(self) -> bool:
        """Whether it is a quantized tensor's scale and zero point, not data."""
        return self.name.startswith("params")


@dataclass(frozen=True, slots=True)
class Form:
    """One command of the instruction set."""

    op: str
    kind: Kind
    operands: tuple[Operand, ...]
    results: tuple[str, ...]
    attrs: Mapping[str, str]
    """Attribute name -> type, and what it means; a trailing `?` marks one that may be left out."""
    semantics: str
    infer: Infer
    since: str = "1.0"

    def operand(self, at: int) -> Operand:
        """What stands in this place; the last operand may be repeated."""
        return self.operands[min(at, len(self.operands) - 1)]


def _form(
    op: str,
    kind: Kind,
    operands: tuple[str, ...],
    results: tuple[str, ...],
    attrs: Mapping[str, str],
    semantics: str,
    infer: Infer,
) -> Form:
    return Form(op, kind, tuple(map(Operand.of, operands)), results, attrs, semantics, infer)


PARAMS = TensorSpec((2,), "f32")
"""`params` of a quantized tensor: (scale, zero point), both f32; it travels with the tensor through the program."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise IsaError(message)


def broadcast_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's rule: align right, 1 stretches."""
    width = max(len(a), len(b))
    left, right = (1,) * (width - len(a)) + a, (1,) * (width - len(b)) + b
    _require(
        all(x == y or 1 in (x, y) for x, y in zip(left, right, strict=True)),
        f"shapes {a} and {b} do not broadcast",
    )
    return tuple(max(x, y) if 0 not in (x, y) else 0 for x, y in zip(left, right, strict=True))


def ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    """An attribute that must be a sequence of integers."""
    value = attrs.get(name)
    _require(
        isinstance(value, tuple) and all(isinstance(v, int) for v in value),
        f"attribute {name} = {value!r} is not a sequence of integers",
    )
    return value  # type: ignore[return-value]  # checked in the line above


def integer(attrs: Attrs, name: str) -> int:
    value = attrs.get(name)
    _require(
        isinstance(value, int) and not isinstance(value, bool),
        f"attribute {name} = {value!r} is not an integer",
    )
    return value  # type: ignore[return-value]  # checked in the line above


def number(attrs: Attrs, name: str) -> float:
    value = attrs.get(name)
    _require(isinstance(value, int | float), f"attribute {name} = {value!r} is not a number")
    return float(value)  # type: ignore[arg-type]  # checked in the line above


def _pair(attrs: Attrs, name: str) -> tuple[int, int]:
    value = ints(attrs, name)
    _require(len(value) == 2, f"attribute {name} = {value} is not a pair")
    return value[0], value[1]


@dataclass(frozen=True, slots=True)
class Convolution:
    """The attributes of a conv2d. Dilation 1 and one group go without saying."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, attrs: Attrs) -> Convolution:
        told = {name: _pair(attrs, name) for name in ("stride", "padding", "dilation") if name in attrs}
        return cls(**told, groups=integer({"groups": 1, **attrs}, "groups"))

    def attrs(self) -> dict[str, Attr]:
        told: dict[str, Attr] = {"stride": self.stride, "padding": self.padding}
        if self.dilation != (1, 1):
            told["dilation"] = self.dilation
        return told if self.groups == 1 else {**told, "groups": self.groups}

    def reach(self, kernel: tuple[int, int]) -> tuple[int, int]:
        """Pixels from the first to the last that a kernel of this size covers."""
        return self.dilation[0] * (kernel[0] - 1) + 1, self.dilation[1] * (kernel[1] - 1) + 1


def _infer_conv2d(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x, w = t[0], t[2]
    _require(len(x.shape) == 4 and len(w.shape) == 4, f"conv2d takes 4-d operands, got {x} and {w}")
    how = Convolution.of(a)
    _require(
        how.groups > 0 and w.shape[0] % how.groups == 0 and x.shape[1] == how.groups * w.shape[1],
        f"conv2d: {x.shape[1]} input channels, weights for {how.groups} × {w.shape[1]} and {w.shape[0]} output channels",
    )
    _require(
        min(*how.stride, *how.dilation) > 0 and min(how.padding) >= 0,
        f"conv2d: stride {how.stride}, dilation {how.dilation} or padding {how.padding} out of range",
    )
    ho, wo = (
        (size + 2 * border - reach) // step + 1
        for size, border, reach, step in zip(
            x.shape[2:], how.padding, how.reach((w.shape[2], w.shape[3])), how.stride, strict=True
        )
    )
    _require(ho > 0 and wo > 0, f"conv2d: kernel {w.shape[2:]} does not fit into {x.shape[2:]}")
    return (TensorSpec((x.shape[0], w.shape[0], ho, wo), "i32"),)


def _infer_linear(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x, w = t[0], t[2]
    _require(len(w.shape) == 2 and len(x.shape) >= 1, f"linear takes x[…,K] and w[N,K], got {x} and {w}")
    _require(x.shape[-1] == w.shape[1], f"linear: K is {x.shape[-1]} in x and {w.shape[1]} in w")
    return (TensorSpec((*x.shape[:-1], w.shape[0]), "i32"),)


def _infer_linear_reference(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    _require(
        a.get("reference", "zero") == "zero",
        f"linear: reference {a.get('reference')!r} is unknown; it is zero",
    )
    return _infer_linear(t, a)


def _infer_linear_increment(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    _require(t[3].shape == t[0].shape, f"linear_increment: the anchor {t[3]} is not of the shape of {t[0]}")
    return _infer_linear(t, a)


def _infer_matmul(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x, y = t[0], t[2]
    _require(
        len(x.shape) >= 3 and x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-2],
        f"matmul takes a[…,M,K] and b[…,K,N] with equal batch axes, got {x} and {y}",
    )
    return (TensorSpec((*x.shape[:-1], y.shape[-1]), "i32"),)


def _infer_quantize(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    return TensorSpec(t[0].shape, "i8"), PARAMS


def _infer_dequantize(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    acc, scale = t[0], t[2]
    axis = integer(a, "axis")
    _require(-len(acc.shape) <= axis < len(acc.shape), f"dequantize: axis {axis} outside {acc}")
    for other in t[2:]:
        _require(
            other.shape == (acc.shape[axis],), f"dequantize: {other} for {acc.shape[axis]} channels ({scale})"
        )
    return (TensorSpec(acc.shape, "f32"),)


def _same_f32(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    return (TensorSpec(t[0].shape, "f32"),)


def _block_format(a: Attrs, channels: int, where: str) -> tuple[blocks.Format, int]:
    """Format and block length that a command names, if they are any."""
    block = integer(a, "block")
    _require(
        a.get("format") in blocks.FORMATS,
        f"{where}: format {a.get('format')!r}, expected one of {', '.join(blocks.FORMATS)}",
    )
    _require(
        block in blocks.BLOCKS,
        f"{where}: blocks of {block}, expected one of {', '.join(map(str, blocks.BLOCKS))}",
    )
    return blocks.FORMATS[a["format"]], blocks.blocks_of(channels, block)  # type: ignore[index]  # known by now


def _infer_quantize_block(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    shape, axis = t[0].shape, integer(a, "axis")
    _require(0 <= axis < len(shape) and 0 not in shape, f"quantize_block: axis {axis} of {t[0]}")
    _, count = _block_format(a, shape[axis], "quantize_block")
    scales = (*shape[:axis], count, *shape[axis + 1 :])
    return TensorSpec(shape, "i8"), TensorSpec(scales, "i32"), PARAMS


def _check_block_layer(op: str, t: Sequence[TensorSpec], a: Attrs, axis: int) -> None:
    """Scales that fit their codes, and a sum that int64 holds."""
    x, scales, w, w_scales = t
    form, count = _block_format(a, x.shape[axis], op)
    for codes, of in ((x, scales), (w, w_scales)):
        expected = (*codes.shape[:axis], count, *codes.shape[axis + 1 :])
        _require(of.shape == expected, f"{op}: scales {of} of {codes}, expected {list(expected)}")
    k = math.prod(w.shape[1:])
    longest = blocks.k_max(form.name, form.weights)
    _require(k <= longest, f"{op}: K = {k} could overflow 64 bits; the longest exact K is {longest}")


def _infer_conv2d_block(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x, w = t[0], t[2]
    _require("groups" not in a, "conv2d_block: one group")
    (acc,) = _infer_conv2d((x, PARAMS, w), a)
    _check_block_layer("conv2d_block", t, a, 1)
    return (TensorSpec(acc.shape, "i64"),)


def _infer_linear_block(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x, w = t[0], t[2]
    (acc,) = _infer_linear((x, PARAMS, w), a)
    form, count = _block_format(a, w.shape[1], "linear_block")
    _require(
        t[1].shape == (*x.shape[:-1], count) and t[3].shape == (w.shape[0], count),
        f"linear_block: scales {t[1]} of {x} and {t[3]} of {w}, expected {count} a row",
    )
    longest = blocks.k_max(form.name, form.weights)
    _require(
        w.shape[1] <= longest,
        f"linear_block: K = {w.shape[1]} could overflow 64 bits; the longest exact K is {longest}",
    )
    return (TensorSpec(acc.shape, "i64"),)


def _infer_dequantize_attention(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    _require(t[1].shape == t[0].shape[:-1], f"dequantize_attention: sums {t[1]} do not match {t[0]}")
    return (TensorSpec(t[0].shape, "f32"),)


def _infer_softmax(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    _require(
        len(t[0].shape) >= 1 and t[0].shape[-1] <= 2**24, f"softmax: last axis of {t[0]} is out of range"
    )
    return TensorSpec(t[0].shape, "i8"), TensorSpec(t[0].shape[:-1], "i32")


def _infer_binary(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    return (TensorSpec(broadcast_shape(t[0].shape, t[1].shape), "f32"),)


def _infer_select(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    shape = broadcast_shape(broadcast_shape(t[0].shape, t[1].shape), t[2].shape)
    return (TensorSpec(shape, "f32"),)


def _infer_sum(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    shape = t[0].shape
    _require(len(shape) >= 1 and shape[-1] <= N_MOMENTS, f"sum: last axis of {t[0]} is out of range")
    return (TensorSpec(shape[:-1], "f32"),)


def _infer_group_norm(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x, groups = t[0], integer(a, "groups")
    _require(len(x.shape) >= 2 and groups > 0, f"group_norm: {x} with {groups} groups")
    _require(
        x.shape[1] % groups == 0, f"group_norm: {x.shape[1]} channels do not divide into {groups} groups"
    )
    _require(number(a, "eps") > 0, "group_norm: eps must be positive")
    _require(
        x.elements // (x.shape[0] * groups) <= N_MOMENTS,
        f"group_norm: groups of {x} exceed {N_MOMENTS} values",
    )
    for other in t[1:]:
        _require(other.shape == (x.shape[1],), f"group_norm: {other} for {x.shape[1]} channels")
    return (x,)


def _infer_layer_norm(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    x = t[0]
    _require(number(a, "eps") > 0, "norm: eps must be positive")
    _require(len(x.shape) >= 1 and x.shape[-1] <= N_MOMENTS, f"norm: last axis of {x} is out of range")
    for other in t[1:]:
        _require(other.shape == x.shape[-1:], f"norm: {other} for a last axis of {x.shape[-1]}")
    return (x,)


def _infer_reshape(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    shape = ints(a, "shape")
    _require(math.prod(shape) == t[0].elements, f"reshape: {t[0]} does not have the elements of {shape}")
    return (TensorSpec(shape, t[0].dtype),)


def _infer_permute(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    order = ints(a, "order")
    _require(
        sorted(order) == list(range(len(t[0].shape))), f"permute: {order} does not order the axes of {t[0]}"
    )
    return (TensorSpec(tuple(t[0].shape[i] for i in order), t[0].dtype),)


def _infer_concat(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    axis, rank = integer(a, "axis"), len(t[0].shape)
    _require(0 <= axis < rank, f"concat: axis {axis} outside {t[0]}")
    for other in t[1:]:
        same = other.dtype == t[0].dtype and len(other.shape) == rank
        _require(
            same and all(i == axis or other.shape[i] == t[0].shape[i] for i in range(rank)),
            f"concat: {other} does not fit beside {t[0]} on axis {axis}",
        )
    shape = list(t[0].shape)
    shape[axis] = sum(other.shape[axis] for other in t)
    return (TensorSpec(tuple(shape), t[0].dtype),)


def _infer_slice(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    axis, start, stop, step = (integer(a, name) for name in ("axis", "start", "stop", "step"))
    _require(0 <= axis < len(t[0].shape), f"slice: axis {axis} outside {t[0]}")
    _require(
        0 <= start < stop <= t[0].shape[axis] and step > 0, f"slice: {start}:{stop}:{step} outside {t[0]}"
    )
    shape = list(t[0].shape)
    shape[axis] = -(-(stop - start) // step)
    return (TensorSpec(tuple(shape), t[0].dtype),)


def _infer_broadcast(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    shape = ints(a, "shape")
    _require(broadcast_shape(t[0].shape, shape) == shape, f"broadcast: {t[0]} does not stretch to {shape}")
    return (TensorSpec(shape, t[0].dtype),)


def _infer_upsample(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    fh, fw = _pair(a, "factor")
    _require(len(t[0].shape) == 4 and min(fh, fw) > 0, f"upsample_nearest: {t[0]} by {fh, fw}")
    n, c, h, w = t[0].shape
    return (TensorSpec((n, c, h * fh, w * fw), t[0].dtype),)


def _infer_difference(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    _require(t[0].shape == t[1].shape, f"difference: {t[0]} and {t[1]} are not of one shape")
    return (t[0],)


def slot(attrs: Attrs) -> str:
    """The name under which a value outlives its step."""
    value = attrs.get("slot")
    _require(isinstance(value, str) and 0 < len(value) <= 512, f"attribute slot = {value!r} is not a name")
    return value  # type: ignore[return-value]  # checked in the line above


def _infer_keep(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    slot(a)
    return ()


def _infer_recall(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    slot(a)
    dtype = a.get("dtype")
    _require(dtype in ITEM_BYTES, f"recall: dtype {dtype!r} is none of {', '.join(ITEM_BYTES)}")
    return (TensorSpec(ints(a, "shape"), dtype),)  # type: ignore[arg-type]  # checked in the line above


def _infer_gather(t: Sequence[TensorSpec], a: Attrs) -> tuple[TensorSpec, ...]:
    _require(len(t[0].shape) >= 1, f"gather: {t[0]} is not a table")
    return (TensorSpec((*t[1].shape, *t[0].shape[1:]), t[0].dtype),)


_UNARY = {
    "silu": "x ÷ (1 + exp32(−x))",
    "sigmoid": "sigmoid32(x)",
    "tanh": "2 × sigmoid32(2 × x) − 1",
    "relu": "max(x, 0)",
    "exp": "exp32(x)",
    "sqrt": "√x; a negative number gives NaN",
    "log": "log32(x)",
    "trunc": "the whole number next to x towards 0",
    "sin": "sin of trig(x)",
    "cos": "cos of trig(x)",
    "gelu": (
        "tanh = true: u = (x × x) × x; v = (x + 0.0447149985 × u) × 1.59576917; x ÷ (1 + exp32(−v)). "
        "tanh = false: a = |x × 0.707106769|; t = 1 ÷ (1 + 0.327591091 × a); "
        "p = ((((1.06140542 × t − 1.45315206) × t + 1.42141378) × t − 0.284496725) × t + 0.254829586) × t; "
        "e = 1 − p × exp32(−(a × a)); e ← −e where x < 0; (0.5 × x) × (1 + e)"
    ),
}

_BLOCK_ATTRS = {
    "format": "uint4 | int4 | mxint8: of x",
    "block": "16 | 32 | 64: neighbours that share a scale",
}

_FORMS: list[Form] = [
    # --- layers: 8-bit operands, int32 accumulators; each owns a Defo entry and its temporal state -------------------
    _form(
        "conv2d",
        "layer",
        ("x:i8", "params:f32", "w:i8"),
        ("acc:i32",),
        {
            "stride": "pair",
            "padding": "pair",
            "dilation?": "pair",
            "groups?": "int: of neighbouring channels",
        },
        "acc[b,n,i,j] = Σ w[n,c,u,v] × (x̂[b,g·C+c,i·s+u·d,j·s'+v·d'] − z), z = zero point of params; x̂ is x padded with z; "
        "w has C channels, g is the group of n. A product a group; its rows, in order: (b, i, j); a row's K elements, in "
        "order: (u, v, c).",
        _infer_conv2d,
    ),
    _form(
        "linear",
        "layer",
        ("x:i8", "params:f32", "w:i8"),
        ("acc:i32",),
        {
            "reference?": "str: zero. What temporal mode subtracts is then 0 and not the previous operand, so nothing is "
            "kept between steps; it needs z = 0"
        },
        "acc[…,n] = Σₖ w[n,k] × (x[…,k] − z), z = zero point of params. Rows: the leading axes of x, flattened.",
        _infer_linear_reference,
    ),
    _form(
        "linear_increment",
        "layer",
        ("x:i8", "params:f32", "w:i8", "x0:i8", "params0:f32"),
        ("acc:i32",),
        {},
        "acc[…,n] = Σₖ w[n,k] × (x[…,k] − x0[…,k]). The operand is a difference already, so the only mode is temporal, with "
        "x0 as reference. Refused unless params = params0, scale and zero point: only then is it a difference of values.",
        _infer_linear_increment,
    ),
    _form(
        "matmul",
        "layer",
        ("a:i8", "params_a:f32", "b:i8", "params_b:f32"),
        ("acc:i32",),
        {
            "static_b": "bool: b comes from inputs that do not change between steps, so it is treated as weights"
        },
        "acc[…,m,n] = Σₖ a[…,m,k] × b[…,k,n]; both operands symmetric (zero point 0).",
        _infer_matmul,
    ),
    # --- layers of SQ-DM: block-scaled operands (`blocks.py`), exact int64 sums in units of 2⁻¹⁸ ------------------------
    _form(
        "conv2d_block",
        "layer",
        ("x:i8", "scales:i32", "w:i8", "w_scales:i32"),
        ("acc:i64",),
        {"stride": "pair", "padding": "pair", "dilation?": "pair", **_BLOCK_ATTRS},
        "acc[b,n,i,j] = Σ over (u, v) and blocks g of scales[b,g,i·s+u·d,j·s'+v·d'] × w_scales[n,g,u,v] × "
        "Σ over c in g of w[n,c,u,v] × x[b,c,i·s+u·d,j·s'+v·d']; outside the picture 0. x in the format, w in int4 where x has "
        "4 bits, else mxint8. Exact, so whichever array computes which channel, the same.",
        _infer_conv2d_block,
    ),
    _form(
        "linear_block",
        "layer",
        ("x:i8", "scales:i32", "w:i8", "w_scales:i32"),
        ("acc:i64",),
        _BLOCK_ATTRS,
        "acc[…,n] = Σ over blocks g of scales[…,g] × w_scales[n,g] × Σ over k in g of w[n,k] × x[…,k]; formats as in "
        "conv2d_block.",
        _infer_linear_block,
    ),
    # --- between the number systems ---------------------------------------------------------------------------------
    _form(
        "quantize",
        "vector",
        ("x:f32",),
        ("q:i8", "params:f32"),
        {
            "policy": "static | clustered | dynamic",
            "scales": "floats: one per cluster (one for static; for dynamic the initial one, used if all x are 0)",
            "zero_points": "ints in −128…127, one per cluster (dynamic: 0)",
            "bounds": "ints: cluster i starts at step bounds[i]; bounds[0] = 0",
            "symmetric": "bool: clamp to −127…127 instead of −128…127",
            "hysteresis": "float ≥ 1, dynamic only",
        },
        "r = f32(1 ÷ scale); q = clamp(rint(x × r) + z); params = (scale, z). Refuses NaN and infinity. dynamic: "
        "target = max|x| ÷ 127; the scale of the previous step is kept while target ≤ scale ≤ target × hysteresis or while "
        "target < 1e-30, otherwise scale ← target. First step of a run: target, or scales[0] if target < 1e-30.",
        _infer_quantize,
    ),
    _form(
        "dequantize",
        "vector",
        ("acc:i32", "params:f32", "w_scale:f32", "bias:f32?"),
        ("y:f32",),
        {"axis": "int: the channel axis of acc"},
        "m[n] = scale × w_scale[n]; y = f32(acc) × m[n], then + bias[n] if given.",
        _infer_dequantize,
    ),
    _form(
        "quantize_block",
        "vector",
        ("x:f32",),
        ("codes:i8", "scales:i32", "params:f32"),
        _BLOCK_ATTRS | {"axis": "int: of the channels, counted from the front"},
        "Blocks of neighbours along the axis, the last maybe short: m = max(x, 0) over a block for uint4, max|x| for the others; "
        "M the greatest m. Refuses NaN and infinity. uint4, int4, with L = 15, 7: t = max(f32(M ÷ (448 L)), 2⁻¹⁰⁰); "
        "S = e4m3(f32(m ÷ f32(L × t))); u = f32((S × 2⁻⁹) × t); q = clamp(rint(f32(x ÷ u))) to 0…15, −7…7; 0 where S = 0. "
        "mxint8: E = ⌊log₂ M⌋; e₀ = max(E − 16, −100); e = max(⌊log₂ m⌋, e₀); S = 2^(e − e₀), 0 where m = 0; "
        "q = ±⌊f32(|x × 2^(6−e)| + 0.5)⌋ with the sign of x, clamped to −127…127, 0 where S = 0; t = 2^(e₀ + 3), where M = 0 "
        "2⁻⁹⁷. params = (t, 0).",
        _infer_quantize_block,
    ),
    _form(
        "dequantize_block",
        "vector",
        ("acc:i64", "params:f32", "w_t:f32", "bias:f32?"),
        ("y:f32",),
        {"axis": "int: the channel axis of acc"},
        "m[n] = (f64(t) × f64(w_t[n])) × 2⁻¹⁸, t of params; y = f32(f64(acc) × m[n]) in f64, then f32 + bias[n] if given.",
        _infer_dequantize,
    ),
    _form(
        "dequantize_matmul",
        "vector",
        ("acc:i32", "params_a:f32", "params_b:f32"),
        ("y:f32",),
        {"factor": "float"},
        "y = f32(acc) × ((scale_a × scale_b) × f32(factor))",
        _same_f32,
    ),
    _form(
        "softmax",
        "vector",
        ("x:f32",),
        ("p:i8", "sums:i32"),
        {},
        "over the last axis: p = rint(127 × exp32(x − max x)); sums = Σ p. A row of −infinity (all of it masked) gives p = 0, "
        "sums = 1: attention draws nothing from it. Refuses NaN and +infinity.",
        _infer_softmax,
    ),
    _form(
        "dequantize_attention",
        "vector",
        ("acc:i32", "sums:i32", "params_b:f32"),
        ("y:f32",),
        {},
        "y = (f32(acc) × scale_b) ÷ f32(sums)",
        _infer_dequantize_attention,
    ),
    # --- element by element -----------------------------------------------------------------------------------------
    *(
        _form(op, "vector", ("a:f32", "b:f32"), ("y:f32",), {}, f"y = a {sign} b, broadcast", _infer_binary)
        for op, sign in (("add", "+"), ("sub", "−"), ("mul", "×"), ("div", "÷"))
    ),
    *(
        _form(
            op,
            "vector",
            ("x:f32",),
            ("y:f32",),
            {"tanh": "bool: the tanh approximation"} if op == "gelu" else {},
            text,
            _same_f32,
        )
        for op, text in _UNARY.items()
    ),
    *(
        _form(op, "vector", ("a:f32", "b:f32"), ("y:f32",), {}, f"{text}, broadcast", _infer_binary)
        for op, text in (
            ("max", "y = the greater of a and b; NaN if one is"),
            ("min", "y = the lesser of a and b; NaN if one is"),
            ("less", "y = 1 where a < b, else 0"),
            ("equal", "y = 1 where a = b, else 0"),
        )
    ),
    _form(
        "select",
        "vector",
        ("condition:f32", "a:f32", "b:f32"),
        ("y:f32",),
        {},
        "y = a where the condition is not 0, else b, broadcast",
        _infer_select,
    ),
    _form(
        "difference",
        "vector",
        ("a:i32", "b:i32"),
        ("y:i32",),
        {},
        "y = a − b, modulo 2³²",
        _infer_difference,
    ),
    _form("cast", "vector", ("x:int",), ("y:f32",), {}, "y = f32(x)", _same_f32),
    # --- normalisation ----------------------------------------------------------------------------------------------
    _form(
        "group_norm",
        "vector",
        ("x:f32", "gamma:f32?", "beta:f32?"),
        ("y:f32",),
        {"groups": "int", "eps": "float (f64 in the arithmetic)"},
        "per batch and group of C/groups channels, moments over all its values; y = (x − mean) × rstd, "
        "then × gamma and + beta if given",
        _infer_group_norm,
    ),
    _form(
        "layer_norm",
        "vector",
        ("x:f32", "gamma:f32?", "beta:f32?"),
        ("y:f32",),
        {"eps": "float (f64 in the arithmetic)"},
        "moments over the last axis; y = (x − mean) × rstd, then × gamma and + beta if given",
        _infer_layer_norm,
    ),
    _form(
        "rms_norm",
        "vector",
        ("x:f32", "gamma:f32?"),
        ("y:f32",),
        {"eps": "float (f64 in the arithmetic)"},
        "rrms over the last axis; y = x × rrms, then × gamma if given",
        _infer_layer_norm,
    ),
    _form("sum", "vector", ("x:f32",), ("y:f32",), {}, "total over the last axis, which goes", _infer_sum),
    # --- data movement: any type, no arithmetic ---------------------------------------------------------------------
    _form(
        "reshape",
        "move",
        ("x:any",),
        ("y:any",),
        {"shape": "ints"},
        "row-major order is kept",
        _infer_reshape,
    ),
    _form(
        "permute",
        "move",
        ("x:any",),
        ("y:any",),
        {"order": "ints"},
        "y axis i is x axis order[i]",
        _infer_permute,
    ),
    _form(
        "concat",
        "move",
        ("x:any*",),
        ("y:any",),
        {"axis": "int"},
        "operands one after another",
        _infer_concat,
    ),
    _form(
        "slice",
        "move",
        ("x:any",),
        ("y:any",),
        {"axis": "int", "start": "int", "stop": "int", "step": "int"},
        "x[start:stop:step] on one axis",
        _infer_slice,
    ),
    _form(
        "broadcast",
        "move",
        ("x:any",),
        ("y:any",),
        {"shape": "ints"},
        "axes of 1 stretched",
        _infer_broadcast,
    ),
    _form(
        "upsample_nearest",
        "move",
        ("x:any",),
        ("y:any",),
        {"factor": "pair"},
        "y[…,i,j] = x[…,i÷fh,j÷fw]",
        _infer_upsample,
    ),
    _form(
        "gather",
        "move",
        ("table:any", "index:i64"),
        ("y:any",),
        {},
        "y[i…] = table[index[i…]]; an index outside the table is refused",
        _infer_gather,
    ),
    # --- values that outlive their step: written in full steps, read in those between (program.py) ----------------
    _form(
        "keep",
        "move",
        ("x:any",),
        (),
        {"slot": "str: the name to recall it by"},
        "x is held under the name from now on, until the next keep under it",
        _infer_keep,
    ),
    _form(
        "recall",
        "move",
        (),
        ("y:any",),
        {
            "slot": "str: the name that it was kept under",
            "shape": "ints",
            "dtype": "str: f32, i8, i32 or i64",
        },
        "y = the value held under the name, bit for bit; it stays held",
        _infer_recall,
    ),
]

ISA: dict[str, Form] = {form.op: form for form in _FORMS}
LAYER_OPS = frozenset(form.op for form in _FORMS if form.kind == "layer")


BLOCK_LAYER_OPS = frozenset({"conv2d_block", "linear_block"})
"""Layers of SQ-DM: no temporal state, and their sums are 64 bits wide."""


def check_operands(form: Form, operands: Sequence[TensorSpec]) -> None:
    """Count and types of a command's operands against its form."""
    declared = form.operands
    least = sum(not d.optional for d in declared)
    _require(
        least <= len(operands)
        and (len(operands) <= len(declared) or (bool(declared) and declared[-1].repeated)),
        f"{form.op} takes operands {', '.join(map(str, declared)) or 'none'}; got {len(operands)}",
    )
    for i, spec in enumerate(operands):
        takes = form.operand(i)
        _require(
            takes.dtype in ("any", spec.dtype) or (takes.dtype == "int" and spec.dtype != "f32"),
            f"{form.op}: operand {takes.name} must be {takes.dtype}, got {spec}",
        )
        if takes.is_params:
            _require(spec == PARAMS, f"{form.op}: operand {takes.name} must be {PARAMS}, got {spec}")


def check_attrs(form: Form, attrs: Attrs) -> None:
    """Exactly the declared attributes, each present that must be."""
    missing = {name for name in form.attrs if not name.endswith("?")} - attrs.keys()
    unknown = attrs.keys() - {name.rstrip("?") for name in form.attrs}
    _require(not missing, f"{form.op}: attribute {', '.join(sorted(missing))} is missing")
    _require(not unknown, f"{form.op}: attribute {', '.join(sorted(unknown))} is unknown")


def _check_quantize(attrs: Attrs) -> None:
    scales, points, bounds = attrs["scales"], attrs["zero_points"], attrs["bounds"]
    _require(
        attrs["policy"] in ("static", "clustered", "dynamic"),
        f"quantize: policy {attrs['policy']!r} is unknown",
    )
    _require(
        isinstance(scales, tuple) and isinstance(points, tuple) and isinstance(bounds, tuple),
        "quantize: scales, zero_points and bounds are sequences",
    )
    assert isinstance(scales, tuple)
    assert isinstance(points, tuple)
    assert isinstance(bounds, tuple)
    _require(
        0 < len(scales) == len(points) == len(bounds), "quantize: one scale, zero point and bound per cluster"
    )
    _require(all(1e-30 <= s <= 1e30 for s in scales), f"quantize: scales {scales} must lie in 1e-30…1e30")
    _require(
        all(isinstance(z, int) and -128 <= z <= 127 for z in points),
        f"quantize: zero points {points} outside i8",
    )
    _require(
        bounds[0] == 0 and list(bounds) == sorted(set(bounds)), f"quantize: bounds {bounds} must rise from 0"
    )
    _require(number(attrs, "hysteresis") >= 1, "quantize: hysteresis must be at least 1")
    if attrs["policy"] != "clustered":
        _require(len(scales) == 1, f"quantize: policy {attrs['policy']} takes one scale, got {len(scales)}")
    if attrs["symmetric"] or attrs["policy"] == "dynamic":
        _require(not any(points), f"quantize: a symmetric tensor has zero point 0, got {points}")


def infer(op: str, operands: Sequence[TensorSpec], attrs: Attrs) -> tuple[TensorSpec, ...]:
    """Result types of one command, or an `IsaError` that says what is wrong with it."""
    form = ISA.get(op)
    if form is None:
        raise IsaError(f"unknown command {op!r}; known: {', '.join(sorted(ISA))}")
    check_operands(form, operands)
    check_attrs(form, attrs)
    if op == "quantize":
        _check_quantize(attrs)
    return form.infer(operands, attrs)
