"""Chips: how many tiles, how much memory, which timing preset. One TOML file each, your own by path.

Interface
    load_chip(name_or_path) -> Chip        `paper`, `paper_twin`, `edge`, `tiny`, or a path to a TOML file
    chip_names() -> tuple of the presets
    Chip                                   frozen; `.geometry`, `.tiles`, `.lanes`, `.multipliers`, `.digest`,
                                           …
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from ditto_cosim.device.timing.dram import AddressMapping, DramConfig
from ditto_cosim.protocol.errors import DittoError, GeometryError
from ditto_cosim.protocol.hardware import Geometry

Timing = Literal["tlm", "paper"]
Residency = Literal["streaming", "resident"]

CHANNELS_PER_STACK = 8
_PRESETS = resources.files("ditto_cosim.device").joinpath("chips")


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
    """4b×8b multipliers of the chip under its own (Ditto-like) lanes; other designs are scaled from the
    paper's ratio."""
    clock_ghz: float
    buffer_bytes: int
    residency: Residency
    """`streaming`: every operand comes from DRAM for every layer. `resident`: what fits stays in the
    buffer."""
    dram: DramConfig
    vector_lanes: int
    vector_depth_cycles: int
    defo_unit_log2: int
    """Defo counts in units of 2^u cycles."""

    @property
    def clock_hz(self) -> int:
        return round(self.clock_ghz * 1e9)

    @property
    def lanes(self) -> int:
        return self.tiles * self.geometry.lanes

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of everything that changes a price."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:16]


_DRAM_TYPES: Mapping[str, type] = {"mapping": str, "refresh": bool}

_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "": {"timing": str, "multipliers": int, "clock_ghz": (int, float), "defo_unit_log2": int},
    "tile": {
        "lanes": int,
        "columns": int,
        "encode_width": int,
        "k_max": int,
        "n_max": int,
        "low_rule": str,
        "weight_banks": int,
        "tiles": int,
    },
    "buffer": {"megabytes": (int, float), "policy": str},
    "dram": {"stacks": int, **{f.name: _DRAM_TYPES.get(f.name, int) for f in fields(DramConfig)}},
    "vector": {"lanes": int, "depth_cycles": int},
}


def chip_names() -> tuple[str, ...]:
    files = _PRESETS.iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_chip(name: str | Path) -> Chip:
    """A preset by name, or a TOML file by path."""
    text = str(name)
    if text in chip_names():
        source = _PRESETS.joinpath(f"{text}.toml").read_text(encoding="utf-8")
        return _parse(source, text, text)
    path = Path(name)
    if not path.exists():
        raise ChipError(
            f"chip {text!r}: neither a preset ({', '.join(chip_names())}) nor a TOML file that exists"
        )
    return _parse(path.read_text(encoding="utf-8"), path.stem, str(path))


def _parse(source: str, name: str, where: str) -> Chip:
    try:
        data = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ChipError(f"{where}: not TOML ({error})") from None
    tables = {"": {k: v for k, v in data.items() if not isinstance(v, dict)}}
    tables |= {k: v for k, v in data.items() if isinstance(v, dict)}
    for table, values in tables.items():
        if table not in _FIELDS:
            raise ChipError(
                f"{where}: table [{table}] is unknown; known: {', '.join(t for t in _FIELDS if t)}"
            )
        for key, value in values.items():
            if key not in _FIELDS[table]:
                raise ChipError(f"{where}: [{table}] {key} is unknown; known: {', '.join(_FIELDS[table])}")
            wanted = _FIELDS[table][key]
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise ChipError(f"{where}: [{table}] {key} = {value!r} has the wrong type")
    tile = dict(_table(tables, "tile", where))
    tiles = _within(tile.pop("tiles", 1), 1, 65_536, f"{where}: [tile] tiles")
    try:
        geometry = Geometry(**tile)
    except (GeometryError, TypeError) as error:
        raise ChipError(f"{where}: [tile] {error}") from None
    top, buffer, vector = tables[""], _table(tables, "buffer", where), _table(tables, "vector", where)
    return Chip(
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
    )


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
    return DramConfig(**given)


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
