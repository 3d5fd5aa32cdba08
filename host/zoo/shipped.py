"""The architectures of the models that ship with weights, as diffusers modules with fresh parameters.

Does: build each denoiser and its noise schedule from literal numbers, for training and tests alike.
Does not: load weights (`zoo.load_pipeline` does) or describe the paper's workloads (`workloads.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel

# DiTPipeline hard-codes ImageNet's null class, so the label table keeps 1000 + 1 rows; a smaller
# dataset uses the first ones and the last.
DIT_NULL_CLASS = 1000


def fashion_ddpm() -> UNet2DModel:
    """28x28 grey-scale UNet: attention at 14x14 and 7x7, 32-wide heads, 1.86 M parameters."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=32,
    )


def fashion_dit() -> DiTTransformer2DModel:
    """28x28 grey-scale DiT on pixels, class-conditional: 49 tokens of 4x4, 6 blocks, 32-wide heads."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        sample_size=28,
        patch_size=4,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        num_attention_heads=6,
        attention_head_dim=32,
        num_embeds_ada_norm=DIT_NULL_CLASS,
    )


def cifar_ddpm_small() -> UNet2DModel:
    """32x32 colour UNet, a thirteenth of the paper's configuration: attention at 16x16 and 8x8, 2.79 M parameters."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=32,
    )


def cifar_ddpm() -> UNet2DModel:
    """32x32 colour UNet in the paper's own configuration of DDPM on CIFAR-10, 35.7 M parameters."""
    from diffusers import UNet2DModel

    from .workloads import workloads

    return UNet2DModel(**workloads()["ddpm"].config)


def noise_schedule(clip_sample: bool = True) -> DDIMScheduler:
    """Linear betas over 1000 training steps, noise prediction; 50 DDIM steps are the advice.

    Guided models sample without clipping: guidance overshoots the range early on, and DDIM, which keeps the
    unclipped noise beside the clipped picture, then drifts to grey patches.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=clip_sample,
        set_alpha_to_one=True,
        prediction_type="epsilon",
    )


_BUILDERS: dict[str, Callable[[], Any]] = {
    "fashion-ddpm": fashion_ddpm,
    "fashion-dit": fashion_dit,
    "cifar-ddpm": cifar_ddpm,
    "cifar-ddpm-small": cifar_ddpm_small,
}


def build(name: str, device: str = "cpu") -> torch.nn.Module:
    """The denoiser `name` with fresh parameters on `device`."""
    with torch.device(device):
        module: torch.nn.Module = _BUILDERS[name]()
    return module.eval()


def example_inputs(name: str, device: str = "cpu", batch: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one call of the denoiser `name`."""
    config: Any = build(name, "meta").config
    with torch.device(device):
        sample = torch.randn(batch, config["in_channels"], config["sample_size"], config["sample_size"])
        timestep = torch.full((batch,), 500, dtype=torch.int64)
        if name == "fashion-dit":
            return (sample,), {"timestep": timestep, "class_labels": torch.zeros(batch, dtype=torch.int64)}
        return (sample, timestep), {}
