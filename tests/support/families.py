# SPDX-License-Identifier: Apache-2.0
"""Small denoisers of every family, with random weights, and their compiled programs: what the end-to-end tests run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ditto_cosim.host.compiler.cache import Cache, plan_of
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.factors import Factors
from ditto_cosim.host.compiler.quantize import Policy
from ditto_cosim.host.pipeline.factor import factor_denoiser

STEPS = 4
Inputs = dict[str, torch.Tensor]


class Odds(nn.Module):
    """Every vector command that the diffusers families do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.second = nn.Linear(16, 12)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = self.first(sample)
        x = torch.relu(x) + torch.sigmoid(x) * torch.tanh(x) - torch.exp(-x * x)
        x = x / (1.5 + torch.sigmoid(x))
        x = torch.where(x.clamp(-2.0, 2.0) > 0, nn.functional.mish(x), x * (x == 0))
        x = nn.functional.rms_norm(x + (2 * x).trunc(), (16,)) + x.abs().sqrt() - x.mean(-1, keepdim=True)
        return self.second(nn.functional.gelu(x, approximate="none"))


class Convolutions(nn.Module):
    """Every kind of convolution: grouped, dilated, depthwise, transposed, over one axis and over three."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.strided = nn.Conv2d(8, 8, (3, 2), stride=(2, 1), dilation=(1, 3))
        self.larger = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.line = nn.Conv1d(6, 6, 3, padding="same", groups=3)
        self.frames = nn.Conv3d(2, 4, (3, 3, 1), stride=(2, 1, 1), padding=(1, 1, 0), bias=False)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = self.grouped(sample)
        x = self.larger(self.strided(x + self.depthwise(x)))
        x = x + self.line(x.flatten(2)).unflatten(2, x.shape[2:])
        return self.frames(x.unflatten(1, (2, 3)))


def _unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
    )


def _conditional() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=16,
        cross_attention_dim=24,
        attention_head_dim=8,
    )


def _dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=16,
        num_embeds_ada_norm=1000,  # DiTPipeline takes class 1000 as "no class"
    )


def _latte() -> nn.Module:
    from diffusers import LatteTransformer3DModel

    return LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        caption_channels=24,
        video_length=4,
        cross_attention_dim=None,
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        activation_fn="gelu-approximate",
    )


def _walk(name: str, shape: tuple[int, ...], fixed: Inputs, batch_timestep: bool) -> list[Inputs]:
    """A trajectory like a sampler's: inputs that change a little from step to step."""
    start = torch.randn(shape)
    steps = []
    for i in range(STEPS):
        t = torch.tensor(900 - 20 * i)
        sample = start + 0.05 * i * torch.randn(shape)
        steps.append({name: sample, "timestep": t.expand(shape[0]).clone() if batch_timestep else t, **fixed})
    return steps


_BUILDERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Inputs]]]] = {
    "unet": (_unet, lambda: _walk("sample", (2, 1, 16, 16), {}, False)),
    "unet-conditional": (
        _conditional,
        lambda: _walk("sample", (2, 4, 16, 16), {"encoder_hidden_states": torch.randn(2, 7, 24)}, False),
    ),
    "dit": (_dit, lambda: _walk("hidden_states", (2, 4, 8, 8), {"class_labels": torch.tensor([1, 2])}, True)),
    "latte": (
        _latte,
        lambda: _walk(
            "hidden_states", (2, 4, 4, 8, 8), {"encoder_hidden_states": torch.randn(2, 7, 24)}, True
        ),
    ),
    "odds": (Odds, lambda: _walk("sample", (3, 12), {}, False)),
    "convolutions": (Convolutions, lambda: _walk("sample", (2, 4, 6, 7), {}, False)),
}
PLAIN = ("odds", "convolutions")
"""Modules of the tests' own; the others are diffusers'."""
FAMILIES = tuple(n for n in _BUILDERS if n not in PLAIN)
PERIOD, RANK = 3, 8
CACHED = {
    "dit-icc": Cache("icc", PERIOD, RANK),
    "dit-icc-projected": Cache("icc", PERIOD, RANK, projected=True),
    "dit-reuse": Cache("reuse", PERIOD),
}
"""The same DiT, with full steps and increments."""


def build(name: str) -> nn.Module:
    """A denoiser with fresh random weights."""
    return _BUILDERS[name][0]().eval()


def calibrated(name: str) -> tuple[Calibrator, list[Inputs], torch.Tensor]:
    """Calibrator after the whole trajectory, the trajectory, and the fp32 result of its last step."""
    return _calibrated("dit" if name in CACHED else name)


@lru_cache
def _calibrated(name: str) -> tuple[Calibrator, list[Inputs], torch.Tensor]:
    torch.manual_seed(0)
    module, steps = build(name), _BUILDERS[name][1]()
    extra: dict[str, Any] = {} if name in PLAIN else {"return_dict": False}
    calibrator = Calibrator(capture(module, steps[0], extra=extra))
    for inputs in steps:
        last = calibrator.observe(inputs)
    return calibrator, steps, last


@lru_cache
def compiled(name: str, policy: Policy = "static") -> Compiled:
    calibrator, steps, _ = calibrated(name)
    plan = None
    if name in CACHED:
        module, factors = _factored()
        plan = plan_of(CACHED[name], module, factors)
    return compile_denoiser(calibrator.captured, calibrator.grids(policy=policy), steps=len(steps), plan=plan)


@lru_cache
def _factored() -> tuple[nn.Module, Factors]:
    """The DiT and its factors, from its trajectory."""
    torch.manual_seed(0)
    module = build("dit")
    steps = _calibrated("dit")[1]

    def call() -> None:
        for inputs in steps:
            module(**inputs)

    return module, factor_denoiser(call, module, "cd", RANK, longest_period=PERIOD)
