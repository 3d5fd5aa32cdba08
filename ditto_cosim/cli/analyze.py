# SPDX-License-Identifier: Apache-2.0
"""`ditto analyze` and `ditto quality`: what a run's values look like, and what int8 costs in pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto_cosim.cli.output import emit

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")]


def analyze(
    run: Annotated[Path, typer.Argument(help="Directory that `ditto generate` wrote")],
    model: Annotated[
        str, typer.Option(help="The run's model, if it was a folder that save_pretrained wrote")
    ] = "",
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also: what each layer's quantization alone costs")
    ] = False,
    plots: Annotated[bool, typer.Option(help="Write plots beside the run")] = True,
    as_json: AsJson = False,
) -> None:
    """Similarity, ranges, bit widths and bit operations of a recorded run.

    The int8 reference computes the run again from its recorded inputs, and must meet what the record says.
    Writes analysis.json and analysis-*.png into the run's directory.
    """
    from ditto_cosim.host.analysis.replay import analyze_run, refuse_cached
    from ditto_cosim.host.pipeline.models import load_denoiser
    from ditto_cosim.protocol.files import write_text
    from ditto_cosim.protocol.record import RunRecord

    record = RunRecord(run)
    refuse_cached(record)
    denoiser = load_denoiser(model or record.info.model)
    analysis = analyze_run(run, denoiser, _counter("step", as_json))
    write_text(run / "analysis.json", analysis.to_json())
    figures: dict[str, Any] = {"run": str(run), **analysis.figures()}
    rows = []
    if sensitivity:
        from ditto_cosim.host.analysis.sensitivity import sensitivities

        rows = sensitivities(run, denoiser, progress=_counter("layer", as_json))
        figures["sensitivity"] = {row.layer: row.sqnr_db for row in rows}
    if plots or not as_json:
        from ditto_cosim.host.report import analysis as views
    if plots:
        figures["plots"] = [str(path) for path in views.write_plots(analysis, run)]
    if as_json:
        emit("analyze", figures)
        return
    from rich.console import Console

    console = Console()
    console.print(views.tables(analysis))
    if rows:
        console.print(views.sensitivity_table(rows))
    written = ["analysis.json", *(Path(path).name for path in figures.get("plots", ()))]
    console.print(f"\nwritten into {run}: {', '.join(written)}", highlight=False)


def quality(
    model: Annotated[
        str,
        typer.Argument(help="A model that ships (`ditto models`), or a folder that save_pretrained wrote"),
    ],
    count: Annotated[
        int, typer.Option(min=2, help="Pictures per seed; a Fréchet distance depends on their number")
    ] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Series of pictures; two or more give error bars")] = 3,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Activation scales: static, clustered or dynamic; may be repeated; none: fp32 alone"
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of int8: mxint8, sq_dm, sq_dm_signed, int4_vsq or int4_tensor; may be repeated"
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Format plan for --formats  [default: the one beside the weights]")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Denoising steps; 0 takes the model's own")] = 0,
    seed: Annotated[int, typer.Option(help="The first one")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures computed at once; changes no picture")] = 50,
    scales: Annotated[
        Path | None, typer.Option(help="File of scales; default: the model's own, or a calibration")
    ] = None,
    observer: Annotated[
        str, typer.Option(help="How calibration chooses a range: mse, percentile or minmax")
    ] = "mse",
    keep: Annotated[
        Path | None, typer.Option(help="Folder of pictures: those there are not made again")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="For a folder with text: prompts, one a line, gone through in turn")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 0 leaves the model's own")] = 0.0,
    dtype: Annotated[str, typer.Option(help="Load a folder as fp32, fp16, bf16 or fp64")] = "",
    lora: Annotated[
        list[str] | None,
        typer.Option(help="For a folder: LoRA file or folder, perhaps :scale; may be repeated"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Picture of all, side by side")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What int8 costs: the same seeds in fp32 and in the accelerator's arithmetic, scored and side by side.

    The int8 pictures come from the int8 reference, which every exact design equals bit for bit. A model that ships is
    scored against the pictures it was trained on; of a folder's, the distance from fp32 is told.
    """
    from ditto_cosim.host.analysis.formats import numbers_named
    from ditto_cosim.host.analysis.quality import measure_quality, side_by_side
    from ditto_cosim.host.compiler.plan import load_plan
    from ditto_cosim.host.pipeline.models import Wish, prompts_of
    from ditto_cosim.host.report.quality import quality_figures, quality_table

    named = [numbers_named(name) for name in dict.fromkeys(formats or ())]
    result = measure_quality(
        model,
        count,
        seeds=range(seed, seed + seeds),
        policies=tuple(p for p in dict.fromkeys(policy or ([] if formats else ["static"])) if p != "none"),
        formats=named,
        plan=None if plan is None else load_plan(plan),
        steps=steps or None,
        batch=batch,
        scales=scales,
        observer=observer,
        wish=Wish(prompts=prompts_of(prompt_file), guidance=guidance),
        options={"dtype": dtype, "lora": lora or ()},
        keep=keep,
        progress=None if as_json or not sys.stderr.isatty() else _show_pictures,
    )
    path = output or Path(f"quality-{Path(model).name}.png")
    from ditto_cosim.protocol.files import replacing

    with replacing(path) as unfinished:
        side_by_side(result).save(unfinished)
    figures = quality_figures(result) | {"pictures": str(path)}
    if as_json:
        emit("quality", figures)
        return
    from rich.console import Console

    console = Console()
    console.print(quality_table(figures))
    console.print(
        f"± is the standard error over seeds {', '.join(map(str, result.seeds))}; extractor: {figures['extractor']}\n"
        f"side by side ({' above '.join(result.series)}): {path}",
        highlight=False,
    )


def _counter(what: str, quiet: bool) -> Any:
    """A line on standard error that counts, if a person is watching."""
    if quiet or not sys.stderr.isatty():
        return None
    return lambda done, total: print(f"\r{what} {done}/{total} ", end="", file=sys.stderr, flush=True)


def _show_pictures(kind: str, done: int) -> None:
    print(f"\r{kind}: {done} pictures ", end="", file=sys.stderr, flush=True)
