# SPDX-License-Identifier: Apache-2.0
"""Recorded activations: the operands of a layer, kept in a file (`captures.py`), run through the RTL again.

K longer than the tile's is split as the device splits it, N likewise. What this file does not do: add partial sums:
every chunk is compared by itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ditto_cosim.protocol.record import split_k

from .build import BuildOptions
from .captures import Capture
from .cases import Case, Operands
from .errors import TileInputError
from .regression import Bench, Mismatch, Reference, Report, options_for


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
