# SPDX-License-Identifier: Apache-2.0
"""Golden: direct integers, whatever the memory order, the threads and the machine's int8 product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

from ditto_cosim.host.reference import golden_ops
from ditto_cosim.host.reference.golden import Difference, Golden, Verifier, VerifyError
from ditto_cosim.host.reference.sample import SampledVerifier
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import IsaError
from ditto_cosim.protocol.isa import Attrs, TensorSpec
from ditto_cosim.protocol.program import Command, Program
from support.families import calibrated, compiled

QUANTIZE: Attrs = {
    "policy": "static",
    "scales": (0.05,),
    "zero_points": (-7,),
    "bounds": (0,),
    "symmetric": False,
    "hysteresis": 1.0,
}
CONVOLUTION: Attrs = {"stride": (1, 1), "padding": (0, 0)}
CHANNELS, SIZE = 16, 8


def build(
    steps: list[tuple[str, list[str], isa.Attrs]], leaves: dict[str, TensorSpec], inputs: list[str]
) -> Program:
    """A program from (op, operand names, attributes); command i's results are named `i` and `i'`."""
    ids = {name: n for n, name in enumerate(leaves)}
    values, commands = list(leaves.values()), []
    for i, (op, operands, attrs) in enumerate(steps):
        operand_ids = tuple(ids[name] for name in operands)
        results = isa.infer(op, [values[v] for v in operand_ids], attrs)
        for name, spec in zip((f"{i}", f"{i}'"), results, strict=False):
            ids[name] = len(values)
            values.append(spec)
        made = tuple(range(len(values) - len(results), len(values)))
        commands.append(Command(op, f"{op}.{i}", operand_ids, made, attrs))
    return Program(
        values=tuple(values),
        inputs={name: ids[name] for name in inputs},
        static_inputs=frozenset(),
        constants={name: ids[name] for name in leaves if name not in inputs},
        outputs={"y": len(values) - 1},
        commands=tuple(commands),
    )


@pytest.fixture
def block() -> tuple[Program, dict[str, torch.Tensor]]:
    """A residual block: quantize, conv, dequantize, group norm, silu, upsample, add, quantize, 1×1 conv, …"""
    c = CHANNELS
    leaves = {
        "x": TensorSpec((2, c, SIZE, SIZE), "f32"),
        "w": TensorSpec((c, c, 3, 3), "i8"),
        "s": TensorSpec((c,), "f32"),
        "b": TensorSpec((c,), "f32"),
        "w1": TensorSpec((c, c, 1, 1), "i8"),
    }
    program = build(
        [
            ("quantize", ["x"], QUANTIZE),
            ("conv2d", ["0", "0'", "w"], {**CONVOLUTION, "padding": (1, 1)}),
            ("dequantize", ["1", "0'", "s", "b"], {"axis": 1}),
            ("group_norm", ["2", "s", "b"], {"groups": 4, "eps": 1e-5}),
            ("silu", ["3"], {}),
            ("add", ["4", "x"], {}),
            ("quantize", ["5"], QUANTIZE),
            ("conv2d", ["6", "6'", "w1"], CONVOLUTION),
            ("dequantize", ["7", "6'", "s"], {"axis": 1}),
            ("upsample_nearest", ["8"], {"factor": (2, 2)}),
        ],
        leaves,
        ["x"],
    )
    generator = torch.Generator().manual_seed(1)
    constants = {
        name: torch.randint(-128, 128, spec.shape, generator=generator, dtype=torch.int8)
        if spec.dtype == "i8"
        else torch.rand(spec.shape, generator=generator) * 0.02
        for name, spec in leaves.items()
        if name != "x"
    }
    return program, constants


def sample(step: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(2, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(step)) * 2}


def values_of(
    program: Program, constants: dict[str, torch.Tensor], step: int = 0
) -> list[tuple[int, torch.Tensor]]:
    seen: list[tuple[int, torch.Tensor]] = []
    Golden(program, constants).step(step, sample(step), lambda v, t: seen.append((v, t.clone())))
    return seen


@pytest.mark.parametrize("zero_point", [0, -128, 127, 5])
def test_golden_conv2d_is_exact_on_biased_data_beyond_f32(zero_point: int) -> None:
    """Sums pass 2²⁴ by far, where f32 would round; f64 is the oracle."""
    x = torch.full((1, 512, 6, 6), 127, dtype=torch.int8)
    x[0, ::3] = -128
    w = torch.full((3, 512, 3, 3), -128, dtype=torch.int8)
    w[1] = 127
    w[2] = torch.randint(-128, 128, (512, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    command = Command("conv2d", "c", (0, 1, 2), (3,), {**CONVOLUTION, "stride": (2, 1), "padding": (1, 2)})
    params = torch.tensor([0.1, zero_point])
    got = golden_ops.conv2d(x, params, golden_ops.Weights.of(w), command, (3, 3))
    padded = functional.pad(x.double(), (2, 2, 1, 1), value=zero_point) - zero_point
    expected = functional.conv2d(padded, w.double(), stride=(2, 1))
    assert torch.equal(got.double(), expected)
    assert int(got.abs().max()) > 2**24


@given(st.integers(1, 5), st.integers(1, 3000), st.integers(1, 5), st.integers(0, 2**32))
def test_golden_product_in_binary32_is_exact(m: int, k: int, n: int, seed: int) -> None:
    """Also where every product is the largest there is, so that the pieces of K are as full as they get."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in ((m, k), (k, n))
    )
    a[0], b[:, 0] = -128, -128
    assert torch.equal(golden_ops.f32_product(a, b).double(), a.double() @ b.double())


@pytest.mark.parametrize("has_it", [True, False])
def test_golden_does_not_depend_on_the_int8_product(
    block: tuple[Program, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch, has_it: bool
) -> None:
    """A machine without int8 products, or whose products saturate, takes binary32 instead, with the same bits."""
    here = values_of(*block)
    monkeypatch.setattr(golden_ops, "has_int8_product", lambda: has_it)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(here, values_of(*block), strict=True))


def test_golden_does_not_depend_on_threads_or_blocks(
    block: tuple[Program, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = values_of(*block)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(golden_ops, "BLOCK", 100)
    try:
        two = values_of(*block)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("function", ["silu", "gelu_erf", "gelu_tanh", "tanh", "group_norm"])
def test_golden_vector_ops_do_not_depend_on_memory_order(function: str) -> None:
    x = torch.randn(2, 24, 9, 7, generator=torch.Generator().manual_seed(3)) * 5

    def run(t: torch.Tensor) -> torch.Tensor:
        if function == "group_norm":
            return golden_ops.group_norm(t, None, None, 4, 1e-5)
        return golden_ops.blocked(getattr(golden_ops, function), t)

    plain = run(x)
    assert torch.equal(plain, run(x.to(memory_format=torch.channels_last)))
    assert torch.equal(plain, run(x.transpose(2, 3).contiguous().transpose(2, 3)))
    assert torch.equal(plain[:, :, ::2], plain[:, :, ::2].clone())


def test_golden_gives_results_in_program_order_and_frees_the_dead(
    block: tuple[Program, dict[str, torch.Tensor]],
) -> None:
    program, constants = block
    live: dict[int, torch.Tensor] = {}
    order, most = [], 0
    for _, value, _ in Golden(program, constants).run(0, sample(0), live):
        order.append(value)
        most = max(most, len(live))
    assert order == [v for c in program.commands for v in c.results]
    kept = {*program.inputs.values(), *program.constants.values(), *program.outputs.values()}
    assert set(live) == kept
    assert most < len(program.values)


def test_golden_keeps_its_own_arithmetic_apart_from_its_operands(
    block: tuple[Program, dict[str, torch.Tensor]],
) -> None:
    """Nothing computes in place on a value: what a command read is unchanged at the end of the step."""
    program, constants = block
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    inputs = sample(0)
    before = inputs["x"].clone()
    Golden(program, constants).step(0, inputs, lambda _, t: seen.append((t, t.clone())))
    assert torch.equal(inputs["x"], before)
    assert all(torch.equal(now, then) for now, then in seen)


def test_golden_names_what_does_not_fit(block: tuple[Program, dict[str, torch.Tensor]]) -> None:
    program, constants = block
    with pytest.raises(IsaError, match="constants w1 are missing"):
        Golden(program, {k: v for k, v in constants.items() if k != "w1"})
    with pytest.raises(IsaError, match=r"constant 's' is torch\.float64"):
        Golden(program, {**constants, "s": constants["s"].double()})
    golden = Golden(program, constants)
    with pytest.raises(IsaError, match="inputs x are missing"):
        golden.step(0, {})
    with pytest.raises(IsaError, match=r"input 'x' is torch.float32\[1\]"):
        golden.step(0, {"x": torch.zeros(1)})


# --- verifier ---------------------------------------------------------------------------------------


@pytest.fixture
def verified(
    block: tuple[Program, dict[str, torch.Tensor]],
) -> tuple[Verifier, list[tuple[int, np.ndarray]]]:
    program, constants = block
    verifier = Verifier(program, constants)
    verifier.expect(0, sample(0))
    return verifier, [(v, t.contiguous().numpy()) for v, t in values_of(program, constants)]


def test_verifier_counts_what_it_compared(verified: tuple[Verifier, list[tuple[int, np.ndarray]]]) -> None:
    verifier, values = verified
    assert not verifier.bit_identical
    assert all(verifier.check(v, a) for v, a in values)
    assert verifier.bit_identical
    assert (verifier.layers_checked, verifier.values_checked) == (2, len(values))
    verifier.expect(1, sample(1))


@pytest.mark.parametrize("at", range(12))
def test_verifier_finds_one_wrong_element_anywhere(
    verified: tuple[Verifier, list[tuple[int, np.ndarray]]], at: int
) -> None:
    verifier, values = verified
    wrong = [(v, a.copy()) for v, a in values]
    flat = wrong[at][1].reshape(-1)
    place = flat.size // 2
    flat[place] = np.nextafter(flat[place], np.float32(9)) if flat.dtype == np.float32 else flat[place] ^ 1
    verdicts = [verifier.check(v, a) for v, a in wrong]
    assert verdicts == [True] * at + [False] * (len(wrong) - at)
    difference = verifier.first_difference
    assert isinstance(difference, Difference)
    assert not verifier.bit_identical
    assert difference.value == wrong[at][0]
    assert difference.index == np.unravel_index(place, wrong[at][1].shape)
    assert difference.device == flat[place].item()
    assert difference.golden == values[at][1].reshape(-1)[place].item()
    assert difference.name == f"{difference.op}.{difference.command}"
    assert difference.name in str(difference)


def test_verifier_takes_zeros_of_any_sign_and_no_nan(
    verified: tuple[Verifier, list[tuple[int, np.ndarray]]],
) -> None:
    verifier, values = verified
    params = values[1][1].copy()
    assert verifier.check(*values[0])
    assert verifier.check(values[1][0], params)
    poisoned = values[2][1].astype(np.int32)
    assert verifier.check(values[2][0], poisoned)
    broken = values[3][1].copy()
    broken[broken == 0] = -0.0
    assert verifier.check(values[3][0], broken)
    broken = values[4][1].copy()
    broken[0, 0, 0, 0] = np.nan
    assert not verifier.check(values[4][0], broken)
    assert isinstance(verifier.first_difference, Difference)
    assert verifier.first_difference.index == (0, 0, 0, 0)


def test_verifier_refuses_values_it_cannot_follow(
    verified: tuple[Verifier, list[tuple[int, np.ndarray]]],
) -> None:
    verifier, values = verified
    with pytest.raises(VerifyError, match="step 1 begins, but 12 values of step 0 were never sent"):
        verifier.expect(1, sample(1))
    with pytest.raises(VerifyError, match=f"value {values[1][0]} arrived, value {values[0][0]} is next"):
        verifier.check(*values[1])


def test_verifier_refuses_a_value_of_another_type(
    verified: tuple[Verifier, list[tuple[int, np.ndarray]]],
) -> None:
    verifier, values = verified
    with pytest.raises(IsaError, match=r"from the device, is int32"):
        verifier.check(values[0][0], values[0][1].astype(np.int32))


def test_golden_samples_take_turns_and_see_a_wrong_value() -> None:
    """Golden's own values in the device's place: every layer has its turn, and a planted error is found in its own."""
    program = compiled("unet")
    golden, count = Golden(program.program, program.constants), 8
    steps = calibrated("unet")[1]
    turns = -(-len(program.program.layers) // count)

    def follow(verifier: Any, step: Any, spoil: Any = None) -> None:
        seen: dict[Any, Any] = {}
        outputs = golden.step(step, steps[0], lambda v, t: seen.__setitem__(v, t.clone()))
        verifier.expect(step, steps[0])
        if spoil is not None:
            seen[spoil] = seen[spoil].contiguous()
            seen[spoil].view(-1)[3] += 1
        for value in verifier.wanted:
            verifier.check(value, seen[value].numpy())
        verifier.check_delivered({n: t.contiguous().numpy() for n, t in outputs.items()})

    verifier = SampledVerifier(program.program, program.constants, count)
    for step in range(turns):
        follow(verifier, step)
    assert verifier.bit_identical
    assert verifier.layers_checked == turns * count
    assert verifier.delivered_checked == turns
    assert f"all but {count} of {len(program.program.layers)} layers" in verifier.not_checked[0]
    layer = program.program.layers[count + 1]
    found = []
    for step in range(turns):
        verifier = SampledVerifier(program.program, program.constants, count)
        follow(verifier, step, spoil=layer.results[0])
        if verifier.first_difference is not None:
            found.append((step, verifier.first_difference.name))
    assert (1, layer.name) in found
