# SPDX-License-Identifier: Apache-2.0
"""A network, processes and a clock that a seed decides: link, client, server, front and supervisor as they are, in one thread.

    outcome = simulate(seed)          # replays the same interleaving of everything, every time

Threads are greenlets that run until they wait; who goes on, when, is drawn. Messages are lost, doubled, late and overtaken;
workers, devices and hosts are killed and frozen. The machine behind the server computes sums over what it was given, and its
cycles depend on the step before, so that a lost, repeated or forgotten step shows. `COVERED` collects which edges of the
session diagram (`protocol/SPEC.md`) a run of seeds has taken. What this file does not do: sockets of the system, time.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import heapq
import itertools
import logging
import random
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet

from ditto_cosim.device.core import StepResult
from ditto_cosim.device.serving.front import Front
from ditto_cosim.device.serving.nursery import WHERE, Beat, Birth, Death, Slate
from ditto_cosim.device.serving.server import Server
from ditto_cosim.host.wire.client import Device, RemoteRun
from ditto_cosim.host.wire.link import Link
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol import codec, security
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import DamagedError, DeviceLostError, LinkError
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.loop import World
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import StepRecord

STEPS = 5
LAYERS = 3
LIMIT_S = 3000.0
"""Virtual seconds in which a seed must have come to its end."""
COVERED: Counter[str] = Counter()

LIMITS = msgspec.structs.replace(m.Limits(), chunk_bytes=64, idle_s=10.0)


# --- the simulator --------------------------------------------------------------------------------------------


class Simulation:
    """Time, and what happens next."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.network = Network(self)
        self.fds: dict[int, Callable[[], bool]] = {}
        self._events: list[tuple[float, float, int, Callable[[], object]]] = []
        self._ticket = itertools.count()
        self._hub = getcurrent()
        self.processes: list[Process] = []

    def at(self, delay_s: float, happen: Callable[[], object]) -> None:
        """Things at one time happen in an order that is drawn."""
        heapq.heappush(self._events, (self.now + delay_s, self.rng.random(), next(self._ticket), happen))

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            if not self._events:
                raise AssertionError(f"dead lock at {self.now:.3f} s: nobody waits for the time any more")
            self.now, _, _, happen = heapq.heappop(self._events)
            if self.now > LIMIT_S:
                raise AssertionError(f"not over after {LIMIT_S:g} virtual seconds")
            happen()

    def out(self) -> None:
        """The running thread gives the others their turn."""
        self._hub.switch()

    def end(self) -> None:
        for process in self.processes:
            process.dead = True
            for thread in process.threads:
                if thread.body and not thread.body.dead:
                    with contextlib.suppress(GreenletExit, Exception):
                        thread.body.throw(GreenletExit)


