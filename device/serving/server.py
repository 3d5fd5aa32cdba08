"""The device process: one ROUTER socket, the sessions of its hosts, and their runs.

The loop never computes: it decodes, hands requests to runs' workers, and sends what they put into the outbox.
So a Pong comes back in milliseconds while every worker is busy. Hosts that fall silent lose their runs after
`limits.idle_s`. What this file does not do: execute anything (`run.py`), decide who may connect (wire
security is set up by `bind`).
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq

from ditto_cosim.device.core import ExecutorFactory
from ditto_cosim.device.serving.run import ServedRun
from ditto_cosim.device.serving.store import Store
from ditto_cosim.protocol import codec, security
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import DittoError, ProtocolError, QuotaError, RequestError, describe
from ditto_cosim.protocol.tensors import Buffer
from ditto_cosim.protocol.version import PROTOCOL_VERSION, check_peer, package_version, parameters_digest
from ditto_cosim.protocol.waker import Waker

log = logging.getLogger("ditto.device")

TICK_S = 0.1
COPY_BELOW_BYTES = 1 << 16
"""Shorter frames are cheaper to copy into the socket than to keep alive until it has sent them."""
CLOSED_RUNS_REMEMBERED = 4096
MESSAGES_TO_A_HOST = 100_000
"""More than a host's windows let come together; a host that asks and never reads is not sent more."""


@dataclass
class _Host:
    """A host that said Hello."""

    name: str
    stream_bytes: int
    heard_at: float
    runs: dict[str, ServedRun] = field(default_factory=dict)


