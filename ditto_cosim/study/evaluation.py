# SPDX-License-Identifier: Apache-2.0
"""The paper's evaluation: seven workloads under every design of its figures, for one timing preset.

Interface: `evaluate(preset, only=None) -> Evaluation`; `evaluate_all(jobs=0)`, every preset; `naive_traffic()`; `bops(shares)`.

Assumptions, the same for every claim:
    shapes        the seven denoisers at published sizes, batch 1, one evaluation a step
    shares        the paper's average shares (Fig. 5) in every layer, step and model: it publishes no others
    steps         Table I; the first has no differences, every later one is alike (three are priced, the third counts for
                  all that follow)
    chips         preset `paper`: chip `paper`; preset `tlm`: chip `paper_twin`
    means         arithmetic over the seven models, as the paper's "on average"
    drift (C43)   the non-zero share of every kind of work follows a sine over the steps with its own phase; the amplitude is
                  the one that costs Defo about the seven points of accuracy that the paper reports

What this file does not do: compare with published numbers (`claims.py`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np

from ditto_cosim import workers
from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.cost import Shares
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.device.timing import traffic
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.record import RunInfo, Work
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import WORKLOADS, workload_program

Preset = Literal["paper", "tlm"]
PRESETS: tuple[Preset, ...] = ("paper", "tlm")
CHIP_OF: Mapping[Preset, str] = {"paper": "paper", "tlm": "paper_twin"}

DESIGNS = (
    "itc",
    "diffy",
    "cambricon_d",
    "cambricon_d_original",
    "cambricon_d_ditto",
    "ds",
    "db",
    "db_ds",
    "db_ds_attn",
    "ditto",
    "ditto_plus",
    "ditto_sign_mask",
    "ditto_plus_sign_mask",
    "ideal_ditto",
    "ideal_ditto_plus",
    "gpu",
)

LONGEST = ("sdm", "latte", "dit", "img")
"""Workloads whose pricing takes longest: begun first, so that no process ends alone."""

DRIFT_AMPLITUDE = 0.9
DRIFT_SAMPLES = 6
DRIFTING = ("ditto", "dynamic_ditto", "ideal_ditto")


@dataclass(frozen=True)
class Evaluation:
    """Runs by workload and design."""

    preset: Preset
    runs: Mapping[str, Mapping[str, RunTime]]
    drifting: Mapping[str, Mapping[str, RunTime]]
    shares: Mapping[Mode, Shares]
    """Of elements, as fed in or as measured."""
    naive: tuple[float, ...] = ()
    """Temporal traffic without the dependency check over original traffic, by workload."""

    def null(self) -> Evaluation:
        """A world in which no design differs from ITC, nor differences from activations."""
        runs = {w: dict.fromkeys(found, found["itc"]) for w, found in self.runs.items()}
        drifting = {w: dict.fromkeys(found, found["ideal_ditto"]) for w, found in self.drifting.items()}
        shares = dict.fromkeys(self.shares, self.shares["original"])
        return Evaluation(self.preset, runs, drifting, shares, (1.0,) * len(self.naive))

    def speedup(self, design: str, over: str = "itc") -> list[float]:
        return [r[over].total_cycles / r[design].total_cycles for r in self.runs.values()]

    def energy(self, design: str, over: str = "itc") -> list[float]:
        return [r[design].total_energy_pj / r[over].total_energy_pj for r in self.runs.values()]

    def traffic(self, design: str, over: str = "itc") -> list[float]:
        return [r[design].total_bytes / r[over].total_bytes for r in self.runs.values()]

    def dram_stall(self, design: str, over: str = "itc") -> list[float]:
        """DRAM stall cycles in units of another design's whole time."""
        return [r[design].stall_totals()["dram"] / r[over].total_cycles for r in self.runs.values()]

    def busy(self, design: str, over: str = "itc") -> list[float]:
        """Cycles of computing, in units of another design's whole time."""
        return [r[design].unit_totals()["compute"] / r[over].total_cycles for r in self.runs.values()]

    def back(self, design: str) -> list[float]:
        """Share of layers that Defo returned to the base mode."""
        return [
            sum(not d["temporal"] for d in r[design].decisions) / max(1, len(r[design].decisions))
            for r in self.runs.values()
        ]

    def accuracy(self, design: str) -> list[float]:
        return [r[design].accuracy or 0.0 for r in self.runs.values()]

    def energy_share(self, design: str, unit: str) -> list[float]:
        return [r[design].energy_totals()[unit] / r[design].total_energy_pj for r in self.runs.values()]

    def stall_share(self, design: str, cause: str) -> list[float]:
        return [r[design].stall_totals()[cause] / r[design].total_cycles for r in self.runs.values()]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def evaluate(preset: Preset, only: Sequence[str] | None = None) -> Evaluation:
    """Prices every workload under every design of the figures."""
    runs, drifting = {}, {}
    for name in only or WORKLOADS:
        runs[name] = price_steady(name, [load_chip(CHIP_OF[preset])])[0]
        drifting[name] = _drifting(name, preset)
    return Evaluation(preset, runs, drifting, PUBLISHED, naive_traffic())