@dataclass
class Process:
    """What dies together."""

    sim: Simulation
    name: str
    dead: bool = False
    thaws_at: float = 0.0
    threads: list[SimThread] = field(default_factory=list)
    sockets: list[SimSocket] = field(default_factory=list)
    children: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sim.processes.append(self)
        self.world = SimWorld(self)

    def kill(self) -> None:
        """kill -9: nobody in it runs another line. Its children notice soon."""
        if not self.dead:
            self.dead = True
            for socket in self.sockets:
                self.sim.network.close(socket)
            for child in self.children:
                self.sim.at(self.sim.rng.random() * 0.2, child.kill)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, SIGCONT; the longer of two counts."""
        self.thaws_at = max(self.thaws_at, self.sim.now + seconds)


class Token:
    """One wait: fires once, by whoever it waits for or by the time."""

    def __init__(self, thread: SimThread) -> None:
        self.thread, self.fired = thread, False

    def fire(self) -> None:
        if not self.fired:
            self.fired = True
            sim = self.thread.process.sim
            sim.at(sim.rng.random() * 0.0005, self.thread.go_on)


class SimThread:
    """A greenlet of a process."""

    def __init__(self, process: Process, target: Callable[[], None], name: str) -> None:
        self.process, self.name = process, name
        self.over = False
        self._joining: list[Token] = []
        self.error: BaseException | None = None

        def body() -> None:
            try:
                target()
            except GreenletExit:
                pass
            except BaseException as error:
                self.error = error
                raise
            finally:
                self.over = True
                for token in self._joining:
                    token.fire()

        self.body = greenlet(body, parent=process.sim._hub)
        self.body.thread = self  # a mark of ours
        process.threads.append(self)
        process.sim.at(process.sim.rng.random() * 0.001, self.go_on)

    def go_on(self) -> None:
        process = self.process
        if process.dead or self.over:
            return
        if process.thaws_at > process.sim.now:
            process.sim.at(process.thaws_at - process.sim.now, self.go_on)
            return
        self.body.switch()

    def is_alive(self) -> bool:
        return not self.over

    def join(self, timeout: float | None = None) -> None:
        if not self.over and not self.process.dead:
            self.process.world.block(self._joining, timeout)


class SimWorld(World):
    """What a process of the simulation sees of it."""

    def __init__(self, process: Process) -> None:
        self._process, self._sim = process, process.sim

    def now(self) -> float:
        return self._sim.now

    def condition(self) -> SimCondition:  # type: ignore[override]
        return SimCondition(self)

    def lock(self) -> SimCondition:  # type: ignore[override]
        return SimCondition(self)

    def mailbox(self) -> SimMailbox:  # type: ignore[override]
        return SimMailbox(self)

    def waits(self) -> SimWaits:  # type: ignore[override]
        return SimWaits(self)

    def sockets(self) -> SimSockets:  # type: ignore[override]
        return SimSockets(self._process)

    def thread(self, target: Callable[[], None], name: str) -> SimThread:  # type: ignore[override]
        return SimThread(self._process, target, name)

    def running(self) -> object:
        return getattr(getcurrent(), "thread", None)

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        self.block([], seconds)

    def block(self, waiting: list[Token], timeout_s: float | None) -> None:
        """The running thread waits until one of `waiting` is fired, or the time is over."""
        if self._process.dead:
            raise GreenletExit
        token = Token(self.running())  # type: ignore[arg-type]  # only threads of ours wait
        waiting.append(token)
        if timeout_s is not None:
            self._sim.at(timeout_s, token.fire)
        self._sim.out()
        if token in waiting:
            waiting.remove(token)

    def pause(self) -> None:
        """Now and then somebody else goes on first."""
        if not self._process.dead and self.running() is not None and self._sim.rng.random() < 0.05:
            self.block([], self._sim.rng.random() * 0.002)


class SimCondition:
    """Lock and condition: held by the running thread, and a chance for others when it is given back."""

    def __init__(self, world: SimWorld) -> None:
        self._world, self._depth = world, 0
        self._owner: object = None
        self._waiting: list[Token] = []
        self._entering: list[Token] = []

    def __enter__(self) -> SimCondition:
        me = self._world.running()
        while self._depth and self._owner is not me and not self._world._process.dead:
            self._world.block(self._entering, None)
        self._owner, self._depth = me, self._depth + 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            if self._entering:
                self._entering[0].fire()
            self._world.pause()

    def wait(self, timeout: float | None = None) -> None:
        depth, self._depth, me, self._owner = self._depth, 0, self._owner, None
        if self._entering:
            self._entering[0].fire()
        self._world.block(self._waiting, timeout)
        while self._depth and not self._world._process.dead:
            self._world.block(self._entering, None)
        self._depth, self._owner = depth, me

    def notify_all(self) -> None:
        for token in self._waiting:
            token.fire()


class SimMailbox:
    """`queue.SimpleQueue`."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._items: deque[Any] = deque()
        self._waiting: list[Token] = []

    def put(self, item: Any) -> None:
        self._items.append(item)
        for token in self._waiting:
            token.fire()

    def get(self) -> Any:
        while not self._items:
            self._world.block(self._waiting, None)
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class SimWaits:
    """`loop.Waits`."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._sources: dict[Any, None] = {}
        self._woken = False
        self._waiting: list[Token] = []

    def add(self, source: Any) -> None:
        self._sources[source] = None
        if isinstance(source, SimSocket):
            source.waits = self
        else:
            self._world._sim.fds[source] = self.wake  # type: ignore[assignment]  # whoever fills it wakes us

    def remove(self, source: Any) -> None:
        self._sources.pop(source, None)

    def wake(self) -> None:
        self._woken = True
        for token in self._waiting:
            token.fire()

    def wait(self, timeout_s: float) -> list[Any]:
        if not self._woken:
            self._world.block(self._waiting, timeout_s)
        self._woken = False
        return [s for s in self._sources if not isinstance(s, SimSocket) or s.inbox]

    def close(self) -> None:
        self._sources.clear()


# --- the network ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faults:
    """Chances per message."""

    lose: float = 0.0
    double: float = 0.0
    late: float = 0.0
    late_most_s: float = 0.0
    damage: float = 0.0
    """One bit of one frame turned."""


@dataclass(frozen=True)
class SimFrame:
    """`zmq.Frame`."""

    bytes: bytes

    @property
    def buffer(self) -> memoryview:
        return memoryview(self.bytes)

    def __len__(self) -> int:
        return len(self.bytes)


class SimSocket:
    """`loop.Socket`."""

    def __init__(self, process: Process, identity: bytes | None) -> None:
        self.process, self.identity = process, identity
        self.inbox: deque[list[SimFrame]] = deque()
        self.waits: SimWaits | None = None
        self.addresses: list[str] = []
        self.closed = False
        process.sockets.append(self)

    def connect(self, address: str) -> None:
        self.addresses.append(address)

    def disconnect(self, address: str) -> None:
        self.addresses.remove(address)

    def bind(self, address: str) -> str:
        self.process.sim.network.bound[address] = self
        return address

    def unbind(self, address: str) -> None:
        if self.process.sim.network.bound.get(address) is self:
            del self.process.sim.network.bound[address]

    def receive(self, most_frames: int) -> list[SimFrame] | None:
        return self.inbox.popleft()[: most_frames + 1] if self.inbox else None

    def send(self, frames: Sequence[Any]) -> bool:
        if self.closed or self.process.dead:
            return False
        body = [f if isinstance(f, SimFrame) else SimFrame(bytes(f)) for f in frames]
        return self.process.sim.network.send(self, body)

    def close(self) -> None:
        self.process.sim.network.close(self)


class SimSockets:
    """`loop.Sockets`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def dealer(self, identity: bytes, address: str = "") -> SimSocket:
        socket = SimSocket(self._process, identity)
        self._process.sim.network.dealers.setdefault(identity, []).append(socket)
        return socket

    def router(self, *_: object) -> SimSocket:
        return SimSocket(self._process, None)

    def close(self, wait: bool = True) -> None:
        pass


