# SPDX-License-Identifier: Apache-2.0
"""Scores of generated pictures, held against closed forms and scipy; the shipped classifiers' ability."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ditto_cosim.host.zoo import classifier as judge


def test_frechet_distance_of_shifted_set_is_the_shift_squared() -> None:
    features = np.random.default_rng(0).normal(size=(500, 16))
    assert judge.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert judge.frechet_distance(features, features + 0.5) == pytest.approx(16 * 0.25)


def test_frechet_distance_agrees_with_scipy_sqrtm() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert judge.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert judge.frechet_distance(judge.FeatureStatistics.of(b), a) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("dataset", judge.JUDGES)
def test_frechet_distance_agrees_with_torch_fidelitys_formula(dataset: str) -> None:
    """That package takes the roots of the eigenvalues of the plain product, which is not symmetric; ours never forms it.

    Its own function, on the pictures of cifar-ddpm and fashion-dit, gave our figures to seven digits.
    """
    train, test = (judge.reference_statistics(dataset, split) for split in ("train", "test"))
    for a, b in ((train, test), (test, train)):
        roots = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).astype("complex128")).real
        offset = a.mean - b.mean
        expected = offset @ offset + np.trace(a.covariance) + np.trace(b.covariance) - 2 * roots.sum()
        assert judge.frechet_distance(a, b) == pytest.approx(expected, abs=1e-3)


def test_frechet_distance_survives_dead_features() -> None:
    features = np.random.default_rng(2).normal(size=(50, 4)) * [1, 1, 0, 0]
    assert judge.frechet_distance(features, features * 2) == pytest.approx(
        judge.frechet_distance(features[:, :2], features[:, :2] * 2)
    )


@pytest.mark.parametrize("bad", [np.zeros((1, 4)), np.zeros(4), np.full((3, 4), np.nan)])
def test_feature_statistics_refuse_what_has_none(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected N x F|NaN"):
        judge.FeatureStatistics.of(bad)


def test_class_scores_of_sure_and_of_undecided_answers() -> None:
    sure = np.eye(10) * 60
    scores = judge.class_scores(sure, np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0]))
    assert scores.accuracy == pytest.approx(0.8)
    assert scores.inception_like == pytest.approx(10)
    assert scores.class_shares == pytest.approx([0.1] * 10)
    undecided = judge.class_scores(np.zeros((7, 10)))
    assert undecided.inception_like == pytest.approx(1)
    assert undecided.accuracy is None
    assert undecided.confidence == pytest.approx(0.1)


@pytest.mark.parametrize(("dataset", "accuracy"), [("fashion-mnist", 0.91), ("cifar-10", 0.75)])
def test_shipped_classifier_is_the_recorded_one(dataset: str, accuracy: float) -> None:
    folder = judge.JUDGES[dataset].folder
    record = json.loads((folder / "training.json").read_text())
    for name, expected in record["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert record["accuracy"]["test"] > accuracy


def test_classifier_tells_pictures_from_noise() -> None:
    """The distance to the real statistics must grow with noise added to real-looking pictures."""
    import torch

    from ditto_cosim.host import zoo

    pictures = zoo.load_pipeline("fashion-ddpm")(
        batch_size=16, num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    classifier = judge.load_classifier("fashion-mnist")
    reference = judge.reference_statistics("fashion-mnist")
    rng = np.random.default_rng(0)
    distances = []
    for level in (0.0, 0.2, 0.5):
        noisy = np.clip(pictures + rng.normal(0, level, pictures.shape), 0, 1)
        features, logits = judge.classify(noisy, classifier)
        distances.append(judge.frechet_distance(features, reference))
        assert logits.shape == (16, 10)
    assert distances == sorted(distances)
    assert distances[-1] > 1.5 * distances[0]


def test_classify_refuses_pictures_of_another_size() -> None:
    with pytest.raises(ValueError, match="expected N x 28 x 28"):
        judge.classify(np.zeros((2, 32, 32)), judge.Classifier(judge.JUDGES["fashion-mnist"]))


@pytest.mark.parametrize("dataset", sorted(judge.JUDGES))
def test_classify_takes_pictures_with_channels_first_or_last(dataset: str) -> None:
    classifier = judge.load_classifier(dataset)
    first = np.random.default_rng(0).random((3, *classifier.judge.image_shape), np.float32)
    features, _ = judge.classify(first, classifier)
    again, _ = judge.classify(first.transpose(0, 2, 3, 1), classifier)
    assert np.array_equal(features, again)


def test_generate_draws_each_picture_from_its_own_seed() -> None:
    from ditto_cosim.host import zoo
    from ditto_cosim.host.zoo import measure

    model, pipeline = zoo.models()["fashion-ddpm"], zoo.load_pipeline("fashion-ddpm")
    together, asked = measure.generate(pipeline, model, 3, seed=5, steps=2)
    apart, _ = measure.generate(pipeline, model, 3, seed=5, steps=2, batch=2)
    other, _ = measure.generate(pipeline, model, 3, seed=6, steps=2)
    assert asked is None
    assert together.shape == (3, 28, 28, 1)
    assert np.allclose(together, apart, atol=1e-4)
    assert not np.allclose(together, other, atol=0.1)
    assert measure.grid(together, columns=2, scale=1).size == (60, 60)
