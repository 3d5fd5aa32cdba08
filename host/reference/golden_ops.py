# SPDX-License-Identifier: Apache-2.0
"""What every command computes, in torch, written from the text of `protocol/isa.py` and from nothing else.

Direct integer arithmetic: no differences, no previous step, no modes. Nothing here is shared with the device,
which implements the same text by itself. Every torch call used is one rounding of one operation; fused ones
(addcmul, floating-point addmm, torch.compile) would contract products and sums and are not to be used here.

Values may be stored in any memory order; convolutions leave theirs channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ditto_cosim.protocol.errors import GridError, NonFiniteError
from ditto_cosim.protocol.isa import Convolution, integer, ints
from ditto_cosim.protocol.program import Command

BLOCK = 1 << 17
"""Elements handled at a time by long element-wise sequences, so that their temporaries stay in the cache."""

TRIG_LIMIT = float(2**20)
TINY_TARGET = float(np.float32(1e-30))


def f32(value: float) -> float:
    """The nearest binary32, as a Python number that torch takes without rounding again."""
    return float(np.float32(value))


# --- integer products -----------------------------------------------------------------------------


F32_EXACT_K = 1024
"""Products of two int8 are at most 2¹⁴; sums of so many stay within 2²⁴ in any order, so binary32 holds each exactly."""
SMALL_MACS = 1 << 19
"""Of one product among many, below which binary32 for all of them at once is faster."""


@cache
def has_int8_product() -> bool:
    """Whether `_int_mm` is fast here (it is a scalar loop without VNNI) and saturates nowhere."""
    if not torch.cpu.get_capabilities().get("avx512_vnni"):
        return False
    generator = torch.Generator().manual_seed(0)
    for rows, k, columns in ((1, 64, 1), (17, 1000, 33), (64, 256, 64)):
        extremes = torch.tensor([-128, -127, 127], dtype=torch.int8)
        a = extremes[torch.randint(3, (rows, k), generator=generator)]
        b = extremes[torch.randint(3, (k, columns), generator=generator)]
        a[0], b[:, 0] = -128, -128
        if not torch.equal(torch._int_mm(a, b), f32_product(a, b)):
            return False
    return True


def f32_product(a: Tensor, b: Tensor) -> Tensor:
    """a[M,K] · b[K,N] of int8 by exact binary32 sums over pieces of K, which add up in int32."""
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32)
    for piece in range(0, a.shape[1], F32_EXACT_K):
        k = slice(piece, piece + F32_EXACT_K)
        total += (a[:, k].float() @ b[k].float()).to(torch.int32)
    return total


def product(a: Tensor, b: Tensor) -> Tensor:
    """a[M,K] · b[K,N] of int8, exact in int32.

    `_int_mm` returns garbage where rows overlap or an axis of length 1 has a stray stride: both made plain.
    """
    if not has_int8_product():
        return f32_product(a, b)
    a, b = (m.contiguous().as_strided(m.shape, (m.shape[1], 1)) for m in (a, b))
    return torch._int_mm(a, b)


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's weights as a matrix [K, N], and Σₖ of each column, which multiplies the zero point."""

    matrix: Tensor
    column_sums: Tensor

    @classmethod
    def of(cls, w: Tensor) -> Weights:
        """From [N,K], or from [N,C,kh,kw] with K running over (u, v, c); groups of a convolution stay side by side."""
        rows = w.permute(0, 2, 3, 1).reshape(w.shape[0], -1) if w.dim() == 4 else w
        matrix = rows.t().contiguous()
        return cls(matrix, matrix.sum(0, dtype=torch.int64).to(torch.int32))


def _rows_times(rows: Tensor, params: Tensor, weights: Weights) -> Tensor:
    """Σ w × (x − z) as W·x − z·ΣW, in integers modulo 2³²."""
    acc = product(rows, weights.matrix)
    zero_point = int(params[1])
    return acc.sub_(weights.column_sums * zero_point) if zero_point else acc


