# SPDX-License-Identifier: Apache-2.0
"""One whole run: a loaded model accelerated, called once, and everything it showed written into a directory.

    outcome = generate_run(load_model("fashion-ddpm"), Wish(steps=10), Path("runs/try"), backend="model", verify=True)
    outcome.summary["cycles"], outcome.pictures, outcome.report

The command line, the Python API and the tests call this one function. What this file does not do: print, ask, or know of
terminals; whoever watches is told through a `Watcher`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditto_cosim.host import report as reports
from ditto_cosim.host.compiler.cache import Cache
from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.factors import RUN_FACTORS, Factors
from ditto_cosim.host.compiler.plan import PLANS
from ditto_cosim.host.pipeline.accelerate import accelerate, find_parts, restore
from ditto_cosim.host.pipeline.model_factors import factors_for
from ditto_cosim.host.pipeline.models import LoadedModel, ModelError, Wish, usual
from ditto_cosim.host.pipeline.run import Generation, Recording, Verdict, VerificationError
from ditto_cosim.host.pipeline.wallclock import US, WallClock
from ditto_cosim.host.reference.golden import Difference
from ditto_cosim.host.report import line
from ditto_cosim.host.report.certificate import versions
from ditto_cosim.host.report.prices import Prices, save_prices
from ditto_cosim.host.report.summary import step_classes
from ditto_cosim.host.rundir import clear_run, refuse_used
from ditto_cosim.protocol.errors import DittoError, StorageError
from ditto_cosim.protocol.files import replacing
from ditto_cosim.protocol.messages import LayerReport

STRIP_PICTURES = 12
SHOWN_PIXELS = 224
"""Pictures smaller than this are written larger, by a whole factor."""
PIXEL_ART_PIXELS = 48
"""Below this width a picture's pixels are meant to be seen; above, an enlarged picture is smoothed."""
PLAIN_SETTINGS = frozenset({"verify", "verify_sample", "connect_to", "keys", "rtl_layers", "cross_check"})
"""Settings of `accelerate` that a recipe keeps."""


class Watcher:
    """What a run tells whoever watches it; this one keeps silent."""

    def say(self, text: str) -> None:
        """A sentence for a person."""

    def opened(self, layers: Sequence[int]) -> None:
        """The run begins on the device: so many layers in each of its steps."""

    def layer(self, report: LayerReport) -> None:
        """A layer is done."""

    def guess(self, step: int, draw: Callable[[], Any]) -> None:
        """The scheduler has a new idea of the picture; `draw` makes it one."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave and left behind."""

    summary: dict[str, Any]
    """Plain data, as `ditto generate --json` prints it."""
    seen: Generation
    report: reports.RunReport | None
    """None if no step was completed."""
    pictures: list[Any]
    failure: VerificationError | None
    """Where the device departed from golden; the run ended there."""


