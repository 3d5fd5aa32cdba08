# SPDX-License-Identifier: Apache-2.0
"""One connection to one device process: its socket, its thread, its windows.

The thread owns the DEALER socket. It greets the device, beats (so that a busy user is not a dead host),
receives, and asks again for what got lost. `request` is called from users' threads and blocks until the reply
is complete, calling back for what the device streams meanwhile, in order, in the caller's thread. What this
file does not do: reopen anything after the device is lost (client.py).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket as os_socket
from collections.abc import Callable
from pathlib import Path

import zmq

from ditto_cosim.protocol import codec, security
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    CrashedError,
    DamagedError,
    DeviceLostError,
    DittoError,
    LimitError,
    ParametersError,
    ProtocolError,
    QuotaError,
    SecurityError,
    VersionError,
    revive,
)
from ditto_cosim.protocol.loop import REAL, TICK_S, Loop, World
from ditto_cosim.protocol.tensors import Buffer
from ditto_cosim.protocol.version import PROTOCOL_VERSION, check_peer, package_version, parameters_digest

BEAT_S = 1.0
DEAD_S = 15.0
"""Silence after which the device is given up."""
ASK_AGAIN_S = 0.5
ASK_AGAIN_MOST_S = 4.0
SEND_MOST = 20
"""Times a request is sent before it is given up."""
DAMAGED_MOST = 50
DAMAGED_GREETINGS_MOST = 8
"""Damaged messages in a row, before and after the device has greeted, until it is given up."""
ACKS_A_WINDOW = 8
"""Of a stream that fills it: a stream of many small values need not be acknowledged value by value."""
MESSAGE_BYTES = 1024
"""What the device counts a stream message for at least, besides its payload."""

log = logging.getLogger("ditto.host")
OnStream = Callable[[m.Stream, Buffer | None], None]
Watch = Callable[[], str]
"""Looks after the device's process: empty while it lives, otherwise how it ended."""


class Pending:
    """A request under way: between `Link.begin` and `Link.finish`."""

    def __init__(self, request: m.Request, frames: codec.Frames, now: float) -> None:
        self.key = (request.run, request.seq)
        self.frames = frames
        self.nbytes = sum(memoryview(f).nbytes for f in frames)
        self.stream: dict[int, tuple[m.Stream, Buffer | None]] = {}
        self.arrived = 0
        """Stream messages 0 … arrived−1 have all come."""
        self.used = 0
        self.reply: m.Reply | None = None
        self.payload: list[Buffer] = []
        self.failure: Exception | None = None
        self.sent = 1
        self.heard_at = now
        self.patience_s = ASK_AGAIN_S
        self.queried_at = 0.0
        """When it was last asked for because of a damaged message."""

    @property
    def complete(self) -> bool:
        streamed = self.reply.streamed if isinstance(self.reply, m.StepDone) else 0
        return self.reply is not None and self.arrived >= streamed


