# SPDX-License-Identifier: Apache-2.0
"""Two runs beside each other: whether their values are the same, and where their cycles and energies part.

    found = compare_runs(Path("a"), Path("b"))
    found.same_values, found.agrees(tolerance=0.01), found.to_dict()

Values are the tensors that the pipelines were given, step by step, bit for bit, and the pictures. Cycles are those that the
runs were charged; each layer's difference is laid to the cause that moved most. Two designs, two RTL revisions, two
quantizations: what may differ is up to who asks. What this file does not do: run anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, design_of, price_run
from ditto_cosim.host.generation import psnr_db
from ditto_cosim.host.pipeline import journal
from ditto_cosim.host.report import RunReport, load_report, summary
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.record import RunRecord

SCHEMA, VERSION = "ditto.diff", 1


class DifferenceError(DittoError):
    """Runs that cannot be held against each other; the message says which and why."""


@dataclass(frozen=True)
class LayerDifference:
    """One layer, by name; 0 cycles where a run has no such layer."""

    name: str
    cycles_a: int
    cycles_b: int
    cause: str
    """What moved most of the difference; empty where there is none."""


@dataclass(frozen=True)
class RunDifference:
    """Everything found."""

    same_values: bool
    first_difference: str | None
    pictures_psnr_db: tuple[float | None, ...]
    """Picture by picture; None: equal."""
    cycles_a: int
    cycles_b: int
    energy_a_pj: float
    energy_b_pj: float
    layers: tuple[LayerDifference, ...]

    @property
    def ratio(self) -> float:
        return self.cycles_b / max(self.cycles_a, 1)

    def agrees(self, tolerance: float = 0.0) -> bool:
        """Same values, and cycles within a share of A's: of the whole and of every layer."""
        pairs = [(self.cycles_a, self.cycles_b), *((d.cycles_a, d.cycles_b) for d in self.layers)]
        return self.same_values and all(abs(b - a) <= tolerance * a for a, b in pairs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "same_values": self.same_values,
            "first_difference": self.first_difference,
            "pictures_psnr_db": list(self.pictures_psnr_db),
            "cycles": {"a": self.cycles_a, "b": self.cycles_b, "ratio": self.ratio},
            "energy_pj": {"a": self.energy_a_pj, "b": self.energy_b_pj},
            "layers": [
                {"name": d.name, "cycles_a": d.cycles_a, "cycles_b": d.cycles_b, "cause": d.cause}
                for d in self.layers
            ],
        }


def compare_runs(a: Path, b: Path) -> RunDifference:
    """A held against B."""
    records, reports = (RunRecord(a), RunRecord(b)), (load_report(a), load_report(b))
    values = _first_difference(*records)
    pictures = _pictures(a, b, reports)
    first = values or next((f"picture {i}" for i, db in enumerate(pictures) if db is not None), None)
    energy = [_energy(record) for record in records]
    return RunDifference(
        same_values=first is None,
        first_difference=first,
        pictures_psnr_db=pictures,
        cycles_a=reports[0].total_cycles,
        cycles_b=reports[1].total_cycles,
        energy_a_pj=energy[0],
        energy_b_pj=energy[1],
        layers=_layers(*reports),
    )


def _first_difference(a: RunRecord, b: RunRecord) -> str | None:
    """Where delivered tensors part first, in words."""
    if len(a) != len(b):
        return f"step {min(len(a), len(b))}: {a.directory} has {len(a)} steps, {b.directory} {len(b)}"
    for step in range(len(a)):
        got, other = (journal.read(record.directory, step).outputs for record in (a, b))
        if got.keys() != other.keys():
            return f"step {step}: outputs {', '.join(got)} against {', '.join(other)}"
        for name, array in got.items():
            mine = other[name]
            if array.dtype != mine.dtype or array.shape != mine.shape:
                return f"step {step}, output {name!r}: {array.dtype}{array.shape} against {mine.dtype}{mine.shape}"
            if array.tobytes() != mine.tobytes():
                flat, theirs = (np.ascontiguousarray(v).reshape(-1) for v in (array, mine))
                size = array.dtype.itemsize
                raw, raw_b = (v.view(np.uint8).reshape(-1, size) for v in (flat, theirs))
                at = int(np.argmax((raw != raw_b).any(axis=1)))
                index = [int(i) for i in np.unravel_index(at, array.shape)]
                return f"step {step}, output {name!r} at {index}: {flat[at]} against {theirs[at]}"
    return None


def _pictures(a: Path, b: Path, reports: tuple[RunReport, RunReport]) -> tuple[float | None, ...]:
    found: list[float | None] = []
    for mine, theirs in zip(reports[0].images, reports[1].images, strict=False):
        pair = [Image.open(folder / name) for folder, name in ((a, mine), (b, theirs))]
        if pair[0].size != pair[1].size:
            raise DifferenceError(
                f"{a / mine} is {pair[0].size}, {b / theirs} {pair[1].size}: pictures of one size can be compared"
            )
        db = psnr_db(*pair)
        found.append(None if math.isinf(db) else round(db, 3))
    return tuple(found)


def _energy(record: RunRecord) -> float:
    columns = RecordColumns.load(record)
    return price_run(columns, chip_of(columns.info), design_of(columns.info)).total_energy_pj


def _layers(a: RunReport, b: RunReport) -> tuple[LayerDifference, ...]:
    """By name, in A's order and then what only B has."""
    sides = []
    for report in (a, b):
        causes = {name: array.sum(0) for name, array in summary.causes(report).items()}
        by_name = {
            name: (int(report.cycles[:, i].sum()), {c: int(v[i]) for c, v in causes.items()})
            for i, name in enumerate(report.names)
        }
        sides.append(by_name)
    found = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        (cycles_a, causes_a), (cycles_b, causes_b) = (side.get(name, (0, {})) for side in sides)
        moved = {c: causes_b.get(c, 0) - causes_a.get(c, 0) for c in causes_a | causes_b}
        sign = 1 if cycles_b > cycles_a else -1
        cause = max(moved, key=lambda c: sign * moved[c], default="") if cycles_a != cycles_b else ""
        found.append(LayerDifference(name, cycles_a, cycles_b, cause))
    return tuple(found)
