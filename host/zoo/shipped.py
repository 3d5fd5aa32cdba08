# SPDX-License-Identifier: Apache-2.0
"""The architectures of the models that ship with weights, as diffusers modules with fresh parameters.

Does: build each denoiser and its noise schedule from literal numbers, for training and tests alike.
Does not: load weights (`zoo.load_pipeline` does) or describe the paper's workloads (`workloads.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DiTTransformer2DModel,
        UNet2DConditionModel,
        UNet2DModel,
    )
    from transformers import CLIPTextModel

# DiTPipeline hard-codes ImageNet's null class, so the label table keeps 1000 + 1 rows; a smaller
# dataset uses the first ones and the last.
DIT_NULL_CLASS = 1000


def fashion_ddpm(act_fn: str = "silu") -> UNet2DModel:
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
        act_fn=act_fn,
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


def cifar_ddpm_small(act_fn: str = "silu") -> UNet2DModel:
    """32x32 colour UNet, a tenth of the paper's configuration: attention at 16x16 and 8x8, 3.89 M parameters."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=32,
        act_fn=act_fn,
    )


def fashion_ddpm_relu() -> UNet2DModel:
    """`fashion-ddpm` with ReLU in front of every residual block's convolutions, as SQ-DM's models have it."""
    return fashion_ddpm("relu")


def cifar_ddpm_small_relu() -> UNet2DModel:
    """`cifar-ddpm-small` with ReLU in front of every residual block's convolutions, as SQ-DM's models have it."""
    return cifar_ddpm_small("relu")


def cifar_ddpm() -> UNet2DModel:
    """32x32 colour UNet in the paper's own configuration of DDPM on CIFAR-10, 35.7 M parameters."""
    from diffusers import UNet2DModel

    from .workloads import workloads

    return UNet2DModel(**workloads()["ddpm"].config)


EMOJI_TOKENS = 16
"""Length of a prompt, padding included: the context of every cross-attention."""

EMOJI_LATENT = 16
"""Height and width of a latent; pictures are four times that."""


def emoji_unet() -> UNet2DConditionModel:
    """16x16x4 latent UNet: self- and cross-attention at 16x16 and 8x8 on 16 text tokens."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=EMOJI_LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=(96, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,  # diffusers' name for the number of heads here
    )


def emoji_vae() -> AutoencoderKL:
    """Autoencoder of 64x64 colour pictures: four times down, four latent channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=4 * EMOJI_LATENT,
        scaling_factor=1.0,
    )


def emoji_text_encoder(vocabulary: int, start_token: int, end_token: int) -> CLIPTextModel:
    """CLIP's text transformer, small: three layers of 128."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=EMOJI_TOKENS,
            projection_dim=128,
            hidden_act="gelu",
            bos_token_id=start_token,
            eos_token_id=end_token,
            pad_token_id=end_token,
        )
    )


def latent_schedule() -> DDIMScheduler:
    """For latents of pictures on white: v-prediction down to pure noise, so that the mean is drawn, not leaked."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # without effect here; Stable Diffusion's pipeline insists
    )


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
    "fashion-ddpm-relu": fashion_ddpm_relu,
    "fashion-dit": fashion_dit,
    "cifar-ddpm": cifar_ddpm,
    "cifar-ddpm-small": cifar_ddpm_small,
    "cifar-ddpm-small-relu": cifar_ddpm_small_relu,
    "emoji-sd": emoji_unet,
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
        if name == "emoji-sd":
            context = torch.randn(batch, EMOJI_TOKENS, config["cross_attention_dim"])
            return (sample, timestep), {"encoder_hidden_states": context}
        return (sample, timestep), {}
