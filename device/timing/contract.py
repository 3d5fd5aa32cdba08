# SPDX-License-Identifier: Apache-2.0
"""What RTL is held to, as an object: the lane's contract, or the user's own in its place.

Somebody who changes the encoder's rule or the lane's pace derives from `LaneContract`, overrides what he changed, and names
the class: `--contract my_lane.py:MyLane` or `--contract package.module:MyLane`. Values are not his to change: accumulators are
exact whatever the contract says.
What this file does not do: say how long anything takes (`lane.py`), or run RTL (`sim_harness`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.timing import detector, lane
from ditto_cosim.device.timing.dense_lane import dense_stalled_times, dense_times
from ditto_cosim.device.timing.lane import TileTimes
from ditto_cosim.device.timing.result_port import ArrayTimes, beats_of, column_blocks, load_cycles
from ditto_cosim.device.timing.sparse_lane import segment_words, sparse_stalled_times, sparse_times
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.hardware import ArrayGeometry, Geometry, LowRule, Mode

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.integer]


class RecordedPorts(Protocol):
    """Handshakes, cycle by cycle: uint8 [lanes, cycles] each."""

    @property
    def operand_valid(self) -> U8: ...
    @property
    def result_ready(self) -> U8: ...


class ContractError(DittoError):
    """A contract that cannot be loaded, or is none."""


class LaneContract:
    """Ours."""

    def row_counts(self, current: I8, reference: I8 | int, mode: Mode, rule: LowRule) -> I32:
        """(zero, low, full) elements of every row: int32 [3, M]; a row has low + 2 * full slots."""
        return lane.row_counts(current, reference, mode, rule)

    def tile_times(self, slots: Slots, k: int, n: int, geometry: Geometry) -> TileTimes:
        """Cycles of an unstalled pass over rows of `slots` [M] slots."""
        return lane.tile_times(slots, k, n, geometry)

    def stalled_times(
        self, slots: Slots, k: int, n: int, geometry: Geometry, operand_valid: U8, result_ready: U8
    ) -> TileTimes:
        """Cycles of a pass whose ports were, cycle by cycle, as recorded: uint8 [lanes, cycles] each."""
        return lane.stalled_times(slots, k, n, geometry, operand_valid, result_ready)

    def weight_load_cycles(self, k: int, n: int, geometry: Geometry) -> int:
        """Cycles to load [K, N] weights."""
        return lane.weight_load_cycles(k, n, geometry)


class ArrayContract:
    """What SQ-DM's RTL is held to: the cycles of its two arrays and of its detector."""

    def times(
        self, geometry: ArrayGeometry, counts: Slots, nonzero: Slots, n: int, ports: RecordedPorts | None
    ) -> ArrayTimes:
        """Cycles of a pass over rows with so many codes other than 0 in each segment, [M, segments]; segments have so many
        elements, [segments]. Unstalled, or with ports as recorded."""
        beats, blocks, rows = beats_of(counts, geometry.beat), column_blocks(n, geometry), len(nonzero)
        words = segment_words(nonzero)
        sparse = geometry.kind == "sparse"
        if ports is None:
            return sparse_times(words, beats, blocks) if sparse else dense_times(rows, beats, blocks)
        valid, ready = ports.operand_valid[0], ports.result_ready[0]
        if sparse:
            return sparse_stalled_times(words, beats, blocks, valid, ready)
        return dense_stalled_times(rows, beats, blocks, valid, ready)

    load_cycles = staticmethod(load_cycles)
    theta_count = staticmethod(detector.theta_count)
    tag_cycles = staticmethod(detector.tag_cycles)
    scan_cycles = staticmethod(detector.scan_cycles)


_PARTS = ("row_counts", "tile_times", "stalled_times", "weight_load_cycles")


def load_contract(text: str) -> LaneContract:
    """The contract named `file.py:Class` or `module:Class`; ours if the text is empty."""
    if not text:
        return LaneContract()
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise ContractError(f"contract: {text!r} is neither file.py:Class nor module:Class")
    try:
        contract = getattr(module_named(place), name)()
    except (ImportError, OSError, AttributeError, SyntaxError, TypeError) as error:
        raise ContractError(f"contract: {text!r} cannot be loaded: {error}") from error
    missing = [part for part in _PARTS if not callable(getattr(contract, part, None))]
    if missing:
        raise ContractError(f"contract: {text!r} has no {', '.join(missing)}; derive it from LaneContract")
    return contract  # type: ignore[no-any-return]  # looked at above


def module_named(place: str) -> object:
    """A user's module: `file.py`, or one that Python finds."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place)
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
