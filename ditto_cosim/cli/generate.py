"""`ditto generate`: pictures through the emulated accelerator, with progress, verdict, tables, record and report."""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ditto_cosim.protocol.messages import LayerReport

STRIP_PICTURES = 8


@dataclass
class _Strip:
    """What the scheduler thinks the picture is, step by step."""

    pictures: list[Any]

    def hook(self, scheduler: Any) -> None:
        original = scheduler.step

        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            guess = getattr(result, "pred_original_sample", None)
            found = guess if guess is not None else getattr(result, "prev_sample", result)
            self.pictures.append(found[0] if isinstance(found, tuple) else found)
            return result

        scheduler.step = step


def generate(
    model: Annotated[
        str, typer.Option(help="A model that ships (`ditto models`), or a folder that save_pretrained wrote")
    ] = "fashion-ddpm",
    backend: Annotated[
        str,
        typer.Option(
            help="rtl (lane cycles measured), rtl_wide (values through RTL, sooner), model, or your own (module:Class)"
        ),
    ] = "rtl",
    chip: Annotated[str, typer.Option(help="paper, paper_twin, edge, tiny, or a TOML file")] = "paper_twin",
    design: Annotated[
        str, typer.Option(help="ditto, ditto_plus, itc, diffy, … (`ditto compare` shows all)")
    ] = "ditto",
    steps: Annotated[int, typer.Option(min=0, help="Denoising steps; 0 takes the model's own")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the starting noise")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once")] = 1,
    verify: Annotated[
        bool, typer.Option(help="Compare every value of every step with the int8 reference")
    ] = False,
    label: Annotated[
        list[int] | None, typer.Option(help="Class label of a class-conditional model; may be repeated")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text prompt of a text-conditional model")] = "",
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance; 0 leaves the pipeline's own")
    ] = 0.0,
    policy: Annotated[str, typer.Option(help="Activation scales: static, clustered or dynamic")] = "static",
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
    if rtl_dir is not None or contract:
        backend = _own_rtl(backend, rtl_dir, contract, connect)
    directory = output or Path("runs") / f"{Path(model).name}-{design}-{_short(backend)}-seed{seed}"
    if not connect:
        _check_names(chip, design, *(name for name in (backend, cross_check) if name))
    with _quiet(as_json) as say:
        say(f"loading {model}")
        pipe, own_steps = _load(model)
        steps = steps or own_steps
        from ditto_cosim.host import report as reports
        from ditto_cosim.host.pipeline.accelerate import accelerate
        from ditto_cosim.host.pipeline.run import Recording, VerificationError

        arguments = _arguments(pipe, steps, seed, batch, label, prompt, guidance)
        if scales is None and policy == "static" and observer == "mse":
            scales = _shipped_scales(model)
        if scales is None:
            say("calibrating (one fp32 trajectory; `ditto calibrate` keeps its result)")
        accelerate(
            pipe,
            backend=backend,
            design=design,
            chip=chip,
            verify=verify,
            connect_to=connect or None,
            keys=keys,
            rtl_layers=tuple(rtl_layers or ()),
            cross_check=cross_check,
            scales=scales,
            policy=policy,
            observer=observer,
            calibration={k: v for k, v in arguments.items() if k != "generator"},
            record=Recording(directory, Path(model).name, seed, {"command": _command_line()}),
        )
        denoiser: Any = getattr(pipe, "unet", None) or pipe.transformer
        strip = _Strip([])
        strip.hook(pipe.scheduler)
        pictures: list[Any] = []
        failure: VerificationError | None = None
        began = time.perf_counter()
        try:
            with _progress(denoiser, steps, as_json):
                pictures = _images(pipe(**arguments))
        except VerificationError as error:
            failure = error
        except KeyboardInterrupt:
            done = 0 if denoiser.run is None else denoiser.run.seen.steps
            say(f"interrupted after {done} steps; their record is in {directory}")
            raise
        finally:
            wall_s = time.perf_counter() - began
            run = denoiser.run
            outcome: dict[str, Any] = {"wall_s": wall_s, "pictures": len(pictures)}
            if run is not None and run.seen.verdict is not None:
                outcome["verify"] = _verdict(run.seen.verdict)
            seen = denoiser.finish(outcome)
            denoiser.shut_down()

        names = _save(directory, pictures, strip.pictures)
        verdict = None
        if seen.verdict is not None:
            verdict = reports.Verdict(**_verdict(seen.verdict))
        complete = [r for r in seen.reports if r.step < seen.steps]
        summary: dict[str, Any] = {
            "model": model,
            "design": design,
            "chip": chip,
            "backend": backend,
            "seed": seed,
            "steps": seen.steps,
            "cycles": seen.totals.get("cycles", 0),
            "wall_s": round(wall_s, 3),
            "recoveries": seen.recoveries,
            "verify": None if verdict is None else asdict(verdict),
            "directory": str(directory),
            "pictures": [str(directory / n) for n in names],
            "report": str(directory / "report.html"),
        }
        if complete:
            result = reports.RunReport.of(
                complete,
                model=Path(model).name,
                design=design,
                chip=chip,
                backend=backend,
                low_rule=seen.low_rule,
                seed=seed,
                command_line=_command_line(),
                wall_s=wall_s,
                total_cycles=seen.totals.get("cycles", 0),
                verdict=verdict,
                images=tuple(names),
                strip=tuple(_strip_names(directory)),
                recoveries=seen.recoveries,
            )
            reports.write_report(result, directory)
            if not as_json:
                reports.print_report(result)
        own_lanes = seen.totals.get("own_lane_cycles")
        if own_lanes:
            summary["own_lane_cycles"], summary["lane_cycles"] = own_lanes, seen.totals["lane_cycles"]
            ratio = own_lanes / seen.totals["lane_cycles"]
            say(
                f"lanes     yours took {own_lanes:,} cycles, ours take {seen.totals['lane_cycles']:,} ({ratio:.3f})"
            )
        if as_json:
            print(json.dumps(summary))
        else:
            say(f"pictures  {', '.join(summary['pictures']) or 'none'}")
            say(f"report    {summary['report']}")
        if failure is not None:
            print(f"error: {failure}", file=sys.stderr)
            raise typer.Exit(1)


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
    return "own-rtl" if backend.startswith("rtl:") else backend.rpartition(":")[2]


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


