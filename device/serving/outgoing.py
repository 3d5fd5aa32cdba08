# SPDX-License-Identifier: Apache-2.0
"""What a run sends, and may have to send again: replies until the host has them, streams until it has used them.

Called by the server's loop (`accept`, `acknowledge`, `query`, `flush_due`) and by the run's worker (the rest). The
worker waits here while the host has not used enough of a step's stream, so a slow host slows its own run down.
What this file does not do: execute requests (`run.py`), sockets (`server.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import LimitError
from ditto_cosim.protocol.loop import REAL, World
from ditto_cosim.protocol.tensors import Array, Buffer, to_frame

FLUSH_S = 0.02
"""A layer report waits at most so long for others to share its message."""
FLUSH_REPORTS = 64
MESSAGE_BYTES = 1024
"""What a stream message counts against the window besides its bytes, so that many small ones count too."""

REPEAT_S = 0.2
"""A host that asks more often for the same answer is not sent it again: one answer is on its way."""

Send = Callable[[codec.Frames], None]


class Outgoing:
    """Thread-safe. One request's stream at a time: the step under way, or the last one."""

    def __init__(
        self, run: str, window_bytes: int, send: Send, *, reply_bytes: int = 1 << 62, world: World = REAL
    ) -> None:
        self._run, self._window_bytes, self._send = run, window_bytes, send
        self._reply_bytes, self._world = reply_bytes, world
        self._lock = world.condition()
        self._pending: dict[int, int] = {}
        """Requests without an answer, and their bytes."""
        self._replies: OrderedDict[int, codec.Frames] = OrderedDict()
        self._replies_cost_bytes = 0
        self._repeated_at: dict[int, float] = {}
        self._floor = 0
        self._seq = -1
        self._next = 0
        self._stream: OrderedDict[int, codec.Frames] = OrderedDict()
        self._unused_bytes = 0
        self._reports: list[m.LayerReport] = []
        self._flushed_at = 0.0
        self._open_window = False

    # --- called by the server's loop ------------------------------------------------------------------------

    @property
    def owed(self) -> tuple[int, int]:
        """Requests without an answer, and their bytes."""
        with self._lock:
            return len(self._pending), sum(self._pending.values())

    def accept(self, request: m.Request, nbytes: int = 0) -> bool:
        """Whether this request is to be executed. A repeated one is answered here, if its answer is known."""
        with self._lock:
            if request.seq < self._floor or request.seq in self._pending:
                return False
            for seq in [s for s in self._replies if s < request.done_below]:
                self._replies_cost_bytes -= _cost_bytes(self._replies.pop(seq))
                self._repeated_at.pop(seq, None)
            self._floor = max(self._floor, request.done_below)
            if request.seq in self._replies:
                self._repeat(request.seq, 0)
                return False
            if self._replies_cost_bytes > self._reply_bytes and not isinstance(request, m.CloseRun):
                raise LimitError(
                    f"{len(self._replies)} replies of {self._replies_cost_bytes} bytes are kept for run {self._run} "
                    f"until a request's done_below passes them; {self._reply_bytes} bytes are granted"
                )
            self._pending[request.seq] = nbytes
            return True

    def acknowledge(self, seq: int, received: int) -> None:
        """The host has used stream messages 0 … received−1."""
        with self._lock:
            if seq == self._seq:
                while self._stream and next(iter(self._stream)) < received:
                    self._unused_bytes -= _cost_bytes(self._stream.popitem(last=False)[1])
                self._lock.notify_all()

    def query(self, seq: int, received: int) -> bool:
        """Send again what the host lacks; False if this request never came."""
        with self._lock:
            if seq in self._replies or seq in self._pending:
                self._repeat(seq, received)
                return True
            return seq < self._floor

    def flush_due(self) -> None:
        """Send layer reports that have waited long enough."""
        with self._lock:
            if self._reports and self._world.now() - self._flushed_at > FLUSH_S:
                self._flush()

    def mute(self) -> None:
        """Send nothing any more: nobody listens."""
        self._send = lambda frames: None

    def release(self) -> None:
        """Let the worker pass, whatever the host has used."""
        with self._lock:
            self._open_window = True
            self._lock.notify_all()

    # --- called by the worker -------------------------------------------------------------------------------

    def begin_stream(self, seq: int) -> None:
        with self._lock:
            self._stream.clear()
            self._seq, self._next, self._unused_bytes = seq, 0, 0

    def report(self, report: m.LayerReport) -> None:
        with self._lock:
            self._reports.append(report)
            if len(self._reports) >= FLUSH_REPORTS or self._world.now() - self._flushed_at > FLUSH_S:
                self._flush()
            self._await_window()

    def value(self, value: int, array: Array) -> None:
        """The array must stay unchanged: its memory is what is sent, and sent again."""
        header, frame = to_frame(str(value), array)
        with self._lock:
            self._flush()
            message = m.Observed(run=self._run, seq=self._seq, index=self._next, value=value, tensor=header)
            self._push(message, (frame,))
            self._await_window()

    def end_stream(self) -> int:
        """How many messages the stream has."""
        with self._lock:
            self._flush()
            return self._next

    def reply(self, seq: int, frames: codec.Frames) -> None:
        with self._lock:
            self._flush()
            if self._pending.pop(seq, None) is None:
                return  # given up meanwhile
            self._replies[seq] = frames
            self._replies_cost_bytes += _cost_bytes(frames)
            self._send(frames)

    # --- under the lock -------------------------------------------------------------------------------------

    def _repeat(self, seq: int, received: int) -> None:
        now = self._world.now()
        if now - self._repeated_at.get(seq, -REPEAT_S) < REPEAT_S:
            return
        self._repeated_at[seq] = now
        if seq == self._seq:
            for index, frames in self._stream.items():
                if index >= received:
                    self._send(frames)
        if seq in self._replies:
            self._send(self._replies[seq])

    def _flush(self) -> None:
        if self._reports:
            batch, self._reports = self._reports, []
            self._flushed_at = self._world.now()
            self._push(m.Reports(run=self._run, seq=self._seq, index=self._next, reports=batch), ())

    def _push(self, message: m.Stream, payload: tuple[Buffer, ...]) -> None:
        frames = codec.encode(message, payload)
        self._stream[self._next] = frames
        self._next += 1
        self._unused_bytes += _cost_bytes(frames)
        self._send(frames)

    def _await_window(self) -> None:
        """A single message may exceed the window."""
        while self._unused_bytes > self._window_bytes and not self._open_window:
            self._lock.wait(1.0)


def _cost_bytes(frames: codec.Frames) -> int:
    return MESSAGE_BYTES + sum(memoryview(frame).nbytes for frame in frames)
