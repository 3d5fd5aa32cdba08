# SPDX-License-Identifier: Apache-2.0
"""A host that sends a device wrong messages from a seed, and counts what comes back."""

from __future__ import annotations

import time

import zmq

from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.version import PROTOCOL_VERSION, package_version, parameters_digest
from support import wire_fuzz

LIMITS = m.Limits()


def bombard(address: str, seed: int, count: int, *, greets: bool) -> dict[str, int]:
    """Sends `count` wrong messages, to the front as a stranger, or to its own worker as an otherwise proper host; what came
    back, by kind."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.IDENTITY, b"H" + seed.to_bytes(16, "little"))
    hello = m.Hello(protocol=PROTOCOL_VERSION, package=package_version(), parameters=parameters_digest())
    came: dict[str, int] = {}

    def drain(timeout_ms: int) -> None:
        while socket.poll(timeout_ms):
            message = codec.decode_device(socket.recv_multipart(), LIMITS)
            kind = message.kind if isinstance(message, m.Error) else type(message).__name__
            if isinstance(message, m.Error):
                assert message.message
            came[kind] = came.get(kind, 0) + 1

    socket.connect(address)
    if greets:
        socket.send_multipart(codec.encode(hello))
        moved = codec.decode_device(socket.recv_multipart(), LIMITS)
        assert isinstance(moved, m.Moved)
        socket.connect(moved.address)
        socket.disconnect(address)
    try:
        for i, frames in enumerate(wire_fuzz.messages(seed, count)):
            if greets and i % 50 == 0:
                socket.send_multipart(codec.encode(hello))
            if not greets or b"Bye" not in frames[0]:  # after which the worker may go
                socket.send_multipart(frames)
            if i % 200 == 0:
                drain(0)
        deadline = time.monotonic() + 20
        if greets:
            socket.send_multipart(codec.encode(hello))
        socket.send_multipart(codec.encode(m.Ping(token=777)))
        last, before = ("Pong" if greets else "ProtocolError"), dict(came)
        while came.get(last, 0) == before.get(last, 0) and time.monotonic() < deadline:
            drain(100)
        drain(500)  # of a busy machine
    finally:
        context.destroy(0)
    return came
