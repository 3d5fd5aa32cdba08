# SPDX-License-Identifier: Apache-2.0
"""Writes model cards: `python -m ditto_cosim.host.zoo.cards NAME`, from training.json, quality.json and what is known.

Does: one README.md per model folder, with the figures that lie beside the weights; nothing in a card is typed by hand
but the sentences below, which say what a model is for and what it does badly.
Does not: measure. quality.json is what `ditto quality NAME --json` printed, samples.png what it drew.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ditto_cosim.host.compiler.quantize import Policy

from . import WEIGHTS, find, models, shipped
from .data import datasets
from .tasks import recipes


@dataclass(frozen=True)
class Notes:
    """What figures do not say."""

    judgement: str
    """What the pictures are like, and what fails."""
    loader: str = ""
    """How diffusers loads the folder, where `from_pretrained` needs something beside it."""


_RELU = (
    "As {0}, from which it was fine-tuned: ReLU in front of every residual block's convolutions. The time embedding and "
    "the last convolution keep SiLU."
)

_NOTES = {
    "emoji-sd": Notes(
        "Objects of the training set come out clean, mostly as the training picture itself: 1,026 pictures are few, and it has "
        "seen each some three thousand times. It does not recombine: a combination it never saw comes out as a picture that one "
        "of its words names (see below), and it knows no word that is in no emoji's name. Small lettering is lost. Prompts are "
        "cut at 16 tokens."
    ),
    "fashion-ddpm": Notes(
        "Garments of all kinds at 28x28; now and then one with a hole, or two garments in one."
    ),
    "fashion-ddpm-relu": Notes(_RELU.format("fashion-ddpm")),
    "fashion-dit": Notes(
        "All ten classes, as asked for. Sandals are the weakest: some come out as fragments of straps.",
        "given `vae=ditto_cosim.host.zoo.pixels.PixelVAE()`",
    ),
    "cifar-ddpm-small": Notes(
        "Textures, skies and meadows are right; about every third picture shows a car, lorry, horse or ship, the others a "
        "thing without a name. It was trained for minutes, not days."
    ),
    "cifar-ddpm-small-relu": Notes(_RELU.format("cifar-ddpm-small")),
    "cifar-ddpm": Notes(
        "The paper's own network (`ddpm` of its Table I), trained for 34 epochs where the original had some 2,000: about "
        "every second picture shows an object one would name, animals least."
    ),
}

UNSEEN = (
    "blue cat, purple apple, red penguin, cat with sunglasses, green dog, angry pumpkin, heart with wings, "
    "crying robot"
)
"""The combinations of nearest.png that no training picture shows."""

_SHORT = {"frechet_distance": "Fréchet distance", "inception_like": "Inception-like", "accuracy": "as asked"}
_SHORT |= {"recalled": "nearest is the one named", "nearest_training_difference": "difference to nearest"}


def card(name: str, folder: Path) -> str:
    """The text of a model's README.md."""
    model, recipe = find(name), recipes()[name]
    facts: dict[str, Any] = json.loads((folder / "training.json").read_text())
    dataset, notes = datasets()[recipe.dataset], _NOTES[name]
    part = "transformer" if model.class_conditional else "unet"
    config = json.loads((folder / part / "config.json").read_text())
    denoiser = shipped.build(name, "meta")
    parameters = sum(p.numel() for p in denoiser.parameters()) / 1e6
    extra = f", {notes.loader}" if notes.loader else ""
    schedule = (
        "scaled linear down to pure noise, v-prediction"
        if model.prompts
        else "linear, 1000 training steps, noise prediction"
    )
    guidance = f", guidance {model.guidance:g}" if model.guidance else ""
    precision = facts.get("precision", "fp32")
    rows = [
        ("for", model.purpose),
        ("denoiser", f"{config['_class_name']}, {parameters:.2f} M parameters"),
        ("data", f"{dataset.description} (`ditto data {dataset.name}`); {dataset.licence}"),
        ("noise schedule", f"{schedule}; sample with {model.sampler}, {model.steps} steps{guidance}"),
        (
            "training",
            f"{facts['steps']:,} steps of batch {facts.get('batch', recipe.batch)}, AdamW, {precision}, {facts['device']}, "
            f"{facts['minutes']:.1f} min",
        ),
        (
            "training loss",
            f"{facts['loss']:.4f} (mean squared error, mean of the last {facts['loss_steps']} steps)",
        ),
    ]
    if vae := facts.get("autoencoder"):
        rows.insert(
            -1,
            (
                "autoencoder",
                f"AutoencoderKL, 64x64x3 to 16x16x4; {vae['steps']:,} steps of batch 64, {vae['minutes']:g} min; "
                f"draws the training pictures again at {vae['psnr_db']:.1f} dB",
            ),
        )
    rows.append(("licence of the weights", model.licence))
    commands = facts.get("commands") or [
        f"train {name} {facts['budget']} --seed {facts['seed']} --out RUN",
        f"export {name} --run RUN",
    ]
    parts = [
        f"# {name}",
        (recipe.build.__doc__ or name).splitlines()[0],
        f"Weights are the exponential moving average in fp16. Load with `ditto_cosim.host.zoo.load_pipeline({name!r})`, "
        f"or from this folder with diffusers' own `from_pretrained`{extra}.",
        "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows),
        notes.judgement,
        *_pictures(folder),
        *_quality(folder),
        *_cost(recipe.start, folder),
        "Commands:",
        "\n".join(f"    python -m ditto_cosim.host.zoo.{line}" for line in commands),
    ]
    return "\n\n".join(parts) + "\n"