def generate_run(
    model: LoadedModel,
    wish: Wish,
    directory: Path,
    *,
    backend: str = "rtl",
    chip: str = "paper_twin",
    design: str = "ditto",
    command: str = "",
    watcher: Watcher | None = None,
    scales: Path | None = None,
    plan: str = "",
    policy: str = "auto",
    observer: str = "mse",
    cache: Cache | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fp32: bool = False,
    appraise: Callable[[Path], Prices] | None = None,
    **settings: Any,
) -> Outcome:
    """Accelerates the model, calls it once, and writes pictures, record and report into `directory`.

    Without scales, the ones beside the weights are taken unless another policy or observer is asked for; a model without
    any is calibrated first; a cache without factors beside the weights has them made first. A `plan` (a file or a name) makes
    layers block-scaled; without one a design of a plan's name takes that plan. `command` is what to type to get
    this run again; `settings` go to `accelerate`. `resume` goes on behind the steps that the directory's record holds;
    `resume.py` finds the arguments. A directory that holds a run is refused unless `overwrite` says that it may go. With
    `fp32` the model itself draws the same pictures afterwards; `appraise` prices the recorded run for its report. The model
    is as it was, when all is done.
    """
    asked = time.perf_counter()
    if not (resume or overwrite):
        refuse_used(directory)
    model = model.for_wish(wish)
    recipe = recipe_of(
        model, wish, backend, chip, design, command, scales, policy, observer, cache, settings, fp32
    )
    plan = plan or (design if design in PLANS else "")
    if recipe is not None and plan:
        recipe["plan"] = plan if plan in PLANS else str(Path(plan).resolve())
    watcher = watcher or Watcher()
    pipe, arguments = model.pipe, model.arguments(wish)
    if scales is None and usual({"policy": policy, "observer": observer}):
        scales = model.scales
    if scales is None:
        watcher.say("calibrating (one fp32 trajectory; `ditto calibrate` keeps its result)")
    factors = factors_for(cache, model, wish, scales, watcher.say)
    accelerate(
        pipe,
        cache=cache,
        factors=factors,
        backend=backend,
        design=design,
        chip=chip,
        scales=scales,
        plan=_plan_of(model, plan),
        policy=policy,
        observer=observer,
        calibration={k: v for k, v in arguments.items() if k != "generator"},
        record=Recording(
            directory, model.title, wish.seed, _told(command, recipe, cache, factors), resume=resume
        ),
        on_layer=watcher.layer,
        on_open=_Opening(watcher, directory, factors, clears=not resume),
        **settings,
    )
    parts: dict[str, Any] = dict(find_parts(pipe))
    denoiser = next(iter(parts.values()))
    guesses: list[Any] = []
    pictures: list[Any] = []
    failure: VerificationError | None = None
    interrupted = ""
    ended: dict[str, Generation | None] = {}
    began = time.perf_counter()
    try:
        with _watched(
            pipe.scheduler, guesses, lambda step, guess: watcher.guess(step, lambda: _drawn(pipe, guess))
        ):
            pictures = _pictures(pipe(**arguments))
    except VerificationError as error:
        failure, interrupted = error, str(error)
    except BaseException as error:
        interrupted = str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else repr(error))
        if denoiser.run is not None:
            watcher.say(
                f"interrupted after {denoiser.run.seen.steps} steps; their record is in {directory}\n"
                f"`ditto resume {directory}` goes on from there"
            )
        raise
    finally:
        wall_s = time.perf_counter() - began
        outcome: dict[str, Any] = {"wall_s": wall_s, "pictures": len(pictures)}
        if pictures:
            outcome["picture_px"] = list(pictures[0].size)
        if interrupted:
            outcome["interrupted"] = interrupted
        if denoiser.run is not None and denoiser.run.seen.verdict is not None:
            outcome["verify"] = verdict_figures(denoiser.run.seen.verdict)
        # What interrupted the run is what its user is told, not that this cannot be written either.
        with contextlib.suppress(*((StorageError,) if interrupted else ())):
            ended = {name: part.finish(outcome) for name, part in parts.items()}
        denoiser.shut_down()
    seen = next(iter(ended.values()), None)
    if seen is None:  # its record could not be written; or the pipeline never called its denoiser
        raise failure or ModelError(f"{model.name} made its pictures without calling its denoiser")
    beside = [
        (name, run) for name, first in ended.items() if first is not None for run in (first, *first.others)
    ]

    complete = [r for r in seen.reports if r.step < seen.steps]
    priced = _begun(appraise, directory) if appraise is not None and complete else None
    tiles = {step: _drawn(pipe, guess) for step, guess in _chosen(guesses).items()}
    names = _save(directory, pictures, tiles)
    own: list[Any] = []
    if fp32 and failure is None and settings.get("keep_weights", True):
        watcher.say("drawing it in fp32 too")
        restore(pipe)
        own = _pictures(pipe(**model.arguments(wish)))
    found = _verdict_of([run for _, run in beside])
    verdict = None if found is None else check_summary(found)
    lanes: dict[str, int] = {
        name: seen.totals[name] for name in ("own_lane_cycles", "lane_cycles") if name in seen.totals
    }
    run = {"design": design, "chip": chip, "backend": backend, "seed": wish.seed}
    report = None
    if complete:
        report = reports.RunReport.of(
            complete,
            model=model.title,
            low_rule=seen.low_rule,
            clock_hz=seen.clock_hz,
            command_line=command,
            wall_s=wall_s,
            total_cycles=seen.totals.get("cycles", 0),
            verdict=verdict,
            images=tuple(names),
            strip=tuple(_strip_names(directory)),
            recoveries=seen.recoveries,
            period=seen.period,
            fp32=tuple(_save_beside(directory, own)),
            fp32_psnr_db=tuple(psnr_db(a, b) for a, b in zip(pictures, own, strict=False)),
            picture_digests=tuple(hashlib.sha256(p.tobytes()).hexdigest() for p in pictures),
            versions=versions(),
            host_us=host_times(seen, complete),
            **run,
        )
        reports.write_figures(report, directory)
        if priced is not None:
            watcher.say("pricing it under other designs")
            try:
                save_prices(priced.result(), directory)
            except DittoError as error:
                watcher.say(f"not priced: {error}")
        reports.write_page(report, directory)
    summary: dict[str, Any] = {
        "model": model.name,
        **run,
        "steps": seen.steps,
        "cycles": seen.totals.get("cycles", 0),
        "wall_s": round(wall_s, 3),
        "recoveries": seen.recoveries,
        "verify": None if verdict is None else asdict(verdict),
        **({"cache": cache.plain()} if cache is not None else {}),
        **({"step_classes": _step_classes(report)} if cache is not None and report is not None else {}),
        **({"board": {**seen.board, **_line_figures(report)}} if seen.board else {}),
        **({"runs": [_figures(name, run) for name, run in beside]} if len(beside) > 1 else {}),
        **lanes,
        "directory": str(directory),
        "pictures": [str(directory / n) for n in names],
        "report": str(directory / "report.html"),
        "phases": phases(asked, seen.clock),
    }
    return Outcome(summary, seen, report, pictures, failure)