class Network:
    """Carries messages, badly."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self.faults = Faults()
        self.bound: dict[str, SimSocket] = {}
        self.dealers: dict[bytes, list[SimSocket]] = {}
        self.watch: Callable[[bool, list[SimFrame]], None] = lambda up, frames: None

    def close(self, socket: SimSocket) -> None:
        socket.closed = True
        for address in [a for a, s in self.bound.items() if s is socket]:
            del self.bound[address]
        if socket.identity is not None:
            self.dealers[socket.identity] = [s for s in self.dealers[socket.identity] if s is not socket]

    def send(self, source: SimSocket, frames: list[SimFrame]) -> bool:
        if source.identity is not None:
            if source.addresses:
                address = source.addresses[-1]
                self._carry(frames, lambda came: self._up(source, address, came))
            return True
        target = self._connected(source, frames[0].bytes)
        if target is None:
            return False
        self._carry(frames[1:], lambda came: self._down(target, came))
        return True

    def _connected(self, router: SimSocket, identity: bytes) -> SimSocket | None:
        for dealer in self.dealers.get(identity, ()):
            if any(self.bound.get(address) is router for address in dealer.addresses):
                return dealer
        return None

    def _carry(self, frames: list[SimFrame], deliver: Callable[[list[SimFrame]], None]) -> None:
        rng, faults = self._sim.rng, self.faults
        if rng.random() < faults.lose:
            return
        for _ in range(2 if rng.random() < faults.double else 1):
            late_s = rng.random() * faults.late_most_s if rng.random() < faults.late else 0.0
            came = self._damaged(frames) if rng.random() < faults.damage else frames
            self._sim.at(0.0001 + rng.random() * 0.0004 + late_s, partial(deliver, came))

    def _damaged(self, frames: list[SimFrame]) -> list[SimFrame]:
        """A cable's error, or a memory's."""
        at = self._sim.rng.choice([i for i, frame in enumerate(frames) if len(frame)])
        data = bytearray(frames[at].bytes)
        data[self._sim.rng.randrange(len(data))] ^= 1 << self._sim.rng.randrange(8)
        return [*frames[:at], SimFrame(bytes(data)), *frames[at + 1 :]]

    def _up(self, source: SimSocket, address: str, frames: list[SimFrame], tries: int = 0) -> None:
        router = self.bound.get(address)
        if router is not None:
            assert source.identity is not None
            self.watch(True, frames)
            self._arrive(router, [SimFrame(source.identity), *frames])
        elif tries < 5 and not source.closed:  # as a socket that is not connected keeps what it is given
            self._sim.at(0.05, lambda: self._up(source, address, frames, tries + 1))

    def _down(self, target: SimSocket, frames: list[SimFrame]) -> None:
        self.watch(False, frames)
        self._arrive(target, frames)

    def _arrive(self, socket: SimSocket, frames: list[SimFrame]) -> None:
        if not socket.closed:
            socket.inbox.append(frames)
            if socket.waits is not None:
                socket.waits.wake()


# --- the machine, and what it must give -----------------------------------------------------------------------


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "little")


def outputs_of(constants: Mapping[str, Any], step: int, x: Any) -> Any:
    return (x * 3 + step + sum(int(c.sum()) for c in constants.values())).astype(np.float32)


def cycles_of(previous: Any, x: Any) -> int:
    """As temporal state does: the step before matters."""
    return digest(None if previous is None else previous.tobytes(), x.tobytes()) % 100_000


class SumMachine:
    """Deterministic, with state, and slow: see the file's header."""

    geometry_digest = "0" * 16
    measures = False
    state_bytes = 8
    tell: Any = None

    def __init__(self, world: SimWorld, constants: Mapping[str, Any]) -> None:
        self.facts: dict[str, str | int] = {}
        self._world, self._constants = world, constants
        self._previous: Any = None
        self._at = -1
        self._totals = {"cycles": 0, "steps": 0}

    def step(self, step: int, inputs: Mapping[str, Any], **how: Any) -> StepResult:
        x = inputs["x"]
        if how["timed"]:
            assert step == self._at + 1, f"step {step} behind step {self._at}"
        cycles = cycles_of(self._previous, x)
        for layer in range(LAYERS):
            self._world.sleep(self._world._sim.rng.choice((0.0, 0.001, 0.05, 0.8)))
            if how["observe"] == "all":
                how["on_value"](layer, (x + layer).astype(np.float32))
            if how["timed"]:
                report = m.LayerReport(step=step, layer=layer, name=f"l{layer}", op="conv2d", mode="temporal")
                how["on_layer"](report)
        self._previous, self._at = x, step
        outputs = {"y": outputs_of(self._constants, step, x)}
        if not how["timed"]:
            return StepResult(outputs)
        self._totals = {"cycles": self._totals["cycles"] + cycles, "steps": self._totals["steps"] + 1}
        return StepResult(outputs, StepRecord(step, (), cycles), dict(self._totals))

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._totals)

    def restore(self, blob: bytes) -> None:
        self._totals = msgspec.msgpack.decode(blob)

    def close(self) -> None:
        pass


