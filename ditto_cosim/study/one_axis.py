# SPDX-License-Identifier: Apache-2.0
"""Every way to do less on one axis: quality against cycles, of one model on the same seeds.

    found = measure("fashion-dit", folder, pictures=100, chips=("paper_twin", "paper"))
    found["rows"]              a row a way, design and chip: quality, MACs, slots, multiplications, cycles, bytes, energy
    found["equal_quality"]     what ICC gains where the others reach its quality, over ITC, over Ditto alone and over reuse, apart

A *way* is what is computed: every step in 8 bits, fewer steps, reuse, ICC, 4 bits (SQ-DM), two of them together. It decides the
picture. A *design* decides the time, so one record of each way gives a row for every design that can run it: caching on ITC and
Ditto+ too. Cycles and energy are of a recorded run, verified against golden; quality is over more pictures, which the device's
own machine computes in this process, without time or records: the same bits, sooner than golden. What this file does not do: draw
(`one_axis_chart.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.pricing.recorded import RecordColumns
from ditto_cosim.host.compiler.cache import Cache, CacheError, places
from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.plan import PLAN_FILE
from ditto_cosim.host.pipeline.models import LoadedModel, Wish, load_model
from ditto_cosim.host.pipeline.run import Generation
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.record import RecordError, RunRecord
from ditto_cosim.study.costs import BLOCK_DESIGNS, DESIGNS, cost_of
from ditto_cosim.study.icc import psnrs_db

if TYPE_CHECKING:
    from ditto_cosim.host.zoo.classifier import FeatureStatistics

STEP_SHARES = (0.7, 0.5, 0.34)
"""Of a model's steps, where fewer are taken."""
PERIODS = (2, 3)
RANK_SHARES = (128 / 1152, 256 / 1152)
"""Of a layer's width: two of the paper's ranks on DiT-XL/2."""
FP32, FULL = "fp32", "full"
BATCH = 25
"""Pictures that are computed at once."""

QUALITY = (
    *("psnr_db", "psnr_error_db", "psnr_over_full_db", "psnr_over_full_error_db"),
    *("frechet_distance", "frechet_error", "frechet_over_full", "frechet_over_full_error"),
)
"""What is known of a way's pictures, or None."""
JACKKNIFE_PARTS = 20

Pictures = npt.NDArray[Any]
FeatureArray = npt.NDArray[np.float64]
Tell = Callable[[str, int, int], None]
"""(what is being made, done, of how many)"""


@dataclass(frozen=True)
class Way:
    """What is computed of a model."""

    name: str
    kind: str
    """`full`, `steps`, `reuse`, `icc`, `both` or `sq_dm`."""
    steps: int
    cache: Cache | None = None

    @property
    def file_name(self) -> str:
        words = self.name if self.kind in ("steps", "both") else f"{self.name} {self.steps} steps"
        return words.replace(", ", "-").replace(" ", "-")

    @property
    def designs(self) -> tuple[str, ...]:
        return BLOCK_DESIGNS if self.kind == "sq_dm" else DESIGNS


def kept(model: str) -> dict[str, Any] | None:
    """What was measured of a model and ships; None of any other."""
    path = resources.files("ditto_cosim.study").joinpath(kept_name(model))
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def kept_name(model: str) -> str:
    return f"one_axis_{model.replace('-', '_')}.json"


def ways_of(loaded: LoadedModel, steps: int, factors: Path) -> tuple[list[Way], list[dict[str, str]]]:
    """What can be tried on a model, and what cannot, with the reason."""
    found, left_out = [Way(FULL, "full", steps)], []
    fewer = [max(1, round(steps * share)) for share in STEP_SHARES]
    found += [Way(f"{n} steps", "steps", n) for n in dict.fromkeys(fewer) if n < steps]
    try:
        width = min(min(m.in_features, m.out_features) for m in places(loaded.denoiser).values())
    except CacheError as error:
        left_out += [{"way": kind, "why": str(error)} for kind in ("reuse", "icc")]
    else:
        found += [Way(f"reuse p{p}", "reuse", steps, Cache("reuse", p)) for p in PERIODS]
        ranks = [max(1, round(share * width)) for share in RANK_SHARES]
        cached = {(p, r): Cache("icc", p, r, str(factors)) for p in PERIODS for r in dict.fromkeys(ranks)}
        found += [Way(f"icc p{p} r{r}", "icc", steps, cache) for (p, r), cache in cached.items()]
        both, most = fewer[0], ranks[-1]
        found.append(Way(f"{both} steps, reuse p2", "both", both, Cache("reuse", 2)))
        found.append(Way(f"{both} steps, icc p2 r{most}", "both", both, cached[2, most]))
    if loaded.folder is not None and (loaded.folder / PLAN_FILE).is_file():
        found.append(Way("sq_dm", "sq_dm", steps))
    else:
        why = f"{loaded.name} has no {PLAN_FILE} beside its weights: SQ-DM's zeros are ReLU's, its layers convolutions"
        left_out.append({"way": "sq_dm", "why": why})
    return found, left_out


