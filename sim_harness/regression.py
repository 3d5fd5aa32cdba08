# SPDX-License-Identifier: Apache-2.0
"""The RTL's regression: passes through Verilated tiles against a reference model, row by row and cycle by
cycle.

The model is an argument (`Reference`): the harness knows nothing of the device. Directed corners run first,
then random cases until the time is up, over several geometries, all modes, with and without stalls on every
handshake. A mismatch is shrunk to the smallest case that still fails, and written down with the row, the
element, both values, the command that runs it again and a waveform. What this file does not do: invent
cases (`cases.py`), judge coverage (`functional.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import DEEP_PE_STAGES, GEOMETRIES, Geometry, LowRule, Mode

from .build import BuildOptions
from .captures import Capture, save_captures
from .cases import Case, Operands, directed_cases, random_case
from .errors import TileAssertionError, TileFaultError, TileInputError, TileStuckError
from .functional import FunctionalCoverage
from .tile import Tile, TileRun, trace_format

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

SETS: dict[str, Geometry] = {
    "tiny": GEOMETRIES["tiny"],
    "mag4_banks": Geometry(
        lanes=1, columns=4, encode_width=8, k_max=64, n_max=12, low_rule="mag4", weight_banks=2
    ),
    "wide": Geometry(lanes=3, columns=8, encode_width=16, k_max=128, n_max=16),
    "ecp5": GEOMETRIES["ecp5"],
    "deep_banks": Geometry(
        lanes=1, columns=4, encode_width=8, k_max=64, n_max=4, weight_banks=2, pe_stages=DEEP_PE_STAGES
    ),
    "cosim": GEOMETRIES["cosim"],
    "paper_lane": GEOMETRIES["paper_lane"],
    "edge": GEOMETRIES["edge"],
}
"""Geometries the regression builds; the first five are small and run with the RTL's assertions."""
CHECKED = ("tiny", "mag4_banks", "wide", "ecp5", "deep_banks")
_CHECKED_MULTIPLIERS = 128
"""A chip of the user's up to this size is checked too."""


def checked(name: str) -> bool:
    """Whether a set is built with assertions and random states, and can be reset and attacked."""
    return name in CHECKED or (name == "chip" and SETS[name].multipliers <= _CHECKED_MULTIPLIERS)


class Times(Protocol):
    """Cycles of a pass as the model has them."""

    @property
    def enc_done(self) -> Array: ...
    @property
    def done(self) -> Array: ...
    @property
    def busy(self) -> Array: ...
    @property
    def starved(self) -> Array: ...
    @property
    def stalled(self) -> Array: ...
    @property
    def cycles(self) -> int: ...


class Reference(Protocol):
    """What the RTL is held to."""

    def accumulators(self, current: I8, reference: I8, weights: I8) -> I32: ...

    def counts(self, current: I8, reference: I8, mode: Mode, rule: LowRule) -> Array:
        """(zero, low, full) of every row: [3, M]."""

    def times(self, slots: Array, k: int, n: int, geometry: Geometry) -> Times: ...

    def stalled_times(
        self, slots: Array, k: int, n: int, geometry: Geometry, operand_valid: U8, result_ready: U8
    ) -> Times: ...

    def weight_load_cycles(self, k: int, n: int, geometry: Geometry) -> int: ...


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where RTL and model part."""

    case: Case
    after: Case | None
    """A case that has to run before, on the same tile."""
    what: str
    """accumulators, zero, low, full, enc_done, done, busy, starved, stalled, cycles, assertion, protocol, stuck."""
    row: int | None
    element: int | None
    expected: int | None
    got: int | None
    detail: str = ""
    capture: Capture | None = None
    """The operands, if they are recorded ones and not the case's own."""
    file: Path | None = None
    """Where the capture was written."""
    flags: str = ""
    """What else the command that found it was given: seed, RTL, contract."""

    @property
    def command(self) -> str:
        """Runs it again."""
        if self.capture is not None:
            return f"ditto rtl replay {self.file or 'CAPTURE.npz'} --set {self.case.geometry}{self.flags}"
        after = f" --after '{self.after.text}'" if self.after else ""
        return f"ditto rtl test --case '{self.case.text}'{after}{self.flags}"

    def __str__(self) -> str:
        m, k, n = self.case.shape
        text = f"{self.what} of {self.case.geometry} differ, {self.case.mode} mode, M = {m}, K = {k}, N = {n}"
        if self.row is not None:
            text += f": row {self.row}" + (f", column {self.element}" if self.element is not None else "")
            text += f": expected {self.expected}, got {self.got}"
        return text + (f"\n{self.detail}" if self.detail else "")


