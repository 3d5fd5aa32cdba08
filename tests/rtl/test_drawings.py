# SPDX-License-Identifier: Apache-2.0
"""The timing drawings of the documentation are what the RTL does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def waves() -> Any:
    spec = importlib.util.spec_from_file_location("waves", DOCS / "waves.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawings_are_passes_of_the_tile(waves: Any) -> None:
    for name, run in waves.passes().items():
        kept = (DOCS / "drawings" / f"{name}.wave.json").read_text(encoding="utf-8")
        assert kept == waves.text(name, run), f"{name}: `python docs/waves.py` draws it again"
        picture = (DOCS / "drawings" / f"{name}.svg").read_text(encoding="utf-8")
        described = json.loads(kept)
        for signal in described["signal"]:
            assert signal.get("name", "") in picture
        assert described["head"]["text"] in picture


def test_waves_spell_levels_and_beats(waves: Any) -> None:
    assert waves.bits(np.array([0, 0, 1, 1, 0], np.uint8)) == "0.1.0"
    moved = np.array([1, 0, 0, 1, 1], np.uint8)
    told = waves.data(moved, np.cumsum(moved) - moved, "beat ")
    assert told == {"wave": "=x.==", "data": ["beat 0", "beat 1", "beat 2"]}
