# SPDX-License-Identifier: Apache-2.0
"""What models that ship show of the paper's claims about activations (C01, C04, C07, C17). Other models than the paper's.

Interface
    measure(models, steps, seed, tell) -> rows     runs each on the model backend, analysed as by `ditto analyze`
    kept() -> rows of `measured_models.json`, made by `ditto study measured -o …`; the file says the command
    MEASURED_OF                                         claim -> what to show of a row
    shown(claim) -> one line with every kept model's figure, or nothing

What this file does not do: judge. None of it is the paper's models, so none of it turns a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

KEPT = "measured_models.json"
MODELS = ("fashion-ddpm", "fashion-dit", "cifar-ddpm-small", "emoji-sd")

MEASURED_OF: Mapping[str, str] = {
    "C01": "temporal_cosine",
    "C04": "spatial_cosine",
    "C07": "range_ratio",
    "C17": "bops_saved",
}


def measure(
    models: Iterable[str], steps: int, seed: int, tell: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """One run of each model, of the first prompt that it knows; 0 steps: its own number."""
    from ditto_cosim.host.analysis.replay import analyze_run
    from ditto_cosim.host.generation import generate_run
    from ditto_cosim.host.pipeline.models import Wish, load_denoiser, load_model

    rows = []
    for model in models:
        with TemporaryDirectory() as room:
            run = Path(room) / "run"
            tell(f"{model}: a run on the model backend")
            loaded = load_model(model)
            generate_run(
                loaded, Wish(steps, seed, prompt=next(iter(loaded.prompts), "")), run, backend="model"
            )
            tell(f"{model}: its analysis")
            figures = analyze_run(run, load_denoiser(model)).figures()
        rows.append(row_of(model, seed, figures))
    return rows


def row_of(model: str, seed: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `ditto analyze --json` prints, what the claims speak of."""
    bits = figures["relative_bit_operations"]
    return {
        "model": model,
        "steps": figures["steps"],
        "seed": seed,
        "temporal_cosine": round(figures["cosine"]["temporal"], 4),
        "spatial_cosine": round(figures["cosine"]["spatial"], 4),
        "range_ratio": round(figures["range_ratio"]["temporal"], 2),
        "bops_saved": round(1 - bits["temporal.twos4"] / bits["activations.twos4"], 4),
    }


@cache
def kept() -> tuple[dict[str, Any], ...]:
    text = resources.files("ditto_cosim.study").joinpath(KEPT).read_text(encoding="utf-8")
    return tuple(json.loads(text)["models"])


def shown(claim: str) -> str:
    """`other models: fashion-ddpm 0.98 (10 steps, seed 0); …`."""
    if claim not in MEASURED_OF:
        return ""
    figure = MEASURED_OF[claim]
    each = (f"{r['model']} {r[figure]:.4g} ({r['steps']} steps, seed {r['seed']})" for r in kept())
    return "other models: " + "; ".join(each)
