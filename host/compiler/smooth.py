# SPDX-License-Identifier: Apache-2.0
"""Outlier channels: factors by which a layer's input channels are divided before quantization, and its weights multiplied.

A few channels far above the rest leave an 8-bit grid no levels for the rest. Divided by a factor of its own, every channel
fills the grid; the weights, which have a scale per output channel, carry the factors (SmoothQuant). The layer stays an
integer product on one grid, so that its differences are exact. A layer takes factors only where they pay: the noise that a
grid and 8-bit weights would put on its output is estimated from what calibration measured of every channel.
What this file does not do: measure (`calibrate.py`), or place the factors in a program (`builder.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EXPONENTS = (0.25, 0.5, 0.75, 1.0)
"""How much of the difficulty moves into the weights."""
GAIN_DB = 3.0
"""Least gain for which a layer takes factors: they cost a pass over its input."""


@dataclass
class Channels:
    """What calibration saw of every channel of a tensor, step by step."""

    low: list[Tensor]
    high: list[Tensor]
    power: list[Tensor]
    """Mean of the squares."""

    @classmethod
    def none(cls) -> Channels:
        return cls([], [], [])

    def add(self, value: Tensor, axis: int) -> None:
        """One step's values."""
        flat = value.detach().to(torch.float32).movedim(axis, 0).flatten(1)
        self.low.append(flat.amin(1).clamp(max=0))
        self.high.append(flat.amax(1).clamp(min=0))
        self.power.append(flat.square().mean(1))

    def lay_over(self, places: Sequence[int]) -> None:
        """Has observations at one place count as one."""
        steps = [[i for i, at in enumerate(places) if at == place] for place in sorted(set(places))]
        self.low = [torch.stack([self.low[i] for i in step]).amin(0) for step in steps]
        self.high = [torch.stack([self.high[i] for i in step]).amax(0) for step in steps]
        self.power = [torch.stack([self.power[i] for i in step]).mean(0) for step in steps]

    def extremes(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Of these steps."""
        return torch.stack(self.low[first:last]).amin(0), torch.stack(self.high[first:last]).amax(0)


def factors(channels: Channels, weights: Sequence[Tensor], grid_noise: float) -> tuple[float, ...]:
    """A factor for every channel, or none at all where a grid without them, whose noise an element this is, does as well.

    `weights` are those of all the layers that read the tensor, as [outputs, channels, positions].
    """
    low, high = channels.extremes(0, len(channels.low))
    largest, power = torch.maximum(-low, high), torch.stack(channels.power).mean(0)
    weights = [w for w in weights if w.numel()]  # an expert may have no outputs
    if not weights:
        return ()
    columns = torch.stack([w.abs().amax((0, 2)) for w in weights]).amax(0)
    if len(largest) < 2 or not bool(largest.any()) or not bool(columns.any()):
        return ()
    best, best_noise = (
        None,
        _noise(weights, power, torch.full_like(largest, grid_noise), torch.ones_like(largest)),
    )
    best_noise /= 10 ** (GAIN_DB / 10)
    for exponent in EXPONENTS:
        found = largest.clamp(min=1e-6).pow(exponent) / columns.clamp(min=1e-6).pow(1 - exponent)
        found = (found / found.log().mean().exp()).clamp(2.0**-12, 2.0**12)
        step = float((high / found).amax() - (low / found).amin()) / 255
        noise = _noise(weights, power, found.square() * (step * step / 12), found)
        if noise < best_noise:
            best, best_noise = found, noise
    return () if best is None else tuple(best.tolist())


def _noise(weights: Sequence[Tensor], power: Tensor, noise: Tensor, found: Tensor) -> float:
    """Noise power on all outputs together: the input's, through the weights, and that of 8-bit weights."""
    total = 0.0
    for w in weights:
        scaled = w * found[None, :, None]
        steps = scaled.abs().amax((1, 2)) / 127
        from_input = float((w.square().sum((0, 2)) * noise).sum())
        from_weights = float(steps.square().sum() / 12) * float((power / found.square()).sum()) * w.shape[2]
        total += from_input + from_weights
    return total
