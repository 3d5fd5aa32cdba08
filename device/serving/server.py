# SPDX-License-Identifier: Apache-2.0
"""The server behind the front: one ROUTER socket, its hosts, and their runs. Each host has a process with one of these.

The loop never computes: it decodes, hands requests to runs' workers, and sends what they put into the outbox.
So a Pong comes back in milliseconds while every worker is busy. What a host claims is held against `limits` here: how much
it may have unanswered, how much is kept for it, how long a product may take. Hosts that fall silent lose their runs after
`limits.idle_s`. What this file does not do: execute anything (`run.py`), decide who may connect (`front.py`).
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import zmq

from ditto_cosim.device.core import ExecutorFactory
from ditto_cosim.device.serving.run import ServedRun
from ditto_cosim.device.serving.store import Store
from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    DamagedError,
    DittoError,
    LimitError,
    ProtocolError,
    QuotaError,
    RequestError,
    describe,
)
from ditto_cosim.protocol.loop import REAL, Loop, World
from ditto_cosim.protocol.tensors import Buffer
from ditto_cosim.protocol.version import PROTOCOL_VERSION, check_peer, package_version, parameters_digest

log = logging.getLogger("ditto.device")

CLOSED_RUNS_REMEMBERED = 4096
GREET_S = 10.0
"""A worker whose host does not greet it ends."""
MESSAGES_TO_A_HOST = 100_000
"""More than a host's windows let come together; a host that asks and never reads is not sent more."""
MESSAGES_FROM_A_HOST = 1000
"""Read ahead of the loop; then the host's own socket holds them."""


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
        local: bool = True,
        alone: bool = False,
        on_beat: Callable[[float, float, int], None] = lambda now, heard_at, runs: None,
        on_doing: Callable[[str], None] = lambda what: None,
        world: World = REAL,
    ) -> None:
        self._factory, self._limits, self._defaults = factory, limits, defaults
        self._backends = sorted({*backends, defaults.backend})
        self._local, self._alone, self._world = local, alone, world
        self._on_beat, self._on_doing = on_beat, on_doing
        self._device = secrets.token_hex(8)
        self._store = Store(limits.store_bytes)
        self._hosts: dict[bytes, _Host] = {}
        self._closed: OrderedDict[str, bool] = OrderedDict()
        self._gone: deque[ServedRun] = deque()
        self._alone_since = world.now()
        self._stuck = 0
        self._sockets = world.sockets()
        self._socket = self._sockets.router(
            max(limits.frame_bytes, limits.header_bytes), MESSAGES_TO_A_HOST, MESSAGES_FROM_A_HOST
        )
        self._loop = Loop(world, self._tick)

    def bind(self, address: str) -> str:
        """Listen where the front, or a test, can reach this server."""
        try:
            return self._socket.bind(address)
        except zmq.ZMQError as error:
            raise DittoError(f"cannot listen on {address}: {error}. Is another device there?") from None

    def stop(self) -> None:
        """Ask `serve` to end; safe from signal handlers and other threads."""
        self._loop.stop()

    def serve(self) -> None:
        self._loop.watch(self._socket, self._receive, self._limits.frames)
        try:
            self._loop.run()
        finally:
            self._shut_down()

    # --- sockets --------------------------------------------------------------------------------------------

    def _post(self, identity: bytes, frames: codec.Frames) -> None:
        """Called by workers and by the loop alike. A host that is not connected queries for what it lacks when it is."""
        self._loop.post(self._socket, [identity, *frames])

    def _receive(self, frames: list[zmq.Frame]) -> None:
        identity = frames[0].bytes
        body: list[Buffer] = [f.buffer for f in frames[1:]]
        try:
            message = codec.decode_host(body, self._limits)
        except DamagedError as error:
            self._ask_again(identity, error)
            return
        except ProtocolError as error:
            self._refuse(identity, error)
            return
        try:
            self._handle(identity, message, body[1:])
        except ProtocolError as error:
            self._refuse(identity, error, getattr(message, "run", ""), getattr(message, "seq", 0))
        except Exception as error:
            log.exception("message failed", extra={"fields": {"host": identity.hex()}})
            self._refuse(identity, error, getattr(message, "run", ""), getattr(message, "seq", 0))

    def _ask_again(self, identity: bytes, error: DamagedError) -> None:
        """A message that was damaged on the way counts as lost. Of a request whose header is whole, the host learns which."""
        meant = error.meant
        log.warning("damaged", extra={"fields": {"host": identity.hex(), "what": type(meant).__name__}})
        host = self._hosts.get(identity)
        if host is not None and isinstance(meant, m.Request):
            self._post(identity, codec.encode(m.Missing(run=meant.run, seq=meant.seq)))
        else:
            self._refuse(identity, error)

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
            # Not an answer to its request, which it sends again when it has greeted.
            self._refuse(
                identity, ProtocolError(f"{type(message).__name__} before Hello; greet this device first")
            )
            return
        host.heard_at = self._world.now()
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
            stream_bytes = min(hello.stream_bytes, self._limits.stream_bytes)
            self._hosts[identity] = _Host(hello.host, stream_bytes, self._world.now())
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
            self._check_window(host, request)
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

    def _check_window(self, host: _Host, request: m.Request) -> None:
        """What a host that keeps to its window never meets."""
        owed = [run.owed for run in host.runs.values()]
        count, nbytes = sum(c for c, _ in owed), sum(b for _, b in owed)
        if isinstance(request, m.CloseRun):
            return
        if count >= self._limits.window_requests or nbytes > self._limits.window_bytes:
            raise LimitError(
                f"{count} requests of {nbytes} bytes are unanswered; the window is "
                f"{self._limits.window_requests} requests and {self._limits.window_bytes} bytes"
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
            on_doing=self._on_doing,
            world=self._world,
        )
        host.runs[request.run] = run
        return run

    def _settle(self, spec: m.RunSpec) -> m.RunSpec:
        """Fill in defaults, and refuse names through which a host could make this device load code or read files."""
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
        heard_at = max((host.heard_at for host in self._hosts.values()), default=self._alone_since)
        self._on_beat(now, heard_at, sum(len(host.runs) for host in self._hosts.values()))
        if self._hosts:
            self._alone_since = now
        elif self._alone and now - self._alone_since > min(GREET_S, self._limits.idle_s):
            self._loop.stop()
        elif now - self._alone_since > self._limits.idle_s:
            self._store.clear()
            self._alone_since = now
        for identity, host in list(self._hosts.items()):
            for run in host.runs.values():
                run.flush()
                if run.overdue(now):
                    self._stuck += 1
            if now - host.heard_at > self._limits.idle_s:
                self._drop_host(identity, f"silent for {self._limits.idle_s:g} s")

    def _drop_host(self, identity: bytes, why: str) -> None:
        host = self._hosts.pop(identity, None)
        if host is None:
            return
        log.info("host dropped", extra={"fields": {"host": host.name, "why": why, "runs": len(host.runs)}})
        self._store.forget(identity)
        for run in host.runs.values():
            run.abandon()
        if self._alone and not self._hosts:
            self._loop.stop()

    def _shut_down(self) -> None:
        runs = [run for host in self._hosts.values() for run in host.runs.values()]
        for run in runs:
            run.stop()
        deadline = self._world.now() + 3.0
        stuck = [run.run for run in runs if not run.join(max(0.0, deadline - self._world.now()))]
        self._loop.flush()
        self._socket.close()
        self._loop.close()
        if stuck or self._stuck:
            log.warning("runs did not stop", extra={"fields": {"runs": stuck}})
        self._sockets.close(wait=not stuck and not self._stuck)
        log.info("server stops", extra={"fields": {"hosts": len(self._hosts)}})
