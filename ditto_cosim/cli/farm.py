# SPDX-License-Identifier: Apache-2.0
"""`ditto farm`: runs of many models and seeds, tried again where they fail, here or on many machines."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit
from ditto_cosim.cli.sweep import OnOption, progress


def farm(
    options: Annotated[
        list[str] | None, typer.Argument(help="Behind --: options of `ditto generate`, for every run")
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="A model; may be repeated")] = None,
    seeds: Annotated[str, typer.Option(help="0:7 (both ends) or 0,3,5")] = "0",
    retries: Annotated[int, typer.Option(min=0, help="Further attempts of a run that fails")] = 2,
    on: OnOption = "local",
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: half the cores, or all of Ray's")] = 0,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the runs' directories; a farm in it goes on")
    ] = Path("runs/farm"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table")] = False,
) -> None:
    """Generate runs of many models and seeds. A farm that was stopped goes on with what is not done."""
    from ditto_cosim.cli.price import _print_table
    from ditto_cosim.device.pricing.fields import Axis, FieldError, parse_values
    from ditto_cosim.farm import FarmError, plan
    from ditto_cosim.farm import farm as run_all

    try:
        numbers = Axis("seeds", parse_values(seeds)).values
    except FieldError as error:
        raise FarmError(f"--seeds: {error}") from None
    if any(not isinstance(n, int) or n < 0 for n in numbers):
        raise FarmError(f"--seeds {seeds!r}: expected whole numbers, such as 0:7 or 0,3,5")
    planned = plan(model or ["fashion-ddpm"], [int(n) for n in numbers], output, options or ())
    found = []
    with progress("running") as told:
        for done in run_all(planned, retries, on, jobs):
            found.append(done)
            told(len(found), len(planned))
            if done.error and not as_json:
                print(f"{done.model}, seed {done.seed}: {done.status}: {done.error}", file=sys.stderr)
    order = {(p.model, p.seed): i for i, p in enumerate(planned)}
    found.sort(key=lambda d: order[d.model, d.seed])
    failed = [d for d in found if d.status not in ("done", "kept")]
    if as_json:
        emit("farm", {"runs": [asdict(d) for d in found], "failed": len(failed)})
    else:
        _print_table(
            ["model", "seed", "status", "attempts", "s", "cycles", "directory"],
            [
                [d.model, str(d.seed), d.status, str(d.attempts), f"{d.seconds:.1f}",
                 f"{d.summary.get('cycles', 0):,}", d.directory]
                for d in found
            ],
        )  # fmt: skip
    if failed:
        raise typer.Exit(1)
