# SPDX-License-Identifier: Apache-2.0
"""Chips: how many tiles, how much memory, which policies move data. One TOML file each, your own by path.

Interface
    load_chip(name_or_path) -> Chip   `paper`, `paper_twin`, `edge`, `tiny`, or a TOML file by path; `extends = "edge"` in it
                                      starts from another chip
    chip_names() -> tuple of the presets
    chip_fields(), chip_settings(chip), chip_from_settings(values, …)   a chip as its file has it, and back
    Chip                              frozen; `.geometry`, `.tiles`, `.multipliers`, `.dma`, …; `.digest` of all but its name;
                                      `.description` and `Chip.from_description` travel in records
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ditto_cosim.device import description
from ditto_cosim.device.timing.buffers import CHUNKS_SET_ASIDE, Residency
from ditto_cosim.device.timing.dma import DmaPolicy, Forwarding
from ditto_cosim.device.timing.dram import AddressMapping, DramConfig
from ditto_cosim.protocol.errors import DittoError, GeometryError
from ditto_cosim.protocol.hardware import Geometry

Timing = Literal["tlm", "paper"]
PartialSums = Literal["lanes", "vector"]
SplitK = Literal["tile", "tiles"]

CHANNELS_PER_STACK = 8


class ChipError(DittoError):
    """A chip description that cannot be used; the message names file, field, value and what was expected."""


@dataclass(frozen=True)
class Chip:
    """A size; together with a design it has a time."""

    name: str
    timing: Timing
    """`tlm`: the physical contract. `paper`: compute and DRAM time added, compute as aggregate throughput."""
    geometry: Geometry
    tiles: int
    multipliers: int
    """4b×8b multipliers of the chip under its own (Ditto-like) lanes; other designs are scaled from the paper's ratio."""
    clock_ghz: float
    buffer_bytes: int
    residency: Residency
    """`streaming`: every operand comes from DRAM for every layer. `resident`: what fits stays in the buffer."""
    dram: DramConfig
    vector_lanes: int
    vector_depth_cycles: int
    defo_unit_log2: int
    """Defo counts in units of 2^u cycles."""
    dma: DmaPolicy = field(default_factory=lambda: DmaPolicy(16_384))
    """How data move: chunks, queue depth, prefetch, forwarding."""
    port_bytes_per_cycle: int = 0
    """Between buffer and lanes; 0: as wide as the lanes ask."""
    accumulator_chunks: int = 2
    """How many chunks the lanes may be ahead of the vector unit."""
    partial_sums: PartialSums = "lanes"
    """Where the chunks of a long K are added: `lanes` have adders for it; `vector` costs it a pass for every further chunk."""

    split_k: SplitK = "tile"
    """`tile`: all of K on one tile. `tiles`: where that is faster, chunks of K go to different tiles; the vector unit adds
    what they make, a pass over the accumulators for every further part."""

    @property
    def adders(self) -> int:
        """Elements of partial sums from different tiles that are added per cycle; 0: none ever come."""
        return self.vector_lanes if self.split_k == "tiles" else 0

    @property
    def clock_hz(self) -> int:
        return round(self.clock_ghz * 1e9)

    @property
    def lanes(self) -> int:
        return self.tiles * self.geometry.lanes

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of everything that changes a price: all but the name."""
        facts = {k: v for k, v in asdict(self).items() if k != "name"}
        return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]

    @property
    def clock_mhz(self) -> int:
        return round(self.clock_ghz * 1000)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What `from_description` needs; plain values only."""
        return asdict(self)

    @classmethod
    def from_description(cls, values: Mapping[str, Any], where: str) -> Chip:
        try:
            parts = {"geometry": Geometry, "dram": DramConfig, "dma": DmaPolicy}
            made = {k: kind(**values[k]) for k, kind in parts.items()}
            chip = cls(**{**values, **made})
            _parse(chip_settings(chip), chip.name, where)  # within the limits of a file
        except ChipError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, GeometryError) as error:
            raise ChipError(
                f"{where}: the chip described there is none of this version's ({error})"
            ) from None
        return chip


