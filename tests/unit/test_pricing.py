"""A layer's price: closed-form pieces, conservation, monotony, and the same answer by every road."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.device.designs.base import design_names, load_design
from ditto_cosim.device.pricing.controller import Controller
from ditto_cosim.device.pricing.cost import Choice, PricingError
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.device.timing import traffic
from ditto_cosim.protocol.isa import PARAMS, TensorSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import LayerRecord, RunInfo, RunRecord, RunWriter, StepRecord
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step

QUANTIZE = {
    "policy": "static",
    "scales": (1.0,),
    "zero_points": (0,),
    "bounds": (0,),
    "symmetric": True,
    "hysteresis": 1.0,
}


def two_layer_program(tokens: int = 96, width: int = 64) -> Program:
    """silu → quantize → linear → dequantize → add (residual) → quantize → attention matmul with itself."""
    values = (
        TensorSpec((2, tokens, width), "f32"),  # 0 x
        TensorSpec((2, tokens, width), "f32"),  # 1 silu
        TensorSpec((2, tokens, width), "i8"),  # 2 q
        PARAMS,  # 3
        TensorSpec((width, width), "i8"),  # 4 w
        TensorSpec((2, tokens, width), "i32"),  # 5 acc
        TensorSpec((width,), "f32"),  # 6 scale
        TensorSpec((2, tokens, width), "f32"),  # 7 y
        TensorSpec((2, tokens, width), "f32"),  # 8 y + x
        TensorSpec((2, tokens, width), "i8"),  # 9 q
        PARAMS,  # 10
        TensorSpec((2, width, tokens), "i8"),  # 11 transposed
        TensorSpec((2, tokens, tokens), "i32"),  # 12 acc
    )
    program = Program(
        values=values,
        inputs={"x": 0},
        static_inputs=frozenset(),
        constants={"w": 4, "s": 6},
        outputs={"y": 12},
        commands=(
            Command("silu", "act", (0,), (1,)),
            Command("quantize", "act.q", (1,), (2, 3), QUANTIZE),
            Command("linear", "fc", (2, 3, 4), (5,)),
            Command("dequantize", "fc.dq", (5, 3, 6), (7,), {"axis": 2}),
            Command("add", "skip", (7, 0), (8,)),
            Command("quantize", "attn.q", (8,), (9, 10), QUANTIZE),
            Command("permute", "attn.t", (9,), (11,), {"order": (0, 2, 1)}),
            Command("matmul", "attn", (9, 10, 11, 10), (12,), {"static_b": False}),
        ),
    )
    program.validate()
    return program


PROGRAM = two_layer_program()


def step_of(step: int, chip: Chip, seed: int = 0) -> StepRecord:
    return synthetic_step(PROGRAM, step, PUBLISHED, chip.geometry.k_max, seed)


def live(chip: Chip, design: str, steps: int, measured: bool = False) -> tuple[list[StepRecord], Controller]:
    """A run as the machine does it: choose, price, observe, and write down what was charged."""
    controller = Controller(PROGRAM, chip, load_design(design))
    written = []
    for s in range(steps):
        records, total = [], controller.pricer.prologue.total_cycles
        for draft in step_of(s, chip).layers:
            forced = s == 1 and draft.layer == 0
            works = {m: w for m, w in draft.works.items() if not (forced and m == "temporal")}
            draft = LayerRecord(draft.layer, draft.mode, forced, works)
            mode = controller.mode_for(s, draft.layer, draft, forced)
            counted = 1000 + 10 * s if measured else None
            keeps = controller.keeps_state(s, draft.layer, mode)
            time = controller.pricer.price(draft.layer, draft, mode, counted, keeps)
            controller.observe(s, draft.layer, time)
            records.append(
                LayerRecord(draft.layer, mode, forced, works, counted, time.total_cycles, time.traffic)
            )
            total += time.total_cycles
        written.append(StepRecord(s, tuple(records), total))
    return written, controller


def info(chip: Chip, design: str) -> RunInfo:
    return RunInfo(
        program=PROGRAM.to_dict(),
        model="m",
        chip=chip.name,
        chip_digest=chip.digest,
        design=design,
        backend="model",
        low_rule="twos4",
        steps=6,
        seed=0,
        k_max=chip.geometry.k_max,
    )


def assert_same_run(run: RunTime, written: list[StepRecord]) -> None:
    assert run.step_cycles.tolist() == [s.charged_cycles for s in written]
    for s, step in enumerate(written):
        assert run.cycles[s].tolist() == [r.charged_cycles for r in step.layers]
    charged = sum(sum(r.traffic_bytes or ()) for step in written for r in step.layers)
    assert charged == sum(int(t.sum()) for t in run.traffic.values())


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("design", design_names())
@pytest.mark.parametrize("chip", ["tiny", "edge", "paper", "paper_twin"])
def test_pricing_a_record_returns_the_runs_cycles(
    chip: str, design: str, measured: bool, tmp_path: Path
) -> None:
    made = load_chip(chip)
    written, controller = live(made, design, 6, measured)
    writer = RunWriter(tmp_path, info(made, design))
    for step in written:
        writer.append(step)
    run = price_run(RecordColumns.load(RunRecord(tmp_path)), made, load_design(design))
    assert_same_run(run, written)
    assert run.decisions == controller.decisions
    assert run.measured.any() == (measured and chip != "paper" and load_design(design).datapath == "slots")


@pytest.mark.parametrize("design", design_names())
@pytest.mark.parametrize("chip", ["tiny", "edge", "paper", "paper_twin"])
def test_every_cycle_is_work_or_a_named_stall(chip: str, design: str) -> None:
    made = load_chip(chip)
    pricer = Pricer(PROGRAM, made, load_design(design))
    for record in step_of(1, made).layers:
        for mode in record.works:
            time = pricer.price(record.layer, record, mode)
            assert time.total_cycles == time.unit_cycles["compute"] + sum(time.stall_cycles.values())
            assert min(time.stall_cycles.values()) >= 0
            assert min(time.traffic_bytes.values()) >= 0
            longest = max(time.unit_cycles[u] for u in ("compute", "dram"))
            assert time.total_cycles >= longest


def test_pipeline_total_is_that_of_equal_chunks_simulated() -> None:
    """The closed form against a flow shop whose DRAM serves both ends."""
    chip = replace(load_chip("edge"), buffer_bytes=64 << 10)
    big = two_layer_program(tokens=512, width=128)
    pricer = Pricer(big, chip, load_design("ditto"))
    record = synthetic_step(big, 1, PUBLISHED, chip.geometry.k_max).layers[0]
    time = pricer.price(0, record, "temporal")
    reads, writes = pricer.traffic(0, "temporal", True)
    moved = sum(reads.values()) + sum(writes.values())
    chunks = -(-moved // pricer.chunk_bytes)
    assert chunks > 20
    lanes = (
        time.total_cycles
        - time.stall_cycles["dram"]
        - time.stall_cycles["vector"]
        - time.stall_cycles["fill"]
    )
    stages = [*chip.dram.stream_cycles(np.array([sum(reads.values()), sum(writes.values())]))]
    dma_in, dma_out = int(stages[0]) / chunks, int(stages[1]) / chunks
    dram = lane = vector = 0.0
    ready: list[float] = []
    for i in range(chunks):  # in order of need: fetch a chunk, then write back the one that is done
        dram += dma_in
        lane = max(lane, dram) + lanes / chunks
        vector = max(vector, lane) + time.unit_cycles["vector"] / chunks
        ready.append(vector)
        if i >= 2:
            dram = max(dram, min(ready[i - 2], dram)) + dma_out
    dram = max(dram, ready[-1]) + 2 * dma_out
    assert time.total_cycles == pytest.approx(max(dram, ready[-1] + dma_out), rel=0.05)


def test_temporal_traffic_is_the_state_and_nothing_else() -> None:
    pricer = Pricer(PROGRAM, load_chip("edge"), load_design("ditto"))
    base, _ = pricer.traffic(0, "original", False)
    reads, writes = pricer.traffic(0, "temporal", True)
    assert {k: v for k, v in reads.items() if k not in ("previous_input", "previous_output")} == base
    assert reads["previous_input"] == 2 * 96 * 64
    assert reads["previous_output"] == writes["previous_output"] == 4 * 2 * 96 * 64
    attention, _ = pricer.traffic(1, "temporal", True)
    assert attention["previous_input"] == 2 * (2 * 96 * 64)


def test_group_reads_and_writes_what_crosses_its_border_once() -> None:
    pricer = Pricer(PROGRAM, load_chip("edge"), load_design("itc"))
    element = 2 * 96 * 64
    prologue, _ = pricer.traffic(-1, "original", False)
    assert prologue == {"residual": 4 * element}
    reads, writes = pricer.traffic(0, "original", False)
    assert reads == {"input": element, "weights": 64 * 64 + 4 * 64, "residual": 4 * element}
    assert writes == {"output": 2 * element}
    reads, writes = pricer.traffic(1, "original", False)
    assert reads == {"input": 2 * element}
    assert writes == {"output": 4 * 2 * 96 * 96}


def test_static_bypass_drops_the_state_it_names_and_sign_mask_drops_more() -> None:
    marked = replace(PROGRAM, skip_difference=frozenset({"attn"}), skip_summation=frozenset({"fc"}))
    groups = traffic.groups(marked, "group", True, False)
    assert "previous_input" not in traffic.mode_bytes(groups[2], "temporal", True)[0]
    reads, writes = traffic.mode_bytes(groups[1], "temporal", True)
    assert "previous_output" not in reads
    assert "previous_output" not in writes
    ignored = traffic.groups(marked, "group", False, False)
    assert "previous_input" in traffic.mode_bytes(ignored[2], "temporal", True)[0]
    masked = traffic.groups(PROGRAM, "group", True, True)
    assert masked[1].summation_deferred  # fc → dequantize → add → quantize → attention
    assert not masked[1].difference_at_hand  # the program's own input is no difference


def test_resident_buffer_only_ever_removes_traffic() -> None:
    previous = None
    for size in (1 << 12, 1 << 16, 1 << 18, 1 << 22):
        chip = replace(load_chip("edge"), residency="resident", buffer_bytes=size)
        pricer = Pricer(PROGRAM, chip, load_design("ditto"))
        moved = sum(sum(part.values()) for i in range(2) for part in pricer.traffic(i, "temporal", True))
        assert pricer.kept.held_bytes <= size
        assert previous is None or moved <= previous
        previous = moved
    assert previous == 4 * 2 * 96 * 96 + 4 * 2 * 96 * 64  # all fits: the host still brings x and takes y
    streaming = Pricer(PROGRAM, load_chip("edge"), load_design("ditto"))
    assert not streaming.kept.values


def test_more_slots_never_take_less_time() -> None:
    chip = load_chip("tiny")
    pricer = Pricer(PROGRAM, chip, load_design("ditto"))
    record = step_of(1, chip).layers[0]
    cycles = []
    for factor in (0, 0.25, 0.5, 1.0):
        (subop,) = record.works["temporal"]
        assert subop.slots is not None
        scaled = replace(subop, slots=np.floor(subop.slots * factor).astype(np.uint16))
        cycles.append(
            pricer.price(0, replace(record, works={"temporal": (scaled,)}), "temporal").total_cycles
        )
    assert cycles == sorted(cycles)
    assert cycles[0] < cycles[-1]


def test_aggregate_timing_is_throughput_plus_memory() -> None:
    chip = load_chip("paper")
    pricer = Pricer(PROGRAM, chip, load_design("itc"))
    record = step_of(0, chip).layers[0]
    time = pricer.price(0, record, "original", keeps_state=False)
    macs, moved = 2 * 96 * 64 * 64, 2 * 96 * 64 + (64 * 64) + 2 * 96 * 64
    assert time.total_cycles == -(-macs // 27_648) + -(-moved // 1000)


def test_missing_mode_and_foreign_works_are_refused_by_name() -> None:
    chip = load_chip("tiny")
    pricer = Pricer(PROGRAM, chip, load_design("ditto"))
    first = step_of(0, chip)
    with pytest.raises(PricingError, match=r"'fc'.*temporal"):
        pricer.price(0, first.layers[0], "temporal")
    with pytest.raises(PricingError, match="'attn'"):
        pricer.price(1, replace(first.layers[0], layer=1), "original")
    with pytest.raises(PricingError, match="1 layers, the program has 2"):
        pricer.price_step(0, [Choice(first.layers[0], "original", True)])


def test_ideal_is_never_slower_and_its_accuracy_is_one() -> None:
    chip = load_chip("edge")
    written, _ = live(chip, "ditto", 6)
    columns = RecordColumns(PROGRAM, info(chip, "ditto"), written)
    ditto, ideal = (price_run(columns, chip, load_design(d)) for d in ("ditto", "ideal_ditto"))
    assert ideal.accuracy == 1
    assert ditto.accuracy is not None
    assert 0 <= ditto.accuracy <= 1
