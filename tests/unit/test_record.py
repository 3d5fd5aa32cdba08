# SPDX-License-Identifier: Apache-2.0
"""Records survive their frames and their files, and refuse what is malformed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import PARAMS, Attrs, TensorSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import (
    LayerRecord,
    RecordError,
    RunInfo,
    RunRecord,
    RunWriter,
    StepRecord,
    SubOp,
    Work,
    layer_work,
    split_k,
)


def small_program() -> Program:
    """A linear layer, its dequantize, a quantize and an attention matmul of the result with an input."""
    values = (
        TensorSpec((2, 3, 40), "i8"),  # 0 x
        PARAMS,  # 1
        TensorSpec((16, 40), "i8"),  # 2 w
        TensorSpec((2, 3, 16), "i32"),  # 3 acc
        TensorSpec((16,), "f32"),  # 4 scale
        TensorSpec((2, 3, 16), "f32"),  # 5 y
        TensorSpec((2, 3, 16), "i8"),  # 6 q
        PARAMS,  # 7
        TensorSpec((2, 16, 5), "i8"),  # 8 b
        TensorSpec((2, 3, 5), "i32"),  # 9 acc
    )
    quantize: Attrs = {
        "policy": "static",
        "scales": (1.0,),
        "zero_points": (0,),
        "bounds": (0,),
        "symmetric": True,
        "hysteresis": 1.0,
    }
    program = Program(
        values=values,
        inputs={"x": 0, "p": 1, "b": 8},
        static_inputs=frozenset(),
        constants={"w": 2, "s": 4},
        outputs={"y": 9},
        commands=(
            Command("linear", "fc", (0, 1, 2), (3,)),
            Command("dequantize", "fc.dq", (3, 1, 4), (5,), {"axis": 2}),
            Command("quantize", "fc.q", (5,), (6, 7), quantize),
            Command("matmul", "attn", (6, 7, 8, 7), (9,), {"static_b": False}),
        ),
    )
    program.validate()
    return program


def random_subop(work: Work, k_max: int, rng: np.random.Generator) -> SubOp:
    splits = split_k(work.k, k_max)
    slots = rng.integers(0, 2 * min(splits), (len(splits), work.groups * work.rows)).astype(np.uint16)
    elements = work.groups * work.rows * work.k
    low, full = elements // 2, elements // 10
    return SubOp(work, splits, slots, elements - low - full, low, full)


def random_step(program: Program, step: int, k_max: int = 32, seed: int = 0) -> StepRecord:
    rng = np.random.default_rng(seed + step)
    layers = []
    for i in range(len(program.layers)):
        works: dict[Mode, tuple[SubOp, ...]] = {}
        modes: tuple[Mode, ...] = ("original", "spatial", "temporal") if step else ("original", "spatial")
        for mode in modes:
            made = tuple(random_subop(w, k_max, rng) for w in layer_work(program, i, mode))
            if mode == "original":
                made = tuple(SubOp(s.work, s.splits, None, s.zero, s.low, s.full) for s in made)
            works[mode] = made
        ran: Mode = "temporal" if step else "original"
        layers.append(LayerRecord(i, ran, i == 1, works, 7 if i else None, 100 + i, (1, 2, 3, 4, 5, 6)))
    return StepRecord(step, tuple(layers), 1234)


def same(a: StepRecord, b: StepRecord) -> bool:
    left, right = a.to_frames(), b.to_frames()
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


INFO: dict[str, Any] = {
    "model": "m",
    "chip": "tiny",
    "chip_digest": "0",
    "design": "ditto",
    "backend": "model",
    "low_rule": "twos4",
    "steps": 3,
    "seed": 0,
    "k_max": 32,
}


def test_record_frames_round_trip() -> None:
    step = random_step(small_program(), 1)
    back = StepRecord.from_frames(step.to_frames())
    assert same(step, back)
    assert back.layers[0].measured_cycles is None
    assert back.layers[1].measured_cycles == 7
    assert back.layers[1].forced
    assert [s.work for s in back.layers[1].works["temporal"]] == list(
        layer_work(small_program(), 1, "temporal")
    )


def test_record_directory_round_trip(tmp_path: Path) -> None:
    program = small_program()
    writer = RunWriter(tmp_path / "run", RunInfo(program=program.to_dict(), **INFO))
    for step in range(3):
        writer.append(random_step(program, step))
    record = RunRecord(tmp_path / "run")
    assert len(record) == 3
    assert record.program.digest == program.digest
    assert all(same(record[i], random_step(program, i)) for i in range(3))
    assert record.outcome == {}
    writer.close({"verdict": "identical"})
    assert record.outcome["verdict"] == "identical"


@pytest.mark.parametrize("name", ["step", "layers", "works", "slots"])
def test_record_refuses_missing_and_misshapen_frames(name: str) -> None:
    frames = random_step(small_program(), 1).to_frames()
    with pytest.raises(RecordError, match=name):
        StepRecord.from_frames({k: v for k, v in frames.items() if k != name})
    with pytest.raises(RecordError, match=name):
        StepRecord.from_frames({**frames, name: frames[name].astype(np.float32)})


def test_record_refuses_too_few_and_too_many_slots() -> None:
    frames = random_step(small_program(), 1).to_frames()
    with pytest.raises(RecordError, match="end inside"):
        StepRecord.from_frames({**frames, "slots": frames["slots"][:-1]})
    with pytest.raises(RecordError, match="belong to no work"):
        StepRecord.from_frames({**frames, "slots": np.append(frames["slots"], np.uint16(1))})


def test_record_says_where_no_run_is(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no run\.json"):
        RunRecord(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RecordError, match="version"):
        RunRecord(tmp_path)


def test_split_is_balanced_and_longer_first() -> None:
    assert split_k(10, 4) == (4, 3, 3)
    assert split_k(1024, 1024) == (1024,)
    assert sum(split_k(4608, 1024)) == 4608


def test_layer_work_of_temporal_attention_is_two_works() -> None:
    program = small_program()
    assert layer_work(program, 0, "temporal") == (Work(1, 6, 40, 16),)
    assert layer_work(program, 1, "original") == (Work(2, 3, 16, 5),)
    assert layer_work(program, 1, "temporal") == (Work(2, 3, 16, 5), Work(2, 5, 16, 3))
