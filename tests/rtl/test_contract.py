# SPDX-License-Identifier: Apache-2.0
"""RTL = model, to the cycle, on every row: hypothesis chooses the passes, stalled and not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ditto_cosim.protocol.hardware import MODES
from ditto_cosim.sim_harness.cases import DATA, STALLS, WEIGHTS, Case, directed_cases
from ditto_cosim.sim_harness.regression import (
    CHECKED,
    SETS,
    Bench,
    Report,
    options_for,
    run_cases,
)
from support.lane_reference import LaneReference

_BENCHES: dict[str, Bench] = {}


def bench(name: str) -> Bench:
    if name not in _BENCHES:
        _BENCHES[name] = Bench(name, options_for(name))
    return _BENCHES[name]


@st.composite
def cases(draw: st.DrawFn, name: str, rows: int) -> Case:
    geometry = SETS[name]
    return Case(
        name,
        m=draw(st.integers(1, rows)),
        k=draw(st.integers(1, geometry.k_max)),
        n=draw(st.integers(1, geometry.n_max)),
        mode=draw(st.sampled_from(MODES)),
        data=draw(st.sampled_from(DATA)),
        weights=draw(st.sampled_from(WEIGHTS)),
        stalls=draw(st.sampled_from(STALLS)),
        keep_weights=draw(st.booleans()),
        preload=geometry.weight_banks == 2 and draw(st.booleans()),
        attack=name in CHECKED and draw(st.booleans()),
        reset=draw(st.integers(-1, 60)) if name in CHECKED else 0,
        seed=draw(st.integers(0, 2**31)),
    )


@pytest.mark.parametrize(
    ("name", "rows", "examples"),
    [("tiny", 30, 60), ("mag4_banks", 30, 60), ("wide", 30, 60), ("cosim", 12, 15), ("edge", 12, 15)],
)
def test_rtl_equals_model_on_every_row(model: LaneReference, name: str, rows: int, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases(name, rows))
    def check(case: Case) -> None:
        found = bench(name).run(case, model)
        assert found is None, f"{found}\n{found.command}"

    check()


@pytest.mark.parametrize("name", ["tiny", "mag4_banks", "wide", "deep_banks"])
def test_rtl_equals_model_on_the_directed_cases(model: LaneReference, name: str) -> None:
    report = Report(0)
    found = run_cases(
        directed_cases(name, SETS[name], checked=True), model, report, {name: bench(name)}, float("inf")
    )
    assert found is None, f"{found}\n{found.command}"
    assert report.stalled_rows > 300


def test_directed_cases_alone_reach_nearly_every_functional_point(model: LaneReference) -> None:
    report = Report(0)
    for name in ("tiny", "mag4_banks", "wide"):
        run_cases(
            directed_cases(name, SETS[name], checked=True), model, report, {name: bench(name)}, float("inf")
        )
    assert set(report.functional.missed) <= {"M < lanes"}, report.functional.missed


@pytest.mark.long
@pytest.mark.parametrize("name", list(SETS))
def test_rtl_equals_model_in_a_soak(model: LaneReference, name: str) -> None:
    from ditto_cosim.sim_harness.regression import run_regression

    report = run_regression(model, seconds=120, seed=7, geometries=[name])
    assert not report.mismatches, report.mismatches[0]
