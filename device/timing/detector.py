# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's sparsity detector: what it decides, and how many cycles that takes.

Contract. A layer's input is written back channel by channel, W codes a cycle; the detector takes a word in every cycle in
which one comes. Cycle 0 is the first after its start; with p codes a channel,
    written[c] = the cycle in which channel c's last word came, (c + 1) · ⌈p/W⌉ − 1 if none was late
    tag[c]     is out in written[c] + TAG_CYCLES, and is sparse iff its zero codes are at least θ_count = ⌈θ · p⌉
    busy       up to and with the cycle in which the last tag is out
    list       of C channels: ascending, one a cycle, the first SCAN_CYCLES behind its request
So write-back costs what it costs without the detector. A threshold is a share of a channel's codes; at θ = 0 every channel is
sparse, beyond 1 none is.

What it does not do: count (the RTL, and the device's kernels), know steps or when tags are updated.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

TAG_CYCLES = 2
"""Between a channel's last word and its tag."""
SCAN_CYCLES = 2
"""Between a request for a list and its first channel."""


def theta_count(theta: float | Fraction, pixels: int) -> int:
    """Zero codes from which on a channel is sparse: ⌈θ · p⌉, θ taken as the decimal it is written as."""
    share = theta if isinstance(theta, Fraction) else Fraction(str(theta))
    return math.ceil(share * pixels)


def tag_cycles(channels: int, pixels: int, width: int) -> I64:
    """[channels]: the cycle in which each tag is out, no word being late."""
    words = -(-pixels // width)
    return np.arange(1, channels + 1, dtype=np.int64) * words - 1 + TAG_CYCLES


def scan_cycles(channels: int) -> int:
    """Cycles from the request for a list to its last channel, the receiver being ready."""
    return SCAN_CYCLES + channels - 1