class Server:
    """`serve` runs until `stop`; nothing else may be called from another thread."""

    def __init__(
        self,
        factory: ExecutorFactory,
        *,
        limits: m.Limits,
        defaults: m.RunSpec,
        backends: Sequence[str],
        parent_pid: int | None = None,
    ) -> None:
        self._factory, self._limits, self._defaults = factory, limits, defaults
        self._backends = sorted({*backends, defaults.backend})
        self._local = True
        self._parent_pid = parent_pid
        self._device = secrets.token_hex(8)
        self._store = Store(limits.store_bytes)
        self._hosts: dict[bytes, _Host] = {}
        self._closed: OrderedDict[str, bool] = OrderedDict()
        self._outbox: deque[tuple[bytes, codec.Frames]] = deque()
        self._gone: deque[ServedRun] = deque()
        self._alone_since = time.monotonic()
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._gate: security.Gate | None = None
        self._waker = Waker()

    def bind(self, address: str, keys: Path | None = None) -> str:
        """Listen; anything but ipc and loopback needs `keys`, a directory that `ditto keys` made."""
        security.check_address(address, keys)
        self._local = security.is_local(address)
        socket = self._socket
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.SNDHWM, MESSAGES_TO_A_HOST)
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.MAXMSGSIZE, max(self._limits.frame_bytes, self._limits.header_bytes))
        if address.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        if keys is not None:
            self._gate = security.Gate(self._context, socket, keys)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise DittoError(f"cannot listen on {address}: {error}. Is another device there?") from None
        bound: bytes = socket.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]  # bytes for this option
        return bound.rstrip(b"\0").decode()

    def stop(self) -> None:
        """Ask `serve` to end; safe from signal handlers and other threads."""
        self._stopping.set()
        self._waker.set()

    def serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waker.fd, zmq.POLLIN)
        tick_at = 0.0
        try:
            while not self._stopping.is_set():
                events = dict(poller.poll(int(TICK_S * 1000)))
                self._waker.clear()
                self._send_outbox()
                if self._socket in events:
                    for _ in range(64):
                        if not self._receive():
                            break
                if (now := time.monotonic()) >= tick_at:
                    tick_at = now + TICK_S
                    self._tick(now)
        finally:
            self._shut_down()

    # --- sockets --------------------------------------------------------------------------------------------

    def _post(self, identity: bytes, frames: codec.Frames) -> None:
        """Called by workers and by the loop alike."""
        self._outbox.append((identity, frames))
        self._waker.set()

    def _send_outbox(self) -> None:
        while self._outbox:
            identity, frames = self._outbox.popleft()
            try:
                self._socket.send(identity, zmq.NOBLOCK | zmq.SNDMORE)
                for i, frame in enumerate(frames):
                    copy = memoryview(frame).nbytes < COPY_BELOW_BYTES
                    more = zmq.SNDMORE if i + 1 < len(frames) else 0
                    self._socket.send(frame, zmq.NOBLOCK | more, copy=copy)
            except zmq.ZMQError as error:
                # The host is not connected at the moment. It queries for what it lacks when it comes back.
                log.debug("not sent", extra={"fields": {"host": identity.hex(), "why": str(error)}})

    def _receive(self) -> bool:
        """One message; False if there is none. Frames beyond the limit are dropped as they come."""
        frames: list[zmq.Frame] = []
        try:
            while True:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
                if len(frames) <= self._limits.frames + 1:
                    frames.append(frame)
                if not frame.more:
                    break
        except zmq.Again:
            return False
        identity = frames[0].bytes
        body: list[Buffer] = [f.buffer for f in frames[1:]]
        try:
            message = codec.decode_host(body, self._limits)
        except ProtocolError as error:
            self._refuse(identity, error)
            return True
        try:
            self._handle(identity, message, body[1:])
        except ProtocolError as error:
            self._refuse(identity, error)
        except Exception as error:
            log.exception("message failed", extra={"fields": {"host": identity.hex()}})
            self._refuse(identity, error, getattr(message, "run", ""), getattr(message, "seq", 0))
        return True

    def _refuse(self, identity: bytes, error: Exception, run: str = "", seq: int = 0) -> None:
        kind, text, state = describe(error)
        self._post(
            identity, codec.encode(m.Error(run=run, seq=seq, kind=kind, message=text[:65536], state=state))
        )

    # --- messages -------------------------------------------------------------------------------------------

    def _handle(self, identity: bytes, message: m.HostMessage, payload: list[Buffer]) -> None:
        if isinstance(message, m.Hello):
            self._hello(identity, message)
            return
        host = self._hosts.get(identity)
        if host is None:
            raise ProtocolError(f"{type(message).__name__} before Hello; greet this device first")
        host.heard_at = time.monotonic()
        match message:
            case m.Ping():
                progress = [run.progress() for run in host.runs.values()]
                self._post(
                    identity,
                    codec.encode(m.Pong(token=message.token, device=self._device, progress=progress)),
                )
            case m.Ack():
                if run := host.runs.get(message.run):
                    run.acknowledge(message.seq, message.received)
            case m.Query():
                run = host.runs.get(message.run)
                if run is None or not run.query(message.seq, message.received):
                    self._post(identity, codec.encode(m.Missing(run=message.run, seq=message.seq)))
            case m.Bye():
                self._drop_host(identity, "said Bye")
            case _:
                self._request(identity, host, message, payload)

    def _hello(self, identity: bytes, hello: m.Hello) -> None:
        try:
            check_peer("host", hello.protocol, hello.package, hello.parameters)
            if identity not in self._hosts and len(self._hosts) >= self._limits.sessions:
                raise QuotaError(
                    f"device serves {len(self._hosts)} hosts already, its limit; close one of them"
                )
        except DittoError as error:
            log.warning("host refused", extra={"fields": {"host": hello.host, "why": str(error)}})
            self._refuse(identity, error)
            return
        if identity not in self._hosts:
            self._hosts[identity] = _Host(hello.host, hello.stream_bytes, time.monotonic())
            log.info("host connected", extra={"fields": {"host": hello.host}})
        welcome = m.Welcome(
            protocol=PROTOCOL_VERSION,
            package=package_version(),
            parameters=parameters_digest(),
            device=self._device,
            backends=self._backends,
            limits=self._limits,
        )
        self._post(identity, codec.encode(welcome))

    def _request(self, identity: bytes, host: _Host, request: m.Request, payload: list[Buffer]) -> None:
        self._forget_closed_runs()
        run = host.runs.get(request.run)
        if run is None and isinstance(request, m.OpenRun) and request.run not in self._closed:
            run = self._open(identity, host, request)
        if run is not None:
            run.submit(request, payload)
        elif isinstance(request, m.CloseRun):
            self._post(identity, codec.encode(m.Closed(run=request.run, seq=request.seq)))
        elif not isinstance(request, m.OpenRun) or request.run in self._closed:
            kind, where = "UnknownRunError", f"{type(request).__name__} {request.seq}"
            text = (
                f"{where}: device {self._device} holds no run {request.run!r}. "
                f"It was closed, freed after {self._limits.idle_s:g} s of silence, or lost with a restart."
            )
            self._post(
                identity, codec.encode(m.Error(run=request.run, seq=request.seq, kind=kind, message=text))
            )

    def _open(self, identity: bytes, host: _Host, request: m.OpenRun) -> ServedRun | None:
        if any(request.run in other.runs for other in self._hosts.values()):
            self._refuse(
                identity,
                ProtocolError(f"run {request.run!r} belongs to another host"),
                request.run,
                request.seq,
            )
            return None
        if sum(len(other.runs) for other in self._hosts.values()) >= self._limits.runs:
            error = QuotaError(f"device holds {self._limits.runs} runs, its limit; close one of them")
            self._refuse(identity, error, request.run, request.seq)
            return None
        run = ServedRun(
            request.run,
            identity,
            limits=self._limits,
            stream_bytes=host.stream_bytes,
            store=self._store,
            factory=self._factory,
            settle=self._settle,
            send=lambda frames: self._post(identity, frames),
            on_closed=self._gone.append,
        )
        host.runs[request.run] = run
        return run

    def _settle(self, spec: m.RunSpec) -> m.RunSpec:
        """Fill in defaults, and refuse names through which a host could make this device load code or read
        files."""
        defaults = self._defaults
        spec = msgspec.structs.replace(
            spec,
            backend=spec.backend or defaults.backend,
            chip=spec.chip or defaults.chip,
            design=spec.design or defaults.design,
        )
        for name in (spec.backend, spec.cross_check, "rtl" if spec.rtl_layers else ""):
            if name and name not in self._backends:
                raise RequestError(
                    f"backend {name!r} is not offered by this device, which has {', '.join(self._backends)}. "
                    "Start it with `ditto device --offer module:Class` to add one."
                )
        if not self._local and spec.chip != defaults.chip and not spec.chip.isidentifier():
            raise RequestError(
                f"chip {spec.chip!r} is a path; a device on another machine takes the names of its presets. "
                "Start it with `ditto device --chip PATH` to use a chip of your own there."
            )
        return spec

    # --- time -----------------------------------------------------------------------------------------------

    def _forget_closed_runs(self) -> None:
        while self._gone:
            run = self._gone.popleft()
            if host := self._hosts.get(run.owner):
                host.runs.pop(run.run, None)
            self._closed[run.run] = True
            if len(self._closed) > CLOSED_RUNS_REMEMBERED:
                self._closed.popitem(last=False)

    def _tick(self, now: float) -> None:
        self._forget_closed_runs()
        if self._hosts:
            self._alone_since = now
        elif now - self._alone_since > self._limits.idle_s:
            self._store.clear()
            self._alone_since = now
        for identity, host in list(self._hosts.items()):
            for run in host.runs.values():
                run.flush()
            if now - host.heard_at > self._limits.idle_s:
                self._drop_host(identity, f"silent for {self._limits.idle_s:g} s")
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            log.warning("parent process is gone", extra={"fields": {"parent": self._parent_pid}})
            self._stopping.set()

    def _drop_host(self, identity: bytes, why: str) -> None:
        host = self._hosts.pop(identity, None)
        if host is None:
            return
        log.info("host dropped", extra={"fields": {"host": host.name, "why": why, "runs": len(host.runs)}})
        for run in host.runs.values():
            run.abandon()

    def _shut_down(self) -> None:
        runs = [run for host in self._hosts.values() for run in host.runs.values()]
        for run in runs:
            run.stop()
        deadline = time.monotonic() + 3.0
        stuck = [run.run for run in runs if not run.join(max(0.0, deadline - time.monotonic()))]
        self._send_outbox()
        if self._gate is not None:
            self._gate.close()
        self._socket.close()
        self._waker.close()
        if stuck:
            log.warning("runs did not stop", extra={"fields": {"runs": stuck}})
        else:
            self._context.term()
        log.info("device stops", extra={"fields": {"hosts": len(self._hosts)}})
