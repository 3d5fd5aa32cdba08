# SPDX-License-Identifier: Apache-2.0
"""Runs a captured denoiser in fp32 along real denoising trajectories and keeps a histogram of every quantization point.

What this file does not do: choose grids from the histograms (`quantize.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.points import example, name_layers, quantization_points
from ditto_cosim.host.compiler.quantize import (
    Choice,
    Grid,
    Histogram,
    Observer,
    QuantizationError,
    choose,
    clipped_share,
    noise_of,
    over,
)
from ditto_cosim.host.compiler.smooth import Channels, factors

Inputs = Mapping[str, torch.Tensor]


class _Watch(fx.Interpreter):
    """Runs the graph and shows the watched nodes' results."""

    def __init__(
        self, module: fx.GraphModule, see: Callable[[str, torch.Tensor], None], watched: set[str]
    ) -> None:
        super().__init__(module)
        self.see, self.watched = see, watched

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.watched:
            self.see(n.name, result)
        return result


class Calibrator:
    """Collects histograms step by step; one `observe` per denoiser evaluation."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.points = quantization_points(captured)
        self.histograms: dict[str, list[Histogram]] = {point: [] for point in self.points}
        self.weights = _weights(captured)
        """Point -> the weights that its tensor meets, as [outputs, channels, positions], where factors may be put on them."""
        self.channels: dict[str, Channels] = {}
        """Graph node -> what was seen of its channels."""
        self.observed = 0

    def observe(self, inputs: Inputs) -> torch.Tensor:
        """One fp32 evaluation; returns the denoiser's own result, the first if there are several."""
        return self.observe_all(inputs)[0]

    def observe_all(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        """One fp32 evaluation; returns all of the denoiser's results."""
        seen: dict[str, Histogram] = {}
        by_node: dict[str, list[str]] = {}
        for point, (node, _) in self.points.items():
            by_node.setdefault(node, []).append(point)

        def see(node: str, value: torch.Tensor) -> None:
            histogram = Histogram.of(value, by_node[node][0])
            for point in by_node[node]:
                seen[point] = histogram
            if axis := {self.weights[p][1] for p in by_node[node] if p in self.weights}:
                self.channels.setdefault(node, Channels.none()).add(value, axis.pop())

        with torch.no_grad():
            watch = _Watch(self.captured.module, see, set(by_node))
            results = watch.run(*self.captured.interpreter_args(inputs))
        for point, histogram in seen.items():
            self.histograms[point].append(histogram)
        self.observed += 1
        return tuple(results)

    def lay_over(self, begins: Sequence[int]) -> None:
        """Has generations that began at these observations count as one, each step beside those at the same share of a run."""
        places = _places(begins, self.observed)
        if places == list(range(self.observed)):
            return
        self.histograms = {p: _merged(seen, places) for p, seen in self.histograms.items() if seen}
        for channels in self.channels.values():
            channels.lay_over(places)
        self.observed = len(set(places))

    def join(self, other: Calibrator) -> None:
        """Takes what another form of the same denoiser was seen to do, step by step."""
        self.channels.clear()  # seen for one of several forms alone
        for point, seen in other.histograms.items():
            own = self.histograms.get(point, [])
            counts = len(own), len(seen)
            places = [i * max(counts) // n for n in counts for i in range(n)]
            self.histograms[point] = _merged([*own, *seen], places)

    def grids(
        self,
        *,
        observer: Observer = "mse",
        policy: Choice = "auto",
        clusters: int = 4,
        hysteresis: float = 1.25,
        overrides: Mapping[str, Grid] | None = None,
    ) -> dict[str, Grid]:
        """One grid per point. `overrides` replaces points by name."""
        if unknown := (overrides or {}).keys() - self.points.keys():
            near = difflib.get_close_matches(min(unknown), self.points, 3, 0.3)
            raise QuantizationError(
                f"no quantization point {', '.join(sorted(unknown))}; the denoiser has {len(self.points)}, "
                f"such as {', '.join(near or list(self.points)[:3])}"
            )
        chosen = {
            point: choose(
                self.histograms[point],
                symmetric=symmetric,
                observer=observer,
                policy=policy,
                clusters=clusters,
                hysteresis=hysteresis,
            )
            for point, (_, symmetric) in self.points.items()
        }
        if policy == "auto":
            chosen |= self._with_factors(chosen)
        own = {p: g for name, g in self.captured.input_grids.items() if (p := f"{name}:x") in self.points}
        return {**chosen, **own, **(overrides or {})}

    def clipped(self, grids: Mapping[str, Grid]) -> dict[str, float]:
        """Point -> the share of its values that lie beyond its grid."""
        return {
            point: clipped_share(histograms, grids[point])
            for point, histograms in self.histograms.items()
            if histograms and grids[point].policy != "dynamic" and not grids[point].channels
        }

    def _with_factors(self, chosen: Mapping[str, Grid]) -> dict[str, Grid]:
        """Grids with factors of channels, for the layers whose outputs gain by them. Layers of one input share them."""
        found: dict[str, Grid] = {}
        for node, channels in self.channels.items():
            points = [p for p, (n, _) in self.points.items() if n == node and p in self.weights]
            if len(points) < sum(n == node for n, _ in self.points.values()):
                continue  # something else reads the tensor on its plain grid
            grid = chosen[points[0]]
            noise = noise_of(self.histograms[points[0]], grid)
            made = factors(channels, [self.weights[p][0] for p in points], noise)
            if not made:
                continue
            count, divisors = len(channels.low), torch.tensor(made)
            edges = [round(s * count) for s in grid.starts] + [count]
            scales = []
            for first, last in pairwise(edges):
                low, high = channels.extremes(first, last)
                scales.append(
                    over(float((low / divisors).amin()), float((high / divisors).amax()), grid.symmetric)
                )
            with_factors = replace(
                grid,
                scales=tuple(s for s, _ in scales),
                zero_points=tuple(z for _, z in scales),
                channels=made,
            )
            found |= dict.fromkeys(points, with_factors)
        return found


def _places(begins: Sequence[int], count: int) -> list[int]:
    """For each of so many observations, its step in the longest of the generations that begin there."""
    edges = sorted({0, *begins, count})
    lengths = [last - first for first, last in pairwise(edges)]
    return [i * max(lengths) // n for n in lengths for i in range(n)]


def _merged(seen: Sequence[Histogram], places: Sequence[int]) -> list[Histogram]:
    parts: dict[int, list[Histogram]] = {}
    for histogram, place in zip(seen, places, strict=True):
        parts.setdefault(place, []).append(histogram)
    return [part[0] if len(part) == 1 else Histogram.merge(part) for _, part in sorted(parts.items())]


def _weights(captured: Captured) -> dict[str, tuple[torch.Tensor, int]]:
    """Points of linear layers and convolutions of one group, with their weights and the axis of their channels."""
    nodes, found = {n.name: n for n in captured.module.graph.nodes}, {}
    for name, layer in name_layers(captured).items():
        node = nodes[name]
        kind, weight = str(node.target), node.args[1]
        if kind not in ("aten.linear.default", "aten.conv2d.default") or layer in captured.weight_scales:
            continue
        held = captured.parameters.get(getattr(weight, "name", ""))
        if held is None or held.is_meta or not isinstance(node.args[0], fx.Node):
            continue
        axis = 1 if kind == "aten.conv2d.default" else -1
        if example(node.args[0]).shape[axis] == held.shape[1]:
            found[f"{layer}:x"] = (
                held.to(torch.float32).flatten(2) if held.ndim > 2 else held.float()[..., None],
                axis,
            )
    return found


def calibrate(captured: Captured, trajectory: Iterable[Inputs], **choice: Any) -> dict[str, Grid]:
    """Grids from a sequence of denoiser inputs, one per step."""
    calibrator = Calibrator(captured)
    for inputs in trajectory:
        calibrator.observe(inputs)
    return calibrator.grids(**choice)