def program_of() -> Program:
    spec = TensorSpec((4,), "f32")
    values = (spec, TensorSpec((100,), "f32"), TensorSpec((7,), "f32"), spec)
    relu = Command("relu", "r", (0,), (3,))
    return Program(values, {"x": 0}, frozenset(), {"w": 1, "b": 2}, {"y": 3}, (relu,))


PROGRAM = program_of()


@dataclass
class Given:
    """What a host was given."""

    outputs: list[bytes] = field(default_factory=list)
    totals: list[dict[str, int]] = field(default_factory=list)
    cycles: list[int | None] = field(default_factory=list)
    layers: list[tuple[int, int]] = field(default_factory=list)
    values: list[tuple[int, bytes]] = field(default_factory=list)


def inputs_of(host: int, step: int) -> dict[str, Any]:
    return {"x": np.array([host, step, host * step, 1.5], np.float32)}


def constants_of(host: int) -> dict[str, Any]:
    return {"w": np.arange(100, dtype=np.float32) + host, "b": np.full(7, 2.0, np.float32)}


def expected_of(host: int) -> Given:
    given, total, previous = Given(), 0, None
    for step in range(STEPS):
        x = inputs_of(host, step)["x"]
        cycles = cycles_of(previous, x)
        total, previous = total + cycles, x
        given.outputs.append(outputs_of(constants_of(host), step, x).tobytes())
        given.totals.append({"cycles": total, "steps": step + 1})
        given.cycles.append(cycles)
        given.layers += [(step, layer) for layer in range(LAYERS)]
        given.values += [(layer, (x + layer).astype(np.float32).tobytes()) for layer in range(LAYERS)]
    return given


