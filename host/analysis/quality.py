"""What int8 costs in pictures: the same seeds in fp32 and in the accelerator's arithmetic, side by side.

The int8 pictures come from golden, bit-identical to what every exact design computes, in batches that would
take a device long. What this file does not do: score (`zoo/measure.py` has the classifiers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.pipeline.accelerate import accelerate
from ditto_cosim.host.pipeline.models import load_model, usual
from ditto_cosim.host.pipeline.run import Generation
from ditto_cosim.host.reference.golden import Golden

Pictures = npt.NDArray[np.float32]


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
class Quality:
    """One model in fp32 and int8, on the same seeds."""

    model: str
    count: int
    steps: int
    fp32: Pictures
    int8: Pictures
    figures: Mapping[str, Mapping[str, Any]]
    """`fp32`, `int8` -> figure -> value."""
    wall_s: Mapping[str, float]

    @property
    def mean_absolute_difference(self) -> float:
        """Of the pictures' values in 0…1."""
        return float(np.abs(self.fp32 - self.int8).mean())

    @property
    def psnr_db(self) -> float:
        """Of int8 against fp32, over all pictures."""
        error = float(np.square(self.fp32.astype(np.float64) - self.int8).mean())
        return 10 * float(np.log10(1 / error)) if error else float("inf")


def measure_quality(
    model: str,
    count: int = 1000,
    *,
    seed: int = 0,
    steps: int | None = None,
    batch: int = 50,
    guidance: float = 2.0,
    progress: Callable[[str, int], None] | None = None,
    **settings: Any,
) -> Quality:
    """Pictures and figures of a zoo model in both arithmetics; `settings` go to `accelerate`."""
    from ditto_cosim.host.zoo import find_trained
    from ditto_cosim.host.zoo.classifier import load_classifier
    from ditto_cosim.host.zoo.measure import figures_of, generate

    known = find_trained(model)
    load_classifier(known.dataset)  # a missing one is better known before the pictures are made
    pictures: dict[str, Pictures] = {}
    wall_s: dict[str, float] = {}
    asked = None
    for kind in ("fp32", "int8"):
        loaded = load_model(model)
        pipeline = loaded.pipe
        if kind == "int8":
            if settings.get("scales") is None and usual(settings):
                settings["scales"] = loaded.scales
            pipeline = on_golden(pipeline, **_calibrated(known, steps, settings))
        began = time.perf_counter()
        with torch.no_grad():
            pictures[kind], asked = generate(
                pipeline,
                known,
                count,
                seed,
                steps,
                min(batch, count),
                guidance,
                None if progress is None else (lambda done, kind=kind: progress(kind, done)),  # type: ignore[misc]
            )
        wall_s[kind] = time.perf_counter() - began
    figures = {kind: figures_of(found, known.dataset, asked) for kind, found in pictures.items()}
    return Quality(model, count, steps or known.steps, pictures["fp32"], pictures["int8"], figures, wall_s)


def _calibrated(known: Any, steps: int | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with a calibration run if no scales are given; its seed is none of the pictures'."""
    if settings.get("scales") is not None:
        return dict(settings)
    calibration: dict[str, Any] = {"num_inference_steps": steps or known.steps}
    calibration["generator"] = torch.Generator().manual_seed(2**31 - 1)
    if known.class_conditional:
        calibration |= {"class_labels": list(range(8)), "guidance_scale": 2.0}
    else:
        calibration["batch_size"] = 8
    return {**settings, "calibration": calibration}


def side_by_side(quality: Quality, count: int = 50) -> Any:
    """A PIL image: rows of fp32 pictures, each above the int8 pictures of the same seeds."""
    from ditto_cosim.host.zoo.measure import grid

    columns = 10
    rows = []
    for start in range(0, min(count, quality.count), columns):
        for found in (quality.fp32, quality.int8):
            row = found[start : start + columns]
            rows.append(np.pad(row, [(0, columns - len(row)), (0, 0), (0, 0), (0, 0)]))
    return grid(np.concatenate(rows), columns)
