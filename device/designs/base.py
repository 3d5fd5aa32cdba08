"""What a design is: its multipliers, what they can skip, which mode a layer runs in, what traffic that costs.

Interface
    Design            frozen description; a design is a file in this folder that defines `DESIGN`
    load_design(name) -> Design       by file name (`ditto`, `itc`, `ditto_plus`, …)
    design_names()    -> tuple of those here

A policy says how `pricing/controller.py` chooses the mode of a layer in a step:
    base       always the base mode
    temporal   base in the first step and where forced, temporal otherwise
    defo       Defo's table decides after two steps; `dynamic` may fall back later
    ideal      the cheapest of the design's modes, known beforehand, every layer and step
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Literal

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.hardware import Mode

Policy = Literal["base", "temporal", "defo", "dynamic", "ideal"]
Datapath = Literal["slots", "dense8", "sparse8", "low4", "outlier", "roofline"]
"""How elements become multiplier cycles.
slots     4b×8b multipliers, zeros skipped, full values two slots (Ditto's encoder and PE)
dense8    8b×8b multipliers, every element one
sparse8   8b×8b multipliers, zeros skipped
low4      4b×8b multipliers, no zero skipped, full values two slots
outlier   4b×8b normal PEs take every element of up to 4 bits, 8b×8b outlier PEs the full values beside them
roofline  not a chip of ours: the larger of MACs ÷ peak and bytes ÷ bandwidth, and a launch a command
"""

PAPER_MULTIPLIERS = 39_398
"""Ditto's own count; every design's share of a chip is stated against it (iso-area, Table III)."""


class DesignError(DittoError):
    """A design nobody knows; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A machine known by its data sheet; it does not scale with the chip."""

    macs_per_ns: int
    bytes_per_ns: int
    launch_ns: int
    item_bytes: int
    """Bytes of an operand that is 8 bits on the accelerator."""


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


def design_names() -> tuple[str, ...]:
    package = importlib.import_module("ditto_cosim.device.designs")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base"))


def load_design(name: str) -> Design:
    known = design_names()
    if name not in known:
        raise DesignError(f"design {name!r} is unknown; known: {', '.join(known)}")
    design = importlib.import_module(f"ditto_cosim.device.designs.{name}").DESIGN
    if not isinstance(design, Design):
        raise DesignError(f"design {name!r}: its file defines no Design named DESIGN")
    return design