_DRAM_TYPES: Mapping[str, type] = {"mapping": str, "refresh": bool}

_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "": {
        "timing": str,
        "multipliers": int,
        "clock_ghz": (int, float),
        "defo_unit_log2": int,
        "partial_sums": str,
        "split_k": str,
    },
    "tile": {
        "lanes": int,
        "columns": int,
        "encode_width": int,
        "k_max": int,
        "n_max": int,
        "low_rule": str,
        "weight_banks": int,
        "pe_stages": int,
        "tiles": int,
    },
    "buffer": {
        "megabytes": (int, float),
        "policy": str,
        "bytes_per_cycle": int,
        "accumulator_chunks": int,
    },
    "dma": {f.name: str if f.name == "forwarding" else int for f in fields(DmaPolicy)},
    "dram": {"stacks": int, **{f.name: _DRAM_TYPES.get(f.name, int) for f in fields(DramConfig)}},
    "vector": {"lanes": int, "depth_cycles": int},
}


def chip_names() -> tuple[str, ...]:
    return description.names("chips")


def load_chip(name: str | Path) -> Chip:
    """A preset by name, or a TOML file by path."""
    source = description.read("chip", "chips", name, ChipError)
    return _parse(source.values, source.name, source.where)


def chip_fields() -> tuple[str, ...]:
    """Dotted names of all that a chip's file may say."""
    return tuple(f"{table}.{key}" if table else key for table, keys in _FIELDS.items() for key in keys)


def chip_settings(chip: Chip) -> dict[str, Any]:
    """A chip as its file would have it, defaults filled in."""
    tile = {**asdict(chip.geometry), "tiles": chip.tiles}
    dram = {k: v for k, v in asdict(chip.dram).items() if v is not None}
    top = {k: getattr(chip, k) for k in _FIELDS[""]}
    buffer = {
        "megabytes": chip.buffer_bytes / 2**20,
        "policy": chip.residency,
        "bytes_per_cycle": chip.port_bytes_per_cycle,
        "accumulator_chunks": chip.accumulator_chunks,
    }
    vector = {"lanes": chip.vector_lanes, "depth_cycles": chip.vector_depth_cycles}
    return {**top, "tile": tile, "buffer": buffer, "dma": asdict(chip.dma), "dram": dram, "vector": vector}


def chip_from_settings(values: Mapping[str, Any], name: str, where: str) -> Chip:
    """Checked as a file is."""
    return _parse(values, name, where)


