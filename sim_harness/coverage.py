# SPDX-License-Identifier: Apache-2.0
"""Line and toggle coverage of the RTL under the regressions' cases: Ditto's tile, and SQ-DM's arrays and detector.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.protocol.hardware import ArrayGeometry, Geometry

from .array_cases import ArrayCase, directed_array_cases
from .array_regression import (
    ARRAY_SETS,
    ARRAYS_CHECKED,
    ArrayBench,
    ArrayMismatch,
    ArrayReference,
    ArrayReport,
    random_array_cases,
    run_array_cases,
)
from .build import BuildOptions
from .cases import directed_cases
from .detector import DetectorBench
from .regression import SETS, Bench, Reference, Report, random_cases, run_cases

SETS.setdefault("tall", Geometry(lanes=1, columns=2, encode_width=8, k_max=1024, n_max=4))
COVERAGE_SETS = ("tiny", "mag4_banks", "wide", "tall", "ecp5")

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
"""Signals of Ditto's tile, by regular expression, whose toggles are not asked for, and why."""
ARRAYS_EXCUSED: tuple[tuple[str, str], ...] = (
    EXCUSED[0],
    (r"row\w*\[([7-9]|1[0-9]|2[0-3])\]$", "a pass of more than 128 rows"),
    (r"block\w*\[([2-9]|1[01])\]$", "more column blocks than a small array has"),
    (r"segment\w*\[6\]$", "64 segments at most, of 16 codes"),
    (r"^(place_q|beat_k_\w)\[[01]\]$", "multiples of a beat"),
    (r"\[[0-2]\]\.hi$", "a 4-bit code has no high nibble; the bit is the mark of a word's last slot"),
    (r"^low_q\[\d+\]\[0\]$", "the mark, which is set in the window"),
    (r"^(row_slots\w*|slots_q\[[01]\]|low_o)\[[01]\]$", "words of four, null slots among them"),
    (r"^slots_q\[\d+\]\[[1-7]\]$", "bytes for the simulator's sake; values are 0 and 1"),
    (r"^k_i\[\d+\]$", "tied to 0: the slot buffer's count of zeros is Ditto's"),
    (r"slots\w*(\[[01]\])?\[11\]$", "a row of 1,024 codes has 1,024 slots at most"),
    (r"^groups_q\[7\]$", "the last group of a full row leaves with its end, uncounted"),
    (r"^window_q\[1[2-5]\]\[\d+\]$", "entries past what a beat of 4 can add; wider windows are not counted"),
    (r"^window_q\[(\d|1[01])\]\[0\]$", "the mark, which only a word's last slot has"),
)
"""The same of SQ-DM's."""
ARRAYS_TALL = {
    "sparse_tall": ArrayGeometry("sparse", columns=2, beat=4, block_size=16, k_max=1024, n_max=4),
    "dense_tall": ArrayGeometry("dense", columns=2, beat=4, block_size=16, k_max=1024, n_max=4),
}
ARRAY_SETS.update(ARRAYS_TALL)
"""K = 1,024: the high bits of k. A beat of 4 has a window of 256 bits, the widest signal whose toggles Verilator counts."""
_MANY_ROWS = (31, 32, 64, 127, 1)

Counts = dict[tuple[str, str, str], int]


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


def parse(path: Path) -> Counts:
    """Counts of a coverage file by (kind, file and line, name)."""
    counts: Counts = defaultdict(int)
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
    counted = _merged(bench.tile.write_coverage for bench in benches.values())
    return *_lines_and_toggles(counted, EXCUSED), report


def measure_arrays(
    model: ArrayReference, seconds: float, seed: int = 0, own_dir: Path | None = None
) -> tuple[Coverage, Coverage, ArrayReport]:
    """(lines, toggles, what ran) of SQ-DM's arrays and detector."""
    report = ArrayReport(seed)
    options = BuildOptions(coverage=True, optimize=False, rtl_dir=own_dir)
    sets = (*ARRAYS_CHECKED, *ARRAYS_TALL)
    benches = {name: ArrayBench(name, options, state_seed=seed) for name in sets}
    detector = DetectorBench(own_dir, coverage=True)
    deadline = time.monotonic() + seconds
    cases = [c for name in sets for c in directed_array_cases(name, ARRAY_SETS[name], checked=True)]
    cases += [ArrayCase(name, m, 1, 1) for name in sets for m in _MANY_ROWS]
    report.directed = len(cases)
    mismatch = run_array_cases(cases, model, report, benches, float("inf"))
    if mismatch is None:
        said, report.channels = detector.check(model.detector, seed, layers=500)
        mismatch = ArrayMismatch(None, None, said) if said else None
    report.complete = mismatch is None
    mismatch = mismatch or run_array_cases(random_array_cases(sets, seed), model, report, benches, deadline)
    if mismatch is not None:
        report.mismatches.append(mismatch)
    tiles = (bench.tile.write_coverage for bench in benches.values())
    return *_lines_and_toggles(_merged([*tiles, detector.block.write_coverage]), ARRAYS_EXCUSED), report


def _merged(writers: Iterable[Callable[[Path], None]]) -> Counts:
    """The sums over all designs, each of which writes its own."""
    merged: Counts = defaultdict(int)
    with tempfile.TemporaryDirectory() as folder:
        for i, write in enumerate(writers):
            path = Path(folder) / f"{i}.dat"
            write(path)
            for key, count in parse(path).items():
                merged[key] += count
    return merged


def _lines_and_toggles(counts: Counts, excuses: tuple[tuple[str, str], ...]) -> tuple[Coverage, Coverage]:
    lines = {key: n for key, n in counts.items() if key[0] in ("line", "branch")}
    toggles = {key: n for key, n in counts.items() if key[0] == "toggle"}
    return _summary(lines, excuses), _summary(toggles, excuses)


def _excused(name: str, excuses: tuple[tuple[str, str], ...]) -> bool:
    signal = name.rpartition(":")[0] if "->" in name else name
    return any(re.search(pattern, signal) for pattern, _ in excuses)


def _summary(points: Counts, excuses: tuple[tuple[str, str], ...]) -> Coverage:
    empty = {key for key, count in points.items() if not count}
    missed = sorted(
        f"{where} {name}" for kind, where, name in empty if kind != "toggle" or not _excused(name, excuses)
    )
    asked = len(points) - (len(empty) - len(missed))
    return Coverage(asked - len(missed), asked, len(points) - asked, tuple(missed))
