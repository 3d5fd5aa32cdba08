# SPDX-License-Identifier: Apache-2.0
"""What each trained model of the zoo learns: its modules, and the loss of one batch drawn from its data.

Does: noise prediction on pixels (UNet, DiT), autoencoding, and text to image on an autoencoder's latents. Data
lie on the training device as a whole and all dice are that device's, so a step needs nothing from the host and
can be captured as a CUDA graph.
Does not: optimise, keep time or save (`train.py` does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import data, prompts, shipped

LABEL_DROPOUT = 0.12
FASHION_CLASSES = 10
CAPTION_VARIANTS = 24
KL_WEIGHT = 1e-3


@dataclass(frozen=True)
class Recipe:
    """What one training run consists of, apart from its length."""

    build: Callable[[], nn.Module]
    dataset: str
    task: str = "pixels"
    """pixels, autoencoder or text-to-image."""
    batch: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.999
    horizontal_flips: bool = False
    class_conditional: bool = False
    start: str | None = None
    """What `--from` has to name, if the run cannot begin from fresh parameters."""


def recipes() -> dict[str, Recipe]:
    """Training recipes by model name."""
    return {
        "fashion-ddpm": Recipe(shipped.fashion_ddpm, "fashion-mnist"),
        "fashion-ddpm-relu": Recipe(
            shipped.fashion_ddpm_relu, "fashion-mnist", batch=128, learning_rate=5e-4, start="fashion-ddpm"
        ),
        "fashion-dit": Recipe(
            shipped.fashion_dit,
            "fashion-mnist",
            batch=128,
            learning_rate=5e-4,
            ema_decay=0.9995,
            class_conditional=True,
        ),
        "cifar-ddpm-small": Recipe(
            shipped.cifar_ddpm_small,
            "cifar-10",
            batch=128,
            learning_rate=6e-4,
            warmup_steps=500,
            ema_decay=0.9995,
            horizontal_flips=True,
        ),
        "cifar-ddpm-small-relu": Recipe(
            shipped.cifar_ddpm_small_relu,
            "cifar-10",
            batch=128,
            learning_rate=3e-4,
            ema_decay=0.9995,
            horizontal_flips=True,
            start="cifar-ddpm-small",
        ),
        "cifar-ddpm": Recipe(
            shipped.cifar_ddpm,
            "cifar-10",
            batch=128,
            learning_rate=3e-4,
            warmup_steps=1000,
            ema_decay=0.9995,
            horizontal_flips=True,
        ),
        "emoji-vae": Recipe(
            shipped.emoji_vae,
            "emoji",
            "autoencoder",
            learning_rate=1e-3,
            horizontal_flips=True,
        ),
        "emoji-sd": Recipe(
            shipped.emoji_unet,
            "emoji",
            "text-to-image",
            batch=128,
            learning_rate=6e-4,
            warmup_steps=500,
            start="emoji-vae",
        ),
    }


def tie_embedders(model: Any) -> None:
    """DiT's blocks share one timestep-and-label embedder; diffusers gives each block a copy. Train one.

    diffusers would drop labels anew in every block; here they are dropped once, before the model.
    """
    shared = model.transformer_blocks[0].norm1.emb
    shared.class_embedder.dropout_prob = 0.0
    for block in model.transformer_blocks:
        block.norm1.emb = shared


def initialise_dit(model: Any) -> None:
    """The DiT paper's start, which diffusers leaves out: every block and the output begin as zero."""
    for block in model.transformer_blocks:
        linears = [m for m in block.modules() if isinstance(m, nn.Linear)]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(block.norm1.linear.weight)
        labels = block.norm1.emb.class_embedder.embedding_table.weight
        nn.init.normal_(labels, std=0.02)
        nn.init.zeros_(labels[FASHION_CLASSES : shipped.DIT_NULL_CLASS])  # nothing asks for these
    nn.init.zeros_(model.proj_out_1.weight)
    nn.init.zeros_(model.proj_out_1.bias)
    nn.init.zeros_(model.proj_out_2.weight)
    nn.init.zeros_(model.proj_out_2.bias)


def precision_of(device: str) -> str:
    """What the network is evaluated in while it trains; without hardware for it, bfloat16 is emulated, slowly."""
    has = torch.cpu.get_capabilities()
    fast = device != "cpu" or has.get("avx512_bf16") or has.get("amx_tile")
    return "bfloat16 autocast" if fast else "fp32"