def conv2d(x: Tensor, params: Tensor, weights: Weights, command: Command, kernel: tuple[int, int]) -> Tensor:
    how = Convolution.of(command.attrs)
    (sh, sw), (ph, pw), (dh, dw), groups = how.stride, how.padding, how.dilation, how.groups
    nhwc = x.permute(0, 2, 3, 1)
    batch, height, width, channels = nhwc.shape
    if ph or pw:
        padded = nhwc.new_full((batch, height + 2 * ph, width + 2 * pw, channels), int(params[1]))
        padded[:, ph : ph + height, pw : pw + width] = nhwc
        nhwc = padded
    reach = how.reach(kernel)
    windows = nhwc.unfold(1, reach[0], sh).unfold(2, reach[1], sw)[..., ::dh, ::dw].permute(0, 1, 2, 4, 5, 3)
    rows_high, rows_wide = windows.shape[1:3]
    if groups == 1:
        acc = _rows_times(windows.reshape(batch * rows_high * rows_wide, -1), params, weights)
    else:
        split = windows.unflatten(-1, (groups, -1)).movedim(-2, 0)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        acc = _groups_times(split.reshape(groups, batch * rows_high * rows_wide, -1), params, weights)
    return acc.view(batch, rows_high, rows_wide, -1).permute(0, 3, 1, 2)


def _groups_times(rows: Tensor, params: Tensor, weights: Weights) -> Tensor:
    """The same for [G, rows, K], each with its share of the columns: [rows, N]."""
    groups, count, k = rows.shape
    columns = weights.matrix.view(k, groups, -1).permute(1, 0, 2)
    acc = torch.zeros(groups, count, columns.shape[2], dtype=torch.int32)
    for piece in range(0, k, F32_EXACT_K):
        at = slice(piece, piece + F32_EXACT_K)
        acc += torch.bmm(rows[..., at].float(), columns[:, at].float()).to(torch.int32)
    flat = acc.permute(1, 0, 2).reshape(count, -1)
    return flat.sub_(weights.column_sums * int(params[1]))


def linear(x: Tensor, params: Tensor, weights: Weights) -> Tensor:
    return _rows_times(x.reshape(-1, x.shape[-1]), params, weights).view(*x.shape[:-1], -1)


