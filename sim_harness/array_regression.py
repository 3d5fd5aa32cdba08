# SPDX-License-Identifier: Apache-2.0
"""The regression of SQ-DM's RTL: passes through Verilated arrays against a reference, row by row and cycle by cycle, and the
sparsity detector against a recount.

The reference is an argument (`ArrayReference`): the harness knows nothing of the device. Directed corners run first, then
random cases until the time is up; a mismatch is shrunk and says the command that runs it again. `ARRAY_POINTS` is what has
to have been seen. What this file does not do: invent cases (`array_cases.py`), mutate (`mutation.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import ArrayGeometry

from .array import ArrayRun, ArrayTile, Layout
from .array_cases import ArrayCase, ArrayOperands, directed_array_cases, random_array_case
from .build import BuildOptions
from .detector import DETECTOR_SET, DetectorBench, DetectorReference
from .errors import TileAssertionError, TileFaultError, TileInputError, TileStuckError
from .tile import PortTrace, trace_format

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]

ARRAY_SETS: dict[str, ArrayGeometry] = {
    "sparse_small": ArrayGeometry("sparse", columns=4, beat=4, block_size=16, k_max=64, n_max=12),
    "sparse_wide": ArrayGeometry("sparse", columns=8, beat=16, block_size=32, k_max=128, n_max=16),
    "dense_small": ArrayGeometry("dense", columns=4, beat=4, block_size=16, k_max=64, n_max=12),
    "dense_wide": ArrayGeometry("dense", columns=8, beat=16, block_size=64, k_max=128, n_max=16),
    "sparse_lane": ArrayGeometry("sparse", beat=8),
    "dense_lane": ArrayGeometry("dense"),
}
"""Arrays the regression builds; the first four are small and run with the RTL's assertions."""
ARRAYS_CHECKED = ("sparse_small", "sparse_wide", "dense_small", "dense_wide")
ARRAY_NAMES = (*ARRAY_SETS, DETECTOR_SET)
"""What `--set` may name beside the tile's sets."""

ARRAY_POINTS: tuple[str, ...] = (
    *(f"{kind}: {point}" for kind in ("sparse", "dense") for point in (
        "codes 0…15", "codes −7…7", "code 15", "code −7", "one segment", "all segments", "segment of one element",
        "full segment", "block without a segment", "last beat partly used", "one column block", "all column blocks",
        "last column block partly used", "N = 1", "M = 1", "largest scales", "smallest scales", "scale 0",
        "sum below zero", "sum beyond 32 bits", "stalled by a result", "result waited without a stall",
        "operand withheld", "operand waited", "results back to back",
    )),
    *(f"sparse: {point}" for point in (
        "row without codes", "row with every code", "segment without codes in a row that has some",
        *(f"codes of a segment mod 4 = {r}" for r in range(4)), "encoder slower than the PEs",
        "PEs slower than the encoder", "starved after the first row", "row without codes after one with some",
    )),
)  # fmt: skip
"""Judged from operands and recorded ports, not from the RTL's insides."""


class ArrayReference(Protocol):
    """What the arrays are held to."""

    def accumulators(self, codes: Array, scales: Array, weights: Array, weight_scales: Array) -> I64:
        """[M, K] codes, none where the array does not look, in blocks of [M, blocks] E4M3 scale codes."""

    def times(
        self, geometry: ArrayGeometry, counts: Array, nonzero: Array, n: int, ports: PortTrace | None
    ) -> Any:
        """enc_done, done, busy, starved, stalled, cycles of rows with so many codes other than 0 in each segment, [M,
        segments], of so many elements, [segments]."""

    def load_cycles(self, counts: Array, n: int, geometry: ArrayGeometry) -> int: ...

    @property
    def detector(self) -> DetectorReference: ...


@dataclass(frozen=True, slots=True)
class ArrayMismatch:
    """Where RTL and reference part."""

    case: ArrayCase | None
    """None: the detector, which `what` tells all about."""
    after: ArrayCase | None
    what: str
    row: int | None = None
    element: int | None = None
    expected: int | None = None
    got: int | None = None
    detail: str = ""

    @property
    def command(self) -> str:
        """Runs it again."""
        if self.case is None:
            return f"ditto rtl test --set {DETECTOR_SET}"
        after = f" --after '{self.after.text}'" if self.after else ""
        return f"ditto rtl test --case '{self.case.text}'{after}"

    def __str__(self) -> str:
        text = f"{self.what} differ"
        if self.case is not None:
            text += f" in {self.case.array}, M = {self.case.m}, {self.case.blocks} blocks, N = {self.case.n}"
        if self.row is not None:
            text += f": row {self.row}" + (f", column {self.element}" if self.element is not None else "")
            text += f": expected {self.expected}, got {self.got}"
        return text + (f"\n{self.detail}" if self.detail else "")


