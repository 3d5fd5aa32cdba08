# SPDX-License-Identifier: Apache-2.0
"""Messages to frames and back: golden bytes, exact inverses, and a typed error for everything else."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ditto_cosim.device.chips import ChipError
from ditto_cosim.host.reference.golden import VerifyError
from ditto_cosim.protocol import codec, tensors, version
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    WIRE_ERRORS,
    BackendError,
    DeviceError,
    IsaError,
    LimitError,
    ParametersError,
    ProtocolError,
    TensorError,
    VersionError,
    describe,
    revive,
)
from support.wire_samples import SAMPLES

GOLDEN: dict[str, str] = json.loads(Path(__file__).with_name("golden_messages.json").read_text())
LIMITS = m.Limits()


def decode(name: str, frames: list[Any], limits: m.Limits = LIMITS) -> m.Message:
    from_host = name in {t.__name__ for t in get_args(m.HostMessage)}
    return codec.decode_host(frames, limits) if from_host else codec.decode_device(frames, limits)


def opened(name: str) -> Any:
    """The header of a golden message, without its seals."""
    return msgpack.unpackb(bytes.fromhex(GOLDEN[name])[2 * codec.SEAL_BYTES :])


def test_samples_cover_every_message() -> None:
    assert SAMPLES.keys() == {t.__name__ for t in get_args(m.Message)} == GOLDEN.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_message_has_its_golden_bytes(name: str) -> None:
    payload = [b""] * SAMPLES[name].frame_count
    frames = codec.encode(SAMPLES[name], payload)
    assert bytes(frames[0]).hex() == GOLDEN[name]
    assert decode(name, [bytes.fromhex(GOLDEN[name]), *payload]) == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_message_ignores_fields_of_a_later_minor_version(name: str) -> None:
    header = opened(name) | {"from_the_future": [1, {"a": 2}]}
    frames = codec.sealed(msgpack.packb(header), [b""] * SAMPLES[name].frame_count)
    assert decode(name, frames) == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_message_with_a_frame_too_many_or_too_few_is_refused(name: str) -> None:
    header, count = bytes.fromhex(GOLDEN[name]), SAMPLES[name].frame_count
    with pytest.raises(ProtocolError, match=f"{name} carries {count} frames, {count + 1} came"):
        decode(name, [header, *[b""] * (count + 1)])
    if count:
        with pytest.raises(ProtocolError, match="came"):
            decode(name, [header, *[b""] * (count - 1)])


@pytest.mark.parametrize("name", SAMPLES)
def test_message_without_a_required_field_is_refused(name: str) -> None:
    whole = opened(name)
    required = {f for f in type(SAMPLES[name]).__struct_fields__ if f not in dict(_defaults(name))}
    for field in required:
        header = {k: v for k, v in whole.items() if k != field}
        with pytest.raises(ProtocolError, match=field):
            decode(name, codec.sealed(msgpack.packb(header), [b""] * SAMPLES[name].frame_count))


def _defaults(name: str) -> list[tuple[str, Any]]:
    cls = type(SAMPLES[name])
    return (
        list(zip(cls.__struct_fields__[::-1], cls.__struct_defaults__[::-1], strict=False))
        if (cls.__struct_defaults__)
        else []
    )


def test_host_and_device_refuse_each_others_messages() -> None:
    with pytest.raises(ProtocolError, match="Pong"):
        codec.decode_host([bytes.fromhex(GOLDEN["Pong"])], LIMITS)
    with pytest.raises(ProtocolError, match="Ping"):
        codec.decode_device([bytes.fromhex(GOLDEN["Ping"])], LIMITS)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"", "not MessagePack"),
        (b"\xc1", "not MessagePack"),
        (msgpack.packb([1, 2]), "Expected `object`, got `array`"),
        (msgpack.packb({"type": "Ping"}), "token"),
        (msgpack.packb({"type": "Ping", "token": -1}), "token"),
        (msgpack.packb({"type": "Ping", "token": 2**64 - 1}), "token"),
        (msgpack.packb({"type": "Ping", "token": True}), "token"),
        (msgpack.packb({"type": "Ping", "token": "1"}), "token"),
        (msgpack.packb({"type": "Nope", "token": 1}), "Nope"),
        (msgpack.packb({"token": 1}), "type"),
        (msgpack.packb({1: 2}), "Expected `str`, got `int`"),
        (msgpack.packb({"type": "Ping", "token": b"bytes"}), "token"),
        (msgpack.packb({"type": "Ping", "token": msgpack.ExtType(5, b"x")}), "token"),
        (msgpack.packb({"type": "Ping", "token": msgpack.Timestamp(1)}), "token"),
        (msgpack.packb({"type": "Ping", "token": 1}) + b"\x00", "not MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "Expected `object`, got `array`"),
        (b"\xdf\xff\xff\xff\xff\x01", "Expected `str`, got `int`"),
        (b"\xdb\xff\xff\xff\xff", "not MessagePack|of this protocol"),
        (b"\x91" * 100_000, "Expected `object`, got `array`"),
        (b"\x82\xa4type\xa4Ping\xa4more" + b"\x91" * 100_000, "not MessagePack"),
        (b"\x82\xa4type\xa4Ping\xa5token\xa2\xff\xfe", "token|not MessagePack"),
        (b"\x81\xa4type\xa2\xff\xfe", "of this protocol|not MessagePack"),
        (msgpack.packb({"type": "CloseRun", "run": "x" * 65, "seq": 1}), "run"),
        (msgpack.packb({"type": "CloseRun", "run": "", "seq": 1}), "run"),
        (
            msgpack.packb({"type": "PutTensors", "run": "r", "seq": 1, "pieces": [{"digest": "G" * 32}]}),
            "digest",
        ),
    ],
)
def test_header_that_is_no_message_is_refused_in_words(header: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        codec.decode_host(codec.sealed(header), LIMITS)


def test_limits_are_kept() -> None:
    with pytest.raises(LimitError, match="header has"):
        codec.decode_host([b"\x00" * (LIMITS.header_bytes + 1)], LIMITS)
    small = m.Limits(frame_bytes=10, frames=3)
    step = m.Step(run="r", seq=1, step=0, inputs=[m.TensorHeader(name="x", dtype="i8", shape=(11,))])
    with pytest.raises(LimitError, match="frame 1 has 11 bytes; up to 10"):
        codec.decode_host(codec.encode(step, [b"x" * 11]), small)
    with pytest.raises(LimitError, match="4 frames"):
        codec.decode_host([b"", b"", b"", b""], small)
    with pytest.raises(LimitError, match="0 frames"):
        codec.decode_host([], small)


def test_what_no_field_asks_for_takes_no_memory() -> None:
    """Four million lists that nobody wants would be 200 MB of objects."""
    header = (
        b"\x83\xa4type\xa4Ping\xa5token\x01\xa4more\xdd"
        + (4_000_000).to_bytes(4, "big")
        + b"\x90" * 4_000_000
    )
    frames: list[tensors.Buffer] = [memoryview(bytes(codec.sealed(header)[0]))]
    tracemalloc.start()
    try:
        assert codec.decode_host(frames, LIMITS) == m.Ping(token=1)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_encode_refuses_frames_that_do_not_match() -> None:
    with pytest.raises(ProtocolError, match="Restore carries 1 frames, 0 were given"):
        codec.encode(SAMPLES["Restore"])


@given(
    hnp.arrays(
        dtype=st.sampled_from(list(tensors.NUMPY_TYPES.values())),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_tensor_crosses_unchanged(array: tensors.Array) -> None:
    header, frame = tensors.to_frame("t", array)
    back = tensors.from_frame(header, bytes(frame))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert not back.flags.writeable


def test_tensor_is_not_copied_on_either_side() -> None:
    array = np.arange(1000, dtype=np.float32).reshape(10, 100)
    header, frame = tensors.to_frame("t", array)
    assert np.shares_memory(np.frombuffer(frame, np.uint8), array)
    assert np.shares_memory(tensors.from_frame(header, frame), array)


def test_tensor_in_a_misaligned_frame_comes_out_aligned() -> None:
    data = memoryview(b"\0" + np.arange(5, dtype=np.float64).tobytes())[1:]
    back = tensors.from_frame(m.TensorHeader(name="t", dtype="f64", shape=(5,)), data)
    assert back.flags.aligned
    assert back.tolist() == [0, 1, 2, 3, 4]


def test_tensor_that_is_not_contiguous_crosses() -> None:
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1)
    header, frame = tensors.to_frame("t", array)
    assert np.array_equal(tensors.from_frame(header, frame), array)


def test_tensor_of_the_wrong_length_type_or_name_is_refused() -> None:
    header = m.TensorHeader(name="x", dtype="f32", shape=(2, 2))
    with pytest.raises(TensorError, match=r"'x': frame of 15 bytes, but f32\[2, 2\] takes 16"):
        tensors.from_frame(header, b"\0" * 15)
    with pytest.raises(TensorError, match="complex128 does not cross"):
        tensors.to_frame("c", np.zeros(2, complex))
    with pytest.raises(TensorError, match="object does not cross"):
        tensors.to_frame("o", np.array([object()]))
    with pytest.raises(TensorError, match=r"\['x'\] are given twice"):
        tensors.from_frames([header, header], [b"\0" * 16] * 2)


@pytest.mark.parametrize("kind", WIRE_ERRORS)
def test_error_crosses_under_its_name(kind: str) -> None:
    error = WIRE_ERRORS[kind]("what happened")
    back = revive(*describe(error))
    assert type(back) is type(error)
    assert str(back) == "what happened"


def test_error_of_a_foreign_type_arrives_as_its_nearest_kind() -> None:
    class BoardError(BackendError):
        """A board's own."""

    assert describe(BoardError("no link", state="LED red"))[0] == "BackendError"
    kind, message, _ = describe(ZeroDivisionError("oops"))
    assert kind == "DeviceError"
    assert "ZeroDivisionError: oops" in message
    assert describe(ChipError("chip: no tiles")) == ("RequestError", "chip: no tiles", "")
    kind, message, _ = describe(VerifyError("out of order"))
    assert kind == "DeviceError"
    assert "VerifyError: out of order" in message
    assert isinstance(revive("SomethingNew", "hm"), DeviceError)
    assert str(revive("BackendError", "stuck", "state")) == "stuck\nstate"


