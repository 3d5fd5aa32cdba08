# SPDX-License-Identifier: Apache-2.0
"""A layer's price: closed-form pieces, conservation, monotony, and the same answer by every road."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditto_cosim.device.chips import Chip, chip_from_settings, load_chip
from ditto_cosim.device.designs.base import design_names, load_design
from ditto_cosim.device.pricing.controller import Controller
from ditto_cosim.device.pricing.cost import LaneColumns, LayerTime, PricingError, stack
from ditto_cosim.device.pricing.pricer import Pricer, forget
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.device.timing import traffic
from ditto_cosim.device.timing.traffic import Group
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import PARAMS, Attrs, TensorSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import LayerRecord, RunInfo, RunRecord, RunWriter, StepRecord, SubOp
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step

Works = Mapping[Mode, tuple[SubOp, ...]]
Lanes = Callable[[Mode], LaneColumns]

QUANTIZE: Attrs = {
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
    """A run as the machine does it: choose, tell, count what has ended, and write down what was charged."""
    pricer = Pricer(PROGRAM, chip, load_design(design))
    controller = Controller(PROGRAM, chip, pricer.design)
    written = []
    for s in range(steps):
        step = pricer.begin_step()
        drafts: list[LayerRecord] = []
        ended: list[LayerTime] = []
        for draft in step_of(s, chip).layers:
            forced = s == 1 and draft.layer == 0
            works = {m: w for m, w in draft.works.items() if not (forced and m == "temporal")}
            group = pricer.layers[draft.layer]

            def lanes(mode: Mode, group: Group = group, works: Works = works) -> LaneColumns:
                return pricer.lanes(group, stack([works[mode]]), mode)

            def alone(mode: Mode, group: Group = group, lanes: Lanes = lanes) -> int:
                return int(pricer.alone([group], mode, lanes(mode))[0])

            mode = controller.choose(draft.layer, "temporal" in works, alone)
            counted = 1000 + 10 * s if measured else None
            keeps = controller.keeps_state(s, draft.layer, mode)
            drafts.append(LayerRecord(draft.layer, mode, forced, works, counted))
            ended += step.layer(group, mode, keeps, lanes(mode), counted)
        prologue, *layers = [*ended, *step.close()]
        assert prologue.layer is None
        records = []
        for draft, time in zip(drafts, layers, strict=True):
            assert time.layer == draft.layer
            controller.count(draft.layer, draft.mode, time.total_cycles)
            records.append(replace(draft, charged_cycles=time.total_cycles, traffic_bytes=time.traffic))
        total = prologue.total_cycles + sum(t.total_cycles for t in layers)
        written.append(StepRecord(s, tuple(records), total))
    return written, controller


def priced(pricer: Pricer, record: StepRecord, mode: Mode, keeps: bool = True) -> list[LayerTime]:
    """A step in one mode, without its prologue."""
    step = pricer.begin_step()
    ended: list[LayerTime] = []
    for r, group in zip(record.layers, pricer.layers, strict=True):
        ended += step.layer(group, mode, keeps, pricer.lanes(group, stack([r.works[mode]]), mode))
    return [t for t in [*ended, *step.close()] if t.layer is not None]


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
    assert charged == sum(int(t[1:].sum()) for t in run.traffic.values())


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
    for mode in load_design(design).modes:
        for time in priced(pricer, step_of(1, made), mode):
            assert time.total_cycles == time.unit_cycles["compute"] + sum(time.stall_cycles.values())
            assert min(time.stall_cycles.values()) >= 0
            assert min(time.traffic_bytes.values()) >= 0


def test_temporal_traffic_is_the_state_and_nothing_else() -> None:
    pricer = Pricer(PROGRAM, load_chip("edge"), load_design("ditto"))
    base, _ = pricer.traffic(pricer.layers[0], "original", False)
    reads, writes = pricer.traffic(pricer.layers[0], "temporal", True)
    assert {k: v for k, v in reads.items() if k not in ("previous_input", "previous_output")} == base
    assert reads["previous_input"] == 2 * 96 * 64
    assert reads["previous_output"] == writes["previous_output"] == 4 * 2 * 96 * 64
    attention, _ = pricer.traffic(pricer.layers[1], "temporal", True)
    assert attention["previous_input"] == 2 * (2 * 96 * 64)


def test_group_reads_and_writes_what_crosses_its_border_once() -> None:
    pricer = Pricer(PROGRAM, load_chip("edge"), load_design("itc"))
    element = 2 * 96 * 64
    prologue, _ = pricer.traffic(pricer.prologue, "original", False)
    assert prologue == {"residual": 4 * element}
    reads, writes = pricer.traffic(pricer.layers[0], "original", False)
    assert reads == {"input": element, "weights": 64 * 64 + 4 * 64, "residual": 4 * element}
    assert writes == {"output": 2 * element}
    reads, writes = pricer.traffic(pricer.layers[1], "original", False)
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
        moved = sum(
            sum(part.values())
            for i in range(2)
            for part in pricer.traffic(pricer.layers[i], "temporal", True)
        )
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
        lanes = pricer.lanes(pricer.layers[0], stack([(scaled,)]), "temporal")
        cycles.append(int(pricer.alone([pricer.layers[0]], "temporal", lanes)[0]))
    assert cycles == sorted(cycles)
    assert cycles[0] < cycles[-1]


def test_aggregate_timing_is_throughput_plus_memory() -> None:
    chip = load_chip("paper")
    pricer = Pricer(PROGRAM, chip, load_design("itc"))
    time = priced(pricer, step_of(0, chip), "original", keeps=False)[0]
    macs, moved = 2 * 96 * 64 * 64, 2 * 96 * 64 + (64 * 64) + 2 * 96 * 64
    assert time.total_cycles == -(-macs // 27_648) + -(-moved // 1000)


def test_roofline_is_the_larger_of_macs_and_bytes_and_a_launch_a_command() -> None:
    pricer = Pricer(PROGRAM, load_chip("edge"), load_design("gpu"))
    time = priced(pricer, step_of(0, load_chip("edge")), "original", keeps=False)[0]
    reads, writes = pricer.traffic(pricer.layers[0], "original", False)
    memory = round((sum(reads.values()) + sum(writes.values())) * 2 / 1555)
    launches = 5  # the layer and the four commands behind it; a permutation moves data
    assert time.total_cycles == max(memory, round(2 * 96 * 64 * 64 / 156_000)) + launches * 5000
    assert time.stall_cycles["fill"] == launches * 5000


def test_a_price_does_not_depend_on_what_was_priced_before() -> None:
    """Designs share what they have in common; how often a lane holds its weights is each one's own."""
    chip = load_chip("paper_twin")
    columns = RecordColumns(PROGRAM, info(chip, "ditto"), [step_of(s, chip) for s in range(2)])
    alone = {}
    for design in ("ds", "db", "cambricon_d", "ditto_sign_mask"):
        forget()
        alone[design] = price_run(columns, chip, load_design(design)).energy_totals()
    assert alone["ds"]["lane_memory"] > alone["db"]["lane_memory"]
    for order in (alone, reversed(alone)):
        forget()
        for design in order:
            assert price_run(columns, chip, load_design(design)).energy_totals() == alone[design]


