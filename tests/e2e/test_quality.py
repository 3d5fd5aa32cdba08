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
    scored = {"frechet_distance": 3.0}, {"frechet_distance": 5.0}
    series = {
        "fp32": Series((fp32,), (scored[0],), 0.0),
        "static": Series((golden,), (scored[1],), 0.0),
    }
    result = Quality(MODEL, 2, STEPS, (5,), series)
    assert 0 < result.mean_absolute_difference("static") < 0.05
    assert result.psnr_db("static") > 20
    assert result.cost("static", "frechet_distance") == (2.0, None)
    assert np.abs(fp32 - golden[::-1]).mean() > 3 * result.mean_absolute_difference("static")
    sheet = np.asarray(side_by_side(result))
    assert sheet.shape == (2 * 2 * 30, 2 * 2 * 30)


def test_error_bars_are_those_of_the_seeds() -> None:
    blank = np.zeros((1, 28, 28, 1), np.float32)
    figures = tuple({"frechet_distance": value} for value in (1.0, 2.0, 6.0))
    series = Series((blank,) * 3, figures, 0.0)
    assert series.mean("frechet_distance") == 3.0
    assert series.error("frechet_distance") == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)


def test_pictures_that_are_kept_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    for kind in ("fp32", "static"):
        np.savez_compressed(tmp_path / f"{MODEL}.{kind}.seed4.npz", pictures=kept)
    monkeypatch.setattr(qualities, "load_model", lambda _name: pytest.fail("a model was loaded"))
    result = qualities.measure_quality(MODEL, 2, seeds=(4,), keep=tmp_path)
    assert np.array_equal(result.series["static"].pictures[0], kept[:2].astype(np.float32) / 255)
    assert result.psnr_db("static") == float("inf")


def test_quality_needs_its_classifier_before_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(dataset: str) -> None:
        raise FileNotFoundError("the classifier is missing")

    def generated(*_: Any, **__: Any) -> None:
        raise AssertionError("pictures were made first")

    monkeypatch.setattr("ditto_cosim.host.zoo.classifier.load_classifier", missing)
    monkeypatch.setattr("ditto_cosim.host.zoo.measure.generate", generated)
    with pytest.raises(FileNotFoundError, match="classifier is missing"):
        qualities.measure_quality(MODEL, 2)
