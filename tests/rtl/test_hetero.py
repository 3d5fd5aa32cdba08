# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's two arrays as a backend: exact for any partition of the channels, cycles the contract's, codes counted as met."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ditto_cosim.device.backends.base import BlockProducts, Codes
from ditto_cosim.device.backends.hetero import HeteroTile, tiles_of
from ditto_cosim.device.timing.result_port import beats_of
from ditto_cosim.protocol.blocks import e4m3_scale
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import GEOMETRIES
from ditto_cosim.sim_harness.build import BuildOptions

QUICK = BuildOptions(optimize=False)
SCALES = np.array([e4m3_scale(code) for code in range(127)], np.int32)


class Product:
    """A convolution's product as the device makes one: taps, channels filled up to whole blocks."""

    def __init__(
        self, seed: int, *, rows: int, channels: int, taps: int, n: int, block: int, signed: bool
    ) -> None:
        rng = np.random.default_rng(seed)
        padded = -(-channels // block) * block
        self.channel = np.tile(np.where(np.arange(padded) < channels, np.arange(padded), -1), taps).astype(
            np.int32
        )
        k, self.block, self.channels = padded * taps, block, channels
        codes = rng.integers(-7, 8, (rows, k)) if signed else rng.integers(0, 16, (rows, k))
        density = rng.random(channels)
        keep = rng.random((rows, k)) < np.where(self.channel >= 0, density[self.channel], 0)
        kept = np.where(keep, codes, 0)
        self.a: Codes = kept.astype(np.int8) if signed else kept.astype(np.uint8)
        self.w = rng.integers(-7, 8, (n, k)).astype(np.int8)
        self.a_scales = rng.choice(SCALES, (rows, k // block)).astype(np.int32)
        self.w_scales = rng.choice(SCALES, (n, k // block)).astype(np.int32)

    def on(self, tile: HeteroTile, sparse: np.ndarray) -> BlockProducts:
        made = tile.block_gemm(self.a, self.a_scales, self.w, self.w_scales, self.channel, sparse)
        assert made.audit is not None
        made.audit()
        return made

    @property
    def exact(self) -> np.ndarray:
        """In Python's own integers, which no product overflows."""
        (rows, k), n = self.a.shape, len(self.w)
        sums = np.zeros((rows, n), object)
        for block in range(k // self.block):
            part = slice(block * self.block, (block + 1) * self.block)
            codes = self.a[:, part].astype(np.int64) @ self.w[:, part].T.astype(np.int64)
            sums += (
                codes.astype(object)
                * self.a_scales[:, block, None].astype(object)
                * self.w_scales[:, block].astype(object)
            )
        return sums

    @property
    def nonzero(self) -> np.ndarray:
        found = np.zeros(self.channels, np.int64)
        for element, channel in enumerate(self.channel):
            if channel >= 0:
                found[channel] += np.count_nonzero(self.a[:, element])
        return found


@pytest.fixture(scope="module")
def tile() -> Iterator[HeteroTile]:
    made = HeteroTile(GEOMETRIES["tiny"], 4, QUICK)
    yield made
    made.close()


@pytest.mark.parametrize(
    "block", [32, pytest.param(16, marks=pytest.mark.long), pytest.param(64, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("signed", [False, True])
def test_sums_are_exact_whatever_array_a_channel_goes_to(tile: HeteroTile, block: int, signed: bool) -> None:
    product = Product(block, rows=9, channels=40, taps=9, n=70, block=block, signed=signed)
    rng = np.random.default_rng(1)
    tags = [np.zeros(40, bool), np.ones(40, bool), np.arange(40) % 2 == 0, rng.random(40) < 0.3]
    tags.append(~tags[-1])
    results = [product.on(tile, sparse) for sparse in tags]
    for result in results:
        assert (result.acc == product.exact).all()
        assert (result.nonzero == product.nonzero).all()
    assert results[0].sparse_cycles == 0
    assert results[1].dense_cycles == 0
    assert len({(r.dense_cycles, r.sparse_cycles) for r in results}) == len(results), "tags cost time"


def test_adversarial_partitions_and_any_order_of_the_pieces_change_no_bit(
    tile: HeteroTile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel alone in an array, a block's edge, and pieces from the last to the first: columns, shares of rows, arrays."""
    product = Product(7, rows=600, channels=40, taps=4, n=70, block=32, signed=False)
    exact, channels = product.exact, np.arange(40)
    forwards = product.on(tile, channels % 32 == 0)
    pieces = HeteroTile._pieces
    monkeypatch.setattr(HeteroTile, "_pieces", lambda self, *asked: pieces(self, *asked)[::-1])
    backwards = product.on(tile, channels % 32 == 0)
    assert (forwards.dense_cycles, forwards.sparse_cycles) == (
        backwards.dense_cycles,
        backwards.sparse_cycles,
    )
    results = [forwards, backwards]
    results += [product.on(tile, sparse) for sparse in (channels == 39, channels != 0, channels < 32)]
    for result in results:
        assert (result.acc == exact).all()
        assert (result.nonzero == product.nonzero).all()


def test_largest_sums_keep_their_bits(tile: HeteroTile) -> None:
    product = Product(0, rows=3, channels=512, taps=9, n=9, block=32, signed=False)
    product.a[:], product.w[:] = 15, np.where(np.arange(9)[:, None] % 2, 7, -7)
    product.a_scales[:], product.w_scales[:] = SCALES[-1], SCALES[-1]
    for sparse in (np.zeros(512, bool), np.ones(512, bool)):
        acc = product.on(tile, sparse).acc
        assert abs(int(acc[0, 0])) == 15 * 7 * 4608 * 229_376**2 > 2**54
        assert (acc == product.exact).all()


def test_more_tiles_share_the_rows_and_change_no_bit() -> None:
    product = Product(3, rows=20, channels=32, taps=4, n=16, block=32, signed=False)
    sparse = np.arange(32) < 16
    one, many = (HeteroTile(GEOMETRIES["tiny"], lanes, QUICK) for lanes in (2, 8))
    alone, shared = product.on(one, sparse), product.on(many, sparse)
    assert (alone.acc == shared.acc).all()
    assert alone.dense_cycles is not None
    assert shared.dense_cycles is not None
    assert shared.dense_cycles < alone.dense_cycles
    assert [tiles_of(lanes, "sparse") for lanes in (1, 2, 3, 8)] == [1, 1, 2, 4]
    one.close()
    many.close()


def test_scales_that_are_no_numbers_are_refused(tile: HeteroTile) -> None:
    product = Product(4, rows=2, channels=32, taps=1, n=4, block=32, signed=False)
    product.a_scales[1, 0] = 17
    with pytest.raises(BackendError, match=r"a_scales\[1, 0\] = 17 × 2⁻⁹ is no number of E4M3"):
        product.on(tile, np.zeros(32, bool))


def test_cycles_that_are_not_the_contracts_end_the_product(
    tile: HeteroTile, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = Product(5, rows=4, channels=32, taps=1, n=4, block=32, signed=False)
    module = "ditto_cosim.device.backends.hetero.beats_of"
    monkeypatch.setattr(module, lambda counts, beat: beats_of(counts, beat) + 1)
    with pytest.raises(BackendError, match="the cycle contract says"):
        product.on(tile, np.zeros(32, bool))
