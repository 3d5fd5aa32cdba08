# SPDX-License-Identifier: Apache-2.0
"""The device as processes: `python -m ditto_cosim.device`, which is what `ditto device` runs too.

This one is the front, which listens before anything heavy is imported. A second one, forked before the first has threads, is
the nursery: it imports the machine and forks a worker for every host that comes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ditto_cosim.device.core import Executor
from ditto_cosim.device.process import (
    exit_now,
    keep_memory,
    limit_memory,
    log_to_stderr,
    machine_bytes,
    many_descriptors,
    stop_on_signals,
)
from ditto_cosim.device.serving.front import Front
from ditto_cosim.device.serving.nursery import Beat, Birth, Nursery, Slate
from ditto_cosim.device.serving.server import Server
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol import security
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.streams import open_streams
from ditto_cosim.protocol.tensors import Array

DEFAULT_MACHINE = "ditto_cosim.device.execution.machine:Machine"


def load(path: str) -> Any:
    """`module:Name`."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DittoError(f"cannot load {path!r} ({error}); expected an importable module:Name") from error


def lazy_machine(path: str) -> Callable[[Program, Mapping[str, Array], m.RunSpec], Executor]:
    def make(program: Program, constants: Mapping[str, Array], spec: m.RunSpec) -> Executor:
        machine: Executor = load(path)(program, constants, spec)
        return machine

    return make


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="ditto device", description="Emulate the accelerator for hosts that connect."
    )
    limits = m.Limits()
    result.add_argument(
        "--bind", default="tcp://127.0.0.1:5590", help="address to listen on (ipc:// or tcp://)"
    )
    result.add_argument(
        "--keys", type=Path, help="directory made by `ditto keys`; needed beyond this machine"
    )
    result.add_argument("--backend", default="model", help="backend of runs that name none")
    result.add_argument("--offer", action="append", default=[], help="a further backend, module:Class")
    result.add_argument("--design", default="ditto", help="design of runs that name none")
    result.add_argument("--chip", default="paper_twin", help="chip of runs that name none")
    result.add_argument(
        "--idle-s", type=float, default=limits.idle_s, help="silence after which a host loses its runs"
    )
    result.add_argument("--runs", type=int, default=limits.runs, help="most runs of a host at once")
    result.add_argument("--hosts", type=int, default=limits.sessions, help="most hosts at once")
    result.add_argument(
        "--progress-s",
        type=float,
        default=limits.progress_s,
        help="seconds that a product may take, and one more a million multiplications",
    )
    result.add_argument(
        "--host-bytes",
        type=int,
        default=0,
        help="memory of one host's process; 0: three quarters of the machine's",
    )
    result.add_argument("--run-bytes", type=int, default=limits.run_bytes, help="memory limit of one run")
    result.add_argument(
        "--store-bytes", type=int, default=limits.store_bytes, help="memory for constants, all runs of a host"
    )
    result.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    result.add_argument("--parent-pid", type=int, help="exit when this process is not the parent any more")
    result.add_argument("--machine", default=DEFAULT_MACHINE, help="module:Name of another execution core")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    open_streams()
    options = parser().parse_args(argv)
    log_to_stderr(options.log_level)
    limits = msgspec.structs.replace(
        m.Limits(),
        idle_s=options.idle_s,
        runs=options.runs,
        sessions=options.hosts,
        run_bytes=options.run_bytes,
        store_bytes=options.store_bytes,
        progress_s=options.progress_s,
    )
    defaults = m.RunSpec(backend=options.backend, chip=options.chip, design=options.design)
    local = security.is_local(options.bind)
    host_bytes = options.host_bytes or machine_bytes() // 4 * 3

    def prepare() -> None:
        with contextlib.suppress(Exception):  # the worker that needs it says why it is missing
            load(options.machine)

    def work(birth: Birth, slate: Slate) -> int:
        keep_memory()
        limit_memory(host_bytes)
        server = Server(
            lazy_machine(options.machine),
            limits=limits,
            defaults=defaults,
            backends=[*backend_names(), *options.offer],
            local=local,
            alone=True,
            on_beat=lambda *beat: slate.beat(birth.slot, Beat(*beat)),
            on_doing=lambda what: slate.doing(birth.slot, what),
        )
        with security.private_files():
            server.bind(birth.endpoint)
        stop_on_signals(server.stop)
        server.serve()
        return 0

    try:
        security.check_address(options.bind, options.keys)
    except DittoError as error:
        print(f"ditto device: {error}", file=sys.stderr)
        return 2
    nursery = Nursery(work, prepare)
    many_descriptors()
    front = Front(nursery, limits, parent_pid=options.parent_pid)
    try:
        address = front.bind(options.bind, options.keys)
    except DittoError as error:
        nursery.close()
        print(f"ditto device: {error}", file=sys.stderr)
        return 2
    stop_on_signals(front.stop)
    print(f"ditto device listens on {address}", flush=True)
    front.serve()
    return 0


def backend_names() -> list[str]:
    from ditto_cosim.device import backends

    return backends.names()


if __name__ == "__main__":
    exit_now(main())
