# SPDX-License-Identifier: Apache-2.0
"""Turns a training checkpoint into a shipping model: `python -m ditto_cosim.host.zoo.export NAME --run RUN`.

Does: write the averaged weights as fp16 safetensors in diffusers' own folder layout, training.json with what
the run measured, and the model card README.md (`cards.py`).
Does not: train, or measure quality.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from . import WEIGHTS, prompts, shipped
from .cards import card
from .tasks import recipes, tie_embedders


def averaged_modules(name: str, checkpoint: dict[str, Any]) -> torch.nn.Module:
    """The checkpoint's averaged weights in the modules they were trained in, every parameter its own."""
    recipe = recipes()[name]
    if recipe.task == "text-to-image":
        words = prompts.tokenizer(checkpoint["vocabulary"], checkpoint["merges"])
        text_encoder = shipped.emoji_text_encoder(
            len(checkpoint["vocabulary"]), words.bos_token_id, words.eos_token_id
        )
        trained: torch.nn.Module = torch.nn.ModuleDict({"unet": recipe.build(), "text_encoder": text_encoder})
    else:
        trained = recipe.build()
    if recipe.class_conditional:
        tie_embedders(trained)
    missing = set(dict(trained.named_parameters())) ^ set(checkpoint["ema"])
    if missing:
        raise ValueError(f"the checkpoint is not one of {name}: parameters differ, e.g. {sorted(missing)[0]}")
    with torch.no_grad():
        for parameter_name, parameter in trained.named_parameters():
            parameter.copy_(checkpoint["ema"][parameter_name])
    if recipe.class_conditional:
        untied = recipe.build()
        untied.load_state_dict(trained.state_dict())
        trained = untied
    return trained.eval()


def write_folder(name: str, modules: Any, checkpoint: dict[str, Any], out: Path) -> None:
    """The diffusers folder: fp16 weights, configurations, model_index.json."""
    from diffusers import DDIMPipeline, DiTPipeline, StableDiffusionPipeline

    recipe = recipes()[name]
    modules = modules.half()
    if recipe.task == "text-to-image":
        vae = shipped.emoji_vae()
        vae.load_state_dict(checkpoint["vae"])
        StableDiffusionPipeline(
            vae=vae.half(),
            text_encoder=modules["text_encoder"],
            tokenizer=prompts.tokenizer(checkpoint["vocabulary"], checkpoint["merges"]),
            unet=modules["unet"],
            scheduler=shipped.latent_schedule(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(out)
        return
    scheduler = shipped.noise_schedule(clip_sample=not recipe.class_conditional)
    if not recipe.class_conditional:
        DDIMPipeline(modules, scheduler).save_pretrained(out)
        return
    from .pixels import PixelVAE

    DiTPipeline(modules, PixelVAE(), scheduler).save_pretrained(out)
    shutil.rmtree(out / "vae")  # nothing in it: whoever loads the folder passes PixelVAE


def export(name: str, run: Path, out: Path) -> None:
    """Export the checkpoint of `run` to the folder `out`."""
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    modules: Any = averaged_modules(name, checkpoint)
    history = checkpoint["history"]
    last = history[-5:]
    before_last = history[-6][0] if len(history) > 5 else 0
    facts = {
        "steps": checkpoint["step"],
        "batch": recipes()[name].batch,
        "minutes": checkpoint["elapsed_s"] / 60,
        "budget": checkpoint["budget"],
        "loss": sum(loss for _, loss in last) / len(last),
        "loss_steps": last[-1][0] - before_last,
        "seed": checkpoint["seed"],
        "device": checkpoint["device"],
        "precision": checkpoint["precision"],
    }
    write_folder(name, modules, checkpoint, out)
    sums = {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.rglob("*.safetensors")
    }
    record = {"model": name, **facts, "sha256": sums, "loss_history": history[:: max(1, len(history) // 100)]}
    (out / "training.json").write_text(json.dumps(record) + "\n")
    (out / "README.md").write_text(card(name, out))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditto_cosim.host.zoo.export")
    parser.add_argument("model", choices=sorted(recipes()))
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, help="default: the zoo's own folder for the model")
    chosen = parser.parse_args(argv)
    export(chosen.model, chosen.run, chosen.out or WEIGHTS / chosen.model)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
