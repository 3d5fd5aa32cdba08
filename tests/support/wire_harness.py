# SPDX-License-Identifier: Apache-2.0
"""A device in a thread, a proxy that loses and muddles messages, machines that misbehave, and what a run gave."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import zmq

from ditto_cosim.device.core import StepResult
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.serving.server import Server
from ditto_cosim.host.wire.client import RemoteRun
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import WatchdogError
from support.wire_programs import Array, inputs_of

OFFERED = ["model", "rtl"]


@contextlib.contextmanager
def serving(address: str, *, factory: Callable[..., Any] = Machine, **limits: Any) -> Iterator[str]:
    """A device's server, without the front, in a thread of this process; gives the address it listens on."""
    server = Server(
        factory,
        limits=msgspec.structs.replace(m.Limits(), **limits),
        defaults=m.RunSpec(backend="model", chip="tiny", design="ditto"),
        backends=OFFERED,
    )
    bound = server.bind(address)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield bound
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


@dataclass
class Given:
    """Everything a run gave that must not depend on what happened to it."""

    outputs: list[dict[str, bytes]] = field(default_factory=list)
    records: list[dict[str, bytes]] = field(default_factory=list)
    totals: list[dict[str, int]] = field(default_factory=list)
    reports: list[m.LayerReport] = field(default_factory=list)
    values: list[tuple[int, bytes]] = field(default_factory=list)


def run_steps(
    run: RemoteRun,
    steps: int,
    *,
    observe: m.Observe = "none",
    on_layer: Callable[[m.LayerReport], None] | None = None,
) -> Given:
    given = Given()

    def layer(report: m.LayerReport) -> None:
        given.reports.append(report)
        if on_layer is not None:
            on_layer(report)

    for step in range(steps):
        result = run.step(
            step,
            inputs_of(run.program, step),
            observe=observe,
            on_layer=layer,
            on_value=lambda value, array: given.values.append((value, array.tobytes())),
        )
        assert result.record is not None
        given.outputs.append(_bytes(result.outputs))
        given.records.append(_bytes(result.record.to_frames()))
        given.totals.append(result.totals)
    return given