def measure(
    model: str,
    folder: Path,
    *,
    pictures: int = 32,
    batch: int = 1,
    chips: Sequence[str] = ("paper_twin",),
    steps: int = 0,
    seed: int = 0,
    verify: bool = True,
    tell: Tell = lambda what, done, of: None,
) -> dict[str, Any]:
    """All of it, the costs those of one run that makes `batch` pictures; without `pictures` quality is theirs, and no Fréchet
    distance is told. Runs, factors and pictures are kept in the folder; what is there is not made again."""
    loaded = load_model(model)
    steps = steps or loaded.steps
    made_on = [load_chip(name) for name in chips]
    ways, left_out = ways_of(loaded, steps, folder / "factors.safetensors")
    work = _Work(sum(w.steps for w in ways) + (1 + len(ways)) * pictures, tell)
    labels = tuple(i % loaded.classes for i in range(batch)) if loaded.classes else ()
    wish = Wish(seed=seed, batch=batch, labels=labels, prompt=next(iter(loaded.prompts), ""))
    if caches := [w.cache for w in ways if w.cache is not None and w.cache.kind == "icc"]:
        _factors(model, folder / "factors.safetensors", caches, work)
    rows: list[dict[str, Any]] = []
    directories: dict[str, Path] = {}
    for way in ways:
        directories[way.name] = directory = _recorded(
            model, way, wish, folder / "runs", chips[0], verify, work
        )
        columns = RecordColumns.load(RunRecord(directory))
        exact = _exact(directory)
        for chip in made_on:
            rows += [
                {
                    "way": way.name,
                    "kind": way.kind,
                    "steps": way.steps,
                    **_cached(way),
                    "exact": exact,
                    **cost,
                }
                for cost in (cost_of(columns, chip, design) for design in way.designs)
            ]
    if pictures:
        quality = _quality(model, ways, pictures, seed, folder / "pictures", work)
    else:
        quality = _quality_of_runs(loaded, replace(wish, steps=steps), directories)
    rows = [row | quality[row["way"]] for row in rows]
    for row in rows:
        of_full = {r["design"]: r for r in rows if r["way"] == FULL and r["chip"] == row["chip"]}
        for base in ("itc", "ditto"):
            row[f"speedup_over_{base}"] = round(of_full[base]["cycles"] / row["cycles"], 4)
    return {
        "model": model,
        "steps": steps,
        "seed": seed,
        "pictures": pictures or batch,
        "batch": batch,
        "quality_of_fp32": quality[FP32],
        "rows": rows,
        "equal_quality": [e for chip in made_on for e in equal_quality(rows, chip.name)],
        "left_out": left_out,
    }


# --- runs ------------------------------------------------------------------------------------------------------------


def _recorded(model: str, way: Way, wish: Wish, runs: Path, chip: str, verify: bool, work: _Work) -> Path:
    """The directory of a way's run; an unfinished one is made again."""
    from ditto_cosim.host.generation import Watcher, generate_run

    directory = runs / f"{Path(model).name}-{way.file_name}-batch{wish.batch}-seed{wish.seed}"
    if _finished(directory, way.steps):
        work.did(way.name, way.steps)
        return directory

    class Steps(Watcher):
        def guess(self, step: int, draw: Callable[[], Any]) -> None:
            work.did(f"{way.name}: step {step + 1} of {way.steps}")

    generate_run(
        load_model(model),
        replace(wish, steps=way.steps),
        directory,
        backend="model",
        chip=chip,
        design="sq_dm" if way.kind == "sq_dm" else "ditto",
        cache=way.cache,
        verify=verify,
        overwrite=True,
        watcher=Steps(),
    )
    return directory


def _finished(directory: Path, steps: int) -> bool:
    try:
        record = RunRecord(directory)
        return not record.interrupted and len(list(record)) == steps
    except (RecordError, OSError):
        return False


def _exact(directory: Path) -> bool | None:
    """Whether the run met golden in every bit; None where nobody asked."""
    from ditto_cosim.host.report import load_report

    verdict = load_report(directory).verdict
    return None if verdict is None else verdict.bit_identical


def _cached(way: Way) -> dict[str, int | None]:
    cache = way.cache
    return {"period": cache.period if cache else None, "rank": (cache.rank or None) if cache else None}


