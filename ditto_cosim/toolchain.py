# SPDX-License-Identifier: Apache-2.0
"""The compiler of this machine: where it is, what its results depend on, how it fails, and where what it made is kept.

What it does not do: know what is compiled (`sim_harness/build.py` builds tiles, `device/kernels/native.py` its kernels), or
how results are kept (`protocol/kept.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from ditto_cosim.protocol import kept
from ditto_cosim.protocol.errors import DittoError, StorageError


class BuildError(DittoError):
    """A tool failed while something was compiled; the message ends with its output."""


class ToolMissingError(BuildError):
    """A tool that is needed is not installed; the message says what to install."""


def cache_dir() -> Path:
    """Where compiled results are kept; what others could write there would be run."""
    try:
        return kept.cache_dir("rtl")
    except StorageError as error:
        raise BuildError(str(error)) from error


def compiler() -> Path:
    """The C++ compiler: $CXX or g++."""
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise ToolMissingError(
            f"build: no C++ compiler: `{name}` was not found; on Debian or Ubuntu `apt-get install g++`. "
            "Without one, `--backend model` still works."
        )
    return Path(found).absolute()  # unresolved: clang++ is a link to clang, and is another thing


@cache
def _cpu_features() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return os.uname().machine
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")


def compiler_id() -> str:
    """What a compiled result depends on beside its sources and flags: the compiler and the processor."""
    binary = compiler()
    status = binary.stat()
    return f"{binary};{status.st_size};{status.st_mtime_ns};{_cpu_features()}"


def run_tool(command: list[str], what: str, cwd: Path) -> None:
    """Runs a tool; what it said is in the error if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stderr + done.stdout)[-4000:]
        raise BuildError(f"build: {what} failed with status {done.returncode}:\n{output}")
