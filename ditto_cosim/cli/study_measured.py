# SPDX-License-Identifier: Apache-2.0
"""`ditto study measured`: what models that ship show of the paper's claims about activations, for `ditto paper`.

What this file does not do: run or analyse (`ditto_cosim/study/measured.py`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit, typed


def measured(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Run and analyse the models again (minutes) instead of what was kept"),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="With --measure: a model that ships; may be repeated  [default: those that are kept]"
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=0, help="With --measure: denoising steps; 0: the model's own (fewer steps lie further apart)"
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="With --measure: seed of the starting noise")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With --measure: keep it there, with the command")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table")] = False,
) -> None:
    """Similarity, range and bit operations (C01, C04, C07, C17) on models that ship; not the paper's models."""
    from ditto_cosim.cli.tables import print_rows
    from ditto_cosim.host.zoo import models
    from ditto_cosim.protocol.suggest import did_you_mean
    from ditto_cosim.study import measured as study

    if output is not None and not measure:
        raise typer.BadParameter("-o keeps what --measure finds; give --measure too")
    asked = tuple(model or study.MODELS)
    for name in asked:
        if name not in models():
            raise typer.BadParameter(f"--model {name!r} does not ship{did_you_mean(name, models())}")
    rows = list(study.kept())
    if measure:
        rows = study.measure(asked, steps, seed, lambda what: print(what, file=sys.stderr))
    if output is not None:
        from ditto_cosim.protocol.files import write_text

        write_text(output, json.dumps({"command": typed(), "models": rows}, indent=1) + "\n")
    if as_json:
        emit("study measured", {"models": rows})
        return
    print_rows("models that ship, not the paper's", rows)
