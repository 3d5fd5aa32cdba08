# SPDX-License-Identifier: Apache-2.0
"""Every denoiser class of diffusers runs on the device; what runs today runs tomorrow."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ditto_cosim import coverage
from ditto_cosim.cli import root
from ditto_cosim.coverage import SMALL, CoverageReport, cover, denoisers

QUICK = [name for name, small in SMALL.items() if small.quick]
NOT_YET = {
    "AnyFlowFARTransformer3DModel": "flex_attention",
    "HiDreamImageTransformer2DModel": "experts chosen by what the hidden states hold",
    "WanAnimate2Transformer3DModel": "an object of its own holds keys and values of one pass for the next, by flex_attention",
    "Kandinsky6SRTransformer3DModel": "attention over blocks chosen by what the hidden states hold",
}
"""Class -> why it does not run. To be made shorter only."""


def test_coverage_knows_every_denoiser_class_of_diffusers() -> None:
    assert set(denoisers()) == set(SMALL)


@pytest.mark.parametrize("name", QUICK)
def test_coverage_takes_a_class_to_the_device(name: str) -> None:
    found = cover(name)
    assert found.exact, found.missing
    assert found.snr_db > 25


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SMALL if name not in QUICK])
def test_coverage_does_not_shrink(name: str) -> None:
    found = cover(name)
    assert found.exact == (name not in NOT_YET), found.missing
    assert found.snr_db is None or found.snr_db > 25


def test_coverage_tells_what_is_missing_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "A": CoverageReport("A", True, False, False, ("aten.sort.default",)),
        "B": CoverageReport("B", True, True, True),
    }
    monkeypatch.setattr(coverage, "denoisers", lambda: list(rows))
    monkeypatch.setattr(coverage, "cover", rows.__getitem__)
    shown = CliRunner().invoke(root, ["models", "--coverage", "--json"])
    assert shown.exit_code == 0, shown.output
    first, second = json.loads(shown.stdout)["classes"]
    assert {k: first[k] for k in ("class", "captured", "lowered", "exact", "missing")} == {
        "class": "A",
        "captured": True,
        "lowered": False,
        "exact": False,
        "missing": ["aten.sort.default"],
    }
    assert second["exact"] is True
    assert "1 lowered, 1 exact" in CliRunner().invoke(root, ["models", "--coverage"]).output