def test_foreign_and_missing_works_are_refused_by_name() -> None:
    chip = load_chip("tiny")
    pricer = Pricer(PROGRAM, chip, load_design("ditto"))
    first = step_of(0, chip)
    with pytest.raises(PricingError, match="'attn'"):
        pricer.lanes(pricer.layers[1], stack([first.layers[0].works["original"]]), "original")
    spatial_gone = replace(first.layers[0], works={"original": first.layers[0].works["original"]})
    columns = RecordColumns(PROGRAM, info(chip, "ditto"), [StepRecord(0, (spatial_gone, first.layers[1]))])
    with pytest.raises(PricingError, match=r"'fc'.*no spatial works"):
        price_run(columns, chip, load_design("diffy"))


def test_an_oracle_is_right_by_its_own_measure_and_close_in_the_loop() -> None:
    """It knows every layer alone; Defo measured them beside their neighbours, and may win a little by that."""
    chip = load_chip("edge")
    written, _ = live(chip, "ditto", 6)
    columns = RecordColumns(PROGRAM, info(chip, "ditto"), written)
    ditto, ideal = (price_run(columns, chip, load_design(d)) for d in ("ditto", "ideal_ditto"))
    assert ideal.accuracy == 1
    assert ditto.accuracy is not None
    assert 0 <= ditto.accuracy <= 1
    assert ideal.total_cycles <= 1.02 * ditto.total_cycles


