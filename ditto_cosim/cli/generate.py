# SPDX-License-Identifier: Apache-2.0
"""`ditto generate`: pictures through the emulated accelerator, with progress, verdict, tables, record and report."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ditto_cosim.host.generation import Outcome, Watcher
    from ditto_cosim.protocol.messages import LayerReport


def generate(
    how: Annotated[str, typer.Argument(hidden=True)] = "",
    model: Annotated[
        str, typer.Option(help="A model that ships (`ditto models`), or a folder that save_pretrained wrote")
    ] = "fashion-ddpm",
    backend: Annotated[
        str,
        typer.Option(
            help="rtl (lane cycles measured), rtl_wide (values through RTL, sooner), model, board, or your own (module:Class)"
        ),
    ] = "rtl",
    board: Annotated[
        str,
        typer.Option(help="With --backend board: USB serial number, port, or `sim`, the Verilated board top"),
    ] = "",
    chip: Annotated[
        str,
        typer.Option(
            help="paper, paper_twin, edge, tiny, or a TOML file  [default: paper_twin; on a board tiny]"
        ),
    ] = "",
    design: Annotated[
        str, typer.Option(help="ditto, ditto_plus, itc, diffy, sq_dm, … (`ditto compare` shows all)")
    ] = "ditto",
    plan: Annotated[
        str,
        typer.Option(
            help="Formats of block-scaled layers: sq_dm, or a file (`ditto calibrate --plan sq_dm`)  [default: with design sq_dm]"
        ),
    ] = "",
    steps: Annotated[int, typer.Option(min=0, help="Denoising steps; 0 takes the model's own")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the starting noise")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once")] = 1,
    verify: Annotated[
        bool,
        typer.Option(
            help="Compare every value of every step with the int8 reference; `--verify sample=K` K layers a step, in turn"
        ),
    ] = False,
    label: Annotated[
        list[int] | None, typer.Option(help="Class label of a class-conditional model; may be repeated")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text prompt of a text-conditional model")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="File of prompts, one a line")] = None,
    negative: Annotated[str, typer.Option(help="What the picture should not show")] = "",
    init_image: Annotated[str, typer.Option(help="Picture to begin with (image to image)")] = "",
    mask_image: Annotated[str, typer.Option(help="Mask: what is white is painted anew (inpainting)")] = "",
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="How far to go from the first picture; 0: the pipeline's own")
    ] = 0.0,
    controlnet: Annotated[str, typer.Option(help="Folder of a ControlNet")] = "",
    control_image: Annotated[str, typer.Option(help="Picture that the ControlNet follows")] = "",
    lora: Annotated[
        list[str] | None, typer.Option(help="LoRA file or folder, perhaps :scale; may be repeated")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Load the model as fp32, fp16, bf16 or fp64")] = "",
    quantized: Annotated[
        str, typer.Option(help="Quantized weights of its denoiser: a safetensors file or folder, W8A8")
    ] = "",
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance; 0 leaves the pipeline's own")
    ] = 0.0,
    policy: Annotated[
        str,
        typer.Option(
            help="Activation scales: auto (static where one grid serves every step), static, clustered or dynamic"
        ),
    ] = "auto",
    observer: Annotated[
        str, typer.Option(help="How calibration chooses a range: mse, percentile or minmax")
    ] = "mse",
    scales: Annotated[Path | None, typer.Option(help="File of scales (`ditto calibrate` writes one)")] = None,
    rtl_layers: Annotated[
        list[str] | None, typer.Option(help="Layers (patterns) that run in RTL whatever the backend")
    ] = None,
    cross_check: Annotated[str, typer.Option(help="Second backend that must agree on every layer")] = "",
    rtl_dir: Annotated[
        Path | None, typer.Option(help="Run the RTL in this folder, your own, in place of ours (backend rtl)")
    ] = None,
    contract: Annotated[
        str, typer.Option(help="Cycles and counts your RTL keeps instead of ours: file.py:Class")
    ] = "",
    connect: Annotated[str, typer.Option(help="Address of a device that is running already")] = "",
    keys: Annotated[
        Path | None, typer.Option(help="Keys for a device on another machine (`ditto keys`)")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory for pictures, record, report")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """Generate pictures through the emulated accelerator.

    Writes into the output directory: picture-N.png, strip.png (how the picture emerges), report.html, report.json,
    timeline.json (for a trace viewer) and the run's record, which `ditto price`, `compare` and `analyze` read.
    """
    chip = chip or ("tiny" if backend == "board" else "paper_twin")
    if board and backend != "board":
        raise typer.BadParameter(
            f"a board computes with --backend board, not {backend}", param_hint="--board"
        )
    backend = f"board@{board}" if board else backend
    sample = _sample(how, verify)
    if rtl_dir is not None or contract:
        backend = _own_rtl(backend, rtl_dir, contract, connect)
    if not plan and _has_arrays(design, connect):
        plan = "sq_dm"
    directory = output or Path("runs") / f"{Path(model).name}-{design}-{_short(backend)}-seed{seed}"
    if not connect:
        _check_names(chip, design, *(name for name in (backend, cross_check) if name))
    with quiet(as_json) as say:
        say(f"loading {model}")
        from ditto_cosim.host.generation import generate_run
        from ditto_cosim.host.pipeline.models import Wish, load_model, prompts_of

        loaded = load_model(model, dtype=dtype, lora=lora or (), controlnet=controlnet, quantized=quantized)
        wish = Wish(
            steps,
            seed,
            batch,
            tuple(label or ()),
            prompt,
            guidance,
            prompts_of(prompt_file),
            negative,
            init_image,
            mask_image,
            control_image,
            strength,
        )
        with watching(as_json) as watcher:
            outcome = generate_run(
                loaded,
                wish,
                directory,
                backend=backend,
                chip=chip,
                design=design,
                command=_command_line(),
                watcher=watcher,
                scales=scales,
                plan=plan,
                policy=policy,
                observer=observer,
                verify=verify,
                verify_sample=sample,
                connect_to=connect or None,
                keys=keys,
                rtl_layers=tuple(rtl_layers or ()),
                cross_check=cross_check,
            )
        tell(outcome, as_json, say)


def _has_arrays(design: str, connect: str) -> bool:
    """Whether a design is one for block-scaled layers; what a device elsewhere knows by this name is its own affair."""
    if connect:
        return False
    from ditto_cosim.device.designs.base import load_design

    return load_design(design).hetero is not None


def _sample(how: str, verify: bool) -> int:
    """Layers a step that `--verify sample=K` compares; 0: all."""
    name, _, count = how.partition("=")
    if not how:
        return 0
    if not verify or name != "sample" or not count.isdigit() or not int(count):
        raise typer.BadParameter(
            f"{how!r} is not understood; --verify may be followed by sample=K, such as sample=4"
        )
    return int(count)


def _own_rtl(backend: str, rtl_dir: Path | None, contract: str, connect: str) -> str:
    """The backend that runs the user's own RTL."""
    from ditto_cosim.device.backends import OWN_RTL

    if backend != "rtl" or rtl_dir is None or connect:
        raise typer.BadParameter(
            "--rtl-dir FOLDER goes with --backend rtl and a device of its own, --contract with --rtl-dir"
        )
    place, colon, name = contract.rpartition(":")
    where = f"{Path(place).resolve()}{colon}{name}" if place.endswith(".py") else contract
    return f"{OWN_RTL}{rtl_dir.resolve()}" + (f",{where}" if where else "")


