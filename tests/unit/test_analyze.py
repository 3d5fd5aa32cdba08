# SPDX-License-Identifier: Apache-2.0
"""Counting, one number at a time beside the fast way."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ditto_cosim.host.analysis import analyze
from ditto_cosim.host.analysis.analyze import Analyzer, cosine, count, merge, rows_of, windows_of
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.program import Command, Program


def test_count_equals_the_definitions_on_every_difference() -> None:
    every = torch.arange(-255, 256, dtype=torch.int16)
    found = dict(zip(analyze.COUNTS, count(every).tolist(), strict=True))
    assert found == {"elements": 511, "zero": 1, "twos4": 15, "mag4": 30, "smallest": -255, "largest": 255}
    for value in range(-255, 256):
        one = count(torch.tensor([value], dtype=torch.int16))
        assert one[1] == (value == 0)
        assert one[2] == (value != 0 and -8 <= value <= 7)
        assert one[3] == (value != 0 and abs(value) <= 15)


def test_merge_is_counting_together_within_the_first_operands_range() -> None:
    a = torch.tensor([0, 5, -200], dtype=torch.int16)
    b = torch.tensor([12, 0, 90], dtype=torch.int16)
    merged = merge(count(a), count(b)).tolist()
    assert merged[:4] == count(torch.cat([a, b])).tolist()[:4]
    assert merged[4:] == [-200, 5]


@pytest.mark.parametrize(
    ("stride", "padding", "kernel"),
    [((1, 1), (1, 1), (3, 3)), ((2, 1), (0, 2), (2, 3)), ((1, 2), (0, 0), (1, 1))],
)
def test_windows_are_the_rows_of_the_convolution(
    stride: tuple[int, int], padding: tuple[int, int], kernel: tuple[int, int]
) -> None:
    """Sums of the rows are a convolution with ones; the order of rows is (i, j)."""
    x = torch.randint(-255, 256, (2, 3, 5, 6), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    command = Command("conv2d", "c", (0, 1, 2), (3,), {"stride": stride, "padding": padding})
    rows = windows_of(command, x, kernel)
    ones = torch.ones(1, 3, *kernel, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x.double(), ones, stride=stride, padding=padding).flatten(1)
    assert torch.equal(rows.sum(-1).double(), expected)
    assert rows.shape[-1] == 3 * kernel[0] * kernel[1]


def test_rows_chain_within_an_image_or_head_only() -> None:
    linear = Command("linear", "l", (0, 1, 2), (3,), {})
    product = Command("matmul", "m", (0, 1, 2, 3), (4,), {"static_b": False})
    assert rows_of(linear, torch.zeros(4, 7, 5)).shape == (4, 7, 5)
    assert rows_of(linear, torch.zeros(4, 5)).shape == (4, 1, 5)
    assert rows_of(linear, torch.zeros(5)).shape == (1, 1, 5)
    assert rows_of(product, torch.zeros(2, 3, 7, 5)).shape == (6, 7, 5)


def test_cosine_of_nothing_is_nan() -> None:
    assert math.isnan(cosine(torch.zeros(3), torch.ones(3)))
    assert cosine(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])) == pytest.approx(1)
    assert cosine(torch.tensor([1, 0]), torch.tensor([0, 5])) == 0


M, K, N = 3, 4, 2


def product_program() -> Program:
    specs = (TensorSpec((1, M, K), "i8"), isa.PARAMS, TensorSpec((1, K, N), "i8"), isa.PARAMS)
    return Program(
        values=(*specs, TensorSpec((1, M, N), "i32")),
        inputs={"a": 0, "pa": 1, "b": 2, "pb": 3},
        static_inputs=frozenset(),
        constants={},
        outputs={"y": 4},
        commands=(Command("matmul", "qk", (0, 1, 2, 3), (4,), {"static_b": False}),),
    )


def bits(differences: torch.Tensor, macs: int) -> int:
    """4 × 8 bits for a low difference, 8 × 8 for a full one, none for zero."""
    return sum(macs * (0 if d == 0 else 32 if -8 <= d <= 7 else 64) for d in differences.flatten().tolist())


def test_attention_counts_both_operands_differences() -> None:
    """ΔQ meets the keys' columns, ΔK the queries' rows; without a difference of both there is none."""
    program = product_program()
    analyzer = Analyzer(program, {})
    generator = torch.Generator().manual_seed(1)
    a = [torch.randint(-30, 30, (1, M, K), dtype=torch.int8, generator=generator) for _ in range(3)]
    b = [torch.randint(-30, 30, (1, K, N), dtype=torch.int8, generator=generator) for _ in range(3)]
    scales = (0.5, 0.5, 0.25)
    for step, scale in enumerate(scales):
        params = torch.tensor([scale, 0.0])
        analyzer.on_inputs({"a": a[step], "pa": torch.tensor([0.1, 0.0]), "b": b[step], "pb": params})
        analyzer.on_value(step, 4, torch.zeros(1, M, N))
    analysis = analyzer.result()
    da, db = a[1].int() - a[0].int(), b[1].int() - b[0].int()
    temporal = analysis.bit_operations["temporal.twos4"][:, 0]
    assert temporal[1] == bits(da, N) + bits(db, M)
    assert math.isnan(temporal[0])
    assert math.isnan(temporal[2])
    assert analysis.counts["temporal"][1, 0, 0] == M * K + K * N
    assert analysis.counts["temporal"][2, 0, 0] == -1
    assert (analysis.bit_operations["dense"] == 64 * M * K * N).all()
    by_step = analysis.bit_operations_by_step("temporal.twos4")
    assert by_step.tolist() == [64 * M * K * N, temporal[1], 64 * M * K * N]
    down = torch.cat([a[0][:, :1].int(), a[0][:, 1:].int() - a[0][:, :-1].int()], 1)
    assert analysis.bit_operations["spatial.twos4"][0, 0] == bits(down, N)
    assert analysis.bit_operations["activations.twos4"][0, 0] == bits(a[0].int(), N)


def test_ranges_are_in_real_units() -> None:
    program = product_program()
    analyzer = Analyzer(program, {})
    a = torch.zeros(1, M, K, dtype=torch.int8)
    a[0, 0, 0], a[0, 2, 3] = 100, -27
    params = torch.tensor([0.5, 0.0])
    for step in range(2):
        analyzer.on_inputs(
            {"a": a + step, "pa": params, "b": torch.ones(1, K, N, dtype=torch.int8), "pb": params}
        )
        analyzer.on_value(step, 4, torch.zeros(1, M, N))
    analysis = analyzer.result()
    assert analysis.ranges("activations")[:, 0].tolist() == [63.5, 63.5]
    assert math.isnan(analysis.ranges("temporal")[0, 0])
    assert analysis.ranges("temporal")[1, 0] == 0  # ΔA is 1 everywhere


def test_shares_add_up_over_rules_and_kinds() -> None:
    analyzer = Analyzer(product_program(), {})
    params = torch.tensor([0.5, 0.0])
    a = torch.arange(12, dtype=torch.int8).reshape(1, M, K)
    analyzer.on_inputs({"a": a, "pa": params, "b": torch.ones(1, K, N, dtype=torch.int8), "pb": params})
    analyzer.on_value(0, 4, torch.zeros(1, M, N))
    analysis = analyzer.result()
    assert analysis.shares("activations", "twos4") == {"zero": 1 / 12, "low": 7 / 12, "full": 4 / 12}
    assert analysis.shares("activations", "mag4") == {"zero": 1 / 12, "low": 11 / 12, "full": 0.0}
    kinds: tuple[analyze.Kind, ...] = ("activations", "spatial")
    for kind, rule in itertools.product(kinds, analyze.LOW_RULES):
        assert sum(analysis.shares(kind, rule).values(), 0.0) == pytest.approx(1)
