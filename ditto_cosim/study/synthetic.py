# SPDX-License-Identifier: Apache-2.0
"""Records without a run: published or given shares of zero, low and full elements over a program's real
shapes.

Interface
    Shares(zero, low, full)                     of elements, adding up to 1
    PUBLISHED                                   mode -> the paper's average shares (its Fig. 5)
    synthetic_step(program, step, shares, k_max, seed, …) -> StepRecord

Rows differ: a row's share of full and of non-zero elements varies by `spread` (relative standard deviation)
around the mean, so that imbalance between lanes is there; the totals are exact sums of the rows. Same
arguments, same record.

What it does not do: values. Nothing here can generate a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from ditto_cosim.device.pricing.cost import Shares
from ditto_cosim.device.timing.traffic import ByDigest
from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import LayerRecord, StepRecord, SubOp, Work, layer_work, split_k

PUBLISHED: Mapping[Mode, Shares] = {
    "original": Shares(0.1836, 0.3936, 0.4228),
    "temporal": Shares(0.4448, 0.5152, 0.0399),
    "spatial": Shares(0.2644, 0.4797, 0.2558),
}
"""Claims C09…C14: zero 44.48 % less 26.12 and 18.04 points; above 4 bit 3.99, 42.28 and 25.58 %."""


def scaled(shares: Shares, factor: float) -> Shares:
    """The same mix of low and full with more or fewer zeros."""
    factor = min(factor, 1 / (shares.low + shares.full))
    return Shares(1 - factor * (shares.low + shares.full), factor * shares.low, factor * shares.full)


def synthetic_step(
    program: Program,
    step: int,
    shares: Mapping[Mode, Shares],
    k_max: int,
    seed: int = 0,
    spread: float = 0.15,
    drift: Callable[[int, Work], float] | None = None,
) -> StepRecord:
    """One step; the first has no temporal works. `drift(step, work)` scales the non-zero share of differences."""
    rng = np.random.default_rng([seed, step])
    records = []
    made: dict[tuple[Work, Mode], SubOp] = {}
    of_layers = _works(ByDigest(program))
    for layer in range(len(program.layers)):
        works: dict[Mode, tuple[SubOp, ...]] = {}
        for mode in ("original", "spatial", "temporal") if step else ("original", "spatial"):
            wanted = of_layers[layer][mode]
            for work in wanted:
                if (work, mode) not in made:
                    factor = drift(step, work) if drift is not None and mode == "temporal" else 1.0
                    made[work, mode] = _subop(work, mode, scaled(shares[mode], factor), k_max, spread, rng)
            works[mode] = tuple(made[work, mode] for work in wanted)
        records.append(LayerRecord(layer, "temporal" if step else "original", False, works))
    return StepRecord(step, tuple(records))


@lru_cache(maxsize=4)
def _works(key: ByDigest) -> tuple[Mapping[Mode, tuple[Work, ...]], ...]:
    """By layer, for all steps."""
    program = key.program
    return tuple({mode: layer_work(program, i, mode) for mode in MODES} for i in range(len(program.layers)))


def _subop(
    work: Work, mode: Mode, shares: Shares, k_max: int, spread: float, rng: np.random.Generator
) -> SubOp:
    splits = split_k(work.k, k_max)
    elements = work.groups * work.rows * work.k
    low, full = round(elements * shares.low), round(elements * shares.full)
    if mode == "original":
        return SubOp(work, splits, None, elements - low - full, low, full)
    lengths = np.array(splits)[:, None]
    factor = rng.standard_normal((1, work.groups * work.rows), np.float32)
    factor *= np.float32(spread)
    factor += 1
    np.clip(factor, 0.1, 3.0, out=factor)
    factor /= factor.mean()
    noisy = lengths * factor * np.float32(shares.low + 2 * shares.full)
    deviation = np.sqrt(lengths * (shares.low * (1 - shares.low) + 4 * shares.full)).astype(np.float32)
    noisy += deviation * rng.standard_normal(noisy.shape, np.float32)
    np.rint(noisy, out=noisy)
    slots = np.clip(noisy, 0, 2 * lengths, out=noisy).astype(np.uint16)
    total = int(slots.sum(dtype=np.int64))
    full = min(full, total // 2)
    low = min(total - 2 * full, elements - full)
    return SubOp(work, splits, slots, elements - low - full, low, full)