class Link:
    """See the file's header. Made connected; `close` ends it."""

    def __init__(
        self,
        address: str,
        *,
        keys: Path | None = None,
        timeout_s: float = 30.0,
        dead_s: float = DEAD_S,
        stream_bytes: int = 64 << 20,
        watch: Watch | None = None,
        world: World = REAL,
    ) -> None:
        security.check_address(address, keys)
        security.check_owner(address)
        self.address = address
        self.limits = m.Limits()
        self.welcome: m.Welcome | None = None
        self.progress: dict[str, m.Progress] = {}
        self._dead_s, self._stream_bytes, self._watch = dead_s, stream_bytes, watch
        self.world = world
        self._lock = world.condition()
        self._pending: dict[tuple[str, int], Pending] = {}
        self._window: set[tuple[str, int]] = set()
        """Requests that the device has not answered yet."""
        self._window_bytes = 0
        self._failure: Exception | None = None
        self._refusal = ""
        self._damaged_in_a_row = 0
        self._closing = False
        self._heard_at = self._beat_at = world.now()
        self._token = 0

        self._sockets = world.sockets()
        # ROUTERs refuse identities that begin with a zero byte.
        self._socket = self._sockets.dealer(b"H" + secrets.token_bytes(16), address)
        self._connected = address
        try:
            self._secret = security.local_token() if keys is None and security.is_loopback(address) else ""
            if keys is not None:
                security.use_keys(self._socket.raw, keys)
            self._socket.connect(address)
        except (DittoError, zmq.ZMQError) as error:
            self._socket.close()
            self._sockets.close()
            if isinstance(error, zmq.ZMQError):
                raise SecurityError(f"cannot connect to {address}: {error}") from None
            raise
        self._loop = Loop(world, self._tick)
        self._loop.watch(self._socket, self._receive, self.limits.frames)
        self._thread = world.thread(self._run, f"link {address}")
        self._greet(timeout_s, keys is not None)

    # --- called from users' threads -------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Identity of the device process."""
        return self.welcome.device if self.welcome else ""

    def begin(self, request: m.Request, payload: list[Buffer]) -> Pending:
        """Send a request once the window has room for it. Its frames must stay unchanged until it is answered."""
        frames = codec.encode(request, payload)
        self._check_limits(request, frames)
        pending = Pending(request, frames, self.world.now())
        with self._lock:
            while self._window and (
                len(self._window) >= self.limits.window_requests
                or self._window_bytes + pending.nbytes > self.limits.window_bytes
            ):
                self._check_alive()
                self._lock.wait(TICK_S)
            self._check_alive()
            self._pending[pending.key] = pending
            self._window.add(pending.key)
            self._window_bytes += pending.nbytes
            pending.heard_at = self.world.now()
        self._post(frames)
        return pending

    def finish(self, pending: Pending, on_stream: OnStream | None = None) -> tuple[m.Reply, list[Buffer]]:
        """Wait for the reply; stream messages go to `on_stream` as they come. Raises what the device reports."""
        unacked = 0
        try:
            while True:
                with self._lock:
                    while (
                        pending.used not in pending.stream
                        and not pending.complete
                        and pending.failure is None
                    ):
                        self._lock.wait(1.0)
                    item = pending.stream.pop(pending.used, None)
                    if item is None and pending.failure is not None:
                        raise pending.failure
                    if item is None:
                        assert pending.reply is not None
                        if isinstance(pending.reply, m.Error):
                            raise revive(pending.reply.kind, pending.reply.message, pending.reply.state)
                        return pending.reply, pending.payload
                if on_stream is not None:
                    on_stream(*item)
                pending.used += 1
                unacked += MESSAGE_BYTES + (0 if item[1] is None else memoryview(item[1]).nbytes)
                if unacked * ACKS_A_WINDOW >= min(self._stream_bytes, self.limits.stream_bytes):
                    self._ack(pending)
                    unacked = 0
        finally:
            with self._lock:
                self._pending.pop(pending.key, None)
                self._leave_window(pending)

    def request(
        self, request: m.Request, payload: list[Buffer], on_stream: OnStream | None = None
    ) -> tuple[m.Reply, list[Buffer]]:
        return self.finish(self.begin(request, payload), on_stream)

    def fail(self, error: Exception) -> None:
        """Give the link up: everybody who waits gets this error."""
        with self._lock:
            self._failure = self._failure or error
            for pending in self._pending.values():
                if not pending.complete:
                    pending.failure = pending.failure or self._failure
            self._lock.notify_all()

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self.fail(DeviceLostError(f"the link to {self.address} was closed"))
        self._loop.stop()
        if self.world.running() is not self._thread:
            self._thread.join()

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception as error:
            self.fail(DeviceLostError(f"the link to {self.address} broke: {type(error).__name__}: {error}"))
        finally:
            if self._closing and self.welcome and not isinstance(self._failure, ProtocolError):
                self._loop.flush()
                self._socket.send(codec.encode(m.Bye()))
            self._socket.close()
            self._sockets.close()
            self._loop.close()

    def _hello(self) -> codec.Frames:
        return codec.encode(
            m.Hello(
                protocol=PROTOCOL_VERSION,
                package=package_version(),
                parameters=parameters_digest(),
                host=f"{os_socket.gethostname()}:{os.getpid()}",
                stream_bytes=self._stream_bytes,
                token=self._secret,
            )
        )

    def _post(self, frames: codec.Frames) -> None:
        """What gets lost, because the device is starting or refused us, is asked for again."""
        self._loop.post(self._socket, frames)

    def _receive(self, frames: list[zmq.Frame]) -> None:
        body: list[Buffer] = [f.buffer for f in frames]
        try:
            message = codec.decode_device(body, self.limits)
        except DamagedError as error:
            self._damaged(error)
            return
        except ProtocolError as error:
            self.fail(ProtocolError(f"the device at {self.address} sent what this host cannot read: {error}"))
            return
        self._heard_at, self._damaged_in_a_row = self.world.now(), 0
        with self._lock:
            self._handle(message, body[1:])

    def _damaged(self, error: DamagedError) -> None:
        """Counts as lost, and is asked for at once; a device of which nothing whole comes is given up."""
        self._damaged_in_a_row += 1
        if self._damaged_in_a_row > (DAMAGED_MOST if self.welcome else DAMAGED_GREETINGS_MOST):
            self.fail(DamagedError(f"of what {self.address} sends nothing arrives whole: {error}"))
            return
        log.warning("from %s: %s", self.address, error)
        with self._lock:
            self._ask_again(self.world.now())

    def _handle(self, message: m.DeviceMessage, payload: list[Buffer]) -> None:
        match message:
            case m.Welcome():
                self._welcomed(message)
            case m.Moved():
                self._moved(message.address)
            case m.Pong():
                self._same_device(message.device)
                self.progress = {p.run: p for p in message.progress}
            case m.Reports() | m.Observed():
                if pending := self._pending.get((message.run, message.seq)):
                    self._streamed(pending, message, payload[0] if payload else None)
            case m.Missing():
                if (pending := self._pending.get((message.run, message.seq))) and pending.reply is None:
                    self._send_again(pending)
            case m.Error() if not message.run:
                self._refused(message)
            case _:
                pending = self._pending.get((message.run, message.seq))
                if pending is not None and pending.reply is None:
                    pending.reply, pending.payload = message, payload
                    self._heard(pending)
                    self._leave_window(pending)

    def _leave_window(self, pending: Pending) -> None:
        """An answered request makes room for another, whether or not anybody has looked at the answer."""
        if pending.key in self._window:
            self._window.remove(pending.key)
            self._window_bytes -= pending.nbytes
        self._lock.notify_all()

    def _welcomed(self, welcome: m.Welcome) -> None:
        try:
            security.check_owner(self._connected)  # it may have come after the first look
            check_peer("device", welcome.protocol, welcome.package, welcome.parameters)
        except DittoError as error:
            self.fail(error)
            return
        if self.welcome is None:
            self.welcome, self.limits = welcome, welcome.limits
            self._lock.notify_all()
        self._same_device(welcome.device)

    def _moved(self, address: str) -> None:
        """The device has a process for this host, which listens elsewhere on this machine."""
        if self.welcome is not None and address != self._connected:
            self.fail(
                DeviceLostError(
                    f"the device at {self.address} has lost the process of this host, and its runs"
                )
            )
        elif address != self._connected and address.startswith("ipc://"):
            self._socket.connect(address)
            self._socket.disconnect(self._connected)
            self._connected = address
            self._post(self._hello())

    def _same_device(self, device: str) -> None:
        if self.welcome is not None and device != self.welcome.device:
            self.fail(DeviceLostError(f"the device at {self.address} was restarted; its runs are gone"))

    def _refused(self, message: m.Error) -> None:
        """An Error that answers no request: the handshake failed, or the device forgot us."""
        error = revive(message.kind, message.message, message.state)
        self._refusal = message.message
        if isinstance(error, CrashedError):
            self.fail(DeviceLostError(message.message))
        elif self.welcome is None and isinstance(
            error, VersionError | ParametersError | QuotaError | SecurityError
        ):
            self.fail(error)
        elif self.welcome is not None and isinstance(error, DamagedError):
            self._ask_again(self.world.now())
        elif self.welcome is not None and self._failure is None:
            self._post(self._hello())

    def _streamed(self, pending: Pending, message: m.Stream, payload: Buffer | None) -> None:
        if message.index >= pending.arrived and message.index not in pending.stream:
            pending.stream[message.index] = (message, payload)
            while pending.arrived in pending.stream:
                pending.arrived += 1
            self._lock.notify_all()
        self._heard(pending)

    def _send_again(self, pending: Pending) -> None:
        pending.sent += 1
        if pending.sent > SEND_MOST:
            why = self._refusal or "it never arrived"
            pending.failure = DeviceLostError(
                f"a request was sent {SEND_MOST} times to {self.address} in vain: {why}"
            )
            self._lock.notify_all()
        else:
            self._post(pending.frames)

    def _heard(self, pending: Pending) -> None:
        pending.heard_at, pending.patience_s = self.world.now(), ASK_AGAIN_S

    def _tick(self, now: float) -> None:
        if self._watch is not None and (ended := self._watch()):
            self.fail(DeviceLostError(f"the device at {self.address} ended: {ended}"))
        if self.welcome is not None and now - self._heard_at > self._dead_s:
            self.fail(DeviceLostError(f"the device at {self.address} has been silent for {self._dead_s:g} s"))
        with self._lock:
            for pending in self._pending.values():
                waiting = not pending.complete and pending.used == pending.arrived
                if waiting and now - pending.heard_at > pending.patience_s:
                    pending.heard_at = now
                    pending.patience_s = min(2 * pending.patience_s, ASK_AGAIN_MOST_S)
                    self._query(pending)
        self._beat(now)

    def _ask_again(self, now: float) -> None:
        """Something was damaged: whatever is under way may miss it, and need not wait to ask."""
        for pending in self._pending.values():
            if not pending.complete and now - pending.queried_at > TICK_S:
                pending.queried_at = now
                self._query(pending)

    def _ack(self, pending: Pending) -> None:
        run, seq = pending.key
        self._post(codec.encode(m.Ack(run=run, seq=seq, received=pending.used)))

    def _query(self, pending: Pending) -> None:
        run, seq = pending.key
        self._ack(pending)  # the device may be waiting for one that was lost
        self._post(codec.encode(m.Query(run=run, seq=seq, received=pending.arrived)))

    def _beat(self, now: float) -> None:
        if now >= self._beat_at and self._failure is None:
            self._beat_at = now + (min(BEAT_S, self.limits.idle_s / 4) if self.welcome else ASK_AGAIN_S)
            self._token += 1
            self._post(codec.encode(m.Ping(token=self._token)) if self.welcome else self._hello())

    # --- checks ---------------------------------------------------------------------------------------------

    def _greet(self, timeout_s: float, with_keys: bool) -> None:
        deadline = self.world.now() + timeout_s
        with self._lock:
            while self.welcome is None and self._failure is None and self.world.now() < deadline:
                self._lock.wait(TICK_S)
            failure = self._failure
            if failure is None and self.welcome is None:
                hint = "its keys may not admit this host" if with_keys else "is `ditto device` running there?"
                failure = DeviceLostError(
                    f"no device answers at {self.address} within {timeout_s:g} s; {hint}"
                )
        if failure is not None:
            self.close()
            raise failure

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_limits(self, request: m.Request, frames: codec.Frames) -> None:
        what, limits = type(request).__name__, self.limits
        if len(frames) > limits.frames:
            raise LimitError(f"{what} has {len(frames)} frames, the device takes {limits.frames}")
        for frame, limit in zip(
            frames, [limits.header_bytes] + [limits.frame_bytes] * len(frames), strict=False
        ):
            if (size := memoryview(frame).nbytes) > limit:
                raise LimitError(f"{what} has a frame of {size} bytes, the device takes {limit}")
