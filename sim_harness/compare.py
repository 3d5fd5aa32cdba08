# SPDX-License-Identifier: Apache-2.0
"""Two RTLs side by side on the same passes: are the values right, what do the cycles come to, how large are they.

What this file does not do: hold either to every corner (`regression.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ditto_cosim.protocol.hardware import Geometry

from .build import BuildOptions
from .cases import Case, directed_cases
from .errors import HarnessError
from .regression import SETS, Reference, random_cases
from .synth import clock_mhz, synthesise
from .tile import Tile

_RANDOM_CASES = 150


@dataclass(frozen=True, slots=True)
class SetDifference:
    """What the passes of one parameter set gave."""

    set: str
    passes: int
    rows: int
    cycles_ours: int
    cycles_own: int
    wrong: str
    """The first wrong value, or the first pass that is not the contract's; empty if there is none."""
    first_slower: str
    """The first pass whose cycles are not ours; empty if there is none."""


@dataclass(frozen=True, slots=True)
class SizeDifference:
    """Cells by kind, and the clock where it was asked for."""

    ours: dict[str, int]
    own: dict[str, int]
    ours_mhz: float | None
    own_mhz: float | None


def compare_sets(name: str, own_dir: Path, model: Reference, *, held: bool) -> SetDifference:
    """Runs the directed and some random passes through both; `held` holds the user's to the model's cycles too."""
    geometry = SETS[name]
    cases = directed_cases(name, geometry, checked=False)
    cases += [replace(c, attack=False, reset=0) for c in islice(random_cases((name,), 0), _RANDOM_CASES)]
    rows = ours_total = own_total = 0
    wrong = first = ""
    with Tile(geometry) as ours, Tile(geometry, options=BuildOptions(rtl_dir=own_dir)) as own:
        for case in cases:
            operands = case.operands(geometry.lanes)
            expected = model.accumulators(operands.current, operands.reference, operands.weights)
            ran = []
            try:
                for tile in (ours, own):
                    tile.load_weights(operands.weights)
                    ran.append(
                        tile.run(
                            operands.current,
                            operands.reference,
                            case.mode,
                            stalls=operands.stalls,
                            record=operands.stalls is not None,
                        )
                    )
            except HarnessError as error:
                wrong = wrong or f"{str(error).splitlines()[0]} ({_place(case)})"
                break
            rows += len(operands.current)
            ours_total += ran[0].cycles
            own_total += ran[1].cycles
            if not np.array_equal(ran[1].accumulators, expected):
                row, column = (int(i) for i in np.argwhere(ran[1].accumulators != expected)[0])
                got = ran[1].accumulators[row, column]
                wrong = (
                    wrong
                    or f"row {row}, column {column} is {got}, not {expected[row, column]} ({_place(case)})"
                )
            if ran[0].cycles != ran[1].cycles:
                first = first or f"{_place(case)}: {ran[0].cycles} and {ran[1].cycles}"
            if held and not wrong and ran[1].ports is None:
                counts = model.counts(operands.current, operands.reference, case.mode, geometry.low_rule)
                k, n = operands.weights.shape
                said = model.times(counts[1] + 2 * counts[2], k, n, geometry).cycles
                if said != ran[1].cycles:
                    wrong = f"{ran[1].cycles} cycles, the contract says {said} ({_place(case)})"
    return SetDifference(name, len(cases), rows, ours_total, own_total, wrong, first)


def _place(case: Case) -> str:
    return f"--case '{case.text}'"


def compare_sizes(geometry: Geometry, own_dir: Path, *, clock: bool) -> SizeDifference:
    """Synthesises both; for a `clock` it places and routes one narrow lane of each, whose critical path is a wide one's."""
    kinds = ("lut4", "ff", "dsp", "bram", "distributed_ram")
    ours, own = synthesise(geometry), synthesise(geometry, own_dir)
    ours_mhz = own_mhz = None
    if clock:
        columns = min(4, geometry.columns)
        narrow = replace(geometry, lanes=1, columns=columns, k_max=min(64, geometry.k_max), n_max=2 * columns)
        ours_mhz, own_mhz = clock_mhz(narrow)[1], clock_mhz(narrow, own_dir)[1]
    return SizeDifference(
        {kind: getattr(ours, kind) for kind in kinds},
        {kind: getattr(own, kind) for kind in kinds},
        ours_mhz,
        own_mhz,
    )
