# SPDX-License-Identifier: Apache-2.0
"""`ditto study one_axis`: every way to do less, side by side: quality, MACs, slots, cycles, bytes, energy.

What this file does not do: measure (`ditto_cosim/study/one_axis.py`) or draw (`one_axis_chart.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto_cosim.cli.output import emit, typed


def one_axis(
    model: Annotated[str, typer.Option(help="A model that ships with weights")] = "fashion-dit",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure it (minutes) instead of showing what was kept")
    ] = False,
    pictures: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --measure: pictures that quality is of, a hundred or more for a Fréchet distance; 0: those of the runs",
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="With --measure: pictures a run makes at once")] = 1,
    chips: Annotated[
        str, typer.Option("--chip", help="With --measure: presets or TOML files, comma-separated")
    ] = "paper_twin,paper",
    steps: Annotated[int, typer.Option(min=0, help="With --measure: steps; 0 takes the model's own")] = 0,
    seed: Annotated[int, typer.Option(help="With --measure: of run and pictures")] = 0,
    verify: Annotated[
        bool, typer.Option(help="With --measure: hold every run against the int8 reference")
    ] = True,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="With --measure: where runs and pictures are kept, and found again  [default: one-axis-MODEL]"
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="With --measure: write the figures into this file, as JSON")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the plot: .svg, .png or .html")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """ITC, Ditto, Ditto+, SQ-DM, ICC, reuse, fewer steps on one axis: what each costs, and what it leaves of the picture.

    A model's runs are made once, verified, and priced under every design that can run them; quality is against fp32 on the
    same seeds. What a model does not admit is told. With --measure an interrupted command goes on where it was.
    """
    from ditto_cosim.study import one_axis as study
    from ditto_cosim.study.icc import runs
    from ditto_cosim.study.one_axis_chart import check_path, save

    if output is not None:
        check_path(output)
    if measure:
        names = [name.strip() for name in chips.split(",") if name.strip()]
        where = folder or Path(f"one-axis-{Path(model).name}")
        with _told(as_json) as tell:
            found = study.measure(
                model,
                where,
                pictures=pictures,
                batch=batch,
                chips=names,
                steps=steps,
                seed=seed,
                verify=verify,
                tell=tell,
            )
        found = {"command": typed(), **found}
        if figures is not None:
            from ditto_cosim.protocol.files import write_text

            write_text(figures, json.dumps(found, indent=1) + "\n")
    else:
        known = study.kept(model)
        if known is None:
            raise typer.BadParameter(
                f"nothing was kept of {model!r}; --measure measures it", param_hint="--model"
            )
        found = known
    found["dit_xl_2_by_shape"] = runs()
    if output is not None:
        save(found["rows"], output)
        found["plot"] = str(output)
    if as_json:
        emit("study one_axis", found)
        return
    _print(found)


@contextmanager
def _told(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal; elsewhere a line a thing that is made; nothing under --json."""
    from ditto_cosim.cli.generate import quiet

    with quiet(as_json):
        if as_json:
            yield lambda what, done, of: None
        elif not sys.stderr.isatty():
            yield _lines()
        else:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            with Progress(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task("one axis", total=None)
                yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


def _lines() -> Callable[[str, int, int], None]:
    said: set[str] = set()

    def tell(what: str, done: int, of: int) -> None:
        thing = what.partition(": step")[0]
        if thing not in said:
            said.add(thing)
            print(f"{thing} ({done}/{of})", file=sys.stderr)

    return tell


def _print(found: dict[str, Any]) -> None:
    from ditto_cosim.cli.tables import print_rows

    frechet = found["quality_of_fp32"]["frechet_distance"]
    print(
        f"{found['model']}, {found['steps']} steps, seed {found['seed']}; quality of {found['pictures']} pictures against fp32 "
        f"with every step, costs of a run of {found['batch']}"
    )
    if frechet is not None:
        print(f"fp32's own Fréchet distance is {frechet:.2f}, with so many pictures")
    for chip in dict.fromkeys(r["chip"] for r in found["rows"]):
        rows = sorted((r for r in found["rows"] if r["chip"] == chip), key=lambda r: r["cycles"])
        print_rows(f"on {chip}", [_shown(r) for r in rows])
        print_rows(
            f"ICC on Ditto, {chip}: cycles that others need for its quality over its own",
            [
                {
                    "way": e["way"],
                    "PSNR": f"{e['psnr_db']:.2f}",
                    **{
                        title: "cannot" if e[key] is None else f"{e[key]:.2f}×"
                        for key, title in (
                            ("over_itc", "ITC, fewer steps"),
                            ("over_ditto", "Ditto, fewer steps"),
                            ("over_reuse", "reuse on Ditto"),
                        )
                    },
                }
                for e in found["equal_quality"]
                if e["chip"] == chip
            ],
        )
        if said := slower_increments(found["rows"], chip):
            print(said)
    for left in found["left_out"]:
        print(f"without {left['way']}: {left['why']}")
    print_rows("DiT-XL/2 by shape, chip paper, no weights and so no quality", found["dit_xl_2_by_shape"])
    if "plot" in found:
        print(f"plot: {found['plot']}")


def slower_increments(rows: list[dict[str, Any]], chip: str) -> str:
    """A sentence where caching by increments is slower than computing every step."""
    here = [r for r in rows if r["chip"] == chip and r["design"] == "ditto"]
    slower = [r["way"] for r in here if r["kind"] == "icc" and r["speedup_over_ditto"] < 1]
    if not slower:
        return ""
    return (
        f"{', '.join(slower)}: slower than every step in full on {chip}. An increment is two thin products a layer, and on so "
        "small a model weight loads and the vector unit set the pace, not products; DiT-XL/2, below, is where it pays"
    )


def _with_error(r: dict[str, Any], figure: str, error: str) -> str:
    """A figure and its standard error over the pictures."""
    if r.get(figure) is None:
        return ""
    return f"{r[figure]:.2f}" if r.get(error) is None else f"{r[figure]:.2f} ± {r[error]:.2f}"


def _shown(r: dict[str, Any]) -> dict[str, str]:
    return {
        "way": r["way"],
        "design": r["design"],
        "exact": {True: "yes", False: "NO", None: ""}[r["exact"]],
        "PSNR": f"{r['psnr_db']:.2f}",
        "over full": _with_error(r, "psnr_over_full_db", "psnr_over_full_error_db"),
        "Fréchet": _with_error(r, "frechet_distance", "frechet_error"),
        "over full's": _with_error(r, "frechet_over_full", "frechet_over_full_error"),
        "GMAC": f"{r['macs'] / 1e9:.3f}",
        "Mslots": "" if r["slots"] is None else f"{r['slots'] / 1e6:.2f}",
        "Gmult": f"{r['multiplications'] / 1e9:.3f}",
        "Mcycles": f"{r['cycles'] / 1e6:.4f}",
        "MB": f"{r['bytes'] / 1e6:.1f}",
        "mJ": f"{r['energy_j'] * 1e3:.3f}",
        "× ITC": f"{r['speedup_over_itc']:.2f}",
        "× Ditto": f"{r['speedup_over_ditto']:.2f}",
    }
