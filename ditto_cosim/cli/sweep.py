# SPDX-License-Identifier: Apache-2.0
"""`ditto sweep`: which chip, within this area and power, for this run.

Heavy imports wait until the command runs. What this file does not do: choose points (`ditto_cosim/explore.py`) or price them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditto_cosim.cli.output import emit
from ditto_cosim.cli.price import DramOption

if TYPE_CHECKING:
    from ditto_cosim.device.pricing.fields import Axis
    from ditto_cosim.device.pricing.sweep import Base
    from ditto_cosim.explore import Explored

OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        help="local (a pool of processes), ray (the cluster of RAY_ADDRESS, or one here), ray://host:port",
    ),
]


def sweep(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Recorded runs; give several to sweep what a record fixes: model, low rule"),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="name=values: any field of chip or design by its dotted name, `chip`, or `design`; lists 32,64 and "
            "ranges 1:4, 16:256:*2; may be repeated  [default: tiles and DRAM at half, once, twice; itc, ditto, ditto_plus]",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="figure=most, such as area_mm2=80; may be repeated")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            help="cycles, seconds, energy_pj, energy_delay, area_mm2, power_w or bytes; several: their Pareto front "
            " [default: cycles and energy_pj]",
        ),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="grid (all), random, or Optuna's tpe and nsga2 (extra [search])")
    ] = "grid",
    points: Annotated[int, typer.Option(min=1, help="How many a sampler other than grid takes")] = 64,
    seed: Annotated[int, typer.Option(help="Of the sampler")] = 0,
    chip: Annotated[
        str, typer.Option("--chip", help="What is varied: preset or TOML file; the run's own by default")
    ] = "",
    dram: DramOption = "",
    on: OnOption = "local",
    jobs: Annotated[int, typer.Option(min=0, help="Processes, at most one a core; 0: one a core")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="The plot: .html, .png or .svg")] = Path(
        "sweep.html"
    ),
    shown: Annotated[int, typer.Option("--rows", min=1, help="How many points the table has")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table")] = False,
) -> None:
    """Price a run on many chips and designs, and say which of them nothing beats."""
    from ditto_cosim.device.pricing.fields import parse_axis
    from ditto_cosim.device.pricing.sweep import Base, SweepError, parse_limit, parse_objectives
    from ditto_cosim.device.timing.memory import find_memory
    from ditto_cosim.explore import SAMPLERS, explore
    from ditto_cosim.protocol.suggest import did_you_mean
    from ditto_cosim.sweep_page import check_suffix, draw

    if sampler not in SAMPLERS:
        raise SweepError(
            f"--sampler {sampler!r}: expected one of {', '.join(SAMPLERS)}{did_you_mean(sampler, SAMPLERS)}"
        )
    check_suffix(output)
    limits = [parse_limit(text) for text in limit or ()]
    objectives = parse_objectives(objective or ()) or ("cycles", "energy_pj")
    axes = [parse_axis(text) for text in vary or ()]
    if twice := {a.name for a in axes if sum(b.name == a.name for b in axes) > 1}:
        raise SweepError(f"--vary {twice.pop()} is given twice; put all of its values into one list")
    if dram:
        find_memory(dram)
    base = Base(tuple(runs), chip, dram)
    axes = axes or usual(base)
    with progress() as told:
        found = explore(
            base,
            axes,
            objectives,
            limits,
            sampler=sampler,
            count=points,
            seed=seed,
            on=on,
            jobs=jobs,
            told=told,
        )
    draw(
        found,
        limits,
        output,
        f"{len(found.rows)} points around {chip or 'the chip'} of {', '.join(map(str, runs))}",
    )
    if as_json:
        emit("sweep", _figures(found, [str(x) for x in limits], output))
    else:
        _print(found, axes, shown, output)
    if found.sentence:
        raise SweepError(found.sentence)


def usual(base: Base) -> list[Axis]:
    """Half, once and twice the tiles and the bandwidth; the designs that a reader asks for first."""
    from ditto_cosim.device.designs.base import designs_for
    from ditto_cosim.device.pricing.fields import Axis
    from ditto_cosim.protocol.record import RunRecord

    chip, _ = base.own(base.runs[0])
    piped = chip.dram.bytes_per_cycle
    width = "dram.channels" if piped is None else "dram.bytes_per_cycle"
    fitting = designs_for(RunRecord(base.runs[0]).program)
    wanted = [n for n in ("itc", "ditto", "ditto_plus", "int4_dense", "sq_dm") if n in fitting]

    def around(value: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys((max(1, value // 2), value, 2 * value)))

    axes = [("tile.tiles", around(chip.tiles)), (width, around(piped or chip.dram.channels))]
    return [*(Axis(name, values) for name, values in axes), Axis("design", tuple(wanted))]


@contextmanager
def progress(what: str = "pricing") -> Iterator[Any]:
    """A bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _figures(found: Explored, limits: list[str], plot: Path) -> dict[str, Any]:
    front = set(found.front)
    return {
        "points": [{**row, "pareto": i in front} for i, row in enumerate(found.rows)],
        "pareto": [found.rows[i] for i in found.front],
        "pareto_over": found.front_over,
        "best": found.best,
        "objectives": found.objectives,
        "limits": limits,
        "nearest": found.sentence or None,
        "left_out": found.left_out,
        "plot": str(plot),
    }


def _print(found: Explored, axes: list[Axis], shown: int, plot: Path) -> None:
    from ditto_cosim.cli.price import _print_table

    rows, front = found.rows, set(found.front)
    fields = [a.name for a in axes if a.name not in ("design",)]
    several = len({row["run"] for row in rows}) > 1
    names = [*(["run"] if several else []), *(f for f in fields if f != "chip"), "chip", "design"]
    ranked = sorted(range(len(rows)), key=lambda i: (i not in front, rows[i][found.objectives[0]]))
    _print_table(
        ["Pareto", *names, "cycles", "ms", "mJ", "mm²", "W", "J·s"],
        [
            [
                "*" if i in front else "",
                *(str(rows[i].get(n, "")) for n in names),
                f"{rows[i]['cycles']:,}",
                f"{rows[i]['seconds'] * 1e3:.4g}",
                f"{rows[i]['energy_pj'] / 1e9:.4g}",
                f"{rows[i]['area_mm2']:.4g}",
                f"{rows[i]['power_w']:.3g}",
                f"{rows[i]['energy_delay']:.3g}",
            ]
            for i in ranked[:shown]
        ],
    )
    left = f", {len(rows) - shown} more in --json" if len(rows) > shown else ""
    print(
        f"{len(rows)} points{left}; * nothing within the limits beats it in {' and '.join(found.front_over)}"
    )
    if found.left_out:
        print(f"{len(found.left_out)} combinations cannot be built, the first: {found.left_out[0]}")
    if found.best is not None:
        said = ", ".join(f"{n} {found.best[n]}" for n in names if n in found.best)
        print(f"least {found.objectives[0]} within the limits: {said}")
    print(f"plot: {plot}")