def _begun(appraise: Callable[[Path], Prices], directory: Path) -> Future[Prices]:
    """The run's prices under way, beside what comes next."""
    with_one = ThreadPoolExecutor(1, "prices")
    begun = with_one.submit(appraise, directory)
    with_one.shutdown(wait=False)
    return begun


def _plan_of(model: LoadedModel, plan: str) -> Path | str | None:
    """What `accelerate` is given: a plan's file, the one beside the weights first where only its name is told."""
    if plan in PLANS and model.folder is not None and (model.folder / PLANS[plan].file).is_file():
        return model.folder / PLANS[plan].file
    return plan or None


def _told(
    command: str, recipe: Mapping[str, Any] | None, cache: Cache | None, factors: Factors | None
) -> dict[str, Any]:
    """What a record says of how it was made, for people."""
    told: dict[str, Any] = {"command": command, "recipe": recipe}
    if cache is not None:
        told["cache"] = cache.plain()
    if factors is not None:
        told["factors"] = {"method": factors.method, **factors.about}
    return told


def _step_classes(report: reports.RunReport) -> dict[str, dict[str, int]]:
    """Full steps and increments, as `--json` has them."""
    return {row.name: {k: v for k, v in asdict(row).items() if k != "name"} for row in step_classes(report)}


def _line_figures(report: reports.RunReport | None) -> dict[str, Any]:
    """What crossed the line to a board, and what it would take on others."""
    if report is None or not report.line_bytes:
        return {}
    carried = line.carried(report)
    seconds = line.seconds_on(sum(carried.values()))
    return {"carried": carried, "seconds_on": {name: round(s, 3) for name, s in seconds.items()}}


def recipe_of(
    model: LoadedModel,
    wish: Wish,
    backend: str,
    chip: str,
    design: str,
    command: str,
    scales: Path | None,
    policy: str,
    observer: str,
    cache: Cache | None,
    settings: Mapping[str, Any],
    fp32: bool = False,
) -> dict[str, Any] | None:
    """A run's arguments as plain data, which its record keeps; None if they are not plain."""
    connect_to, more = settings.get("connect_to"), settings.keys() - PLAIN_SETTINGS
    if wish.more or more or not isinstance(connect_to, str | None):
        return None
    return {
        "model": model.name,
        "folder": str(Path(model.name).resolve()) if Path(model.name).is_dir() else None,
        "options": dict(model.options),
        "wish": {k: v for k, v in asdict(wish).items() if k != "more"},
        "backend": backend,
        "chip": str(Path(chip).resolve()) if Path(chip).is_file() else chip,
        "design": design,
        "command": command,
        "scales": None if scales is None else str(Path(scales).resolve()),
        "policy": policy,
        "observer": observer,
        "cache": None if cache is None else cache.plain(),
        "fp32": fp32,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
    }


def _figures(part: str, run: Generation) -> dict[str, Any]:
    """One of several runs of a generation."""
    return {"part": part, "steps": run.steps, "cycles": run.totals.get("cycles", 0)}


