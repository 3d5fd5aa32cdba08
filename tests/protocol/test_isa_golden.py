# SPDX-License-Identifier: Apache-2.0
"""Golden equals the scalar instruction set bit for bit, command by command, on drawn operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ditto_cosim.host.reference.golden import TORCH_DTYPES, Golden
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import GridError, NonFiniteError
from ditto_cosim.protocol.isa import TensorSpec
from support.isa_cases import OPS, Case, Seeded, T, make
from support.isa_programs import program_of
from support.isa_scalar import Refused, Value, execute
from support.isa_vectors import results_of


class Drawn:
    """A `Source` of hypothesis's choices."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def choice(self, options: Sequence[T]) -> T:
        return self._data.draw(st.sampled_from(options))

    def floats(self, count: int, low: float, high: float) -> list[float]:
        near = st.floats(max(low, -16.0), min(high, 16.0), width=32)
        one = near | st.floats(low, high, width=32)
        return self._data.draw(st.lists(one, min_size=count, max_size=count))


def tensor(value: Value) -> torch.Tensor:
    return torch.tensor(value.data, dtype=TORCH_DTYPES[value.dtype]).reshape(value.shape)


def run(case: Case) -> list[tuple[torch.Tensor, ...]]:
    """Its operands are inputs, except weights, which golden prepares once."""
    specs = [TensorSpec(v.shape, v.dtype) for v in case.steps[0][1]]
    weights = (2,) if case.op in ("conv2d", "linear", "linear_increment") else ()
    program = program_of(case.op, case.attrs, specs, weights)
    golden = Golden(program, {f"w{i}": tensor(case.steps[0][1][i]) for i in weights})
    done = []
    for step, operands in case.steps:
        outputs = golden.step(step, {name: tensor(operands[v]) for name, v in program.inputs.items()})
        done.append(tuple(outputs.values()))
    return done


def same(got: torch.Tensor, expected: Value) -> bool:
    if tuple(got.shape) != expected.shape or got.dtype != TORCH_DTYPES[expected.dtype]:
        return False
    pairs = zip(got.flatten().tolist(), expected.data, strict=True)
    return all(a == b or (a != a and b != b) for a, b in pairs)


@pytest.mark.parametrize("op", OPS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_golden_equals_the_scalar_instruction_set(op: str, data: st.DataObject) -> None:
    case = make(op, Drawn(data))
    previous = None
    held: dict[str, Value] = {}
    for (step, operands), got in zip(case.steps, run(case), strict=True):
        expected = results_of(case, step, operands, previous, held)
        assert len(got) == len(expected)
        for left, right in zip(got, expected, strict=True):
            assert same(left, right), f"{case.op} {case.attrs}: golden {left.tolist()}, scalar {right.data}"
        if op == "quantize":
            previous = float(expected[1].data[0])


def test_cases_cover_every_command() -> None:
    assert set(OPS) == set(isa.ISA)


@pytest.mark.parametrize(
    ("op", "attrs", "operands"),
    [
        ("softmax", {}, [[math.nan, 1.0]]),
        ("softmax", {}, [[math.inf, 1.0]]),
        ("log", {}, [[-1.0, 1.0]]),
        ("log", {}, [[math.nan, 1.0]]),
        ("sum", {}, [[math.inf, 0.0]]),
        ("rms_norm", {"eps": 1e-5}, [[math.nan, 0.0]]),
        ("sin", {}, [[2.0**20 + 1.0, 0.0]]),
        ("cos", {}, [[math.nan, 0.0]]),
        ("layer_norm", {"eps": 1e-5}, [[math.inf, 0.0]]),
        ("group_norm", {"eps": 1e-5, "groups": 1}, [[[math.nan, 0.0]]]),
        *(
            (
                "quantize",
                {
                    "policy": policy,
                    "scales": (0.1,),
                    "zero_points": (0,),
                    "bounds": (0,),
                    "symmetric": True,
                    "hysteresis": 1.0,
                },
                [[bad, 1.0]],
            )
            for policy in ("static", "dynamic")
            for bad in (math.nan, math.inf, -math.inf)
        ),
    ],
)
def test_golden_refuses_what_the_text_refuses(
    op: str, attrs: dict[str, object], operands: list[object]
) -> None:
    arrays = [np.asarray(o, dtype=np.float32) for o in operands]
    values = tuple(Value(a.shape, "f32", [float(v) for v in a.ravel()]) for a in arrays)
    with pytest.raises(Refused):
        execute(op, values, attrs)
    with pytest.raises(NonFiniteError, match=f"step 0, command 0 \\({op} 'it'\\)"):
        run(Case(op, attrs, ((0, values),)))


def test_golden_refuses_an_increment_between_two_grids() -> None:
    x, w = Value((1, 2), "i8", [1, 2]), Value((1, 2), "i8", [3, 4])
    then, now = Value((2,), "f32", [0.5, 0.0]), Value((2,), "f32", [0.5, 1.0])
    with pytest.raises(Refused):
        execute("linear_increment", (x, now, w, x, then), {})
    with pytest.raises(GridError, match=r"linear_increment 'it'.*one grid"):
        run(Case("linear_increment", {}, ((0, (x, now, w, x, then)),)))


def test_golden_refuses_an_index_outside_the_table() -> None:
    table, index = Value((2,), "f32", [1.0, 2.0]), Value((1,), "i64", [2])
    with pytest.raises(NonFiniteError, match="index 2"):
        run(Case("gather", {}, ((0, (table, index)),)))


@pytest.mark.parametrize(
    "op",
    ["silu", "sigmoid", "tanh", "relu", "exp", "trunc", "sqrt", "log", "sin", "cos", "gelu", "gelu_tanh"],
)
def test_golden_equals_the_scalar_text_on_long_vectors(op: str) -> None:
    """Long enough for the vector instructions of the host, which short operands never reach."""
    limit = 1000.0 if op in ("sin", "cos") else 100.0
    x = Value((3001,), "f32", Seeded(5).floats(3001, 0.0 if op in ("sqrt", "log") else -limit, limit))
    attrs = {"tanh": op == "gelu_tanh"} if op.startswith("gelu") else {}
    case = Case(op.removesuffix("_tanh"), attrs, ((0, (x,)),))
    assert same(run(case)[0][0], execute(case.op, (x,), attrs)[0])


@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_quantize_equals_the_scalar_text_on_long_vectors(policy: str) -> None:
    attrs = {
        "policy": policy,
        "scales": (0.0625,),
        "zero_points": (0,),
        "bounds": (0,),
        "symmetric": policy == "dynamic",
        "hysteresis": 1.0,
    }
    x = Value((3001,), "f32", Seeded(6).floats(3001, -20.0, 20.0))
    expected = execute("quantize", (x,), attrs)
    got = run(Case("quantize", attrs, ((0, (x,)),)))[0]
    assert all(same(left, right) for left, right in zip(got, expected, strict=True))


@pytest.mark.parametrize("op", ["softmax", "layer_norm", "group_norm", "rms_norm", "sum"])
def test_reductions_equal_the_scalar_text_on_long_axes(op: str) -> None:
    x = Value((2, 4, 500), "f32", Seeded(7).floats(4000, -30.0, 30.0))
    attrs = {
        "softmax": {},
        "sum": {},
        "layer_norm": {"eps": 1e-6},
        "rms_norm": {"eps": 1e-6},
        "group_norm": {"eps": 1e-6, "groups": 2},
    }[op]
    case = Case(op, attrs, ((0, (x,)),))
    for got, expected in zip(run(case)[0], execute(op, (x,), attrs), strict=True):
        assert same(got, expected)
