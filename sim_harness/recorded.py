# SPDX-License-Identifier: Apache-2.0
"""Recorded activations: the operands of a layer, kept in a file, run through the RTL again.

A file holds any number of captures: int8 current and reference [M, K], int8 weights [K, N], mode and name.
K longer than the tile's is split as the device splits it, N likewise. What this file does not do: record
(the device's capturing backend does), or add partial sums: every chunk is compared by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.record import split_k

from .cases import Case, Operands
from .errors import TileInputError
from .regression import Bench, Mismatch, Reference, Report, options_for

I8 = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Capture:
    """One layer's operands in one step."""

    name: str
    mode: Mode
    current: I8
    reference: I8
    weights: I8


def shipped() -> Path:
    """Activations that ship: layers of all kinds from a generation of `fashion-ddpm`."""
    return Path(__file__).with_name("activations.npz")


def save_captures(path: Path, captures: list[Capture]) -> None:
    """Writes captures into one .npz."""
    arrays: dict[str, Any] = {"names": np.array([c.name for c in captures])}
    arrays["modes"] = np.array([c.mode for c in captures])
    for i, capture in enumerate(captures):
        arrays |= {f"{i}.current": capture.current, f"{i}.reference": capture.reference}
        arrays[f"{i}.weights"] = capture.weights
    np.savez_compressed(path, **arrays)


def load_captures(path: Path) -> list[Capture]:
    """Reads what `save_captures` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, modes = file["names"], file["modes"]
            captures = [
                Capture(
                    str(name), cast(Mode, str(mode)),
                    *(file[f"{i}.{part}"] for part in ("current", "reference", "weights")),
                )
                for i, (name, mode) in enumerate(zip(names, modes, strict=True))
            ]  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise TileInputError(f"captures: {path} cannot be read: {error}") from error
    for capture in captures:
        shapes = capture.current.shape, capture.reference.shape, capture.weights.shape
        if shapes[0] != shapes[1] or shapes[0][1:] != shapes[2][:1] or capture.mode not in MODES:
            raise TileInputError(
                f"captures: {capture.name} in {path} has shapes {shapes}, mode {capture.mode!r}"
            )
    return captures


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
                return Mismatch(
                    case, None, found.what, found.row, found.element, found.expected, found.got,
                    f"in the recorded layer {where}\n{found.detail}",
                )  # fmt: skip
    return None


def replay_all(
    captures: list[Capture], name: str, model: Reference, row: int | None, trace: Path | None
) -> tuple[Mismatch | None, Report]:
    """Captures on one set, or one row of each into a waveform."""
    for capture in captures:
        if row is not None and not 0 <= row < len(capture.current):
            raise TileInputError(f"replay: row = {row}, {capture.name} has rows 0…{len(capture.current) - 1}")
    bench = Bench(name, options_for(name, trace=trace), trace)
    report = Report(0, geometries=(name,))
    try:
        for capture in captures:
            found = replay(capture, bench, model, report, slice(None) if row is None else slice(row, row + 1))
            if found is not None:
                return found, report
    finally:
        bench.tile.close()
    return None, report
