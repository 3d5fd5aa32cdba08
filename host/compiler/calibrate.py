"""Runs a captured denoiser in fp32 along real denoising trajectories and keeps a histogram of every quantization point.

What this file does not do: choose grids from the histograms (`quantize.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import fx

from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.points import quantization_points
from ditto_cosim.host.compiler.quantize import Choice, Grid, Histogram, Observer, QuantizationError, choose

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

        with torch.no_grad():
            watch = _Watch(self.captured.module, see, set(by_node))
            results = watch.run(*self.captured.interpreter_args(inputs))
        for point, histogram in seen.items():
            self.histograms[point].append(histogram)
        return tuple(results)

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
        return {**chosen, **(overrides or {})}


def calibrate(captured: Captured, trajectory: Iterable[Inputs], **choice: Any) -> dict[str, Grid]:
    """Grids from a sequence of denoiser inputs, one per step."""
    calibrator = Calibrator(captured)
    for inputs in trajectory:
        calibrator.observe(inputs)
    return calibrator.grids(**choice)
