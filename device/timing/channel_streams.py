# SPDX-License-Identifier: Apache-2.0
"""The bursts that the two arrays read for a layer's input, as its codes lie in memory: why SQ-DM puts channels last.

Contract
    channel_last    code (h, w, c) at nibble c·H·W + h·W + w: a channel is one contiguous run, read by its array alone
    channel_first   code (h, w, c) at nibble (h·W + w)·C + c: a burst holds channels of both arrays, and each that wants any of
                    it reads all of it
Each array reads its bursts in ascending order; the two take turns, burst by burst, as two clients of one controller. Scales and
weights are left out: they are one sixteenth of the data, and the same runs by input channel.

What this file does not do: price a run (there `designs/…`'s layout counts the bytes), or decide tags.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Literal

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Layout = Literal["channel_last", "channel_first"]

BURST_BYTES = 64
NIBBLES = 2 * BURST_BYTES


def bursts(layout: Layout, pixels: int, wanted: Bools) -> I64:
    """Numbers of the bursts that hold any code of the wanted channels, ascending."""
    channels = len(wanted)
    at = np.flatnonzero(wanted)
    if layout == "channel_last":
        runs = [np.arange(c * pixels // NIBBLES, -(-((c + 1) * pixels) // NIBBLES)) for c in at.tolist()]
        return np.unique(np.concatenate(runs)) if runs else np.zeros(0, np.int64)
    codes = np.arange(pixels, dtype=np.int64)[:, None] * channels + at
    return np.unique(codes // NIBBLES)


def streams(layout: Layout, pixels: int, sparse: Bools) -> tuple[I64, I64]:
    """Bursts of the dense and of the sparse array."""
    return bursts(layout, pixels, ~sparse), bursts(layout, pixels, sparse)


def requests(layout: Layout, pixels: int, sparse: Bools) -> list[int]:
    """Byte addresses in the order in which the memory is asked."""
    turns = zip_longest(*(s.tolist() for s in streams(layout, pixels, sparse)))
    return [burst * BURST_BYTES for turn in turns for burst in turn if burst is not None]
