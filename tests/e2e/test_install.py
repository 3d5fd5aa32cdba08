# SPDX-License-Identifier: Apache-2.0
"""The installed package: everything under one name, nothing under others' names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "tree"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: what a wheel would hold cannot be told apart from build products")
    for name in listed.stdout.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=240)
    return target


def run(site: Path, code: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=site.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_install_finds_everything_under_one_name(site: Path) -> None:
    code = (
        "import ditto_cosim.device.execution.machine, ditto_cosim.host.zoo, ditto_cosim.sim_harness.tile, ditto_cosim.cli\n"
        "from ditto_cosim.device.chips import load_chip\n"
        "from ditto_cosim.host.zoo import models\n"
        "load_chip('tiny')\n"
        "assert models()['fashion-ddpm'].weights.is_dir()\n"
        "print(ditto_cosim.device.execution.machine.__file__)"
    )
    result = run(site, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))
    for name in (
        "rtl/tile.sv",
        "rtl/checks/lane_checks.sv",
        "sim_harness/tile_driver.cpp",
        "device/kernels/lanes.cpp",
        "device/kernels/rows.cpp",
        "device/kernels/vector.cpp",
        "protocol/SPEC.md",
    ):
        assert (site / "ditto_cosim" / name).is_file()


@pytest.mark.parametrize("name", ["device", "host", "protocol", "rtl", "sim_harness"])
def test_install_claims_no_bare_name(site: Path, name: str) -> None:
    result = run(site, f"import {name}")
    assert result.returncode != 0
    assert "ModuleNotFoundError" in result.stderr
