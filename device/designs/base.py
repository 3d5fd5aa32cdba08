# SPDX-License-Identifier: Apache-2.0
"""What a design is: its multipliers, what they can skip, which mode a layer runs in, what traffic that costs.

Interface
    load_design(name_or_path) -> Design   `ditto`, `itc`, `ditto_plus`, …, or a TOML file by path, exactly as a chip;
                                          `extends = "ditto"` in it starts from another design
    design_names() -> tuple of those here
    Design                                frozen; `.description` and `Design.from_description` travel in records

A policy says how `pricing/controller.py` chooses the mode of a layer in a step:
    base       always the base mode
    temporal   base in the first step and where forced, temporal otherwise
    defo       Defo's table decides after two steps; `dynamic` may fall back later
    ideal      the cheaper of the design's modes, known beforehand, every layer and step
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ditto_cosim.device import description
from ditto_cosim.device.timing.hetero import Detector, TagSource
from ditto_cosim.device.timing.traffic import Packing
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.program import Program

Policy = Literal["base", "temporal", "defo", "dynamic", "ideal"]
Datapath = Literal["slots", "dense8", "sparse8", "low4", "outlier", "hetero", "roofline"]
"""How elements become multiplier cycles.
slots     4b×8b multipliers, zeros skipped, full values two slots (Ditto's encoder and PE)
dense8    8b×8b multipliers, every element one
sparse8   8b×8b multipliers, zeros skipped
low4      4b×8b multipliers, no zero skipped, full values two slots
outlier   4b×8b normal PEs take every element of up to 4 bits, 8b×8b outlier PEs the full values beside them
hetero    a dense and a sparse array of 4b×8b multipliers side by side (SQ-DM), for block-scaled products and 8-bit layers
roofline  not a chip of ours: the larger of MACs ÷ peak and bytes ÷ bandwidth, and a launch a command
"""

PAPER_MULTIPLIERS = 39_398
"""Ditto's own count; every design's share of a chip is stated against it (iso-area, Table III)."""


class DesignError(DittoError):
    """A design nobody knows, or a description that cannot be one; the message names file, field and what was expected."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A machine known by its data sheet; it does not scale with the chip."""

    macs_per_ns: int
    bytes_per_ns: int
    launch_ns: int
    item_bytes: int
    """Bytes of an operand that is 8 bits on the accelerator."""


ArrayKinds = Literal["both", "dense", "sparse"]
Layout = Literal["channel_last", "channel_first"]
EightBits = Literal["dense", "both"]


@dataclass(frozen=True, slots=True)
class TwoArrays:
    """SQ-DM's two arrays. What is published of it: the threshold, the update in every step, the address order; the rest is
    ours."""

    arrays: ArrayKinds = "both"
    dense_share: float = 0.5
    """Of the multipliers' area, the dense array's."""
    threshold: float = 0.30
    """Least share of zero codes that makes a channel sparse."""
    interval: int = 1
    """Steps from one count of zeros to the next."""
    tags: TagSource = "fresh"
    """`fresh`: counted as this step's input is written; `carried`: those of the step before."""
    sparse_area: float = 1.0
    """Area of a multiplier of the sparse array, in those of the dense one."""
    eight_bits: EightBits = "dense"
    """Which arrays compute 8-bit layers: the dense one alone, or both, their output channels shared out by multipliers."""
    layout: Layout = "channel_last"
    """`channel_first` has a pixel's channels beside each other, so that both arrays fetch every burst."""
    operand_bits: int = 0
    """0: as the formats have it; 16: everything in FP16, codes and scales alike."""
    scale_bits: int = 8
    """Of a block's scale in memory."""
    scale_block: int = 0
    """Elements that share a scale in memory; 0: as the program has it."""

    def multipliers(self, of_chip: int) -> tuple[int, int]:
        """Of the dense and of the sparse array."""
        share = {"both": self.dense_share, "dense": 1.0, "sparse": 0.0}[self.arrays]
        dense = round(of_chip * share)
        return dense, int((of_chip - dense) / self.sparse_area)

    @property
    def packing(self) -> Packing:
        twice = self.layout == "channel_first" and self.arrays == "both"
        return Packing(self.operand_bits, self.scale_bits, self.scale_block, twice)

    @property
    def detector(self) -> Detector:
        return Detector(self.threshold, self.interval, self.tags)


@dataclass(frozen=True)
class Design:
    """A timing-and-traffic policy."""

    name: str
    title: str
    datapath: Datapath
    multipliers: int
    """At the paper's area; on another chip scaled by its multipliers ÷ 39,398."""
    policy: Policy
    base_mode: Mode = "original"
    outlier_multipliers: int = 0
    attention_differences: bool = True
    """Attention matmuls may run temporal; otherwise they stay in the base mode."""
    dependency_check: bool = True
    """Defo's static bypass: no difference or summation traffic where the program says it is not needed."""
    sign_mask: bool = False
    """Cambricon-D's bypass through SiLU and group norm; approximate where values are concerned."""
    power_watts: float = 0.0
    """Table III: compute logic at the paper's size."""
    roofline: Roofline | None = None
    hetero: TwoArrays | None = None

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of everything but its names."""
        facts = {k: v for k, v in asdict(self).items() if k not in ("name", "title")}
        return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]

    @cached_property
    def description(self) -> dict[str, Any]:
        """What `from_description` needs; plain values only."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_description(cls, values: Mapping[str, Any], where: str) -> Design:
        given = dict(values)
        return _design(str(given.pop("name", "?")), given, where)

    @property
    def exact(self) -> bool:
        return not self.sign_mask

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes this design may use, its base first."""
        return (self.base_mode,) if self.policy == "base" else (self.base_mode, "temporal")

    def multipliers_on(self, chip_multipliers: int) -> int:
        if self.roofline is not None:
            return self.multipliers
        return max(1, round(self.multipliers * chip_multipliers / PAPER_MULTIPLIERS))

    def arrays_on(self, chip_multipliers: int) -> tuple[int, int]:
        """Multipliers of the dense and of the sparse array; a split that leaves one that is wanted without any is refused."""
        assert self.hetero is not None
        total = self.multipliers_on(chip_multipliers)
        dense, sparse = self.hetero.multipliers(total)
        wanted = {"both": min(dense, sparse), "dense": dense, "sparse": sparse}
        if not wanted[self.hetero.arrays]:
            raise DesignError(
                f"design {self.name}: of {total} multipliers on this chip {dense} are in the dense array, {sparse} in the sparse "
                f"one; dense_share = {self.hetero.dense_share:g} and sparse_area = {self.hetero.sparse_area:g} leave an array "
                "without PEs"
            )
        return dense, sparse


MOST = 2**31
_TYPES: Mapping[str, Any] = {
    "title": str,
    "datapath": str,
    "multipliers": int,
    "policy": str,
    "base_mode": str,
    "outlier_multipliers": int,
    "attention_differences": bool,
    "dependency_check": bool,
    "sign_mask": bool,
    "power_watts": (int, float),
    "roofline": dict,
    "hetero": dict,
}


def design_names() -> tuple[str, ...]:
    return description.names("designs")


def designs_for(program: Program) -> tuple[str, ...]:
    """Those here that a program can be priced under: two arrays for block-scaled layers, all others for 8-bit ones alone."""
    scaled = any(c.op in BLOCK_LAYER_OPS for c in program.layers)
    return tuple(n for n in design_names() if (load_design(n).hetero is not None) == scaled)


def load_design(name: str | Path) -> Design:
    """A shipped design by name, or a TOML file by path."""
    source = description.read("design", "designs", name, DesignError)
    return _design(source.name, source.values, source.where)


def _design(name: str, values: Mapping[str, Any], where: str) -> Design:
    description.check(values, _TYPES, f"{where}:", DesignError)
    missing = [
        f.name for f in fields(Design) if f.default is MISSING and f.name != "name" and f.name not in values
    ]
    if missing:
        raise DesignError(
            f"{where}: {', '.join(missing)} missing; give them, or a design that this one `extends`"
        )
    for field, choices in (
        ("datapath", get_args(Datapath)),
        ("policy", get_args(Policy)),
        ("base_mode", MODES),
    ):
        if values.get(field, choices[0]) not in choices:
            raise DesignError(f"{where}: {field} = {values[field]!r}, expected one of {', '.join(choices)}")
    if values.get("base_mode") == "temporal":
        raise DesignError(
            f"{where}: base_mode = 'temporal', but the first step has no differences; expected original or spatial"
        )
    for field in ("multipliers", "outlier_multipliers", "power_watts"):
        if not (field == "multipliers") <= values.get(field, 1) < MOST:
            raise DesignError(f"{where}: {field} = {values[field]!r} must be positive, and below {MOST}")
    if (values["datapath"] == "outlier") != (values.get("outlier_multipliers", 0) > 0):
        raise DesignError(f"{where}: datapath outlier and outlier_multipliers belong together")
    given = dict(values)
    if (hetero := given.pop("hetero", None)) is not None:
        given["hetero"] = _hetero(hetero, where)
    if (hetero is not None) != (values["datapath"] == "hetero"):
        raise DesignError(f"{where}: datapath hetero and a [hetero] table belong together")
    roofline = given.pop("roofline", None)
    if (roofline is not None) != (values["datapath"] == "roofline"):
        raise DesignError(f"{where}: datapath roofline and a [roofline] table belong together")
    if roofline is not None:
        types = {f.name: int for f in fields(Roofline)}
        description.check(roofline, types, f"{where}: [roofline]", DesignError)
        if short := types.keys() - roofline.keys():
            raise DesignError(f"{where}: [roofline] lacks {', '.join(sorted(short))}")
        given["roofline"] = Roofline(**roofline)
    return Design(name=name, **given)


def _hetero(values: Mapping[str, Any], where: str) -> TwoArrays:
    types: dict[str, Any] = {f.name: (int, float) if f.type == "float" else str for f in fields(TwoArrays)}
    types |= dict.fromkeys(("interval", "operand_bits", "scale_bits", "scale_block"), int)
    description.check(values, types, f"{where}: [hetero]", DesignError)
    given = TwoArrays(**values)
    for field, choices in (
        ("arrays", get_args(ArrayKinds)),
        ("tags", get_args(TagSource)),
        ("layout", get_args(Layout)),
        ("eight_bits", get_args(EightBits)),
        ("operand_bits", (0, 16)),
    ):
        if getattr(given, field) not in choices:
            told = ", ".join(map(str, choices))
            raise DesignError(
                f"{where}: [hetero] {field} = {getattr(given, field)!r}, expected one of {told}"
            )
    if not 0 <= given.threshold <= 1:
        raise DesignError(
            f"{where}: [hetero] threshold = {given.threshold} is outside 0…1: the share of zeros that makes a channel sparse"
        )
    if given.arrays == "both" and not 0 < given.dense_share < 1:
        raise DesignError(
            f"{where}: [hetero] dense_share = {given.dense_share} leaves an array without PEs; give a share between 0 and 1, "
            "or arrays = 'dense' or 'sparse'"
        )
    if given.interval < 1 or given.sparse_area <= 0 or given.scale_bits < 1 or given.scale_block < 0:
        raise DesignError(f"{where}: [hetero] interval, sparse_area and scale_bits must be positive")
    return given