@dataclass
class ArrayReport:
    """What a regression did."""

    seed: int
    cases: int = 0
    rows: int = 0
    stalled_rows: int = 0
    cycles: int = 0
    channels: int = 0
    """That the detector tagged."""
    directed: int = 0
    done: int = 0
    complete: bool = False
    seconds: float = 0.0
    mismatches: list[ArrayMismatch] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)

    @property
    def missed(self) -> list[str]:
        return [point for point in ARRAY_POINTS if not self.hits[point]]

    @property
    def share(self) -> float:
        return 1 - len(self.missed) / len(ARRAY_POINTS)


class ArrayBench:
    """One array under test."""

    def __init__(
        self,
        name: str,
        options: BuildOptions,
        trace: Path | None = None,
        state_seed: int = 0,
        mutant: int = 0,
        watchdog_idle_cycles: int = 20_000,
    ) -> None:
        if name not in ARRAY_SETS:
            raise TileInputError(f"case: array = {name!r} is none of {', '.join(ARRAY_SETS)}")
        self.name, self.geometry, self.options = name, ARRAY_SETS[name], options
        self.tile = ArrayTile(
            self.geometry, options=options, trace=trace, state_seed=state_seed, mutant=mutant,
            watchdog_idle_cycles=watchdog_idle_cycles,
        )  # fmt: skip

    def run(
        self, case: ArrayCase, model: ArrayReference, report: ArrayReport | None = None
    ) -> ArrayMismatch | None:
        """Runs a case and compares everything it gives; None if it is right."""
        try:
            return self._run(case, case.operands(self.geometry), model, report)
        except TileAssertionError as error:
            return ArrayMismatch(case, None, "assertion", detail=str(error).splitlines()[0])
        except TileFaultError as error:
            return ArrayMismatch(case, None, "protocol", detail=str(error).splitlines()[0])
        except TileStuckError as error:
            return ArrayMismatch(case, None, "stuck", detail=str(error))

    def _run(
        self, case: ArrayCase, given: ArrayOperands, model: ArrayReference, report: ArrayReport | None
    ) -> ArrayMismatch | None:
        if case.reset < 0 and not self.options.coverage:  # counters would go with the model
            self.tile.power_up(case.seed)
        if self.options.checked:
            self.tile.attack(2 * case.seed + 1 if case.attack else 0)
        elif case.attack or case.reset:
            raise TileInputError(f"case: attack and reset need a checked build, {self.name} is not one")
        layout, n = given.layout, given.weights.shape[1]
        loaded = self.tile.load(layout, given.weights, given.weight_scales)
        expected = model.load_cycles(layout.counts, n, self.geometry)
        if loaded != expected:
            return ArrayMismatch(case, None, "load cycles", expected=expected, got=loaded)
        if case.reset > 0:
            self.tile.run_cut(given.codes, given.scales, case.reset, given.stalls)
        run = self.tile.run(given.codes, given.scales, stalls=given.stalls, record=given.stalls is not None)
        masked = np.where(layout.wanted, given.codes.astype(np.int64), 0)
        nonzero = _by_segment(masked != 0, layout)
        if report is not None:
            report.cases += 1
            report.rows += len(run.done)
            report.stalled_rows += len(run.done) if given.stalls is not None else 0
            report.cycles += run.cycles
            _observe(report.hits, self.geometry, given, masked, nonzero, run)
        return self._compare(case, given, masked, nonzero, run, model)

    def _compare(
        self,
        case: ArrayCase,
        given: ArrayOperands,
        masked: I64,
        nonzero: I64,
        run: ArrayRun,
        model: ArrayReference,
    ) -> ArrayMismatch | None:
        layout, n = given.layout, given.weights.shape[1]
        try:
            times = model.times(self.geometry, layout.counts, nonzero, n, run.ports)
        except ValueError as error:  # the pass ended before the reference's
            return ArrayMismatch(case, None, "cycles", got=run.cycles, detail=str(error))
        counted = nonzero.sum(1) if self.geometry.kind == "sparse" else np.zeros(len(masked), np.int64)
        right = model.accumulators(masked, given.scales, given.weights, given.weight_scales)
        pairs: list[tuple[str, Array, Array]] = [
            ("accumulators", right, run.accumulators),
            ("nonzero", counted, run.nonzero),
            ("met", (masked != 0).sum(0), run.met),
            ("enc_done", times.enc_done, run.enc_done),
            ("done", times.done, run.done),
            *((what, np.array([getattr(times, what)]), np.array([getattr(run, what)]))
              for what in ("busy", "starved", "stalled", "cycles")),
        ]  # fmt: skip
        for what, expected, got in pairs:
            if not np.array_equal(expected, got):
                at = tuple(int(i) for i in np.argwhere(np.asarray(expected) != np.asarray(got))[0])
                element = at[1] if len(at) > 1 else None
                return ArrayMismatch(case, None, what, at[0], element, int(expected[at]), int(got[at]))
        return None


