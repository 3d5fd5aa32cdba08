# SPDX-License-Identifier: Apache-2.0
"""Runs on the device: one worker thread each, which executes every request once.

A `ServedRun` owns its program, its machine, its constants (shared through `Store`) and its replies. The server's
loop calls `submit`, `acknowledge` and `query`; the worker executes requests in the order they came and hands
frames to `send`. What this file does not do: sockets, handshakes, time-outs (`server.py`); arithmetic and time
(`execution/`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ditto_cosim.device.core import Activity, Executor, ExecutorFactory
from ditto_cosim.device.serving.footprint import footprint
from ditto_cosim.device.serving.outgoing import Outgoing, Send
from ditto_cosim.device.serving.store import Store
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
    WatchdogError,
    describe,
)
from ditto_cosim.protocol.loop import REAL, World
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.tensors import (
    NUMPY_TYPES,
    Array,
    Buffer,
    from_frame,
    from_frames,
    to_frames,
)

log = logging.getLogger("ditto.device")

REPLIES_BYTES = 1 << 20
"""Kept for a run at least, however small the device's window is."""
MACS_PER_S = 1_000_000
"""The slowest pace at which a product counts as progress: an eighth of one lane of the smallest chip in RTL."""


class ServedRun:
    """One run and its worker."""

    def __init__(
        self,
        run: str,
        owner: bytes,
        *,
        limits: m.Limits,
        stream_bytes: int,
        store: Store,
        factory: ExecutorFactory,
        settle: Callable[[m.RunSpec], m.RunSpec],
        send: Send,
        on_closed: Callable[[ServedRun], None],
        on_doing: Callable[[str], None] = lambda what: None,
        world: World = REAL,
    ) -> None:
        self.run = run
        self.owner = owner
        self._limits = limits
        self._store, self._factory, self._settle = store, factory, settle
        self._on_closed, self._on_doing = on_closed, on_doing
        self._world = world
        self._outgoing = Outgoing(
            run, stream_bytes, send, reply_bytes=max(limits.window_bytes, REPLIES_BYTES), world=world
        )
        self._inbox = world.mailbox()
        self._cancelled = False
        self._stuck = False
        self._activity: Activity | None = None
        self._activity_since = 0.0
        self._progress = m.Progress(run=run, seq=0, busy=False)
        self._busy_since = 0.0

        # The worker's own:
        self._program: Program | None = None
        self._spec = m.RunSpec()
        self._keys: dict[str, m.TensorKey] = {}
        self._quota = limits.run_bytes
        self._machine: Executor | None = None
        self._broken = ""
        self._thread = world.thread(self._work, f"run {run[:8]}")

    # --- called by the server's loop ------------------------------------------------------------------------

    def submit(self, request: m.Request, payload: list[Buffer]) -> None:
        """Queue a request, or answer a repeated one."""
        if self._outgoing.accept(request, sum(memoryview(frame).nbytes for frame in payload)):
            if isinstance(request, m.CloseRun):
                self._cancel_step()
            if self._stuck:
                self._answer_for_the_worker(request)
            else:
                self._inbox.put((request, payload))

    @property
    def owed(self) -> tuple[int, int]:
        """Requests without an answer, and their bytes."""
        return self._outgoing.owed

    def overdue(self, now: float) -> bool:
        """Whether the machine has just been found to make no progress. Its thread cannot be ended, so the run goes on without
        it: the request is answered, and so is whatever comes after it."""
        progress, doing, since = self._progress, self._activity, self._activity_since
        if self._stuck or not progress.busy or doing is None:
            return False
        waited_s = now - since
        if waited_s <= self._limits.progress_s + doing.macs / MACS_PER_S:
            return False
        self._stuck = True
        self._broken = f"{doing.what}: no answer for {waited_s:.0f} s"
        error = WatchdogError(
            f"{self._broken}; a product of {doing.macs} multiplications is given "
            f"{self._limits.progress_s:g} s and one more a {MACS_PER_S}. Look at the backend, or raise the device's "
            "--progress-s."
        )
        log.error(
            "no progress", extra={"fields": {"run": self.run, "doing": doing.what, "s": round(waited_s)}}
        )
        self._reply_error(progress.seq, error)
        self._progress = msgspec.structs.replace(progress, busy=False)
        while not self._inbox.empty():
            if (item := self._inbox.get()) is not None:
                self._answer_for_the_worker(item[0])
        return True

    def _answer_for_the_worker(self, request: m.Request) -> None:
        if isinstance(request, m.CloseRun):
            self._outgoing.reply(request.seq, codec.encode(m.Closed(run=self.run, seq=request.seq)))
            self._store.release(self.run)
            self._on_closed(self)
        else:
            self._reply_error(request.seq, self._unusable())

    def _reply_error(self, seq: int, error: Exception) -> None:
        kind, text, state = describe(error)
        message = m.Error(run=self.run, seq=seq, kind=kind, message=text[:65536], state=state[-262144:])
        self._outgoing.reply(seq, codec.encode(message))

    def _unusable(self) -> DeviceError:
        return DeviceError(f"run {self.run} is unusable since an earlier failure: {self._broken}")

    def acknowledge(self, seq: int, received: int) -> None:
        self._outgoing.acknowledge(seq, received)

    def query(self, seq: int, received: int) -> bool:
        """Send again what the host lacks; False if this request never came."""
        return self._outgoing.query(seq, received)

    def flush(self) -> None:
        self._outgoing.flush_due()

    def progress(self) -> m.Progress:
        progress = self._progress
        elapsed = self._world.now() - self._busy_since if progress.busy else 0.0
        return msgspec.structs.replace(progress, request_s=round(elapsed, 3))

    def abandon(self) -> None:
        """Free the run without anybody to tell: its host is gone, or will open it again."""
        self._outgoing.mute()
        self.stop()

    def stop(self) -> None:
        """Free the run; a request under way is answered with a CancelledError."""
        self._cancel_step()
        if self._stuck:
            self._store.release(self.run)
        else:
            self._inbox.put(None)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _cancel_step(self) -> None:
        """A step under way stops at its next layer."""
        self._cancelled = True
        self._outgoing.release()

    # --- the worker -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            request, payload = item
            self._busy_since = self._world.now()
            self._progress = m.Progress(run=self.run, seq=request.seq, busy=True)
            try:
                reply = self._execute(request, payload)
            except Exception as error:
                if isinstance(error, MemoryError):
                    error = QuotaError(
                        f"run {self.run}: out of memory ({error}); the device's --host-bytes is its limit"
                    )
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
            if self._stuck:
                break  # given up meanwhile: everything has been answered
            self._progress = msgspec.structs.replace(self._progress, busy=False)
            self._outgoing.reply(request.seq, reply)
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
        if self._stuck:
            return
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
        held, taken = sum(sizes.values()), footprint(program)
        if held + taken.total > self._quota:
            raise QuotaError(
                f"run {self.run}: constants take {held} bytes, values {taken.live}, temporal state {taken.state}, "
                f"{taken.greediest!r} {taken.temporary} more; the quota is {self._quota}. "
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
            name: from_frame(key, self._store.get(self.run, key.digest), name)
            for name, key in self._keys.items()
        }
        machine = self._factory(self._program, constants, self._spec)
        self._machine = machine
        machine.tell = self._on_activity
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

    def _ready(self) -> Executor:
        if self._machine is None:
            raise RequestError(f"run {self.run}: not started; send its missing constants, then Start")
        if self._broken:
            raise self._unusable()
        return self._machine

    def _step(self, request: m.Step, payload: list[Buffer]) -> codec.Frames:
        machine = self._ready()
        inputs = self._inputs(request, payload)
        self._outgoing.begin_stream(request.seq)
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
        done = m.StepDone(
            run=self.run,
            seq=request.seq,
            step=request.step,
            streamed=self._outgoing.end_stream(),
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

    def _check_quota(self, machine: Executor) -> None:
        held = machine.state_bytes + sum(_key_bytes(key) for key in self._keys.values())
        if held > self._quota:
            raise QuotaError(
                f"run {self.run}: constants and temporal state hold {held} bytes, the quota is "
                f"{self._quota}. "
                "Raise the run's memory_bytes or the device's --run-bytes."
            )

    def _on_activity(self, activity: Activity | None) -> None:
        self._activity_since = self._world.now()
        self._activity = activity
        self._on_doing(activity.what if activity is not None else "")

    def _on_layer(self, report: m.LayerReport) -> None:
        self._check_cancel()
        self._progress = msgspec.structs.replace(
            self._progress, step=report.step, layer=report.layer + 1, name=report.name
        )
        self._outgoing.report(report)

    def _on_value(self, value: int, array: Array) -> None:
        self._check_cancel()
        if array.nbytes > self._limits.frame_bytes:
            raise BackendError(
                f"value {value} has {array.nbytes} bytes, more than a frame carries; do not observe it"
            )
        self._outgoing.value(value, array)

    def _check_cancel(self) -> None:
        if self._cancelled:
            raise CancelledError(f"run {self.run}: cancelled, it was closed or the device is stopping")


def _key_bytes(key: m.TensorKey) -> int:
    size = NUMPY_TYPES[key.dtype].itemsize
    for dimension in key.shape:
        size *= dimension
    return size
