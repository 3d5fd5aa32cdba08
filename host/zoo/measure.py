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

from . import ZooModel, find, load_pipeline, models

Pictures = npt.NDArray[np.float32]


def generate(
    pipeline: Any,
    model: ZooModel,
    count: int,
    seed: int = 0,
    steps: int | None = None,
    batch: int = 50,
    guidance: float = 2.0,
    progress: Callable[[int], None] | None = None,
) -> tuple[Pictures, npt.NDArray[np.int64] | None]:
    """(N x H x W x C pictures in 0..1, the classes asked for or None); classes go round 0..9."""
    asked = np.arange(count) % 10 if model.class_conditional else None
    parts = []
    for start in range(0, count, batch):
        indices = range(start, min(start + batch, count))
        arguments: dict[str, Any] = {
            "num_inference_steps": steps or model.steps,
            "generator": [torch.Generator().manual_seed(seed * 1_000_003 + index) for index in indices],
            "output_type": "np",
        }
        if asked is not None:
            arguments |= {"class_labels": asked[start : start + batch].tolist(), "guidance_scale": guidance}
        else:
            arguments["batch_size"] = len(indices)
        parts.append(np.asarray(pipeline(**arguments).images, np.float32))
        if progress is not None:
            progress(indices[-1] + 1)
    return np.concatenate(parts), asked


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


def figures_of(pictures: Pictures, dataset: str, asked: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    """Fréchet distance to the real training pictures and class scores, N included."""
    from .classifier import class_scores, classify, frechet_distance, load_classifier, reference_statistics

    features, logits = classify(pictures, load_classifier(dataset))
    scores = dataclasses.asdict(class_scores(logits, asked))
    return {"frechet_distance": frechet_distance(features, reference_statistics(dataset)), **scores}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditto_cosim.host.zoo.measure")
    parser.add_argument(
        "model", choices=[name for name, model in models().items() if model.weights is not None]
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance", type=float, default=2.0, help="for class-conditional models")
    parser.add_argument("--grid", type=Path, help="write the first hundred pictures to this file")
    chosen = parser.parse_args(argv)
    model = find(chosen.model)
    pictures, asked = generate(
        load_pipeline(chosen.model), model, chosen.count, chosen.seed, chosen.steps, guidance=chosen.guidance
    )
    if chosen.grid:
        grid(pictures[:100]).save(chosen.grid)
    print(
        json.dumps(
            {
                "model": model.name,
                "steps": chosen.steps or model.steps,
                **figures_of(pictures, model.dataset, asked),
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
