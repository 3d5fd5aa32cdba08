# SPDX-License-Identifier: Apache-2.0
"""Golden in the device's place: the same picture as a device's, whatever the batch, close to fp32's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ditto_cosim.host.analysis import quality as qualities
from ditto_cosim.host.analysis.quality import Quality, Series, on_golden, side_by_side
from ditto_cosim.host.pipeline.accelerate import SCALES_FILE, accelerate
from ditto_cosim.host.zoo import load_pipeline, models
from ditto_cosim.host.zoo.measure import generate

MODEL, STEPS = "fashion-ddpm", 2


def scales() -> Path:
    weights = models()[MODEL].weights
    assert weights is not None
    return weights / SCALES_FILE


def pictures(pipeline: Any, batch: int) -> np.ndarray:
    with torch.no_grad():
        return generate(pipeline, models()[MODEL], 2, seed=5, steps=STEPS, batch=batch)[0]


@pytest.fixture(scope="module")
def golden() -> np.ndarray:
    return pictures(on_golden(load_pipeline(MODEL), scales=scales()), 2)


def test_golden_makes_the_pictures_of_a_device(golden: np.ndarray) -> None:
    pipeline = accelerate(load_pipeline(MODEL), backend="model", scales=scales())
    try:
        assert np.array_equal(golden, pictures(pipeline, 2))
    finally:
        pipeline.unet.finish()
        pipeline.unet.shut_down()


def test_golden_pictures_do_not_depend_on_the_batch(golden: np.ndarray) -> None:
    assert np.array_equal(golden, pictures(on_golden(load_pipeline(MODEL), scales=scales()), 1))


def test_quality_compares_the_same_seeds(golden: np.ndarray) -> None:
    fp32 = pictures(load_pipeline(MODEL), 2)
    series = {"fp32": Series((fp32,), ({},), 0.0), "static": Series((golden,), ({},), 0.0)}
    result = Quality(MODEL, 2, STEPS, (0,), series)
    difference = result.mean_absolute_difference("static")
    assert 0 < difference < 0.05
    assert result.psnr_db("static") > 20
    assert np.abs(fp32 - golden[::-1]).mean() > 3 * difference
    sheet = np.asarray(side_by_side(result))
    assert sheet.shape[0] == 2 * sheet.shape[1] // 10


def test_quality_needs_its_classifier_before_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(dataset: str) -> None:
        raise FileNotFoundError("the classifier is missing")

    def generated(*_: Any, **__: Any) -> None:
        raise AssertionError("pictures were made first")

    monkeypatch.setattr("ditto_cosim.host.zoo.classifier.load_classifier", missing)
    monkeypatch.setattr("ditto_cosim.host.zoo.measure.generate", generated)
    with pytest.raises(FileNotFoundError, match="classifier is missing"):
        qualities.measure_quality(MODEL, 2)
