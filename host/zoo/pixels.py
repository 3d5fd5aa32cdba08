# SPDX-License-Identifier: Apache-2.0
"""An autoencoder that is the identity, so that diffusers' DiTPipeline runs a DiT trained on pixels.

Does: answer `decode` with its input, as the type and with the configuration key that DiTPipeline expects.
Does not: have layers or parameters, or encode: there is no latent space.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput


class PixelVAE(AutoencoderKL):  # type: ignore[misc]  # diffusers ships no types
    """decode(x) = x."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers ships no types
    def __init__(self, scaling_factor: float = 1.0) -> None:
        ModelMixin.__init__(self)  # none of AutoencoderKL's layers
        self.register_buffer("anchor", torch.zeros(1), persistent=False)  # device, dtype

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        return DecoderOutput(sample=latents) if return_dict else (latents,)
