# SPDX-License-Identifier: Apache-2.0
"""Wrong bytes never do more than raise a ProtocolError, on either side of the codec."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import ProtocolError
from support.wire_fuzz import messages

LIMITS = m.Limits()


def _decode_all(seed: int, count: int) -> int:
    refused = 0
    for frames in messages(seed, count):
        for decode in (codec.decode_host, codec.decode_device):
            try:
                decode(frames, LIMITS)
            except ProtocolError:
                refused += 1
    return refused


def test_codec_survives_wrong_messages() -> None:
    assert _decode_all(1, 5_000) > 8_000


@pytest.mark.long
def test_codec_survives_a_hundred_thousand_wrong_messages() -> None:
    assert _decode_all(3, 100_000) > 160_000


def test_codec_does_not_grow() -> None:
    tracemalloc.start()
    try:
        _decode_all(4, 2_000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        _decode_all(4, 2_000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 << 10
