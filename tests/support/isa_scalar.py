# SPDX-License-Identifier: Apache-2.0
"""The instruction set once more, in plain Python: one number at a time, slow, to be compared with its text.

Binary32 is a Python float rounded after every operation, reductions are over Python integers. It uses neither
numpy nor torch nor the project's code, so every kernel can be held against it. It does not validate forms.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

DType = Literal["f32", "i8", "i32", "i64"]

Number = float | int


class Refused(Exception):
    """The text says that the command refuses this value."""


@dataclass(frozen=True)
class Value:
    """A tensor as its flat list of numbers, row-major."""

    shape: tuple[int, ...]
    dtype: DType
    data: list[Number]

    def at(self, index: Sequence[int]) -> Number:
        offset = 0
        for size, i in zip(self.shape, index, strict=True):
            offset = offset * size + i
        return self.data[offset]


def build(shape: Sequence[int], dtype: DType, element: Callable[[tuple[int, ...]], Number]) -> Value:
    indices = itertools.product(*(range(size) for size in shape))
    return Value(tuple(shape), dtype, [element(index) for index in indices])


# --- one rounding at a time ---------------------------------------------------------------------------------


def f32(x: float) -> float:
    """The nearest binary32; a double result of one `+ − × ÷ √` rounds to what binary32 itself would give."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def add(a: float, b: float) -> float:
    return f32(a + b)


def sub(a: float, b: float) -> float:
    return f32(a - b)


def mul(a: float, b: float) -> float:
    return f32(a * b)


def div(a: float, b: float) -> float:
    if b == 0:
        if a == 0 or math.isnan(a):
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1, b)
    return f32(a / b)


def rint(x: float) -> float:
    return float(round(x)) if math.isfinite(x) else x


def i32(x: int) -> int:
    """Modulo 2³²."""
    return (x + 2**31) % 2**32 - 2**31


def f32_of_int(x: int) -> float:
    """Directly from the integer: a detour over binary64 would round twice beyond 2⁵³."""
    if abs(x) < 2**53:
        return f32(float(x))
    excess = abs(x).bit_length() - 24
    whole, rest = divmod(abs(x), 1 << excess)
    half = 1 << (excess - 1)
    whole += rest > half or (rest == half and whole % 2 == 1)
    return math.copysign(float(whole << excess), x)


# --- shared functions ---------------------------------------------------------------------------------------


def exp32(x: float) -> float:
    x = min(max(x, -87.0), 88.0)
    n = rint(mul(x, f32(1.44269504)))
    r = sub(sub(x, mul(n, f32(0.693359375))), mul(n, f32(-2.12194440e-4)))
    p = f32(1.98756915e-4)
    for constant in (1.39819995e-3, 8.33345205e-3, 4.16657962e-2, 1.66666657e-1, 5.00000012e-1):
        p = add(mul(p, r), f32(constant))
    return mul(add(add(mul(p, mul(r, r)), r), 1.0), 2.0 ** int(n))


def sigmoid32(x: float) -> float:
    return div(1.0, add(1.0, exp32(-x)))


def trig(x: float) -> tuple[float, float]:
    """sin and cos."""
    if not abs(x) <= 2**20:
        raise Refused(f"|x| = {x}")
    k = rint(x * 0.63661977236758134)
    r = (x - k * 1.57079632673412561417) - k * 6.07710050650619224932e-11
    z = r * r
    s = 1.58962301576546568e-10
    for constant in (
        -2.50507477628578072e-8,
        2.75573136213857245e-6,
        -1.98412698295895385e-4,
        8.33333333332211858e-3,
        -1.66666666666666307e-1,
    ):
        s = s * z + constant
    s = (s * z) * r + r
    c = -1.13585365213876817e-11
    for constant in (
        2.08757008419747316e-9,
        -2.75573141792967388e-7,
        2.48015872888517045e-5,
        -1.38888888888730564e-3,
        4.16666666666665929e-2,
        -0.5,
        1.0,
    ):
        c = c * z + constant
    quadrant = int(k) % 4
    return f32((s, c, -s, -c)[quadrant]), f32((c, -s, -c, s)[quadrant])