def _factors(model: str, path: Path, caches: Iterable[Cache], work: _Work) -> None:
    """One file serves all ranks: a lower one takes the first components."""
    from ditto_cosim.host.pipeline.model_factors import factor_model

    if not path.is_file():
        work.did("factors", 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        factor_model(load_model(model), "cd", max(c.rank for c in caches)).save(path)


class _Work:
    """How much is done of all there is: steps of runs, then pictures of series."""

    def __init__(self, of: int, tell: Tell) -> None:
        self._of, self._done, self._tell = of, 0, tell

    def did(self, what: str, more: int = 1) -> None:
        self._done += more
        self._tell(what, self._done, self._of)


# --- what it gives ----------------------------------------------------------------------------------------------------------


def _quality(
    model: str, ways: Sequence[Way], count: int, seed: int, keep: Path, work: _Work
) -> dict[str, dict[str, Any]]:
    """Way -> PSNR to fp32's pictures of every step, and Fréchet distance to the training pictures where they are known."""
    from ditto_cosim.host.analysis.quality import PictureMaker, on_golden
    from ditto_cosim.host.compiler.factors import Factors
    from ditto_cosim.host.compiler.plan import load_plan

    made: dict[str, Pictures] = {}
    for way in (Way(FP32, FP32, ways[0].steps), *ways):
        settings: dict[str, Any] | None = None if way.kind == FP32 else {"cache": way.cache}
        if settings is not None and way.cache is not None and way.cache.kind == "icc":
            settings["factors"] = Factors.load(Path(way.cache.factors))
        if settings is not None and way.kind == "sq_dm":
            folder = load_model(model).folder
            assert folder is not None, "a plan lies beside weights"
            settings |= {"design": "sq_dm", "plan": load_plan(folder / PLAN_FILE)}
        wish, batch = Wish(way.steps), min(count, BATCH)
        computed = on_golden if way.kind == "sq_dm" else on_machine
        maker = PictureMaker(model, way.file_name, wish, {}, batch, settings, None, computed=computed)
        made[way.name] = maker.pictures(count, seed, keep)
        work.did(f"pictures: {way.name}", count)
    features, real = _features_of(model, made)
    return quality_of(made, features, real)


def _features_of(
    model: str, made: Mapping[str, Pictures]
) -> tuple[dict[str, FeatureArray], FeatureStatistics | None]:
    """What the data set's classifier makes of each way's pictures, and of the real ones; nothing where there is none, or where
    the pictures are too few for a covariance."""
    from ditto_cosim.host.zoo import find_trained
    from ditto_cosim.host.zoo.classifier import JUDGES, classify, load_classifier, reference_statistics

    dataset = "" if Path(model).is_dir() else find_trained(model).dataset
    if dataset not in JUDGES or len(made[FP32]) < 2 * JACKKNIFE_PARTS:
        return {}, None
    classifier = load_classifier(dataset)
    return {name: classify(p, classifier)[0] for name, p in made.items()}, reference_statistics(dataset)


def quality_of(
    made: Mapping[str, Pictures], features: Mapping[str, FeatureArray], real: FeatureStatistics | None = None
) -> dict[str, dict[str, Any]]:
    """Way -> its figures, of pictures [N, …] by way, fp32's and every step full among them; Fréchet distances to what is `real`
    where there are features. Each with its standard error over the pictures, and what it is over every step full on the same
    seeds, whose error is smaller: all ways begin from the same noise."""
    db = {name: np.array(psnrs_db(pictures, made[FP32])) for name, pictures in made.items() if name != FP32}
    found: dict[str, dict[str, Any]] = {}
    for name in made:
        row: dict[str, Any] = dict.fromkeys(QUALITY)
        if name != FP32:
            (row["psnr_db"], row["psnr_error_db"]), (over, error) = (
                _mean(db[name]),
                _mean(db[name] - db[FULL]),
            )
            row |= {"psnr_over_full_db": over, "psnr_over_full_error_db": error}
        if real is not None and name in features:
            row |= _frechet(features[name], features[FULL], real)
        found[name] = {figure: _rounded(value) for figure, value in row.items()}
    return found


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float | None]:
    """And its standard error."""
    count = len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else None


