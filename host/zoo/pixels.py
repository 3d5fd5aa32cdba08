"""An autoencoder that is the identity, so that diffusers' DiTPipeline runs a DiT trained on pixels.

Does: answer `decode` with its input, under the configuration keys that DiTPipeline reads.
Does not: have parameters, or stand in for a real latent space.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput


class PixelVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers ships no types
    """decode(x) = x."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers ships no types
    def __init__(self, scaling_factor: float = 1.0) -> None:
        super().__init__()

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        return DecoderOutput(sample=latents) if return_dict else (latents,)