def linear_increment(x: Tensor, params: Tensor, weights: Weights, x0: Tensor, params0: Tensor) -> Tensor:
    """W·x − W·x₀ in integers modulo 2³²."""
    if not torch.equal(params, params0):
        raise GridError(
            f"its operand has scale and zero point {params.tolist()}, the anchor's {params0.tolist()}; a difference needs "
            "one grid"
        )
    rows = [product(t.reshape(-1, t.shape[-1]), weights.matrix) for t in (x, x0)]
    return rows[0].sub_(rows[1]).view(*x.shape[:-1], -1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    left, right = a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    acc = torch.empty(left.shape[0], left.shape[1], right.shape[2], dtype=torch.int32)
    if left.shape[2] <= F32_EXACT_K and acc[0].numel() * left.shape[2] <= SMALL_MACS:
        acc.copy_(torch.bmm(left.float(), right.float()))
        return acc.view(*a.shape[:-1], b.shape[-1])
    for i in range(left.shape[0]):
        acc[i] = product(left[i], right[i])
    return acc.view(*a.shape[:-1], b.shape[-1])


# --- shared functions of the instruction set ------------------------------------------------------


def blocked(function: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`function`, element by element, over `x` in blocks that stay in the cache; memory order is kept."""
    if not (x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))):
        x = x.contiguous()
    count = x.numel()
    out = torch.empty_strided(x.shape, x.stride(), dtype=dtype)
    source, target = x.as_strided((count,), (1,)), out.as_strided((count,), (1,))
    for start in range(0, count, BLOCK):
        target[start : start + BLOCK] = function(source[start : start + BLOCK])
    return out


def power_of_two(exponent: Tensor) -> Tensor:
    """2ᵉ as f32, for integers −126 ≤ e ≤ 127."""
    return (exponent.to(torch.int32) + 127).bitwise_left_shift_(23).view(torch.float32)


def power_of_two_f64(exponent: Tensor) -> Tensor:
    """2ᵉ as f64, for integers −1022 ≤ e ≤ 1023."""
    return (exponent.to(torch.int64) + 1023).bitwise_left_shift_(52).view(torch.float64)


_EXP = tuple(f32(c) for c in (1.39819995e-3, 8.33345205e-3, 4.16657962e-2, 1.66666657e-1))


def exp32(x: Tensor) -> Tensor:
    x = x.clamp(-87.0, 88.0)
    n = (x * f32(1.44269504)).round_()
    r = x.sub_(n * 0.693359375).sub_(n * f32(-2.12194440e-4))
    p = r * f32(1.98756915e-4)
    for constant in _EXP:
        p.add_(constant).mul_(r)
    p.add_(f32(5.00000012e-1)).mul_(r * r).add_(r).add_(1.0)
    return p.mul_(power_of_two(n))


def sigmoid32(x: Tensor) -> Tensor:
    return exp32(-x).add_(1.0).reciprocal_()


_SIN = (
    1.58962301576546568e-10,
    -2.50507477628578072e-8,
    2.75573136213857245e-6,
    -1.98412698295895385e-4,
    8.33333333332211858e-3,
    -1.66666666666666307e-1,
)
_COS = (
    -1.13585365213876817e-11,
    2.08757008419747316e-9,
    -2.75573141792967388e-7,
    2.48015872888517045e-5,
    -1.38888888888730564e-3,
    4.16666666666665929e-2,
)


def _horner(coefficients: tuple[float, ...], z: Tensor) -> Tensor:
    p = z * coefficients[0]
    for constant in coefficients[1:-1]:
        p.add_(constant).mul_(z)
    return p.add_(coefficients[-1])


def trig(x: Tensor, quarter_turns: int) -> Tensor:
    """sin (0 quarter turns) or cos (1)."""
    wide = x.double()
    largest = float(wide.abs().max()) if wide.numel() else 0.0
    if not largest <= TRIG_LIMIT:
        raise NonFiniteError(f"met |x| = {largest}, the range is |x| ≤ 2²⁰")
    k = (wide * 0.63661977236758134).round_()
    r = (wide - k * 1.57079632673412561417).sub_(k * 6.07710050650619224932e-11)
    z = r * r
    s = _horner(_SIN, z).mul_(z).mul_(r).add_(r)
    c = _horner(_COS, z).mul_(z).sub_(0.5).mul_(z).add_(1.0)
    quadrant = (k.to(torch.int64) + quarter_turns) & 3
    value = torch.where((quadrant & 1).bool(), c, s)
    return torch.where((quadrant & 2).bool(), -value, value).float()


_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)


def log32(x: Tensor) -> Tensor:
    if not bool((x >= 0).all()):
        raise NonFiniteError("met NaN or a negative number, which has no logarithm")
    infinite = torch.isinf(x)
    m, k = torch.frexp(torch.where(infinite, 1.0, x))
    small = m < f32(0.707106769)
    t = torch.where(small, m * 2, m).sub_(1.0)
    k = torch.where(small, k - 1, k).float()
    z = t * t
    p = torch.full_like(t, f32(_LOG[0]))
    for constant in _LOG[1:]:
        p.mul_(t).add_(f32(constant))
    y = (t * z).mul_(p).add_(k * f32(-2.12194440e-4)).sub_(z * 0.5)
    found = (t + y).add_(k * 0.693359375)
    return torch.where(x == 0, -math.inf, torch.where(infinite, math.inf, found))


def total(x: Tensor) -> Tensor:
    """Sum over the last axis."""
    largest = x.abs().amax(-1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise NonFiniteError("met NaN or infinity")
    e = torch.frexp(largest).exponent
    q = x.double().mul_(power_of_two_f64(30 - e)).round_()
    return q.sum(-1).mul_(power_of_two_f64(e.squeeze(-1) - 30)).float()


def rms_norm(x: Tensor, gamma: Tensor | None, eps: float) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise NonFiniteError("met NaN or infinity")
    e = torch.frexp(largest).exponent
    q = x.double().mul_(power_of_two_f64(15 - e)).round_()
    mean = (q * q).sum(-1, keepdim=True).div_(x.shape[-1]).mul_(power_of_two_f64(2 * e - 30))
    return _affine(x * mean.add_(eps).sqrt_().reciprocal_().float(), gamma, None)


def moments(v: Tensor, size: int, eps: float) -> tuple[Tensor, Tensor]:
    """mean and rstd of v[A,S,C] over S and each `size` neighbours in C, spread to all of them: [A,1,C]."""
    outer, length, channels = v.shape
    groups = (outer, channels // size, size)

    def spread(figure: Tensor) -> Tensor:
        return figure.repeat_interleave(size, 1).unsqueeze(1)

    largest = v.abs().amax(1).view(groups).amax(2)
    if not bool(torch.isfinite(largest).all()):
        raise NonFiniteError("met NaN or infinity")
    e = torch.frexp(largest).exponent
    shift = 15 - e
    if int(shift.max()) <= 127:
        q = v * spread(power_of_two(shift))
    else:  # 2^(15−e) exceeds binary32, its halves do not; what underflows between them rounds to 0 anyway
        half = shift >> 1
        q = (v * spread(power_of_two(half))).mul_(spread(power_of_two(shift - half)))
    wide = q.round_().double()  # integers whose sums stay below 2⁵³: exact in f64, in any order
    s1 = wide.sum(1).view(groups).sum(2)
    s2 = wide.mul_(wide).sum(1).view(groups).sum(2)
    mu = s1.div_(length * size)
    d = s2.div_(length * size).sub_(mu * mu)
    var = d.clamp_min_(0.0).mul_(power_of_two_f64(2 * e - 30))
    mean = mu.mul_(power_of_two_f64(e - 15)).float()
    return spread(mean), spread(var.add_(eps).sqrt_().reciprocal_().float())


# --- vector commands ------------------------------------------------------------------------------


def finite_extremes(x: Tensor) -> tuple[float, float]:
    """Minimum and maximum, refusing NaN and infinity."""
    low, high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFiniteError("met NaN or infinity")
    return low, high


def dynamic_scale(largest: float, previous: float | None, initial: float, hysteresis: float) -> float:
    """The scale of this step from max|x|, the previous step's scale and the hysteresis."""
    with np.errstate(over="ignore"):
        target = np.float32(largest) / np.float32(127)
        ceiling = target * np.float32(hysteresis)
    if float(target) < TINY_TARGET:
        return f32(initial) if previous is None else previous
    if previous is not None and float(target) <= previous <= float(ceiling):
        return previous
    return float(target)


def quantize(x: Tensor, scale: float, zero_point: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    reciprocal = float(np.float32(1) / np.float32(scale))
    low = -127 if symmetric else -128

    def block(v: Tensor) -> Tensor:
        return (v * reciprocal).round_().add_(zero_point).clamp_(low, 127)

    return blocked(block, x, torch.int8), torch.tensor([scale, zero_point], dtype=torch.float32)


def dequantize(acc: Tensor, params: Tensor, w_scale: Tensor, bias: Tensor | None, axis: int) -> Tensor:
    shape = [1] * acc.dim()
    shape[axis] = -1
    y = acc.to(torch.float32).mul_((w_scale * params[0]).view(shape))
    return y if bias is None else y.add_(bias.view(shape))


def dequantize_matmul(acc: Tensor, params_a: Tensor, params_b: Tensor, factor: float) -> Tensor:
    return acc.to(torch.float32).mul_((params_a[0] * params_b[0]) * f32(factor))


def softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    p = torch.empty(rows.shape, dtype=torch.int8)
    at_once = max(1, BLOCK // rows.shape[1])
    for start in range(0, rows.shape[0], at_once):
        part = rows[start : start + at_once]
        peak = part.amax(-1, keepdim=True)
        if not bool((peak < math.inf).all()):
            raise NonFiniteError("met NaN or +infinity")
        masked = peak == -math.inf
        weights = exp32(part - peak.masked_fill(masked, 0.0)).mul_(127.0).round_()
        p[start : start + at_once] = weights.masked_fill_(masked, 0.0)
    return p.view(x.shape), p.sum(-1, dtype=torch.int32).clamp_min_(1).view(x.shape[:-1])


def dequantize_attention(acc: Tensor, sums: Tensor, params_b: Tensor) -> Tensor:
    return acc.to(torch.float32).mul_(params_b[0]).div_(sums.to(torch.float32).unsqueeze(-1))


def group_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, groups: int, eps: float) -> Tensor:
    batch, channels, space = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    at_once = max(1, BLOCK // (channels * space))
    if batch > at_once:
        parts = (group_norm(part, gamma, beta, groups, eps) for part in torch.split(x, at_once))
        return torch.cat(list(parts))
    size = channels // groups
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        v = x.permute(0, 2, 3, 1).reshape(batch, space, channels)
        mean, rstd = moments(v, size, eps)
        y = _affine((v - mean).mul_(rstd), gamma, beta)
        return y.view(batch, *x.shape[2:], channels).permute(0, 3, 1, 2)
    v = x.reshape(batch * groups, size * space, 1)
    mean, rstd = moments(v, 1, eps)
    y = (v - mean).mul_(rstd).view(batch, channels, space)
    column = [None if t is None else t.unsqueeze(1) for t in (gamma, beta)]
    return _affine(y, *column).view(x.shape)


def layer_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    v = x.reshape(-1, x.shape[-1], 1)
    mean, rstd = moments(v, 1, eps)
    return _affine((v - mean).mul_(rstd).view(x.shape), gamma, beta)


def _affine(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """× gamma and + beta, in place, if given."""
    if gamma is not None:
        y.mul_(gamma)
    return y if beta is None else y.add_(beta)


def silu(x: Tensor) -> Tensor:
    return x / exp32(-x).add_(1.0)


def tanh(x: Tensor) -> Tensor:
    return sigmoid32(x * 2.0).mul_(2.0).sub_(1.0)


def gelu_tanh(x: Tensor) -> Tensor:
    u = (x * x).mul_(x)
    v = u.mul_(f32(0.0447149985)).add_(x).mul_(f32(1.59576917))
    return x / exp32(v.neg_()).add_(1.0)


_ERF = tuple(f32(c) for c in (-1.45315206, 1.42141378, -0.284496725, 0.254829586))


def gelu_erf(x: Tensor) -> Tensor:
    a = (x * f32(0.707106769)).abs_()
    t = (a * f32(0.327591091)).add_(1.0).reciprocal_()
    p = t * f32(1.06140542)
    for constant in _ERF:
        p.add_(constant).mul_(t)
    e = p.mul_(exp32((a * a).neg_())).neg_().add_(1.0)
    e = torch.where(x < 0, -e, e)
    return (x * 0.5).mul_(e.add_(1.0))


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "sigmoid": sigmoid32,
    "tanh": tanh,
    "relu": lambda x: x.clamp_min(0.0),
    "exp": exp32,
    "sqrt": lambda x: x.double().sqrt().float(),  # torch's own in binary32 is not always the nearest
    "log": log32,
    "trunc": torch.trunc,
    "sin": lambda x: trig(x, 0),
    "cos": lambda x: trig(x, 1),
    "gelu": gelu_erf,
}

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "less": lambda a, b: (a < b).float(),
    "equal": lambda a, b: (a == b).float(),
}


# --- data movement --------------------------------------------------------------------------------


def gather(table: Tensor, index: Tensor) -> Tensor:
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= table.shape[0]:
        raise NonFiniteError(f"met index {low if low < 0 else high}, the table has {table.shape[0]} rows")
    return table[index]


def move(command: Command, operands: Sequence[Tensor]) -> Tensor:
    x, attrs = operands[0], command.attrs
    match command.op:
        case "reshape":
            return x.reshape(ints(attrs, "shape"))
        case "permute":
            return x.permute(ints(attrs, "order"))
        case "concat":
            return torch.cat(list(operands), integer(attrs, "axis"))
        case "slice":
            region = [slice(None)] * x.dim()
            start, stop, stride = (integer(attrs, name) for name in ("start", "stop", "step"))
            region[integer(attrs, "axis")] = slice(start, stop, stride)
            return x[tuple(region)]
        case "broadcast":
            return x.expand(ints(attrs, "shape"))
        case "upsample_nearest":
            fh, fw = ints(attrs, "factor")
            n, c, h, w = x.shape
            nhwc = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, h, fh, w, fw, c)
            return nhwc.reshape(n, h * fh, w * fw, c).permute(0, 3, 1, 2)
        case "gather":
            return gather(x, operands[1])
    raise NotImplementedError(f"golden: no arithmetic for command {command.op!r}")
