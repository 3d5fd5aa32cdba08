# SPDX-License-Identifier: Apache-2.0
"""Vector unit's time, energy's table, sign-mask: the small contracts on their own."""

from __future__ import annotations

import numpy as np
import pytest

from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.energy import TABLE, Events, energy_pj
from ditto_cosim.device.timing.vector_time import PASSES, command_cycles, pass_cycles
from ditto_cosim.protocol.isa import ISA, TensorSpec
from ditto_cosim.protocol.program import Command
from ditto_cosim.study.sign_mask import (
    group_norm,
    group_norm_by_mask,
    relative_error,
    silu,
    silu_by_mask,
    trajectory,
)

LANES, DEPTH = 16, 10


def cycles(op: str, operand: tuple[int, ...], result: tuple[int, ...], **attrs: object) -> int:
    command = Command(op, "c", (0,), (1,), attrs)  # type: ignore[arg-type]  # attributes of this test's own making
    return command_cycles(command, [TensorSpec(operand, "f32")], TensorSpec(result, "f32"), LANES, DEPTH)


@pytest.mark.parametrize(
    ("op", "passes"),
    [("silu", 1), ("add", 1), ("group_norm", 2), ("layer_norm", 2), ("softmax", 3), ("permute", 1)],
)
def test_vector_command_takes_its_passes_and_one_depth(op: str, passes: int) -> None:
    assert cycles(op, (4, 33), (4, 33)) == passes * -(-132 // LANES) + DEPTH


def test_vector_reshape_is_free_and_dynamic_quantize_looks_twice() -> None:
    assert cycles("reshape", (4, 33), (132,)) == 0
    static, dynamic = (cycles("quantize", (64,), (64,), policy=p) for p in ("static", "dynamic"))
    assert (static, dynamic) == (4 + DEPTH, 8 + DEPTH)


def test_vector_upsample_counts_what_it_writes_and_gather_what_it_fetches() -> None:
    assert cycles("upsample_nearest", (16,), (64,)) == pass_cycles(64, LANES, DEPTH)
    assert cycles("gather", (1000, 8), (8,)) == pass_cycles(8, LANES, DEPTH)


def test_vector_passes_name_commands_that_exist() -> None:
    assert PASSES.keys() <= ISA.keys()
    assert all(ISA[op].kind != "layer" for op in PASSES)


def events(**given: int) -> Events:
    whole = {"products": 0, "encoded": 0, "vector_elements": 0, "dram_bytes": 0, "sram_bytes": 0} | given
    return Events(**{k: np.array([v]) for k, v in whole.items()})


def test_energy_of_a_second_of_full_work_is_the_published_power() -> None:
    for name in ("itc", "diffy", "ditto"):
        design = load_design(name)
        second = energy_pj(events(products=design.multipliers * 10**9), design)
        assert second["compute"][0] / 1e12 == pytest.approx(design.power_watts)


def test_energy_adds_up_event_by_event() -> None:
    design = load_design("ditto")
    found = energy_pj(events(dram_bytes=1000, sram_bytes=10, encoded=5, vector_elements=7), design)
    assert found["dram"][0] == pytest.approx(8000 * TABLE["dram"].picojoules)
    assert found["sram"][0] == pytest.approx(10 * TABLE["sram"].picojoules)
    assert found["encode"][0] == pytest.approx(5 * TABLE["encode"].picojoules)
    assert found["vector"][0] == pytest.approx(7 * TABLE["vector"].picojoules)
    assert found["defo"][0] > 0
    assert energy_pj(events(), load_design("itc"))["defo"][0] == 0
    assert all(e.source and e.unit.startswith("pJ/") for e in TABLE.values())


def test_sign_mask_is_exact_without_differences_and_for_values_far_from_zero() -> None:
    still = np.repeat(trajectory(1, (8, 4, 4), 0.9), 5, axis=0)
    assert relative_error(silu_by_mask(still), silu(still)).max() < 1e-12
    far = trajectory(5, (64,), 0.95) + 30
    assert relative_error(silu_by_mask(far), silu(far)).max() < 1e-9


def test_sign_mask_error_grows_with_differences() -> None:
    errors = []
    for similarity in (0.999, 0.983, 0.9):
        xs = trajectory(20, (16, 8, 8), similarity)
        errors.append(relative_error(silu_by_mask(xs), silu(xs))[-1])
        exact = np.stack([group_norm(x, 4) for x in xs])
        assert relative_error(group_norm_by_mask(xs, 4), exact)[-1] < 0.2
    assert errors == sorted(errors)
    assert errors[1] > 0.05
