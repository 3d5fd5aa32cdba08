# SPDX-License-Identifier: Apache-2.0
"""All modes, designs, backends and scale policies give golden's bits, for every family; a planted error is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ditto_cosim.device.backends.base import Backend
from ditto_cosim.device.execution.blocks import BlockLayer
from ditto_cosim.device.execution.layers import Layer
from ditto_cosim.device.execution.machine import Machine, Make
from ditto_cosim.device.kernels import slots, vector
from ditto_cosim.device.kernels.portable import PortableKernels
from ditto_cosim.host.compiler.quantize import Policy
from ditto_cosim.host.reference.golden import Difference, Verifier
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS, ISA, LAYER_OPS
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.tensors import Array
from support import relu_denoiser
from support.families import CACHED, FAMILIES, calibrated, compiled


def run(
    name: str, *, policy: Policy = "static", backend: str = "model", chip: str = "tiny", design: str = "ditto"
) -> Any:
    """Every step of a family's trajectory, every value checked; returns (verifier, modes met, totals, last output)."""
    program, steps = compiled(name, policy), calibrated(name)[1]
    machine = Machine(program.program, program.arrays, RunSpec(backend=backend, chip=chip, design=design))
    verifier = Verifier(program.program, program.constants)
    reports: list[LayerReport] = []
    try:
        for step, inputs in enumerate(steps):
            verifier.expect(step, inputs)
            result = machine.step(
                step,
                {n: t.numpy() for n, t in inputs.items()},
                observe="all",
                timed=True,
                on_layer=reports.append,
                on_value=verifier.check,
            )
            if verifier.first_difference:
                break
    finally:
        machine.close()
    return verifier, reports, result.totals, result.outputs["sample"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("design", ["ditto", "ditto_plus"])
def test_exactness_every_family_equals_golden(name: str, design: str) -> None:
    verifier, reports, _, output = run(name, design=design)
    assert verifier.bit_identical, verifier.first_difference
    layers = len(compiled(name).program.layers)
    assert verifier.layers_checked == 4 * layers == len(reports)
    assert {r.mode for r in reports if r.step == 1} == {"temporal"}
    fp32 = calibrated(name)[2]
    error = (torch.from_numpy(output.copy()) - fp32).norm() / fp32.norm()
    assert error < 0.15, f"int8 is {error:.1%} away from fp32"


@pytest.mark.parametrize("policy", ["clustered", "dynamic"])
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_exactness_scale_changes_force_the_base_mode(name: str, policy: Policy) -> None:
    verifier, reports, _, _ = run(name, policy=policy)
    assert verifier.bit_identical, verifier.first_difference
    forced = [r for r in reports if r.forced_base]
    assert forced
    assert {r.mode for r in forced} == {"original"}


@pytest.mark.parametrize("design", ["itc", "diffy", "ds", "db", "db_ds", "dynamic_ditto", "ideal_ditto"])
def test_exactness_designs_share_one_arithmetic(design: str) -> None:
    verifier, _, _, output = run("unet", design=design)
    assert verifier.bit_identical, verifier.first_difference
    np.testing.assert_array_equal(output, run("unet")[3])


@pytest.mark.parametrize("design", ["ditto", "diffy", "itc"])
@pytest.mark.parametrize("name", ["convolutions", "odds"])
def test_exactness_every_command_equals_golden_in_every_mode(name: str, design: str) -> None:
    verifier, reports, _, output = run(name, design=design)
    assert verifier.bit_identical, verifier.first_difference
    mode = {"ditto": "temporal", "diffy": "spatial", "itc": "original"}[design]
    assert {r.mode for r in reports if r.step == 1} == {mode}
    fp32 = calibrated(name)[2]
    assert (torch.from_numpy(output.copy()) - fp32).norm() / fp32.norm() < 0.05


@pytest.mark.parametrize("name", ["unet", "dit", "convolutions"])
def test_exactness_rtl_equals_model_in_bits_and_cycles(name: str) -> None:
    rtl, rtl_reports, rtl_totals, rtl_output = run(name, backend="rtl")
    _, reports, totals, output = run(name, backend="model")
    assert rtl.bit_identical, rtl.first_difference
    np.testing.assert_array_equal(rtl_output, output)
    assert rtl_totals == totals
    assert [r.cycles for r in rtl_reports] == [r.cycles for r in reports]
    assert all(r.measured for r in rtl_reports)
    assert not any(r.measured for r in reports)


def test_exactness_rtl_wide_equals_golden_and_models_its_cycles() -> None:
    wide, reports, totals, _ = run("unet", backend="rtl_wide")
    assert wide.bit_identical, wide.first_difference
    assert not any(r.measured for r in reports)
    assert totals == run("unet")[2]


@pytest.mark.parametrize("name", ["unet", "dit", "convolutions"])
def test_exactness_without_a_compiler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy alone computes the same values and counts the same slots as the compiled kernels."""
    _, reports, totals, output = run(name)
    monkeypatch.setattr(vector, "kernels", PortableKernels)
    monkeypatch.setattr(slots, "kernels", PortableKernels)
    bare, bare_reports, bare_totals, bare_output = run(name)
    assert bare.bit_identical, bare.first_difference
    np.testing.assert_array_equal(bare_output, output)
    assert (bare_reports, bare_totals) == (reports, totals)


@pytest.mark.parametrize("design", ["ditto", "ditto_plus", "itc", "diffy", "ideal_ditto"])
@pytest.mark.parametrize("name", CACHED)
def test_exactness_steps_of_two_classes_equal_golden(name: str, design: str) -> None:
    verifier, reports, _, output = run(name, design=design)
    assert verifier.bit_identical, verifier.first_difference
    np.testing.assert_array_equal(output, run(name)[3])
    program = compiled(name).program
    for step in range(4):
        ran = {r.layer for r in reports if r.step == step}
        assert ran == set(program.layers_of(program.step_class(step)))
    increments = {r.mode for r in reports if r.op == "linear_increment"}
    assert increments == ({"temporal"} if name == "dit-icc" else set())


def test_exactness_a_projected_anchor_gives_the_same_bits_for_other_work() -> None:
    """Specification 6.1, test 5."""
    _, reports, _, output = run("dit-icc")
    _, others, _, projected = run("dit-icc-projected")
    np.testing.assert_array_equal(output, projected)
    assert sum(r.slots for r in reports) != sum(r.slots for r in others)


def test_exactness_rtl_equals_model_in_every_product_of_an_increment() -> None:
    """Specification 6.1, test 2: slots and cycles of every B and A product, as recounted and as the contract says."""
    rtl, rtl_reports, rtl_totals, rtl_output = run("dit-icc", backend="rtl")
    _, reports, totals, output = run("dit-icc")
    assert rtl.bit_identical, rtl.first_difference
    np.testing.assert_array_equal(rtl_output, output)
    assert rtl_totals == totals
    assert [(r.slots, r.lane_cycles) for r in rtl_reports] == [(r.slots, r.lane_cycles) for r in reports]
    products = [r for r in rtl_reports if r.name.endswith((".A", ".B"))]
    assert len(products) == 2 * 2 * 12  # two increments, two blocks of six layers, each A and B
    assert all(r.measured for r in products)


RELU = "relu"
"""Block-scaled layers are in the program of `support/relu_denoiser.py`."""


def first_command(op: str) -> tuple[str, Command] | None:
    for name in ("unet", "dit", "unet-conditional", "latte", "odds", "dit-icc", "dit-icc-projected"):
        for command in compiled(name).program.commands:
            if command.op == op:
                return name, command
    for command in relu_denoiser.compiled().program.commands:
        if command.op == op:
            return RELU, command
    return None


@pytest.mark.parametrize("op", sorted(ISA))
def test_exactness_verify_reports_an_error_planted_in(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = first_command(op)
    assert found, f"no test program has a {op}"
    name, command = found

    def spoil(array: Array) -> Array:
        spoiled = array.copy()
        flat = spoiled.reshape(-1)
        flat[-1] = flat[-1] + 1
        return spoiled

    if op in LAYER_OPS:
        kind = BlockLayer if op in BLOCK_LAYER_OPS else Layer
        original: Any = kind.run

        def run_layer(self: Layer, mode: Mode, backend: Backend) -> Any:
            accumulators, cycles = original(self, mode, backend)
            return (spoil(accumulators) if self.command.name == command.name else accumulators), cycles

        monkeypatch.setattr(kind, "run", run_layer)
    else:
        resolve = Machine._resolve

        def spoiled_resolve(self: Machine, resolved: Command) -> Make | None:
            make = resolve(self, resolved)
            if make is None or (resolved.op, resolved.name) != (op, command.name):
                return make

            def spoiled(operands: Sequence[Array], step: int) -> tuple[Array, ...]:
                results = make(operands, step)
                if op == "keep":
                    slot = str(command.attrs["slot"])
                    self.kept[slot] = spoil(self.kept[slot])
                    return results
                if op == "quantize":
                    q = results[0]
                    return np.where(spoil(q) > q, q ^ 1, q), results[1]
                return (spoil(results[0]), *results[1:])

            return spoiled

        monkeypatch.setattr(Machine, "_resolve", spoiled_resolve)

    if name == RELU:
        found_by, program = relu_denoiser.run(verify=True).verifier, relu_denoiser.compiled().program
        assert found_by is not None
        difference = found_by.first_difference
    else:
        difference, program = run(name)[0].first_difference, compiled(name).program
    assert isinstance(difference, Difference), f"an error in {op} went unnoticed"
    if op == "keep":  # it shows where the value is recalled
        slot = command.attrs["slot"]
        command = next(c for c in program.commands if c.op == "recall" and c.attrs["slot"] == slot)
    shape = program.values[command.results[0]].shape
    first = 1 if command.when == "increment" else 0
    assert (difference.step, difference.op, difference.name) == (first, command.op, command.name)
    assert difference.index == tuple(d - 1 for d in shape)
    assert difference.device != difference.golden
