# SPDX-License-Identifier: Apache-2.0
"""What the block-scaled commands compute, in torch, written from the text of `protocol/isa.py` and from nothing else.

A product is taken block by block and scaled as the text has it, in int64; E4M3 is torch's own type. Nothing here is shared
with the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ditto_cosim.host.reference.golden_ops import finite_extremes
from ditto_cosim.protocol.isa import Attrs, Convolution, integer

LEVELS = {"uint4": 15, "int4": 7}


def quantize_block(x: Tensor, attrs: Attrs) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and params."""
    finite_extremes(x)
    axis, block = integer(attrs, "axis"), integer(attrs, "block")
    last = x.movedim(axis, -1)
    channels = last.shape[-1]
    parts = pad(last, (0, -channels % block)).unflatten(-1, (-1, block))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    form = str(attrs["format"])
    largest = (parts.clamp_min(0) if form == "uint4" else parts.abs()).amax(-1)
    codes, scales, t = (_mxint8 if form == "mxint8" else _int4)(parts, largest, form)
    flat = codes.flatten(-2)[..., :channels].to(torch.int8)
    return flat.movedim(-1, axis), scales.movedim(-1, axis), torch.tensor([t, 0.0])


def _int4(parts: Tensor, largest: Tensor, form: str) -> tuple[Tensor, Tensor, float]:
    levels = torch.tensor(float(LEVELS[form]))
    t = torch.maximum(largest.max() / (448 * levels), torch.tensor(2.0**-100))
    wanted = (largest / (levels * t)).clamp_max(448)
    scales = (wanted.to(torch.float8_e4m3fn).to(torch.float32) * 512).to(torch.int32)
    unit = (scales.to(torch.float32) * 2.0**-9 * t)[..., None]
    codes = torch.where(unit > 0, torch.round(parts / unit), 0)
    return codes.clamp(0 if form == "uint4" else -7, LEVELS[form]), scales, float(t)


def _mxint8(parts: Tensor, largest: Tensor, form: str) -> tuple[Tensor, Tensor, float]:
    none = largest == 0
    exponents = torch.where(none, -1000, torch.frexp(largest).exponent - 1)
    lowest = max(int(exponents.max()) - 16, -100)
    exponents = exponents.clamp_min(lowest)
    y = parts * torch.exp2((6 - exponents).to(torch.float32))[..., None]
    codes = (torch.floor(y.abs() + 0.5) * y.sign()).clamp(-127, 127)
    scales = torch.where(none, 0, 1 << (exponents - lowest).to(torch.int64)).to(torch.int32)
    return codes, scales, 2.0 ** (lowest + 3)


def conv2d_block(x: Tensor, scales: Tensor, w: Tensor, w_scales: Tensor, attrs: Attrs) -> Tensor:
    """Tap by tap and block by block."""
    how, block = Convolution.of(attrs), integer(attrs, "block")
    (sh, sw), (ph, pw), (dh, dw) = how.stride, how.padding, how.dilation
    reach = how.reach((w.shape[2], w.shape[3]))
    high, wide = (
        (n + 2 * p - r) // s + 1 for n, p, r, s in zip(x.shape[2:], (ph, pw), reach, (sh, sw), strict=True)
    )
    x, scales = (pad(v, (pw, pw, ph, ph)).permute(0, 2, 3, 1) for v in (x, scales))
    acc = torch.zeros(x.shape[0], high, wide, w.shape[0], dtype=torch.int64)
    for u in range(w.shape[2]):
        for v in range(w.shape[3]):
            rows = slice(u * dh, u * dh + sh * (high - 1) + 1, sh)
            columns = slice(v * dw, v * dw + sw * (wide - 1) + 1, sw)
            acc += _tap(
                x[:, rows, columns], scales[:, rows, columns], w[:, :, u, v], w_scales[:, :, u, v], block
            )
    return acc.permute(0, 3, 1, 2)


def linear_block(x: Tensor, scales: Tensor, w: Tensor, w_scales: Tensor, attrs: Attrs) -> Tensor:
    return _tap(x, scales, w, w_scales, integer(attrs, "block"))


def _tap(x: Tensor, scales: Tensor, w: Tensor, w_scales: Tensor, block: int) -> Tensor:
    """Σ over blocks; a block's own sum is at most 64 × 127², which binary32 holds exactly in any order."""
    acc = torch.zeros(*x.shape[:-1], w.shape[0], dtype=torch.int64)
    for at in range(scales.shape[-1]):
        part = slice(at * block, (at + 1) * block)
        inner = (x[..., part].to(torch.float32) @ w[:, part].to(torch.float32).t()).to(torch.int64)
        acc += inner * scales[..., at, None].to(torch.int64) * w_scales[:, at].to(torch.int64)
    return acc


def dequantize_block(acc: Tensor, params: Tensor, w_t: Tensor, bias: Tensor | None, axis: int) -> Tensor:
    shape = [1] * acc.ndim
    shape[axis] = -1
    factor = params[0].to(torch.float64) * w_t.to(torch.float64) * 2.0**-18
    y = (acc.to(torch.float64) * factor.reshape(shape)).to(torch.float32)
    return y if bias is None else y + bias.reshape(shape)
