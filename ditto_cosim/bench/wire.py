# SPDX-License-Identifier: Apache-2.0
"""`ditto bench wire`: how much the wire costs.

Five questions, each between two processes over ipc:
  throughput   tensors of 64 B … 64 MiB streamed as inputs of steps, one to a request and as many as fill 4 MiB (at
               most 64), against raw pyzmq that sends the same tensors one way, unacknowledged, and drops them
  per command  a step of 125 commands that report as they finish, against the same machine called directly
  isolation    what a process for every host costs: a step's commands against the same server without the front, on ipc,
               where hosts talk to their own process, and on tcp, where the front passes messages on; the memory that one
               more host's process takes for itself; the Pongs of one host while another attacks
  copies       how often a 64 MiB tensor is copied on either side, by what NumPy and Python allocate meanwhile
  seals        what a message's seal takes at either end, and how fast constants are hashed (once, when they arrive)
The machine behind the wire does nothing, so that nothing but the wire is measured. Sender and receiver keep two cores
busy; on a machine that does other things meanwhile the ratios say little.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zmq

from ditto_cosim.bench import attacks
from ditto_cosim.device.core import Activity, StepResult
from ditto_cosim.device.process import keep_memory
from ditto_cosim.host.wire.client import Device, connect
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.tensors import Array, digest_of, to_frames

MIB = 1 << 20
SIZES = (64, 1 << 10, 1 << 14, 1 << 16, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
TOGETHER_BYTES = 4 * MIB
UNDER_WAY = 8
COMMANDS = 125
ROUNDS = 5
WARM_UP = 40
"""Messages before those that count: both sides have touched their memory then."""


class NullMachine:
    """Computes nothing; reports `COMMANDS` layers if asked for timed steps."""

    traces = False

    geometry_digest = "0" * 16
    measures = False
    state_bytes = 0

    def __init__(self, program: Program, constants: Mapping[str, Array], spec: m.RunSpec) -> None:
        self.facts: dict[str, str | int] = {}
        self.tell: Callable[[Activity | None], None] = lambda activity: None
        self._program = program
        units = dict.fromkeys(("encode", "compute", "weight_load", "vector", "dram"), 12345)
        self._report = m.LayerReport(
            step=0,
            layer=0,
            name="down_blocks.1.resnets.0.conv1",
            op="conv2d",
            mode="temporal",
            zero=100_000,
            low=90_000,
            full=5_000,
            slots=100_000,
            cycles=123_456,
            unit_cycles=units,
            stall_cycles=units,
            traffic_bytes=dict.fromkeys(
                ("weights", "input", "previous_input", "previous_output", "output"), 65536
            ),
        )

    def step(self, step: int, inputs: Mapping[str, Array], **how: Any) -> StepResult:
        totals = {}
        if self.traces:
            if not tracemalloc.is_tracing():
                tracemalloc.start()
            totals["peak_bytes"] = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
        if how["timed"]:
            for _ in range(COMMANDS):
                how["on_layer"](self._report)
        return StepResult({name: inputs[name] for name in self._program.outputs}, None, totals)

    def snapshot(self) -> bytes:
        return b""

    def restore(self, blob: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class TracingMachine(NullMachine):
    """The same, telling the peak of what Python and NumPy allocated since the step before."""

    traces = True


def one_tensor(nbytes: int, *, inputs: int = 1, echo: bool = False) -> Program:
    """A program with inputs of this size; `echo` makes the first an output too."""
    spec = TensorSpec((nbytes // 4,), "f32")
    named = {f"x{i}": i for i in range(inputs)}
    relu = Command("relu", "nothing", (0,), (inputs,))
    return Program((spec,) * (inputs + 1), named, frozenset(), {}, {"x0": 0} if echo else {}, (relu,))


@contextlib.contextmanager
def null_device(machine: type[NullMachine] = NullMachine) -> Iterator[Device]:
    path = f"ditto_cosim.bench.wire:{machine.__name__}"
    with LocalDevice(["--machine", path, "--log-level", "error"]) as device:
        yield device


# --- throughput ---------------------------------------------------------------------------------------------


def _count(nbytes: int, quick: bool) -> int:
    most = 2_000 if quick else 20_000
    return max(12, min(most, (256 if quick else 1024) * MIB // nbytes))


def _raw_receiver(address: str) -> None:
    keep_memory()  # as the device does
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.connect(address)
    while True:
        identity, last, *_ = socket.recv_multipart(copy=False)
        if last.bytes == b"last":
            socket.send_multipart([identity.bytes, b"done"])


def raw_bytes_per_s(nbytes: int, count: int) -> float:
    """pyzmq with a short header frame and one payload frame, no reply but the last."""
    with tempfile.TemporaryDirectory() as directory:
        address = f"ipc://{directory}/raw"
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        # Bounded like the wire's own window, so that a fast sender does not fill the memory.
        socket.setsockopt(zmq.SNDHWM, max(2, 128 * MIB // nbytes))
        socket.bind(address)
        receiver = multiprocessing.get_context("spawn").Process(
            target=_raw_receiver, args=(address,), daemon=True
        )
        receiver.start()
        payload = np.ones(nbytes, np.uint8).data
        try:
            for header, messages in ((b"warm", min(WARM_UP, count)), (b"go", count)):
                began = time.perf_counter()
                for i in range(messages):
                    socket.send(b"last" if i + 1 == messages else header, zmq.SNDMORE)
                    socket.send(payload, 0, copy=nbytes < 1 << 16)
                socket.recv()
                took = time.perf_counter() - began
        finally:
            receiver.kill()
            receiver.join()
            socket.close(0)
            context.term()
    return count * nbytes / took


def wire_bytes_per_s(device: Device, nbytes: int, count: int, together: int) -> float:
    """Steps with `together` inputs of this size each, as many under way as the window allows."""
    program = one_tensor(nbytes, inputs=together)
    array = np.ones(nbytes // 4, np.float32)
    headers, frames = to_frames(dict.fromkeys(program.inputs, array))
    requests = -(-count // together)
    with device.open_run(program, {}) as run:
        for messages in (min(WARM_UP, requests), requests):
            under_way: deque[Any] = deque()
            began = time.perf_counter()
            for i in range(messages):
                seq = run._next()
                below = under_way[0].key[1] if under_way else seq
                step = m.Step(run=run._run, seq=seq, done_below=below, step=i, inputs=headers, timed=False)
                under_way.append(run._link.begin(step, list(frames)))
                while under_way and (under_way[0].complete or len(under_way) > UNDER_WAY):
                    run._link.finish(under_way.popleft())
            while under_way:
                run._link.finish(under_way.popleft())
            took = time.perf_counter() - began
    return requests * together * nbytes / took


def throughput(device: Device, quick: bool) -> list[dict[str, float]]:
    rows = []
    for nbytes in SIZES:
        count = _count(nbytes, quick)
        together = max(1, min(64, TOGETHER_BYTES // nbytes))
        raw, single, filled = [], [], []
        for _ in range(2 if quick else ROUNDS):  # in turn, so that all meet the same machine
            raw.append(raw_bytes_per_s(nbytes, count))
            single.append(wire_bytes_per_s(device, nbytes, min(count, 4000), 1))
            filled.append(wire_bytes_per_s(device, nbytes, count, together))
        rows.append(
            {
                "bytes": nbytes,
                "tensors_per_request": together,
                "raw_bytes_per_s": median(raw),
                "wire_bytes_per_s": median(single),
                "filled_bytes_per_s": median(filled),
                "ratio": median(single) / median(raw),
                "ratio_filled": median(filled) / median(raw),
            }
        )
    return rows


# --- per command --------------------------------------------------------------------------------------------


def per_command(device: Device, quick: bool) -> dict[str, float]:
    """Median time of a step over the wire, less the machine's own, by command."""
    program = one_tensor(12 * 1024, echo=True)
    array = np.ones(3 * 1024, np.float32)
    array.flags.writeable = False
    steps = 200 if quick else 1000
    machine = NullMachine(program, {}, m.RunSpec())
    alone, over = [], []
    with device.open_run(program, {}) as run:
        for step in range(steps):
            began = time.perf_counter()
            machine.step(step, {"x0": array}, timed=True, on_layer=lambda report: None)
            middle = time.perf_counter()
            run.step(step, {"x0": array}, on_layer=lambda report: None)
            alone.append(middle - began)
            over.append(time.perf_counter() - middle)
    return {
        "step_ms": 1e3 * median(over),
        "step_p99_ms": 1e3 * sorted(over)[int(0.99 * steps)],
        "added_us_per_command": 1e6 * (median(over) - median(alone)) / COMMANDS,
    }


