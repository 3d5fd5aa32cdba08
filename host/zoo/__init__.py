# SPDX-License-Identifier: Apache-2.0
"""The zoo: models that ship with weights, and the paper's seven workloads as configurations.

Does: list the models, build any denoiser (on `meta` too), and load those with weights into unmodified
diffusers pipelines. torch and diffusers are imported when a model is asked for, not before.
Does not: train (`train.py`), fetch data (`data.py`) or weights: what ships is in this folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.suggest import did_you_mean

if TYPE_CHECKING:
    import torch

__all__ = [
    "ZooError",
    "ZooModel",
    "build_denoiser",
    "example_inputs",
    "find",
    "find_trained",
    "load_pipeline",
    "models",
]

WEIGHTS = Path(__file__).parent / "weights"


class ZooError(DittoError):
    """A model that the zoo does not have, or cannot give in the way asked for."""


@dataclass(frozen=True)
class ZooModel:
    """One entry of the zoo."""

    name: str
    family: str
    """unet, unet-conditional, dit or latte: which diffusers class the denoiser is."""
    description: str
    weights: Path | None
    """A diffusers folder, or None for a configuration without weights."""
    steps: int
    sampler: str
    image_size: int
    channels: int
    """Colour channels of the finished image."""
    pipeline: str | None
    """The diffusers pipeline that runs it, for models with weights."""
    dataset: str
    licence: str
    purpose: str = ""
    """What one would take it for."""
    guidance: float = 0.0
    """The strength of guidance it is meant for; 0 for a pipeline without guidance."""
    prompts: tuple[str, ...] = ()
    """Prompts it knows well, for calibration and examples; empty for a pipeline without prompts."""

    @property
    def class_conditional(self) -> bool:
        """Whether the pipeline takes class labels."""
        return self.family == "dit"

    @property
    def classes(self) -> int:
        """Labels it was trained with, 0 up to this; 0 without any. Its table of labels may have room for more."""
        return DATASET_CLASSES.get(self.dataset, 0) if self.class_conditional else 0


DATASET_CLASSES = {"fashion-mnist": 10, "cifar-10": 10}


EMOJI_PROMPTS = (
    "smiling cat",
    "red apple",
    "rocket",
    "penguin",
    "blue heart",
    "hamburger",
    "violin",
    "house",
)


def _shipped() -> tuple[ZooModel, ...]:
    return (
        ZooModel(
            name="emoji-sd",
            family="unet-conditional",
            description="text to image: latent diffusion with cross-attention on colour emoji, 7.24 M parameters",
            weights=WEIGHTS / "emoji-sd",
            steps=25,
            sampler="DDIM",
            image_size=64,
            channels=3,
            pipeline="StableDiffusionPipeline",
            dataset="emoji",
            licence="Apache-2.0",
            purpose="show: a sentence becomes a picture; the paper's conditional latent family",
            guidance=3.0,
            prompts=EMOJI_PROMPTS,
        ),
        ZooModel(
            name="fashion-ddpm",
            family="unet",
            description="unconditional UNet on Fashion-MNIST pixels, 1.86 M parameters",
            weights=WEIGHTS / "fashion-ddpm",
            steps=50,
            sampler="DDIM",
            image_size=28,
            channels=1,
            pipeline="DDIMPipeline",
            dataset="fashion-mnist",
            licence="Apache-2.0",
            purpose="try and test: the smallest, seconds per picture",
        ),
        ZooModel(
            name="fashion-ddpm-relu",
            family="unet",
            description="fashion-ddpm with ReLU before its convolutions, fine-tuned",
            weights=WEIGHTS / "fashion-ddpm-relu",
            steps=50,
            sampler="DDIM",
            image_size=28,
            channels=1,
            pipeline="DDIMPipeline",
            dataset="fashion-mnist",
            licence="Apache-2.0",
            purpose="value sparsity, as SQ-DM needs it",
        ),
        ZooModel(
            name="fashion-dit",
            family="dit",
            description="class-conditional DiT on Fashion-MNIST pixels, 49 tokens, with guidance",
            weights=WEIGHTS / "fashion-dit",
            steps=50,
            sampler="DDIM",
            image_size=28,
            channels=1,
            pipeline="DiTPipeline",
            dataset="fashion-mnist",
            licence="Apache-2.0",
            purpose="the paper's transformer family; pictures of a class asked for",
            guidance=2.0,
        ),
        ZooModel(
            name="cifar-ddpm-small",
            family="unet",
            description="unconditional UNet on CIFAR-10 pixels, 3.89 M parameters: a tenth of ddpm's",
            weights=WEIGHTS / "cifar-ddpm-small",
            steps=50,
            sampler="DDIM",
            image_size=32,
            channels=3,
            pipeline="DDIMPipeline",
            dataset="cifar-10",
            licence="Apache-2.0",
            purpose="the paper's unconditional family in colour, at a size that runs in RTL in a minute",
        ),
        ZooModel(
            name="cifar-ddpm-small-relu",
            family="unet",
            description="cifar-ddpm-small with ReLU before its convolutions, fine-tuned",
            weights=WEIGHTS / "cifar-ddpm-small-relu",
            steps=50,
            sampler="DDIM",
            image_size=32,
            channels=3,
            pipeline="DDIMPipeline",
            dataset="cifar-10",
            licence="Apache-2.0",
            purpose="value sparsity in colour, as SQ-DM needs it",
        ),
    )


def models() -> dict[str, ZooModel]:
    """Every model by name: those with weights first, then the paper's workloads in its order."""
    from .workloads import workloads

    configurations = (
        ZooModel(
            name=workload.name,
            family=workload.family,
            description=workload.description,
            weights=None,
            steps=workload.steps,
            sampler=workload.sampler,
            image_size=workload.image_size,
            channels=3,
            pipeline=None,
            dataset=workload.dataset,
            licence="Apache-2.0",
        )
        for workload in workloads().values()
    )
    return {model.name: model for model in (*_shipped(), *configurations)}


