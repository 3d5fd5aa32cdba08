# SPDX-License-Identifier: Apache-2.0
"""What a model's training pictures show its denoiser, for factors as the authors make them: `ditto factor --from data`.

    for call in data_calls(model, pictures=256, seed=0): …        each shows a batch of pictures to the denoiser, twice

As in their code: pictures chosen without replacement, in batches of 16, a timestep of 50 for each picture, noise as the
scheduler adds it, one class in ten dropped; then one DDIM step of the denoiser's own prediction, and the evaluation behind it.
Known are models of the zoo that take a class. What this file does not do: fetch pictures (`zoo/data.py`) or take magnitudes
(`factor.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditto_cosim.host.pipeline.factor import Call
from ditto_cosim.host.pipeline.models import LoadedModel, ModelError

PICTURES, BATCH, TIMESTEPS, DROPPED = 256, 16, 50, 0.1


def data_calls(model: LoadedModel, pictures: int = PICTURES, seed: int = 1234) -> Iterator[Call]:
    """One a batch; a model whose training set is not known is refused before any is fetched."""
    from ditto_cosim.host.zoo import data, models

    known = None if Path(model.name).is_dir() else models().get(model.name)
    config: Mapping[str, Any] = getattr(model.denoiser, "config", {})
    if known is None or known.weights is None or not known.class_conditional:
        raise ModelError(
            f"{model.name}: --from data needs the training pictures of a class-conditional model that ships, such as "
            "fashion-dit; take --from trajectory"
        )
    if model.pipe.scheduler.config.prediction_type != "epsilon":
        raise ModelError(
            f"{model.name}: --from data knows predictions of noise alone; take --from trajectory"
        )
    images, labels = data.load(known.dataset, "train")
    random = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=random)[:pictures]
    nothing: int = config["num_embeds_ada_norm"]
    for some in torch.split(chosen, BATCH):
        latents = _latents(model, torch.from_numpy(images[some.numpy()]).float() / 127.5 - 1)
        classes = torch.from_numpy(labels[some.numpy()]).long()
        dropped = torch.rand(len(some), generator=random) < DROPPED
        at = torch.randint(1, TIMESTEPS, (len(some),), generator=random)
        noise = torch.randn(latents.shape, generator=random)
        yield _Shown(model, latents, torch.where(dropped, nothing, classes), at, noise)


class _Shown:
    """A batch, noised, and one DDIM step further."""

    def __init__(
        self, model: LoadedModel, latents: Tensor, classes: Tensor, at: Tensor, noise: Tensor
    ) -> None:
        self._model, self._latents, self._classes, self._at, self._noise = model, latents, classes, at, noise

    def __call__(self) -> None:
        scheduler = self._model.pipe.scheduler
        spacing = scheduler.config.num_train_timesteps // TIMESTEPS
        then, now = self._at * spacing, (self._at - 1) * spacing
        before = scheduler.add_noise(self._latents, self._noise, then)
        noise = self._predicted(before, then)
        a, b = (scheduler.alphas_cumprod[t].reshape(-1, *[1] * (before.dim() - 1)) for t in (then, now))
        clean = (before - (1 - a).sqrt() * noise) / a.sqrt()
        self._predicted(b.sqrt() * clean + (1 - b).sqrt() * noise, now)

    def _predicted(self, sample: Tensor, timestep: Tensor) -> Tensor:
        found: Tensor = self._model.denoiser(
            sample, timestep=timestep, class_labels=self._classes, return_dict=False
        )[0]
        return found[:, : sample.shape[1]]


def _latents(model: LoadedModel, pictures: Tensor) -> Tensor:
    """Pictures in −1…1 as the denoiser has them."""
    vae = getattr(model.pipe, "vae", None)
    if vae is None or not hasattr(vae, "encoder"):  # pixels are what it makes
        return pictures
    with torch.no_grad():
        found: Tensor = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
    return found
