# SPDX-License-Identifier: Apache-2.0
"""Generates pictures with any pipeline of the zoo and measures those of the zoo's data sets.

Does: `generate` (one seed per picture, so batch size and order change nothing that is drawn), `grid`, and
`python -m ditto_cosim.host.zoo.measure NAME --count 1000`: the figures of the model cards, as JSON.
Does not: accelerate or quantize; `generate` takes whatever pipeline it is given, accelerated or not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from . import ZooModel, data, find, load_pipeline, models

Pictures = npt.NDArray[np.float32]

PROMPT_STRIDE = 151
"""Step through the training pictures' names: prime to their number, so that a series mixes the categories."""


def asked_for(model: ZooModel, count: int, seed: int = 0) -> npt.NDArray[np.int64] | None:
    """What each picture of a series is asked to be: a class, going round 0..9; for a model with prompts the index of
    the training picture whose name is the prompt, going through them by a stride; None without conditions."""
    if model.class_conditional:
        return np.arange(count) % 10
    if model.prompts:
        return (np.arange(count) * PROMPT_STRIDE + seed) % len(data.load_captions(model.dataset))
    return None


def generate(
    pipeline: Any,
    model: ZooModel,
    count: int,
    seed: int = 0,
    steps: int | None = None,
    batch: int = 50,
    guidance: float | None = None,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
) -> tuple[Pictures, npt.NDArray[np.int64] | None]:
    """(N x H x W x C pictures in 0..1, what they were asked to be: `asked_for`), of a series of `count` those from `first` on."""
    asked = asked_for(model, count, seed)
    captions = data.load_captions(model.dataset) if model.prompts else []
    parts = []
    for start in range(first, count, batch):
        indices = range(start, min(start + batch, count))
        arguments: dict[str, Any] = {
            "num_inference_steps": steps or model.steps,
            "generator": [torch.Generator().manual_seed(seed * 1_000_003 + index) for index in indices],
            "output_type": "np",
        }
        if asked is not None:
            arguments["guidance_scale"] = model.guidance if guidance is None else guidance
        if model.class_conditional:
            assert asked is not None
            arguments["class_labels"] = asked[start : start + batch].tolist()
        elif model.prompts:
            assert asked is not None
            arguments["prompt"] = [captions[index][0] for index in asked[start : start + batch]]
        else:
            arguments["batch_size"] = len(indices)
        parts.append(np.asarray(pipeline(**arguments).images, np.float32))
        if progress is not None:
            progress(indices[-1] + 1)
    return np.concatenate(parts), asked if asked is None else asked[first:]


def nearest_training_pictures(
    pictures: Pictures, dataset: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(index of the nearest training picture, mean absolute difference to it in 0..1) of each picture.

    Nearest in quarter-size averages, so that a shift of an edge by a pixel does not decide.
    """
    images, _ = data.load(dataset, "train")
    training: Pictures = images.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(255)
    small, wanted = _quarter(training), _quarter(pictures)
    nearest = np.array([np.abs(small - one).mean((1, 2, 3)).argmin() for one in wanted])
    return nearest, np.abs(training[nearest] - pictures).mean((1, 2, 3)).astype(np.float64)


def _quarter(pictures: Pictures) -> Pictures:
    count, height, width, channels = pictures.shape
    found: Pictures = pictures.reshape(count, height // 4, 4, width // 4, 4, channels).mean((2, 4))
    return found


def grid(pictures: Pictures, columns: int = 10, scale: int = 2) -> Any:
    """A PIL image of the pictures, row by row; a last incomplete row stays dark."""
    from PIL import Image

    rows = -(-len(pictures) // columns)
    height, width, channels = pictures.shape[1:]
    sheet = np.zeros((rows * (height + 2), columns * (width + 2), channels), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        sheet[top : top + height, left : left + width] = np.rint(np.clip(picture, 0, 1) * 255)
    image = Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def extractor_of(dataset: str) -> str:
    """What `figures_of` judges the pictures of a data set with."""
    from .classifier import FEATURES, JUDGES

    if dataset not in JUDGES:
        return f"distance to the {dataset} training pictures, at a quarter of their size"
    return f"{JUDGES[dataset].folder.name}, {FEATURES} features (not Inception's: compares with itself only)"


def figures_of(pictures: Pictures, dataset: str, asked: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    """Where there is a classifier: Fréchet distance to the real training pictures and class scores, N included.
    Elsewhere: how near the nearest training picture is, and how often it is the one that was asked for."""
    from .classifier import (
        JUDGES,
        class_scores,
        classify,
        frechet_distance,
        load_classifier,
        reference_statistics,
    )

    if dataset not in JUDGES:
        nearest, difference = nearest_training_pictures(pictures, dataset)
        captions = data.load_captions(dataset)
        recalled = (
            None
            if asked is None
            else float(
                np.mean([captions[n][0] == captions[a][0] for n, a in zip(nearest, asked, strict=True)])
            )
        )
        return {
            "count": len(pictures),
            "recalled": recalled,
            "nearest_training_difference": float(difference.mean()),
        }
    features, logits = classify(pictures, load_classifier(dataset))
    scores = dataclasses.asdict(class_scores(logits, asked))
    return {"frechet_distance": frechet_distance(features, reference_statistics(dataset)), **scores}


def beside_nearest(pictures: Pictures, dataset: str, columns: int = 8) -> Any:
    """A PIL image: rows of pictures, each row above the nearest training pictures of the same columns."""
    images, _ = data.load(dataset, "train")
    nearest, _ = nearest_training_pictures(pictures, dataset)
    known: Pictures = images.transpose(0, 2, 3, 1)[nearest].astype(np.float32) / np.float32(255)
    rows: list[Pictures] = []
    for start in range(0, len(pictures), columns):
        rows += [pictures[start : start + columns], known[start : start + columns]]
    return grid(np.concatenate(rows), columns, scale=1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditto_cosim.host.zoo.measure")
    parser.add_argument(
        "model", choices=[name for name, model in models().items() if model.weights is not None]
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance", type=float, help="for conditional models; default: the model's own")
    parser.add_argument("--grid", type=Path, help="write the first hundred pictures to this file")
    parser.add_argument("--prompt", action="append", help="these instead of a series; may be repeated")
    parser.add_argument(
        "--nearest", type=Path, help="write the pictures above their nearest training pictures to this file"
    )
    chosen = parser.parse_args(argv)
    model = find(chosen.model)
    pipeline = load_pipeline(chosen.model)
    if chosen.prompt:
        pictures, asked = _of_prompts(pipeline, model, chosen.prompt, chosen), None
    else:
        pictures, asked = generate(
            pipeline, model, chosen.count, chosen.seed, chosen.steps, guidance=chosen.guidance
        )
    if chosen.grid:
        grid(pictures[:100]).save(chosen.grid)
    if chosen.nearest:
        beside_nearest(pictures, model.dataset).save(chosen.nearest)
    figures = figures_of(pictures, model.dataset, asked)
    print(json.dumps({"model": model.name, "steps": chosen.steps or model.steps, **figures}))
    return 0


def _of_prompts(pipeline: Any, model: ZooModel, asked: list[str], chosen: argparse.Namespace) -> Pictures:
    found = pipeline(
        asked,
        num_inference_steps=chosen.steps or model.steps,
        guidance_scale=chosen.guidance or model.guidance,
        generator=[torch.Generator().manual_seed(chosen.seed + i) for i in range(len(asked))],
        output_type="np",
    )
    return np.asarray(found.images, np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
