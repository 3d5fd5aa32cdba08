"""Runs on the device: one worker thread each, every request executed once, streams kept until used.

A `Run` owns its program, its machine, its constants (shared through `Store`) and its replies. The server's
loop calls `submit`, `acknowledge` and `query`; the worker executes requests in the order they came and hands
frames to `send`. What this file does not do: sockets, handshakes, time-outs (server.py); arithmetic and time
(machine.py).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ditto_cosim.device.store import Store
from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    BackendError,
    CancelledError,
    DeviceError,
    ParametersError,
    QuotaError,
    RequestError,
    TensorError,
    describe,
)
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import StepRecord
from ditto_cosim.protocol.tensors import (
    NUMPY_TYPES,
    Array,
    Buffer,
    from_frame,
    from_frames,
    to_frame,
    to_frames,
)

log = logging.getLogger("ditto.device")

FLUSH_S = 0.02
"""A layer report waits at most so long for others to share its message."""
FLUSH_REPORTS = 64
MESSAGE_BYTES = 1024


@dataclass(frozen=True)
class StepResult:
    """What a machine returns for one step."""

    outputs: Mapping[str, Array]
    record: StepRecord | None = None
    totals: Mapping[str, int] = field(default_factory=dict)


class Machine(Protocol):
    """Executes one run's program: what session.py needs of machine.py. Arrays handed to it are read-only."""

    geometry_digest: str
    measures: bool
    facts: Mapping[str, str | int]

    def step(
        self,
        step: int,
        inputs: Mapping[str, Array],
        *,
        observe: m.Observe,
        timed: bool,
        on_layer: Callable[[m.LayerReport], None],
        on_value: Callable[[int, Array], None],
    ) -> StepResult: ...

    def snapshot(self) -> bytes: ...

    def restore(self, blob: bytes) -> None: ...

    @property
    def state_bytes(self) -> int: ...

    def close(self) -> None: ...


MachineFactory = Callable[[Program, Mapping[str, Array], m.RunSpec], Machine]
Send = Callable[[codec.Frames], None]


def live_bytes(program: Program) -> int:
    """Most bytes of values that are alive at once in a step, constants left out."""
    constants = set(program.constants.values())
    live = sum(program.values[v].nbytes for v in program.inputs.values())
    peak = live
    dying: dict[int, int] = {}
    for value, index in program.last_use.items():
        dying[index] = dying.get(index, 0) + program.values[value].nbytes
    for index, command in enumerate(program.commands):
        live += sum(program.values[v].nbytes for v in command.results if v not in constants)
        peak = max(peak, live)
        live -= dying.get(index, 0)
    return peak