# --- devices --------------------------------------------------------------------------------------------------


class SimNursery:
    """`nursery.Nursery`: bears processes of the simulation."""

    _fds = itertools.count(10_000)

    def __init__(self, device: Process) -> None:
        self._device, self._sim = device, device.sim
        self.slate = Slate()
        self.fd = next(self._fds)
        self.workers: dict[int, tuple[Process, Server]] = {}
        self._deaths: list[Death] = []

    def bear(self, birth: Birth) -> None:
        worker = Process(self._sim, f"worker {birth.session} of {self._device.name}")
        self._device.children.append(worker)
        server = Server(
            lambda program, constants, spec: SumMachine(worker.world, constants),
            limits=LIMITS,
            defaults=m.RunSpec(backend="model"),
            backends=["model"],
            alone=True,
            on_beat=lambda *beat: self.slate.beat(birth.slot, Beat(*beat)),
            world=worker.world,
        )
        self.workers[birth.session] = worker, server

        def live() -> None:
            server.bind(birth.endpoint)
            server.serve()
            self._died(birth.session, 0)
            worker.dead = True

        self._sim.at(self._sim.rng.random() * 0.05, lambda: SimThread(worker, live, "worker"))

    def kill(self, session: int, number: int = 9) -> None:
        if session in self.workers and number != WHERE:
            worker, server = self.workers[session]
            if number == 9:
                self.crash(session)
            elif not worker.dead:
                server.stop()

    def crash(self, session: int) -> None:
        worker, _ = self.workers[session]
        if not worker.dead:
            worker.kill()
            self._died(session, -9)

    def _died(self, session: int, status: int) -> None:
        self._deaths.append(Death(session, status))
        if not self._device.dead and (wake := self._sim.fds.get(self.fd)) is not None:
            wake()

    def deaths(self) -> list[Death]:
        found, self._deaths = self._deaths, []
        return found

    def close(self) -> None:
        for worker, _ in self.workers.values():
            worker.kill()


