"""Messages to frames and back, without sockets.

Frame 0 is the header in MessagePack, the frames after it are raw. Decoding trusts nothing: lengths, counts,
nesting and every field's type are checked, and whatever fails is a `ProtocolError`. Nothing executable is
ever decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgpack
import msgspec

from ditto_cosim.protocol.errors import LimitError, ProtocolError
from ditto_cosim.protocol.messages import DeviceMessage, HostMessage, Limits, Message
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.tensors import Buffer

Frames = list[Buffer]

log = logging.getLogger("ditto.wire")
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message, payload: Sequence[Buffer] = ()) -> Frames:
    """Header frame and raw frames; refuses a message whose frames do not match it."""
    if len(payload) != message.frame_count:
        raise ProtocolError(
            f"{type(message).__name__} carries {message.frame_count} frames, {len(payload)} were given"
        )
    _trace("out", message, len(payload))
    return [_encoder.encode(message), *payload]


def decode_host(frames: Sequence[Buffer], limits: Limits) -> HostMessage:
    """What a host sent; its payload is `frames[1:]`."""
    message: HostMessage = _decode(frames, limits, HostMessage)
    return message


def decode_device(frames: Sequence[Buffer], limits: Limits) -> DeviceMessage:
    """What a device sent; its payload is `frames[1:]`."""
    message: DeviceMessage = _decode(frames, limits, DeviceMessage)
    return message


def _decode(frames: Sequence[Buffer], limits: Limits, union: Any) -> Any:
    if not 1 <= len(frames) <= limits.frames:
        raise LimitError(f"message of {len(frames)} frames; 1 to {limits.frames} are accepted")
    for i, frame in enumerate(frames[1:], 1):
        if (size := memoryview(frame).nbytes) > limits.frame_bytes:
            raise LimitError(f"frame {i} has {size} bytes; up to {limits.frame_bytes} are accepted")
    fields = unpack(frames[0], limits.header_bytes, limits.depth, "header")
    if not isinstance(fields, dict):
        raise ProtocolError(f"header is a {type(fields).__name__}, expected a map with a 'type'")
    try:
        message = msgspec.convert(fields, union, strict=True)
    except (msgspec.ValidationError, OverflowError) as error:
        kind = str(fields.get("type", "no type"))[:40]
        raise ProtocolError(f"header of type {kind!r} is not of this protocol: {error}") from None
    if len(frames) - 1 != message.frame_count:
        kind = type(message).__name__
        raise ProtocolError(f"{kind} carries {message.frame_count} frames, {len(frames) - 1} came")
    _trace("in", message, len(frames) - 1)
    return message


def _trace(way: str, message: Message, frames: int) -> None:
    """What crosses, for whoever debugs: the type, whose it is, and how many frames follow."""
    if log.isEnabledFor(logging.DEBUG):
        name = type(message).__name__
        run, seq = getattr(message, "run", ""), getattr(message, "seq", "")
        log.debug("%s %s", way, name, extra={"fields": {"run": run, "seq": seq, "frames": frames}})


def unpack(data: Buffer, limit_bytes: int, depth: int, what: str) -> Any:
    """MessagePack of unknown origin: strings, numbers, lists and maps with string keys, nothing else."""
    if (size := memoryview(data).nbytes) > limit_bytes:
        raise LimitError(f"{what} has {size} bytes; up to {limit_bytes} are accepted")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, max_bin_len=0, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"{what} is not MessagePack ({type(error).__name__}: {error})") from None
    _check_depth(value, depth, what)
    return value


def _check_depth(value: Any, depth: int, what: str) -> None:
    if depth < 0:
        raise LimitError(f"{what} is nested deeper than the limit")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(inner, dict | list):
            _check_depth(inner, depth - 1, what)


def encode_program(program: Program) -> bytes:
    return _encoder.encode(program.to_dict())


def decode_program(frame: Buffer, limits: Limits) -> Program:
    """A program that is safe to execute, or an `IsaError` that names the command."""
    return Program.from_dict(unpack(frame, limits.program_bytes, limits.depth, "program"))