def _parse(data: Mapping[str, Any], name: str, where: str) -> Chip:
    tables: dict[str, Mapping[str, Any]] = {"": {k: v for k, v in data.items() if not isinstance(v, dict)}}
    tables |= {k: v for k, v in data.items() if isinstance(v, dict)}
    tables_known = {t: dict for t in _FIELDS if t}
    description.check(
        {t: dict(v) for t, v in tables.items() if t}, tables_known, f"{where}: table", ChipError
    )
    for table, values in tables.items():
        description.check(values, _FIELDS[table], f"{where}: [{table}]" if table else f"{where}:", ChipError)
    tile = dict(_table(tables, "tile", where))
    tiles = _within(tile.pop("tiles", 1), 1, 65_536, f"{where}: [tile] tiles")
    try:
        geometry = Geometry(**tile)
    except (GeometryError, TypeError) as error:
        raise ChipError(f"{where}: [tile] {error}") from None
    top, buffer, vector = tables[""], _table(tables, "buffer", where), _table(tables, "vector", where)
    chip = Chip(
        name=name,
        timing=_choice(top.get("timing", "tlm"), get_args(Timing), f"{where}: timing"),
        geometry=geometry,
        tiles=tiles,
        multipliers=_within(
            top.get("multipliers", tiles * geometry.multipliers), 1, 2**31, f"{where}: multipliers"
        ),
        clock_ghz=_within(top.get("clock_ghz", 1.0), 1e-3, 10, f"{where}: clock_ghz"),
        buffer_bytes=int(
            _within(buffer.get("megabytes", 1), 1 / 64, 65_536, f"{where}: [buffer] megabytes") * 2**20
        ),
        residency=_choice(
            buffer.get("policy", "streaming"), get_args(Residency), f"{where}: [buffer] policy"
        ),
        dram=_dram(tables.get("dram", {}), where),
        vector_lanes=_within(vector.get("lanes", 64), 1, 65_536, f"{where}: [vector] lanes"),
        vector_depth_cycles=_within(
            vector.get("depth_cycles", 12), 1, 1024, f"{where}: [vector] depth_cycles"
        ),
        defo_unit_log2=_within(top.get("defo_unit_log2", 0), 0, 31, f"{where}: defo_unit_log2"),
        dma=_dma(tables.get("dma", {}), where),
        port_bytes_per_cycle=_within(
            buffer.get("bytes_per_cycle", 0), 0, 2**20, f"{where}: [buffer] bytes_per_cycle"
        ),
        accumulator_chunks=_within(
            buffer.get("accumulator_chunks", 2), 1, 64, f"{where}: [buffer] accumulator_chunks"
        ),
        partial_sums=_choice(
            top.get("partial_sums", "lanes"), get_args(PartialSums), f"{where}: partial_sums"
        ),
        split_k=_choice(top.get("split_k", "tile"), get_args(SplitK), f"{where}: split_k"),
    )
    least = CHUNKS_SET_ASIDE * chip.dma.chunk_bytes
    if chip.buffer_bytes < least:
        raise ChipError(
            f"{where}: [buffer] megabytes = {buffer.get('megabytes', 1)} does not hold {CHUNKS_SET_ASIDE} chunks of "
            f"{chip.dma.chunk_bytes} bytes ([dma] chunk_bytes): two of weights, one of operands, one of results; "
            f"expected at least {least / 2**20:g} MB, or smaller chunks"
        )
    return chip


def _dma(values: Mapping[str, Any], where: str) -> DmaPolicy:
    limits = {
        "chunk_bytes": (64, 2**28),
        "queue_depth": (1, 256),
        "prefetch_layers": (0, 1024),
        "issue_cycles": (0, 4096),
        "bytes_per_cycle": (0, 2**20),
    }
    for name, (low, high) in limits.items():
        if name in values:
            _within(values[name], low, high, f"{where}: [dma] {name}")
    _choice(values.get("forwarding", "chunk"), get_args(Forwarding), f"{where}: [dma] forwarding")
    return DmaPolicy(**{"chunk_bytes": 16_384, **values})


def _dram(values: Mapping[str, Any], where: str) -> DramConfig:
    """Every field of `DramConfig` may be given; `stacks` stands for eight channels each."""
    if "stacks" in values and "channels" in values:
        raise ChipError(f"{where}: [dram] give stacks or channels, not both")
    given = {k: v for k, v in values.items() if k != "stacks"}
    given.setdefault("channels", values.get("stacks", 1) * CHANNELS_PER_STACK)
    for name, value in given.items():
        if not isinstance(value, bool | str):
            _within(value, 1, 2**20, f"{where}: [dram] {name}")
    _within(given["channels"], 1, 1024, f"{where}: [dram] channels")
    _choice(given.get("mapping", "coarse"), get_args(AddressMapping), f"{where}: [dram] mapping")
    made = DramConfig(**given)
    if made.refresh and made.refresh_loss_ns >= made.refresh_interval_ns:
        raise ChipError(
            f"{where}: [dram] refresh_interval_ns = {made.refresh_interval_ns} leaves no time between two refreshes, each of "
            f"which takes {made.refresh_loss_ns} ns; expected more than that, or refresh = false"
        )
    return made


def _table(tables: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    if name not in tables:
        raise ChipError(f"{where}: table [{name}] is missing")
    return tables[name]  # type: ignore[no-any-return]  # TOML's tables are mappings


def _within(value: Any, low: float, high: float, what: str) -> Any:
    if not low <= value <= high:
        raise ChipError(f"{what} = {value!r} is outside {low}…{high}")
    return value


def _choice(value: Any, choices: tuple[Any, ...], what: str) -> Any:
    if value not in choices:
        raise ChipError(f"{what} = {value!r}, expected one of {', '.join(map(str, choices))}")
    return value
