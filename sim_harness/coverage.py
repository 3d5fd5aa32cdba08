# SPDX-License-Identifier: Apache-2.0
"""Line and toggle coverage of the RTL under the regression's cases.

Small geometries are built with Verilator's counters, run, and their counts merged by source line (lines)
and by signal bit (toggles): a point counts as covered if any geometry covers it. Points no pass of bearable
length can reach are excused by name, with the reason (`EXCUSED`). What it does not do: functional coverage
(`functional.py`).
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.protocol.hardware import Geometry

from .build import BuildOptions
from .cases import directed_cases
from .regression import SETS, Bench, Reference, Report, random_cases, run_cases

SETS.setdefault("tall", Geometry(lanes=1, columns=2, encode_width=8, k_max=1024, n_max=4))
COVERAGE_SETS = ("tiny", "mag4_banks", "wide", "tall")

_HIGH = r"\[(1[1-9]|[23][0-9])\]$"
EXCUSED: tuple[tuple[str, str], ...] = (
    (r"(busy|starved|stalled|cycle|done)\w*(\[\d\])?" + _HIGH, "a pass of more than 2,048 cycles a lane"),
    (r"row\w*(\[\d\])?\[([7-9]|1[0-9]|2[0-3])\]$", "a pass of more than 128 rows"),
    (r"block\w*(\[\d\])?\[([1-9]|1[01])\]$", "more column blocks than a small tile has"),
    (r"^(zero|low|full)\w*(\[\d\])?\[([7-9]|10)\]$", "more than 128 elements of one class in one lane"),
    (r"^(weight_k_i|k_base_q)\[10\]$", "k never reaches 1,024, which only counts do"),
    (r"^(k_base_q|beat_k_q)\[[01]\]$", "multiples of E"),
    (r"^(sign|slots)_q\[\d+\]\[[1-7]\]$", "bytes for the simulator's sake; values are 0…2"),
    (r"\[[13]\]\.hi$", "no shifter, no high nibble at odd positions: the contract"),
    (r"^window_q\[(15|31|63)\]\[\d+\]$", "the entry past what a beat can add"),
    (r"^fill_q\[\d+\]$", "its highest bit is taken back in the same cycle"),
)
"""Signals, by regular expression, whose toggles are not asked for, and why."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Covered and all points of one kind, and the names of those that are not."""

    covered: int
    total: int
    excused: int
    missed: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.covered / self.total if self.total else 1.0


def parse(path: Path) -> dict[tuple[str, str, str], int]:
    """Counts of a coverage file by (kind, file and line, name)."""
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for line in path.read_text().splitlines():
        if not line.startswith("C '"):
            continue
        keys, _, count = line[3:].rpartition("' ")
        fields = dict(part.split("\x02", 1) for part in keys.split("\x01") if "\x02" in part)
        kind = fields["page"].partition("/")[0].removeprefix("v_")
        where = f"{Path(fields['f']).name}:{fields['l']}"
        name = fields.get("o", "") if kind == "toggle" else fields.get("o", "") + fields.get("S", "")
        counts[(kind, where, name)] += int(count)
    return counts


def measure(
    model: Reference, seconds: float, seed: int = 0, own_dir: Path | None = None
) -> tuple[Coverage, Coverage, Report]:
    """(lines, toggles, what ran): directed cases, then random ones until the time is up."""
    merged: dict[tuple[str, str, str], int] = defaultdict(int)
    report = Report(seed, geometries=COVERAGE_SETS)
    options = BuildOptions(coverage=True, optimize=False, rtl_dir=own_dir)
    benches = {name: Bench(name, options) for name in COVERAGE_SETS}
    for bench in benches.values():
        bench.tile.reset()
    deadline = time.monotonic() + seconds
    cases = [case for name in COVERAGE_SETS for case in directed_cases(name, SETS[name], checked=True)]
    mismatch = run_cases(cases, model, report, benches, float("inf"))
    report.complete = mismatch is None
    mismatch = mismatch or run_cases(random_cases(COVERAGE_SETS, seed), model, report, benches, deadline)
    if mismatch is not None:
        report.mismatches.append(mismatch)
    with tempfile.TemporaryDirectory() as folder:
        for name, bench in benches.items():
            path = Path(folder) / f"{name}.dat"
            bench.tile.write_coverage(path)
            for key, count in parse(path).items():
                merged[key] += count
    lines = {key: n for key, n in merged.items() if key[0] in ("line", "branch")}
    toggles = {key: n for key, n in merged.items() if key[0] == "toggle"}
    return _summary(lines), _summary(toggles), report


def _excused(name: str) -> bool:
    signal = name.rpartition(":")[0] if "->" in name else name
    return any(re.search(pattern, signal) for pattern, _ in EXCUSED)


def _summary(points: dict[tuple[str, str, str], int]) -> Coverage:
    empty = {key for key, count in points.items() if not count}
    missed = sorted(
        f"{where} {name}" for kind, where, name in empty if kind != "toggle" or not _excused(name)
    )
    asked = len(points) - (len(empty) - len(missed))
    return Coverage(asked - len(missed), asked, len(points) - asked, tuple(missed))
