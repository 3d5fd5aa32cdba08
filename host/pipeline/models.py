# SPDX-License-Identifier: Apache-2.0
"""A model as a user names it, loaded: its pipeline, its denoiser, its scales, and the arguments of one call.

    model = load_model("fashion-ddpm")            a model that ships, or a folder that save_pretrained wrote
    pictures = model.pipe(**model.arguments(Wish(seed=3, steps=10)))

What this file does not do: accelerate (`accelerate.py`), run (`generation.py`) or print.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditto_cosim.host.compiler.quantize import load_quantized
from ditto_cosim.host.pipeline.accelerate import SCALES_FILE, find_parts
from ditto_cosim.host.pipeline.checkpoints import missing_weights
from ditto_cosim.protocol.errors import DittoError

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}

FOLDER_STEPS = 50
"""Of a folder's model, which does not say how many it is meant for."""


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
    """0: the model's own, or the pipeline's."""
    prompts: tuple[str, ...] = ()
    """Several at once, in place of one."""
    negative: str = ""
    init_image: str = ""
    """File of the picture to begin with."""
    mask_image: str = ""
    """File of a mask: what is white is painted anew."""
    control_image: str = ""
    """File of the picture that a ControlNet follows."""
    strength: float = 0.0
    """How far to go from the first picture, 0…1; 0: the pipeline's own."""
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
    options: Mapping[str, Any] = field(default_factory=dict)
    """What `load_model` was given beside the name."""
    guidance: float = 0.0
    """What it is meant for; 0 leaves the pipeline's own."""
    prompts: tuple[str, ...] = ()
    """Prompts it knows, for its calibration."""
    labels: int = 0
    """Class labels it was trained with; 0: what its denoiser's table holds."""

    @property
    def title(self) -> str:
        """The name that reports and records carry."""
        return Path(self.name).name

    @property
    def denoiser(self) -> nn.Module:
        """The network that runs once per step."""
        return next(iter(find_parts(self.pipe).values()))

    @property
    def classes(self) -> int:
        """How many class labels the denoiser knows; 0: none, or it does not say."""
        config: Mapping[str, Any] = getattr(self.denoiser, "config", {})
        found = self.labels or config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
        return int(found)

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
            classes = self.classes
            if classes and (wrong := [label for label in labels if not 0 <= label < classes]):
                raise ModelError(
                    f"{self.name}: class label {wrong[0]} is outside 0…{classes - 1} (--label); it knows {classes} classes"
                )
            found["class_labels"] = (labels * wish.batch)[: max(wish.batch, len(labels))]
        elif wish.labels:
            raise ModelError(f"{self.name} takes no class labels")
        if "prompt" in taken and not {"prompt_embeds"} & wish.more.keys():
            prompt = list(wish.prompts) or wish.prompt
            if not prompt:
                example = f', for example "{self.prompts[0]}"' if self.prompts else ""
                raise ModelError(f"{self.name} needs a prompt (--prompt, --prompt-file){example}")
            found |= {"prompt": prompt, "num_images_per_prompt": wish.batch}
        elif wish.prompt or wish.prompts:
            raise ModelError(f"{self.name} takes no prompt")
        elif "batch_size" in taken:
            found["batch_size"] = wish.batch
        image = "image" if wish.init_image or not wish.control_image else "control_image"
        if wish.control_image and "control_image" not in taken:
            image = "image"
        asked: dict[str, tuple[str, Any]] = {
            "guidance_scale": ("--guidance", wish.guidance or self.guidance * ("guidance_scale" in taken)),
            "negative_prompt": ("--negative", _each(wish.negative, wish.prompts)),
            "strength": ("--strength", wish.strength),
            "mask_image": ("--mask-image", _picture(wish.mask_image)),
        }
        if wish.init_image:
            asked["image"] = ("--init-image", _picture(wish.init_image))
        if wish.control_image:
            asked[image if not wish.init_image else "control_image"] = (
                "--control-image",
                _picture(wish.control_image),
            )
        for name, (option, value) in asked.items():
            if value and name not in taken:
                raise ModelError(f"{self.name}: {type(self.pipe).__name__} takes no {name} ({option})")
            if value:
                found[name] = value
        if unknown := wish.more.keys() - taken.keys():
            raise ModelError(
                f"{type(self.pipe).__name__} takes no {', '.join(sorted(unknown))}; it takes {', '.join(taken)}"
            )
        return {**found, **wish.more}

    def for_wish(self, wish: Wish) -> LoadedModel:
        """The model in the pipeline that the wish needs: from a picture, into a mask, along a ControlNet."""
        if (
            not (wish.init_image or wish.mask_image)
            or "image" in inspect.signature(self.pipe.__call__).parameters
        ):
            return self
        # They import every pipeline there is, which takes a second or two: only who needs one waits.
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

        auto = AutoPipelineForInpainting if wish.mask_image else AutoPipelineForImage2Image
        try:
            pipe = auto.from_pipe(self.pipe)
        except ValueError as error:
            raise ModelError(f"{self.name}: {error}") from None
        return replace(self, pipe=_silent(pipe))

    def series(self, wish: Wish, seed: int, indices: Sequence[int]) -> dict[str, Any]:
        """The arguments of a call that makes some of a series of pictures, each from a seed of its own and as an array.

        Labels and prompts of the wish are gone through in turn.
        """
        taken = inspect.signature(self.pipe.__call__).parameters
        labels = tuple(wish.labels[i % len(wish.labels)] for i in indices) if wish.labels else ()
        prompts = wish.prompts or ((wish.prompt,) if wish.prompt else ())
        prompts = tuple(prompts[i % len(prompts)] for i in indices) if prompts else ()
        batch = 1 if "prompt" in taken else len(indices)
        return {
            **self.arguments(replace(wish, batch=batch, labels=labels, prompts=prompts, prompt="")),
            "generator": [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in indices],
            "output_type": "np",
        }

    def calibration(self, wish: Wish) -> dict[str, Any]:
        """The arguments of a call that shows the denoiser what it will meet: several pictures, labels and prompts."""
        taken = inspect.signature(self.pipe.__call__).parameters
        labels = tuple(range(wish.batch)) if "class_labels" in taken else ()
        prompts = wish.prompts
        if "prompt" in taken and self.prompts and not (wish.prompt or prompts):
            prompts = tuple(self.prompts[i % len(self.prompts)] for i in range(wish.batch))
            wish = replace(wish, batch=1)
        return self.arguments(replace(wish, labels=labels, prompts=prompts))


