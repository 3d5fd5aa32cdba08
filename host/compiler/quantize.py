# SPDX-License-Identifier: Apache-2.0
"""Scales: what calibration saw, and the 8-bit grid chosen from it.

Weights are int8, symmetric, one scale per output channel. Activations take one grid per tensor: static, one per cluster
of steps, or dynamic with hysteresis. An observer keeps a histogram of every quantization point at every calibration step;
the grids follow from the histograms alone, so observers and policies can be compared without running the model again.
What this file does not do: run the model (`calibrate.py`) or place the quantizers in a program (`lower.py`).
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import write_text

Observer = Literal["minmax", "percentile", "mse"]
Policy = Literal["static", "clustered", "dynamic"]
Choice = Literal["auto", "static", "clustered", "dynamic"]
OBSERVERS: tuple[Observer, ...] = ("minmax", "percentile", "mse")
ENOUGH_DB = 24.0
"""A step whose signal stands this far above its quantization noise needs no grid of its own."""
LOSS_DB = 6.0
"""What a step may lose on a shared grid, if that leaves less than `ENOUGH_DB`."""

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
    channels: tuple[float, ...] = ()
    """Factors by which the input's channels are divided before, and the weights' multiplied (`smooth.py`)."""

    def attrs(self, steps: int) -> dict[str, str | bool | float | tuple[float, ...] | tuple[int, ...]]:
        """Attributes of the command in a run of so many steps; clusters that would hold no step are dropped."""
        bounds: list[int] = []
        keep: list[int] = []
        for i, start in enumerate(self.starts):
            bound = math.ceil(start * steps - 1e-9)  # the first step at that share of the run or behind it
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


def sqnr_db(histogram: Histogram, grid: Grid, cluster: int = 0) -> float:
    """Signal over quantization noise of what a histogram saw, on one of a grid's scales."""
    scale, zero = grid.scales[cluster], grid.zero_points[cluster]
    centres, counts = histogram.centres, histogram.counts
    q = np.clip(np.rint(centres / scale) + zero, -127 if grid.symmetric else -128, 127)
    noise = float((np.square((q - zero) * scale - centres) * counts).sum())
    signal = float((np.square(centres) * counts).sum())
    if not noise or not signal:
        return math.inf
    return 10 * math.log10(signal / noise)


def clipped_share(histograms: Sequence[Histogram], grid: Grid) -> float:
    """The share of all values seen that lie beyond a static or clustered grid."""
    outside = total = 0.0
    for at, histogram in enumerate(histograms):
        cluster = bisect_right([s * len(histograms) for s in grid.starts], at + 1e-6) - 1
        scale, zero = grid.scales[cluster], grid.zero_points[cluster]
        low = ((-127 if grid.symmetric else -128) - zero - 0.5) * scale
        centres = histogram.centres
        outside += float(histogram.counts[(centres < low) | (centres > (127 - zero + 0.5) * scale)].sum())
        total += float(histogram.counts.sum())
    return outside / total if total else 0.0


def noise_of(histograms: Sequence[Histogram], grid: Grid) -> float:
    """Mean square of the error an element on a static or clustered grid."""
    noise = total = 0.0
    for at, histogram in enumerate(histograms):
        cluster = bisect_right([s * len(histograms) for s in grid.starts], at + 1e-6) - 1
        scale, zero = grid.scales[cluster], grid.zero_points[cluster]
        q = np.clip(np.rint(histogram.centres / scale) + zero, -127 if grid.symmetric else -128, 127)
        noise += float((np.square((q - zero) * scale - histogram.centres) * histogram.counts).sum())
        total += float(histogram.counts.sum())
    return noise / total if total else 0.0


