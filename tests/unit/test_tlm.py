"""Transaction-level targets keep time; a step of chunks agrees with the closed form that stands for it."""

from __future__ import annotations

import numpy as np
import pytest

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.timing.dram import DramConfig, simulate
from ditto_cosim.device.timing.tlm import Dram, GroupWork, Pipe, Transaction, simulate_groups
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program

IDEAL = DramConfig(bytes_per_cycle=64)


def test_pipe_serves_in_order_and_refuses_time_going_back() -> None:
    pipe = Pipe(64)
    assert pipe.b_transport(Transaction(0, 640, False), 5) == 15
    assert pipe.b_transport(Transaction(0, 65, False), 7) == 17
    assert pipe.b_transport(Transaction(0, 64, True), 100) == 101
    with pytest.raises(AssertionError, match="time went back from 100 to 99"):
        pipe.b_transport(Transaction(0, 64, True), 99)


def test_dram_target_takes_a_stream_as_long_as_the_controller_does() -> None:
    config = DramConfig(channels=4, refresh=False)
    addresses = 64 * np.arange(4096, dtype=np.int64)
    whole = simulate(config, addresses, np.zeros(4096, bool)).cycles
    memory = Dram(config)
    assert memory.b_transport(Transaction(0, 64 * 4096, False), 0) == whole
    later = memory.b_transport(Transaction(64 * 4096, 64 * 4096, False), 10_000) - 10_000
    assert abs(later - whole) <= config.precharge_cycles + config.row_to_column_cycles


def test_dram_target_is_busy_for_who_asks_meanwhile() -> None:
    memory = Dram(DramConfig(channels=1, refresh=False))
    first = memory.b_transport(Transaction(0, 1 << 16, False), 0)
    second = memory.b_transport(Transaction(1 << 20, 1 << 16, False), 1)
    assert second >= 1.9 * first


def test_dram_target_pays_for_refreshes_while_idle_only_once() -> None:
    memory = Dram(DramConfig(channels=1))
    at = 20 * 3900 + 2000
    assert memory.b_transport(Transaction(0, 64, False), at) - at <= 45 + 315


@pytest.mark.parametrize(
    ("work", "bottleneck"),
    [
        (GroupWork(64_000, 6_400, 10, 10), 1100),
        (GroupWork(640, 640, 50_000, 100), 50_000),
        (GroupWork(6_400, 6_400, 100, 9_000), 9_000),
        (GroupWork(32_000, 32_000, 900, 900), 1000),
    ],
)
def test_chunks_overlap_down_to_the_slowest_stage(work: GroupWork, bottleneck: int) -> None:
    found = simulate_groups(IDEAL, 640, [work]).total_cycles
    chunks = -(-(work.bytes_in + work.bytes_out) // 640)
    stages = [work.bytes_in // 64, work.lane_cycles, work.vector_cycles, work.bytes_out // 64]
    assert found >= bottleneck
    # two buffers on either side cost at most a few chunks' worth of waiting
    assert found <= bottleneck * 1.1 + 6 * sum(s / chunks for s in stages) + 8


def test_groups_follow_one_another_and_the_same_run_is_the_same_run() -> None:
    works = [GroupWork(10_000, 5_000, 300, 80), GroupWork(0, 0, 50, 0), GroupWork(64, 0, 0, 0)]
    config = DramConfig(channels=2)
    found = simulate_groups(config, 4096, works)
    assert found == simulate_groups(config, 4096, works)
    assert list(found.ends) == sorted(found.ends)
    assert found.group_cycles[1] == 50
    assert sum(found.group_cycles) == found.total_cycles


def test_closed_form_is_near_the_step_it_stands_for() -> None:
    """A slice of the 35.7 M DDPM on the edge chip; the whole step is in `ditto bench price`."""
    program, chip = workload_program("ddpm"), load_chip("edge")
    pricer = Pricer(program, chip, load_design("ditto"))
    step = synthetic_step(program, 1, PUBLISHED, chip.geometry.k_max)
    times = [pricer.price(r.layer, r, "temporal") for r in step.layers[20:26]]
    found = simulate_groups(chip.dram, pricer.chunk_bytes, [pricer.group_work(t.layer, t) for t in times])
    assert sum(t.total_cycles for t in times) == pytest.approx(found.total_cycles, rel=0.08)
