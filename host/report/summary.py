# SPDX-License-Identifier: Apache-2.0
"""What a reader asks of a `RunReport`: where cycles went, what Defo chose, which layers are slow and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ditto_cosim.host.report.model import ABSENT, I64, RunReport
from ditto_cosim.protocol.hardware import MODES

CAUSES = {
    "compute": "PEs at work",
    "encode": "PEs wait for the encoder",
    "weight_load": "PEs wait for weights",
    "vector": "PEs wait for the vector unit",
    "dram": "PEs wait for DRAM",
    "fill": "pipeline fills and drains",
}
"""Where a cycle can go, in words; anything else is shown by its own name."""


def forced_shares(report: RunReport) -> list[tuple[str, float]]:
    """Layers whose base mode was forced, and in which share of the steps; most often first."""
    share = report.forced.mean(0)
    return [(report.names[i], float(share[i])) for i in np.argsort(-share, kind="stable") if share[i]]


@dataclass(frozen=True, slots=True)
class SlowLayer:
    """One row of the table of slowest layers, over the whole run."""

    name: str
    op: str
    cycles: int
    share: float
    """Of the cycles of all layers."""
    modes: str
    causes: Mapping[str, float]
    """Share of the layer's cycles by cause, largest first."""
    why: str


def seconds(report: RunReport) -> float:
    """What the run takes on the chip, at the chip's own clock."""
    return report.total_cycles / report.clock_hz


def causes(report: RunReport) -> dict[str, I64]:
    """Every cycle of every layer once: the PEs at work, or why they were not."""
    parts = {"compute": report.unit_cycles["compute"]} if "compute" in report.unit_cycles else {}
    parts |= report.stall_cycles
    rest = report.cycles - sum(parts.values(), np.zeros_like(report.cycles))
    return parts | {"other": rest} if rest.any() else parts


def cycles_by_cause(report: RunReport) -> dict[str, int]:
    return {name: int(array.sum()) for name, array in causes(report).items()}


def shares(report: RunReport, mode: str | None = None) -> dict[str, float]:
    """Zero, low and full shares of what the encoder met, in one mode or in all that classify."""
    where = report.classified if mode is None else report.mode == MODES.index(mode)
    counts = {name: int(getattr(report, name)[where].sum()) for name in ("zero", "low", "full")}
    total = sum(counts.values())
    return {name: count / total if total else 0.0 for name, count in counts.items()}


def shares_by_step(report: RunReport) -> dict[str, npt.NDArray[np.float64]]:
    """The same by step; NaN where no layer classified."""
    where = report.classified
    counts = {n: np.where(where, getattr(report, n), 0).sum(1).astype(float) for n in ("zero", "low", "full")}
    total = sum(counts.values(), np.zeros(len(report.steps)))
    total[total == 0] = np.nan
    return {name: count / total for name, count in counts.items()}


def measured_share(report: RunReport) -> float:
    """Of the layers' executions, how many had their lanes' cycles counted by RTL or hardware."""
    return float(report.measured[report.mode != ABSENT].mean())