def build_denoiser(name: str, device: str = "cpu") -> torch.nn.Module:
    """The denoiser of any model with fresh parameters on `device`; `load_pipeline` gives the trained ones."""
    from . import paper, shipped

    if find(name).weights is None:
        return paper.build(name, device)
    return shipped.build(name, device)


def example_inputs(name: str, device: str = "cpu", batch: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one denoiser call, with the model's own shapes."""
    from . import paper, shipped

    if find(name).weights is None:
        return paper.example_inputs(name, device, batch)
    return shipped.example_inputs(name, device, batch)


def load_pipeline(name: str) -> Any:
    """The diffusers pipeline of a model with weights, in fp32, DDIM scheduler, progress bar off."""
    import diffusers
    import torch

    model = find_trained(name)
    assert model.pipeline is not None
    diffusers.utils.logging.disable_progress_bar()
    _quieten_transformers()
    options: dict[str, Any] = {"dtype": torch.float32, "low_cpu_mem_usage": False, "use_safetensors": True}
    if model.pipeline == "DiTPipeline":
        from .pixels import PixelVAE

        options["vae"] = PixelVAE()
    pipeline = getattr(diffusers, model.pipeline).from_pretrained(model.weights, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _quieten_transformers() -> None:
    """Its bars are for loading gigabytes."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def find_trained(name: str) -> ZooModel:
    """The model of this name, whose weights are there."""
    model = find(name)
    if model.weights is None or model.pipeline is None:
        with_weights = ", ".join(other.name for other in models().values() if other.weights is not None)
        raise ZooError(
            f"{name} is a configuration without weights; build_denoiser({name!r}) gives it with fresh "
            f"parameters, and the models with weights are {with_weights}"
        )
    if not (model.weights / "model_index.json").is_file():
        raise ZooError(f"the weights of {name} are missing from {model.weights}; reinstall ditto-cosim")
    return model


def find(name: str) -> ZooModel:
    """The model of this name."""
    try:
        return models()[name]
    except KeyError:
        raise ZooError(
            f"{name!r} is neither a folder nor a model of the zoo, which has {', '.join(models())}"
            f"{did_you_mean(name, models())}"
        ) from None
