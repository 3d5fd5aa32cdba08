# SPDX-License-Identifier: Apache-2.0
"""The one source of every hardware parameter of the lane and tile.

SystemVerilog takes these as top-level parameters, C++ as compile-time definitions, Python as `Geometry`.
`Geometry.digest` travels in the handshake: a host, a device and a bitstream that disagree refuse each other.
Beside them stand the named constants of the cycle contract (rtl/README.md), which no build changes.
What this file does not hold: chips (how many tiles; memory; clocks), which are the device's.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Literal

from ditto_cosim.protocol.errors import GeometryError

LowRule = Literal["twos4", "mag4"]
"""When a difference is low: `twos4` −8…7 (the 4-bit reading), `mag4` |d| ≤ 15 (high nibble is zero)."""

Mode = Literal["original", "temporal", "spatial"]
MODES: tuple[Mode, ...] = ("original", "temporal", "spatial")

SLOTS_PER_CYCLE = 4
"""Four 4b×8b multipliers in a PE; two of them (even positions) have a shifter."""


ENCODE_FLUSH_CYCLES = 3
"""f: cycles between a row's last beat and the first cycle in which its slots can be replayed."""
FILL_CYCLES = 0
"""Cycles between the first of a pass and the first in which a beat can be taken."""
DRAIN_CYCLES = 1
"""Cycles from the end of the last word's stages in the PEs to the end of the pass: its result is taken."""
DEEP_PE_STAGES = 5
"""Of a word through PEs that an FPGA can clock: read, hold, multiply, add, accumulate."""
TILE_ABI_VERSION = 4
"""Version of the C interface between the driver's shared library and `sim_harness`."""

ARRAY_DRAIN_CYCLES = 3
"""The same for SQ-DM's arrays: the last codes are multiplied, their segment scaled, its result taken."""
ARRAY_ABI_VERSION = 2
"""Version of the C interface between an array's driver and `sim_harness`."""

MODE_CODES: dict[Mode, int] = {"original": 0, "temporal": 1, "spatial": 2}
LOW_RULE_CODES: dict[LowRule, int] = {"twos4": 0, "mag4": 1}


@dataclass(frozen=True, slots=True)
class Geometry:
    """One tile as it is built: every parameter the RTL is elaborated with."""

    lanes: int
    """R: lanes in the tile."""
    columns: int
    """C: PEs (output columns) of a lane."""
    encode_width: int = 8
    """E: elements a lane's encoder takes per cycle."""
    k_max: int = 1024
    """Longest row the tile takes at once; the device splits longer K."""
    n_max: int = 512
    """Most output columns whose weights a lane holds at once; a multiple of `columns`."""
    low_rule: LowRule = "twos4"
    weight_banks: int = 1
    """1: weights load before the rows run. 2: the next pass's weights load meanwhile."""
    pe_stages: int = 1
    """Cycles of a word in the PEs: 1 simulates fastest, 5 is what an FPGA can clock."""

    def __post_init__(self) -> None:
        limits = {
            "lanes": (1, 64),
            "columns": (1, 1024),
            "encode_width": (4, 16),
            "k_max": (16, 1024),
            "n_max": (1, 4096),
            "weight_banks": (1, 2),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise GeometryError(f"geometry: {name} = {value!r} is outside {low}…{high}")
        if self.n_max % self.columns:
            raise GeometryError(
                f"geometry: n_max = {self.n_max} is not a multiple of columns = {self.columns}"
            )
        for name in ("encode_width", "k_max"):
            value = getattr(self, name)
            if value & (value - 1):
                raise GeometryError(f"geometry: {name} = {value} is not a power of two")
        if self.k_max < 2 * self.encode_width:
            raise GeometryError(
                f"geometry: k_max = {self.k_max} is less than two beats of encode_width = {self.encode_width}"
            )
        if self.pe_stages not in (1, DEEP_PE_STAGES):
            raise GeometryError(f"geometry: pe_stages = {self.pe_stages!r} is neither 1 nor {DEEP_PE_STAGES}")
        if self.low_rule not in ("twos4", "mag4"):
            raise GeometryError(f"geometry: low_rule = {self.low_rule!r} is neither 'twos4' nor 'mag4'")

    @property
    def blocks_max(self) -> int:
        """Column blocks whose weights a lane holds at once."""
        return self.n_max // self.columns

    @property
    def multipliers(self) -> int:
        """4b×8b multipliers in the tile."""
        return self.lanes * self.columns * SLOTS_PER_CYCLE

    @property
    def digest(self) -> str:
        """Sixteen hex digits that two sides compare before they work together."""
        text = ";".join(f"{f.name}={asdict(self)[f.name]}" for f in fields(self))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


ArrayKind = Literal["dense", "sparse"]
ARRAY_KINDS: tuple[ArrayKind, ...] = ("dense", "sparse")


@dataclass(frozen=True, slots=True)
class ArrayGeometry:
    """One tile of one of SQ-DM's two arrays as it is built (rtl/sq_dm/)."""

    kind: ArrayKind
    columns: int = 128
    """C: PEs (output columns)."""
    beat: int = 4
    """Codes taken a cycle: D of the dense array's PEs, E of the sparse array's encoder."""
    block_size: int = 32
    """G: neighbouring input channels that share a scale."""
    k_max: int = 1024
    """Elements of a row at once, whole blocks of them; the device splits longer K."""
    n_max: int = 512
    """Output columns whose weights are held at once; a multiple of `columns`."""

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "kind": ARRAY_KINDS,
            "beat": (4, 8, 16),
            "block_size": (16, 32, 64),
            "k_max": tuple(2**i for i in range(5, 11)),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                said = ", ".join(map(str, known))
                raise GeometryError(f"array: {name} = {getattr(self, name)!r} is none of {said}")
        if not isinstance(self.columns, int) or not 1 <= self.columns <= 1024:
            raise GeometryError(f"array: columns = {self.columns!r} is outside 1…1024")
        if not self.columns <= self.n_max <= 4096 or self.n_max % self.columns:
            raise GeometryError(
                f"array: n_max = {self.n_max} is not a multiple of columns = {self.columns} up to 4096"
            )
        if self.k_max < 2 * self.block_size:
            raise GeometryError(
                f"array: k_max = {self.k_max} is less than two blocks of {self.block_size} codes"
            )

    @property
    def segments_max(self) -> int:
        """Blocks of a row at once."""
        return self.k_max // self.block_size

    @property
    def multipliers(self) -> int:
        """4b×4b multipliers: four a sparse PE, one a code of the beat in a dense one."""
        return self.columns * (SLOTS_PER_CYCLE if self.kind == "sparse" else self.beat)

    @property
    def digest(self) -> str:
        """Sixteen hex digits, as `Geometry.digest`."""
        text = ";".join(f"{f.name}={asdict(self)[f.name]}" for f in fields(self))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


GEOMETRIES: dict[str, Geometry] = {
    "cosim": Geometry(lanes=1, columns=256, n_max=512),
    "paper_lane": Geometry(lanes=1, columns=128, n_max=512),
    "edge": Geometry(lanes=4, columns=64, n_max=512),
    "tiny": Geometry(lanes=2, columns=8, encode_width=4, k_max=256, n_max=64),
    "ecp5": Geometry(lanes=4, columns=8, encode_width=4, k_max=256, n_max=64, pe_stages=DEEP_PE_STAGES),
}
"""Tiles that are built and tested; `cosim` is the fastest to simulate."""
