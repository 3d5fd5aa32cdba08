# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there.

Interface
    replacing(path)            a context: write to the path it yields; on leaving it takes `path`'s place
    write_text(path, text)     the same, for a text at once
    sweep(directory)           removes what a killed writer left in a directory
    load_arrays(path)          the arrays of an .npz file of unknown origin
    load_member(path, name)    the same, of one that is stored in a .zip

A reader never sees half a file, whenever the writer is killed; a full disk leaves the old file and names the path.
What this file does not do: survive a power cut (nothing is flushed to the platter).
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.errors import StorageError

UNFINISHED = ".unfinished-"
"""Begins the name of a file that is being written."""
STALE_S = 3600.0
ARRAYS_BYTES = 8 << 30
"""Longest .npz file, unpacked, that is read."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields where to write; what is there on leaving takes `path`'s place at once, an error leaves `path` as it was.

    The name to write to keeps the suffix, because many writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        unfinished.unlink(missing_ok=True)  # a link, which somebody might have put there
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); nothing half is left there. "
            "Make room or choose another directory, and start again from here."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sweep(directory: Path) -> None:
    """Removes unfinished files of writers that are gone."""
    for path in directory.glob(f"{UNFINISHED}*"):
        pid = path.name.removeprefix(UNFINISHED).partition("-")[0]
        with contextlib.suppress(OSError):
            if not (pid.isdigit() and _lives(int(pid))) or time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """A file that is torn, packed to burst, or no such file at all is a ValueError in words."""
    with path.open("rb") as file:
        return _arrays(file)


def load_member(path: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file inside an archive, refused as above."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := archive.getinfo(name).file_size) > ARRAYS_BYTES:
                raise ValueError(f"unpacks to {size} bytes; up to {ARRAYS_BYTES} are read")
            return _arrays(io.BytesIO(archive.read(name)))
    except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError, NotImplementedError, KeyError) as error:
        raise ValueError(f"not a whole archive ({type(error).__name__}: {error})") from None


def _arrays(file: IO[bytes]) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(file) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > ARRAYS_BYTES:
            raise ValueError(f"unpacks to {size} bytes; up to {ARRAYS_BYTES} are read")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError, NotImplementedError) as error:
        raise ValueError(f"not a whole .npz file ({type(error).__name__}: {error})") from None
