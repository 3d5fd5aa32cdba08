"""Scales: what calibration saw, and the 8-bit grid chosen from it.

Weights are int8, symmetric, one scale per output channel. Activations take one grid per tensor: static, one per cluster
of steps, or dynamic with hysteresis. An observer keeps a histogram of every quantization point at every calibration step;
the grids follow from the histograms alone, so observers and policies can be compared without running the model again.
What this file does not do: run the model (`calibrate.py`) or place the quantizers in a program (`lower.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import write_text

Observer = Literal["minmax", "percentile", "mse"]
Policy = Literal["static", "clustered", "dynamic"]
OBSERVERS: tuple[Observer, ...] = ("minmax", "percentile", "mse")

BINS = 2048
PERCENTILE = 99.99


class QuantizationError(DittoError):
    """Scales that cannot be made or used; the message names the layer and what to do."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in equal bins over [low, high]."""

    low: float
    high: float
    counts: npt.NDArray[np.float64]

    @classmethod
    def of(cls, values: torch.Tensor, where: str) -> Histogram:
        flat = values.detach().to(torch.float32).flatten()
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise QuantizationError(
                f"{where}: calibration met NaN or infinity; check the model's weights and inputs"
            )
        width = high - low
        counts = (
            torch.histc(flat, BINS, low, high)
            if width > 0
            else torch.tensor([float(flat.numel())] + [0.0] * (BINS - 1))
        )
        return cls(low, high, counts.double().numpy())

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        middles = np.arange(BINS, dtype=np.float64) + 0.5
        return self.low + middles * ((self.high - self.low) / BINS)

    @staticmethod
    def merge(parts: Sequence[Histogram]) -> Histogram:
        low, high = min(p.low for p in parts), max(p.high for p in parts)
        width = (high - low) or 1.0
        counts = np.zeros(BINS)
        for part in parts:
            index = np.clip(((part.centres - low) / width * BINS).astype(np.int64), 0, BINS - 1)
            np.add.at(counts, index, part.counts)
        return Histogram(low, high, counts)


@dataclass(frozen=True, slots=True)
class Grid:
    """How one activation tensor is quantized; the attributes of a `quantize` command, bounds as shares of the run."""

    policy: Policy
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    starts: tuple[float, ...] = (0.0,)
    """Cluster i begins at this share of the run's steps."""
    symmetric: bool = False
    hysteresis: float = 1.0

    def attrs(self, steps: int) -> dict[str, str | bool | float | tuple[float, ...] | tuple[int, ...]]:
        """Attributes of the command in a run of so many steps; clusters that would hold no step are dropped."""
        bounds: list[int] = []
        keep: list[int] = []
        for i, start in enumerate(self.starts):
            bound = round(start * steps)
            if bounds and bound <= bounds[-1]:
                keep[-1] = i
            elif bound < max(steps, 1) or not bounds:
                bounds.append(bound)
                keep.append(i)
        return {
            "policy": self.policy,
            "scales": tuple(float(np.float32(self.scales[i])) for i in keep),
            "zero_points": tuple(self.zero_points[i] for i in keep),
            "bounds": tuple(bounds),
            "symmetric": self.symmetric,
            "hysteresis": self.hysteresis,
        }


def _range(histogram: Histogram, observer: Observer, symmetric: bool) -> tuple[float, float]:
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    if observer == "minmax" or high == low:
        return low, high
    centres, counts = histogram.centres, histogram.counts
    if observer == "percentile":
        share = np.cumsum(counts) / counts.sum()
        tail = (100 - PERCENTILE) / 100
        left = float(centres[np.searchsorted(share, tail)])
        right = float(centres[min(int(np.searchsorted(share, 1 - tail)), BINS - 1)])
        if symmetric:
            right = max(-left, right)
            return -right, right
        return min(left, 0.0), max(right, 0.0)
    best, best_error = (low, high), math.inf
    shrinks = np.linspace(1.0, 0.2, 41)
    candidates = [(low * s, high * s) for s in shrinks]
    if not symmetric:
        candidates += [(low, high * s) for s in shrinks] + [(low * s, high) for s in shrinks]
    for left, right in candidates:
        step = (right - left) / (254 if symmetric else 255)
        clipped = np.clip(centres, left, right)
        error = float(((centres - clipped) ** 2 * counts).sum() + step * step / 12 * counts.sum())
        if error < best_error:
            best, best_error = (left, right), error
    return best


def _grid(low: float, high: float, symmetric: bool) -> tuple[float, int]:
    if symmetric:
        return (max(high, 1e-8) / 127, 0)
    scale = max(high - low, 1e-8) / 255
    return scale, int(np.clip(round(-low / scale) - 128, -128, 127))