def moments(values: Sequence[float], eps: float) -> tuple[float, float]:
    """mean and rstd."""
    if not all(math.isfinite(v) for v in values):
        raise Refused("NaN or infinity")
    e = math.frexp(max(abs(v) for v in values))[1]
    q = [round(math.ldexp(v, 15 - e)) for v in values]
    n = len(values)
    mu = sum(q) / n
    d = sum(v * v for v in q) / n - mu * mu
    var = max(d, 0.0) * 2.0 ** (2 * e - 30)
    return f32(mu * 2.0 ** (e - 15)), f32(1.0 / math.sqrt(var + eps))


def log32(x: float) -> float:
    if not x >= 0:
        raise Refused(f"the logarithm of {x}")
    if x in (0.0, math.inf):
        return math.inf if x else -math.inf
    m, k = math.frexp(x)
    if m < f32(0.707106769):
        m, k = 2 * m, k - 1
    t = sub(m, 1.0)
    z = mul(t, t)
    p = f32(7.03768358e-2)
    for constant in (
        *(-1.15146101e-1, 1.16769984e-1, -1.24201410e-1, 1.42493233e-1),
        *(-1.66680574e-1, 2.00007141e-1, -2.49999940e-1, 3.33333313e-1),
    ):
        p = add(mul(p, t), f32(constant))
    y = sub(add(mul(mul(t, z), p), mul(float(k), f32(-2.12194440e-4))), mul(0.5, z))
    return add(add(t, y), mul(float(k), f32(0.693359375)))


def integers(values: Sequence[float], bits: int) -> tuple[list[int], int]:
    """The values as integers of so many bits, and the exponent of the largest."""
    if not all(math.isfinite(v) for v in values):
        raise Refused("NaN or infinity")
    e = math.frexp(max(abs(v) for v in values))[1]
    return [round(math.ldexp(v, bits - e)) for v in values], e


def total(values: Sequence[float]) -> float:
    q, e = integers(values, 30)
    return f32(math.ldexp(float(sum(q)), e - 30))


def rms_norm(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    width, y = t[0].shape[-1], []
    for start in range(0, len(t[0].data), width):
        row = t[0].data[start : start + width]
        q, e = integers(row, 15)
        rrms = f32(1.0 / math.sqrt(sum(v * v for v in q) / width * 2.0 ** (2 * e - 30) + a["eps"]))
        scaled = [mul(v, rrms) for v in row]
        y += [mul(v, g) for v, g in zip(scaled, t[1].data, strict=True)] if len(t) > 1 else scaled
    return Value(t[0].shape, "f32", list(y))


def sums(x: Value) -> Value:
    width = x.shape[-1]
    rows = (x.data[at : at + width] for at in range(0, len(x.data), width))
    return Value(x.shape[:-1], "f32", [total(row) for row in rows])


def gelu(x: float, tanh: bool) -> float:
    if tanh:
        u = mul(mul(x, x), x)
        v = mul(add(x, mul(f32(0.0447149985), u)), f32(1.59576917))
        return div(x, add(1.0, exp32(-v)))
    a = abs(mul(x, f32(0.707106769)))
    t = div(1.0, add(1.0, mul(f32(0.327591091), a)))
    p = mul(f32(1.06140542), t)
    p = mul(sub(p, f32(1.45315206)), t)
    p = mul(add(p, f32(1.42141378)), t)
    p = mul(sub(p, f32(0.284496725)), t)
    p = mul(add(p, f32(0.254829586)), t)
    e = sub(1.0, mul(p, exp32(-mul(a, a))))
    if x < 0:
        e = -e
    return mul(mul(0.5, x), add(1.0, e))


UNARY: dict[str, Callable[[float], float]] = {
    "silu": lambda x: div(x, add(1.0, exp32(-x))),
    "sigmoid": sigmoid32,
    "tanh": lambda x: sub(mul(2.0, sigmoid32(mul(2.0, x))), 1.0),
    "relu": lambda x: max(x, 0.0),
    "exp": exp32,
    "sqrt": lambda x: f32(math.sqrt(x)) if x >= 0 else math.nan,
    "log": log32,
    "trunc": lambda x: float(math.trunc(x)) if math.isfinite(x) else x,
    "sin": lambda x: trig(x)[0],
    "cos": lambda x: trig(x)[1],
}


def extreme(pick: Callable[[float, float], float]) -> Callable[[float, float], float]:
    return lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else pick(a, b)


BINARY: dict[str, Callable[[float, float], float]] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "max": extreme(max),
    "min": extreme(min),
    "less": lambda a, b: float(a < b),
    "equal": lambda a, b: float(a == b),
}