def evaluate_all(jobs: int = 0) -> dict[Preset, Evaluation]:
    """Every preset, a workload a job: presets share its record."""
    asked = (*LONGEST, *(w for w in WORKLOADS if w not in LONGEST))
    found = {asked[at]: priced for at, priced in workers.each(_every_preset, None, asked, jobs=jobs)}
    return {
        preset: Evaluation(
            preset,
            {w: found[w].steady[preset] for w in WORKLOADS},
            {w: found[w].drifting[preset] for w in WORKLOADS},
            PUBLISHED,
            tuple(found[w].naive for w in WORKLOADS),
        )
        for preset in PRESETS
    }


@dataclass(frozen=True)
class _OfWorkload:
    """Its part of every preset's evaluation."""

    steady: Mapping[Preset, Mapping[str, RunTime]]
    drifting: Mapping[Preset, Mapping[str, RunTime]]
    naive: float


def _every_preset(_: None, name: str) -> _OfWorkload:
    return _OfWorkload(
        {preset: price_steady(name, [load_chip(CHIP_OF[preset])])[0] for preset in PRESETS},
        {preset: _drifting(name, preset) for preset in PRESETS},
        _naive_ratio(name),
    )


def evaluate_on(chip: Chip, preset: Preset, only: Sequence[str] | None = None) -> Evaluation:
    """Another chip in the place of a preset's, without the drifting benchmark."""
    runs = {name: price_steady(name, [chip])[0] for name in only or WORKLOADS}
    return Evaluation(preset, runs, {}, PUBLISHED, naive_traffic())


def evaluate_record(columns: RecordColumns) -> Evaluation:
    """A recorded run in the place of the seven workloads, under the `paper` preset; nothing in it is published."""
    chip = load_chip(CHIP_OF["paper"])
    runs = {columns.info.model: {design: price_run(columns, chip, load_design(design)) for design in DESIGNS}}
    return Evaluation("paper", runs, {}, columns.shares())


def price_steady(
    name: str, chips: Sequence[Chip], designs: Sequence[str] = DESIGNS
) -> list[dict[str, RunTime]]:
    """One workload on chips of one `k_max`: two first steps, and one that stands for the rest."""
    columns = _columns(name, chips[0].geometry.k_max, 3, False)
    weights = np.array([1, 1, WORKLOADS[name].steps - 2], np.int64)
    return [
        {design: price_run(columns, chip, load_design(design), weights) for design in designs}
        for chip in chips
    ]


def _drifting(name: str, preset: Preset) -> dict[str, RunTime]:
    chip = load_chip(CHIP_OF[preset])
    columns = _columns(name, chip.geometry.k_max, 1 + DRIFT_SAMPLES, True)
    return {design: price_run(columns, chip, load_design(design)) for design in DRIFTING}


@lru_cache(maxsize=2)
def _columns(name: str, k_max: int, steps: int, drifting: bool) -> RecordColumns:
    """A preset asks for the last workload's, which the one before it has made."""
    program = workload_program(name)
    drift = _drift if drifting else None
    made = [synthetic_step(program, s, PUBLISHED, k_max, drift=drift) for s in range(steps)]
    info = RunInfo(program.to_dict(), name, "", "", "", "synthetic", "twos4", steps, 0, k_max)
    return RecordColumns(program, info, made)


def _drift(step: int, work: Work) -> float:
    phase = zlib.crc32(repr(work).encode()) / 2**32
    return 1 + DRIFT_AMPLITUDE * math.sin(2 * math.pi * (step / DRIFT_SAMPLES + phase))


def bops(shares: Shares) -> float:
    """Bit operations an element costs, in units of one 8-bit by 8-bit product."""
    return 0.5 * shares.low + shares.full


def naive_traffic() -> tuple[float, ...]:
    """Bytes of temporal processing without the dependency check, over original processing; by workload."""
    return tuple(map(_naive_ratio, WORKLOADS))


@cache
def _naive_ratio(name: str) -> float:
    base = naive = 0
    for group in traffic.groups(workload_program(name), "operands", False, False):
        base += sum(sum(part.values()) for part in traffic.mode_bytes(group, "original", False))
        naive += sum(sum(part.values()) for part in traffic.mode_bytes(group, "temporal", True))
    return naive / base