def _by_segment(nonzero: npt.NDArray[np.bool_], layout: Layout) -> I64:
    counted: I64 = nonzero.reshape(len(nonzero), -1, layout.block_size).sum(2)
    return counted[:, layout.blocks]


def _observe(
    hits: Counter[str],
    geometry: ArrayGeometry,
    given: ArrayOperands,
    masked: I64,
    nonzero: I64,
    run: ArrayRun,
) -> None:
    """Takes one pass into the table."""
    kind, layout, n = geometry.kind, given.layout, given.weights.shape[1]
    m, blocks = len(masked), -(-n // geometry.columns)
    counts, slots = layout.counts, nonzero.sum(1)
    beats = -(-counts // geometry.beat)
    used = np.concatenate(
        [given.scales[:, layout.blocks].ravel(), given.weight_scales[layout.blocks].ravel()]
    )
    found = {
        "codes 0…15": given.codes.dtype == np.uint8,
        "codes −7…7": given.codes.dtype == np.int8,
        "code 15": masked.max() == 15,
        "code −7": masked.min() == -7,
        "one segment": layout.segments == 1,
        "all segments": layout.segments == geometry.segments_max,
        "segment of one element": (counts == 1).any(),
        "full segment": (counts == geometry.block_size).any(),
        "block without a segment": layout.segments < layout.elements // layout.block_size,
        "last beat partly used": (counts % geometry.beat != 0).any(),
        "one column block": blocks == 1,
        "all column blocks": n == geometry.n_max,
        "last column block partly used": n % geometry.columns != 0,
        "N = 1": n == 1,
        "M = 1": m == 1,
        "largest scales": (used == 126).any(),
        "smallest scales": (used == 1).any(),
        "scale 0": (used == 0).any(),
        "sum below zero": (run.accumulators < 0).any(),
        "sum beyond 32 bits": (np.abs(run.accumulators) > 1 << 32).any(),
        "stalled by a result": run.stalled > 0,
        "results back to back": blocks > 1 and beats.sum() == 1,
    }
    if run.ports is not None:
        valid, ready = run.ports.operand_valid[0] == 1, run.ports.operand_ready[0] == 1
        offered, accepted = run.ports.result_valid[0] == 1, run.ports.result_ready[0] == 1
        found |= {
            "operand withheld": (ready & ~valid).any(),
            "operand waited": (valid & ~ready).any(),
            "result waited without a stall": (offered & ~accepted).any() and not run.stalled,
        }
    if kind == "sparse":
        work = np.maximum(1, -(-nonzero // 4).sum(1)) * blocks
        found |= {
            "row without codes": (slots == 0).any(),
            "row with every code": (slots == counts.sum()).any(),
            "segment without codes in a row that has some": ((nonzero == 0) & (slots[:, None] > 0)).any(),
            **{
                f"codes of a segment mod 4 = {r}": ((nonzero % 4 == r) & (nonzero > 0)).any()
                for r in range(4)
            },
            "encoder slower than the PEs": m > 2 and (work < beats.sum()).any(),
            "PEs slower than the encoder": m > 2 and (work > beats.sum() + 3).any(),
            "starved after the first row": run.starved > int(run.enc_done[0]),
            "row without codes after one with some": ((slots[1:] == 0) & (slots[:-1] > 0)).any(),
        }
    hits.update(f"{kind}: {point}" for point, was in found.items() if was)


def array_options(name: str, base: BuildOptions | None = None, trace: Path | None = None) -> BuildOptions:
    """How a set is built for the regression."""
    watched = name in ARRAYS_CHECKED
    options = replace(base or BuildOptions(), assertions=watched, random_state=watched)
    return options if trace is None else replace(options, trace=trace_format(trace))


def run_array_cases(
    cases: Iterable[ArrayCase],
    model: ArrayReference,
    report: ArrayReport,
    benches: dict[str, ArrayBench],
    deadline: float,
) -> ArrayMismatch | None:
    """Runs cases in order until one differs or the time is up."""
    previous: dict[str, ArrayCase] = {}
    for case in cases:
        if time.monotonic() > deadline:
            return None
        mismatch = benches[case.array].run(case, model, report)
        report.done += 1
        if mismatch is not None:
            return replace(mismatch, after=previous.get(case.array))
        previous[case.array] = case
    return None


def random_array_cases(names: tuple[str, ...], seed: int) -> Iterator[ArrayCase]:
    """Random cases without end, round robin over arrays."""
    rng = np.random.default_rng(seed)
    while True:
        for name in names:
            for _ in range(6 if name in ARRAYS_CHECKED else 1):
                yield random_array_case(name, ARRAY_SETS[name], rng, checked=name in ARRAYS_CHECKED)


def run_array_alone(
    case: ArrayCase,
    after: ArrayCase | None,
    model: ArrayReference,
    options: BuildOptions | None = None,
    trace: Path | None = None,
    state_seed: int = 0,
) -> ArrayMismatch | None:
    """Runs one case on a fresh tile, behind `after` if given."""
    bench = ArrayBench(case.array, array_options(case.array, options, trace), trace, state_seed)
    try:
        if after is not None:
            bench.run(after, model)
        found = bench.run(case, model)
    finally:
        bench.tile.close()
    return None if found is None else replace(found, after=after)


def run_array_regression(
    model: ArrayReference,
    *,
    seconds: float = 30.0,
    limit_s: float = float("inf"),
    seed: int = 0,
    names: Iterable[str] = ARRAY_NAMES,
    options: BuildOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ArrayReport:
    """Directed cases and the detector's, run to their end unless that takes longer than `limit_s`, then random ones until
    `seconds` have passed. Stops at the first mismatch and looks for the smallest case that shows it."""
    names, report = tuple(names), ArrayReport(seed)
    sets = tuple(name for name in names if name in ARRAY_SETS)
    benches = {}
    for name in sets:
        progress(f"building {name}")
        benches[name] = ArrayBench(name, array_options(name, options), state_seed=seed)
    detector = None
    if DETECTOR_SET in names:
        progress(f"building {DETECTOR_SET}")
        detector = DetectorBench(options.rtl_dir if options else None)
    began = time.monotonic()
    end = began + limit_s
    directed = [
        case
        for name in sets
        for case in directed_array_cases(name, ARRAY_SETS[name], checked=name in ARRAYS_CHECKED)
    ]
    report.directed = len(directed)
    mismatch = None
    try:
        mismatch = run_array_cases(directed, model, report, benches, end)
        if detector is not None and mismatch is None and time.monotonic() < end:
            said, report.channels = detector.check(model.detector, seed)
            mismatch = ArrayMismatch(None, None, said) if said else None
        report.complete = mismatch is None and report.done == report.directed and time.monotonic() < end
        if mismatch is None and sets:
            cases = random_array_cases(sets, seed)
            mismatch = run_array_cases(cases, model, report, benches, min(began + seconds, end))
    except KeyboardInterrupt:
        progress("interrupted")
    report.seconds = time.monotonic() - began
    if mismatch is not None:
        report.complete = False
        progress(f"mismatch: {mismatch}; looking for the smallest case")
        report.mismatches.append(shrink_array(mismatch, model, options, seed))
    return report


def shrink_array(
    mismatch: ArrayMismatch,
    model: ArrayReference,
    options: BuildOptions | None,
    state_seed: int,
    tries: int = 60,
) -> ArrayMismatch:
    """The smallest case found that still fails."""
    if mismatch.case is None:
        return mismatch

    def alone(case: ArrayCase, after: ArrayCase | None) -> ArrayMismatch | None:
        return run_array_alone(case, after, model, options, state_seed=state_seed)

    best = alone(mismatch.case, None) or alone(mismatch.case, mismatch.after)
    if best is None:
        return mismatch
    improved = True
    while improved and tries > 0:
        improved = False
        assert best.case is not None
        for candidate in best.case.smaller():
            tries -= 1
            found = alone(candidate, best.after)
            if found is not None:
                best, improved = found, True
                break
    return best
