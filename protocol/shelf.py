# SPDX-License-Identifier: Apache-2.0
"""Where the files of a run's steps are: one by one while it runs, together in `record.zip` once it has ended.

Interface
    Shelf(directory).steps(kind) -> their numbers      kind: "step", "inputs" or "outputs"
    Shelf(directory).has(name), .arrays(name)          `step-0003.npz`, wherever it lies; one by one before together
    pack(directory)                                    all of them into one file
    clear(directory)                                   removes them all: another run begins here

A run that is killed has left every whole step as a file of its own, so nothing depends on its end; the one file is for
people. Its members keep their names and are not compressed twice: `unzip record.zip` gives back what was there, and
`numpy.load` reads each. Packing is whole or not at all.
What this file does not do: know what is in them (`record.py`, the host's journal).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ditto_cosim.protocol.files import load_arrays, load_member, replacing

PACKED = "record.zip"
KINDS = ("step", "inputs", "outputs")
_NAME = re.compile(rf"({'|'.join(KINDS)})-(\d+)\.npz")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same steps make the same file."""


class Shelf:
    """A run's step files as they lie now."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._loose = {path.name for path in directory.glob("*-*.npz") if _NAME.fullmatch(path.name)}
        self._packed = set(_members(directory / PACKED))

    def has(self, name: str) -> bool:
        return name in self._loose or name in self._packed

    def names(self) -> Iterator[str]:
        yield from sorted(self._loose | self._packed, key=_order)

    def steps(self, kind: str) -> list[int]:
        found = (_NAME.fullmatch(name) for name in self.names())
        return [int(match[2]) for match in found if match is not None and match[1] == kind]

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Raises FileNotFoundError, or ValueError for what is no such file. A run may have been packed since we looked."""
        try:
            return load_arrays(self.directory / name)
        except FileNotFoundError:
            if name not in self._packed and name not in _members(self.directory / PACKED):
                raise
            return load_member(self.directory / PACKED, name)

    def where(self, name: str) -> str:
        """For a person."""
        loose = name in self._loose or name not in self._packed
        return str(self.directory / name) if loose else f"{self.directory / PACKED}: {name}"

    def copy_into(self, archive: zipfile.ZipFile) -> None:
        for name in self.names():
            if name in self._loose:
                data = (self.directory / name).read_bytes()
            else:
                with zipfile.ZipFile(self.directory / PACKED) as packed:
                    data = packed.read(name)
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)

    def loose(self) -> list[Path]:
        """The last step first, so that a kill while they are removed leaves no gap."""
        return [self.directory / name for name in sorted(self._loose, key=_order, reverse=True)]


def pack(directory: Path) -> Path:
    """All step files into one; nothing changes where that is so already."""
    shelf = Shelf(directory)
    if shelf.loose():
        with replacing(directory / PACKED) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
            shelf.copy_into(archive)
        for path in shelf.loose():
            path.unlink()
    return directory / PACKED


def clear(directory: Path) -> None:
    for path in Shelf(directory).loose():
        path.unlink()
    (directory / PACKED).unlink(missing_ok=True)


def _order(name: str) -> tuple[int, str]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[2]), name


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
    except FileNotFoundError:
        return []
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a whole archive ({error})") from None
    if not all(map(_NAME.fullmatch, names)):  # torn, its last member's own directory passes for the archive's
        raise ValueError(f"{path}: not a whole archive of steps; it holds {', '.join(names[:3])}")
    return names