def prompts_of(path: Path | None) -> tuple[str, ...]:
    """The lines of a file, without empty ones."""
    if path is None:
        return ()
    try:
        found = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a file of prompts ({error})") from None
    if not found:
        raise ModelError(f"{path}: holds no prompt; expected one a line")
    return found


def _each(text: str, prompts: tuple[str, ...]) -> Any:
    return [text] * len(prompts) if text and prompts else text


def _picture(path: str) -> Any:
    """A picture from a file; None for none."""
    if not path:
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ModelError(f"{path}: not a picture that can be read ({error})") from None


def usual(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of policy and observer is the one that scales beside weights were made with."""
    return choice.get("policy", "auto") in ("auto", "static") and choice.get("observer", "mse") == "mse"


def load_model(
    name: str,
    *,
    dtype: str = "",
    lora: Sequence[str] = (),
    controlnet: str = "",
    quantized: str = "",
    scheduler: str = "",
) -> LoadedModel:
    """A model that ships, a folder of a pipeline, or a folder of a denoiser alone, as `save_pretrained` writes them.

    `dtype` is fp32, fp16, bf16 or fp64; `lora` names files or folders of adapters, each perhaps followed by `:scale`;
    `controlnet` a folder of one; `quantized` a checkpoint of the denoiser with integers (`load_quantized`); `scheduler` is one
    of `schedulers.py`, in place of the model's own.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    from ditto_cosim.host.pipeline.schedulers import scheduler_class, with_scheduler
    from ditto_cosim.host.zoo import find, load_pipeline

    options = {
        "dtype": dtype,
        "lora": list(lora),
        "controlnet": controlnet,
        "quantized": quantized,
        "scheduler": scheduler,
    }
    if scheduler:
        scheduler_class(scheduler)
    folder = Path(name)
    if dtype and dtype not in FLOATS:
        raise ModelError(f"dtype {dtype!r} is not known; it is one of {', '.join(FLOATS)}")
    if not folder.is_dir():
        known = find(name)
        loaded = LoadedModel(
            name,
            load_pipeline(name),
            known.steps,
            known.weights,
            guidance=known.guidance,
            prompts=known.prompts,
            labels=known.classes,
        )
    else:
        loaded = LoadedModel(name, _silent(_from_folder(folder)), FOLDER_STEPS, folder)
    pipe = loaded.pipe
    if controlnet:
        pipe = _with_controlnet(pipe, controlnet)
    if lora:
        _add_loras(pipe, lora)
    if dtype:
        pipe.to(FLOATS[dtype])
    if quantized:  # its integers fit no other scales than its own
        load_quantized(replace(loaded, pipe=pipe).denoiser, Path(quantized))
        loaded = replace(loaded, folder=None)
    if scheduler:
        pipe = with_scheduler(pipe, scheduler)
    return replace(loaded, pipe=pipe, options={k: v for k, v in options.items() if v})


def _from_folder(folder: Path) -> Any:
    import diffusers
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
    options: dict[str, Any] = {"low_cpu_mem_usage": False, "use_safetensors": True, **_variant(folder)}
    try:
        with missing_weights() as missing:
            if (folder / "model_index.json").is_file():
                loaded = diffusers.DiffusionPipeline.from_pretrained(folder, **options)
            else:
                loaded = _bare(folder, options)
    except DittoError:
        raise
    except Exception as error:  # whatever these libraries raise for a folder that is not what they wrote
        raise ModelError(f"{folder}: not a folder that save_pretrained wrote ({_line(error)})") from error
    if missing:
        raise ModelError(
            f"{folder}: weights are missing, and would be random numbers ({missing[0][:300]}); save the model again"
        )
    return loaded


def _bare(folder: Path, options: Mapping[str, Any]) -> Any:
    """A denoiser without a pipeline."""
    import diffusers

    kind = json.loads((folder / "config.json").read_text()).get("_class_name", "")
    made = getattr(diffusers, kind, None)
    if made is None or not hasattr(made, "from_pretrained"):
        raise ModelError(f"{folder}: its config names no class of diffusers ({kind!r})")
    from ditto_cosim.host.pipeline.bare import BarePipeline

    return BarePipeline.around(made.from_pretrained(folder, **options))


def _variant(folder: Path) -> dict[str, str]:
    """The variant of a folder whose every file of weights is one, such as fp16."""
    files = list(folder.rglob("*.safetensors"))
    found = {
        m.group(1)
        for p in files
        if (m := re.search(r"\.(fp16|bf16|fp32)(?:-\d+-of-\d+)?\.safetensors$", p.name))
    }
    plain = [p for p in files if not re.search(r"\.(fp16|bf16|fp32)[.-]", p.name)]
    return {"variant": min(found)} if found and not plain else {}


def _with_controlnet(pipe: Any, folder: str) -> Any:
    from diffusers import AutoPipelineForText2Image, ControlNetModel

    try:
        net = ControlNetModel.from_pretrained(folder, low_cpu_mem_usage=False, use_safetensors=True)
        return _silent(AutoPipelineForText2Image.from_pipe(pipe, controlnet=net))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no ControlNet for {type(pipe).__name__} ({_line(error)})") from error


def _add_loras(pipe: Any, adapters: Sequence[str]) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(f"{type(pipe).__name__} takes no LoRA")
    scales: dict[str, float] = {}
    for at, adapter in enumerate(adapters):
        path, _, scale = adapter.rpartition(":") if re.search(r":[0-9.]+$", adapter) else (adapter, "", "1")
        where, name = Path(path), f"lora{at}"
        named = {"weight_name": where.name} if where.is_file() else {}
        if named and where.suffix != ".safetensors":
            raise ModelError(f"{adapter}: adapters are read from safetensors files alone")
        try:
            from_where = where.parent if named else where
            pipe.load_lora_weights(from_where, adapter_name=name, use_safetensors=True, **named)
            scales[name] = float(scale)
            pipe.set_adapters(list(scales), list(scales.values()))
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ModelError(
                f"{adapter}: not a LoRA that {type(pipe).__name__} takes ({_line(error)})"
            ) from error


def _silent(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _line(error: Exception) -> str:
    """The first sentence of somebody else's error."""
    return str(error).strip().partition("\n")[0][:300]


def load_denoiser(name: str) -> nn.Module:
    """The denoiser of a model."""
    return load_model(name).denoiser