def choose(
    histograms: Sequence[Histogram],
    *,
    symmetric: bool,
    observer: Observer = "mse",
    policy: Policy = "static",
    clusters: int = 4,
    hysteresis: float = 1.25,
) -> Grid:
    """The grid of one quantization point."""
    if not histograms:
        raise QuantizationError("a quantization point has no calibration data; calibrate the model first")
    if policy == "dynamic":
        scale, _ = _grid(*_range(Histogram.merge(histograms), "minmax", True), True)
        return Grid("dynamic", (scale,), (0,), symmetric=True, hysteresis=hysteresis)
    count = min(clusters, len(histograms)) if policy == "clustered" else 1
    edges = [round(i * len(histograms) / count) for i in range(count + 1)]
    scales, points = [], []
    for first, last in pairwise(edges):
        merged = Histogram.merge(histograms[first:last])
        scale, point = _grid(*_range(merged, observer, symmetric), symmetric)
        scales.append(scale)
        points.append(point)
    starts = tuple(e / len(histograms) for e in edges[:-1])
    return Grid("static" if count == 1 else "clustered", tuple(scales), tuple(points), starts, symmetric)


def quantize_weight(
    weight: torch.Tensor, own_scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 weights and their f32 scale per output channel (first axis); on `own_scale`, if they have been quantized before."""
    flat = weight.detach().to(torch.float32).flatten(1)
    largest = flat.abs().amax(1)
    if weight.device.type != "meta" and not torch.isfinite(largest).all():
        raise QuantizationError("weights hold NaN or infinity")
    if own_scale is None:
        scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    else:
        scale = own_scale.detach().to(torch.float32).flatten()
        if scale.shape != largest.shape or not (torch.isfinite(scale) & (scale > 0)).all():
            raise QuantizationError(
                f"weight_scale has shape {tuple(own_scale.shape)}, {len(largest)} positive numbers are expected"
            )
        if (torch.round(largest / scale) > 127).any():
            raise QuantizationError("weights exceed 127 times their own weight_scale")
    q = torch.clamp(torch.round(flat / scale[:, None]), -127, 127).to(torch.int8)
    return q.reshape(weight.shape), scale


def load_quantized(module: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Puts a quantized checkpoint into `module`, so that it computes with those very integers.

    A safetensors file of the module's state; quantized weights are int8, each with a `weight_scale` beside its `weight`, one
    per output channel.
    """
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except FileNotFoundError:
        raise QuantizationError(f"{path}: no such file") from None
    for name in [n for n in state if n.endswith(".weight_scale")]:
        owner = name.removesuffix(".weight_scale")
        scale, weight = state.pop(name).to(torch.float32).flatten(), state.get(f"{owner}.weight")
        if weight is None or weight.dtype != torch.int8 or len(weight) != len(scale):
            raise QuantizationError(
                f"{path}: {name} needs int8 {owner}.weight with {len(scale)} output channels"
            )
        state[f"{owner}.weight"] = weight.to(torch.float32) * scale.reshape(-1, *[1] * (weight.ndim - 1))
        module.get_submodule(owner).register_buffer("weight_scale", scale, persistent=False)
    module.load_state_dict(state)
    return module


def save_grids(grids: Mapping[str, Grid], path: Path) -> None:
    write_text(
        path, json.dumps({name: asdict(grid) for name, grid in sorted(grids.items())}, indent=1) + "\n"
    )


def grids_of(data: Any) -> dict[str, Grid]:
    """Grids from plain JSON data; what is not that raises KeyError, TypeError, ValueError or AttributeError."""
    return {
        str(name): Grid(
            g["policy"],
            tuple(float(s) for s in g["scales"]),
            tuple(int(z) for z in g["zero_points"]),
            tuple(float(s) for s in g.get("starts", (0.0,))),
            bool(g["symmetric"]),
            float(g.get("hysteresis", 1.0)),
        )
        for name, g in data.items()
    }


def load_grids(path: Path) -> dict[str, Grid]:
    """Grids as `save_grids` wrote them, or as a user wrote them by hand."""
    try:
        grids = grids_of(json.loads(path.read_text()))
    except FileNotFoundError:
        raise QuantizationError(
            f"{path}: no such file of scales; `ditto calibrate MODEL` makes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuantizationError(f"{path}: not a file of scales ({type(error).__name__}: {error})") from None
    for name, grid in grids.items():
        if not all(math.isfinite(s) and s > 0 for s in grid.scales):
            raise QuantizationError(
                f"{path}: {name} has scales {grid.scales}; every scale must be positive and finite"
            )
    return grids