MORE: Mapping[str, tuple[str, str]] = {
    "channels": ("dram", "channels"),
    "buffer": ("buffer", "megabytes"),
    "tiles": ("tile", "tiles"),
    "lanes": ("tile", "lanes"),
    "vector lanes": ("vector", "lanes"),
    "port": ("buffer", "bytes_per_cycle"),
    "link": ("dma", "bytes_per_cycle"),
}
ANOMALY = 0.03


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_more_of_anything_never_costs_beyond_the_bound_on_chips_drawn_at_random(seed: int) -> None:
    """Other people's chips: odd sizes, one tile, one channel, huge tiles, slow links, any clock."""
    draw = random.Random(seed)
    program = two_layer_program(*draw.choice([(96, 64), (7, 3), (33, 130), (200, 260)]))
    for _ in range(25):
        settings = some_chip(draw)
        chip = chip_from_settings(settings, "drawn", "drawn.toml")
        design = load_design(draw.choice(["itc", "diffy", "cambricon_d", "ds"]))
        made = [synthetic_step(program, s, PUBLISHED, chip.geometry.k_max) for s in range(2)]
        columns = RecordColumns(program, replace(info(chip, "ditto"), program=program.to_dict()), made)
        run = price_run(columns, chip, design)
        assert run.total_cycles == run.unit_totals()["compute"] + sum(run.stall_totals().values())
        assert min(int(stall.min()) for stall in run.stalls.values()) >= 0
        for table, field in MORE.values():
            twice = {**settings, table: {**settings[table], field: 2 * settings[table][field]}}
            more = price_run(columns, chip_from_settings(twice, "drawn", "drawn.toml"), design)
            assert more.total_cycles <= run.total_cycles * (1 + ANOMALY), (field, settings, design.name)


def some_chip(draw: random.Random) -> dict[str, Any]:
    pick = draw.choice
    return {
        "clock_ghz": pick([0.1, 0.333, 1.0, 2.0, 3.7]),
        "partial_sums": pick(["lanes", "vector"]),
        "split_k": pick(["tile", "tiles"]),
        "tile": {
            "lanes": pick([1, 2, 3, 7]),
            "columns": pick([8, 32, 128]),
            "encode_width": pick([4, 8, 16]),
            "k_max": pick([64, 128, 512, 1024]),
            "n_max": pick([256, 512]),
            "tiles": pick([1, 2, 5, 77, 500]),
            "weight_banks": pick([1, 2]),
        },
        "buffer": {
            "megabytes": pick([0.25, 0.5, 1, 4, 64]),
            "policy": pick(["streaming", "resident"]),
            "bytes_per_cycle": pick([0, 1, 17, 256]),
            "accumulator_chunks": pick([1, 2, 5]),
        },
        "dma": {
            "chunk_bytes": pick([2048, 4096, 16_384, 32_768]),
            "queue_depth": pick([4, 8, 16]),
            "prefetch_layers": pick([0, 1, 3]),
            "issue_cycles": pick([0, 1, 4]),
            "bytes_per_cycle": pick([0, 64, 256]),
            "forwarding": pick(["chunk", "whole"]),
        },
        "dram": {"channels": pick([1, 2, 3, 8, 11]), "refresh": pick([True, False])},
        "vector": {"lanes": pick([1, 3, 64, 2048])},
    }
