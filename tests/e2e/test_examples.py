# SPDX-License-Identifier: Apache-2.0
"""The examples do what their headers say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ditto_cosim.device.chips import load_chip

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_examples_chip_loads() -> None:
    chip = load_chip(EXAMPLES / "my_chip.toml")
    assert (chip.lanes, chip.geometry.weight_banks) == (16, 2)


def test_examples_board_conforms() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from ditto_cosim.cli import main; main()", "conform", "board:NumpyBoard"],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "conforms" in result.stdout


def test_examples_pipeline_gives_one_picture_and_fewer_cycles() -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "pipeline.py")],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    itc, ditto = (
        int(word.replace(",", "").rstrip(":"))
        for word in result.stdout.split()
        if word[0].isdigit() and "×" not in word
    )
    assert ditto < itc