@dataclass
class Report:
    """What a regression did."""

    seed: int
    cases: int = 0
    rows: int = 0
    cycles: int = 0
    elements: int = 0
    seconds: float = 0.0
    stalled_rows: int = 0
    recorded_rows: int = 0
    geometries: tuple[str, ...] = ()
    complete: bool = False
    """Every directed case and every recorded activation was run; without them agreement says little."""
    directed: int = 0
    """Directed cases there are."""
    done: int = 0
    """Cases that were run, directed ones first."""
    mismatches: list[Mismatch] = field(default_factory=list)
    waveform: Path | None = None
    functional: FunctionalCoverage = field(default_factory=FunctionalCoverage)


class Bench:
    """One tile under test and what its weight banks hold."""

    def __init__(
        self,
        name: str,
        options: BuildOptions,
        trace: Path | None = None,
        state_seed: int = 0,
        mutant: int = 0,
        watchdog_idle_cycles: int = 20_000,
    ) -> None:
        if name not in SETS:
            raise TileInputError(f"case: geometry = {name!r} is none of {', '.join(SETS)}")
        self.name = name
        self.geometry = SETS[name]
        self.options = options
        self.tile = Tile(
            self.geometry, options=options, trace=trace, state_seed=state_seed, mutant=mutant,
            watchdog_idle_cycles=watchdog_idle_cycles,
        )  # fmt: skip
        self._forget()

    def _forget(self) -> None:
        """What a bank holds is unknown; a reset has made bank 0 the active one."""
        self.loaded: I8 | None = None
        self._banks: list[I8 | None] = [None, None]
        self._active = 0
        self._swap = False

    def _load(self, weights: I8) -> int:
        cycles = self.tile.load_weights(weights)
        self._hold(weights)
        return cycles

    def _hold(self, weights: I8) -> None:
        """Weights went into the bank that loads go to."""
        two = self.geometry.weight_banks == 2
        self._banks[1 - self._active if two else 0] = self.loaded = weights
        self._swap = two

    def _start(self) -> None:
        if self._swap:
            self._active, self._swap = 1 - self._active, False

    def _after_reset(self, k: int) -> I8 | None:
        """The weights a reset tile computes with: memories outlive it, and bank 0 is the active one."""
        self._active, self._swap = 0, False
        held = self.loaded = self._banks[0]
        if held is None or held.shape[0] != k:
            return None
        self.tile.hold(*held.shape)
        return held

    def run(self, case: Case, model: Reference, report: Report | None = None) -> Mismatch | None:
        """Runs a case and compares everything it gives; None if it is right."""
        return self.run_operands(case, case.operands(self.geometry.lanes), model, report)

    def run_operands(
        self, case: Case, operands: Operands, model: Reference, report: Report | None = None
    ) -> Mismatch | None:
        """The same with arrays of the caller's."""
        try:
            return self._run(case, operands, model, report)
        except TileAssertionError as error:
            self._forget()
            return Mismatch(case, None, "assertion", None, None, None, None, str(error).splitlines()[0])
        except TileFaultError as error:
            self._forget()
            return Mismatch(case, None, "protocol", None, None, None, None, str(error).splitlines()[0])
        except TileStuckError as error:
            self._forget()
            return Mismatch(case, None, "stuck", None, None, None, None, str(error))

    def _run(
        self, case: Case, operands: Operands, model: Reference, report: Report | None
    ) -> Mismatch | None:
        if case.reset < 0 and not self.options.coverage:  # counters would go with the model
            self.tile.power_up(case.seed)
            self._forget()
        if self.options.checked:
            self.tile.attack(2 * case.seed + 1 if case.attack else 0)
        elif case.attack or case.reset:
            raise TileInputError(f"case: attack and reset need a checked build, {self.name} is not one")
        weights, before = operands.weights, self.loaded
        kept = case.keep_weights and before is not None and before.shape == weights.shape
        if kept and before is not None:
            weights = before
        else:
            expected = model.weight_load_cycles(weights.shape[0], weights.shape[1], self.geometry)
            got = self._load(weights)
            if got != expected:
                return Mismatch(case, None, "weight load cycles", None, None, expected, got)
        if case.reset > 0:
            self._start()
            self.tile.run_cut(operands.current, operands.reference, case.mode, case.reset, operands.stalls)
            held = self._after_reset(weights.shape[0])
            if held is None:
                self._load(weights)
            else:
                weights = held
        following = np.flip(weights, 0).copy() if case.preload else None
        self._start()
        run = self.tile.run(
            operands.current, operands.reference, case.mode,
            stalls=operands.stalls, record=operands.stalls is not None, next_weights=following,
        )  # fmt: skip
        mismatch = self._compare(case, operands, weights, run, model)
        if report is not None:
            n = weights.shape[1]
            replaced = before is not None and not kept
            report.functional.observe(
                self.geometry, case.mode, operands.current, operands.reference, n, run, kept=kept,
                replaced=replaced,
            )  # fmt: skip
            _count(report, run, operands.stalls is not None)
        if following is not None:
            self._hold(following)
        if mismatch is None and following is not None:
            self._start()
            run = self.tile.run(operands.current, operands.reference, case.mode)
            mismatch = self._compare(replace(case, stalls="none"), operands, following, run, model)
            mismatch = mismatch and replace(mismatch, case=case, detail="in the pass after the preload")
            if report is not None:
                _count(report, run, False)
        return mismatch

    def _compare(
        self, case: Case, operands: Operands, weights: I8, run: TileRun, model: Reference
    ) -> Mismatch | None:
        current, reference = operands.current, operands.reference
        k, n = weights.shape
        counts = model.counts(current, reference, case.mode, self.geometry.low_rule)
        slots = counts[1] + 2 * counts[2]
        if run.ports is None:
            times = model.times(slots, k, n, self.geometry)
        else:
            ports = run.ports
            try:
                valid, ready = ports.operand_valid, ports.result_ready
                times = model.stalled_times(slots, k, n, self.geometry, valid, ready)
            except ValueError as error:  # the pass ended before the model's
                return Mismatch(case, None, "cycles", None, None, None, run.cycles, str(error))
        pairs: list[tuple[str, Array, Array]] = [
            ("accumulators", model.accumulators(current, reference, weights), run.accumulators),
            ("zero", counts[0], run.zero),
            ("low", counts[1], run.low),
            ("full", counts[2], run.full),
            ("enc_done", times.enc_done, run.enc_done),
            ("done", times.done, run.done),
            ("busy", times.busy, run.busy),
            ("starved", times.starved, run.starved),
            ("stalled", times.stalled, run.stalled),
            ("cycles", np.array([times.cycles]), np.array([run.cycles])),
        ]
        for what, expected, got in pairs:
            if not np.array_equal(expected, got):
                at = tuple(int(i) for i in np.argwhere(np.asarray(expected) != np.asarray(got))[0])
                element = at[1] if len(at) > 1 else None
                return Mismatch(case, None, what, at[0], element, int(expected[at]), int(got[at]))
        return None


