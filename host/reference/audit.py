# SPDX-License-Identifier: Apache-2.0
"""Holds what a device reports of a step against golden's operands: its record, its layer reports, its totals.

Recomputed: which modes were possible and which were forced, the slots of every row and the classes of every work in
every mode, the tags of block-scaled layers, the lanes' cycles of the mode that ran (by the written contract, whether
measured or modelled), every sum. `NOT_CHECKED` names what is taken on trust. What this file does not do: values (`golden.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ditto_cosim.host.reference.detector import Recount
from ditto_cosim.host.reference.encoder import Encoder, LayerOperands, RowCounts, arrange, modes_of
from ditto_cosim.host.reference.lanes import lane_cycles
from ditto_cosim.protocol.errors import GeometryError
from ditto_cosim.protocol.hardware import Geometry, Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.messages import LayerReport
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import TRAFFIC, LayerRecord, StepRecord, SubOp, layer_work, split_k

NOT_CHECKED = (
    "cycles of DRAM, DMA and vector unit, of the commands before the first layer too",
    "DRAM traffic and energy",
    "the choice among possible modes (Defo)",
)
LANES_NOT_CHECKED = "cycles of the lanes (not those of the written contract under this design and chip)"

Facts = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Where what a device reported first departed from what golden's operands say."""

    step: int
    what: str
    """`record`, `report` or `totals`, and of which layer."""
    device: str
    golden: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.what}: the device says {self.device}, golden says {self.golden}"