@contextmanager
def _quiet(as_json: bool) -> Iterator[Any]:
    """A way to say things to a person, on standard error, or nothing under --json."""
    import os
    import warnings

    import torch

    from ditto_cosim.host.wire.supervisor import fair_threads

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(fair_threads())
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
    yield (lambda text: None) if as_json else (lambda text: print(text, file=sys.stderr))


def _load(model: str) -> tuple[Any, int]:
    """The pipeline and the number of steps it is meant for."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    from ditto_cosim.host.zoo import find, load_pipeline

    if Path(model).is_dir():
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging as diffusers_logging

        diffusers_logging.disable_progress_bar()
        pipe = DiffusionPipeline.from_pretrained(model, low_cpu_mem_usage=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe, 50
    return load_pipeline(model), find(model).steps


def _shipped_scales(model: str) -> Path | None:
    from ditto_cosim.host.pipeline.accelerate import SCALES_FILE
    from ditto_cosim.host.zoo import find

    folder = Path(model) if Path(model).is_dir() else find(model).weights
    found = folder / SCALES_FILE if folder is not None else None
    return found if found is not None and found.is_file() else None


def _arguments(
    pipe: Any, steps: int, seed: int, batch: int, label: list[int] | None, prompt: str, guidance: float
) -> dict[str, Any]:
    import inspect

    import torch

    taken = inspect.signature(pipe.__call__).parameters
    arguments: dict[str, Any] = {
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(seed),
    }
    if "class_labels" in taken:
        labels = label or [0]
        arguments["class_labels"] = (labels * batch)[: max(batch, len(labels))]
    elif label:
        raise typer.BadParameter("this model takes no class labels", param_hint="--label")
    if "prompt" in taken:
        if not prompt:
            raise typer.BadParameter("this model needs a prompt", param_hint="--prompt")
        arguments |= {"prompt": prompt, "num_images_per_prompt": batch}
    elif "batch_size" in taken:
        arguments["batch_size"] = batch
    if guidance and "guidance_scale" in taken:
        arguments["guidance_scale"] = guidance
    return arguments


@contextmanager
def _progress(denoiser: Any, steps: int, as_json: bool) -> Iterator[None]:
    """A bar drawn from what the device reports: layers done, cycles spent, what runs now."""
    if as_json or not sys.stderr.isatty():
        yield
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
        task = bar.add_task("", total=None, step=0, steps=steps, cycles=0, layer="starting the device")
        spent = 0

        def on_open(compiled: Any, _: int) -> None:
            bar.update(task, total=len(compiled.program.layers) * steps)

        def on_layer(report: LayerReport) -> None:
            nonlocal spent
            spent += report.cycles
            name = f"{report.name} ({report.mode})"
            bar.update(task, advance=1, step=report.step + 1, cycles=spent, layer=name[:48])

        denoiser.settings.on_open, denoiser.settings.on_layer = on_open, on_layer
        yield


def _images(result: Any) -> list[Any]:
    """The pictures of a pipeline's result; a video's frames in a row."""
    found = getattr(result, "images", None)
    if found is None:
        found = [frame for video in result.frames for frame in video]
    return list(found)


def _save(directory: Path, pictures: list[Any], strip: list[Any]) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("picture-*.png"), *directory.glob("step-*.png")):
        old.unlink()
    names = []
    for i, picture in enumerate(pictures):
        names.append(f"picture-{i}.png")
        picture.save(directory / names[-1])
    chosen = (
        sorted({round(i * (len(strip) - 1) / (STRIP_PICTURES - 1)) for i in range(STRIP_PICTURES)})
        if strip
        else []
    )
    tiles = [_to_image(strip[i]) for i in chosen]
    for index, tile in zip(chosen, tiles, strict=True):
        tile.save(directory / f"step-{index:04d}.png")
    if tiles:
        from PIL import Image

        row = Image.new(tiles[0].mode, (sum(t.width for t in tiles), tiles[0].height))
        for i, tile in enumerate(tiles):
            row.paste(tile, (i * tile.width, 0))
        row.save(directory / "strip.png")
    return names


def _strip_names(directory: Path) -> list[tuple[int, str]]:
    return [(int(p.stem.partition("-")[2]), p.name) for p in sorted(directory.glob("step-*.png"))]


def _to_image(sample: Any) -> Any:
    """The first picture of a batch in −1…1, its first three channels or one."""
    from PIL import Image

    first = sample[0].float().clamp(-1, 1)
    while first.ndim > 3:
        first = first[:, 0]
    pixels = ((first + 1) * 127.5).round().byte()
    if len(pixels) >= 3:
        return Image.fromarray(pixels[:3].permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray(pixels[0].contiguous().numpy())


def _verdict(verdict: Any) -> dict[str, Any]:
    difference = verdict.first_difference
    return {
        "bit_identical": verdict.bit_identical,
        "layers_checked": verdict.layers_checked,
        "values_checked": verdict.values_checked,
        "first_difference": None if difference is None else str(difference),
    }


def _command_line() -> str:
    return shlex.join(["ditto", *sys.argv[1:]])