class SimDeviceProcess:
    """`supervisor.DeviceProcess`: front, nursery and workers."""

    def __init__(self, sim: Simulation, address: str, name: str) -> None:
        self._sim, self.address = sim, address
        self.process = Process(sim, name)
        self.nursery = SimNursery(self.process)
        self._front = Front(self.nursery, LIMITS, world=self.process.world)  # type: ignore[arg-type]  # alike
        self._exit = ""

        def live() -> None:
            self._front.bind(address)
            self._front.serve()
            self._exit = "exit status 0"

        sim.at(sim.rng.random() * 0.3, lambda: SimThread(self.process, live, "front"))

    def ended(self) -> str:
        return self._exit or ("killed by signal 9" if self.process.dead else "")

    @property
    def ended_well(self) -> bool:
        return True

    def stop(self) -> None:
        self._front.stop()

    def kill(self) -> None:
        self.process.kill()


class _Elsewhere(Device):
    """A device that somebody else started, as `client.connect` gives it."""

    def __init__(self, world: SimWorld, address: str) -> None:
        self._world, self._address = world, address
        super().__init__(self._reconnect(), revivals=20)

    def _reconnect(self) -> Link:
        return Link(self._address, timeout_s=30.0, world=self._world)


# --- one seed -------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a seed ended."""

    seed: int
    seconds: float
    finished: int
    gave_up: list[str]
    recoveries: int
    events: Counter[str]


def simulate(seed: int, *, covers: bool = True) -> Outcome:
    """Runs one world to its end; raises AssertionError, naming the seed, if anything was not as it must be. Without `covers`
    nobody reads along, which is a quarter cheaper."""
    logging.disable(logging.CRITICAL)
    sim = Simulation(seed)
    try:
        with mock.patch.multiple(
            security, private_directory=lambda prefix: _SCRATCH / prefix, local_token=_no_token
        ):
            return _Scenario(sim, seed, covers).run()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        sim.end()
        logging.disable(logging.NOTSET)


