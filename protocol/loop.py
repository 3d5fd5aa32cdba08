# SPDX-License-Identifier: Apache-2.0
"""One thread's loop over its sockets, and the world it lives in: sockets, threads, locks and time.

Host link, device server and device front each run one `Loop`. Whatever waits or tells the time asks a `World` for it, so that
a test can put them all into a simulated one, where a seed decides what is lost, late or dead. What this file does not do:
know a message.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from ditto_cosim.protocol.waker import Waker

TICK_S = 0.1
COPY_BELOW_BYTES = 1 << 16
"""Shorter frames are cheaper to copy into the socket than to keep alive until it has sent them."""
MESSAGES_AT_ONCE = 64
"""Taken from one socket before the others, and what waits to be sent, have their turn."""
HANDSHAKE_S = 5
"""A connection that has not said by then that it speaks ZeroMQ, and whose it is, is closed: whoever holds open as many as a
process may have keeps others out for so long at most."""


Outgoing = Sequence[Any]
"""Frames to send: buffers, or frames as they were received."""


class Socket:
    """A ZeroMQ socket that never blocks."""

    def __init__(self, raw: zmq.Socket[bytes]) -> None:
        self.raw = raw

    def connect(self, address: str) -> None:
        self.raw.connect(address)

    def disconnect(self, address: str) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self.raw.disconnect(address)

    def bind(self, address: str) -> str:
        """Returns the address, with the port that was chosen."""
        self.raw.bind(address)
        bound: bytes = self.raw.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]  # bytes for this option
        return bound.rstrip(b"\0").decode()

    def unbind(self, address: str) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self.raw.unbind(address)

    def receive(self, most_frames: int) -> list[zmq.Frame] | None:
        """One message, None if there is none. Frames beyond `most_frames` + 1 are dropped as they come."""
        frames: list[zmq.Frame] = []
        try:
            while True:
                frame = self.raw.recv(zmq.NOBLOCK, copy=False)
                if len(frames) <= most_frames:
                    frames.append(frame)
                if not frame.more:
                    return frames
        except zmq.Again:
            return None

    def send(self, frames: Outgoing) -> bool:
        """Whether the message went out; if not, none of it did."""
        last = len(frames) - 1
        try:
            for i, frame in enumerate(frames):
                flags = zmq.NOBLOCK | (zmq.SNDMORE if i < last else 0)
                if isinstance(frame, zmq.Frame):
                    self.raw.send(frame, flags, copy=False)
                else:
                    self.raw.send(frame, flags, copy=memoryview(frame).nbytes < COPY_BELOW_BYTES)
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        self.raw.close()


class Waits:
    """What a loop waits for: its sockets and file descriptors, a wake-up, the time."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._waker = Waker()
        self._poller.register(self._waker.fd, zmq.POLLIN)

    def add(self, source: Socket | int) -> None:
        self._poller.register(source.raw if isinstance(source, Socket) else source, zmq.POLLIN)

    def remove(self, source: Socket | int) -> None:
        self._poller.unregister(source.raw if isinstance(source, Socket) else source)

    def wake(self) -> None:
        self._waker.set()

    def wait(self, timeout_s: float) -> set[Any]:
        """Sources that have something to read."""
        events = dict(self._poller.poll(int(timeout_s * 1000)))
        self._waker.clear()
        return set(events)

    def close(self) -> None:
        self._waker.close()


class World:
    """The real one."""

    now = staticmethod(time.monotonic)
    condition = staticmethod(threading.Condition)
    lock = staticmethod(threading.Lock)
    mailbox: Callable[[], queue.SimpleQueue[Any]] = staticmethod(queue.SimpleQueue)
    waits = staticmethod(Waits)
    sleep = staticmethod(time.sleep)

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def running(self) -> object:
        """The thread that asks."""
        return threading.current_thread()

    def sockets(self) -> Sockets:
        return Sockets()


