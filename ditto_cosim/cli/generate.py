# SPDX-License-Identifier: Apache-2.0
"""`ditto generate`: pictures through the emulated accelerator, with progress, verdict, tables, record and report."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ditto_cosim.cli import completion
from ditto_cosim.cli.output import emit
from ditto_cosim.names import check_model, check_names, check_plan, model_for, plan_for, prompt_for
from ditto_cosim.protocol.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ditto_cosim.host.compiler.cache import Cache
    from ditto_cosim.host.generation import Outcome


def generate(
    how: Annotated[str, typer.Argument(hidden=True, metavar="sample=K")] = "",
    model: Annotated[
        str,
        typer.Option(
            help="A model that ships (`ditto models`), or a folder that save_pretrained wrote  "
            "[default: the best that fits, emoji-sd]",
            autocompletion=completion.models,
        ),
    ] = "",
    backend: Annotated[
        str,
        typer.Option(
            help="rtl (lane cycles measured), rtl_wide (values through RTL, sooner), model, board, or your own (module:Class)",
            autocompletion=completion.backends,
        ),
    ] = "rtl",
    board: Annotated[
        str,
        typer.Option(help="With --backend board: USB serial number, port, or `sim`, the Verilated board top"),
    ] = "",
    chip: Annotated[
        str,
        typer.Option(
            help="A chip (`ditto chips`) or a TOML file  [default: paper_twin; on a board ecp5, on the simulated one tiny]",
            autocompletion=completion.chips,
        ),
    ] = "",
    design: Annotated[
        str,
        typer.Option(help="A design (`ditto designs`) or a TOML file", autocompletion=completion.designs),
    ] = "ditto",
    plan: Annotated[
        str,
        typer.Option(
            help="Formats of block-scaled layers: sq_dm, sq_dm_16, or a file that `ditto calibrate --plan` wrote  "
            "[default: with design sq_dm]"
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
    scheduler: Annotated[
        str,
        typer.Option(
            help="Another way through the noise: heun (evaluates twice a step), euler, dpm++, … or a class of diffusers"
        ),
    ] = "",
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
    cache: Annotated[
        str,
        typer.Option(
            help="Between full steps compute less: icc (low-rank corrections) or reuse (outputs again); transformers only"
        ),
    ] = "",
    period: Annotated[
        int, typer.Option(help="With --cache: steps from one full step to the next; 1: every step is full")
    ] = 3,
    rank: Annotated[
        int, typer.Option(help="With --cache icc: rank of the corrections; 0: the factors' own")
    ] = 0,
    factors: Annotated[
        str, typer.Option(help="With --cache icc: svd, ca or cd, or a file that `ditto factor` wrote")
    ] = "cd",
    anchor: Annotated[
        str,
        typer.Option(
            help="With --cache icc: what corrections start from, difference (of operands) or projected (of products); same bits"
        ),
    ] = "difference",
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
        Path | None,
        typer.Option(
            "-o", "--output", help="Directory for pictures, record, report  [default: a new one in runs/]"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that the directory holds")
    ] = False,
    fp32: Annotated[
        bool, typer.Option(help="Draw the same picture in fp32 afterwards, beside it in the report")
    ] = True,
    view: Annotated[
        bool, typer.Option("--view", help="Show the report as it grows, in a browser on this machine")
    ] = False,
    silent: Annotated[
        bool, typer.Option("-q", "--quiet", help="Say nothing while it runs; print where things are")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """Generate pictures through the emulated accelerator.

    Writes into the output directory: picture-N.png, strip.png (how the picture emerges), report.html, report.json,
    timeline.pftrace (for ui.perfetto.dev) and the run's record, which `ditto price`, `compare` and `analyze` read.
    """
    if not chip:
        on_board = "tiny" if board == "sim" else "ecp5"
        chip = on_board if backend == "board" else "paper_twin"
    if board and backend != "board":
        raise typer.BadParameter(
            f"a board computes with --backend board, not {backend}", param_hint="--board"
        )
    backend = f"board@{board}" if board else backend
    sample = _sample(how, verify)
    asked = _cache(cache, period, rank, factors, anchor)
    _known("--observer", observer, "mse", "percentile", "minmax")
    _known("--policy", policy, "auto", "static", "clustered", "dynamic")
    _known("--dtype", dtype, "", "fp32", "fp16", "bf16", "fp64")
    from ditto_cosim.cli.progress import watching
    from ditto_cosim.cli.view import viewing
    from ditto_cosim.host.rundir import free, refuse_used, run_name
    from ditto_cosim.host.wire.supervisor import offers, start_ahead

    if rtl_dir is not None or contract:
        backend = _own_rtl(backend, rtl_dir, contract, connect)
    if output is not None and not overwrite:
        refuse_used(output)
    if not connect:
        check_names(chip, design, backend, cross_check)
        check_plan(plan, design)
    plan, prompted = plan or plan_for(design), bool(prompt or prompt_file)
    if not model:
        model = model_for(chip, plan, prompted=prompted, labelled=bool(label), cached=bool(cache))
        prompt = prompt if prompted else prompt_for(model)
    check_model(model, prompted or bool(prompt), label or ())
    if not connect:
        start_ahead(offers(backend, cross_check))
    with quiet(as_json or silent) as say:
        say(f'loading {model}, "{prompt}"' if prompt else f"loading {model}")
        from ditto_cosim.apart import appraise_apart
        from ditto_cosim.host.generation import generate_run
        from ditto_cosim.host.pipeline.models import Wish, load_model, prompts_of

        loaded = load_model(
            model,
            dtype=dtype,
            lora=lora or (),
            controlnet=controlnet,
            quantized=quantized,
            scheduler=scheduler,
        )
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
        kind = f"-{cache}{period}" if cache else ""
        named = run_name(model, chip, design + kind, _short(backend), steps or loaded.steps, seed)
        directory = output or (Path("runs") / named if overwrite else free(Path("runs") / named))
        with viewing(view, watching(as_json or silent, directory), directory) as watcher:
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
                cache=asked,
                verify=verify,
                verify_sample=sample,
                connect_to=connect or None,
                keys=keys,
                rtl_layers=tuple(rtl_layers or ()),
                cross_check=cross_check,
                overwrite=overwrite,
                fp32=fp32,
                appraise=appraise_apart,
            )
        tell(outcome, as_json, say, silent)


def _cache(kind: str, period: int, rank: int, factors: str, anchor: str) -> Cache | None:
    """What is computed between full steps, if anything is left out."""
    if anchor not in ("difference", "projected"):
        raise typer.BadParameter(f"{anchor!r} is neither difference nor projected", param_hint="--anchor")
    if not kind:
        return None
    from ditto_cosim.host.compiler.cache import Cache

    return Cache(kind, period, rank, factors, anchor == "projected")  # type: ignore[arg-type]  # refused there


def _known(option: str, value: str, *known: str) -> None:
    """Refuses what an option does not know, before anything is loaded."""
    if value not in known:
        raise typer.BadParameter(
            f"{value!r} is unknown{did_you_mean(value, known)}; known: {', '.join(filter(None, known))}",
            param_hint=option,
        )


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


def tell(outcome: Outcome, as_json: bool, say: Callable[[str], None], silent: bool = False) -> None:
    """Prints what a run gave; a failed verification ends the command with status 1."""
    if as_json:
        emit("generate", outcome.summary)
    elif silent:
        print(outcome.summary["directory"])
    else:
        _tell_a_person(outcome, say)
    if outcome.failure is not None:
        print(f"error: {outcome.failure}", file=sys.stderr)
        from ditto_cosim.cli.trace import trace_command
        from ditto_cosim.host.generation import difference_at

        if (place := difference_at(outcome.failure.difference)) is not None:
            print(
                f"follow it to the RTL: {trace_command(outcome.summary['directory'], place)}", file=sys.stderr
            )
        raise typer.Exit(1)


def _tell_a_person(outcome: Outcome, say: Callable[[str], None]) -> None:
    """Tables, and last what matters most: the picture, the verdict, what the design was good for and why."""
    from ditto_cosim.host.report import print_report
    from ditto_cosim.host.report.prices import load_prices
    from ditto_cosim.host.report.why import sentences

    directory = Path(outcome.summary["directory"])
    if outcome.report is not None:
        print_report(outcome.report)
    if own := outcome.summary.get("own_lane_cycles"):
        ours = outcome.summary["lane_cycles"]
        say(f"lanes     yours took {own:,} cycles, ours take {ours:,} ({own / ours:.3f})")
    if outcome.pictures and sys.stdout.isatty():
        from rich.console import Console

        from ditto_cosim.cli.progress import half_blocks

        Console().print(half_blocks(outcome.pictures[0], 48))
    report = outcome.report
    if report is not None and report.verdict is not None and report.verdict.bit_identical:
        print(f"bit-identical: {len(report.names)} layers × {len(report.steps)} steps")
    if report is not None:
        for sentence in sentences(report, load_prices(directory)):
            print(sentence)
    say(f"pictures  {', '.join(outcome.summary['pictures']) or 'none'}")
    say(f"report    {outcome.summary['report']}")


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


def _command_line() -> str:
    return shlex.join(["ditto", *sys.argv[1:]])
