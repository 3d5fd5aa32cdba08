# SPDX-License-Identifier: Apache-2.0
"""Judges pictures: a small convolutional classifier of each data set of the zoo, and scores built on it.

Does: give 128 features and 10 class scores per picture, the Fréchet distance between two sets of features
(or a set and the shipped statistics of the real data), and class scores: accuracy against asked-for classes,
an Inception-Score-like number, and the balance of classes.
Does not: compare with published FID figures: those use another network. Distances measured with different
numbers of pictures are not comparable either; say N beside every figure.

`python -m ditto_cosim.host.zoo.classifier cifar-10 --out FOLDER` trains one again: weights, statistics, card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from . import WEIGHTS, data

Floats = npt.NDArray[np.floating]
Features = npt.NDArray[np.float64]

FEATURES = 128
CLASSES = 10


@dataclass(frozen=True)
class Judge:
    """The classifier of one data set: where it lies, what pictures it takes, how wide it is."""

    dataset: str
    folder: Path
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    widths: tuple[int, int, int]


JUDGES = {
    judge.dataset: judge
    for judge in (
        Judge("fashion-mnist", WEIGHTS / "fashion-classifier", (1, 28, 28), (32, 64, 64)),
        Judge("cifar-10", WEIGHTS / "cifar-classifier", (3, 32, 32), (32, 64, 128)),
    )
}


class Classifier(nn.Module):
    """Three convolutions and two linear layers; input N x C x H x W in 0..1, output (features, logits)."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge
        channels, height, width = judge.image_shape
        layers: list[nn.Module] = []
        for wide in judge.widths:
            layers += [
                nn.Conv2d(channels, wide, 3, padding=1),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels, height, width = wide, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, FEATURES), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images)
        return features, self.head(features)


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features: all that a Fréchet distance needs to know of a set of pictures."""

    count: int
    mean: Features
    covariance: Features

    @staticmethod
    def of(features: Floats) -> FeatureStatistics:
        """Of an N x F array; refuses sets too small to have a covariance."""
        wide = np.asarray(features, np.float64)
        if wide.ndim != 2 or len(wide) < 2:
            raise ValueError(f"features have shape {wide.shape}, expected N x F with N >= 2")
        if not np.isfinite(wide).all():
            raise ValueError("features hold NaN or infinity; were the pictures finite and in 0..1?")
        return FeatureStatistics(len(wide), wide.mean(0), np.atleast_2d(np.cov(wide, rowvar=False)))


@dataclass(frozen=True)
class ClassScores:
    """What the classifier says about a set of pictures."""

    count: int
    accuracy: float | None
    """Share classified as asked for; None when nothing was asked for."""
    inception_like: float
    """exp of the mean divergence of a picture's class probabilities from their average; 1 (worst) to 10."""
    confidence: float
    """Mean probability of the winning class."""
    class_shares: tuple[float, ...]


def load_classifier(dataset: str, folder: Path | None = None) -> Classifier:
    """The classifier that ships for a data set, in fp32."""
    judge = JUDGES[dataset]
    path = (folder or judge.folder) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"the {dataset} classifier is missing from {path}; reinstall ditto-cosim")
    classifier = Classifier(judge)
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


def reference_statistics(dataset: str, split: str = "train", folder: Path | None = None) -> FeatureStatistics:
    """The shipped statistics of the real pictures, so that no data set is needed to measure a distance."""
    stored = load_file((folder or JUDGES[dataset].folder) / "statistics.safetensors")
    mean, covariance = (
        stored[f"{split}.mean"].double().numpy(),
        stored[f"{split}.covariance"].double().numpy(),
    )
    return FeatureStatistics(int(stored[f"{split}.count"]), mean, covariance)


@torch.no_grad()
def classify(images: Floats, classifier: Classifier, batch: int = 500) -> tuple[Features, Features]:
    """(features, logits) of pictures in 0..1, N x C x H x W or N x H x W x C; one channel needs no axis."""
    shape = c, h, w = classifier.judge.image_shape
    pictures = np.asarray(images, np.float32)
    if pictures.shape[1:] == (h, w, c):
        pictures = pictures.transpose(0, 3, 1, 2)
    elif c == 1 and pictures.shape[1:] == (h, w):
        pictures = pictures[:, None]
    if not len(pictures) or pictures.shape[1:] != shape:
        raise ValueError(f"pictures have shape {np.shape(images)}, expected N x {h} x {w} x {c}")
    outputs = [
        classifier(part) for part in torch.split(torch.from_numpy(np.ascontiguousarray(pictures)), batch)
    ]
    features, logits = (torch.cat(parts).double().numpy() for parts in zip(*outputs, strict=True))
    return features, logits


