# SPDX-License-Identifier: Apache-2.0
"""Block-scaled numbers: FP8's numbers, MX's published rules, and that a layer's sum is exact whatever computes it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ditto_cosim.device.backends.model import ModelBackend
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.kernels import blocks
from ditto_cosim.host.compiler.blocks import as_seen, quantize_weight
from ditto_cosim.protocol.blocks import (
    E4M3_CODES,
    FORMATS,
    SCALE_MAX,
    BlockFormat,
    e4m3_code,
    e4m3_round,
    e4m3_scale,
    k_max,
)
from ditto_cosim.protocol.errors import BackendError
from support.isa_scalar import Value, quantize_block

F32 = npt.NDArray[np.float32]


# --- scales -------------------------------------------------------------------------------------------------------------


def test_e4m3_codec_round_trips_every_code() -> None:
    numbers = [e4m3_scale(code) for code in range(E4M3_CODES)]
    assert [e4m3_code(n) for n in numbers] == list(range(E4M3_CODES))
    theirs = torch.arange(E4M3_CODES, dtype=torch.uint8).view(torch.float8_e4m3fn).double() * 512
    assert numbers == [int(v) for v in theirs]
    assert (numbers[0], numbers[-1]) == (0, SCALE_MAX)


@pytest.mark.parametrize("wrong", [3 * 2**9 + 1, -1, SCALE_MAX + 1])
def test_e4m3_code_refuses_what_is_no_number_of_it(wrong: int) -> None:
    with pytest.raises(ValueError, match="not a number of E4M3"):
        e4m3_code(wrong)


def test_e4m3_rounds_as_torch_does_and_as_the_device_does() -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_normal(4000) * np.exp2(rng.integers(-12, 9, 4000))).astype(np.float32)
    middles = np.array([e4m3_scale(c) + e4m3_scale(c + 1) for c in range(126)], np.float32) / 1024
    values = np.minimum(np.concatenate([values, middles, [0, 448]]), np.float32(448))
    theirs = (torch.from_numpy(values).to(torch.float8_e4m3fn).double() * 512).to(torch.int32).tolist()
    assert blocks.e4m3(values).tolist() == theirs
    assert [e4m3_round(float(v)) for v in values[:300]] == theirs[:300]


# --- formats ------------------------------------------------------------------------------------------------------------


def _mx_codes(rows: F32, exponents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """MXINT8 as microxcaling has it for blocks of 32, round "nearest": x ÷ 2^e, 6 bits behind the point, half away from zero
    in binary32, saturated at 127 ÷ 64. Written from its published rules alone."""
    scaled = np.ldexp(rows.astype(np.float64), (6 - exponents)[:, None])  # binary64 holds it exactly
    away = np.floor((np.abs(scaled).astype(np.float32) + np.float32(0.5)).astype(np.float64))
    return (np.sign(rows) * np.minimum(away, 127)).astype(np.int64)


def _blocks_of_all_kinds(count: int) -> F32:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((count, 32)).astype(np.float32)
    rows *= np.exp2(rng.integers(-90, 90, (count, 1))).astype(np.float32)
    rows[::7] = np.rint(rows[::7] * 8) / 16  # ties
    rows[::11, 5:] = 0
    rows[::13] = 0
    rows[::17] *= np.exp2(rng.integers(-40, 0, rows[::17].shape)).astype(
        np.float32
    )  # denormals beside the largest
    rows[1, :3] = (3.4e38, -3.4e38, 1e-45)
    return rows


MICROXCALING = {
    20_000: "465ede7eee31cb36f41239036f78c429152354ff7f6e7147a7ca7e04ee7d89b3",
    1_000_000: "c5cd3a2f49a26a6736e1a6de8357f6ff8ec180e9ffdd152376c891deef9055a8",
}
"""SHA-256 of what microxcaling itself (github.com/microsoft/microxcaling, 7bc4195, on a CPU: `_quantize_mx(rows, 8, "int8",
axes=[1], block_size=32)`) makes of so many blocks, as little-endian binary32 without a sign of zero. Of those with an exponent
from -84 on that is not within 2⁻¹⁴ of the next: nearer, its floor(log2(max)) in binary32 may round up, against its own rules, as
it does for two blocks of the million."""


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_mxint8_equals_microxcaling_code_for_code(count: int) -> None:
    """Blocks of one shared exponent at a time, so that none is below the window that a tensor has."""
    rows = _blocks_of_all_kinds(count)
    largest = np.abs(rows).max(1).astype(np.float64)
    exponents = np.floor(np.log2(np.where(largest > 0, largest, 1))).astype(np.int64)
    assert ((2.0**exponents <= np.where(largest > 0, largest, 1)) & (largest < 2.0 ** (exponents + 1))).all()
    seen, values = 0, np.zeros(rows.shape)
    for exponent in range(-84, 128):  # further down the lowest exponent is shared: t stays a normal number
        mine = rows[exponents == exponent]
        if not len(mine):
            continue
        codes, scales, params = blocks.quantize(mine, "mxint8", 32, 1, "it")
        some = np.abs(mine).max(1) > 0
        assert np.array_equal(codes[some], _mx_codes(mine, np.full(len(mine), exponent))[some])
        assert not codes[~some].any()
        assert not scales[~some].any()
        assert (scales[some] * 2.0**-9 * float(params[0]) == 2.0 ** (exponent - 6)).all()
        values[exponents == exponent] = codes * (scales * 2.0**-9 * float(params[0]))
        seen += len(mine)
    assert seen > 0.8 * count
    told = (exponents >= -84) & (largest < 2.0 ** (exponents + 1) * (1 - 2.0**-14))
    assert hashlib.sha256(values[told].astype("<f4").tobytes()).hexdigest() == MICROXCALING[count]


def test_mxint8_tells_sixteen_exponents_apart_and_no_more() -> None:
    x = np.array([[1.0] * 32 + [2.0**-16] * 32 + [2.0**-20] * 32], np.float32)
    codes, scales, _ = blocks.quantize(x, "mxint8", 32, 1, "it")
    assert scales.tolist() == [[2**16, 1, 1]]
    assert (codes[0, 0], codes[0, 32], codes[0, 64]) == (64, 64, 4)


def test_uint4_uses_its_largest_code_in_every_block_that_is_not_zero() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32))
    x[::9] = 0
    codes, scales, _ = blocks.quantize(x, "uint4", 32, 1, "it")
    some = scales[:, 0] > 8  # a normal number of E4M3: rounded by at most a sixteenth
    assert (codes[some].max(1) >= 14).all()
    assert ((scales[:, 0] == 0) == (x.max(1) == 0)).all()
    assert not codes[scales[:, 0] == 0].any()


def test_signed_codes_waste_their_negative_half_on_silu_and_uint4_none_on_relu() -> None:
    """The paper's argument for ReLU, measured on normal data: SiLU's minimum is −0.278."""
    x = torch.randn(64, 64, 8, generator=torch.Generator().manual_seed(0))
    silu, relu = torch.nn.functional.silu(x), torch.relu(x)
    signed = blocks.quantize(silu.numpy(), "int4", 32, 1, "it")[0]
    unsigned = blocks.quantize(relu.numpy(), "uint4", 32, 1, "it")[0]
    assert (signed <= -3).mean() < 0.01
    assert set(np.unique(unsigned)) == set(range(16))


@pytest.mark.parametrize("form", ["uint4", "int4", "mxint8"])
def test_weights_and_what_is_seen_of_a_tensor_follow_the_text(form: BlockFormat) -> None:
    """Two readings of the host beside the scalar one: weights channel by channel, activations as a whole."""
    x = (
        torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1.0, 1e-3, 30.0])[:, None, None]
    )
    codes, scales, t = quantize_weight(x, form, 16)
    attrs = {"format": form, "block": 16, "axis": 0}
    for n in range(3):
        right = quantize_block(Value((40, 2), "f32", x[n].flatten().tolist()), attrs)
        assert codes[n].flatten().tolist() == right[0].data
        assert scales[n].flatten().tolist() == right[1].data
        assert float(t[n]) == right[2].data[0]
    whole = quantize_block(Value((3, 40, 2), "f32", x.flatten().tolist()), {**attrs, "axis": 1})
    seen = as_seen(x, form, 16, 1)
    at = (2, 33, 1)
    assert float(seen[at]) == pytest.approx(
        whole[0].at(at) * whole[1].at((2, 2, 1)) / 512 * whole[2].data[0], rel=1e-6
    )


# --- products -----------------------------------------------------------------------------------------------------------


def _product(channels: int, taps: int, form: BlockFormat = "uint4", seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    k, block = channels * taps, 32
    low, high = FORMATS[form].low, FORMATS[form].high
    a = rng.integers(low, high + 1, (9, k)).astype(np.uint8 if low == 0 else np.int8)
    a[rng.random(a.shape) < 0.5] = 0
    numbers = blocks.NUMBERS
    return {
        "a": a,
        "a_scales": rng.choice(numbers, (9, k // block)).astype(np.int32),
        "w": rng.integers(-7, 8, (5, k)).astype(np.int8),
        "w_scales": rng.choice(numbers, (5, k // block)).astype(np.int32),
        "channel": np.tile(np.arange(channels, dtype=np.int32), taps),
    }


def _exact(p: dict[str, Any]) -> list[list[int]]:
    rows, k = p["a"].shape
    block = k // p["a_scales"].shape[1]
    return [
        [
            sum(
                int(p["a"][r, i])
                * int(p["w"][n, i])
                * int(p["a_scales"][r, i // block])
                * int(p["w_scales"][n, i // block])
                for i in range(k)
            )
            for n in range(len(p["w"]))
        ]
        for r in range(rows)
    ]


@pytest.mark.parametrize("form", ["uint4", "int4"])
def test_block_product_is_exact_whatever_the_tags(form: BlockFormat) -> None:
    p, backend = _product(64, 9, form), ModelBackend(load_chip("tiny"))
    wanted = _exact(p)
    rng = np.random.default_rng(1)
    for sparse in (np.zeros(64, bool), np.ones(64, bool), rng.random(64) < 0.5, np.arange(64) % 2 == 0):
        made = backend.block_gemm(**p, sparse=sparse)
        assert made.acc.tolist() == wanted
        nonzero = (p["a"] != 0).sum(0)
        assert made.nonzero.tolist() == [int(nonzero[p["channel"] == c].sum()) for c in range(64)]


def test_block_product_is_exact_at_the_largest_numbers() -> None:
    """Beyond 2⁵³, where one binary64 sum would round: every factor at its largest, one product short of equal."""
    k = 4608
    a = np.full((1, k), 15, np.uint8)
    a[0, -1] = 14
    scales, w = np.full((1, k // 32), SCALE_MAX, np.int32), np.full((1, k), 7, np.int8)
    made = ModelBackend(load_chip("tiny")).block_gemm(
        a, scales, w, scales, np.arange(k, dtype=np.int32), np.zeros(k, bool)
    )
    assert int(made.acc[0, 0]) == (15 * k - 1) * 7 * SCALE_MAX**2 > 2**53


def test_block_product_of_anything_else_is_refused() -> None:
    backend, p = ModelBackend(load_chip("tiny")), _product(64, 1)
    sparse = np.zeros(64, bool)
    short = {name: p[name][..., :8] for name in ("a", "w", "channel")}
    scales = {name: p[name][:, :1] for name in ("a_scales", "w_scales")}
    with pytest.raises(BackendError, match="a block has 16, 32, 64"):
        backend.block_gemm(**short, **scales, sparse=sparse)
    with pytest.raises(BackendError, match="w_scales is int32"):
        backend.block_gemm(**{**p, "w_scales": p["w_scales"][:3]}, sparse=sparse)
    with pytest.raises(BackendError, match="channels 0…63 of 32"):
        backend.block_gemm(**p, sparse=sparse[:32])


def test_longest_exact_k_keeps_the_sum_within_64_bits() -> None:
    for form in FORMATS.values():
        longest = k_max(form.name, form.weights)
        largest = form.largest * FORMATS[form.weights].largest
        assert longest * largest < 2**63 <= (longest + 1) * largest
