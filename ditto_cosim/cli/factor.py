# SPDX-License-Identifier: Apache-2.0
"""`ditto factor`: low-rank factors of a transformer's layers, for increment-calibrated caching.

What this file does not do: make them (`host/pipeline/factor.py`), or run with them (`ditto generate --cache icc`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit


def factor(
    model: Annotated[str, typer.Argument(help="A model that ships, or a folder that save_pretrained wrote")],
    method: Annotated[
        str,
        typer.Option(
            help="svd (weights alone), ca (channels weighed by magnitudes) or cd (by their changes from step to step)"
        ),
    ] = "cd",
    rank: Annotated[int, typer.Option(help="0: a ninth of the layers' width, the authors' usual share")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File of factors; default: beside the weights")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="What channels are weighed by: trajectory (the model's own), or data (its training pictures, as the authors do)",
        ),
    ] = "trajectory",
    pictures: Annotated[int, typer.Option(min=1, help="With --from data: training pictures")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of the calibration runs")] = 4,
    steps: Annotated[int, typer.Option(min=2)] = 50,
    seed: Annotated[int, typer.Option()] = 1234,
    prompt: Annotated[str, typer.Option(help="Text prompt of a text-conditional model")] = "",
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 0 leaves the model's own")] = 0.0,
    scales: Annotated[Path | None, typer.Option(help="File of scales; default: beside the weights")] = None,
    longest_period: Annotated[
        int, typer.Option(min=2, help="Largest period that a run with these factors may have")
    ] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a sentence")
    ] = False,
) -> None:
    """Factorise q, k, v, the attention's output and both layers of the MLP of every block, from the model's own trajectories
    or its training pictures.

    Writes int8 factors with scales, and the digest of the weights that they are of, beside `ditto_scales.json`, where
    `ditto generate --cache icc` finds them.

    Examples: `ditto factor fashion-dit`, then `ditto generate --model fashion-dit --cache icc --period 3`;
    `ditto factor fashion-dit --method svd --rank 43 -o svd.safetensors`.
    """
    from rich.console import Console

    from ditto_cosim.cli.generate import quiet
    from ditto_cosim.host.compiler.cache import METHODS, CacheError, places
    from ditto_cosim.host.compiler.factors import check_rank
    from ditto_cosim.host.pipeline.model_factors import FACTORS_FILE, factor_model
    from ditto_cosim.host.pipeline.models import Wish, load_model

    if method not in METHODS:
        raise CacheError(f"method {method!r} is unknown; it is one of {', '.join(METHODS)}")
    if source not in ("trajectory", "data"):
        raise typer.BadParameter(f"{source!r} is neither trajectory nor data", param_hint="--from")
    with quiet(as_json), Console(stderr=True).status("loading") as status:
        loaded = load_model(model)
        if rank:
            check_rank(rank, places(loaded.denoiser))
        found = factor_model(
            loaded,
            method,
            rank,
            Wish(steps, seed, batch, prompt=prompt, guidance=guidance),
            scales=scales,
            longest_period=longest_period,
            pictures=pictures if source == "data" else 0,
            tell=lambda what, calls: status.update(f"{what}: {calls} calls of the denoiser"),
        )
    name = FACTORS_FILE.format(method)
    target = output or (loaded.folder / name if loaded.folder is not None else Path(name))
    found.save(target)
    size = sum(f.a.numel() + f.b.numel() for f in found.layers.values())
    if as_json:
        figures = {"layers": len(found.layers), "rank": found.rank, "parameters": size}
        emit(
            "factor",
            {"model": found.model, "method": method, **figures, "about": found.about, "file": str(target)},
        )
    else:
        print(
            f"{len(found.layers)} layers at rank {found.rank}, {size:,} parameters, written to {target}",
            file=sys.stdout,
        )
