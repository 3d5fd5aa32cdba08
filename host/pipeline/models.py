"""A model as a user names it, loaded: its pipeline, its denoiser, its scales, and the arguments of one call.

    model = load_model("fashion-ddpm")            a model that ships, or a folder that save_pretrained wrote
    pictures = model.pipe(**model.arguments(Wish(seed=3, steps=10)))

What this file does not do: accelerate (`accelerate.py`), run (`generation.py`) or print.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditto_cosim.host.pipeline.accelerate import SCALES_FILE, find_parts
from ditto_cosim.protocol.errors import DittoError


class ModelError(DittoError, ValueError):
    """A model that cannot be loaded, or cannot do what is asked of it; the message says what it takes."""


@dataclass(frozen=True)
class Wish:
    """What one call of a pipeline is asked for. What the pipeline does not take is refused by name."""

    steps: int = 0
    """0: the model's own."""
    seed: int = 0
    batch: int = 1
    labels: tuple[int, ...] = ()
    prompt: str = ""
    guidance: float = 0.0
    """0: the model's own."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Any other argument of the pipeline, as it is."""


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline with what is known of it."""

    name: str
    """As it was asked for."""
    pipe: Any
    steps: int
    """What it is meant for."""
    folder: Path | None
    """Where its weights are."""
    guidance: float = 0.0
    """What it is meant for; 0 leaves the pipeline's own."""
    prompts: tuple[str, ...] = ()
    """Prompts it knows, for its calibration."""

    @property
    def title(self) -> str:
        """The name that reports and records carry."""
        return Path(self.name).name

    @property
    def denoiser(self) -> nn.Module:
        """The network that runs once per step."""
        return next(iter(find_parts(self.pipe).values()))

    @property
    def scales(self) -> Path | None:
        """The file of scales beside the weights."""
        found = None if self.folder is None else self.folder / SCALES_FILE
        return found if found is not None and found.is_file() else None

    def arguments(self, wish: Wish) -> dict[str, Any]:
        """The pipeline's arguments that grant a wish."""
        taken = inspect.signature(self.pipe.__call__).parameters
        found: dict[str, Any] = {
            "num_inference_steps": wish.steps or self.steps,
            "generator": torch.Generator().manual_seed(wish.seed),
        }
        if "class_labels" in taken:
            labels = list(wish.labels) or [0]
            found["class_labels"] = (labels * wish.batch)[: max(wish.batch, len(labels))]
        elif wish.labels:
            raise ModelError(f"{self.name} takes no class labels")
        if "prompt" in taken and not {"prompt_embeds"} & wish.more.keys():
            if not wish.prompt:
                example = f', for example "{self.prompts[0]}"' if self.prompts else ""
                raise ModelError(f"{self.name} needs a prompt (--prompt){example}")
            found |= {"prompt": wish.prompt, "num_images_per_prompt": wish.batch}
        elif wish.prompt:
            raise ModelError(f"{self.name} takes no prompt")
        elif "batch_size" in taken:
            found["batch_size"] = wish.batch
        if wish.guidance and "guidance_scale" not in taken:
            raise ModelError(f"{self.name} takes no guidance")
        if guidance := wish.guidance or self.guidance:
            found["guidance_scale"] = guidance
        if unknown := wish.more.keys() - taken.keys():
            raise ModelError(
                f"{type(self.pipe).__name__} takes no {', '.join(sorted(unknown))}; it takes {', '.join(taken)}"
            )
        return {**found, **wish.more}

    def calibration(self, steps: int, seed: int, batch: int, prompt: str = "") -> dict[str, Any]:
        """The arguments of a call that shows the denoiser what it will meet: several pictures, labels and prompts."""
        taken = inspect.signature(self.pipe.__call__).parameters
        labels = tuple(range(batch)) if "class_labels" in taken else ()
        if "prompt" not in taken or not self.prompts:
            return self.arguments(Wish(steps, seed, batch, labels, prompt))
        prompts = [self.prompts[i % len(self.prompts)] for i in range(batch)]
        return self.arguments(Wish(steps, seed, prompt=prompts[0], more={"prompt": prompts}))


def usual(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of policy and observer is the one that scales beside weights were made with."""
    return (choice.get("policy", "static"), choice.get("observer", "mse")) == ("static", "mse")


def load_model(name: str) -> LoadedModel:
    """A model that ships, or a folder that `save_pretrained` wrote."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    from ditto_cosim.host.zoo import find, load_pipeline

    folder = Path(name)
    if not folder.is_dir():
        known = find(name)
        return LoadedModel(
            name, load_pipeline(name), known.steps, known.weights, known.guidance, known.prompts
        )
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: not a folder that save_pretrained wrote ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return LoadedModel(name, pipe, 50, folder)


def load_denoiser(name: str) -> nn.Module:
    """The denoiser of a model."""
    return load_model(name).denoiser