def measured_words(report: RunReport) -> str:
    share = measured_share(report)
    if share == 1:
        return "lane cycles measured in RTL"
    return (
        "modelled by the cycle contract"
        if share == 0
        else f"lane cycles measured in RTL for {share:.0%} of layers"
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """Layers that ended the run in one mode."""

    mode: str
    layers: int
    cycles_share: float
    """Their share of the layers' cycles."""
    first_cycles: int
    """Their cycles in the first step in which they run, and …"""
    second_cycles: int
    """… in the second, which Defo compares."""


def decisions(report: RunReport) -> list[Decision]:
    """What Defo settled on: layers by the mode of the last step in which theirs was not forced."""
    free = np.where(
        (report.forced == 0) & (report.mode != ABSENT), np.arange(len(report.steps))[:, None], -1
    ).max(0)
    last = report.mode[np.maximum(free, 0), np.arange(len(report.names))]
    total = max(int(report.cycles.sum()), 1)
    found = []
    for index, mode in enumerate(MODES):
        chosen = last == index
        if chosen.any():
            cycles, ran = report.cycles[:, chosen], report.mode[:, chosen] != ABSENT
            turn = np.cumsum(ran, 0) * ran
            first, second = (int(cycles[turn == at].sum()) for at in (1, 2))
            found.append(Decision(mode, int(chosen.sum()), cycles.sum() / total, first, second))
    return found


@dataclass(frozen=True, slots=True)
class StepsOfClass:
    """Full steps of a run, or the increments between them."""

    name: str
    steps: int
    layers: int
    """That run in one of them."""
    cycles: int
    """Of their layers."""
    slots: int
    traffic_bytes: int


def step_classes(report: RunReport) -> list[StepsOfClass]:
    """One row, or two if the run has increments."""
    found = []
    for name, chosen in (("full", ~report.increments), ("increment", report.increments)):
        if not chosen.any():
            continue
        found.append(
            StepsOfClass(
                name,
                int(chosen.sum()),
                int((report.mode[chosen] != ABSENT).sum(1).max()),
                int(report.cycles[chosen].sum()),
                int(report.slots[chosen].sum()),
                sum(int(array[chosen].sum()) for array in report.traffic_bytes.values()),
            )
        )
    return found


def slowest(report: RunReport, count: int = 10) -> list[SlowLayer]:
    """The layers that took most cycles over the run."""
    by_layer = report.cycles.sum(0)
    total = max(int(by_layer.sum()), 1)
    parts = {name: array.sum(0) for name, array in causes(report).items()}
    rows = []
    for layer in np.argsort(-by_layer, kind="stable")[:count]:
        cycles = max(int(by_layer[layer]), 1)
        split = {name: int(part[layer]) / cycles for name, part in parts.items()}
        split = dict(sorted(split.items(), key=lambda item: -item[1]))
        used = report.mode[:, layer]
        modes = ", ".join(f"{m} ×{int((used == i).sum())}" for i, m in enumerate(MODES) if (used == i).any())
        rows.append(
            SlowLayer(
                report.names[layer],
                report.ops[layer],
                int(by_layer[layer]),
                cycles / total,
                modes,
                split,
                _why(report, int(layer), split),
            )
        )
    return rows


def _why(report: RunReport, layer: int, split: Mapping[str, float]) -> str:
    """One sentence on what a faster version of this layer would have to change."""
    cause = next(iter(split), "other")
    share = f"{split.get(cause, 0.0):.0%} of its cycles"
    elements = int((report.zero + report.low + report.full)[:, layer].sum())
    slots = int(report.slots[:, layer].sum())
    per_element = f"{slots / elements:.2f} of 2 slots per element" if elements else "no elements"
    match cause:
        case "compute":
            return f"the PEs work in {share}: {per_element} reach them"
        case "encode":
            return f"the encoder sets the pace in {share}: too few column blocks to hide it behind"
        case "weight_load":
            return f"weights load in {share}: too few rows share them"
        case "vector":
            return f"the vector unit sets the pace in {share}"
        case "dram":
            traffic = {name: int(a[:, layer].sum()) for name, a in report.traffic_bytes.items()}
            most = max(traffic, key=lambda n: traffic[n], default="")
            amount = traffic[most] / max(sum(traffic.values()), 1) if most else 0.0
            return f"DRAM sets the pace in {share}; {most.replace('_', ' ')} is {amount:.0%} of its bytes"
        case "fill":
            return f"the pipeline fills and drains in {share}: the layer is too small for this chip"
    return f"{cause}: {share}"


def headline(report: RunReport) -> list[tuple[str, str]]:
    """The run in a few lines: label and text."""
    steps = len(report.steps)
    time = f"{seconds(report) * 1e3:,.2f} ms at {report.clock_hz / 1e9:g} GHz"
    full = int((~report.increments).sum())
    classes = f" ({full} full, {steps - full} increments)" if report.period > 1 else ""
    lines = [
        ("model", f"{report.model}, {steps} steps{classes}, {len(report.names)} layers, seed {report.seed}"),
        (
            "accelerator",
            f"{report.design} on {report.chip}, {report.backend} backend, low rule {report.low_rule}",
        ),
        ("cycles", f"{report.total_cycles:,} ({time}; {measured_words(report)})"),
        ("DRAM traffic", f"{sum(int(a.sum()) for a in report.traffic_bytes.values()) / 1e9:,.2f} GB"),
        ("wall time", f"{report.wall_s:,.1f} s ({report.wall_s / steps:,.2f} s a step)"),
        ("verification", verdict_words(report)),
    ]
    if report.robust:
        lines.append(("robustness", report.robust))
    if report.recoveries:
        lines.append(("recoveries", f"the device was restarted {report.recoveries} times; the run went on"))
    return lines


def verdict_words(report: RunReport) -> str:
    verdict = report.verdict
    if verdict is None:
        return "not verified (run with --verify)"
    checked = (
        f"{verdict.layers_checked:,} layers, {verdict.values_checked:,} values and {verdict.delivered_checked:,} delivered "
        "outputs compared, records and totals counted again"
    )
    if verdict.bit_identical:
        beside = (
            ""
            if verdict.snr_db is None
            else f"; {verdict.snr_db:.1f} dB to the live fp32 model on the same inputs"
        )
        if verdict.increment_snr_db is not None:
            beside += (
                f", {verdict.increment_snr_db:.1f} dB in an increment, which leaves out what caching saves"
            )
        trusted = f"; not checked: {'; '.join(verdict.not_checked)}" if verdict.not_checked else ""
        return f"bit-identical to the int8 reference: {checked}{beside}{trusted}"
    return f"DIFFERS from the int8 reference at {verdict.first_difference} ({checked})"
