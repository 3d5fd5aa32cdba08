# SPDX-License-Identifier: Apache-2.0
"""Robustness: which conclusions of a comparison survive when what nobody knows is varied.

Interface
    variations(chip) -> tuple of Variation       one constant at a time, then all low and all high
    robustness(columns, chip, designs) -> Robustness
        .ditto_over_itc                          (least, most)
        .stable, .unstable                       conclusions, in words; unstable ones say where they turn
        .sentence                                the whole in one

Varied are the constants that no paper publishes and no measurement gives: size of a transfer, transfers under way, how far
layers are fetched ahead, the unit Defo counts in, lanes of the vector unit. Conclusions are what a reader would quote: who is
faster than whom (ITC and Ditto against every design), and what Ditto waits for most.

What this file does not do: vary what is known or measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.device.timing.buffers import CHUNKS_SET_ASIDE

WAITS = {
    "encode": "the encoder",
    "weight_load": "weights",
    "vector": "the vector unit",
    "dram": "DRAM",
    "fill": "filling and draining",
}


@dataclass(frozen=True, slots=True)
class Variation:
    """A chip like the one compared on, but for constants that could as well be so."""

    what: str
    chip: Chip


@dataclass(frozen=True, slots=True)
class Priced:
    """What a variation came to."""

    what: str
    ditto_over_itc: float
    conclusions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Robustness:
    """What hangs on a constant, and what does not."""

    base: Priced
    varied: tuple[Priced, ...]

    @property
    def ditto_over_itc(self) -> tuple[float, float]:
        ratios = [p.ditto_over_itc for p in (self.base, *self.varied)]
        return min(ratios), max(ratios)

    @property
    def stable(self) -> list[str]:
        return sorted(c for c in self.base.conclusions if all(c in p.conclusions for p in self.varied))

    @property
    def unstable(self) -> list[str]:
        found = []
        for conclusion in sorted(self.base.conclusions):
            where = [p.what for p in self.varied if conclusion not in p.conclusions]
            if where:
                found.append(f"{conclusion}: not with {'; '.join(where)}")
        return found

    @property
    def sentence(self) -> str:
        least, most = self.ditto_over_itc
        whole = len(self.base.conclusions)
        ratio = f"Ditto is {least:.2f}× to {most:.2f}× as fast as ITC over {len(self.varied)} variations of what nobody knows"
        if least < 1 < most:
            ratio += ", so which of them is faster hangs on a constant"
        if not self.unstable:
            return f"{ratio}; all {whole} conclusions survive."
        return f"{ratio}; {whole - len(self.unstable)} of {whole} conclusions survive. Unstable: {'; '.join(self.unstable)}."


def variations(chip: Chip) -> tuple[Variation, ...]:
    """Constants a quarter and four times as large, or half and twice, as far as the chip has room."""
    dma, most = chip.dma, chip.buffer_bytes // CHUNKS_SET_ASIDE
    low: dict[str, Chip] = {}
    high: dict[str, Chip] = {}

    def dma_of(
        of: Chip, chunk: int = dma.chunk_bytes, depth: int = dma.queue_depth, ahead: int = dma.prefetch_layers
    ) -> Chip:
        return replace(of, dma=replace(of.dma, chunk_bytes=chunk, queue_depth=depth, prefetch_layers=ahead))

    for made, scale, prefetch, unit in ((low, 0.25, 0, -2), (high, 4.0, 4, 2)):
        chunk = min(max(64, round(dma.chunk_bytes * scale)), most)
        depth = max(1, round(dma.queue_depth * (2.0 if scale > 1 else 0.5)))
        lanes = max(1, round(chip.vector_lanes * (2.0 if scale > 1 else 0.5)))
        unit_log2 = max(0, chip.defo_unit_log2 + unit)
        made[f"chunk_bytes = {chunk}"] = dma_of(chip, chunk=chunk)
        made[f"queue_depth = {depth}"] = dma_of(chip, depth=depth)
        made[f"prefetch_layers = {prefetch}"] = dma_of(chip, ahead=prefetch)
        made[f"defo_unit_log2 = {unit_log2}"] = replace(chip, defo_unit_log2=unit_log2)
        made[f"vector lanes = {lanes}"] = replace(chip, vector_lanes=lanes)
        together = dma_of(chip, chunk, depth, prefetch)
        together = replace(together, defo_unit_log2=unit_log2, vector_lanes=lanes)
        made["all of these small" if scale < 1 else "all of these large"] = together
    return tuple(
        Variation(what, made) for what, made in {**low, **high}.items() if made.digest != chip.digest
    )


def robustness(columns: RecordColumns, chip: Chip, designs: Sequence[str]) -> Robustness:
    """Compares under every variation; ITC and Ditto always take part."""
    names = dict.fromkeys(("itc", "ditto", *designs))
    base, *varied = (
        _conclude(v.what, {name: price_run(columns, v.chip, load_design(name)) for name in names})
        for v in (Variation("as the chip says", chip), *variations(chip))
    )
    return Robustness(base, tuple(varied))


def _conclude(what: str, runs: Mapping[str, RunTime]) -> Priced:
    cycles = {name: run.total_cycles for name, run in runs.items()}
    found = set()
    for one in ("itc", "ditto"):
        for other in cycles.keys() - {one}:
            faster, slower = (one, other) if cycles[one] <= cycles[other] else (other, one)
            found.add(f"{faster} is faster than {slower}")
    stalls = runs["ditto"].stall_totals()
    most = max(stalls, key=lambda cause: stalls[cause])
    found.add(f"ditto waits most for {WAITS[most]}")
    return Priced(what, cycles["itc"] / max(cycles["ditto"], 1), frozenset(found))