def autocast(device: torch.device) -> Any:
    """The precision of `precision_of`; without its cache of casts, which a graph must not share with the outside."""
    reduced = precision_of(device.type) != "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=reduced, cache_enabled=False)


def stratified_timesteps(count: int, device: torch.device, steps: int = 1000) -> Tensor:
    """One timestep from each of `count` equal parts of the schedule."""
    strata = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    return (strata * steps).long().clamp_(max=steps - 1)


def flipped_at_random(batch: Tensor) -> Tensor:
    """Every other picture or so, mirrored left to right."""
    flip = torch.rand(len(batch), device=batch.device) < 0.5
    return torch.where(flip[:, None, None, None], batch.flip(-1), batch)


class Task:
    """One model in training: `modules` is what is optimised and saved, `loss` draws a batch and judges it."""

    modules: nn.Module

    def loss(self) -> Tensor:
        raise NotImplementedError

    def compile(self) -> None:
        """Replace the costly module by its compiled form for the calls of `loss`."""

    def keepsakes(self) -> dict[str, Any]:
        """What belongs into a checkpoint beside the modules."""
        return {}


class PixelTask(Task):
    """Mean squared error of the noise predicted on pixels."""

    def __init__(self, recipe: Recipe, device: torch.device, pictures: Tensor, labels: Tensor) -> None:
        self.recipe = recipe
        model = recipe.build()
        if recipe.class_conditional:
            tie_embedders(model)
            initialise_dit(model)
        self.modules = self._network = model.to(device)
        self._pictures, self._labels = pictures.to(device), labels.to(device)
        self._alphas = shipped.noise_schedule().alphas_cumprod.to(device)

    def compile(self) -> None:
        self._network = torch.compile(self.modules, dynamic=False)  # type: ignore[assignment]

    def loss(self) -> Tensor:
        index = torch.randint(len(self._pictures), (self.recipe.batch,), device=self._pictures.device)
        batch = self._pictures[index].float() / 127.5 - 1
        if self.recipe.horizontal_flips:
            batch = flipped_at_random(batch)
        return self.loss_of(batch, self._labels[index])

    def loss_of(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Of these pictures in -1..1, timesteps stratified over the batch."""
        device, count = batch.device, len(batch)
        timesteps = stratified_timesteps(count, device)
        noise = torch.randn_like(batch)
        alpha = self._alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * batch + (1 - alpha).sqrt() * noise
        conditions = {}
        if self.recipe.class_conditional:
            dropped = torch.rand(count, device=device) < LABEL_DROPOUT
            conditions["class_labels"] = labels.masked_fill(dropped, shipped.DIT_NULL_CLASS)
        with autocast(device):
            predicted = self._network(noisy, timesteps, **conditions).sample
        return functional.mse_loss(predicted.float(), noise)


class AutoencoderTask(Task):
    """L1 of pictures and of their differences between neighbours, and a weak pull of latents towards normal."""

    def __init__(self, recipe: Recipe, device: torch.device, pictures: Tensor) -> None:
        self.recipe = recipe
        self.modules = recipe.build().to(device)
        self._pictures = pictures.to(device)

    def loss(self) -> Tensor:
        index = torch.randint(len(self._pictures), (self.recipe.batch,), device=self._pictures.device)
        batch = self._pictures[index].float() / 127.5 - 1
        return self.loss_of(flipped_at_random(batch) if self.recipe.horizontal_flips else batch)

    def loss_of(self, batch: Tensor) -> Tensor:
        """Of these pictures in -1..1."""
        model: Any = self.modules
        with autocast(batch.device):
            posterior = model.encode(batch).latent_dist
            latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            drawn = model.decode(latents).sample.float()
        wrong = drawn - batch
        edges = wrong.diff(dim=-1).abs().mean() + wrong.diff(dim=-2).abs().mean()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        pull = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss: Tensor = wrong.abs().mean() + edges + KL_WEIGHT * pull
        return loss


@torch.no_grad()
def whiten(vae: Any, pictures: Tensor) -> None:
    """Give the latents of `pictures` mean 0 and variance 1 per channel, by folding a scale and a shift into the
    convolutions on both sides of the latents. What the autoencoder draws stays the same."""
    means = torch.cat(
        [vae.encode(part.float() / 127.5 - 1).latent_dist.mean for part in torch.split(pictures, 64)]
    )
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(shift)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale.view(1, -1, 1, 1)
    before.bias[:channels] -= shift
    before.weight[:channels] /= scale.view(-1, 1, 1, 1)
    before.bias[:channels] /= scale
    before.bias[channels:] -= 2 * scale.log()  # of the log variance


class TextToImageTask(Task):
    """Mean squared error of v on an autoencoder's latents; denoiser and text encoder learn together."""

    def __init__(
        self, recipe: Recipe, device: torch.device, pictures: Tensor, start: dict[str, Any], seed: int
    ) -> None:
        self.recipe = recipe
        captions = data.load_captions(recipe.dataset)
        self.vae: Any = shipped.emoji_vae().to(device).eval().requires_grad_(False)
        self.vae.load_state_dict(start["vae"])
        if "vocabulary" in start:
            self._vocabulary, self._merges = start["vocabulary"], start["merges"]
        else:
            whiten(self.vae, pictures.to(device))
            self._vocabulary, self._merges = prompts.learn_vocabulary(captions)
        words = prompts.tokenizer(self._vocabulary, self._merges)
        self._unet = recipe.build()
        self.modules = nn.ModuleDict(
            {
                "unet": self._unet,
                "text_encoder": shipped.emoji_text_encoder(
                    len(self._vocabulary), words.bos_token_id, words.eos_token_id
                ),
            }
        ).to(device)
        texts = prompts.variants(captions, CAPTION_VARIANTS, seed)
        encoded = prompts.encode(words, [text for names in texts for text in names])
        self._tokens = encoded.view(len(texts), CAPTION_VARIANTS, -1).to(device)
        self._no_prompt = prompts.encode(words, [""]).to(device)
        with torch.no_grad():
            posteriors = [
                self.vae.encode(part.to(device).float() / 127.5 - 1).latent_dist
                for part in torch.split(pictures, 64)
            ]
        self._mean = torch.cat([posterior.mean for posterior in posteriors])
        self._std = torch.cat([posterior.std for posterior in posteriors])
        self._alphas = shipped.latent_schedule().alphas_cumprod.to(device)

    def compile(self) -> None:
        self._unet = torch.compile(self._unet, dynamic=False)  # type: ignore[assignment]

    def loss(self) -> Tensor:
        device, count = self._mean.device, self.recipe.batch
        index = torch.randint(len(self._mean), (count,), device=device)
        latents = self._mean[index] + self._std[index] * torch.randn_like(self._mean[index])
        tokens = self._tokens[index, torch.randint(CAPTION_VARIANTS, (count,), device=device)]
        dropped = torch.rand(count, 1, device=device) < LABEL_DROPOUT
        return self.loss_of(latents, torch.where(dropped, self._no_prompt, tokens))

    def loss_of(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Of these latents and the tokens of their prompts, timesteps stratified over the batch."""
        modules: Any = self.modules
        timesteps = stratified_timesteps(len(latents), latents.device)
        noise = torch.randn_like(latents)
        alpha = self._alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        with autocast(latents.device):
            context = modules["text_encoder"](input_ids=tokens)[0]
            predicted = self._unet(noisy, timesteps, encoder_hidden_states=context).sample
        return functional.mse_loss(predicted.float(), velocity)

    def keepsakes(self) -> dict[str, Any]:
        return {"vae": self.vae.state_dict(), "vocabulary": self._vocabulary, "merges": self._merges}


def task_of(recipe: Recipe, device: torch.device, start: dict[str, Any], seed: int) -> Task:
    """The recipe's task with its data on `device`. `start` is what the run begins from: `train.start_of`'s."""
    images, labels = data.load(recipe.dataset, "train")
    pictures = torch.from_numpy(images)
    if recipe.task == "autoencoder":
        return AutoencoderTask(recipe, device, pictures)
    if recipe.task == "text-to-image":
        return TextToImageTask(recipe, device, pictures, start, seed)
    return PixelTask(recipe, device, pictures, torch.from_numpy(labels.astype(np.int64)))
