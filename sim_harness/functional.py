# SPDX-License-Identifier: Apache-2.0
"""Functional coverage: what the regression has to have seen, and what it saw.

Every point has a name; a table counts how often each was hit. Points are judged from a case's operands and
recorded ports, not from the RTL's insides. What it does not do: line and toggle coverage (`coverage.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import MODES, Geometry, LowRule, Mode

from .tile import TileRun

I8 = npt.NDArray[np.int8]
I64 = npt.NDArray[np.int64]

_DIFFERENCES = (-255, -16, -15, -9, -8, -1, 1, 7, 8, 15, 16, 255)
_PATTERNS = [f"{p:04b}" for p in range(16)]

POINTS: tuple[str, ...] = (
    *(f"mode {mode}" for mode in MODES),
    *(f"difference {d}" for d in _DIFFERENCES),
    *(f"slots mod 4 = {r}" for r in range(4)),
    "row without slots",
    "row with every slot",
    "row without slots after a row with some",
    "slots fill the last group exactly",
    "full element at an even position",
    "full element at an odd position",
    "low element before a full one in a beat",
    "K = 1",
    "K < E",
    "K = E",
    "K = E + 1",
    "K a multiple of E",
    "K not a multiple of E",
    "K = k_max",
    "K = k_max − 1",
    "one column block",
    "all column blocks",
    "last block partly used",
    "N = 1",
    "M = 1",
    "M < lanes",
    "M a multiple of lanes",
    "M not a multiple of lanes",
    "encoder slower than the PEs",
    "PEs slower than the encoder",
    "starved after the first row",
    "stalled by a result",
    "result waited without a stall",
    "operand withheld at a row's first beat",
    "operand withheld at a row's last beat",
    "operand waited for a bank",
    *(f"operand valid pattern {p}" for p in _PATTERNS),
    *(f"result ready pattern {p}" for p in _PATTERNS),
    "largest sum",
    "smallest sum",
    "weights kept for a second pass",
    "weights replaced between passes",
    "next weights loaded within the pass",
    "next weights loaded after the pass",
)


@dataclass
class FunctionalCoverage:
    """How often each point of `POINTS` was hit."""

    hits: Counter[str] = field(default_factory=Counter)

    @property
    def missed(self) -> list[str]:
        return [name for name in POINTS if not self.hits[name]]

    @property
    def share(self) -> float:
        return 1 - len(self.missed) / len(POINTS)

    def _hit(self, name: str, when: bool = True) -> None:
        if when:
            self.hits[name] += 1

    def observe(
        self, geometry: Geometry, mode: Mode, current: I8, reference: I8, n: int, run: TileRun, *,
        kept: bool, replaced: bool,
    ) -> None:  # fmt: skip
        """Takes one pass into the table."""
        hit = self._hit
        m, k = current.shape
        e, c, lanes = geometry.encode_width, geometry.columns, geometry.lanes
        d = current.astype(np.int64) - reference
        hit(f"mode {mode}")
        for value in _DIFFERENCES:
            hit(f"difference {value}", bool((d == value).any()))
        per_element = slots_of(d, mode, geometry.low_rule)
        slots = per_element.sum(1)
        for rest in range(4):
            hit(f"slots mod 4 = {rest}", bool(((slots % 4 == rest) & (slots > 0)).any()))
        hit("row without slots", bool((slots == 0).any()))
        hit("row with every slot", bool((slots == 2 * k).any()))
        hit(
            "row without slots after a row with some",
            bool(((slots[lanes:] == 0) & (slots[:-lanes] > 0)).any()),
        )
        hit("slots fill the last group exactly", bool(((slots > 0) & (slots % (2 * e) == 0)).any()))
        position = np.cumsum(per_element, axis=1) - per_element
        for parity, name in enumerate(("even", "odd")):
            hit(
                f"full element at an {name} position",
                bool(((per_element == 2) & (position % 2 == parity)).any()),
            )
        hit("low element before a full one in a beat", _low_before_full(per_element, e))
        hit("K = 1", k == 1)
        hit("K < E", k < e)
        hit("K = E", k == e)
        hit("K = E + 1", k == e + 1)
        hit("K a multiple of E" if k % e == 0 else "K not a multiple of E")
        hit("K = k_max", k == geometry.k_max)
        hit("K = k_max − 1", k == geometry.k_max - 1)
        blocks = -(-n // c)
        hit("one column block", blocks == 1)
        hit("all column blocks", blocks == geometry.blocks_max)
        hit("last block partly used", n % c != 0)
        hit("N = 1", n == 1)
        hit("M = 1", m == 1)
        hit("M < lanes", m < lanes)
        hit("M a multiple of lanes" if m % lanes == 0 else "M not a multiple of lanes")
        work = blocks * np.maximum(1, -(-slots // 4))
        hit("encoder slower than the PEs", bool((work < -(-k // e)).any()) and m > 2 * lanes)
        hit("PEs slower than the encoder", bool((work > k).any()) and m > 2 * lanes)
        first = run.enc_done[:lanes].astype(np.int64)
        hit("starved after the first row", bool((run.starved[: len(first)] > first).any()))
        hit("stalled by a result", bool(run.stalled.any()))
        limit = 255 * 128 * k
        hit("largest sum", bool((run.accumulators == limit).any()))
        hit("smallest sum", bool((run.accumulators == -limit).any()))
        hit("weights kept for a second pass", kept)
        hit("weights replaced between passes", replaced)
        if run.next_weights_cycles:
            within = run.next_weights_cycles < run.cycles
            hit("next weights loaded within the pass" if within else "next weights loaded after the pass")
        if run.ports is not None:
            self._observe_ports(run, -(-k // e))

    def _observe_ports(self, run: TileRun, beats: int) -> None:
        assert run.ports is not None
        ports = run.ports
        for lane in range(len(ports.operand_valid)):
            for name, bits in (("operand valid", ports.operand_valid), ("result ready", ports.result_ready)):
                row = bits[lane].astype(np.int64)
                if len(row) >= 4:
                    codes = row[:-3] * 8 + row[1:-2] * 4 + row[2:-1] * 2 + row[3:]
                    for code in np.unique(codes):
                        self._hit(f"{name} pattern {_PATTERNS[int(code)]}")
            valid, ready = ports.operand_valid[lane] == 1, ports.operand_ready[lane] == 1
            given, taken = ports.result_valid[lane] == 1, ports.result_ready[lane] == 1
            self._hit("operand waited for a bank", bool((valid & ~ready).any()))
            self._hit("result waited without a stall", bool((given & ~taken).any()) and not run.stalled[lane])
            beat = (np.cumsum(valid & ready) - (valid & ready)) % beats  # the beat each cycle is waiting for
            withheld = ready & ~valid
            self._hit("operand withheld at a row's first beat", bool((withheld & (beat == 0)).any()))
            self._hit("operand withheld at a row's last beat", bool((withheld & (beat == beats - 1)).any()))


def slots_of(d: I64, mode: Mode, rule: LowRule) -> I64:
    """Slots of every difference, by the words of the contract."""
    if mode == "original":
        return np.full(d.shape, 2, np.int64)
    low = (d >= -8) & (d <= 7) if rule == "twos4" else np.abs(d) <= 15
    return np.where(d == 0, 0, np.where(low, 1, 2)).astype(np.int64)


def _low_before_full(per_element: I64, e: int) -> bool:
    padded = np.zeros((len(per_element), -(-per_element.shape[1] // e) * e), np.int64)
    padded[:, : per_element.shape[1]] = per_element
    beats = padded.reshape(-1, e)
    return bool(((np.cumsum(beats == 1, axis=1) > 0) & (beats == 2)).any())