def _frechet(mine: FeatureArray, full: FeatureArray, real: FeatureStatistics) -> dict[str, float]:
    """The distance, and over that of every step full; errors by leaving out a part of the pictures at a time (jackknife)."""
    from ditto_cosim.host.zoo.classifier import frechet_distance

    def both(kept: npt.NDArray[np.bool_]) -> tuple[float, float]:
        own = frechet_distance(mine[kept], real)
        return own, own - frechet_distance(full[kept], real)

    parts = np.arange(len(mine)) % JACKKNIFE_PARTS
    whole = both(parts >= 0)
    left = np.array([both(parts != part) for part in range(JACKKNIFE_PARTS)])
    errors = np.sqrt((JACKKNIFE_PARTS - 1) / JACKKNIFE_PARTS * np.square(left - left.mean(0)).sum(0))
    return {
        "frechet_distance": whole[0],
        "frechet_error": float(errors[0]),
        "frechet_over_full": whole[1],
        "frechet_over_full_error": float(errors[1]),
    }


class MachineRun:
    """A run of the device's machine in this process: what a denoiser needs of a `Run`, values alone."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled, self.seen = compiled, Generation()
        self._machine = Machine(
            compiled.program, compiled.arrays, RunSpec(backend="model", chip="tiny", design="ditto")
        )

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self._machine.step(
            self.seen.steps,
            {name: tensor.numpy() for name, tensor in inputs.items()},
            observe="none",
            timed=False,
            on_layer=lambda report: None,
            on_value=lambda value, array: None,
        )
        self.seen.steps += 1
        return {name: torch.from_numpy(array.copy()) for name, array in found.outputs.items()}

    def judge(self, step: int, snr_db: float) -> None:
        """Nobody asks."""

    def close(self, outcome: Mapping[str, Any] | None = None) -> Generation:
        self._machine.close()
        return self.seen


def on_machine(target: Any, **settings: Any) -> Any:
    """`accelerate`, the device's machine in this process: its numbers, no cycles."""
    from ditto_cosim.host.pipeline.accelerate import accelerate

    return accelerate(target, open_run=lambda compiled, steps, record: MachineRun(compiled), **settings)


def _quality_of_runs(
    loaded: LoadedModel, wish: Wish, directories: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Way -> PSNR of its run's own pictures to fp32's, as they are shown."""
    from PIL import Image

    from ditto_cosim.host.generation import PIXEL_ART_PIXELS, enlarged

    def array(picture: Any) -> npt.NDArray[np.float64]:
        return np.asarray(picture, np.float64) / 255

    own = loaded.pipe(**loaded.arguments(wish)).images
    reference = [array(enlarged(picture, picture.width < PIXEL_ART_PIXELS)) for picture in own]
    made = {
        name: np.stack([array(Image.open(directory / f"picture-{i}.png")) for i in range(len(own))])
        for name, directory in directories.items()
    }
    return quality_of({FP32: np.stack(reference), **made}, {})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


# --- equal quality ----------------------------------------------------------------------------------------------------------


def equal_quality(rows: Sequence[Mapping[str, Any]], chip: str) -> list[dict[str, Any]]:
    """Of every ICC row on a chip: the cycles that ITC with fewer steps, Ditto with fewer steps, and reuse on Ditto need for its
    quality, over its own; None where they do not reach it. Between two points that were measured cycles grow
    geometrically with decibels; every step full belongs to each family."""
    here = [r for r in rows if r["chip"] == chip]

    def family(design: str, kind: str) -> list[tuple[float, float]]:
        return [
            (r["psnr_db"], r["cycles"]) for r in here if r["design"] == design and r["kind"] in (FULL, kind)
        ]

    families = {
        "itc": family("itc", "steps"),
        "ditto": family("ditto", "steps"),
        "reuse": family("ditto", "reuse"),
    }
    found = []
    for row in here:
        if row["kind"] == "icc" and row["design"] == "ditto":
            needed = {name: cycles_for(row["psnr_db"], points) for name, points in families.items()}
            found.append(
                {"way": row["way"], "chip": chip, "psnr_db": row["psnr_db"]}
                | {f"over_{n}": None if c is None else round(c / row["cycles"], 4) for n, c in needed.items()}
            )
    return found


def cycles_for(psnr_db: float, points: Iterable[tuple[float, float]]) -> float | None:
    """The fewest cycles at which a family of (quality, cycles) has at least this quality."""
    front: list[tuple[float, float]] = []
    for quality, cycles in sorted(points, key=lambda p: (p[1], -p[0])):
        if not front or quality > front[-1][0]:
            front.append((quality, cycles))
    if not front or psnr_db > front[-1][0]:
        return None
    if psnr_db <= front[0][0]:
        return front[0][1]
    for (q0, c0), (q1, c1) in pairwise(front):
        if q0 < psnr_db <= q1:
            return math.exp(math.log(c0) + (psnr_db - q0) / (q1 - q0) * (math.log(c1) - math.log(c0)))
    raise AssertionError("the front is in order")
