# SPDX-License-Identifier: Apache-2.0
"""Block-scaled numbers on the host: a layer's weights before a run, and tensors as the device would see them.

Weights have a second-level scale per output channel, activations one per tensor; the arithmetic is `quantize_block`'s
(`protocol/isa.py`). The two baselines that SQ-DM is compared with, INT4 and INT4-VSQ, are here as fake quantization alone:
nothing executes them. What this file does not do: decide formats (`plan.py`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ditto_cosim.protocol.blocks import (
    FORMATS,
    MX_EXPONENT_MIN,
    MX_FRACTION_BITS,
    MX_WINDOW,
    SCALE_BITS,
    SCALE_MAX,
    SECOND_LEVEL_MIN,
    BlockFormat,
)

Baseline = Literal["int4_vsq", "int4_tensor"]
LARGEST = SCALE_MAX / 2**SCALE_BITS
VSQ_SCALE_BITS, VSQ_BLOCK = 6, 16
"""VS-Quant allows 4 to 8 bits and 16 to 64 elements."""


def quantize_weight(weight: Tensor, form: BlockFormat, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [N, C, …], scales [N, ⌈C ÷ block⌉, …] and second-level scales [N] of weights; blocks run over input channels."""
    flat = weight.detach().to(torch.float32).movedim(1, -1)
    codes, scales, t = _blocks(flat, form, block, tuple(range(1, flat.ndim)))
    return codes.to(torch.int8).movedim(-1, 1).contiguous(), scales.movedim(-1, 1).contiguous(), t


def as_seen(x: Tensor, form: BlockFormat, block: int, axis: int, *, of_each: bool = False) -> Tensor:
    """The numbers that are left of a tensor; `of_each`: entries of the first axis have second-level scales of their own."""
    last = x.to(torch.float32).movedim(axis, -1)
    codes, scales, t = _blocks(last, form, block, tuple(range(of_each, last.ndim)))
    unit = (scales.to(torch.float32) * 2.0**-SCALE_BITS).repeat_interleave(block, -1)[..., : last.shape[-1]]
    shape = [-1] + [1] * (last.ndim - 1) if of_each else []
    found: Tensor = codes * unit * t.reshape(shape)
    return found.movedim(-1, axis)


def baseline_as_seen(x: Tensor, kind: Baseline, axis: int, *, of_each: bool = False) -> Tensor:
    """The numbers that are left of a tensor in signed 4 bits: on one scale, or on VS-Quant's two levels.

    One scale is the tensor's (activations) or an output channel's (weights). VS-Quant has an integer scale of 6 bits a vector
    of 16 and a float one a channel: an output channel of weights, the whole tensor of activations.
    """
    last = x.to(torch.float32).movedim(axis, -1)
    over = tuple(range(of_each, last.ndim))
    top = last.abs().amax(over, keepdim=True).clamp_min(1e-30)
    if kind == "int4_tensor":
        scale = top / 7
        whole: Tensor = (last / scale).round().clamp(-7, 7) * scale
        return whole.movedim(-1, axis)
    parts = pad(last, (0, -last.shape[-1] % VSQ_BLOCK)).unflatten(-1, (-1, VSQ_BLOCK))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    levels = 2**VSQ_SCALE_BITS - 1
    coarse = (top / 7 / levels)[..., None]
    fine = (parts.abs().amax(-1, keepdim=True) / 7 / coarse).round().clamp(1, levels)
    seen: Tensor = (parts / (fine * coarse)).round().clamp(-7, 7) * fine * coarse
    return seen.flatten(-2)[..., : last.shape[-1]].movedim(-1, axis)


def _blocks(
    last: Tensor, form: BlockFormat, block: int, over: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and second-level scales of [..., channels]; one of these for all axes in `over`."""
    parts = pad(last, (0, -last.shape[-1] % block)).unflatten(-1, (-1, block))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    largest = (parts.clamp_min(0) if FORMATS[form].low == 0 else parts.abs()).amax(-1)
    top = largest.amax(over, keepdim=True)
    codes, scales, t = (_float_scaled if FORMATS[form].is_float_scaled else _power_scaled)(
        parts, largest, top, form
    )
    return codes.flatten(-2)[..., : last.shape[-1]], scales, t.flatten()


def _float_scaled(
    parts: Tensor, largest: Tensor, top: Tensor, form: BlockFormat
) -> tuple[Tensor, Tensor, Tensor]:
    high = torch.tensor(float(FORMATS[form].high))
    t = torch.maximum(top / (LARGEST * high), torch.tensor(SECOND_LEVEL_MIN))
    wanted = (largest / (high * t)).clamp_max(LARGEST)
    scales = (wanted.to(torch.float8_e4m3fn).to(torch.float32) * 2**SCALE_BITS).to(torch.int32)
    unit = ((scales.to(torch.float32) * 2.0**-SCALE_BITS) * t)[..., None]
    codes = torch.where(unit > 0, (parts / unit).round(), 0.0)
    return codes.clamp(FORMATS[form].low, FORMATS[form].high), scales, t


def _power_scaled(
    parts: Tensor, largest: Tensor, top: Tensor, form: BlockFormat
) -> tuple[Tensor, Tensor, Tensor]:
    highest = torch.where(top > 0, torch.frexp(top).exponent - 1, MX_EXPONENT_MIN)
    lowest = (highest - MX_WINDOW).clamp_min(MX_EXPONENT_MIN)
    exponents = torch.maximum(torch.frexp(largest).exponent - 1, lowest)
    scaled = parts * torch.exp2((MX_FRACTION_BITS - exponents).to(torch.float32))[..., None]
    codes = ((scaled.abs() + 0.5).floor() * scaled.sign()).clamp(FORMATS[form].low, FORMATS[form].high)
    scales = torch.where(largest > 0, torch.exp2((exponents - lowest).to(torch.float32)), 0.0).to(torch.int32)
    codes = torch.where((largest > 0)[..., None], codes, 0.0)
    return codes, scales, torch.exp2((lowest + SCALE_BITS - MX_FRACTION_BITS).to(torch.float32))