class Audit:
    """Follows a run: `observe` sees every layer's operands in program order, `check` what was reported of the step."""

    def __init__(self, program: Program, facts: Facts) -> None:
        self.program = program
        self._encoder = Encoder(str(facts["low_rule"]), int(facts["k_max"]))  # type: ignore[arg-type]  # refused there
        self._geometry = _geometry(facts)
        self._tiles, self._adders = int(facts.get("tiles", 0)), int(facts.get("adders", 0))
        self._recount = Recount(str(facts.get("design", "")))
        self._before: dict[int, LayerOperands] = {}
        self._now: dict[int, LayerOperands] = {}
        self._met: dict[int, dict[Mode, tuple[RowCounts, ...]]] = {}
        self._forced: dict[int, bool] = {}
        self._lanes: dict[int, int] = {}
        self._cycles = 0
        self._steps = 0
        self.layers_checked = 0
        """Layer records compared with golden's counts."""

    @property
    def not_checked(self) -> tuple[str, ...]:
        return NOT_CHECKED if self._geometry is not None else (LANES_NOT_CHECKED, *NOT_CHECKED)

    def resume(self, cycles: int, steps: int) -> None:
        """Goes on behind so many steps."""
        self._cycles, self._steps = cycles, steps

    def observe(self, layer: int, operands: list[Tensor], counts: bool = True) -> None:
        """Operands of one layer. `counts` false: only remember them, for the next step."""
        command = self.program.layers[layer]
        now = self._now[layer] = arrange(command, operands)
        if not counts:
            return
        before = self._before.get(layer)
        if command.op in BLOCK_LAYER_OPS:
            self._forced[layer] = False
            self._met[layer] = {"original": self._encoder.meets(command, "original", now, None, operands[2])}
            return
        modes, self._forced[layer] = modes_of(command, now, before)
        self._met[layer] = {
            mode: self._encoder.meets(command, mode, now, before, operands[2]) for mode in modes
        }

    def end_step(self) -> None:
        """What was observed is what later steps take differences to: a layer's is the last step in which it ran."""
        self._before |= self._now
        self._now = {}
        self._met, self._forced, self._lanes = {}, {}, {}

    def check(
        self, record: StepRecord, reports: Sequence[LayerReport], totals: Mapping[str, int]
    ) -> Discrepancy | None:
        """The first thing that does not hold of a step whose layers have all been observed."""
        found = self._check_record(record) or self._check_reports(record, reports)
        return found or self._check_totals(record, totals)

    # --- pieces -----------------------------------------------------------------------------------------------------------

    def _check_record(self, record: StepRecord) -> Discrepancy | None:
        layers = [r.layer for r in record.layers]
        expected = self.program.layers_of(self.program.step_class(record.step))
        if layers != list(expected):
            return Discrepancy(
                record.step, "record", f"{len(layers)} layers", f"each of {len(expected)} once"
            )
        for layer in record.layers:
            if (found := self._check_layer(record.step, layer)) is not None:
                return found
            self.layers_checked += 1
        return None

    def _check_layer(self, step: int, record: LayerRecord) -> Discrepancy | None:
        where = f"record of layer {self.program.layers[record.layer].name!r}"
        met, forced = self._met[record.layer], self._forced[record.layer]
        if record.forced != forced:
            return Discrepancy(step, f"{where}, base mode forced", str(record.forced), str(forced))
        if record.works.keys() != met.keys() or record.mode not in met:
            said = f"{record.mode} of {', '.join(sorted(record.works))}"
            return Discrepancy(step, f"{where}, mode", said, f"one of {', '.join(sorted(met))}")
        for mode, works in met.items():
            expected = layer_work(self.program, record.layer, mode)
            subops = record.works[mode]
            if tuple(s.work for s in subops) != expected:
                return Discrepancy(step, f"{where} ({mode}), works", str(subops), str(expected))
            for subop, seen in zip(subops, works, strict=True):
                found = self._check_work(step, f"{where} ({mode})", mode, subop, seen)
                if found is not None:
                    return found
        if (found := self._check_tags(step, where, record)) is not None:
            return found
        if self._geometry is None:
            return None
        predicted = self._lanes[record.layer] = self._lane_cycles(record)
        if record.measured_cycles not in (None, predicted):
            said = str(record.measured_cycles)
            return Discrepancy(step, f"{where} ({record.mode}), measured lane cycles", said, str(predicted))
        return None

    def _check_work(
        self, step: int, where: str, mode: Mode, subop: SubOp, met: RowCounts
    ) -> Discrepancy | None:
        said, right = (subop.zero, subop.low, subop.full), (met.zero, met.low, met.full)
        if said != right:
            return Discrepancy(step, f"{where}, elements (zero, low, full)", str(said), str(right))
        splits = split_k(subop.work.k, self._encoder.k_max)
        if subop.splits != splits or (subop.slots is None) != (mode == "original"):
            return Discrepancy(step, f"{where}, chunks of K", str(subop.splits), str(splits))
        if (subop.channels is None) != (met.channels is None):
            what = "counts of channels" if met.channels is None else "none"
            return Discrepancy(step, f"{where}, counts by channel", what, "those of 4-bit products alone")
        if subop.channels is not None and met.channels is not None:
            return _check_channels(step, where, subop.channels, met.channels)
        if subop.slots is None or met.slots is None:
            return None
        slots = met.slots
        if (subop.slots != slots).any():
            chunk, row = (int(i) for i in np.argwhere(subop.slots != slots)[0])
            return Discrepancy(
                step,
                f"{where}, slots of row {row}, chunk {chunk}",
                str(subop.slots[chunk, row]),
                str(slots[chunk, row]),
            )
        return None

    def _check_tags(self, step: int, where: str, record: LayerRecord) -> Discrepancy | None:
        """Which array every channel went to."""
        said, met = record.works[record.mode][0].channels, self._met[record.layer][record.mode][0].channels
        if said is None or met is None:
            return None
        codes = self._now[record.layer].arrays[0].numel()
        right = self._recount.of_layer(record.layer, step, met[0].tolist(), codes // met.shape[1])
        tags = [bool(tag) for tag in said[2]]
        if right is not None and tags != right:
            at = next(i for i, (one, other) in enumerate(zip(tags, right, strict=True)) if one != other)
            words = {True: "sparse", False: "dense"}
            return Discrepancy(step, f"{where}, tag of channel {at}", words[tags[at]], words[right[at]])
        return None

    def _lane_cycles(self, record: LayerRecord) -> int:
        assert self._geometry is not None
        works = layer_work(self.program, record.layer, record.mode)
        return sum(
            lane_cycles(self._geometry, self._tiles, work, met.slots, self._adders)
            for work, met in zip(works, self._met[record.layer][record.mode], strict=True)
        )

    def _check_reports(self, record: StepRecord, reports: Sequence[LayerReport]) -> Discrepancy | None:
        if [r.layer for r in reports] != [r.layer for r in record.layers]:
            said = f"{len(reports)} layers reported"
            return Discrepancy(record.step, "reports", said, f"{len(record.layers)}, in order")
        for report, layer in zip(reports, record.layers, strict=True):
            command = self.program.layers[layer.layer]
            ran = layer.works[layer.mode]
            right: dict[str, object] = {
                "step": record.step,
                "name": command.name,
                "op": command.op,
                "mode": layer.mode,
                "forced_base": layer.forced,
                "zero": sum(s.zero for s in ran),
                "low": sum(s.low for s in ran),
                "full": sum(s.full for s in ran),
                "slots": sum(s.slot_total for s in ran),
                "cycles": layer.charged_cycles,
            }
            if layer.layer in self._lanes:
                right["lane_cycles"] = self._lanes[layer.layer]
            if layer.traffic_bytes is not None:
                right["traffic_bytes"] = dict(zip(TRAFFIC, layer.traffic_bytes, strict=True))
            for name, value in right.items():
                if getattr(report, name) != value:
                    where = f"report of layer {command.name!r}, {name}"
                    return Discrepancy(record.step, where, repr(getattr(report, name)), repr(value))
        return None

    def _check_totals(self, record: StepRecord, totals: Mapping[str, int]) -> Discrepancy | None:
        charged = [layer.charged_cycles for layer in record.layers]
        if record.charged_cycles is None or None in charged:
            return Discrepancy(record.step, "record, charged cycles", "none", "those of every layer")
        # Layers overlap, but the lanes take one after another.
        of_layers, of_lanes = sum(c for c in charged if c is not None), sum(self._lanes.values())
        if record.charged_cycles < max(of_layers, of_lanes):
            said = str(record.charged_cycles)
            least = f"at least its layers' {of_layers} and its lanes' {of_lanes}"
            return Discrepancy(record.step, "record, cycles of the step", said, least)
        self._cycles += record.charged_cycles
        self._steps += 1
        right = {"cycles": self._cycles, "steps": self._steps}
        said_totals = {name: totals.get(name) for name in right}
        if said_totals != right:
            return Discrepancy(record.step, "totals", str(said_totals), str(right))
        return None


def _check_channels(
    step: int, where: str, said: npt.NDArray[np.uint32], right: npt.NDArray[np.int64]
) -> Discrepancy | None:
    for row, what in enumerate(("codes other than 0", "codes other than 0 as windows meet them")):
        if len(wrong := np.flatnonzero(said[row] != right[row])):
            at = wrong[0]
            return Discrepancy(
                step, f"{where}, {what} of channel {at}", str(said[row, at]), str(right[row, at])
            )
    return None


def _geometry(facts: Facts) -> Geometry | None:
    """The chip's tile, if the lanes of this run are priced by the written contract."""
    if not facts.get("lane_contract"):
        return None
    try:
        return Geometry(
            lanes=int(facts["lanes"]),
            columns=int(facts["columns"]),
            encode_width=int(facts["encode_width"]),
            k_max=int(facts["k_max"]),
            n_max=int(facts["n_max"]),
            weight_banks=int(facts["weight_banks"]),
            pe_stages=int(facts.get("pe_stages", 1)),  # what records had before there was a choice
        )
    except (KeyError, ValueError, GeometryError):
        return None
