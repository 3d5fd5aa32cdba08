# SPDX-License-Identifier: Apache-2.0
"""A pipeline around a denoiser that has none: seeded noise, seeded conditions, DDIM unless another scheduler is given.

So that a bare denoiser, saved with its own `save_pretrained`, can be calibrated, run and priced. Its pictures are its latents.
What this file does not do: text, autoencoders, guidance.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from ditto_cosim.protocol.errors import DittoError

TOKENS = 77
"""Length of a context whose length no config tells."""


class BareError(DittoError):
    """A denoiser that cannot run alone; the message says what it lacks."""


class BarePipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers ships no types
    """Samples from a denoiser alone."""

    _optional_components = ("unet", "transformer")

    def __init__(
        self, unet: nn.Module | None = None, transformer: nn.Module | None = None, scheduler: Any = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, transformer=transformer, scheduler=scheduler or DDIMScheduler())

    @classmethod
    def around(cls, denoiser: nn.Module) -> BarePipeline:
        """The pipeline of a denoiser."""
        return cls(**{"transformer" if "Transformer" in type(denoiser).__name__ else "unet": denoiser})

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
    ) -> Any:
        """Pictures from noise; `output_type="np"` gives them as an array, `"latent"` the tensor."""
        denoiser: Any = self.unet or self.transformer
        arguments = _conditions(denoiser, batch_size, generator)
        sample = randn_tensor(_shape(denoiser, batch_size), generator, dtype=denoiser.dtype)
        sample = sample * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(num_inference_steps)
        draws = "generator" in inspect.signature(self.scheduler.step).parameters
        more = {"generator": generator} if draws else {}
        for t in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(sample, t)
            time = t if self.unet is not None else t.expand(batch_size)
            noise = denoiser(scaled, timestep=time, return_dict=False, **arguments)[0]
            noise = noise[:, : sample.shape[1]]  # a learned variance follows the noise
            sample = self.scheduler.step(noise, t, sample, **more).prev_sample
        if output_type == "latent":
            return ImagePipelineOutput(images=sample)
        pixels = (sample.float() / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
        return ImagePipelineOutput(images=pixels if output_type == "np" else self.numpy_to_pil(pixels))


def _shape(denoiser: Any, batch: int) -> tuple[int, ...]:
    size = denoiser.config.get("sample_size")
    if size is None or "in_channels" not in denoiser.config:
        raise BareError(
            f"{type(denoiser).__name__} does not say its sample_size; save it inside its pipeline"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return batch, denoiser.config["in_channels"], height, width


def _conditions(denoiser: Any, batch: int, generator: Any) -> dict[str, Any]:
    """Conditions of the right shapes, drawn once."""
    config, kind = denoiser.config, type(denoiser).__name__

    def noise(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = randn_tensor((batch, *shape), generator, dtype=denoiser.dtype)
        return drawn

    if kind == "UNet2DModel":
        labelled = config.get("class_embed_type") or config.get("num_class_embeds")
        return (
            {"class_labels": torch.arange(batch) % (config.get("num_class_embeds") or 1)} if labelled else {}
        )
    if kind == "DiTTransformer2DModel":
        return {"class_labels": torch.arange(batch) % config["num_embeds_ada_norm"]}
    if kind == "UNet2DConditionModel" and config.get("addition_embed_type") in (None, "text_time"):
        width = config["cross_attention_dim"]
        found: dict[str, Any] = {
            "encoder_hidden_states": noise(TOKENS, width if isinstance(width, int) else width[0])
        }
        if config.get("addition_embed_type"):
            text = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            side = 8.0 * _shape(denoiser, batch)[-1]
            ids = torch.tensor([side, side, 0, 0, side, side], dtype=denoiser.dtype).expand(batch, 6)
            found["added_cond_kwargs"] = {"text_embeds": noise(text), "time_ids": ids.clone()}
        return found
    raise BareError(
        f"{kind} alone does not say what it is conditioned on; give the folder of its pipeline (pipe.save_pretrained)"
    )
