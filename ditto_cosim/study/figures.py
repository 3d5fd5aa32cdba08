# SPDX-License-Identifier: Apache-2.0
"""The paper's Figures 6, 8 and 13–19 redrawn from an evaluation, published means marked.

Interface: `draw(evaluation, directory) -> list of files`. What this file does not do: price or judge
anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ditto_cosim.device.designs.base import load_design
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.study.evaluation import Evaluation, bops, mean, naive_traffic
from ditto_cosim.study.workloads import TITLES

PUBLISHED_MARK: Mapping[str, Any] = {"marker": "D", "color": "black", "linestyle": "none", "zorder": 5}


def draw(evaluation: Evaluation, directory: Path) -> list[Path]:
    """Writes one PNG a figure and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for name, figure in (
        ("fig06_bops", _bops(evaluation)),
        ("fig08_naive_traffic", _naive(evaluation)),
        ("fig13_speedup_energy", _speedup_energy(evaluation)),
        ("fig14_traffic", _traffic(evaluation)),
        ("fig15_software", _software(evaluation)),
        ("fig16_variants", _variants(evaluation)),
        ("fig17_defo", _defo(evaluation)),
        ("fig18_ideal", _ideal(evaluation, False)),
        ("fig19_drift", _ideal(evaluation, True)),
    ):
        path = directory / f"{name}_{evaluation.preset}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        made.append(path)
    return made


def _titles(evaluation: Evaluation) -> list[str]:
    return [TITLES.get(n, n) for n in evaluation.runs]


def _bars(
    axis: Any,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    published: Mapping[str, float],
    label: str,
) -> None:
    """Grouped bars with a mean group at the end; `published` means as diamonds on it."""
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        at = np.arange(len(groups) + 1) + (i - (len(series) - 1) / 2) * width
        axis.bar(at, [*values, mean(list(values))], width, label=name)
        if name in published:
            axis.plot(at[-1], published[name], **PUBLISHED_MARK)
    if published:
        axis.plot([], [], label="published mean", **PUBLISHED_MARK)
    axis.set_xticks(range(len(groups) + 1), [*groups, "mean"])
    axis.set_ylabel(label)
    axis.legend(fontsize=7, ncols=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def _one(
    evaluation: Evaluation, series: Mapping[str, Sequence[float]], published: Mapping[str, float], label: str
) -> Any:
    figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
    _bars(axis, _titles(evaluation), series, published, label)
    return figure


def _title(design: str) -> str:
    return load_design(design).title


def _bops(evaluation: Evaluation) -> Any:
    figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
    modes: tuple[Mode, ...] = ("original", "spatial", "temporal")
    base = bops(evaluation.shares["original"])
    axis.bar(modes, [bops(evaluation.shares[m]) / base for m in modes if m in evaluation.shares])
    axis.plot(["spatial", "temporal"], [1 - 0.388, 1 - 0.533], label="published mean", **PUBLISHED_MARK)
    axis.set_ylabel("BOPs over original activations")
    axis.legend()
    return figure


def _naive(evaluation: Evaluation) -> Any:
    titles = list(TITLES.values())
    figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
    _bars(
        axis,
        titles,
        {"temporal, no check": naive_traffic()},
        {"temporal, no check": 2.75},
        "bytes over original",
    )
    return figure


def _speedup_energy(evaluation: Evaluation) -> Any:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6), layout="constrained")
    designs = ("itc", "diffy", "cambricon_d", "ditto", "ditto_plus")
    times = {_title(d): evaluation.speedup(d) for d in designs}
    _bars(
        top,
        _titles(evaluation),
        times,
        {"Ditto": 1.5, "Ditto+": 1.59, "Diffy": 1.14, "Cambricon-D": 0.96},
        "speed-up",
    )
    energies = {_title(d): evaluation.energy(d) for d in designs}
    marks = {"Ditto": 0.8226, "Ditto+": 0.7708, "Diffy": 0.857, "Cambricon-D": 1.449}
    _bars(bottom, _titles(evaluation), energies, marks, "energy over ITC")
    return figure


def _traffic(evaluation: Evaluation) -> Any:
    series = {_title(d): evaluation.traffic(d) for d in ("cambricon_d", "ditto", "ditto_plus")}
    return _one(evaluation, series, {"Cambricon-D": 1.95, "Ditto": 1.56, "Ditto+": 1.36}, "bytes over ITC")


def _software(evaluation: Evaluation) -> Any:
    base = "cambricon_d_original"
    designs = (
        base,
        "cambricon_d",
        "cambricon_d_ditto",
        "ditto",
        "ditto_sign_mask",
        "ditto_plus",
        "ditto_plus_sign_mask",
    )
    series = {_title(d): evaluation.speedup(d, base) for d in designs}
    return _one(
        evaluation, series, {_title("cambricon_d_ditto"): 1.16}, "speed-up over Cambricon-D (original)"
    )


def _variants(evaluation: Evaluation) -> Any:
    """Compute and DRAM stall of each design's mean, in units of ITC's time."""
    designs = ("itc", "ds", "db", "db_ds", "db_ds_attn", "ditto", "ditto_plus")
    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    names = [_title(d) for d in designs]
    busy = [mean(evaluation.busy(d)) for d in designs]
    stall = [mean(evaluation.dram_stall(d)) for d in designs]
    whole = [mean([1 / s for s in evaluation.speedup(d)]) for d in designs]
    axis.bar(names, busy, label="compute")
    axis.bar(names, stall, bottom=busy, label="DRAM stall")
    rest = [w - b - s for w, b, s in zip(whole, busy, stall, strict=True)]
    axis.bar(names, rest, bottom=[b + s for b, s in zip(busy, stall, strict=True)], label="other stalls")
    axis.plot(["DB&DS&Attn.", "Ditto"], [1.1832 / 1.5, 1 / 1.5], label="published", **PUBLISHED_MARK)
    axis.set_ylabel("cycles over ITC")
    axis.legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def _defo(evaluation: Evaluation) -> Any:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
    designs = ("ditto", "ditto_plus")
    back = {_title(d): evaluation.back(d) for d in designs}
    _bars(top, _titles(evaluation), back, {"Ditto": 0.144, "Ditto+": 0.3829}, "layers changed back")
    right = {_title(d): evaluation.accuracy(d) for d in designs}
    _bars(bottom, _titles(evaluation), right, {"Ditto": 0.92, "Ditto+": 0.8811}, "accuracy of Defo")
    return figure


def _ideal(evaluation: Evaluation, drifting: bool) -> Any:
    runs = evaluation.drifting if drifting else evaluation.runs
    pairs = (
        ("ditto", "ideal_ditto"),
        ("dynamic_ditto" if drifting else "ditto_plus", "ideal_ditto" + "_plus" * (not drifting)),
    )
    series = {
        _title(design): [r[ideal].total_cycles / r[design].total_cycles for r in runs.values()]
        for design, ideal in pairs
    }
    published = {"Ditto": 0.9803, "Dynamic-Ditto": 0.9818} if drifting else {"Ditto": 0.988, "Ditto+": 0.958}
    return _one(evaluation, series, published, "performance over ideal")
