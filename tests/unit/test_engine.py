# SPDX-License-Identifier: Apache-2.0
"""The engine of time: both forms agree to the cycle, every cycle has a cause, and more of anything never costs much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditto_cosim.device.kernels.native import kernels
from ditto_cosim.device.timing.dma import DmaPolicy
from ditto_cosim.device.timing.dram import DramConfig
from ditto_cosim.device.timing.engine import (
    CompiledStep,
    EngineConfig,
    PythonStep,
    begin_step,
    run_step,
    run_steps,
)
from ditto_cosim.device.timing.first_ready import simulate
from ditto_cosim.device.timing.flow import GroupWork
from ditto_cosim.device.timing.kernel import Calendar, Credits, Payload, Pipe, TimeError
from ditto_cosim.device.timing.lanes import CAUSES
from ditto_cosim.device.timing.memory import Memory, requests_of

ANOMALY = 0.03
"""How much longer a step may take for more bandwidth, room or lanes, or less traffic: orders change, as in any schedule."""


@st.composite
def configs(draw: Any) -> EngineConfig:
    chunk = draw(st.sampled_from([256, 1000, 4096]))
    room = st.integers(1, 5).map(lambda n: n * chunk)
    policy = DmaPolicy(
        chunk_bytes=chunk,
        queue_depth=draw(st.integers(1, 5)),
        prefetch_layers=draw(st.integers(0, 3)),
        issue_cycles=draw(st.integers(0, 4)),
        bytes_per_cycle=draw(st.sampled_from([0, 16, 100])),
    )
    dram = DramConfig(
        channels=draw(st.sampled_from([1, 2, 3, 8, 11, 32])),
        mapping=draw(st.sampled_from(["coarse", "fine"])),
        groups=draw(st.sampled_from([1, 4])),
        banks_per_group=draw(st.sampled_from([1, 2, 4])),
        row_requests=draw(
            st.sampled_from([1, 2, 32])
        ),  # short rows: many rounds over the channels in one transfer
        burst_ns=draw(st.sampled_from([2, 3])),
        refresh=draw(st.booleans()),
        refresh_interval_ns=draw(st.sampled_from([3900, 700])),
        bytes_per_cycle=draw(st.sampled_from([None, None, None, 30])),
    )
    return EngineConfig(
        dma=policy,
        early_room_bytes=draw(room),
        late_room_bytes=draw(room),
        out_room_bytes=draw(room),
        port_bytes_per_cycle=draw(st.sampled_from([0, 50, 1000])),
        accumulator_chunks=draw(st.integers(1, 3)),
        dram=dram,
        clock_mhz=draw(st.sampled_from([100, 777, 1000, 2000])),
    )


@st.composite
def steps(draw: Any, chunk: int) -> list[GroupWork]:
    def some(most: int) -> int:
        return int(draw(st.one_of(st.just(0), st.integers(0, most))))

    works = []
    for g in range(draw(st.integers(1, 6))):
        early, late, out = (some(8 * chunk) for _ in range(3))
        passes = draw(st.integers(1, 3))
        works.append(
            GroupWork(
                chunks=max(1, -(-(early + late + out) // chunk), passes * -(-late // chunk)),
                early_bytes=early,
                late_bytes=late,
                out_bytes=out,
                load_cycles=some(500),
                starved_cycles=some(500),
                busy_cycles=some(3000),
                port_bytes=some(20_000),
                streamed_cycles=some(2000),
                after_cycles=some(2000),
                passes=passes,
                needs=draw(st.integers(-1, g - 1)) if g else -1,
                whole=draw(st.integers(0, 1)),
            )
        )
    return works


def rows(works: Sequence[GroupWork]) -> list[tuple[int, ...]]:
    return [w.row for w in works]


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler")
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_engine_compiled_equals_the_reference_to_the_cycle(data: st.DataObject) -> None:
    config = data.draw(configs())
    works = data.draw(steps(config.dma.chunk_bytes))
    reference, transactions = run_step(PythonStep(config), rows(works))
    whole, counted = run_steps(config, np.array([rows(works)] * 2, np.int64))
    assert [list(r) for r in reference] == whole[0].tolist() == whole[1].tolist()
    assert counted.tolist() == [transactions] * 2
    for step in (PythonStep(config), CompiledStep(config)):  # told one by one, as a live run tells it
        found: list[tuple[int, ...]] = []
        for work in works:
            step.push(work)
            found += step.settled()
        step.close()
        assert [*found, *step.settled()] == reference
        assert step.transactions == transactions


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("busy", "interval_ns"),
    [((1 << 28) - 5, 3900), ((1 << 29) - 40, 3 << 25), ((1 << 31) + 7, 3 << 25), (100, 1 << 40)],
)
def test_engine_counts_on_where_times_leave_32_bits(busy: int, interval_ns: int) -> None:
    dram = DramConfig(channels=3, row_requests=2, refresh_interval_ns=interval_ns)
    config = EngineConfig(DmaPolicy(chunk_bytes=1000), 4000, 4000, 4000, 100, 2, dram, 1000)
    works = rows(
        [GroupWork(5, 5000, 2000, 4000, busy_cycles=b, needs=n) for b, n in ((10, -1), (busy, 0), (9, 1))]
    )
    reference, transactions = run_step(PythonStep(config), works)
    whole, counted = run_steps(config, np.array([works], np.int64))
    assert [list(r) for r in reference] == whole[0].tolist()
    assert counted.tolist() == [transactions]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_engine_gives_every_cycle_one_cause_and_loses_no_work(data: st.DataObject) -> None:
    config = data.draw(configs())
    works = data.draw(steps(config.dma.chunk_bytes))
    step = PythonStep(config, log=True)
    causes, _ = run_step(step, rows(works))
    assert min(map(min, causes)) >= 0
    assert sum(map(sum, causes)) == step.flow.ends[-1]
    by_cause = dict(zip(CAUSES, np.sum(causes, axis=0).tolist(), strict=True))
    assert by_cause["compute"] == sum(w.busy_cycles for w in works)
    assert by_cause["weight_load"] == sum(w.load_cycles for w in works)
    assert step.flow.ends[-1] >= sum(w.streamed_cycles + w.after_cycles for w in works)
    assert step.bus.log is not None
    for write in (False, True):
        moved = sum(p.nbytes for p, _, _ in step.bus.log if p.write is write)
        assert moved == sum(w.out_bytes if write else w.early_bytes + w.late_bytes for w in works)
    asked = [at for _, at, _ in step.bus.log]
    assert asked == sorted(asked)
    assert all(done >= at for _, at, done in step.bus.log)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_memory_takes_bursts_as_it_takes_their_requests_one_by_one(data: st.DataObject) -> None:
    config = data.draw(configs())
    dram = replace(config.dram, bytes_per_cycle=None)
    bulk, stepwise = (Memory(dram, config.clock_mhz, stepwise=s) for s in (False, True))
    at = 0
    for _ in range(data.draw(st.integers(1, 12))):
        at += data.draw(st.integers(0, 3000))
        payload = Payload(
            data.draw(st.integers(0, 1 << 20)), data.draw(st.integers(1, 20_000)), data.draw(st.booleans())
        )
        assert bulk.b_transport(payload, at) == stepwise.b_transport(payload, at)
    for one, other in zip(bulk.channels, stepwise.channels, strict=True):
        assert all(getattr(one, n) == getattr(other, n) for n in one.__slots__)


def test_memory_streams_as_fast_as_the_first_ready_controller() -> None:
    config = DramConfig(channels=4, refresh=False)
    payloads = [Payload(i * 8192, 8192, False) for i in range(200)]
    memory = Memory(config, 1000)
    ours = max(memory.b_transport(p, 0) for p in payloads)
    assert ours == pytest.approx(simulate(config, *requests_of(payloads)).cycles, rel=0.02)


def test_memory_nanoseconds_are_counted_in_the_chips_cycles() -> None:
    """The same bytes take the same time on every clock, so twice the cycles at twice the clock."""
    taken = {
        mhz: Memory(DramConfig(channels=2), mhz).b_transport(Payload(0, 1 << 20, False), 0)
        for mhz in (500, 1000, 2000)
    }
    assert taken[2000] == 2 * taken[1000]
    assert abs(2 * taken[500] - taken[1000]) <= 1


# --- more never costs more --------------------------------------------------------------------------------------


def cycles(config: EngineConfig, works: Sequence[GroupWork]) -> int:
    return int(run_steps(config, np.array([rows(works)], np.int64))[0].sum())


def chain(seed: int, layers: int = 24) -> list[GroupWork]:
    """Layers like a denoiser's: each reads the one before, some all of it, some skip."""
    rng = np.random.default_rng(seed)
    works = []
    for g in range(layers):
        early, late, out = (int(rng.integers(0, 200_000)) for _ in range(3))
        passes = int(rng.choice([1, 1, 2]))
        works.append(
            GroupWork(
                max(1, -(-(early + late + out) // 8192), passes * -(-late // 8192)),
                *(early, late, out, 0, int(rng.integers(0, 300)), int(rng.integers(200, 4000)), 0),
                *(int(rng.integers(0, 1500)), int(rng.choice([0, 0, 800])), passes),
                *(
                    g - 1 if rng.random() < 0.8 else int(rng.integers(-1, g)) if g else -1,
                    bool(rng.random() < 0.3),
                ),
            )
        )
    return works


BASE = EngineConfig(
    dma=DmaPolicy(8192),
    early_room_bytes=1 << 17,
    late_room_bytes=1 << 16,
    out_room_bytes=1 << 16,
    port_bytes_per_cycle=0,
    accumulator_chunks=2,
    dram=DramConfig(channels=4),
    clock_mhz=1000,
)


def faster(works: Sequence[GroupWork], by: float) -> list[GroupWork]:
    return [
        replace(w, busy_cycles=int(w.busy_cycles / by), starved_cycles=int(w.starved_cycles / by))
        for w in works
    ]


MORE = {
    "bandwidth": lambda c, w: (replace(c, dram=replace(c.dram, channels=8)), w),
    "ideal memory": lambda c, w: (replace(c, dram=replace(c.dram, bytes_per_cycle=4096)), w),
    "buffer": lambda c, w: (
        replace(c, early_room_bytes=1 << 20, late_room_bytes=1 << 19, out_room_bytes=1 << 19),
        w,
    ),
    "accumulators": lambda c, w: (replace(c, accumulator_chunks=4), w),
    "queue": lambda c, w: (replace(c, dma=replace(c.dma, queue_depth=8)), w),
    "prefetch": lambda c, w: (replace(c, dma=replace(c.dma, prefetch_layers=2)), w),
    "lanes": lambda c, w: (c, faster(w, 2)),
    "vector lanes": lambda c, w: (
        c,
        [replace(x, streamed_cycles=x.streamed_cycles // 2, after_cycles=x.after_cycles // 2) for x in w],
    ),
    "less written": lambda c, w: (c, [replace(x, out_bytes=x.out_bytes // 2) for x in w]),
    "less read early": lambda c, w: (c, [replace(x, early_bytes=x.early_bytes // 2) for x in w]),
    "less read late": lambda c, w: (c, [replace(x, late_bytes=x.late_bytes // 2) for x in w]),
    "less kept": lambda c, w: (
        c,
        [replace(x, out_bytes=x.out_bytes // 3, early_bytes=x.early_bytes // 3) for x in w],
    ),
}


@pytest.mark.parametrize("what", MORE)
def test_engine_more_of_anything_never_costs_beyond_the_anomaly_bound(what: str) -> None:
    for seed in range(12):
        works = chain(seed)
        before, after = cycles(BASE, works), cycles(*MORE[what](BASE, works))
        assert after <= before * (1 + ANOMALY), f"seed {seed}: {before} -> {after}"


def test_engine_overlaps_layers_as_far_as_the_policy_lets_it() -> None:
    works = [replace(w, needs=-1) for w in chain(3)]
    apart = cycles(replace(BASE, dma=replace(BASE.dma, prefetch_layers=0)), works)
    beside = cycles(BASE, works)
    lanes = sum(w.busy_cycles + w.starved_cycles for w in works)
    assert lanes < beside < 0.9 * apart


# --- the kernel -----------------------------------------------------------------------------------------------------


def test_pipe_serves_in_order_and_credits_say_when_there_is_room() -> None:
    pipe = Pipe(64)
    assert pipe.b_transport(Payload(0, 640, False), 5) == 15
    assert pipe.b_transport(Payload(0, 65, False), 7) == 17
    assert pipe.b_transport(Payload(0, 64, True), 100) == 101
    room = Credits(100)
    assert room.when(100) == 0
    room.take(80)
    assert room.when(30) > 1 << 60
    room.give(80, 42)
    assert room.when(30) == 42


def test_calendar_serves_the_earliest_and_of_equals_the_first_bound() -> None:
    class Acts:
        def __init__(self, name: str, when: list[int]) -> None:
            self.name, self.when = name, when

        def ready(self) -> int:
            return self.when[0] if self.when else 1 << 62

        def act(self, at: int) -> bool:
            seen.append((self.name, at))
            self.when.pop(0)
            return True

    seen: list[tuple[str, int]] = []
    Calendar([Acts("a", [3, 5]), Acts("b", [1, 5, 6])]).run()
    assert seen == [("b", 1), ("a", 3), ("a", 5), ("b", 5), ("b", 6)]
    with pytest.raises(TimeError, match="time went back from cycle 4 to 2"):
        Calendar([Acts("a", [4, 2])]).run()


def test_a_memory_that_answers_before_it_was_asked_is_refused_in_a_sentence() -> None:
    class Hasty:
        def b_transport(self, payload: Payload, at: int) -> int:
            return at - 1

    step = begin_step(BASE, Hasty())
    step.push(GroupWork(early_bytes=100, needs=-1))
    with pytest.raises(TimeError, match=r"memory model Hasty: asked in cycle 0 for 100 bytes, it answers -1"):
        step.close()
