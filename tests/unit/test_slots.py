# SPDX-License-Identifier: Apache-2.0
"""Slot counts against counting one element at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditto_cosim.device.kernels import native, slots
from ditto_cosim.device.kernels.base import Before, Kernels
from ditto_cosim.device.kernels.portable import PortableKernels
from ditto_cosim.device.kernels.slots import (
    Windows,
    classify_rows,
    count_rows,
    count_windows,
    count_windows_spatial,
    pad,
)
from ditto_cosim.protocol.hardware import LowRule
from ditto_cosim.protocol.record import split_k
from ditto_cosim.protocol.tensors import Array

FORMS: list[Kernels] = [PortableKernels(), *filter(None, [native.kernels()])]


@contextmanager
def using(form: Kernels) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "kernels", lambda: form)
        yield


def count_one(d: int, rule: str) -> tuple[int, int, int]:
    if d == 0:
        return 1, 0, 0
    low = -8 <= d <= 7 if rule == "twos4" else abs(d) <= 15
    return (0, 1, 0) if low else (0, 0, 1)


@given(st.integers(1, 40), st.sampled_from(["twos4", "mag4"]), st.integers(0, 2**32))
def test_slots_rows_match_counting_by_hand(k: int, rule: LowRule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(-128, 128, (5, k), np.int8)
    b = rng.choice([a, rng.integers(-128, 128, (5, k), np.int8), np.clip(a + 9, -128, 127).astype(np.int8)])
    expected = np.zeros((3, 5), int)
    for r in range(5):
        for x, y in zip(a[r], b[r], strict=True):
            expected[:, r] += count_one(int(x) - int(y), rule)
    np.testing.assert_array_equal(classify_rows(a, b, rule), expected)


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    st.sampled_from([1, 2]),
    st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 3)]),
    st.integers(3, 64),
    st.sampled_from(["twos4", "mag4"]),
    st.integers(0, 2**32),
)
def test_slots_windows_match_unrolled_rows(
    batch: int,
    channels: int,
    kernel: tuple[int, int],
    stride: int,
    dilation: tuple[int, int],
    k_max: int,
    rule: LowRule,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    h, w = 6, 8
    current = rng.integers(-20, 20, (batch, h, w, channels), np.int8)
    previous = rng.integers(-20, 20, (batch, h, w, channels), np.int8)
    out = (
        (h - dilation[0] * (kernel[0] - 1) - 1) // stride + 1,
        (w - dilation[1] * (kernel[1] - 1) - 1) // stride + 1,
    )
    windows = Windows(kernel, (stride, stride), out, dilation)
    rows, before = (unrolled(picture, windows) for picture in (current, previous))
    splits = split_k(rows.shape[1], k_max)
    temporal = count_rows(rows, before, splits, rule)
    constant = count_rows(rows, -2, splits, rule)
    spatial = count_rows(rows, spatial_reference(rows, batch, 3), splits, rule)
    for form in FORMS:
        with using(form):
            np.testing.assert_array_equal(windows.unroll(current), rows)
            for got, expected in [
                (count_windows(current, previous, windows, splits, rule), temporal),
                (count_windows(current, -2, windows, splits, rule), constant),
                (count_windows_spatial(current, 3, windows, splits, rule), spatial),
            ]:
                np.testing.assert_array_equal(got.slots, expected.slots)
                assert (got.zero, got.low, got.full) == (expected.zero, expected.low, expected.full)


def unrolled(picture: Array, windows: Windows) -> Array:
    """The rows, one element at a time."""
    (kh, kw), (sh, sw), (dh, dw) = windows.kernel, windows.stride, windows.dilation
    return np.array(
        [
            [picture[b, i * sh + u * dh, j * sw + v * dw] for u in range(kh) for v in range(kw)]
            for b in range(len(picture))
            for i in range(windows.out[0])
            for j in range(windows.out[1])
        ]
    ).reshape(len(picture) * windows.out[0] * windows.out[1], -1)


def spatial_reference(rows: Array, images: int, zero_point: int) -> Array:
    shaped = rows.reshape(images, -1, rows.shape[1])
    first = np.full_like(shaped[:, :1], zero_point)
    return np.concatenate([first, shaped[:, :-1]], 1).reshape(rows.shape)


@pytest.mark.parametrize("k", [8, 2040, 2048, 4608])
def test_slots_count_long_rows_without_overflow(k: int) -> None:
    a, b = np.full((2, k), 127, np.int8), np.full((2, k), -128, np.int8)
    np.testing.assert_array_equal(classify_rows(a, b, "mag4"), [[0, 0], [0, 0], [k, k]])


@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 9000),
    st.sampled_from(["twos4", "mag4"]),
    st.sampled_from(["rows", "constant", "apart", "transposed"]),
    st.integers(0, 2**32),
)
def test_slots_compiled_counter_matches_numpy(
    rows: int, k: int, rule: LowRule, layout: str, seed: int
) -> None:
    """Every difference, long rows (a byte counts to 255), and operands as they lie in memory."""
    *_, counter = (form.count_rows for form in FORMS)
    rng = np.random.default_rng(seed)
    current, reference = rng.integers(-128, 128, (2, rows, k), np.int8)
    if layout == "constant":
        reference = int(reference[0, 0])
    elif layout == "apart":
        current = np.concatenate([current, current], 1)[:, :k]
    elif layout == "transposed":
        current = np.asfortranarray(current)
    np.testing.assert_array_equal(
        counter(current, reference, rule), FORMS[0].count_rows(current, reference, rule)
    )


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.sampled_from(["twos4", "mag4"]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_slots_against_many_references_are_those_against_each(
    chains: int, chain: int, lengths: list[int], rule: LowRule, transposed: bool, seed: int
) -> None:
    """Rows, one value, the row before: by both forms, and by counting each against what it stands for."""
    rng = np.random.default_rng(seed)
    rows, splits, value = chains * chain, tuple(lengths), int(rng.integers(-128, 128))
    current, other = rng.integers(-128, 128, (2, rows, sum(splits)), np.int8)
    if transposed:
        current, other = np.asfortranarray(current), np.asfortranarray(other)
    before = spatial_reference(current, chains, value)
    explicit = np.stack([_slots_of(current, r, splits, rule) for r in (other, np.int8(value), before)])
    for form in FORMS:
        slots, totals = form.count_against(current, (other, value, Before(chain, value)), splits, rule)
        assert slots.dtype == np.uint16
        np.testing.assert_array_equal(slots, explicit)
        np.testing.assert_array_equal(totals.sum(1), current.size)
        np.testing.assert_array_equal(totals[:, 1] + 2 * totals[:, 2], slots.sum((1, 2)))
        np.testing.assert_array_equal(totals[:, 0], [(current == r).sum() for r in (other, value, before)])


def _slots_of(
    current: npt.NDArray[np.int8],
    reference: npt.NDArray[np.int8] | np.int8,
    splits: tuple[int, ...],
    rule: LowRule,
) -> npt.NDArray[np.int64]:
    """Element by element, as the rule is written."""
    d = current.astype(np.int64) - reference
    low = (d >= -8) & (d <= 7) if rule == "twos4" else np.abs(d) <= 15
    slots = np.where(d == 0, 0, np.where(low, 1, 2))
    return np.stack([part.sum(1) for part in np.split(slots, np.cumsum(splits)[:-1], axis=1)])


def test_slots_compiled_counter_knows_every_difference() -> None:
    *_, counter = (form.count_rows for form in FORMS)
    every = np.arange(-128, 128, dtype=np.int8)
    a, b = (m.reshape(-1, 1) for m in np.meshgrid(every, every))
    rules: tuple[LowRule, ...] = ("twos4", "mag4")
    for rule in rules:
        np.testing.assert_array_equal(counter(a, b, rule), FORMS[0].count_rows(a, b, rule))
        wide = np.repeat(a, 40, 1), np.repeat(b, 40, 1)
        np.testing.assert_array_equal(counter(*wide, rule), FORMS[0].count_rows(*wide, rule))


def test_slots_windows_take_one_reference_for_all() -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(-128, 128, (2, 6, 7, 12), np.int8)
    windows = Windows((3, 3), (2, 1), (2, 5))
    same = np.full_like(picture, -7)
    one, all_alike = (count_windows(picture, r, windows, (64, 44), "twos4") for r in (-7, same))
    np.testing.assert_array_equal(one.slots, all_alike.slots)
    assert (one.zero, one.low, one.full) == (all_alike.zero, all_alike.low, all_alike.full)


@given(st.integers(0, 2**32), st.integers(0, 2), st.integers(0, 2), st.integers(-128, 127), st.booleans())
def test_slots_pictures_are_padded_as_numpy_pads(
    seed: int, above: int, beside: int, value: int, turned: bool
) -> None:
    pictures = np.random.default_rng(seed).integers(-128, 128, (2, 3, 4, 5), np.int8)
    if turned:
        pictures = np.asfortranarray(pictures)
    expected = np.pad(pictures, ((0, 0), (above, above), (beside, beside), (0, 0)), constant_values=value)
    for form in FORMS:
        with using(form):
            np.testing.assert_array_equal(pad(pictures, above, beside, value), expected)