# --- commands -----------------------------------------------------------------------------------------------


def conv2d(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x, params, w = t
    z = int(params.data[1])
    (sh, sw), (ph, pw), (dh, dw) = a["stride"], a["padding"], a.get("dilation", (1, 1))
    batch, _, height, width = x.shape
    out, channels, kh, kw = w.shape
    of_group = out // a.get("groups", 1)
    high, wide = (
        (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1,
        (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1,
    )

    def element(index: tuple[int, ...]) -> int:
        b, n, i, j = index
        total = 0
        for u, v, c in itertools.product(range(kh), range(kw), range(channels)):
            row, column = i * sh + u * dh - ph, j * sw + v * dw - pw
            inside = 0 <= row < height and 0 <= column < width
            channel = n // of_group * channels + c
            total += int(w.at((n, c, u, v))) * ((int(x.at((b, channel, row, column))) if inside else z) - z)
        return i32(total)

    return build((batch, out, high, wide), "i32", element)


def linear(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x, params, w = t
    z = int(params.data[1])

    def element(index: tuple[int, ...]) -> int:
        *lead, n = index
        return i32(sum(int(w.at((n, k))) * (int(x.at((*lead, k))) - z) for k in range(w.shape[1])))

    return build((*x.shape[:-1], w.shape[0]), "i32", element)


def linear_increment(t: Sequence[Value]) -> Value:
    x, params, w, anchor, params_of_anchor = t
    if params.data != params_of_anchor.data:
        raise Refused("a difference between values on two grids")

    def element(index: tuple[int, ...]) -> int:
        *lead, n = index
        terms = (
            int(w.at((n, k))) * (int(x.at((*lead, k))) - int(anchor.at((*lead, k))))
            for k in range(w.shape[1])
        )
        return i32(sum(terms))

    return build((*x.shape[:-1], w.shape[0]), "i32", element)


def matmul(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    left, right = t[0], t[2]

    def element(index: tuple[int, ...]) -> int:
        *batch, m, n = index
        terms = (int(left.at((*batch, m, k))) * int(right.at((*batch, k, n))) for k in range(left.shape[-1]))
        return i32(sum(terms))

    return build((*left.shape[:-1], right.shape[-1]), "i32", element)


def e4m3(v: float) -> int:
    """The nearest number of FP8 E4M3 in units of 2⁻⁹: sign, 4 bits of exponent (bias 7), 3 of mantissa, no infinity."""
    numbers = [*range(8), *((8 + m) * 2 ** (e - 1) for e in range(1, 16) for m in range(8))][:-1]
    units = Fraction(v) * 512
    below = max(n for n in numbers if n <= units)
    above = min((n for n in numbers if n >= units), default=numbers[-1])
    low, high = units - below, above - units
    if low != high:
        return below if low < high or above < units else above
    return below if numbers.index(below) % 2 == 0 else above


def quantize_block(x: Value, a: Mapping[str, Any]) -> tuple[Value, Value, Value]:
    if not all(math.isfinite(v) for v in x.data):
        raise Refused("NaN or infinity")
    axis, block, form = a["axis"], a["block"], a["format"]
    channels = x.shape[axis]
    count = (channels + block - 1) // block

    def largest(index: tuple[int, ...]) -> float:
        inside = range(index[axis] * block, min(channels, (index[axis] + 1) * block))
        members = [x.at((*index[:axis], c, *index[axis + 1 :])) for c in inside]
        return max(max(v, 0.0) if form == "uint4" else abs(v) for v in members)

    blocks = build((*x.shape[:axis], count, *x.shape[axis + 1 :]), "f32", largest)
    top = max(blocks.data)
    levels = {"uint4": 15.0, "int4": 7.0}.get(form, 0.0)
    if levels:
        t = max(div(top, 448.0 * levels), 2.0**-100)
        scales = build(blocks.shape, "i32", lambda i: e4m3(min(div(blocks.at(i), mul(levels, t)), 448.0)))
    else:
        lowest = max(math.frexp(top)[1] - 1 - 16, -100) if top else -100
        t = 2.0 ** (lowest + 3)

        def power(index: tuple[int, ...]) -> int:
            m = blocks.at(index)
            return 2 ** (max(math.frexp(m)[1] - 1, lowest) - lowest) if m else 0

        scales = build(blocks.shape, "i32", power)

    def code(index: tuple[int, ...]) -> int:
        v = x.at(index)
        scale = int(scales.at((*index[:axis], index[axis] // block, *index[axis + 1 :])))
        if not scale:
            return 0
        if levels:
            c = rint(div(v, mul(scale / 512, t)))
            return int(min(max(c, 0.0 if form == "uint4" else -7.0), levels))
        exponent = scale.bit_length() - 1 + lowest
        c = math.floor(add(f32(math.ldexp(abs(v), 6 - exponent)), 0.5))
        return int(math.copysign(min(c, 127), v)) if c else 0

    return build(x.shape, "i8", code), scales, Value((2,), "f32", [t, 0.0])


def conv2d_block(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x, scales, w, w_scales = t
    (sh, sw), (ph, pw), (dh, dw) = a["stride"], a["padding"], a.get("dilation", (1, 1))
    batch, _, height, width = x.shape
    out, channels, kh, kw = w.shape
    high = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    wide = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1

    def element(index: tuple[int, ...]) -> int:
        b, n, i, j = index
        total = 0
        for u, v, c in itertools.product(range(kh), range(kw), range(channels)):
            row, column, g = i * sh + u * dh - ph, j * sw + v * dw - pw, c // a["block"]
            if 0 <= row < height and 0 <= column < width:
                left = int(x.at((b, c, row, column))) * int(scales.at((b, g, row, column)))
                total += left * int(w.at((n, c, u, v))) * int(w_scales.at((n, g, u, v)))
        return total

    return build((batch, out, high, wide), "i64", element)


def linear_block(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x, scales, w, w_scales = t

    def element(index: tuple[int, ...]) -> int:
        *lead, n = index
        total = 0
        for k in range(w.shape[1]):
            g = k // a["block"]
            left = int(x.at((*lead, k))) * int(scales.at((*lead, g)))
            total += left * int(w.at((n, k))) * int(w_scales.at((n, g)))
        return total

    return build((*x.shape[:-1], w.shape[0]), "i64", element)


def dequantize_block(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    acc, params, w_t, *bias = t

    def element(index: tuple[int, ...]) -> float:
        n = index[a["axis"]]
        y = f32(float(int(acc.at(index))) * (params.data[0] * w_t.data[n] * 2.0**-18))
        return add(y, bias[0].data[n]) if bias else y

    return build(acc.shape, "f32", element)


def next_scale(
    x: Sequence[float], a: Mapping[str, Any], step: int, previous: float | None
) -> tuple[float, int]:
    """The scale and zero point of a quantize command in this step."""
    if not all(math.isfinite(v) for v in x):
        raise Refused("NaN or infinity")
    cluster = max(i for i, start in enumerate(a["bounds"]) if start <= step)
    scale, zero = f32(a["scales"][cluster]), a["zero_points"][cluster]
    if a["policy"] == "dynamic":
        target = div(max(abs(v) for v in x), 127.0)
        small = target < f32(1e-30)
        if previous is None:
            scale = scale if small else target
        elif small or target <= previous <= mul(target, f32(a["hysteresis"])):
            scale = previous
        else:
            scale = target
    return scale, zero


def quantize(x: Value, a: Mapping[str, Any], step: int, previous: float | None) -> tuple[Value, Value]:
    scale, zero = next_scale(x.data, a, step, previous)
    r = div(1.0, scale)
    low = -127 if a["symmetric"] else -128
    q = [int(min(max(add(rint(mul(v, r)), float(zero)), low), 127)) for v in x.data]
    return Value(x.shape, "i8", list(q)), Value((2,), "f32", [scale, float(zero)])


def dequantize(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    acc, params, w_scale = t[:3]

    def element(index: tuple[int, ...]) -> float:
        n = index[a["axis"]]
        y = mul(f32_of_int(int(acc.at(index))), mul(params.data[0], w_scale.data[n]))
        return add(y, t[3].data[n]) if len(t) > 3 else y

    return build(acc.shape, "f32", element)


def dequantize_matmul(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    m = mul(mul(t[1].data[0], t[2].data[0]), f32(a["factor"]))
    return Value(t[0].shape, "f32", [mul(f32_of_int(int(v)), m) for v in t[0].data])


def softmax(x: Value) -> tuple[Value, Value]:
    if any(math.isnan(v) or v == math.inf for v in x.data):
        raise Refused("NaN or +infinity")
    width, p, sums = x.shape[-1], [], []
    for start in range(0, len(x.data), width):
        row = x.data[start : start + width]
        peak = max(row)
        masked = peak == -math.inf
        probabilities = [0 if masked else int(rint(mul(127.0, exp32(sub(v, peak))))) for v in row]
        p += probabilities
        sums.append(max(sum(probabilities), 1))
    return Value(x.shape, "i8", list(p)), Value(x.shape[:-1], "i32", list(sums))


def dequantize_attention(t: Sequence[Value]) -> Value:
    acc, sums, params = t

    def element(index: tuple[int, ...]) -> float:
        numerator = mul(f32_of_int(int(acc.at(index))), params.data[0])
        return div(numerator, f32_of_int(int(sums.at(index[:-1]))))

    return build(acc.shape, "f32", element)


def normalise(
    x: Value, parts: Sequence[Sequence[tuple[int, ...]]], t: Sequence[Value], axis: int, eps: float
) -> Value:
    """y = (x − mean) × rstd, × gamma, + beta, with moments over each part (a list of indices)."""
    done: dict[tuple[int, ...], float] = {}
    for part in parts:
        mean, rstd = moments([x.at(index) for index in part], eps)
        for index in part:
            y = mul(sub(x.at(index), mean), rstd)
            if len(t) > 1:
                y = mul(y, t[1].data[index[axis]])
            if len(t) > 2:
                y = add(y, t[2].data[index[axis]])
            done[index] = y
    return build(x.shape, "f32", done.__getitem__)


def group_norm(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x, size = t[0], t[0].shape[1] // a["groups"]
    parts: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for index in itertools.product(*(range(s) for s in x.shape)):
        parts.setdefault((index[0], index[1] // size), []).append(index)
    return normalise(x, list(parts.values()), t, 1, a["eps"])


def layer_norm(t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x = t[0]
    parts: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in itertools.product(*(range(s) for s in x.shape)):
        parts.setdefault(index[:-1], []).append(index)
    return normalise(x, list(parts.values()), t, -1, a["eps"])


def broadcast(function: Callable[..., float], *operands: Value) -> Value:
    rank = max(len(v.shape) for v in operands)
    padded = [(1,) * (rank - len(v.shape)) + v.shape for v in operands]
    shape = tuple(max(sizes) for sizes in zip(*padded, strict=True))

    def pick(value: Value, index: tuple[int, ...]) -> float:
        tail = index[rank - len(value.shape) :]
        return value.at([0 if size == 1 else i for i, size in zip(tail, value.shape, strict=True)])

    return build(shape, "f32", lambda index: function(*(pick(v, index) for v in operands)))


def move(op: str, t: Sequence[Value], a: Mapping[str, Any]) -> Value:
    x = t[0]
    match op:
        case "reshape":
            return Value(tuple(a["shape"]), x.dtype, x.data)
        case "permute":
            order = a["order"]

            def permuted(index: tuple[int, ...]) -> Number:
                source = [0] * len(order)
                for i, axis in enumerate(order):
                    source[axis] = index[i]
                return x.at(source)

            return build([x.shape[axis] for axis in order], x.dtype, permuted)
        case "concat":
            axis = a["axis"]

            def joined(index: tuple[int, ...]) -> Number:
                position = index[axis]
                for part in t:
                    if position < part.shape[axis]:
                        return part.at((*index[:axis], position, *index[axis + 1 :]))
                    position -= part.shape[axis]
                raise AssertionError("an index outside the result")

            shape = list(x.shape)
            shape[axis] = sum(part.shape[axis] for part in t)
            return build(shape, x.dtype, joined)
        case "slice":
            axis, positions = a["axis"], range(a["start"], a["stop"], a["step"])
            shape = list(x.shape)
            shape[axis] = len(positions)
            return build(shape, x.dtype, lambda i: x.at((*i[:axis], positions[i[axis]], *i[axis + 1 :])))
        case "broadcast":

            def stretched(index: tuple[int, ...]) -> Number:
                tail = index[len(index) - len(x.shape) :]
                return x.at([0 if size == 1 else i for i, size in zip(tail, x.shape, strict=True)])

            return build(a["shape"], x.dtype, stretched)
        case "upsample_nearest":
            fh, fw = a["factor"]
            n, c, h, w = x.shape
            return build(
                (n, c, h * fh, w * fw), x.dtype, lambda i: x.at((i[0], i[1], i[2] // fh, i[3] // fw))
            )
        case "gather":
            if any(not 0 <= i < x.shape[0] for i in t[1].data):
                raise Refused("an index outside the table")
            lead = len(t[1].shape)
            gathered = (*t[1].shape, *x.shape[1:])
            return build(gathered, x.dtype, lambda i: x.at((int(t[1].at(i[:lead])), *i[lead:])))
    raise NotImplementedError(op)


def execute(
    op: str,
    t: Sequence[Value],
    a: Mapping[str, Any],
    step: int = 0,
    previous_scale: float | None = None,
    held: dict[str, Value] | None = None,
) -> tuple[Value, ...]:
    """The results of one command; `previous_scale` is the state of a dynamic quantize, `held` what was kept, by slot."""
    match op:
        case "keep":
            assert held is not None
            held[a["slot"]] = Value(t[0].shape, t[0].dtype, list(t[0].data))
            return ()
        case "recall":
            if held is None or a["slot"] not in held:
                raise Refused("nothing is kept in the slot")
            return (held[a["slot"]],)
        case "linear_increment":
            return (linear_increment(t),)
        case "difference":
            return (build(t[0].shape, "i32", lambda i: i32(int(t[0].at(i)) - int(t[1].at(i)))),)
        case "conv2d":
            return (conv2d(t, a),)
        case "linear":
            return (linear(t, a),)
        case "matmul":
            return (matmul(t, a),)
        case "quantize":
            return quantize(t[0], a, step, previous_scale)
        case "dequantize":
            return (dequantize(t, a),)
        case "quantize_block":
            return quantize_block(t[0], a)
        case "conv2d_block":
            return (conv2d_block(t, a),)
        case "linear_block":
            return (linear_block(t, a),)
        case "dequantize_block":
            return (dequantize_block(t, a),)
        case "dequantize_matmul":
            return (dequantize_matmul(t, a),)
        case "softmax":
            return softmax(t[0])
        case "dequantize_attention":
            return (dequantize_attention(t),)
        case "cast":
            return (Value(t[0].shape, "f32", [f32_of_int(int(v)) for v in t[0].data]),)
        case "gelu":
            return (Value(t[0].shape, "f32", [gelu(v, a["tanh"]) for v in t[0].data]),)
        case "group_norm":
            return (group_norm(t, a),)
        case "layer_norm":
            return (layer_norm(t, a),)
        case "rms_norm":
            return (rms_norm(t, a),)
        case "sum":
            return (sums(t[0]),)
        case "select":
            return (broadcast(lambda c, a, b: a if c != 0 else b, *t),)
    if op in BINARY:
        return (broadcast(BINARY[op], *t),)
    if op in UNARY:
        return (Value(t[0].shape, "f32", [UNARY[op](v) for v in t[0].data]),)
    return (move(op, t, a),)