def frechet_distance(a: Floats | FeatureStatistics, b: Floats | FeatureStatistics) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of two feature sets or their statistics."""
    first = a if isinstance(a, FeatureStatistics) else FeatureStatistics.of(a)
    second = b if isinstance(b, FeatureStatistics) else FeatureStatistics.of(b)
    root = _symmetric_root(first.covariance)
    product = np.linalg.eigvalsh(root @ second.covariance @ root)
    trace_root = np.sqrt(np.clip(product, 0, None)).sum()
    offset = first.mean - second.mean
    return float(offset @ offset + np.trace(first.covariance) + np.trace(second.covariance) - 2 * trace_root)


def class_scores(logits: Floats, asked: npt.NDArray[np.integer] | None = None) -> ClassScores:
    """Scores of N x 10 logits; `asked` are the classes a conditional model was asked for."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    probability = np.exp(log_probability)
    average = probability.mean(0)
    divergence = (probability * (log_probability - np.log(average))).sum(1).mean()
    winners = probability.argmax(1)
    shares = np.bincount(winners, minlength=probability.shape[1]) / len(winners)
    return ClassScores(
        count=len(winners),
        accuracy=None if asked is None else float((winners == np.asarray(asked)).mean()),
        inception_like=float(np.exp(divergence)),
        confidence=float(probability.max(1).mean()),
        class_shares=tuple(float(share) for share in shares),
    )


def _symmetric_root(matrix: Features) -> Features:
    values, vectors = np.linalg.eigh(matrix)
    return cast(Features, (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def train(dataset: str, epochs: int, seed: int) -> Classifier:
    """Train on the training split: one-cycle AdamW, mirrored and shifted pictures, cross-entropy."""
    torch.manual_seed(seed)
    pictures, classes = data.load(dataset, "train")
    images, labels = torch.from_numpy(pictures), torch.from_numpy(classes.astype(np.int64))
    classifier = Classifier(JUDGES[dataset])
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02)
    batch = 128
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    classifier.train()
    for epoch in range(epochs):
        losses = []
        for index in torch.split(torch.randperm(len(images)), batch)[: len(images) // batch]:
            part = images[index].float() / 255
            mirrored = torch.rand(len(part)) < 0.5
            part = torch.where(mirrored[:, None, None, None], part.flip(-1), part)
            down, right = torch.randint(-1, 2, (2,)).tolist()
            _, logits = classifier(part.roll((down, right), (-2, -1)))
            loss = nn.functional.cross_entropy(logits, labels[index], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(json.dumps({"epoch": epoch + 1, "loss": round(sum(losses) / len(losses), 4)}), flush=True)
    return classifier.eval()


def export(classifier: Classifier, out: Path, epochs: int, seed: int, seconds: float) -> None:
    """Weights (fp16), statistics of both splits under those very weights, and the model card."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in classifier.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, out / "model.safetensors")
    dataset = classifier.judge.dataset
    shipped = load_classifier(dataset, out)
    statistics: dict[str, torch.Tensor] = {}
    accuracy: dict[str, float] = {}
    for split in data.SPLITS:
        pictures, classes = data.load(dataset, split)
        features, logits = classify(pictures / np.float32(255), shipped)
        accuracy[split] = float((logits.argmax(1) == classes).mean())
        of_split = FeatureStatistics.of(features)
        statistics[f"{split}.count"] = torch.tensor(of_split.count)
        statistics[f"{split}.mean"] = torch.from_numpy(of_split.mean).float()
        statistics[f"{split}.covariance"] = torch.from_numpy(of_split.covariance).float()
    save_file(statistics, out / "statistics.safetensors")
    distance = frechet_distance(*(reference_statistics(dataset, split, out) for split in data.SPLITS))
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob("*.safetensors"))}
    parameters = sum(p.numel() for p in classifier.parameters())
    record = {"accuracy": accuracy, "train_test_distance": distance, "epochs": epochs, "sha256": sums}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "README.md").write_text(
        f"""# {JUDGES[dataset].folder.name}

A three-convolution classifier of {dataset}, {parameters:,} parameters, fp16. It judges
generated pictures (`classifier.py`). Its features are not Inception's: distances measured
with it compare with each other only.

| | |
|---|---|
| data | {dataset} (training split), fetched by `ditto data {dataset}` |
| training | {epochs} epochs of AdamW, one-cycle, mirrored and shifted pictures, {seconds / 60:.1f} min, CPU |
| accuracy | {accuracy["test"]:.2%} on the 10,000 test pictures, {accuracy["train"]:.2%} on the others |
| Fréchet distance | {distance:.3f} between the training and the test pictures: the floor |
| licence | Apache-2.0 |

Command:

    python -m ditto_cosim.host.zoo.classifier {dataset} --epochs {epochs} --seed {seed} --out FOLDER
"""
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditto_cosim.host.zoo.classifier")
    parser.add_argument("dataset", choices=sorted(JUDGES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    started = time.monotonic()
    classifier = train(chosen.dataset, chosen.epochs, chosen.seed)
    export(classifier, chosen.out, chosen.epochs, chosen.seed, time.monotonic() - started)
    print((chosen.out / "README.md").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
