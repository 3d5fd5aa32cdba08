# SPDX-License-Identifier: Apache-2.0
"""Factors of a model as a user names it: made from its own trajectories, found beside its weights, or made when needed.

What this file does not do: the arithmetic (`factor.py`, `compiler/lowrank.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ditto_cosim.host.compiler.cache import METHODS, Cache, places
from ditto_cosim.host.compiler.factors import Factors, check_rank
from ditto_cosim.host.compiler.quantize import load_grids
from ditto_cosim.host.pipeline.factor import LONGEST_PERIOD, Tell, factor_denoiser, factor_pairs
from ditto_cosim.host.pipeline.factor_data import data_calls
from ditto_cosim.host.pipeline.models import LoadedModel, Wish

FACTORS_FILE = "ditto_factors_{}.safetensors"
CALIBRATION = Wish(batch=4, seed=1234)
"""What `ditto calibrate` takes too."""


def factor_model(
    model: LoadedModel,
    method: str,
    rank: int,
    wish: Wish = CALIBRATION,
    *,
    scales: Path | None = None,
    longest_period: int = LONGEST_PERIOD,
    tell: Tell | None = None,
    pictures: int = 0,
) -> Factors:
    """Factors from the trajectories that the wish asks for, to be met by operands on the model's scales, or those in `scales`.
    With `pictures`, channels are weighed by so many of the training set, and trajectories say how large increments are."""
    seen = list(data_calls(model, pictures, wish.seed)) if pictures and method != "svd" else None
    call, steps = _call(model, wish)
    chosen = scales or model.scales
    return factor_denoiser(
        call,
        model.denoiser,
        method,
        rank,
        model=model.title,
        grids=None if chosen is None else load_grids(chosen),
        longest_period=longest_period,
        about={
            "from": "own trajectories" if seen is None else f"{pictures} training pictures",
            "steps": steps,
            "pictures": wish.batch,
            "seed": wish.seed,
        },
        tell=tell,
        seen=seen,
    )


def factor_pairs_of(
    model: LoadedModel, method: str, rank: int, wish: Wish = CALIBRATION, pictures: int = 0
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The same before they are put on 8-bit grids: what the published algorithm runs with."""
    seen = data_calls(model, pictures, wish.seed) if pictures else [_call(model, wish)[0]]
    return factor_pairs(seen, model.denoiser, method, rank)


def _call(model: LoadedModel, wish: Wish) -> tuple[Callable[[], None], int]:
    """The pipeline's call for a wish, the same every time, and its steps."""
    arguments = model.calibration(wish)
    if "vae" in getattr(model.pipe, "components", {}):
        arguments.setdefault("output_type", "latent")

    def call() -> None:
        model.pipe(**{**arguments, "generator": torch.Generator().manual_seed(wish.seed)})

    return call, int(arguments["num_inference_steps"])


def factors_for(
    cache: Cache | None, model: LoadedModel, wish: Wish, scales: Path | None, say: Callable[[str], None]
) -> Factors | None:
    """What a cache needs for a run: from the file that it names or that lies beside the weights, or made now."""
    if cache is None or cache.idle or cache.kind != "icc":
        return None
    found = places(model.denoiser)
    if cache.rank:
        check_rank(cache.rank, found)
    path = Path(cache.factors)
    if cache.factors in METHODS and model.folder is not None:
        path = model.folder / FACTORS_FILE.format(cache.factors)
    if cache.factors not in METHODS or path.is_file():
        loaded = Factors.load(path)
        if cache.factors not in METHODS or loaded.rank >= cache.rank:
            loaded.for_run(found, cache.rank, cache.period)
            return loaded
    say("factoring (fp32 trajectories; `ditto factor` keeps its result)")
    asked = replace(
        CALIBRATION, steps=wish.steps, prompt=wish.prompt, prompts=wish.prompts, guidance=wish.guidance
    )
    longest = max(cache.period, LONGEST_PERIOD)
    return factor_model(model, cache.factors, cache.rank, asked, scales=scales, longest_period=longest)
