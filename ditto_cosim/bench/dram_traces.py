# SPDX-License-Identifier: Apache-2.0
"""The traffic patterns that DRAM models are held against: streams, strides, random, several streams, reads
and writes.

Interface: `TRACES[name]() -> (addresses, writes)`. Names and definitions are those of the published reference
tables; random patterns are of the same distribution, not of the same draw.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
Trace = tuple[I64, npt.NDArray[np.bool_]]

MIB, GIB, SKEW = 1 << 20, 1 << 30, 80 * 1024


def stream(nbytes: int, write: bool = False, base: int = 0) -> Trace:
    addresses = base + 64 * np.arange(nbytes // 64, dtype=np.int64)
    return addresses, np.full(len(addresses), write)


def stride(step: int, count: int = 65_536) -> Trace:
    return (step * np.arange(count, dtype=np.int64)) % GIB, np.zeros(count, bool)


def random(count: int, write_share: float, seed: int, block: int = 64) -> Trace:
    """Uniform aligned blocks, each read in order."""
    rng = np.random.default_rng(seed)
    each = block // 64
    bases = rng.integers(0, GIB // block, count // each) * block
    addresses = (bases[:, None] + 64 * np.arange(each)).reshape(-1).astype(np.int64)
    return addresses, rng.random(len(addresses)) < write_share


def interleave(bases: tuple[int, ...], writes: tuple[bool, ...], count: int, turn: int = 1) -> Trace:
    """Streams of `count` requests each, taking turns of `turn` requests."""
    each = 64 * np.arange(count, dtype=np.int64).reshape(-1, turn)
    addresses = np.stack([base + each for base in bases], axis=1)
    kinds = np.broadcast_to(np.array(writes)[None, :, None], addresses.shape)
    return addresses.reshape(-1), kinds.reshape(-1).copy()


def two_to_one(read_base: int, write_base: int, count: int) -> Trace:
    """A read stream and a write stream, two requests of the one to each of the other."""
    reads, _ = stream(2 * 64 * count, base=read_base)
    writes, _ = stream(64 * count, base=write_base)
    addresses = np.stack([reads[0::2], reads[1::2], writes], axis=1).reshape(-1)
    return addresses, np.tile([False, False, True], count)


TRACES: dict[str, Callable[[], Trace]] = {
    "seq_16MiB": lambda: stream(16 * MIB),
    "seq_wr_16MiB": lambda: stream(16 * MIB, write=True),
    "stride_256": lambda: stride(256),
    "stride_2048": lambda: stride(2048),
    "stride_65536": lambda: stride(65_536),
    "random_1GiB": lambda: random(65_536, 0.0, 1),
    "random_1GiB_rw": lambda: random(65_536, 0.5, 2),
    "random_wr_1GiB": lambda: random(65_536, 1.0, 7),
    "random_blk1024": lambda: random(65_536, 0.0, 3, 1024),
    "random_blk4096": lambda: random(65_536, 0.0, 3, 4096),
    "two_rd_64B_skew": lambda: interleave((0, GIB // 2 + SKEW), (False, False), 65_536),
    "three_rd_64B_skew": lambda: interleave((0, GIB // 4 + SKEW, GIB // 2 + 2 * SKEW), (False,) * 3, 65_536),
    "rw_64B_skew": lambda: interleave((0, GIB // 2 + SKEW), (False, True), 65_536),
    "copy_16KiB": lambda: interleave((0, GIB // 2 + SKEW), (False, True), 65_536, 256),
    "rw_2to1_64B_skew": lambda: two_to_one(0, GIB // 2 + SKEW, 32_768),
    "two_rd_64B_samebank": lambda: interleave((0, GIB // 2), (False, False), 65_536),
    "three_rd_64B_samebank": lambda: interleave((0, GIB // 4, GIB // 2), (False,) * 3, 65_536),
    "rw_64B_samebank": lambda: interleave((0, GIB // 2), (False, True), 65_536),
}
