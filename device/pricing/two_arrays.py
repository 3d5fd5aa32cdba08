# SPDX-License-Identifier: Apache-2.0
"""A recorded run's 4-bit layers on any two arrays: cycles of the arrays alone, a barrier after each layer, priced in no time.

    arrays = RecordedArrays(columns)
    arrays.speedup(threshold=0.4, dense_share=1 / 3)      over one dense array with all the multipliers
    theta(arrays)                                         threshold × split
    arrays.busy_by_step()                                 shares of the time between barriers

What this file does not do: memory and vector unit (`recorded.py` prices whole steps), judge (`study/sq_dm.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design, load_design
from ditto_cosim.device.pricing.cost import Stack, stack
from ditto_cosim.device.pricing.datapath import Hetero
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SPLITS = (0.5, 1 / 3, 0.25)
"""The dense array's share of the multipliers."""

Bools = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]


class RecordedArrays:
    """The 4-bit layers of a record in memory; `layers` is empty if it has none."""

    def __init__(
        self, columns: RecordColumns, chip: Chip | None = None, design: Design | None = None
    ) -> None:
        self.columns = columns
        self.chip = chip or chip_of(columns.info)
        self.design = design or load_design("sq_dm")
        pricer = Pricer(columns.program, self.chip, self.design)
        self.layers: dict[str, Stack] = {}
        for at, group in enumerate(pricer.layers):
            works = columns.met[at]["original"].works
            if works[0][0].channels is not None:
                (self.layers[group.name],) = pricer.placed(group, stack(works))

    def datapath(self, **changed: Any) -> Hetero:
        """Of SQ-DM with some of its parameters changed."""
        assert self.design.hetero is not None
        design = replace(self.design, hetero=replace(self.design.hetero, **changed))
        return Hetero(design, self.chip)

    def cycles(self, **changed: Any) -> int:
        """Of the arrays, over all 4-bit layers and steps."""
        path = self.datapath(**changed)
        return int(sum(path.arrays(met).total.sum() for met in self.layers.values()))

    def speedup(self, **changed: Any) -> float:
        """Over one dense array with all the multipliers."""
        return self.cycles(arrays="dense") / self.cycles(**changed)

    def utilisation(self, **changed: Any) -> tuple[float, float]:
        """Of the dense and of the sparse array: busy of all cycles between barriers."""
        path = self.datapath(**changed)
        done = [path.arrays(met) for met in self.layers.values()]
        total = sum(int(a.total.sum()) for a in done)
        busy = (sum(int(a.dense_cycles.sum()) for a in done), sum(int(a.sparse_cycles.sum()) for a in done))
        return busy[0] / total, busy[1] / total

    def tags(self, **changed: Any) -> dict[str, Bools]:
        """Layer -> sparse [steps, channels]."""
        path = self.datapath(**changed)
        return {name: path.tags(met) for name, met in self.layers.items()}

    def busy_by_step(self, **changed: Any) -> tuple[F64, F64]:
        """Of the dense and of the sparse array, step by step: busy of all cycles between barriers."""
        path = self.datapath(**changed)
        done = [path.arrays(met) for met in self.layers.values()]
        total = np.sum([a.total for a in done], axis=0)
        dense, sparse = (
            np.sum([getattr(a, name) for a in done], axis=0) for name in ("dense_cycles", "sparse_cycles")
        )
        return dense / total, sparse / total


def theta(arrays: RecordedArrays) -> list[dict[str, float]]:
    """The sweep of threshold and split."""
    return [
        {
            "dense_share": round(split, 4),
            "threshold": at,
            "speedup": round(arrays.speedup(dense_share=split, threshold=at), 4),
            "dense_channels": round(1 - mean_tag(arrays.tags(threshold=at)), 4),
        }
        for split in SPLITS
        for at in THRESHOLDS
    ]


def mean_tag(tags: Mapping[str, Bools]) -> float:
    return float(np.concatenate([t.ravel() for t in tags.values()]).mean())
