# SPDX-License-Identifier: Apache-2.0
"""The paper's seven workloads (its Table I) as data: sampler, steps, denoiser.

Does: hold the literal numbers of the published checkpoints; importing it costs nothing.
Does not: build anything (`paper.py` does), or hold weights, autoencoders or text encoders.

Two entries differ from their publication in ways that leave layers, shapes and MACs alone: `chur` uses one
head width where the original uses eight heads at every level, because UNet2DModel has one width, and its
resampling blocks are diffusers' residual ones; `latte` is the published alternation of 14 spatial and 14
temporal blocks, conditioned on the timestep only: diffusers' class insists on a caption input, which without
cross-attention reaches no output and disappears in capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workload:
    """One row of the paper's Table I and the diffusers class and configuration that realise it."""

    name: str
    family: str
    description: str
    sampler: str
    steps: int
    image_size: int
    dataset: str
    diffusers_class: str
    config: dict[str, Any]


_XL2: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 32,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}

_WORKLOADS = (
    Workload(
        "ddpm",
        "unet",
        "DDPM on CIFAR-10, pixels, 35.7 M parameters",
        "DDIM",
        100,
        32,
        "CIFAR-10",
        "UNet2DModel",
        {
            "sample_size": 32,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": (128, 256, 256, 256),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "attention_head_dim": None,
            "norm_num_groups": 32,
            "norm_eps": 1e-6,
        },
    ),
    Workload(
        "bed",
        "unet",
        "latent diffusion on LSUN bedrooms, 64x64x3 latents, 274 M parameters",
        "DDIM",
        200,
        256,
        "LSUN-Bed",
        "UNet2DModel",
        {
            "sample_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": (224, 448, 672, 896),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 32,
            "norm_num_groups": 32,
        },
    ),
    Workload(
        "chur",
        "unet",
        "latent diffusion on LSUN churches, 32x32x4 latents, 289 M parameters",
        "DDIM",
        200,
        256,
        "LSUN-Church",
        "UNet2DModel",
        {
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (192, 384, 384, 768, 768),
            "layers_per_block": 2,
            "down_block_types": (*(["AttnDownBlock2D"] * 4), "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *(["AttnUpBlock2D"] * 4)),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 24,
            "norm_num_groups": 32,
        },
    ),
    Workload(
        "img",
        "unet-conditional",
        "latent diffusion on ImageNet (cin256), 64x64x3 latents, one context token, 401 M parameters",
        "DDIM",
        20,
        256,
        "ImageNet",
        "UNet2DConditionModel",
        {
            "sample_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": (192, 384, 576, 960),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", *(["CrossAttnDownBlock2D"] * 3)),
            "up_block_types": (*(["CrossAttnUpBlock2D"] * 3), "UpBlock2D"),
            "cross_attention_dim": 512,
            "attention_head_dim": 1,
            "norm_num_groups": 32,
        },
    ),
    Workload(
        "sdm",
        "unet-conditional",
        "Stable Diffusion v1.4, 64x64x4 latents, 77 text tokens of context, 860 M parameters",
        "PLMS",
        50,
        512,
        "COCO2017",
        "UNet2DConditionModel",
        {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "norm_num_groups": 32,
        },
    ),
    Workload(
        "dit",
        "dit",
        "DiT-XL/2 on ImageNet 256, 32x32x4 latents, class-conditional, 750 M parameters",
        "DDIM",
        250,
        256,
        "ImageNet",
        "DiTTransformer2DModel",
        {**_XL2, "num_layers": 28, "num_embeds_ada_norm": 1000},
    ),
    Workload(
        "latte",
        "latte",
        "Latte-XL/2 on UCF-101, 16 frames of 32x32x4 latents, 14 spatial and 14 temporal blocks",
        "DDIM",
        20,
        256,
        "UCF-101",
        "LatteTransformer3DModel",
        {**_XL2, "num_layers": 14, "caption_channels": 1, "norm_type": "ada_norm_single", "video_length": 16},
    ),
)


def workloads() -> dict[str, Workload]:
    """The seven workloads by the paper's abbreviation, in its order."""
    return {workload.name: workload for workload in _WORKLOADS}
