# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's arrays in a recorded run: how busy they were, other thresholds, and what the page draws of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ditto_cosim.appraisal import appraise
from ditto_cosim.device.pricing.recorded import RecordColumns
from ditto_cosim.device.pricing.two_arrays import SPLITS, THRESHOLDS, RecordedArrays
from ditto_cosim.device.timing.hetero import FILL_CYCLES
from ditto_cosim.host.report import two_arrays
from ditto_cosim.host.report.prices import BothArrays, Threshold, load_prices, save_prices
from ditto_cosim.host.report.sections import sparsity
from ditto_cosim.host.report.sections.base import Shown
from ditto_cosim.protocol.record import RunRecord, RunWriter
from support.relu_denoiser import STEPS, design, info, run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, made = tmp_path_factory.mktemp("run"), design()
    writer = RunWriter(folder, info(made))
    for record in run(made).records:
        writer.append(record)
    return folder


def test_two_arrays_one_of_them_is_always_busy_but_for_the_fill(recorded: Path) -> None:
    arrays = RecordedArrays(RecordColumns.load(RunRecord(recorded)))
    dense, sparse = arrays.busy_by_step()
    assert len(dense) == len(sparse) == STEPS
    total = arrays.cycles()
    fills = FILL_CYCLES * STEPS * len(arrays.layers)
    of_run = arrays.utilisation()
    assert of_run == pytest.approx((_over_steps(arrays, dense), _over_steps(arrays, sparse)))
    assert min(of_run) > 0
    assert total - fills <= sum(of_run) * total
    assert max(dense.max(), sparse.max()) < 1


def _over_steps(arrays: RecordedArrays, shares: np.ndarray) -> float:
    path = arrays.datapath()
    cycles = np.sum([path.arrays(met).total for met in arrays.layers.values()], axis=0)
    return float((shares * cycles).sum() / cycles.sum())


def test_two_arrays_prices_are_kept_and_drawn(recorded: Path) -> None:
    save_prices(appraise(recorded), recorded)
    prices = load_prices(recorded)
    assert prices is not None
    assert prices.two_arrays is not None
    kept = prices.two_arrays
    assert [(r.dense_share, r.threshold) for r in kept.thresholds] == [
        (round(split, 4), at) for split in SPLITS for at in THRESHOLDS
    ]
    mine = RecordedArrays(RecordColumns.load(RunRecord(recorded)))
    assert kept.thresholds[3].speedup == round(mine.cycles(arrays="dense") / mine.cycles(threshold=0.3), 4)
    section = sparsity.section(Shown(None, prices, recorded))  # type: ignore[arg-type]  # it looks at prices and directory
    assert section is not None
    assert set(section.charts) == {"flips", "busy", "theta"}
    busy = json.dumps(section.charts["busy"])
    assert busy.count('"array": "dense"') == busy.count('"array": "sparse"') == STEPS
    assert json.dumps(section.charts["theta"]).count('"speedup"') >= len(kept.thresholds)


@pytest.mark.parametrize(
    ("speedups", "interior"), [((1.0, 1.4, 1.2), True), ((1.5, 1.4, 1.2), False), ((1, 1.2, 1.3), False)]
)
def test_two_arrays_best_threshold_is_interior_or_not(speedups: tuple[float, ...], interior: bool) -> None:
    rows = [Threshold(dense_share=0.5, threshold=i / 2, speedup=s) for i, s in enumerate(speedups)]
    kept = BothArrays(threshold=0.3, dense_busy=[], sparse_busy=[], thresholds=rows)
    assert two_arrays.is_interior(kept) == interior
    assert two_arrays.best_of(kept) == max(((r.threshold, r.speedup) for r in rows), key=lambda r: r[1])
    assert two_arrays.best_of(kept, 0.25) is None
