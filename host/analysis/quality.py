# SPDX-License-Identifier: Apache-2.0
"""What int8 costs in pictures: the same seeds in fp32 and in the accelerator's arithmetic, side by side.

A model of the zoo is scored against its training pictures; of a folder's pictures only the distance from fp32 is known.

Pictures on SQ-DM's numbers and on those it is compared with are fp32 arithmetic on what the formats leave of every operand; the
int8 pictures come from golden, bit-identical to what every exact design computes, in batches that would
take a device long. Pictures can be kept in a folder, batch by batch, and a measurement goes on with what it finds there. What
this file does not do: score (`zoo/measure.py` has the extractors).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ditto_cosim.host.analysis.formats import Numbers, on_numbers
from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.plan import PLAN_FILE, FormatPlan, PlanError, load_plan
from ditto_cosim.host.compiler.quantize import load_grids
from ditto_cosim.host.pipeline.accelerate import accelerate
from ditto_cosim.host.pipeline.models import FOLDER_STEPS, LoadedModel, Wish, load_model, usual
from ditto_cosim.host.pipeline.run import Generation
from ditto_cosim.host.reference.golden import Golden
from ditto_cosim.protocol.files import replacing

Pictures = npt.NDArray[np.float32]
FP32 = "fp32"
CALIBRATION_PICTURES = 8
CALIBRATION_SEED = 2**31 - 1
"""None of the pictures'."""


class GoldenRun:
    """A run that golden computes: what a denoiser needs of a `Run`, without a device, time or record."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.seen = Generation()
        self._golden = Golden(compiled.program, compiled.constants)

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        began = time.perf_counter()
        outputs = self._golden.step(self.seen.steps, inputs)
        self.seen.steps += 1
        self.seen.wall_s += time.perf_counter() - began
        return {name: tensor.contiguous() for name, tensor in outputs.items()}

    def judge(self, step: int, snr_db: float) -> None:
        """Nobody asks golden."""

    def close(self, outcome: Mapping[str, Any] | None = None) -> Generation:
        return self.seen


def on_golden(target: Any, **settings: Any) -> Any:
    """`accelerate`, with golden in the device's place: the same numbers, no cycles. Settings are its own."""
    return accelerate(target, open_run=lambda compiled, steps, record: GoldenRun(compiled), **settings)


@dataclass(frozen=True)
class Series:
    """One arithmetic's pictures: per seed an array, its figures, and the time they took."""

    pictures: tuple[Pictures, ...]
    figures: tuple[Mapping[str, Any], ...]
    wall_s: float

    def mean(self, figure: str) -> float:
        """Of a figure over the seeds."""
        return float(np.mean([found[figure] for found in self.figures]))

    def error(self, figure: str) -> float | None:
        """Standard error of that mean; None with one seed."""
        return _standard_error([found[figure] for found in self.figures])


@dataclass(frozen=True)
class Quality:
    """One model in fp32 and under some policies of int8, on the same seeds."""

    model: str
    count: int
    """Pictures of one seed."""
    steps: int
    seeds: tuple[int, ...]
    series: Mapping[str, Series]
    """`fp32`, and each policy."""

    @property
    def policies(self) -> tuple[str, ...]:
        """The int8 ones."""
        return tuple(name for name in self.series if name != FP32)

    def mean_absolute_difference(self, policy: str) -> float:
        """From fp32, of the pictures' values in 0…1."""
        pairs = zip(self.series[FP32].pictures, self.series[policy].pictures, strict=True)
        return float(np.mean([np.abs(a - b).mean() for a, b in pairs]))

    def psnr_db(self, policy: str) -> float:
        """Against fp32, over all pictures."""
        pairs = zip(self.series[FP32].pictures, self.series[policy].pictures, strict=True)
        error = float(np.mean([np.square(a.astype(np.float64) - b).mean() for a, b in pairs]))
        return 10 * float(np.log10(1 / error)) if error else float("inf")

    def cost(self, policy: str, figure: str) -> tuple[float, float | None]:
        """(mean, standard error) over the seeds of a figure's change from fp32, seed by seed."""
        changes = [
            b[figure] - a[figure]
            for a, b in zip(self.series[FP32].figures, self.series[policy].figures, strict=True)
        ]
        return float(np.mean(changes)), _standard_error(changes)


