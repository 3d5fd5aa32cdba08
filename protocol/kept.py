# SPDX-License-Identifier: Apache-2.0
"""What is made once on this machine and kept by what it was made from: names of results, their place, and how they get there.

A result is made under a file lock in a temporary folder that is renamed into place: a second process waits and finds it, a
killed one leaves nothing. What this file does not do: know what is kept (`toolchain.py` compiles, `host/pipeline/programs.py`
keeps programs).
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from ditto_cosim.protocol.errors import StorageError


def cache_dir(kind: str) -> Path:
    """Where results of a kind are kept: $DITTO_CACHE, or the user's cache folder. What others could write there would be used."""
    found = Path(os.environ.get("DITTO_CACHE") or platformdirs.user_cache_dir("ditto-cosim")) / kind
    for folder in (found, found.parent):
        if folder.exists():
            status = folder.stat()
            if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o002:
                raise StorageError(
                    f"the cache {folder} belongs to another user, or others may write to it, and what lies there is run; "
                    "set DITTO_CACHE to a folder of your own"
                )
    return found


def digest(*parts: str | bytes) -> str:
    """Name of a result: equal names, equal parts."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()[:24]


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