_SCRATCH = Path(tempfile.mkdtemp(prefix="ditto-simulated-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)


def _no_token(make: bool = False) -> str:
    return ""


class _Scenario:
    """Hosts, devices and what befalls them, as the seed draws it."""

    def __init__(self, sim: Simulation, seed: int, covers: bool) -> None:
        self._sim, self._seed, rng = sim, seed, sim.rng
        self.events: Counter[str] = Counter()
        self._devices: list[SimDeviceProcess] = []
        self._local = rng.random() < 0.5
        self._hosts = 1 if self._local else rng.choice((1, 2))
        self._address = rng.choice(("ipc:///simulated/device", "tcp://127.0.0.1:5590"))
        """On ipc hosts talk to their workers, on tcp the front passes everything on."""
        self._given: dict[int, Given] = {}
        self._done: dict[int, str] = {}
        self._recoveries = 0
        self._host_processes: dict[int, Process] = {}
        self._supervisors: list[LocalDevice] = []
        self._tracker = _Tracker()
        if covers:
            sim.network.watch = self._tracker.saw
        sim.network.faults = rng.choice(
            (
                Faults(),
                Faults(lose=0.05),
                Faults(double=0.3),
                Faults(late=0.2, late_most_s=0.7),
                Faults(damage=0.05),
                Faults(lose=0.03, double=0.1, late=0.1, late_most_s=1.5),
            )
        )

    def run(self) -> Outcome:
        sim, rng = self._sim, self._sim.rng
        if not self._local:
            self._operate()
        for host in range(self._hosts):
            self._start_host(host)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            sim.at(rng.random() * 12.0, self._befall)
        sim.run(lambda: len(self._done) == self._hosts)
        for host, how in self._done.items():
            if how == "finished":
                _same(self._given[host], expected_of(host))
        self._check_freed()
        for supervisor in self._supervisors:
            atexit.unregister(supervisor.close)
        COVERED.update(self._tracker.edges)
        gave_up = [how for how in self._done.values() if how != "finished"]
        finished = len(self._done) - len(gave_up)
        return Outcome(self._seed, sim.now, finished, gave_up, self._recoveries, self.events)

    def _check_freed(self) -> None:
        """Hosts that have gone leave nothing behind, after the time that is stated."""
        until = self._sim.now + LIMITS.idle_s + 5.0
        self._sim.at(until - self._sim.now, lambda: None)
        self._sim.run(lambda: self._sim.now >= until)
        for device in self._devices:
            for worker, server in device.nursery.workers.values():
                frozen = worker.thaws_at > self._sim.now - 20 or device.process.thaws_at > self._sim.now - 20
                assert worker.dead or frozen, f"{worker.name} outlives its host"
                assert worker.dead or frozen or not server._hosts, (
                    f"{worker.name} keeps runs of a host that is gone"
                )

    # --- who there is -----------------------------------------------------------------------------------------

    def _launch(self, *_: object) -> SimDeviceProcess:
        number = len(self._devices)
        address = f"ipc:///simulated/device-{number}" if self._local else self._address
        device = SimDeviceProcess(self._sim, address, f"device {number}")
        self._devices.append(device)
        return device

    def _operate(self) -> None:
        """Somebody starts the device, and starts it again when it is gone."""
        device = self._launch()

        def look() -> None:
            if device.ended():
                self._operate()
            elif len(self._done) < self._hosts:
                self._sim.at(0.5, look)

        self._sim.at(0.5, look)

    def _start_host(self, host: int) -> None:
        process = self._host_processes[host] = Process(self._sim, f"host {host}")
        self._given[host] = given = Given()

        def live() -> None:
            try:
                device, run = self._open(process, host)
                for step in range(STEPS):
                    inputs = inputs_of(host, step)
                    inputs["x"].flags.writeable = False
                    reply = run.step(
                        step,
                        inputs,
                        observe="all",
                        on_layer=lambda r: given.layers.append((r.step, r.layer)),
                        on_value=lambda v, a: given.values.append((v, a.tobytes())),
                    )
                    given.outputs.append(reply.outputs["y"].tobytes())
                    given.totals.append(dict(reply.totals))
                    given.cycles.append(reply.record.charged_cycles if reply.record else None)
                run.close()
                device.close()
                self._recoveries += run.recoveries
                self._done[host] = "finished"
            except LinkError as error:
                self._done[host] = f"{type(error).__name__}: {error}"
                process.kill()

        SimThread(process, live, "main")

    def _open(self, process: Process, host: int) -> tuple[Device, RemoteRun]:
        """A user whom a device's death met while it was first greeted tries again."""
        for _ in range(4):
            with contextlib.suppress(LinkError):
                device = self._device_of(process)
                return device, device.open_run(PROGRAM, constants_of(host))
        raise DeviceLostError("in vain")

    def _device_of(self, process: Process) -> Device:
        if not self._local:
            return _Elsewhere(process.world, self._address)

        def launch(*_: object) -> SimDeviceProcess:
            device = self._launch()
            process.children.append(device.process)
            return device

        local = LocalDevice(restarts=20, start_s=30.0, launch=launch, world=process.world)  # type: ignore[arg-type]
        self._supervisors.append(local)
        return local

    # --- what befalls them ------------------------------------------------------------------------------------

    def _befall(self) -> None:
        rng = self._sim.rng
        device = self._devices[-1] if self._devices else None
        kind = rng.choice(
            ("worker", "worker", "device", "host", "freeze worker", "freeze device", "freeze host")
        )
        workers = [w for w in device.nursery.workers.items() if not w[1][0].dead] if device else []
        host = rng.randrange(self._hosts)
        if kind == "worker" and workers and device:
            device.nursery.crash(rng.choice(workers)[0])
        elif kind == "device" and device:
            device.kill()
        elif kind == "host" and host not in self._done and not self._host_processes[host].dead:
            self._host_processes[host].kill()
            self._sim.at(rng.random() * 2.0, lambda: self._start_host(host))
        elif kind == "freeze worker" and workers:
            rng.choice(workers)[1][0].freeze(rng.choice((0.3, 3.0, 20.0)))
        elif kind == "freeze device" and device:
            device.process.freeze(rng.choice((0.3, 3.0, 20.0)))
        elif kind == "freeze host" and host not in self._done:
            self._host_processes[host].freeze(rng.choice((0.3, 3.0, 20.0)))
        else:
            return
        self.events[kind] += 1


def _same(given: Given, expected: Given) -> None:
    for what in ("outputs", "totals", "cycles", "layers", "values"):
        got, right = getattr(given, what), getattr(expected, what)
        assert got == right, f"{what} differ: {got} instead of {right}"


# --- the session diagram --------------------------------------------------------------------------------------

EDGES = (
    *(
        "host: Hello",
        "host: greeted again",
        "host: Moved",
        "host: Welcome",
        "host: forgotten",
        "host: crashed",
        "host: Bye",
    ),
    *(
        "run: opened",
        "run: uploaded",
        "run: started",
        "run: stepped",
        "run: restored",
        "run: closed",
    ),
    *(
        "request: repeated",
        "request: missing",
        "request: queried",
        "request: answered",
        "request: answered again",
    ),
    *(
        "stream: reports",
        "stream: value",
        "stream: again",
        "stream: acked",
        "beat: ping",
        "beat: pong",
        "message: damaged",
    ),
)
"""Of the diagrams under *States* in SPEC.md, as they show on the wire."""


class _Tracker:
    """Which edges the messages of one simulation have taken."""

    def __init__(self) -> None:
        self.edges: Counter[str] = Counter()
        self._seen: set[tuple[object, ...]] = set()

    def saw(self, up: bool, frames: Iterable[SimFrame]) -> None:
        body = [f.bytes for f in frames]
        try:
            message: Any = codec.decode_host(body, LIMITS) if up else codec.decode_device(body, LIMITS)
        except DamagedError:
            self.edges["message: damaged"] += 1
            return
        for edge in self._edges(message):
            self.edges[edge] += 1

    def _first(self, *what: object) -> bool:
        if what in self._seen:
            return False
        self._seen.add(what)
        return True

    def _edges(self, message: Any) -> Iterable[str]:
        match message:
            case m.Hello():
                yield "host: Hello" if self._first("hello") else "host: greeted again"
            case m.Moved() | m.Welcome():
                yield f"host: {type(message).__name__}"
            case m.Bye():
                yield "host: Bye"
            case m.Ping():
                yield "beat: ping"
            case m.Pong():
                yield "beat: pong"
            case m.Ack():
                yield "stream: acked"
            case m.Query():
                yield "request: queried"
            case m.Missing():
                yield "request: missing"
            case m.Reports() | m.Observed():
                again = not self._first("stream", message.run, message.seq, message.index)
                yield (
                    "stream: again"
                    if again
                    else "stream: " + ("reports" if isinstance(message, m.Reports) else "value")
                )
            case m.Error(kind="CrashedError"):
                yield "host: crashed"
            case m.Error(run=""):
                yield "host: forgotten"
            case m.Opened() | m.Stored() | m.Started() | m.StepDone() | m.Restored() | m.Closed():
                told = {"Opened": "opened", "Stored": "uploaded", "Started": "started", "StepDone": "stepped"}
                told |= {"Restored": "restored", "Closed": "closed"}
                first = self._first("reply", message.run, message.seq)
                yield "request: answered" if first else "request: answered again"
                yield f"run: {told[type(message).__name__]}"
            case _ if isinstance(message, m.Request):
                if not self._first("request", message.run, message.seq):
                    yield "request: repeated"