REAL = World()


class Sockets:
    """A ZeroMQ context."""

    def __init__(self) -> None:
        self.context = zmq.Context()

    def dealer(self, identity: bytes, address: str = "") -> Socket:
        """A host's end, or the front's towards a worker. It keeps whatever is to be sent until it is connected again."""
        raw = self.context.socket(zmq.DEALER)
        raw.setsockopt(zmq.IDENTITY, identity)
        raw.setsockopt(zmq.SNDHWM, 0)
        raw.setsockopt(zmq.RCVHWM, 0)
        raw.setsockopt(zmq.LINGER, 200)
        raw.setsockopt(zmq.RECONNECT_IVL, 20)
        raw.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        _ipv6(raw, address)
        return Socket(raw)

    def router(self, frame_bytes: int, send_most: int, receive_most: int, address: str = "") -> Socket:
        """A device's end. Longer frames end their connection; `send_most` messages wait for one host, `receive_most` from it."""
        raw = self.context.socket(zmq.ROUTER)
        raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        raw.setsockopt(zmq.ROUTER_HANDOVER, 1)
        raw.setsockopt(zmq.SNDHWM, send_most)
        raw.setsockopt(zmq.RCVHWM, receive_most)
        raw.setsockopt(zmq.LINGER, 500)
        raw.setsockopt(zmq.MAXMSGSIZE, frame_bytes)
        raw.setsockopt(zmq.HANDSHAKE_IVL, 1000 * HANDSHAKE_S)
        _ipv6(raw, address)
        return Socket(raw)

    def close(self, wait: bool = True) -> None:
        if wait:
            self.context.term()


def _ipv6(raw: zmq.Socket[bytes], address: str) -> None:
    if address.startswith("tcp://["):
        raw.setsockopt(zmq.IPV6, 1)


class Loop:
    """`run` until `stop`. `post`, `wake` and `stop` may be called from any thread, the rest from the loop's own."""

    def __init__(self, world: World, on_tick: Callable[[float], None]) -> None:
        self._world, self._on_tick = world, on_tick
        self._waits = world.waits()
        self._sources: dict[Any, tuple[Socket | int, Callable[[Any], None], int]] = {}
        self._outbox: deque[tuple[Socket, Outgoing]] = deque()
        self._stopping = False

    def watch(self, source: Socket | int, handle: Callable[[Any], None], most_frames: int = 0) -> None:
        """`handle` gets every message of a socket, or a file descriptor that can be read."""
        self._sources[source.raw if isinstance(source, Socket) else source] = source, handle, most_frames
        self._waits.add(source)

    def forget(self, source: Socket | int) -> None:
        if self._sources.pop(source.raw if isinstance(source, Socket) else source, None):
            self._waits.remove(source)

    def post(self, socket: Socket, frames: Outgoing) -> None:
        """Send when the loop comes by. What cannot be sent then is lost: whoever lacks it asks for it."""
        self._outbox.append((socket, frames))
        self._waits.wake()

    def flush(self) -> None:
        """Send what was posted."""
        while self._outbox:
            socket, frames = self._outbox.popleft()
            socket.send(frames)

    def stop(self) -> None:
        self._stopping = True
        self._waits.wake()

    def run(self) -> None:
        tick_at = self._world.now()
        while not self._stopping:
            ready = self._waits.wait(TICK_S)
            self.flush()
            for key in ready:
                if key in self._sources:
                    self._read(*self._sources[key])
            if (now := self._world.now()) >= tick_at:
                tick_at = now + TICK_S
                self._on_tick(now)

    def _read(self, source: Socket | int, handle: Callable[[Any], None], most_frames: int) -> None:
        if isinstance(source, int):
            handle(source)
            return
        for _ in range(MESSAGES_AT_ONCE):
            frames = source.receive(most_frames)
            if frames is None:
                break
            handle(frames)

    def close(self) -> None:
        self._waits.close()