def _count(report: Report, run: TileRun, stalled: bool) -> None:
    report.cases += 1
    report.rows += len(run.done)
    report.stalled_rows += len(run.done) if stalled else 0
    report.elements += run.accumulators.size
    report.cycles += run.cycles


def options_for(name: str, base: BuildOptions | None = None, trace: Path | None = None) -> BuildOptions:
    """How a set is built for the regression."""
    watched = checked(name)
    options = replace(base or BuildOptions(), assertions=watched, random_state=watched)
    return options if trace is None else replace(options, trace=trace_format(trace))


def run_cases(
    cases: Iterable[Case], model: Reference, report: Report, benches: dict[str, Bench], deadline: float
) -> Mismatch | None:
    """Runs cases in order until one differs or the time is up."""
    previous: dict[str, Case] = {}
    for case in cases:
        if time.monotonic() > deadline:
            return None
        mismatch = benches[case.geometry].run(case, model, report)
        report.done += 1
        if mismatch is not None:
            return replace(mismatch, after=previous.get(case.geometry))
        previous[case.geometry] = case
    return None


def run_regression(
    model: Reference,
    *,
    seconds: float = 60.0,
    limit_s: float = float("inf"),
    seed: int = 0,
    geometries: Iterable[str] = tuple(SETS),
    options: BuildOptions | None = None,
    recorded: Callable[[Bench, Report], Mismatch | None] | None = None,
    wave_dir: Path | None = None,
    smallest: bool = True,
    flags: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Directed cases, `recorded` ones on every set, then random ones until `seconds` have passed.

    Directed and recorded ones are run to their end however long that takes, unless it takes longer than `limit_s` or
    somebody interrupts; then the report is not `complete`. Stops at the first mismatch and, if asked for, looks for the
    `smallest` case that shows it. `flags` are repeated in the command that a mismatch prints."""
    names = tuple(geometries)
    report = Report(seed, geometries=names)
    benches = {}
    for name in names:
        progress(f"building {name}")
        benches[name] = Bench(name, options_for(name, options), state_seed=seed)
    began = time.monotonic()
    end = began + limit_s
    directed = [case for name in names for case in directed_cases(name, SETS[name], checked=checked(name))]
    report.directed = len(directed)
    progress(f"{len(directed)} directed cases, then random ones, seed {seed}")
    mismatch = None
    try:
        mismatch = run_cases(directed, model, report, benches, end)
        if recorded is not None and mismatch is None and time.monotonic() < end:
            before = report.rows
            mismatch = next((m for m in (recorded(bench, report) for bench in benches.values()) if m), None)
            report.recorded_rows = report.rows - before
        report.complete = mismatch is None and report.done == report.directed and time.monotonic() < end
        if mismatch is None:
            deadline = min(began + seconds, end)
            mismatch = run_cases(random_cases(names, seed), model, report, benches, deadline)
    except KeyboardInterrupt:
        progress("interrupted")
    report.seconds = time.monotonic() - began
    if mismatch is not None:
        report.complete = False
        report.mismatches.append(
            _reported(mismatch, model, options, wave_dir, smallest, flags, report, progress)
        )
    return report


def _reported(
    mismatch: Mismatch, model: Reference, options: BuildOptions | None, wave_dir: Path | None, smallest: bool,
    flags: str, report: Report, progress: Callable[[str], None],
) -> Mismatch:  # fmt: skip
    """The mismatch as small as it gets, with what it takes to see it again."""
    progress(f"mismatch: {mismatch}" + ("; looking for the smallest case" if smallest else ""))
    flags = (f" --seed {report.seed}" if report.seed and mismatch.capture is None else "") + flags
    if mismatch.capture is not None:
        mismatch = shrink_recorded(mismatch, model, options)
        if wave_dir is not None and mismatch.capture is not None:
            file = wave_dir / f"mismatch-{mismatch.case.geometry}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_captures(file, [mismatch.capture])
            mismatch = replace(mismatch, file=file)
    elif smallest:
        mismatch = shrink(mismatch, model, options, state_seed=report.seed)
    if wave_dir is not None:
        report.waveform = write_waveform(mismatch, model, wave_dir, options, report.seed)
    return replace(mismatch, flags=flags)


def random_cases(names: tuple[str, ...], seed: int) -> Iterator[Case]:
    """Random cases without end, round robin over geometries."""
    rng = np.random.default_rng(seed)
    while True:
        for name in names:
            small = checked(name)
            for _ in range(6 if small else 1):
                small_one = small and rng.random() < 0.9
                yield random_case(name, SETS[name], rng, small=small_one, checked=checked(name))


def run_alone(
    case: Case, after: Case | None, model: Reference, options: BuildOptions | None, trace: Path | None = None,
    state_seed: int = 0,
) -> Mismatch | None:  # fmt: skip
    """Runs one case on a fresh tile, behind `after` if given."""
    bench = Bench(case.geometry, options_for(case.geometry, options, trace), trace, state_seed)
    try:
        if after is not None:
            bench.run(after, model)
        found = bench.run(case, model)
    finally:
        bench.tile.close()
    return None if found is None else replace(found, after=after)


def shrink(
    mismatch: Mismatch, model: Reference, options: BuildOptions | None, tries: int = 300, state_seed: int = 0
) -> Mismatch:
    """The smallest case found that still fails."""

    def alone(case: Case, after: Case | None) -> Mismatch | None:
        return run_alone(case, after, model, options, state_seed=state_seed)

    best = alone(mismatch.case, None) or alone(mismatch.case, mismatch.after)
    if best is None:
        return replace(
            mismatch,
            detail=mismatch.detail
            + "\nneither alone nor after the case before it fails again: run the whole seed",
        )
    improved = True
    while improved and tries > 0:
        improved = False
        for candidate in best.case.smaller():
            tries -= 1
            found = alone(candidate, best.after)
            if found is not None:
                best, improved = found, True
                break
            if tries <= 0:
                break
    return replace(best, detail="\n".join(filter(None, (best.detail, listing(best.case.operands(1))))))


def shrink_recorded(mismatch: Mismatch, model: Reference, options: BuildOptions | None) -> Mismatch:
    """The recorded operands cut to one row, if that row alone fails too."""
    whole = mismatch.capture
    assert whole is not None
    for row in [mismatch.row] if mismatch.row is not None else range(min(8, len(whole.current))):
        one = replace(whole, current=whole.current[row : row + 1], reference=whole.reference[row : row + 1])
        found = _run_capture(one, mismatch.case, model, options)
        if found is not None:
            return replace(found, detail=f"row {row} {mismatch.detail}\n{found.detail}".strip(), capture=one)
    return mismatch


def _run_capture(
    capture: Capture, case: Case, model: Reference, options: BuildOptions | None, trace: Path | None = None
) -> Mismatch | None:
    bench = Bench(case.geometry, options_for(case.geometry, options, trace), trace)
    try:
        operands = Operands(capture.current, capture.reference, capture.weights, None)
        return bench.run_operands(replace(case, m=len(capture.current)), operands, model)
    finally:
        bench.tile.close()


def listing(operands: Operands, most: int = 64) -> str:
    """Operands and weights in figures; empty if they are too many to read."""
    if max(operands.current.size, operands.weights.size) > most:
        return ""
    named = (("current", operands.current), ("reference", operands.reference), ("weights", operands.weights))
    return "\n".join(f"{name:9} {array.tolist()}" for name, array in named)


def write_waveform(
    mismatch: Mismatch, model: Reference, folder: Path, options: BuildOptions | None, state_seed: int = 0
) -> Path:
    """Runs the case, or the recorded operands, once more into a VCD file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mismatch-{mismatch.case.geometry}-{mismatch.what.replace(' ', '-')}.vcd"
    if mismatch.capture is not None:
        _run_capture(mismatch.capture, mismatch.case, model, options, path)
    else:
        run_alone(mismatch.case, mismatch.after, model, options, path, state_seed)
    return path