def _pictures(folder: Path) -> list[str]:
    found = []
    if (folder / "samples.png").is_file():
        found.append("![unselected samples](samples.png)")
        found.append(
            json.loads((folder / "quality.json").read_text()).get("samples", "")
            if (folder / "quality.json").is_file()
            else "64 unselected samples, fp32."
        )
    if (folder / "nearest.png").is_file():
        found.append("![samples above the nearest training pictures](nearest.png)")
        found.append(
            "Samples (fp32), each row above the nearest training pictures: eight names it was trained on, then eight "
            f"combinations it never saw: {UNSEEN}."
        )
    return [text for text in found if text]


def _quality(folder: Path) -> list[str]:
    """Tables of quality.json: a list of measurements as `ditto quality --json` prints them."""
    path = folder / "quality.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    parts = []
    for one in found["measurements"]:
        columns = [
            key
            for key in _SHORT
            if key in one["series"]["fp32" if "fp32" in one["series"] else next(iter(one["series"]))]
        ]
        lines = [
            "| | " + " | ".join(_SHORT[key] for key in columns) + " | PSNR to fp32 |",
            "|---" * (len(columns) + 2) + "|",
        ]
        for name, row in one["series"].items():
            cells = [_cell(row[key]) for key in columns]
            psnr = f"{row['psnr_db']:.1f} dB" if "psnr_db" in row else ""
            lines.append(
                f"| {f'int8 {name}' if name in get_args(Policy) else name} | "
                + " | ".join([*cells, psnr])
                + " |"
            )
        seeds = len(one["seeds"])
        parts.append(
            f"{one['count']:,} pictures from each of {seeds} seed{'s' * (seeds > 1)}, {one['steps']} steps"
            + (" (± standard error)" if seeds > 1 else "")
            + f"; extractor: {one['extractor']}:"
        )
        parts.append("\n".join(lines))
    if found.get("remark"):
        parts.append(found["remark"])
    return parts


def _cost(start: str | None, folder: Path) -> list[str]:
    """What it cost to make this model of another: the largest measurement of both in fp32, seed by seed."""
    if start is None:
        return []
    before, after = _fp32_distances(WEIGHTS / start), _fp32_distances(folder)
    shared = {
        series: sorted(before[series].keys() & after[series].keys())
        for series in before.keys() & after.keys()
    }
    series = max((s for s in shared if shared[s]), default=None)
    if series is None:
        return []
    (count, steps), seeds = series, shared[series]
    changes = [after[series][seed] - before[series][seed] for seed in seeds]
    mean = statistics.mean(changes)
    error = f" ± {statistics.stdev(changes) / math.sqrt(len(changes)):.2f}" if len(changes) > 1 else ""
    share = mean / statistics.mean(before[series][seed] for seed in seeds)
    rows = [
        f"| {name} | {statistics.mean(found[series][seed] for seed in seeds):.2f} |"
        for name, found in ((f"{start}, before", before), ("this model, after", after))
    ]
    told = ", ".join(map(str, seeds))
    return [
        f"What the change and the fine-tuning cost: {count:,} pictures of seed{'s' * (len(seeds) > 1)} {told}, {steps} steps, "
        f"`ditto quality {start} --policy none --count {count}` and the same of this model:",
        "\n".join(
            [
                "| fp32 | Fréchet distance |",
                "|---|---|",
                *rows,
                f"| cost, seed by seed | {mean:+.2f}{error} ({share:+.0%}) |",
            ]
        ),
    ]


def _fp32_distances(folder: Path) -> dict[tuple[int, int], dict[int, float]]:
    """(pictures a seed, steps) -> seed -> Fréchet distance; nothing of a model that was not measured."""
    found: dict[tuple[int, int], dict[int, float]] = {}
    path = folder / "quality.json"
    for one in json.loads(path.read_text())["measurements"] if path.is_file() else ():
        if "fp32" in one["series"]:
            distances = one["series"]["fp32"]["frechet_distance"]["by_seed"]
            found.setdefault((one["count"], one["steps"]), {}).update(
                zip(one["seeds"], distances, strict=True)
            )
    return found


def _cell(figure: dict[str, Any]) -> str:
    digits = 2 if figure["mean"] >= 0.1 else 4
    error = "" if figure["error"] is None else f" ± {figure['error']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{error}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditto_cosim.host.zoo.cards", description=__doc__)
    with_weights = [name for name, model in models().items() if model.weights is not None]
    parser.add_argument("model", choices=with_weights)
    parser.add_argument("--folder", type=Path, help="default: the zoo's own folder for the model")
    chosen = parser.parse_args(argv)
    folder = chosen.folder or WEIGHTS / chosen.model
    (folder / "README.md").write_text(card(chosen.model, folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
