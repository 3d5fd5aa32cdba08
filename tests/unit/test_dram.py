# SPDX-License-Identifier: Apache-2.0
"""The DRAM model against two public cycle-accurate simulators' tables, and its closed form against itself."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditto_cosim.bench.dram_traces import TRACES, interleave, random, stream, stride
from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.device.timing.dram import AddressMapping, DramConfig
from ditto_cosim.device.timing.first_ready import Channel, controller_row, simulate

REFERENCE: dict[str, Any] = json.loads(
    resources.files("ditto_cosim.bench").joinpath("hbm2_reference.json").read_text(encoding="utf-8")
)
TABLE = REFERENCE["max_rate"]["dramsim3"]


def deviations(channels: str, mapping: AddressMapping, refresh: str, name: str) -> tuple[float, float | None]:
    """Of cycles, and of the mean read latency where the table has one."""
    config = DramConfig(channels=int(channels[0]), mapping=mapping, refresh=refresh == "refresh_on")
    found, case = simulate(config, *TRACES[name]()), TABLE[channels][mapping][refresh][name]
    latency = case.get("avg_read_lat")
    return found.cycles / case["cycles"] - 1, found.read_latency_cycles / latency - 1 if latency else None


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("refresh", ["refresh_off", "refresh_on"])
@pytest.mark.parametrize("mapping", ["coarse", "fine"])
@pytest.mark.parametrize("channels", ["8ch", pytest.param("1ch", marks=pytest.mark.long)])
def test_dram_agrees_with_the_cycle_accurate_simulator(
    channels: str, mapping: AddressMapping, refresh: str, name: str
) -> None:
    """Request for request the same traffic: the same cycle, the same mean latency to its last decimal. Random traffic is of the
    same distribution only."""
    cycles, latency = deviations(channels, mapping, refresh, name)
    if name.startswith("random"):
        assert abs(cycles) <= 0.04
        assert abs(latency or 0) <= 0.06
    else:
        assert cycles == 0
        assert abs(latency or 0) <= 1e-4


@given(
    st.data(),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([None, 1, 3, 16]),
    st.booleans(),
)
def test_dram_compiled_controller_equals_its_reference(
    data: st.DataObject, groups: int, banks_per_group: int, window: int | None, refresh: bool
) -> None:
    compiled = kernels()
    if compiled is None:
        pytest.skip("no compiler")
    config = DramConfig(
        groups=groups,
        banks_per_group=banks_per_group,
        refresh=refresh,
        refresh_interval_ns=data.draw(st.integers(400, 900)),
        read_queue=data.draw(st.integers(1, 8)),
        write_buffer=data.draw(st.integers(1, 12)),
        bank_queue=data.draw(st.integers(1, 4)),
        window=window,
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    count = data.draw(st.integers(0, 300))
    bank = rng.integers(0, groups * banks_per_group, count)
    row = rng.integers(0, data.draw(st.integers(1, 6)), count)
    write = rng.random(count) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    assert compiled.dram_channel(controller_row(config), bank, row, write) == Channel(config).run(
        bank, row, write
    )


def test_dram_single_requests_take_hit_closed_and_conflict_cycles() -> None:
    config = DramConfig(channels=1, refresh=False, window=1)

    def cycles(*addresses: int) -> int:
        return simulate(config, np.array(addresses, np.int64), np.zeros(len(addresses), bool)).cycles

    closed, hit, conflict = 31, 17, 47
    assert cycles(0) == closed
    assert cycles(0, 64) == closed + 1 + hit
    assert cycles(0, 2048) == closed + 1 + closed
    assert cycles(0, 16 * 2048) == closed + 1 + conflict


@pytest.mark.parametrize("window", [1, 4, 16])
@pytest.mark.parametrize("mapping", ["coarse", "fine"])
def test_dram_window_sets_the_rate_of_a_stream(mapping: AddressMapping, window: int) -> None:
    table = REFERENCE["window_sweep_refresh_off_1ch"]["dramsim3"][mapping]["seq_1MiB"][str(window)]
    found = simulate(DramConfig(channels=1, mapping=mapping, refresh=False, window=window), *stream(1 << 20))
    assert found.cycles == pytest.approx(table["cycles"], rel=0.01)
    assert found.read_latency_cycles == pytest.approx(table["avg_read_lat"], rel=0.02)


@pytest.mark.parametrize("channels", [1, 8, 32])
@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("nbytes", [64, 4096, 1 << 20, 5_000_000])
def test_dram_closed_form_equals_the_simulated_stream(channels: int, refresh: bool, nbytes: int) -> None:
    config = DramConfig(channels=channels, refresh=refresh)
    simulated = simulate(config, *stream(nbytes // 64 * 64)).cycles
    row = config.row_requests * config.burst_ns  # a stream that ends inside a row leaves the channels uneven
    closed = int(config.stream_ns(nbytes // 64 * 64))
    assert abs(closed - simulated) <= row + (0.01 * simulated if refresh else 0)


def test_dram_work_is_conserved_for_unseen_patterns() -> None:
    """Every request leaves once, no channel beats its bus, and the same trace gives the same answer."""
    for trace in (
        stride(192, 3000),
        random(4000, 0.3, 9, 256),
        interleave((0, 1 << 22, 3 << 23), (False, True, True), 900),
    ):
        config = DramConfig(channels=2)
        found = simulate(config, *trace)
        assert found.bytes_per_cycle <= config.peak_bytes_per_ns
        assert 0 <= found.row_hits <= found.requests == len(trace[0])
        assert found == simulate(config, *trace)


def test_dram_refresh_costs_nothing_before_the_first_interval() -> None:
    trace = stream(64 * 1800)
    on, off = (simulate(DramConfig(channels=1, refresh=r), *trace).cycles for r in (True, False))
    assert on == off
    trace = stream(64 * 2500)
    on, off = (simulate(DramConfig(channels=1, refresh=r), *trace).cycles for r in (True, False))
    assert 280 <= on - off <= 350