class Run:
    """One run and its worker."""

    def __init__(
        self,
        run: str,
        owner: bytes,
        *,
        limits: m.Limits,
        stream_bytes: int,
        store: Store,
        factory: MachineFactory,
        settle: Callable[[m.RunSpec], m.RunSpec],
        send: Send,
        on_closed: Callable[[Run], None],
    ) -> None:
        self.run = run
        self.owner = owner
        self._limits, self._stream_limit = limits, stream_bytes
        self._store, self._factory, self._settle = store, factory, settle
        self._send, self._on_closed = send, on_closed

        self._inbox: queue.SimpleQueue[tuple[m.Request, list[Buffer]] | None] = queue.SimpleQueue()
        self._cancel = threading.Event()
        self._lock = threading.Condition()
        # Guarded by the lock:
        self._pending: set[int] = set()
        self._replies: OrderedDict[int, codec.Frames] = OrderedDict()
        self._floor = 0
        self._stream: OrderedDict[int, codec.Frames] = OrderedDict()
        self._stream_seq = -1
        self._stream_next = 0
        self._stream_unused = 0
        self._reports: list[m.LayerReport] = []
        self._flushed_at = 0.0
        self._progress = m.Progress(run=run, seq=0, busy=False)
        self._busy_since = 0.0

        # The worker's own:
        self._program: Program | None = None
        self._spec = m.RunSpec()
        self._keys: dict[str, m.TensorKey] = {}
        self._quota = limits.run_bytes
        self._machine: Machine | None = None
        self._broken = ""
        self._thread = threading.Thread(target=self._work, name=f"run {run[:8]}", daemon=True)
        self._thread.start()

    # --- called by the server's loop ------------------------------------------------------------------------

    def submit(self, request: m.Request, payload: list[Buffer]) -> None:
        """Queue a request, or answer a repeated one from the cache."""
        with self._lock:
            if request.seq < self._floor or request.seq in self._pending:
                return
            for seq in [s for s in self._replies if s < request.done_below]:
                del self._replies[seq]
            self._floor = max(self._floor, request.done_below)
            if request.seq in self._replies:
                self._repeat(request.seq, 0)
                return
            self._pending.add(request.seq)
        if isinstance(request, m.CloseRun):
            self.cancel()
        self._inbox.put((request, payload))

    def acknowledge(self, seq: int, received: int) -> None:
        with self._lock:
            if seq != self._stream_seq:
                return
            for index in [i for i in self._stream if i < received]:
                self._stream_unused -= _nbytes(self._stream.pop(index))
            self._lock.notify_all()

    def query(self, seq: int, received: int) -> bool:
        """Send again what the host lacks; False if this request never came."""
        with self._lock:
            if seq in self._replies or seq in self._pending:
                self._repeat(seq, received)
                return True
            return seq < self._floor

    def flush(self) -> None:
        """Send layer reports that have waited long enough."""
        with self._lock:
            if self._reports and time.monotonic() - self._flushed_at > FLUSH_S:
                self._flush()

    def progress(self) -> m.Progress:
        with self._lock:
            elapsed = time.monotonic() - self._busy_since if self._progress.busy else 0.0
            return msgspec.structs.replace(self._progress, request_s=round(elapsed, 3))

    def cancel(self) -> None:
        """Ask a step under way to stop at its next layer."""
        self._cancel.set()
        with self._lock:
            self._lock.notify_all()

    def abandon(self) -> None:
        """Free the run without anybody to tell: its host is gone, or will open it again."""
        self._send = lambda frames: None
        self.stop()

    def stop(self) -> None:
        """Free the run; a request under way is answered with a CancelledError."""
        self.cancel()
        self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- streams and replies, under the lock ----------------------------------------------------------------

    def _repeat(self, seq: int, received: int) -> None:
        if seq == self._stream_seq:
            for index, frames in self._stream.items():
                if index >= received:
                    self._send(frames)
        if seq in self._replies:
            self._send(self._replies[seq])

    def _flush(self) -> None:
        if self._reports:
            batch, self._reports = self._reports, []
            self._flushed_at = time.monotonic()
            index = self._stream_next
            self._push(m.Reports(run=self.run, seq=self._stream_seq, index=index, reports=batch), ())

    def _push(self, message: m.Stream, payload: tuple[Buffer, ...]) -> None:
        frames = codec.encode(message, payload)
        self._stream[self._stream_next] = frames
        self._stream_next += 1
        self._stream_unused += _nbytes(frames)
        self._send(frames)

    def _await_window(self) -> None:
        """Wait until the host has used enough of the stream. A single message may exceed the window."""
        while self._stream_unused > self._stream_limit and not self._cancel.is_set():
            self._lock.wait(1.0)

    # --- the worker -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            request, payload = item
            with self._lock:
                self._progress = m.Progress(run=self.run, seq=request.seq, busy=True)
                self._busy_since = time.monotonic()
            try:
                reply = self._execute(request, payload)
            except Exception as error:
                kind, text, state = describe(error)
                level = logging.ERROR if kind == "DeviceError" else logging.WARNING
                log.log(
                    level,
                    "request failed",
                    exc_info=kind == "DeviceError",
                    extra=self._labels(request, error=text),
                )
                error_message = m.Error(
                    run=self.run, seq=request.seq, kind=kind, message=text[:65536], state=state[-262144:]
                )
                reply = codec.encode(error_message)
            del item, payload
            with self._lock:
                self._flush()
                self._pending.discard(request.seq)
                self._replies[request.seq] = reply
                self._progress = msgspec.structs.replace(self._progress, busy=False)
                self._send(reply)
            if isinstance(request, m.CloseRun):
                break
        self._free()

    def _labels(self, request: m.Request, **more: object) -> dict[str, object]:
        return {"fields": {"run": self.run, "seq": request.seq, "request": type(request).__name__, **more}}

    def _free(self) -> None:
        try:
            if self._machine is not None:
                self._machine.close()
        except Exception:
            log.exception("machine did not close")
        self._machine = None
        self._store.release(self.run)
        log.info("run closed", extra={"fields": {"run": self.run}})
        self._on_closed(self)

    def _execute(self, request: m.Request, payload: list[Buffer]) -> codec.Frames:
        match request:
            case m.OpenRun():
                return self._open(request, payload[0])
            case m.PutTensors():
                for piece, frame in zip(request.pieces, payload, strict=True):
                    self._store.put(self.run, piece.digest, piece.offset, frame)
                return codec.encode(m.Stored(run=self.run, seq=request.seq))
            case m.Start():
                return self._start(request)
            case m.Step():
                return self._step(request, payload)
            case m.Restore():
                self._ready().restore(bytes(payload[0]))
                return codec.encode(m.Restored(run=self.run, seq=request.seq))
            case m.CloseRun():
                return codec.encode(m.Closed(run=self.run, seq=request.seq))

    def _open(self, request: m.OpenRun, program_frame: Buffer) -> codec.Frames:
        if self._program is not None:
            raise RequestError(f"run {self.run}: it is open already; open another run under another id")
        spec = self._spec = self._settle(request.spec)
        program = codec.decode_program(program_frame, self._limits)
        self._quota = min(spec.memory_bytes or self._limits.run_bytes, self._limits.run_bytes)
        for name in program.constants.keys() ^ request.constants.keys():
            side = "declares" if name in program.constants else "does not declare"
            raise TensorError(f"constant {name!r}: the program {side} it; constants and program must match")
        for name, value in program.constants.items():
            expected, key = program.values[value], request.constants[name]
            if (tuple(key.shape), key.dtype) != (expected.shape, expected.dtype):
                raise TensorError(
                    f"constant {name!r} is {key.dtype}{list(key.shape)}, the program expects {expected}"
                )
        sizes = {key.digest: _key_bytes(key) for key in request.constants.values()}
        needed = sum(sizes.values()) + live_bytes(program)
        if needed > self._quota:
            raise QuotaError(
                f"run {self.run}: constants and values take {needed} bytes, the quota is {self._quota}. "
                "Raise the run's memory_bytes or the device's --run-bytes."
            )
        missing = self._store.claim(self.run, self.owner, sizes)
        self._program, self._keys = program, dict(request.constants)
        log.info("run opened", extra=self._labels(request, layers=len(program.layers), missing=len(missing)))
        return codec.encode(m.Opened(run=self.run, seq=request.seq, missing=missing))

    def _start(self, request: m.Start) -> codec.Frames:
        if self._program is None:
            raise RequestError(f"run {self.run}: Start before OpenRun")
        if self._machine is not None:
            raise RequestError(f"run {self.run}: it is started already")
        constants = {
            name: from_frame(key, self._store.get(key.digest), name) for name, key in self._keys.items()
        }
        try:
            machine = self._factory(self._program, constants, self._spec)
        except ValueError as error:
            raise RequestError(f"run {self.run}: {error}") from error
        self._machine = machine
        if self._spec.geometry not in ("", machine.geometry_digest):
            self._broken = (
                f"the host expects tile {self._spec.geometry}, backend {self._spec.backend!r} has "
                f"{machine.geometry_digest}; rebuild one of them from the same parameters"
            )
            raise ParametersError(f"run {self.run}: {self._broken}")
        started = m.Started(
            run=self.run,
            seq=request.seq,
            spec=self._spec,
            geometry=machine.geometry_digest,
            measures=machine.measures,
            facts=dict(machine.facts),
            state_bytes=machine.state_bytes,
        )
        return codec.encode(started)

    def _ready(self) -> Machine:
        if self._machine is None:
            raise RequestError(f"run {self.run}: not started; send its missing constants, then Start")
        if self._broken:
            raise DeviceError(f"run {self.run} is unusable since an earlier failure: {self._broken}")
        return self._machine

    def _step(self, request: m.Step, payload: list[Buffer]) -> codec.Frames:
        machine = self._ready()
        inputs = self._inputs(request, payload)
        with self._lock:
            self._stream.clear()
            self._stream_seq, self._stream_next, self._stream_unused = request.seq, 0, 0
        try:
            result = machine.step(
                request.step,
                inputs,
                observe=request.observe,
                timed=request.timed,
                on_layer=self._on_layer,
                on_value=self._on_value,
            )
            self._check_quota(machine)
        except Exception as error:
            self._broken = f"step {request.step}: {error}"
            raise
        outputs, output_frames = to_frames(result.outputs)
        record, record_frames = to_frames(result.record.to_frames() if result.record is not None else {})
        with self._lock:
            self._flush()
            streamed = self._stream_next
        done = m.StepDone(
            run=self.run,
            seq=request.seq,
            step=request.step,
            streamed=streamed,
            outputs=outputs,
            record=record,
            totals=dict(result.totals),
        )
        return codec.encode(done, [machine.snapshot(), *output_frames, *record_frames])

    def _inputs(self, request: m.Step, payload: list[Buffer]) -> dict[str, Array]:
        program = self._program
        assert program is not None
        arrays = from_frames(request.inputs, payload)
        if arrays.keys() != program.inputs.keys():
            raise TensorError(
                f"step {request.step}: inputs are {sorted(arrays)}, "
                f"the program expects {sorted(program.inputs)}"
            )
        for header in request.inputs:
            expected = program.values[program.inputs[header.name]]
            if (tuple(header.shape), header.dtype) != (expected.shape, expected.dtype):
                met = f"{header.dtype}{list(header.shape)}"
                raise TensorError(
                    f"step {request.step}: input {header.name!r} is {met}, the program expects {expected}"
                )
        if not isinstance(request.observe, str):
            for value in request.observe:
                if value >= len(program.values):
                    raise RequestError(f"step {request.step}: observed value {value} is not in the program")
        return arrays

    def _check_quota(self, machine: Machine) -> None:
        held = machine.state_bytes + sum(_key_bytes(key) for key in self._keys.values())
        if held > self._quota:
            raise QuotaError(
                f"run {self.run}: constants and temporal state hold {held} bytes, the quota is "
                f"{self._quota}. "
                "Raise the run's memory_bytes or the device's --run-bytes."
            )

    def _on_layer(self, report: m.LayerReport) -> None:
        self._check_cancel()
        with self._lock:
            self._progress = msgspec.structs.replace(
                self._progress, step=report.step, layer=report.layer + 1, name=report.name
            )
            self._reports.append(report)
            if len(self._reports) >= FLUSH_REPORTS or time.monotonic() - self._flushed_at > FLUSH_S:
                self._flush()
            self._await_window()

    def _on_value(self, value: int, array: Array) -> None:
        self._check_cancel()
        header, frame = to_frame(str(value), array)
        if frame.nbytes > self._limits.frame_bytes:
            raise BackendError(
                f"value {value} has {frame.nbytes} bytes, more than a frame carries; do not observe it"
            )
        with self._lock:
            self._flush()
            index = self._stream_next
            message = m.Observed(run=self.run, seq=self._stream_seq, index=index, value=value, tensor=header)
            self._push(message, (frame,))
            self._await_window()

    def _check_cancel(self) -> None:
        if self._cancel.is_set():
            raise CancelledError(f"run {self.run}: cancelled, it was closed or the device is stopping")


def _nbytes(frames: codec.Frames) -> int:
    """What a stream message counts against the window: its bytes, and its own cost, so that small ones count
    too."""
    return MESSAGE_BYTES + sum(memoryview(frame).nbytes for frame in frames)


def _key_bytes(key: m.TensorKey) -> int:
    size = NUMPY_TYPES[key.dtype].itemsize
    for dimension in key.shape:
        size *= dimension
    return size
