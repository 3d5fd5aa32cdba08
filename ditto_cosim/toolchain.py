# SPDX-License-Identifier: Apache-2.0
"""What is compiled on this machine, kept by content: the compiler, names of results, and a cache that survives anything.

A result is made under a file lock in a temporary folder that is renamed into place: a second process waits and finds it, a
killed one leaves nothing. What it does not do: know what is compiled (`sim_harness/build.py` builds tiles,
`device/kernels/native.py` its kernels).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import platformdirs
from filelock import FileLock

from ditto_cosim.protocol.errors import DittoError


class BuildError(DittoError):
    """A tool failed while something was compiled; the message ends with its output."""


class ToolMissingError(BuildError):
    """A tool that is needed is not installed; the message says what to install."""


def cache_dir() -> Path:
    """Where results are kept: $DITTO_CACHE, or the user's cache folder. What others could write there would be run."""
    found = Path(os.environ.get("DITTO_CACHE") or platformdirs.user_cache_dir("ditto-cosim")) / "rtl"
    for folder in (found, found.parent):
        if folder.exists():
            status = folder.stat()
            if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o002:
                raise BuildError(
                    f"the cache {folder} belongs to another user, or others may write to it, and what lies there is run; "
                    "set DITTO_CACHE to a folder of your own"
                )
    return found


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


def digest(*parts: str | bytes) -> str:
    """Name of a result: equal names, equal parts."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()[:24]


def run_tool(command: list[str], what: str, cwd: Path) -> None:
    """Runs a tool; what it said is in the error if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stderr + done.stdout)[-4000:]
        raise BuildError(f"build: {what} failed with status {done.returncode}:\n{output}")


def publish(target: Path, make: Callable[[Path], None]) -> bool:
    """Runs `make` in a temporary folder, renames it to `target`, once for all processes; True if it ran."""
    if target.is_dir():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return False
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            work = Path(temporary) / "build"
            work.mkdir()
            make(work)
            os.rename(work, target)
    return True
