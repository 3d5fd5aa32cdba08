# SPDX-License-Identifier: Apache-2.0
"""`ditto study`: other papers' systems, held against what this product measures of them.

ICC is in `study_icc.py`, all of them on one axis in `study_one_axis.py`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditto_cosim.cli.output import emit
from ditto_cosim.cli.study_icc import icc
from ditto_cosim.cli.study_measured import measured
from ditto_cosim.cli.study_one_axis import one_axis

if TYPE_CHECKING:
    from ditto_cosim.study.sq_dm import Findings, Judged

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hold the claims of other papers against this model of them.",
)


@app.callback()
def _studies() -> None:
    """A group, so that a study is named."""


app.command("icc")(icc)
app.command("measured")(measured)
app.command("one_axis")(one_axis)


@app.command("sq_dm")
def sq_dm(
    record: Annotated[
        Path | None,
        typer.Option(help="A run of `ditto generate --design sq_dm`; without one a short one is made"),
    ] = None,
    model: Annotated[str, typer.Option(help="Without a record: the model to run")] = "fashion-ddpm-relu",
    steps: Annotated[int, typer.Option(min=1, help="Without a record: steps of the run")] = 25,
    chip: Annotated[str, typer.Option(help="Price it on another chip  [default: the record's]")] = "",
    formats: Annotated[
        bool,
        typer.Option("--formats", help="Measure what other formats leave of the output (Q15); half a minute"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables")] = False,
) -> None:
    """SQ-DM's claims Q01 to Q15: published, ours, verdict, why; sweeps of threshold, split, interval and area."""
    from tempfile import TemporaryDirectory

    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.device.pricing.recorded import RecordColumns
    from ditto_cosim.protocol.record import RunRecord
    from ditto_cosim.study import sq_dm as study

    asked = load_chip(chip) if chip else None
    with TemporaryDirectory() as room:
        if record is None:
            record = Path(room)
            _run(model, steps, record, as_json)
        columns = RecordColumns.load(RunRecord(record))
    name = columns.info.model
    measured = _formats(name) if formats else None
    found = study.measure(columns, _plan(name), asked, measured)
    verdicts = study.judge(found)
    if as_json:
        emit("study sq_dm", {"claims": [asdict(v) for v in verdicts], **study.tables(found)})
        return
    _print(found, verdicts, study.tables(found))


def _run(model: str, steps: int, directory: Path, as_json: bool) -> None:
    from ditto_cosim.cli.generate import quiet
    from ditto_cosim.cli.progress import watching
    from ditto_cosim.host.generation import generate_run
    from ditto_cosim.host.pipeline.models import Wish, load_model

    with quiet(as_json) as say, watching(as_json) as watcher:
        say(f"no record given: {model}, {steps} steps on design sq_dm, chip stonne, backend model")
        generate_run(
            load_model(model),
            Wish(steps),
            directory,
            backend="model",
            chip="stonne",
            design="sq_dm",
            watcher=watcher,
        )


def _plan(model: str) -> Any:
    """The plan beside the weights of a model that ships."""
    from ditto_cosim.host.compiler.plan import PLAN_FILE, load_plan
    from ditto_cosim.host.zoo import models

    known = models().get(model)
    found = None if known is None or known.weights is None else known.weights / PLAN_FILE
    return load_plan(found) if found is not None and found.is_file() else None


def _formats(model: str) -> dict[str, float]:
    from ditto_cosim.host.analysis.formats import compare_formats
    from ditto_cosim.host.pipeline.accelerate import trajectory_of
    from ditto_cosim.host.pipeline.models import Wish, load_model

    loaded, plan = load_model(model), _plan(model)
    print("formats: one fp32 trajectory, then the denoiser on each", file=sys.stderr)
    captured, calls = trajectory_of(loaded.pipe, loaded.arguments(Wish(10, 1234, 2)))
    return compare_formats(captured, calls[::3], plan)


def _print(found: Findings, verdicts: list[Judged], tables: dict[str, Any]) -> None:
    for v in verdicts:
        deviation = "" if v.deviation is None else f"{v.deviation:+.1%}"
        print(f"{v.id} [{v.standing}] {v.verdict:<12} {deviation:>8}  {v.claim}: {v.published}")
        if v.ours:
            print(f"{'':29}{'ours':>5}  {v.ours}")
        print(f"{'':29}{'why':>5}  {v.why}")
    print(
        "\nspeed-up of the 4-bit layers over one dense array, by threshold (columns) and the dense array's share (rows)"
    )
    rows = tables["theta"]
    thresholds = sorted({r["threshold"] for r in rows})
    print(f"{'':8}" + "".join(f"{t:7.1f}" for t in thresholds))
    for split in dict.fromkeys(r["dense_share"] for r in rows):
        of_split = [r["speedup"] for r in rows if r["dense_share"] == split]
        best = max(of_split)
        print(f"{split:8.2f}" + "".join(f"{v:6.2f}{'*' if v == best else ' '}" for v in of_split))
    for title, kind in (
        ("interval", "intervals"),
        ("area of a sparse multiplier", "areas"),
        ("design", "designs"),
    ):
        print(f"\nby {title}")
        for row in (
            tables[kind] if kind != "designs" else [{"design": n, **d} for n, d in tables[kind].items()]
        ):
            print("  " + "  ".join(f"{k} {_short(v)}" for k, v in row.items()))
    print("\nbursts of a layer's input and what the DRAM takes for them, channel last and channel first")
    for row in tables["layouts"]:
        print("  " + "  ".join(f"{k} {_short(v)}" for k, v in row.items()))
    print("\nEDM's networks by shape")
    for row in tables["edm"]:
        print("  " + "  ".join(f"{k} {_short(v)}" for k, v in row.items()))
    print(
        "\n"
        + "  ".join(f"{k} {_short(v)}" for k, v in {**tables["sparsity"], **tables["utilisation"]}.items())
    )
    print(
        "standing: P the paper's first page, S someone who had read it, D derived from those; sizes and rates are ours"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