def _standard_error(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def measure_quality(
    model: str,
    count: int = 1000,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    policies: Sequence[str] = ("static",),
    steps: int | None = None,
    batch: int = 50,
    wish: Wish | None = None,
    options: Mapping[str, Any] | None = None,
    keep: Path | None = None,
    progress: Callable[[str, int], None] | None = None,
    formats: Sequence[Numbers] = (),
    plan: FormatPlan | None = None,
    **settings: Any,
) -> Quality:
    """Pictures and figures in fp32, under each policy of int8 and on each of SQ-DM's `formats` (those of `plan`, or of the one
    beside the weights); `settings` go to `accelerate`.

    A model of the zoo makes its own series (`zoo/measure.py`); a folder, loaded with `options`, the one of `wish`. With
    `keep`, pictures are kept in that folder as they are made, and those found there are not made again.
    """
    from ditto_cosim.host.zoo import find_trained
    from ditto_cosim.host.zoo.classifier import JUDGES, load_classifier
    from ditto_cosim.host.zoo.measure import asked_for, figures_of

    wish = replace(wish or Wish(), steps=steps or 0)
    known = None if Path(model).is_dir() else find_trained(model)
    if known is not None and known.dataset in JUDGES:
        load_classifier(known.dataset)  # a missing one is better known before the pictures are made
    series: dict[str, Series] = {}
    for kind in (FP32, *policies, *formats):
        asked = None if kind == FP32 else settings if kind in formats else {"policy": kind, **settings}
        maker = PictureMaker(model, kind, wish, options or {}, min(batch, count), asked, progress, plan)
        began = time.perf_counter()
        pictures = tuple(maker.pictures(count, seed, keep) for seed in seeds)
        wall_s = time.perf_counter() - began
        figures = tuple(
            {} if known is None else figures_of(found, known.dataset, asked_for(known, count, seed))
            for found, seed in zip(pictures, seeds, strict=True)
        )
        series[kind] = Series(pictures, figures, wall_s)
    return Quality(
        model, count, steps or (FOLDER_STEPS if known is None else known.steps), tuple(seeds), series
    )


class PictureMaker:
    """Makes one arithmetic's pictures, in fp32 or as golden computes them under settings of `accelerate`; the pipeline is
    loaded, and calibrated, when the first one is missing."""

    def __init__(
        self,
        model: str,
        kind: str,
        wish: Wish,
        options: Mapping[str, Any],
        batch: int,
        settings: Mapping[str, Any] | None,
        progress: Callable[[str, int], None] | None,
        plan: FormatPlan | None = None,
        computed: Callable[..., Any] = on_golden,
    ) -> None:
        """`kind` names the pictures where they are kept; settings of None: fp32. `computed` is `accelerate` with something that
        gives golden's numbers in the device's place."""
        self._computed = computed
        self._model, self._kind, self._wish, self._options, self._plan = model, kind, wish, options, plan
        self._batch, self._settings, self._progress = batch, settings, progress
        self._loaded: LoadedModel | None = None

    def pictures(self, count: int, seed: int, keep: Path | None) -> Pictures:
        """In 0…1, in 256 steps: as they are kept, and as they are shown."""
        if keep is None:
            return self._make(count, seed).astype(np.float32) / np.float32(255)
        path = keep / f"{Path(self._model).name}.{self._kind}.seed{seed}.npz"
        found: list[npt.NDArray[np.uint8]] = [np.load(path)["pictures"]] if path.is_file() else []
        while (done := sum(map(len, found))) < count:
            found.append(self._make(min(count, done + self._batch), seed, done))
            with replacing(path) as unfinished:
                np.savez_compressed(unfinished, pictures=np.concatenate(found))
        kept: Pictures = np.concatenate(found)[:count].astype(np.float32) / np.float32(255)
        return kept

    def _make(self, count: int, seed: int, first: int = 0) -> npt.NDArray[np.uint8]:
        """Of a series of `count` those from `first` on."""
        if self._loaded is None:
            self._loaded = self._load()
        told = None if self._progress is None else (lambda done: self._progress(self._kind, done))  # type: ignore[misc]
        with torch.no_grad():
            make = self._of_folder if Path(self._model).is_dir() else self._of_zoo
            found = make(self._loaded, count, seed, told, first)
        return np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)

    def _of_zoo(
        self, loaded: LoadedModel, count: int, seed: int, told: Callable[[int], None] | None, first: int
    ) -> Pictures:
        from ditto_cosim.host.zoo import find_trained
        from ditto_cosim.host.zoo.measure import generate

        wish, known = self._wish, find_trained(self._model)
        found, _ = generate(
            loaded.pipe,
            known,
            count,
            seed,
            wish.steps or None,
            self._batch,
            wish.guidance or None,
            told,
            first,
        )
        return found

    def _of_folder(
        self, loaded: LoadedModel, count: int, seed: int, told: Callable[[int], None] | None, first: int
    ) -> Pictures:
        parts = []
        for start in range(first, count, self._batch):
            indices = range(start, min(start + self._batch, count))
            images = loaded.pipe(**loaded.series(self._wish, seed, indices)).images
            parts.append(np.asarray(images, np.float32))
            if told is not None:
                told(indices[-1] + 1)
        return np.concatenate(parts)

    def _load(self) -> LoadedModel:
        loaded = load_model(self._model, **self._options)
        if self._settings is None:
            return loaded
        if self._kind in get_args(Numbers):
            on_numbers(loaded.denoiser, cast(Numbers, self._kind), self._plan or _plan_beside(loaded))
            return loaded
        settings = dict(self._settings)
        if settings.get("scales") is None and usual(settings) and loaded.scales is not None:
            settings["scales"] = load_grids(loaded.scales)
        if settings.get("scales") is None:
            steps = self._wish.steps or loaded.steps
            settings["calibration"] = loaded.calibration(
                replace(self._wish, steps=steps, seed=CALIBRATION_SEED, batch=CALIBRATION_PICTURES)
            )
        return replace(loaded, pipe=self._computed(loaded.pipe, **settings))


def _plan_beside(loaded: LoadedModel) -> FormatPlan:
    if loaded.folder is None or not (loaded.folder / PLAN_FILE).is_file():
        raise PlanError(
            f"{loaded.name}: no {PLAN_FILE} beside its weights; `ditto calibrate MODEL --plan sq_dm` makes one for --plan"
        )
    return load_plan(loaded.folder / PLAN_FILE)


def side_by_side(quality: Quality, count: int = 64) -> Any:
    """A PIL image: rows of fp32 pictures, each above the int8 pictures of the same seeds, of the first seed."""
    from ditto_cosim.host.zoo.measure import grid

    columns = min(16, count, quality.count)
    rows = []
    for start in range(0, min(count, quality.count), columns):
        for found in quality.series.values():
            row = found.pictures[0][start : start + columns]
            rows.append(np.pad(row, [(0, columns - len(row)), (0, 0), (0, 0), (0, 0)]))
    pictures = np.concatenate(rows)
    return grid(pictures, columns, scale=2 if pictures.shape[2] < 48 else 1)
