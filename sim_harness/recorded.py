# SPDX-License-Identifier: Apache-2.0
"""Recorded activations: the operands of a layer, kept in a file (`captures.py`), run through the RTL again.

    replay, replay_all     whole captures, every chunk held to the model
    replay_row             one row in a pass of its own, into a waveform, and the cycle at which it stands there

K longer than the tile's is split as the device splits it, N likewise. What this file does not do: add partial sums:
every chunk is compared by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ditto_cosim.protocol.record import split_k

from .build import BuildOptions
from .captures import Capture
from .cases import Case, Operands
from .errors import TileInputError
from .regression import Bench, Mismatch, Reference, Report, options_for

CYCLE_UNITS = 10
"""Of a waveform's time (`tile_driver.cpp`)."""


def replay(
    capture: Capture, bench: Bench, model: Reference, report: Report | None = None, rows: slice = slice(None)
) -> Mismatch | None:
    """Runs a capture, or some of its rows, in the pieces the tile takes; stops at the first mismatch."""
    geometry = bench.geometry
    k, n = capture.weights.shape
    current, reference = capture.current[rows], capture.reference[rows]
    first = 0
    for length in split_k(k, geometry.k_max):
        part = slice(first, first + length)
        first += length
        for column in range(0, n, geometry.n_max):
            weights = capture.weights[part, column : column + geometry.n_max]
            case = Case(bench.name, len(current), length, weights.shape[1], capture.mode)
            operands = Operands(current[:, part], reference[:, part], weights, None)
            found = bench.run_operands(case, operands, model, report)
            if found is not None:
                where = f"{capture.name}, elements {part.start}…{part.stop - 1}, columns from {column}"
                piece = Capture(capture.name, capture.mode, *(
                    array.copy() for array in (operands.current, operands.reference, operands.weights)
                ))  # fmt: skip
                detail = "\n".join(filter(None, (f"in the recorded layer {where}", found.detail)))
                return replace(found, detail=detail, capture=piece)
    return None


def replay_all(
    captures: list[Capture],
    name: str,
    model: Reference,
    row: int | None,
    trace: Path | None,
    options: BuildOptions | None = None,
) -> tuple[Mismatch | None, Report]:
    """Captures on one set, or one row of each; into a waveform if asked for."""
    for capture in captures:
        if row is not None and not 0 <= row < len(capture.current):
            raise TileInputError(f"replay: row = {row}, {capture.name} has rows 0…{len(capture.current) - 1}")
    bench = Bench(name, options_for(name, options, trace), trace)
    report = Report(0, geometries=(name,))
    try:
        for capture in captures:
            found = replay(capture, bench, model, report, slice(None) if row is None else slice(row, row + 1))
            if found is not None:
                return found, report
    finally:
        bench.tile.close()
    return None, report


@dataclass(frozen=True, slots=True)
class RowPass:
    """One row's way through a pass of its own, of which there is a waveform."""

    set: str
    lane: int
    rows: tuple[int, int]
    """First and last row of the capture that the pass had: the round before, and the row's up to it."""
    elements: tuple[int, int]
    """First and last element of the row: the chunk of K."""
    columns: int
    zero: int
    low: int
    full: int
    encode_begin: int
    """Cycles of the pass: the row's first beat may enter the encoder …"""
    enc_done: int
    """… all of its slots are queued …"""
    done: int
    """… and its last column block is summed."""
    pass_cycles: int
    waveform: Path
    time: int
    """Where `encode_begin` stands in the waveform, in its own units."""
    mismatch: Mismatch | None

    @property
    def slots(self) -> int:
        return self.low + 2 * self.full


def replay_row(
    capture: Capture, row: int, chunk: int, name: str, model: Reference, waveform: Path,
    options: BuildOptions | None = None,
) -> RowPass:  # fmt: skip
    """A row between its neighbours: its lane's row before it runs too, so that encoder and PEs overlap as they do."""
    if waveform.suffix != ".vcd":
        raise TileInputError(f"replay: {waveform} must end in .vcd")
    if not 0 <= row < len(capture.current):
        raise TileInputError(f"replay: row = {row}, {capture.name} has rows 0…{len(capture.current) - 1}")
    bench = Bench(name, options_for(name, options, waveform), waveform)
    geometry = bench.geometry
    lengths = split_k(capture.current.shape[1], geometry.k_max)
    if not 0 <= chunk < len(lengths):
        raise TileInputError(f"replay: chunk = {chunk}, a row of {capture.name} has {len(lengths)}")
    part = slice(sum(lengths[:chunk]), sum(lengths[: chunk + 1]))
    first = max(0, (row // geometry.lanes - 1) * geometry.lanes)
    at = row - first
    rows, weights = slice(first, row + 1), capture.weights[part, : geometry.n_max]
    current, reference = capture.current[rows, part], capture.reference[rows, part]
    case = Case(name, len(current), current.shape[1], weights.shape[1], capture.mode)
    try:
        found = bench.run_operands(case, Operands(current, reference, weights, None), model)
    finally:
        bench.tile.close()
    zero, low, full = model.counts(current, reference, capture.mode, geometry.low_rule)
    times = model.times(low + 2 * full, current.shape[1], weights.shape[1], geometry)
    begin = int(times.enc_done[at - geometry.lanes]) if at >= geometry.lanes else 0
    return RowPass(
        set=name,
        lane=at % geometry.lanes,
        rows=(first, row),
        elements=(part.start, part.stop - 1),
        columns=weights.shape[1],
        zero=int(zero[at]),
        low=int(low[at]),
        full=int(full[at]),
        encode_begin=begin,
        enc_done=int(times.enc_done[at]),
        done=int(times.done[at]),
        pass_cycles=int(times.cycles),
        waveform=waveform,
        time=_time_of(waveform, begin),
        mismatch=found,
    )


def _time_of(waveform: Path, cycle: int) -> int:
    """Where a cycle of the last pass begins in a VCD, by the tile's own counter."""
    declared, changed, at, found = b"", b"", 0, None
    with waveform.open("rb") as file:
        for line in file:
            if not declared:
                words = line.split()
                if words[:1] == [b"$var"] and words[4] == b"cycle_o":
                    declared = words[3]
                    changed = b" " + declared + b"\n"
            elif line[:1] == b"#":
                at = int(line[1:])
            elif line[:1] == b"b" and line.endswith(changed) and int(line[1 : -len(changed)], 2) == cycle + 1:
                found = at  # the counter stands still at 0 before a pass, so the cycle behind is looked for
    if found is None:
        raise TileInputError(f"replay: {waveform} does not show cycle {cycle} of the pass")
    return found - CYCLE_UNITS
