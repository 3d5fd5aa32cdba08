# SPDX-License-Identifier: Apache-2.0
"""A denoiser of a few thousand weights with every kind of layer, its inputs, and its program."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from ditto_cosim.host.compiler.calibrate import calibrate
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser

STEPS = 4


class Denoiser(nn.Module):
    """Convolutions with stride and padding, norms, self-attention: every kind of layer there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.to_qkv = nn.Linear(8, 24)
        self.to_out = nn.Linear(8, 8)
        self.conv_out = nn.Conv2d(8, 3, 1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.norm(self.conv_in(sample)))
        tokens = x.flatten(2).transpose(1, 2)
        heads = self.to_qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        tokens = tokens + self.to_out(attended.transpose(1, 2).flatten(2))
        return self.conv_out(tokens.transpose(1, 2).unflatten(2, (4, 4)))


def trajectory() -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    for _ in range(STEPS):
        yield {"sample": x}
        x = x * 0.97 + 0.05 * torch.randn(x.shape, generator=generator)


def small(policy: str = "static") -> tuple[nn.Module, list[dict[str, torch.Tensor]], Compiled]:
    """The denoiser, its inputs step by step, and its program."""
    torch.manual_seed(0)
    denoiser = Denoiser().eval()
    inputs = list(trajectory())
    captured = capture(denoiser, inputs[0])
    grids = calibrate(captured, inputs, policy=policy, hysteresis=1.02)
    return denoiser, inputs, compile_denoiser(captured, grids, steps=STEPS)
