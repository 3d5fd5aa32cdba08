# SPDX-License-Identifier: Apache-2.0
"""Messages to frames and back, without sockets.

Frame 0 is two seals and the header in MessagePack, the frames after it are raw. Decoding trusts nothing: seals, lengths,
counts, nesting and every field's type are checked, and whatever fails is a `ProtocolError`. Nothing executable is ever
decoded.

    frame 0 = seal of what follows in it (8 bytes) ‖ seal of the frames after it (8 bytes) ‖ header

A seal is XXH3-64, little-endian; that of the frames covers each one's length (8 bytes, little-endian) before its bytes.
It finds damage, whoever did it by accident; it is no signature (keys see to strangers).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from xxhash import xxh3_64, xxh3_64_digest

from ditto_cosim.protocol.errors import DamagedError, IsaError, LimitError, ProtocolError
from ditto_cosim.protocol.messages import DeviceMessage, HostMessage, Limits, Message
from ditto_cosim.protocol.program import MAX_COMMANDS, MAX_VALUES, Program
from ditto_cosim.protocol.tensors import Buffer

Frames = list[Buffer]

log = logging.getLogger("ditto.wire")
_encoder = msgspec.msgpack.Encoder()
SEAL_BYTES = 8
_NOTHING = xxh3_64_digest(b"")[::-1]
_FROM_HOST = msgspec.msgpack.Decoder(HostMessage)
_FROM_DEVICE = msgspec.msgpack.Decoder(DeviceMessage)
"""What no field asks for is skipped, not built, so a header takes no more memory than the messages of this protocol need.
Made once: working out a union takes ten times as long as decoding a message."""


def encode(message: Message, payload: Sequence[Buffer] = ()) -> Frames:
    """Header frame and raw frames; refuses a message whose frames do not match it."""
    if len(payload) != message.frame_count:
        raise ProtocolError(
            f"{type(message).__name__} carries {message.frame_count} frames, {len(payload)} were given"
        )
    _trace("out", message, len(payload))
    return sealed(_encoder.encode(message), payload)


def sealed(header: bytes, payload: Sequence[Buffer] = ()) -> Frames:
    """A message of these bytes, whatever they mean."""
    rest = _seal(payload) + header
    return [xxh3_64_digest(rest)[::-1] + rest, *payload]


def _seal(payload: Sequence[Buffer]) -> bytes:
    if not payload:
        return _NOTHING
    found = xxh3_64()
    for frame in payload:
        found.update(memoryview(frame).nbytes.to_bytes(8, "little"))
        found.update(frame)
    return found.digest()[::-1]


def decode_host(frames: Sequence[Buffer], limits: Limits) -> HostMessage:
    """What a host sent; its payload is `frames[1:]`."""
    message: HostMessage = _decode(frames, limits, _FROM_HOST)
    return message


def decode_device(frames: Sequence[Buffer], limits: Limits) -> DeviceMessage:
    """What a device sent; its payload is `frames[1:]`."""
    message: DeviceMessage = _decode(frames, limits, _FROM_DEVICE)
    return message


def _decode(frames: Sequence[Buffer], limits: Limits, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    if not 1 <= len(frames) <= limits.frames:
        raise LimitError(f"message of {len(frames)} frames; 1 to {limits.frames} are accepted")
    for i, frame in enumerate(frames[1:], 1):
        if (size := memoryview(frame).nbytes) > limits.frame_bytes:
            raise LimitError(f"frame {i} has {size} bytes; up to {limits.frame_bytes} are accepted")
    if (size := memoryview(frames[0]).nbytes) > limits.header_bytes:
        raise LimitError(f"header has {size} bytes; up to {limits.header_bytes} are accepted")
    seal, rest = frames[0][:SEAL_BYTES], frames[0][SEAL_BYTES:]
    if size < 2 * SEAL_BYTES or seal != xxh3_64_digest(rest)[::-1]:
        raise DamagedError(
            "a message whose header does not match its seal: damaged on the way, or not of this protocol"
        )
    message = _header(rest[SEAL_BYTES:], decoder)
    if len(frames) - 1 != message.frame_count:
        raise _damaged(message, f"carries {message.frame_count} frames, {len(frames) - 1} came")
    if rest[:SEAL_BYTES] != _seal(frames[1:]):
        raise _damaged(message, "has other frames than its seal says: damaged on the way")
    _trace("in", message, len(frames) - 1)
    return message


def _damaged(message: Any, how: str) -> DamagedError:
    error = DamagedError(f"{type(message).__name__} {how}")
    error.meant = message
    return error


def _header(data: Buffer, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"header is not of this protocol: {error}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"header is not MessagePack ({type(error).__name__}: {error})") from None


def _trace(way: str, message: Message, frames: int) -> None:
    """What crosses, for whoever debugs: the type, whose it is, and how many frames follow."""
    if log.isEnabledFor(logging.DEBUG):
        name = type(message).__name__
        run, seq = getattr(message, "run", ""), getattr(message, "seq", "")
        log.debug("%s %s", way, name, extra={"fields": {"run": run, "seq": seq, "frames": frames}})


def encode_program(program: Program) -> bytes:
    return _encoder.encode(program.to_dict())


_MOST = msgspec.Meta(max_length=MAX_VALUES)


class _Command(msgspec.Struct, array_like=True):
    op: str
    name: str
    operands: list[int]
    results: list[int]
    attrs: dict[str, bool | int | float | str | list[bool | int | float]]
    when: str = ""


class _Program(msgspec.Struct):
    """The shape of `Program.to_dict()`, so that nothing else is ever built of what a stranger sends."""

    values: Annotated[list[tuple[list[int], str]], _MOST]
    inputs: Annotated[dict[str, int], _MOST]
    static_inputs: Annotated[list[str], _MOST]
    constants: Annotated[dict[str, int], _MOST]
    outputs: Annotated[dict[str, int], _MOST]
    commands: Annotated[list[_Command], msgspec.Meta(max_length=MAX_COMMANDS)]
    skip_difference: Annotated[list[str], _MOST]
    skip_summation: Annotated[list[str], _MOST]
    period: int = 1


_PROGRAM = msgspec.msgpack.Decoder(_Program)


def decode_program(frame: Buffer, limits: Limits) -> Program:
    """A program that is safe to execute, or an `IsaError` that names the command."""
    if (size := memoryview(frame).nbytes) > limits.program_bytes:
        raise LimitError(f"program has {size} bytes; up to {limits.program_bytes} are accepted")
    try:
        sent = _PROGRAM.decode(frame)
    except msgspec.ValidationError as error:
        raise IsaError(f"program: malformed ({error})") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"program is not MessagePack ({type(error).__name__}: {error})") from None
    commands = [msgspec.structs.astuple(command) for command in sent.commands]
    return Program.from_dict({**msgspec.structs.asdict(sent), "commands": commands})
