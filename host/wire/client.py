# SPDX-License-Identifier: Apache-2.0
"""A device as its user sees it: open a run, step it, close it. Its death is not their problem.

    with connect("tcp://127.0.0.1:5590") as device:
        run = device.open_run(program, constants, RunSpec(backend="rtl"))
        result = run.step(0, inputs)
        run.close()

When the device is lost in the middle of a step, the run is opened again on whatever `Device.revive` finds
(the same address, or a new process): constants, the snapshot of the last completed step, that step replayed
untimed to rebuild temporal state and compared with what it gave the first time, then the interrupted step
from its beginning. Behind an increment, the full step before it is replayed first: what it kept is needed too.
Callbacks see every layer and value once. What this file does not do: sockets and retries (link.py), processes
(supervisor.py), torch.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ditto_cosim.host.wire import products
from ditto_cosim.host.wire.link import DEAD_S, Link, Pending
from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    DeviceError,
    DeviceLostError,
    DittoError,
    LinkError,
    RequestError,
    UnknownRunError,
)
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import StepRecord
from ditto_cosim.protocol.tensors import (
    Array,
    Buffer,
    array_bytes,
    digest_of,
    from_frame,
    from_frames,
    key_of,
    to_frames,
)

log = logging.getLogger("ditto.host")

T = TypeVar("T")
OnLayer = Callable[[m.LayerReport], None]
OnValue = Callable[[int, Array], None]


@dataclass(frozen=True)
class StepReply:
    """What one step gave."""

    step: int
    outputs: dict[str, Array]
    """Read-only arrays."""
    record: StepRecord | None
    totals: dict[str, int]
    snapshot: bytes


@dataclass(frozen=True)
class Completed:
    """The last step that is done: what a new device needs to continue behind it."""

    step: int
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    snapshot: bytes


class Device:
    """A device reached over the wire; a context manager. Runs of one device may be used from several threads."""

    defaults = m.RunSpec()
    """What single products run on."""

    def __init__(self, link: Link, *, revivals: int = 5) -> None:
        self._link = link
        self._revivals = self._revivals_left = revivals
        self._lock = threading.Lock()

    @property
    def link(self) -> Link:
        return self._link

    @property
    def welcome(self) -> m.Welcome:
        welcome = self._link.welcome
        assert welcome is not None
        return welcome

    def progress(self) -> dict[str, m.Progress]:
        """Where the runs are, as of the last heartbeat."""
        return dict(self._link.progress)

    def open_run(
        self,
        program: Program,
        constants: Mapping[str, Array],
        spec: m.RunSpec | None = None,
        after: Sequence[Completed] = (),
    ) -> RemoteRun:
        """Open a run; weights the device holds already are not sent again. The arrays must stay unchanged. `after`: go on
        behind the last of these steps, which another process completed; the others are what it rests on (`Program.anchor`)."""
        return RemoteRun(self, program, constants, spec or m.RunSpec(), after)

    def linear(
        self, x: Any, w: Any, *, previous: Any = None, zero_point: int = 0, mode: Mode | None = None
    ) -> tuple[npt.NDArray[np.int32], m.LayerReport]:
        """One linear layer alone: Σ w·(x − zero_point) of int8 x[…, K] and w[N, K], and what it cost.

        With `previous`, x of the step before, it runs in temporal mode: from the difference. `mode="spatial"` takes the
        difference of each row to the one before. The sums are the same in every mode.
        """
        return products.linear(self, x, w, previous=previous, zero_point=zero_point, mode=mode)

    def conv2d(
        self,
        x: Any,
        w: Any,
        *,
        previous: Any = None,
        stride: products.Pair = 1,
        padding: products.Pair = 0,
        dilation: products.Pair = 1,
        groups: int = 1,
        zero_point: int = 0,
        mode: Mode | None = None,
    ) -> tuple[npt.NDArray[np.int32], m.LayerReport]:
        """One convolution alone, of int8 x[B, C, H, W] with w[N, C ÷ groups, kh, kw]; otherwise as `linear`."""
        return products.conv2d(
            self,
            x,
            w,
            previous=previous,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            zero_point=zero_point,
            mode=mode,
        )

    def attention(
        self, a: Any, b: Any, *, previous: Sequence[Any] | None = None, mode: Mode | None = None
    ) -> tuple[npt.NDArray[np.int32], m.LayerReport]:
        """One product of attention alone, int8 a[heads, M, K] · b[heads, K, N]; `previous` is the pair of the step before."""
        return products.attention(self, a, b, previous=previous, mode=mode)

    def revive(self, lost: Link, why: Exception) -> None:
        """Make the device answer again after `lost` failed, or raise. Runs that come late find it done."""
        with self._lock:
            if self._link is not lost:
                return
            while True:
                if self._revivals_left <= 0:
                    raise DeviceLostError(
                        f"{why}\nNo step was completed since {self._revivals} restarts; giving up."
                    )
                self._revivals_left -= 1
                if isinstance(why, UnknownRunError) and not lost.failed:
                    return
                lost.close()
                log.warning("device lost: %s; %d more attempts", why, self._revivals_left)
                try:
                    self._link = self._reconnect()
                    return
                except LinkError as error:
                    why = error

    def settled(self) -> None:
        """A step was completed: the device deserves its full number of revivals again."""
        self._revivals_left = self._revivals

    def _reconnect(self) -> Link:
        raise DeviceLostError("this device cannot be reached again")

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Elsewhere(Device):
    """A device that somebody else started."""

    def __init__(self, address: str, keys: Path | None, timeout_s: float, dead_s: float) -> None:
        self._address, self._keys, self._timeout_s, self._dead_s = address, keys, timeout_s, dead_s
        super().__init__(self._reconnect())

    def _reconnect(self) -> Link:
        return Link(self._address, keys=self._keys, timeout_s=self._timeout_s, dead_s=self._dead_s)


def connect(
    address: str, keys: Path | None = None, *, timeout_s: float = 30.0, dead_s: float = DEAD_S
) -> Device:
    """A device that listens at `address`; `keys` is a directory with this host's pair and the device's public key."""
    return _Elsewhere(address, keys, timeout_s, dead_s)


def _checked(spec: m.RunSpec) -> m.RunSpec:
    """Types are checked when a message is read, and what cannot be read is taken for damage and asked for again."""
    try:
        return msgspec.convert(msgspec.to_builtins(spec), m.RunSpec)
    except (msgspec.ValidationError, TypeError) as error:
        raise RequestError(f"a run cannot be opened: {error}") from None


class RemoteRun:
    """One run on a device. One step at a time; several runs may step at once from several threads."""

    def __init__(
        self,
        device: Device,
        program: Program,
        constants: Mapping[str, Array],
        spec: m.RunSpec,
        after: Sequence[Completed] = (),
    ) -> None:
        self.program = program
        self._device = device
        self._spec = _checked(spec)
        self._constants = dict(constants)
        self._keys = {name: key_of(name, array) for name, array in constants.items()}
        self._done = list(after)
        """The last completed step, behind the full step that it rests on if it is an increment."""
        self._closed = False
        self._unfinished = False
        """A step was left before its end: by Ctrl-C, or an exception of a callback."""
        self.recoveries = 0
        """How often the run was rebuilt: the device was lost, or a step left before its end."""
        self._link = device.link
        self._run = ""
        self._seq = 0
        self.started = self._surviving(self._begin)

    @property
    def spec(self) -> m.RunSpec:
        """The run's settings with the device's defaults filled in."""
        return self.started.spec

    @property
    def weights_digest(self) -> str:
        """Identity of all constants, names and bytes."""
        return _digest_of_keys(self._keys)

    def step(
        self,
        step: int,
        inputs: Mapping[str, Array],
        *,
        observe: m.Observe = "none",
        timed: bool = True,
        on_layer: OnLayer | None = None,
        on_value: OnValue | None = None,
    ) -> StepReply:
        """Run one step; blocks. Callbacks run in this thread, while the device computes.

        Inputs are kept until the next step is done, in case it must be replayed: arrays marked read-only as
        they are, others as copies.
        """
        if self._closed:
            raise DittoError("the run is closed; open another one")
        if self._unfinished:
            self._abandon()
        kept = {name: array.copy() if array.flags.writeable else array for name, array in inputs.items()}
        seen = _Seen(on_layer, on_value)
        result = self._surviving(lambda: self._step(step, kept, observe, timed, seen))
        rests_on = self._done[:1] if self.program.step_class(step) == "increment" else []
        self._done = [*rests_on, Completed(step, kept, result.outputs, result.snapshot)]
        self._device.settled()
        return result

    def close(self) -> None:
        """Free the run on the device; a device that is gone has freed it already."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(LinkError, UnknownRunError):
            self._link.request(m.CloseRun(run=self._run, seq=self._next()), [])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- requests -------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _open(self) -> m.Started:
        self._link, self._run, self._seq = self._device.link, secrets.token_hex(8), 0
        link, limits = self._link, self._link.limits
        request = m.OpenRun(run=self._run, seq=0, spec=self._spec, constants=self._keys)
        opened, _ = link.request(request, [codec.encode_program(self.program)])
        assert isinstance(opened, m.Opened)
        uploads: deque[Pending] = deque()
        for pieces, frames in self._pieces(opened.missing, limits):
            put = m.PutTensors(run=self._run, seq=self._next(), pieces=pieces)
            uploads.append(link.begin(put, frames))
            while uploads and uploads[0].complete:
                link.finish(uploads.popleft())
        for upload in uploads:
            link.finish(upload)
        started, _ = link.request(m.Start(run=self._run, seq=self._next(), done_below=self._seq), [])
        assert isinstance(started, m.Started)
        return started

    def _pieces(
        self, missing: Sequence[str], limits: m.Limits
    ) -> Iterator[tuple[list[m.Piece], list[Buffer]]]:
        """Missing constants, gathered into requests of at most `chunk_bytes`; what is longer is cut."""
        by_digest = {key.digest: array_bytes(self._constants[name]) for name, key in self._keys.items()}
        most = min(limits.chunk_bytes, limits.frame_bytes)
        pieces: list[m.Piece] = []
        frames: list[Buffer] = []
        filled = 0
        for digest in missing:
            data = by_digest[digest]
            for offset in range(0, max(data.nbytes, 1), most):
                part = data[offset : offset + most]
                if frames and (filled + part.nbytes > most or len(frames) + 2 > limits.frames):
                    yield pieces, frames
                    pieces, frames, filled = [], [], 0
                pieces.append(m.Piece(digest=digest, offset=offset))
                frames.append(part)
                filled += part.nbytes
        if pieces:
            yield pieces, frames

    def _step(
        self, step: int, inputs: Mapping[str, Array], observe: m.Observe, timed: bool, seen: _Seen
    ) -> StepReply:
        headers, frames = to_frames(inputs)
        seq = self._next()
        request = m.Step(
            run=self._run, seq=seq, done_below=seq, step=step, inputs=headers, observe=observe, timed=timed
        )
        pending = self._link.begin(request, list(frames))
        self._unfinished = True
        try:
            reply, payload = self._link.finish(pending, seen.on_stream)
            self._unfinished = False
        finally:
            if isinstance(pending.reply, m.Error):
                self._unfinished = False
        assert isinstance(reply, m.StepDone)
        snapshot, tensors = bytes(payload[0]), payload[1:]
        count = len(reply.outputs)
        record = from_frames(reply.record, tensors[count:])
        return StepReply(
            step=reply.step,
            outputs=from_frames(reply.outputs, tensors[:count]),
            record=StepRecord.from_frames(record) if record else None,
            totals=reply.totals,
            snapshot=snapshot,
        )

    def _abandon(self) -> None:
        """Forget a step that was left before its end, on the device too: go back behind the last completed one."""
        with contextlib.suppress(LinkError, UnknownRunError):
            self._link.request(m.CloseRun(run=self._run, seq=self._next()), [])
        self._surviving(self._rebuild)

    # --- recovery -------------------------------------------------------------------------------------------

    def _surviving(self, work: Callable[[], T]) -> T:
        """The result of `work`, however often the device is lost meanwhile; `Device.revive` says when it is enough."""
        while True:
            try:
                return work()
            except (DeviceLostError, UnknownRunError) as error:
                if self._closed:
                    raise
                lost: Exception | None = error
            while lost is not None:
                self._device.revive(self._link, lost)
                try:
                    self._rebuild()
                    lost = None
                except (DeviceLostError, UnknownRunError) as error:
                    lost = error

    def _begin(self) -> m.Started:
        """Open the run, behind the last completed step if there is one."""
        started = self._open()
        self._unfinished = False
        for done in self._done:
            frame: list[Buffer] = [done.snapshot]
            self._link.request(m.Restore(run=self._run, seq=self._next()), frame)
            again = self._step(done.step, done.inputs, "none", False, _Seen(None, None))
            for name, array in again.outputs.items():
                if not np.array_equal(array, done.outputs[name], equal_nan=array.dtype.kind == "f"):
                    raise DeviceError(
                        f"recovery: step {done.step} replayed on the device gives another {name!r} than before, so the "
                        "run cannot go on. The device or its backend is not deterministic, or not the one that began."
                    )
        return started

    def _rebuild(self) -> None:
        began = time.monotonic()
        self.recoveries += 1
        self.started = self._begin()
        last = self._done[-1].step if self._done else None
        log.warning("run %s goes on after step %s (%.2f s)", self._run, last, time.monotonic() - began)


def weights_digest(constants: Mapping[str, Array]) -> str:
    """As `RemoteRun.weights_digest`, before a run is opened."""
    return _digest_of_keys({name: key_of(name, array) for name, array in constants.items()})


def _digest_of_keys(keys: Mapping[str, m.TensorKey]) -> str:
    return digest_of("".join(f"{name}:{keys[name].digest}\n" for name in sorted(keys)).encode())


class _Seen:
    """Passes on what a step streams, each layer and value once, whatever is repeated after a recovery."""

    def __init__(self, on_layer: OnLayer | None, on_value: OnValue | None) -> None:
        self._on_layer, self._on_value = on_layer, on_value
        self._layers: set[int] = set()
        self._values: set[int] = set()

    def on_stream(self, message: m.Stream, payload: Buffer | None) -> None:
        if isinstance(message, m.Reports):
            for report in message.reports:
                if report.layer not in self._layers:
                    self._layers.add(report.layer)
                    if self._on_layer is not None:
                        self._on_layer(report)
        elif message.value not in self._values:
            self._values.add(message.value)
            if self._on_value is not None and payload is not None:
                self._on_value(message.value, from_frame(message.tensor, payload))