def test_refused_peer_is_told_of_both_sides() -> None:
    here = version.parameters_digest()
    with pytest.raises(
        VersionError, match=r"the host has protocol 10\.0, package 9.*this side has protocol 2\.0"
    ):
        version.check_peer("host", "10.0", "9", here)
    with pytest.raises(ParametersError, match=r"the host has .* parameters ffff; this side has"):
        version.check_peer("host", "2.0", "0.1.0", "ffff")


def test_program_that_is_not_one_is_refused() -> None:
    wrong: tuple[Any, ...] = (
        {},
        {"values": 3},
        [],
        {"values": [[["a"], "f32"]]},
        {"values": [[[1], "f32"]] * 262_145},
    )
    for data in wrong:
        with pytest.raises(IsaError, match="program"):
            codec.decode_program(msgpack.packb(data), LIMITS)
    for frame in (b"", b"\x81\xa4more" + b"\x91" * 100_000):
        with pytest.raises(ProtocolError, match="not MessagePack"):
            codec.decode_program(frame, LIMITS)
    with pytest.raises(LimitError, match="program has"):
        codec.decode_program(b"\x00" * 11, m.Limits(program_bytes=10))


def test_program_of_rubbish_takes_no_memory() -> None:
    """Four million lists under a name that a program has."""
    count = 1 << 22
    frame = memoryview(b"\x81\xa6values\xdd" + count.to_bytes(4, "big") + b"\x90" * count)
    tracemalloc.start()
    try:
        with pytest.raises(IsaError, match="malformed"):
            codec.decode_program(frame, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