# --- isolation ------------------------------------------------------------------------------------------------


def _bare_server(address: str) -> None:
    """The server that a worker runs, without front and nursery."""
    from ditto_cosim.device.serving.server import Server

    keep_memory()
    limits = m.Limits()
    server = Server(NullMachine, limits=limits, defaults=m.RunSpec(backend="model"), backends=["model"])
    server.bind(address)
    server.serve()


@contextlib.contextmanager
def _bare(address: str) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=_bare_server, args=(address,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def _fronted(address: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a device as users start it."""
    command = [sys.executable, "-m", "ditto_cosim.device", "--bind", address, "--log-level", "error"]
    command += ["--machine", "ditto_cosim.bench.wire:NullMachine"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], process.pid
    finally:
        process.terminate()
        process.wait()


def _private_mib(pid: int) -> float:
    """Memory that this process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def process_per_run(quick: bool) -> dict[str, float]:
    """What a process for every host adds to a command, and takes."""
    took: dict[str, list[float]] = {}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        port = _free_port()
        for name, address in (("ipc", f"ipc://{directory}/bare"), ("tcp", f"tcp://127.0.0.1:{port}")):
            stack.enter_context(_bare(address))
            fronted, pid = stack.enter_context(
                _fronted(f"ipc://{directory}/fronted" if name == "ipc" else "tcp://127.0.0.1:*")
            )
            hosts = {
                f"{name} bare": stack.enter_context(connect(address)),
                f"{name} fronted": stack.enter_context(connect(fronted)),
            }
            for _ in range(ROUNDS):  # in turn, so that all meet the same machine; the quietest round counts
                for how, host in hosts.items():
                    took.setdefault(how, []).append(per_command(host, quick)["added_us_per_command"])
            if name == "ipc":
                with hosts["ipc fronted"].open_run(one_tensor(12 * 1024, echo=True), {}):
                    (nursery,) = _children(pid)
                    found["mib_per_run"] = round(_private_mib(_children(nursery)[0]), 1)
                    found["mib_front_and_nursery"] = round(_private_mib(pid) + _private_mib(nursery), 1)
    for name, key in (("ipc", "us_per_command"), ("tcp", "us_per_command_tcp")):
        found[key] = round(min(took[f"{name} fronted"]) - min(took[f"{name} bare"]), 2)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pong_p99_s_under_attack(quick: bool) -> dict[str, float]:
    """By attack, on tcp, where messages pass through the front."""
    found = {}
    with _fronted("tcp://127.0.0.1:*") as (address, _):
        for attack in attacks.ATTACKS:
            took = attacks.pongs_under(attack, address, 1.0 if quick else 4.0)
            found[attack] = round(attacks.p99(took), 4)
            time.sleep(2.0)  # until silent strangers make room
    return found


# --- copies -------------------------------------------------------------------------------------------------


def copies() -> dict[str, float]:
    """Allocations of Python and NumPy at their peak during a step that sends 64 MiB and gets them back, in tensors."""
    nbytes = 64 * MIB
    program = one_tensor(nbytes, echo=True)
    array = np.ones(nbytes // 4, np.float32)
    found = {}
    with null_device(TracingMachine) as device, device.open_run(program, {}, m.RunSpec()) as run:
        for name, writeable in (("copies_host", False), ("copies_host_writeable_input", True)):
            array.flags.writeable = writeable
            tracemalloc.start()
            for step in range(3):
                peak = run.step(step, {"x0": array}, timed=True).totals["peak_bytes"]
            found[name] = round(tracemalloc.get_traced_memory()[1] / nbytes, 2)
            tracemalloc.stop()
        found["copies_device"] = round(peak / nbytes, 2)
    return found


# --- seals --------------------------------------------------------------------------------------------------


def seals(quick: bool) -> dict[str, float]:
    """Of one side: the sender seals, the receiver looks whether the seal holds."""
    found: dict[str, float] = {}
    for name, nbytes in (("64B", 64), ("1MiB", MIB), ("64MiB", 64 * MIB)):
        frame = np.ones(nbytes, np.uint8).data
        count = max(5, min(20_000, (64 if quick else 512) * MIB // nbytes))
        began = time.perf_counter()
        for _ in range(count):
            codec.sealed(b"header", [frame])
        took_s = (time.perf_counter() - began) / count
        found[f"us_{name}"] = 1e6 * took_s
    found["gib_per_s"] = 1.0 / 1024 / (found["us_1MiB"] * 1e-6)
    began = time.perf_counter()
    digest_of(np.ones(16 * MIB, np.uint8).data)
    found["constants_gib_per_s"] = 16 / 1024 / (time.perf_counter() - began)
    return found


def measure(quick: bool = False) -> dict[str, Any]:
    with null_device() as device:
        result: dict[str, Any] = per_command(device, quick)
        rows = throughput(device, quick)
    result |= copies()
    result["throughput"] = rows
    result["seals"] = seals(quick)
    result["throughput_ratio_1MiB"] = next(row["ratio"] for row in rows if row["bytes"] == MIB)
    result["throughput_ratio_least_from_1MiB"] = min(row["ratio"] for row in rows if row["bytes"] >= MIB)
    result["process_per_run"] = process_per_run(quick)
    by_attack = pong_p99_s_under_attack(quick)
    result["pong_p99_s_by_attack"] = by_attack
    result["pong_p99_s_under_attack"] = max(by_attack.values())
    result["cores"] = len(os.sched_getaffinity(0))
    return result


def table(result: Mapping[str, Any]) -> str:
    lines = [f"{'tensor':>8}  {'raw pyzmq':>13}  {'one a request':>13}  ratio  {'filled request':>14}  ratio"]
    for row in result["throughput"]:
        size = f"{row['bytes'] / MIB:g} MiB" if row["bytes"] >= MIB else f"{row['bytes']} B"
        raw, single, filled = (row[f"{k}_bytes_per_s"] / 1e6 for k in ("raw", "wire", "filled"))
        ratios = row["ratio"], row["ratio_filled"]
        lines.append(
            f"{size:>8}  {raw:>8.1f} MB/s  {single:>8.1f} MB/s  {ratios[0]:5.2f}  "
            f"{filled:>9.1f} MB/s  {ratios[1]:5.2f}"
        )
    lines += [
        f"step of {COMMANDS} commands: {result['step_ms']:.2f} ms (99 %: {result['step_p99_ms']:.2f} ms), "
        f"{result['added_us_per_command']:.1f} µs added per command",
        f"copies of a 64 MiB tensor: host {result['copies_host']:g} "
        f"({result['copies_host_writeable_input']:g} if the input may change), "
        f"device {result['copies_device']:g}",
        "a process for every host: {us_per_command:+.1f} µs a command on ipc, {us_per_command_tcp:+.1f} on tcp, "
        "{mib_per_run:g} MiB each".format(**result["process_per_run"]),
        f"99 % of Pongs under attack within {1e3 * result['pong_p99_s_under_attack']:.0f} ms: "
        + ", ".join(f"{name} {1e3 * s:.0f}" for name, s in result["pong_p99_s_by_attack"].items()),
        f"seals: {result['seals']['us_64B']:.1f} µs a short message, {result['seals']['us_1MiB']:.0f} µs a MiB "
        f"({result['seals']['gib_per_s']:.1f} GiB/s) at either end; constants are hashed once at "
        f"{result['seals']['constants_gib_per_s']:.2f} GiB/s",
    ]
    return "\n".join(lines)
