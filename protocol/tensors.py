# SPDX-License-Identifier: Apache-2.0
"""Arrays to frames and back without copying.

A frame is the array's own memory on the way out, and the array is a read-only view of the frame on the way
in. The one exception: an array that is not contiguous, and a short frame that the socket delivered
misaligned, are copied. What this file never does: pickle, object arrays, byte swapping.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.errors import TensorError
from ditto_cosim.protocol.messages import TensorHeader, TensorKey, WireType

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview

NUMPY_TYPES: dict[WireType, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f64": np.dtype("<f8"),
    "i8": np.dtype("i1"),
    "i16": np.dtype("<i2"),
    "i32": np.dtype("<i4"),
    "i64": np.dtype("<i8"),
    "u8": np.dtype("u1"),
    "u16": np.dtype("<u2"),
    "u32": np.dtype("<u4"),
    "u64": np.dtype("<u8"),
}
_WIRE_TYPES: dict[np.dtype[Any], WireType] = {dtype: name for name, dtype in NUMPY_TYPES.items()}


def wire_type(array: Array, name: str) -> WireType:
    wire = _WIRE_TYPES.get(array.dtype)
    if wire is None:
        raise TensorError(
            f"tensor {name!r}: {array.dtype} does not cross the wire; "
            f"convert it to one of {', '.join(NUMPY_TYPES)}"
        )
    return wire


def to_frame(name: str, array: Array) -> tuple[TensorHeader, memoryview]:
    """Header and bytes; the bytes are the array's own memory, which must stay unchanged until they are sent."""
    header = TensorHeader(name=name, dtype=wire_type(array, name), shape=array.shape)
    return header, array_bytes(array)


def array_bytes(array: Array) -> memoryview:
    contiguous = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(np.uint8).data if contiguous.size else memoryview(b"")


def to_frames(arrays: Mapping[str, Array]) -> tuple[list[TensorHeader], list[memoryview]]:
    pairs = [to_frame(name, array) for name, array in arrays.items()]
    return [header for header, _ in pairs], [frame for _, frame in pairs]


def from_frame(header: TensorHeader | TensorKey, frame: Buffer, name: str = "") -> Array:
    """A read-only array over the frame, whose length must be exactly what the header says."""
    dtype = NUMPY_TYPES[header.dtype]
    view = memoryview(frame)
    expected = math.prod(header.shape) * dtype.itemsize
    if view.nbytes != expected:
        label = name or (header.name if isinstance(header, TensorHeader) else header.digest)
        raise TensorError(
            f"tensor {label!r}: frame of {view.nbytes} bytes, "
            f"but {header.dtype}{list(header.shape)} takes {expected}"
        )
    array = np.frombuffer(view, dtype) if expected else np.zeros(0, dtype)
    if not array.flags.aligned:
        array = array.copy()
    try:
        array = array.reshape(header.shape)
    except ValueError as error:  # an empty tensor whose other dimensions multiply beyond any memory
        raise TensorError(f"tensor of shape {list(header.shape)}: {error}") from None
    array.flags.writeable = False
    return array


def from_frames(headers: Sequence[TensorHeader], frames: Sequence[Buffer]) -> dict[str, Array]:
    """Arrays by name; a name that occurs twice is refused."""
    arrays = {h.name: from_frame(h, f) for h, f in zip(headers, frames, strict=True)}
    if len(arrays) != len(headers):
        names = [h.name for h in headers]
        raise TensorError(f"tensors {sorted({n for n in names if names.count(n) > 1})} are given twice")
    return arrays


def hasher() -> hashlib.blake2b:
    """Of what `TensorKey.digest` holds: a constant's identity, which nobody can forge."""
    return hashlib.blake2b(digest_size=16)


def digest_of(frame: Buffer) -> str:
    """What `TensorKey.digest` holds."""
    return hashlib.blake2b(frame, digest_size=16).hexdigest()


def key_of(name: str, array: Array) -> TensorKey:
    return TensorKey(digest=digest_of(array_bytes(array)), dtype=wire_type(array, name), shape=array.shape)


if sys.byteorder != "little":  # pragma: no cover
    raise ImportError(
        "the wire carries little-endian arrays as they lie in memory; this machine is big-endian"
    )