def _verdict_of(runs: list[Generation]) -> Verdict | None:
    """The verdict on all runs of a generation: other parts, other prompts."""
    found = [run.verdict for run in runs if run.verdict is not None]
    if not found:
        return None
    lowest, of_increments = (
        _lowest(v.snr_by_step for v in found),
        _lowest(v.increment_snr_by_step for v in found),
    )
    return replace(
        found[0],
        bit_identical=all(v.bit_identical for v in found),
        layers_checked=sum(v.layers_checked for v in found),
        values_checked=sum(v.values_checked for v in found),
        delivered_checked=sum(v.delivered_checked for v in found),
        first_difference=next((v.first_difference for v in found if v.first_difference is not None), None),
        snr_by_step=lowest,
        increment_snr_by_step=of_increments,
    )


def _lowest(found: Iterable[Mapping[int, float]]) -> dict[int, float]:
    lowest: dict[int, float] = {}
    for by_step in found:
        for step, snr_db in by_step.items():
            lowest[step] = min(snr_db, lowest.get(step, snr_db))
    return lowest


def verdict_figures(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data, as it goes beside a record and into JSON."""
    difference = verdict.first_difference
    return {
        "bit_identical": verdict.bit_identical,
        "layers_checked": verdict.layers_checked,
        "values_checked": verdict.values_checked,
        "delivered_checked": verdict.delivered_checked,
        "first_difference": None if difference is None else str(difference),
        **({"difference_at": place} if (place := difference_at(difference)) is not None else {}),
        "snr_db": None if verdict.snr_db is None else round(verdict.snr_db, 2),
        **(
            {}
            if verdict.increment_snr_db is None
            else {"increment_snr_db": round(verdict.increment_snr_db, 2)}
        ),
        "digests": dict(verdict.digests),
        "not_checked": list(verdict.not_checked),
    }


def host_times(seen: Generation, reported: Sequence[LayerReport]) -> dict[str, Any]:
    """The host's clock in the order of the report's steps and layers."""
    steps = sorted({r.step for r in reported})
    layers = sorted({r.layer for r in reported})
    absent = (-1, -1, 0)
    by_layer = [[seen.clock.layers.get((s, i), absent) for i in layers] for s in steps]
    by_step = [seen.clock.steps.get(s, (-1, -1)) for s in steps]
    found = {
        n: [[row[at] for row in rows] for rows in by_layer]
        for at, n in enumerate(("arrived", "check_begin", "check"))
    }
    return {
        **{name: np.array(rows, np.int64) for name, rows in found.items()},
        **{
            name: np.array([row[at] for row in by_step], np.int64)
            for at, name in enumerate(("asked", "answered"))
        },
    }


def phases(began: float, clock: WallClock) -> dict[str, float]:
    """Seconds of a run's parts up to now, whose beginning `time.perf_counter` gave: before the first step is asked for
    (calibration, capture, lowering, the device's start), that step, which uploads too, one of the others with what the pipeline
    does between two, and what comes after the last."""
    if not clock.steps:  # all of its steps were there
        return {"prepare": time.perf_counter() - began}
    (first_asked, first), (_, last) = clock.steps[min(clock.steps)], clock.steps[max(clock.steps)]
    others = len(clock.steps) - 1
    parts = {
        "prepare": clock.began + first_asked / US - began,
        "first_step": (first - first_asked) / US,
        "step": (last - first) / US / others if others else 0.0,
        "finish": time.perf_counter() - clock.began - last / US,
    }
    return {name: round(seconds, 3) for name, seconds in parts.items()}


def check_summary(verdict: Verdict) -> reports.CheckSummary:
    """A verdict as a report shows it."""
    figures = verdict_figures(verdict)
    figures.pop(
        "difference_at", None
    )  # where a difference is, for `ditto trace`; the report says it in words
    return reports.CheckSummary(**figures)


def difference_at(difference: object) -> dict[str, Any] | None:
    """Where a value differs, as `ditto trace` takes it; None where it is a count or a report that differs."""
    if not isinstance(difference, Difference):
        return None
    return {"step": difference.step, "value": difference.value, "element": list(difference.index)}


class _Opening:
    """What happens when a run is about to open on the device: only then does an older run in the directory go. Factors stay
    with a run, so that what it multiplied can be made again."""

    def __init__(self, watcher: Watcher, directory: Path, factors: Factors | None, *, clears: bool) -> None:
        self._watcher, self._directory, self._factors, self._clears = watcher, directory, factors, clears

    def __call__(self, compiled: Compiled, steps: int) -> None:
        if self._clears:
            clear_run(self._directory)
            self._clears = False
            if self._factors is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._factors.save(self._directory / RUN_FACTORS)
        self._watcher.opened(compiled.program.layers_by_step(steps))


@contextmanager
def _watched(scheduler: Any, guesses: list[Any], tell: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, what the scheduler thinks the picture is goes into `guesses`, and is told, step by step."""
    original = scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if isinstance(result, tuple):
            guesses.append(result[-1])  # (sample, guess) or (sample,)
        else:
            guess = getattr(result, "pred_original_sample", None)
            guesses.append(guess if guess is not None else result.prev_sample)
        tell(len(guesses) - 1, guesses[-1])
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


def _pictures(result: Any) -> list[Any]:
    """The pictures of a pipeline's result; a video's frames in a row."""
    found = getattr(result, "images", None)
    if found is None:
        found = [frame for video in result.frames for frame in video]
    return list(found)


def _chosen(guesses: list[Any]) -> dict[int, Any]:
    """A few of them by step, spread from the first to the last."""
    last = len(guesses) - 1
    steps = {round(i * last / (STRIP_PICTURES - 1)) for i in range(STRIP_PICTURES)} if guesses else set()
    return {step: guesses[step] for step in sorted(steps)}


def _save(directory: Path, pictures: list[Any], tiles: Mapping[int, Any]) -> list[str]:
    """The names of the pictures; beside them go a grid, if there are several, and how the first one emerged."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in (
        *directory.glob("picture-*.png"),
        *directory.glob("fp32-*.png"),
        *directory.glob("step-*.png"),
        directory / "grid.png",
    ):
        old.unlink(missing_ok=True)
    sharp = not pictures or pictures[0].width < PIXEL_ART_PIXELS
    shown = [enlarged(picture, sharp) for picture in pictures]
    names = []
    for i, picture in enumerate(shown):
        names.append(f"picture-{i}.png")
        with replacing(directory / names[-1]) as path:
            picture.save(path)
    if len(shown) > 1:
        with replacing(directory / "grid.png") as path:
            _in_rows(shown, math.ceil(math.sqrt(len(shown)))).save(path)
    for step, tile in tiles.items():
        with replacing(directory / f"step-{step:04d}.png") as path:
            enlarged(tile, sharp).save(path)
    if tiles:
        with replacing(directory / "strip.png") as path:
            _in_rows(list(tiles.values()), len(tiles)).save(path)
    return names


def _save_beside(directory: Path, pictures: Sequence[Any]) -> list[str]:
    """The model's own pictures in fp32, as large as the accelerator's."""
    names = []
    for i, picture in enumerate(pictures):
        names.append(f"fp32-{i}.png")
        with replacing(directory / names[-1]) as path:
            enlarged(picture, pictures[0].width < PIXEL_ART_PIXELS).save(path)
    return names


def psnr_db(a: Any, b: Any) -> float:
    """Of two pictures of one size; infinite where they are equal."""
    noise = float(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))
    return math.inf if noise == 0 else 10 * math.log10(255**2 / noise)


def enlarged(picture: Any, sharp: bool) -> Any:
    """At a size one can see: every pixel a square if `sharp`, smooth otherwise; large pictures as they are."""
    from PIL import Image

    factor = math.ceil(SHOWN_PIXELS / max(picture.size))
    if factor < 2:
        return picture
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return picture.resize((picture.width * factor, picture.height * factor), method)


def _in_rows(pictures: list[Any], columns: int) -> Any:
    from PIL import Image

    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new(pictures[0].mode, (columns * width, rows * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def _strip_names(directory: Path) -> list[tuple[int, str]]:
    return [(int(p.stem.partition("-")[2]), p.name) for p in sorted(directory.glob("step-*.png"))]


def _drawn(pipe: Any, guess: Any) -> Any:
    """What a step's guess looks like: latents go through the pipeline's decoder, if it has one of the usual kind."""
    vae: Any = getattr(pipe, "vae", None)
    kind: Any = _autoencoder()
    if not isinstance(vae, kind):
        return _to_image(guess)
    with torch.no_grad():
        return _to_image(vae.decode(guess[:1].to(vae.dtype) / vae.config.scaling_factor).sample)


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL


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
