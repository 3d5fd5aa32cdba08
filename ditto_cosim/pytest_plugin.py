# SPDX-License-Identifier: Apache-2.0
"""pytest: a run as a fixture, so that a change of values or a loss of cycles fails a build. Found by pytest itself.

    from ditto_cosim.pytest_plugin import assert_cycles_within, assert_same_values

    def test_encoder_is_as_fast(ditto_run):
        run = ditto_run(model="fashion-ddpm", backend="rtl", chip="tiny", steps=4)
        assert_same_values(run, "runs/golden")
        assert_cycles_within(run, "runs/golden", tolerance=0.01)

What this file does not do: compare (`difference.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ditto_cosim.difference import RunDifference

SHOWN = 5
"""Layers that a failure names."""


@pytest.fixture
def ditto_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run and returns its directory: arguments of `Wish` (steps, seed, batch, prompt, …) and of `generate_run`
    (backend, chip, design, verify, …) by name. A device that departs from the reference raises."""

    def run(model: str = "fashion-ddpm", **given: Any) -> Path:
        from ditto_cosim.host.generation import generate_run
        from ditto_cosim.host.pipeline.models import Wish, load_model

        wished = {f.name for f in fields(Wish)}
        wish = Wish(**{k: v for k, v in given.items() if k in wished})
        directory = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        settings = {k: v for k, v in given.items() if k not in wished}
        outcome = generate_run(load_model(model), wish, directory, **settings)
        if outcome.failure is not None:
            raise outcome.failure
        return directory

    return run


def assert_same_values(run: Path | str, expected: Path | str) -> None:
    """Every tensor that the pipelines were given, and the pictures, bit for bit."""
    found = _compared(run, expected)
    assert found.same_values, f"{run} differs from {expected}: {found.first_difference}"


def assert_cycles_within(run: Path | str, expected: Path | str, tolerance: float = 0.0) -> None:
    """The run takes at most so much more, as a share, than the expected one; what is faster passes."""
    found = _compared(run, expected)
    worse = sorted(found.layers, key=lambda d: d.cycles_a - d.cycles_b)[:SHOWN]
    most = "; ".join(
        f"{d.name} {d.cycles_b - d.cycles_a:+,} ({d.cause})" for d in worse if d.cycles_b > d.cycles_a
    )
    assert found.cycles_b <= found.cycles_a * (1 + tolerance), (
        f"{run} takes {found.cycles_b:,} cycles, {expected} {found.cycles_a:,}: {found.ratio:.4f}, at most "
        f"{1 + tolerance:g} was allowed. Most of it: {most}"
    )


def _compared(run: Path | str, expected: Path | str) -> RunDifference:
    from ditto_cosim.difference import compare_runs

    return compare_runs(Path(expected), Path(run))
