# SPDX-License-Identifier: Apache-2.0
"""Backends mixed per layer and checked against each other, over the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditto_cosim.device import backends
from ditto_cosim.device.chips import load_chip
from ditto_cosim.host.wire.client import connect
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import BackendError, WatchdogError
from support.wire_harness import run_steps, serving
from support.wire_programs import chain, inputs_of


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/device"


@pytest.fixture
def _offers_test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    from support import wire_harness

    built_in = {
        **backends._BUILT_IN,
        "plain": "support.plain_backend:PlainBackend",
        "wrong": "support.wire_harness:WrongBackend",
    }
    monkeypatch.setattr(backends, "_BUILT_IN", built_in)
    monkeypatch.setattr(wire_harness, "OFFERED", ["model", "rtl", "plain", "wrong"])


def test_some_layers_in_rtl_give_the_same_and_measured_cycles(address: str) -> None:
    program, constants = chain(4)
    with serving(address), connect(address) as device:
        with device.open_run(program, constants, m.RunSpec(chip="tiny")) as run:
            model = run_steps(run, 3)
        spec = m.RunSpec(chip="tiny", rtl_layers=["block1.*", "block3.linear"])
        with device.open_run(program, constants, spec) as run:
            mixed = run_steps(run, 3)
    assert mixed.outputs == model.outputs
    assert mixed.totals == model.totals
    assert [r.measured for r in mixed.reports] == [False, True, False, True] * 3
    assert not any(r.measured for r in model.reports)


@pytest.mark.usefixtures("_offers_test_backends")
def test_cross_check_passes_what_agrees_and_names_what_does_not(address: str) -> None:
    program, constants = chain(4)
    with serving(address), connect(address) as device:
        with device.open_run(program, constants, m.RunSpec(backend="plain", cross_check="model")) as run:
            checked = run_steps(run, 3)
        with device.open_run(program, constants, m.RunSpec(backend="model")) as run:
            assert run_steps(run, 3) == checked
        run = device.open_run(program, constants, m.RunSpec(backend="wrong", cross_check="model"))
        says = r"layer 'block2.linear' \(original\): 'wrong' and 'model' disagree: accumulators differ in 1"
        with pytest.raises(BackendError, match=says) as caught:
            run.step(0, inputs_of(program, 0))
        assert "(group, row, column) (0, 1, 2)" in str(caught.value)


def test_cross_check_in_rtl_compares_cycles_too(address: str) -> None:
    program, constants = chain(2)
    spec = m.RunSpec(backend="rtl", chip="tiny", cross_check="model")
    with serving(address), connect(address) as device, device.open_run(program, constants, spec) as run:
        given = run_steps(run, 2)
    assert all(r.measured for r in given.reports)
    assert run.started.measures


def test_stuck_rtl_is_reported_with_its_state_while_the_device_serves_others(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real RTL that nobody takes results from: its watchdog ends the step, and the user reads the tile's ports."""
    from ditto_cosim.device.backends import rtl
    from ditto_cosim.sim_harness.tile import Stalls, Tile

    class JammedTile(Tile):
        def __init__(self, geometry: Any, **how: Any) -> None:
            super().__init__(geometry, **{**how, "watchdog_idle_cycles": 500})

        def run_gemm(self, current: Any, reference: Any, weights: Any, mode: Any, *how: Any) -> None:
            lanes = self.geometry.lanes
            never = Stalls(offer=np.ones((lanes, 4), np.uint8), accept=np.zeros((lanes, 4), np.uint8))
            self.load_weights(weights[0])
            self.run(current[0], reference, mode, stalls=never)

    program, constants = chain(2)
    with serving(address), connect(address) as device:
        healthy = device.open_run(program, constants, m.RunSpec(backend="model"))
        monkeypatch.setattr(rtl, "Tile", JammedTile)
        stuck = device.open_run(program, constants, m.RunSpec(backend="rtl", chip="tiny"))
        with pytest.raises(WatchdogError, match=r"block0.linear.*no handshake for 500 cycles") as caught:
            stuck.step(0, inputs_of(program, 0))
        assert len(caught.value.state.splitlines()) > 5
        run_steps(healthy, 1)


def test_backend_is_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("lab", "support.plain_backend:PlainBackend", backends.ENTRY_POINTS)
    broken = EntryPoint("broken", "no_such_module:Board", backends.ENTRY_POINTS)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point, broken])
    assert backends.names() == ["board", "broken", "lab", "model", "rtl", "rtl_wide"]
    assert backends.make_backend("lab", load_chip("tiny")).name == "plain"
    with pytest.raises(BackendError, match="'broken' cannot be loaded from no_such_module:Board"):
        backends.find_backend("broken")
    with pytest.raises(
        BackendError,
        match="'fpga' is unknown; known: board, broken, lab, model, rtl, rtl_wide, or give module",
    ):
        backends.find_backend("fpga")