def over(low: float, high: float, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point of the grid from `low` to `high`."""
    return _grid(min(low, 0.0), max(high, 0.0), symmetric)


def choose(
    histograms: Sequence[Histogram],
    *,
    symmetric: bool,
    observer: Observer = "mse",
    policy: Choice = "auto",
    clusters: int = 4,
    hysteresis: float = 1.25,
) -> Grid:
    """The grid of one quantization point. `auto` is static as long as one grid serves every step, and else as few
    clusters of steps as do."""
    if not histograms:
        raise QuantizationError("a quantization point has no calibration data; calibrate the model first")
    if policy == "dynamic":
        scale, _ = _grid(*_range(Histogram.merge(histograms), "minmax", True), True)
        return Grid("dynamic", (scale,), (0,), symmetric=True, hysteresis=hysteresis)

    def grid_of(part: Sequence[Histogram]) -> Grid:
        scale, point = _grid(*_range(Histogram.merge(part), observer, symmetric), symmetric)
        return Grid("static", (scale,), (point,), symmetric=symmetric)

    if policy == "auto":
        return _fewest_clusters(histograms, grid_of)
    count = min(clusters, len(histograms)) if policy == "clustered" else 1
    edges = [round(i * len(histograms) / count) for i in range(count + 1)]
    return _clustered([grid_of(histograms[a:b]) for a, b in pairwise(edges)], edges[:-1], len(histograms))


def _clustered(grids: Sequence[Grid], starts: Sequence[int], steps: int) -> Grid:
    """One grid from those of clusters that begin at these steps."""
    return Grid(
        "static" if len(grids) == 1 else "clustered",
        tuple(g.scales[0] for g in grids),
        tuple(g.zero_points[0] for g in grids),
        tuple(start / steps for start in starts),
        grids[0].symmetric,
    )


def _good(found_db: float, best_db: float) -> bool:
    return found_db >= ENOUGH_DB or found_db >= best_db - LOSS_DB


def serves(grid: Grid, histograms: Sequence[Histogram], symmetric: bool) -> bool:
    """Whether a given grid is as good for what was seen as one made for it, or good enough; a dynamic one always is."""
    if grid.policy == "dynamic":
        return True
    for histogram in histograms:
        best = sqnr_db(histogram, choose([histogram], symmetric=symmetric, policy="static"))
        found = max(sqnr_db(histogram, grid, cluster) for cluster in range(len(grid.scales)))
        if not _good(found, best):
            return False
    return True


def _fewest_clusters(histograms: Sequence[Histogram], grid_of: Callable[[Sequence[Histogram]], Grid]) -> Grid:
    """Neighbouring steps share a grid for as long as none of them needs one of its own."""
    own = [sqnr_db(h, grid_of([h])) for h in histograms]

    def good(grid: Grid, first: int, last: int) -> bool:
        return all(_good(sqnr_db(histograms[i], grid), own[i]) for i in range(first, last))

    whole = grid_of(histograms)
    if good(whole, 0, len(histograms)):
        return _clustered([whole], [0], len(histograms))
    starts, grids = [0], [grid_of(histograms[:1])]
    for at in range(1, len(histograms)):
        shared = grid_of(histograms[starts[-1] : at + 1])
        if good(shared, starts[-1], at + 1):
            grids[-1] = shared
        else:
            starts.append(at)
            grids.append(grid_of(histograms[at : at + 1]))
    return _clustered(grids, starts, len(histograms))


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
    q = torch.round(flat / scale[:, None])
    if own_scale is not None and ((q < -128) | (q > 127)).any():  # −128 is some libraries' lowest code
        raise QuantizationError("weights leave −128…127 times their own weight_scale")
    return q.to(torch.int8).reshape(weight.shape), scale


def load_quantized(module: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Puts a quantized checkpoint into `module`, so that it computes with those very integers.

    A safetensors file of the module's state, or a folder of such files. Quantized weights are int8, each with a `weight_scale`
    beside its `weight`: one number, or one per output channel (symmetric: a `weight_zero_point` must be 0). Beside them may
    stand what the input was quantized with, as nvidia-modelopt and compressed-tensors export it: `input_scale`, one number,
    `input_zero_point`, and `pre_quant_scale`, by which the input's channels are multiplied before. What torchao writes
    (`flatten_tensor_state_dict`) says the same in other names. Where a checkpoint scales each row of the input as it
    comes, as torchao's dynamic form does, the input's grid is calibrated here: one for the tensor.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    state: dict[str, torch.Tensor] = {}
    try:
        for file in files:
            state |= load_file(file)
    except FileNotFoundError:
        raise QuantizationError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise QuantizationError(f"{path}: not a safetensors file ({error})") from None
    state = {_usual_name(name): tensor for name, tensor in state.items()}
    if not any(name.endswith(".weight_scale") for name in state):
        raise QuantizationError(f"{path}: holds no weight_scale, so no quantized weights")
    for name in [n for n in state if n.endswith(".weight_scale")]:
        _put_quantized(module, path, name.removesuffix(".weight_scale"), state)
    module.load_state_dict(state)
    return module


TORCHAO = {
    "_weight_qdata": "weight",
    "_weight_scale": "weight_scale",
    "_weight_zero_point": "weight_zero_point",
    "_weight_act_quant_scale": "input_scale",
    "_weight_act_quant_zero_point": "input_zero_point",
    "_weight_act_pre_scale": "pre_quant_scale",
}
"""How torchao names the parts of a quantized weight, and how everybody else does."""


def _usual_name(name: str) -> str:
    owner, dot, part = name.rpartition(".")
    return f"{owner}{dot}{TORCHAO.get(part, part)}"


def _put_quantized(module: torch.nn.Module, path: Path, owner: str, state: dict[str, torch.Tensor]) -> None:
    """One layer's integers and scales, out of a checkpoint's state into the module; its real weights into the state."""
    scale, weight = (
        state.pop(f"{owner}.weight_scale").to(torch.float32).flatten(),
        state.get(f"{owner}.weight"),
    )
    zeros = state.pop(f"{owner}.weight_zero_point", torch.zeros(1))
    if weight is None or weight.dtype != torch.int8 or len(scale) not in (1, len(weight)):
        raise QuantizationError(
            f"{path}: {owner}.weight_scale needs int8 {owner}.weight with {len(scale)} output channels"
        )
    if bool(zeros.any()):
        raise QuantizationError(f"{path}: {owner}.weight_zero_point is not 0; weights must be symmetric")
    scale = scale.expand(len(weight)).clone()
    real = weight.to(torch.float32) * scale.reshape(-1, *[1] * (weight.ndim - 1))
    layer = module.get_submodule(owner)
    channels = state.pop(f"{owner}.pre_quant_scale", None)
    if channels is not None:
        channels = channels.to(torch.float32).flatten()
        if len(channels) != weight.shape[1] or not bool((torch.isfinite(channels) & (channels > 0)).all()):
            raise QuantizationError(
                f"{path}: {owner}.pre_quant_scale needs {weight.shape[1]} positive numbers"
            )
        real = real * channels.reshape(1, -1, *[1] * (weight.ndim - 2))
        layer.register_buffer("pre_quant_scale", channels, persistent=False)
    state[f"{owner}.weight"] = real
    layer.register_buffer("weight_scale", scale, persistent=False)
    for name in ("input_scale", "input_zero_point"):
        given = state.pop(f"{owner}.{name}", None)
        if given is not None and given.numel() != 1:
            raise QuantizationError(
                f"{path}: {owner}.{name} has {given.numel()} numbers; activations take one scale a tensor"
            )
        if given is not None:
            layer.register_buffer(name, given.to(torch.float32).reshape(()), persistent=False)


def input_grid(layer: torch.nn.Module) -> Grid | None:
    """The grid that a quantized checkpoint gives a layer's input."""
    scale, factors = getattr(layer, "input_scale", None), getattr(layer, "pre_quant_scale", None)
    if not isinstance(scale, torch.Tensor):
        return None
    zero = getattr(layer, "input_zero_point", None)
    point = float(zero) if isinstance(zero, torch.Tensor) else 0.0
    if point != round(point) or not -128 <= point <= 127 or not 0 < float(scale) < math.inf:
        raise QuantizationError(
            f"input_scale {float(scale)} with zero point {point}: expected a positive scale and −128…127"
        )
    channels = tuple((1 / factors).tolist()) if isinstance(factors, torch.Tensor) else ()
    return Grid("static", (float(scale),), (int(point),), channels=channels)


def save_grids(grids: Mapping[str, Grid], path: Path) -> None:
    write_text(
        path, json.dumps({name: asdict(grid) for name, grid in sorted(grids.items())}, indent=1) + "\n"
    )


def _whole(number: Any) -> int:
    if isinstance(number, bool) or number != int(number):
        raise ValueError(f"zero point {number!r}, expected a whole number")
    return int(number)


def grids_of(data: Any) -> dict[str, Grid]:
    """Grids from plain JSON data; what is not that raises KeyError, TypeError, ValueError or AttributeError."""
    return {
        str(name): Grid(
            g["policy"],
            tuple(float(s) for s in g["scales"]),
            tuple(_whole(z) for z in g["zero_points"]),
            tuple(float(s) for s in g.get("starts", (0.0,))),
            bool(g["symmetric"]),
            float(g.get("hysteresis", 1.0)),
            tuple(float(c) for c in g.get("channels", ())),
        )
        for name, g in data.items()
    }


def _gist(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error}"
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def load_grids(path: Path) -> dict[str, Grid]:
    """Grids as `save_grids` wrote them, or as a user wrote them by hand."""
    try:
        grids = grids_of(json.loads(path.read_text()))
    except FileNotFoundError:
        raise QuantizationError(
            f"{path}: no such file of scales; `ditto calibrate MODEL` makes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise QuantizationError(f"{path}: not a file of scales ({_gist(error)})") from None
    if not grids:
        raise QuantizationError(f"{path}: holds no scale; `ditto calibrate MODEL` makes a file of them")
    for name, grid in grids.items():
        if len({len(grid.scales), len(grid.zero_points), len(grid.starts)}) != 1 or not grid.scales:
            raise QuantizationError(
                f"{path}: {name} has {len(grid.scales)} scales, {len(grid.zero_points)} zero points and "
                f"{len(grid.starts)} starts; expected as many of each, one or more"
            )
        if not all(math.isfinite(c) and c > 0 for c in grid.channels):
            raise QuantizationError(
                f"{path}: {name} has factors of channels that are not positive and finite"
            )
        if not all(-128 <= z <= 127 for z in grid.zero_points):
            raise QuantizationError(f"{path}: {name} has zero points {grid.zero_points}, expected −128…127")
        if list(grid.starts) != sorted(grid.starts) or not all(0 <= s <= 1 for s in grid.starts):
            raise QuantizationError(
                f"{path}: {name} has clusters that start at {grid.starts}; expected rising shares of a run, 0…1"
            )
        if not 1 <= grid.hysteresis < math.inf:
            raise QuantizationError(f"{path}: {name} has hysteresis {grid.hysteresis}, expected 1 or more")
        if grid.policy not in get_args(Policy):
            raise QuantizationError(
                f"{path}: {name} has policy {grid.policy!r}, expected one of {', '.join(get_args(Policy))}"
            )
        if not all(math.isfinite(s) and s > 0 for s in grid.scales):
            raise QuantizationError(
                f"{path}: {name} has scales {grid.scales}; every scale must be positive and finite"
            )
    return grids