def _bytes(arrays: Mapping[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


@dataclass(frozen=True)
class Faults:
    """Chances per message, in each direction."""

    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    delay_most_s: float = 0.0
    """Delayed messages arrive up to so much later, so they are overtaken."""
    flip: float = 0.0
    """One bit of one frame is another when it arrives."""


class Proxy:
    """Between a host and a device, in a thread; every host keeps its identity."""

    def __init__(self, device: str, address: str, faults: Faults, seed: int) -> None:
        self._device, self._faults, self._rng = device, faults, random.Random(seed)
        self.counts = {"passed": 0, "lost": 0, "doubled": 0, "delayed": 0, "flipped": 0}
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.bind(address)
        self._back: dict[bytes, zmq.Socket[bytes]] = {}
        self._later: list[tuple[float, int, bool, bytes, list[bytes]]] = []
        self._ticket = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _loop(self) -> None:
        while not self._stop.is_set():
            poller = zmq.Poller()
            for each in (self._front, *self._back.values()):
                poller.register(each, zmq.POLLIN)
            ready = dict(poller.poll(2))
            if self._front in ready:
                identity, *frames = self._front.recv_multipart()
                if identity not in self._back:
                    back = self._context.socket(zmq.DEALER)
                    back.setsockopt(zmq.IDENTITY, identity)
                    back.connect(self._device)
                    self._back[identity] = back
                self._pass(True, identity, frames)
            for identity, back in self._back.items():
                if back in ready:
                    self._pass(False, identity, back.recv_multipart())
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, up, identity, frames = heapq.heappop(self._later)
                self._send(up, identity, frames)
        for each in (self._front, *self._back.values()):
            each.close(0)
        self._context.term()

    def _pass(self, up: bool, identity: bytes, frames: list[bytes]) -> None:
        faults, rng = self._faults, self._rng
        if rng.random() < faults.lose:
            self.counts["lost"] += 1
            return
        if rng.random() < faults.flip:
            self.counts["flipped"] += 1
            frames = flipped(rng, frames)
        copies = 1
        if rng.random() < faults.double:
            self.counts["doubled"] += 1
            copies = 2
        for _ in range(copies):
            if rng.random() < faults.delay:
                self.counts["delayed"] += 1
                due = time.monotonic() + rng.random() * faults.delay_most_s
                heapq.heappush(self._later, (due, next(self._ticket), up, identity, frames))
            else:
                self._send(up, identity, frames)

    def _send(self, up: bool, identity: bytes, frames: list[bytes]) -> None:
        self.counts["passed"] += 1
        if up:
            self._back[identity].send_multipart(frames)
        else:
            self._front.send_multipart([identity, *frames])


def flipped(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """The frames with one bit another, any bit with the same chance."""
    at = rng.randrange(sum(len(f) for f in frames))
    changed = []
    for frame in frames:
        if 0 <= at < len(frame):
            damaged = bytearray(frame)
            damaged[at] ^= 1 << rng.randrange(8)
            frame = bytes(damaged)
        at -= len(frame)
        changed.append(frame)
    return changed


class BadCable:
    """A TCP connection's bytes, passed on in a thread, with bits flipped: framing, headers and tensors alike."""

    def __init__(self, port: int, seed: int, per_mebibyte: float, spare_bytes: int = 0) -> None:
        self._port, self._rng = port, random.Random(seed)
        self._rate, self._spare = per_mebibyte / (1 << 20), spare_bytes
        self.flips = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._stop.set()
        for thread in list(self._threads):
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                continue
            for a, b in ((near, far), (far, near)):
                thread = threading.Thread(target=self._carry, args=(a, b), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        source.settimeout(0.1)
        carried = 0
        with contextlib.suppress(OSError), source, target:
            while not self._stop.is_set():
                try:
                    data = source.recv(1 << 16)
                except TimeoutError:
                    continue
                if not data:
                    return
                if carried > self._spare and self._rng.random() < len(data) * self._rate:
                    self.flips += 1
                    (data,) = flipped(self._rng, [data])
                carried += len(data)
                target.sendall(data)


class SlowMachine(Machine):
    """Takes `layer_s` seconds more for every layer."""

    layer_s = 0.2

    def step(self, step: int, inputs: Mapping[str, Array], **how: Any) -> StepResult:
        tell = how["on_layer"]

        def slowly(report: m.LayerReport) -> None:
            time.sleep(self.layer_s)
            tell(report)

        return super().step(step, inputs, **{**how, "on_layer": slowly})


class StuckBackend:
    """What a backend does whose watchdog found its hardware idle in the middle of a command."""

    name = "stuck"
    measures = True

    def __init__(self, chip: Any) -> None:
        self.geometry = chip.geometry

    def gemm(self, job: Any) -> Any:
        raise WatchdogError(
            f"layer {job.name!r}: lane 0 made no progress for 10000 cycles",
            state="encoder: WAIT_SLOTS\nrow: 3",
        )

    def close(self) -> None:
        pass


class WrongBackend:
    """The model with one accumulator off by one in layers called `*2*`."""

    name = "wrong"
    measures = False

    def __init__(self, chip: Any) -> None:
        from ditto_cosim.device.backends.model import ModelBackend

        self._model = ModelBackend(chip)
        self.geometry = chip.geometry

    def gemm(self, job: Any) -> Any:
        result = self._model.gemm(job)
        if "2" in job.name:
            result.accumulators[0, 1, 2] += np.int32(1)
        return result

    def close(self) -> None:
        pass


class DyingMachine(Machine):
    """Takes the whole process down in its first step, as a fault in foreign code does."""

    def step(self, step: int, inputs: Mapping[str, Array], **how: Any) -> StepResult:
        print("about to abort", file=sys.stderr, flush=True)
        os.abort()
