# SPDX-License-Identifier: Apache-2.0
"""Messages that are wrong in every way we could think of, from a seed. Most are sealed after they were made wrong: a peer
that means harm can do that too."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, get_args

import msgpack

from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from support.wire_samples import SAMPLES

HOST_NAMES = [t.__name__ for t in get_args(m.HostMessage)]
_BOMBS = [
    b"\xdd\xff\xff\xff\xff" + b"\xc0" * 40,
    b"\xdf\x7f\xff\xff\xff" + b"\xa1a\x01" * 20,
    b"\xdb\xff\xff\xff\xf0abc",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 4096,
    b"\x81\xa1a" * 2000 + b"\x01",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xcf" + b"\xff" * 8,
    b"",
]


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Any MessagePack value."""
    kind = rng.randrange(12 if depth < 6 else 9)
    match kind:
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice([0, -1, 2**31, 2**63, 2**64 - 1, -(2**63), rng.randrange(100)])
        case 3:
            return rng.choice([float("nan"), float("inf"), -0.0, 1e308])
        case 4:
            return "".join(rng.choice("abr1._*/\\\x00é") for _ in range(rng.randrange(80)))
        case 5:
            return rng.randbytes(rng.randrange(40))
        case 6:
            return "x" * rng.choice([64, 65, 512, 513, 5000])
        case 7:
            return msgpack.ExtType(rng.randrange(128), rng.randbytes(4))
        case 8:
            return rng.choice(list(SAMPLES))
        case 9 | 10:
            return [junk(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {str(rng.randrange(9)): junk(rng, depth + 1) for _ in range(rng.randrange(4))}


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from _paths(item, (*path, key))


def _change(rng: random.Random, header: Any) -> Any:
    """Replace, remove or add something somewhere in a header."""
    path = rng.choice([p for p in _paths(header) if p] or [()])
    if not path:
        return junk(rng)
    holder = header
    for key in path[:-1]:
        holder = holder[key]
    match rng.randrange(4):
        case 0 if isinstance(holder, dict):
            del holder[path[-1]]
        case 1 if isinstance(holder, dict):
            holder[str(junk(rng))] = junk(rng)
        case _:
            holder[path[-1]] = junk(rng)
    return header


def messages(seed: int, count: int) -> Iterator[list[bytes]]:
    """Frames of `count` messages: random bytes, damaged bytes, changed fields, wrong frames, bombs."""
    rng = random.Random(seed)
    for _ in range(count):
        sample = SAMPLES[rng.choice(HOST_NAMES)]
        frames = [
            bytes(f) for f in codec.encode(sample, [rng.randbytes(rng.randrange(64))] * sample.frame_count)
        ]
        seals, frames[0] = frames[0][: 2 * codec.SEAL_BYTES], frames[0][2 * codec.SEAL_BYTES :]
        match rng.randrange(8):
            case 0:
                frames = [rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 5))]
            case 1:
                data = bytearray(frames[0])
                for _ in range(rng.randrange(1, 6)):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                frames[0] = bytes(data)
            case 2:
                frames[0] = frames[0][: rng.randrange(len(frames[0]))]
            case 3:
                at = rng.randrange(len(frames[0]))
                frames[0] = frames[0][:at] + rng.randbytes(rng.randrange(1, 9)) + frames[0][at:]
            case 4 | 5:
                header = msgpack.unpackb(frames[0])
                for _ in range(rng.randrange(1, 4)):
                    if isinstance(header, dict):
                        header = _change(rng, header)
                frames[0] = msgpack.packb(header)
            case 6:
                frames = frames[: rng.randrange(1, len(frames) + 1)] + [b"extra"] * rng.randrange(6)
            case 7:
                bomb = rng.choice(_BOMBS)
                frames[0] = bomb if rng.random() < 0.5 else b"\x82\xa4type\xa4Ping\xa5token" + bomb
        if rng.random() < 0.02:
            frames += [struct.pack("<I", rng.randrange(2**32))] * 5000
        if rng.random() < 0.9:
            yield [bytes(f) for f in codec.sealed(frames[0], frames[1:])]
        else:
            yield [seals + frames[0], *frames[1:]]