def _short(backend: str) -> str:
    """A backend's name in a folder's."""
    if backend.startswith("rtl:"):
        return "own-rtl"
    return "board" if backend.startswith("board@") else backend.rpartition(":")[2]


# --- pieces ---------------------------------------------------------------------------------------------------------------


def _check_names(chip: str, design: str, *backends: str) -> None:
    """A misspelt name is told before anything heavy is loaded; a device elsewhere may know others."""
    from ditto_cosim.device.backends import find_backend
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.device.designs.base import load_design

    load_chip(chip)
    load_design(design)
    for backend in backends:
        find_backend(backend)


def tell(outcome: Outcome, as_json: bool, say: Callable[[str], None]) -> None:
    """Prints what a run gave; a failed verification ends the command with status 1."""
    if as_json:
        print(json.dumps(outcome.summary))
    else:
        from ditto_cosim.host.report import print_report

        if outcome.report is not None:
            print_report(outcome.report)
        if own := outcome.summary.get("own_lane_cycles"):
            ours = outcome.summary["lane_cycles"]
            say(f"lanes     yours took {own:,} cycles, ours take {ours:,} ({own / ours:.3f})")
        say(f"pictures  {', '.join(outcome.summary['pictures']) or 'none'}")
        say(f"report    {outcome.summary['report']}")
    if outcome.failure is not None:
        print(f"error: {outcome.failure}", file=sys.stderr)
        raise typer.Exit(1)


@contextmanager
def quiet(as_json: bool) -> Iterator[Any]:
    """A way to say things to a person, on standard error, or nothing under --json."""
    import os
    import warnings

    import torch

    from ditto_cosim.host.wire.supervisor import fair_threads

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(fair_threads())
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
    yield (lambda text: None) if as_json else (lambda text: print(text, file=sys.stderr))


@contextmanager
def watching(as_json: bool) -> Iterator[Watcher]:
    """Sentences on standard error, and a bar drawn from what the device reports: layers, cycles, what runs now."""
    from ditto_cosim.host.generation import Watcher

    class Speaking(Watcher):
        def say(self, text: str) -> None:
            if not as_json:
                print(text, file=sys.stderr)

    if as_json or not sys.stderr.isatty():
        yield Speaking()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("step {task.fields[step]}/{task.fields[steps]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[cycles]:,} cycles  {task.fields[layer]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, step=0, steps=0, cycles=0, layer="starting the device")
        spent = 0

        class Drawing(Speaking):
            def opened(self, layers: int, steps: int) -> None:
                bar.update(task, total=layers * steps, steps=steps)

            def layer(self, report: LayerReport) -> None:
                nonlocal spent
                spent += report.cycles
                name = f"{report.name} ({report.mode})"
                bar.update(task, advance=1, step=report.step + 1, cycles=spent, layer=name[:48])

        yield Drawing()


def _command_line() -> str:
    return shlex.join(["ditto", *sys.argv[1:]])
