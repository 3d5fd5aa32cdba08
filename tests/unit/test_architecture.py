# SPDX-License-Identifier: Apache-2.0
"""ARCHITECTURE.md's tables of folders are the tree's: every folder has its row, and imports what its row says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
ROOMS = ("device", "host")


def rows(header: str) -> list[list[str]]:
    """Cells of the table whose first line starts so."""
    lines = TEXT[TEXT.index(header) :].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]


HOUSE = {
    name: sees
    for cells in rows("| folder |")
    for sees in [cells[-1]]
    for name in re.findall(r"`(\w+)/`", cells[0])
}
SEES: dict[str, str] = {
    name: cells[-1] for cells in rows("| room |") for name in re.findall(r"`(\w+/\w+)(?:/|\.py)`", cells[0])
}


def packages(folder: str) -> set[str]:
    return {f"{folder}/{p.parent.name}" for p in (ROOT / folder).glob("*/*.py")}


def test_every_folder_at_the_top_has_its_row() -> None:
    found = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    made = {"build", "dist", "runs"} | {p.name for p in ROOT.glob("*.egg-info")}
    assert found - made == set(HOUSE)


@pytest.mark.parametrize("folder", ROOMS)
def test_every_room_has_its_row_and_every_row_its_room(folder: str) -> None:
    named = {name for name in SEES if name.startswith(f"{folder}/")}
    assert packages(folder) <= named
    assert all((ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file() for name in named)


def imported(room: str) -> set[str]:
    """Rooms and parts of the house that the files of a room import."""
    files = list((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ditto_cosim."):
                parts = (node.module or "").split(".")[1:]
                inner = parts[0] in ROOMS
                names = (
                    [parts[1]] if inner and len(parts) > 1 else [a.name for a in node.names] if inner else []
                )
                found |= {f"{parts[0]}/{name}" for name in names} if inner else {parts[0]}
    return found - {room}


def allowed(room: str) -> set[str]:
    """What a row says that its room sees, and what that sees in turn."""
    folder = room.partition("/")[0]
    if SEES[room] == "the above":
        earlier = list(SEES)[: list(SEES).index(room)]
        return {"protocol", *(name for name in SEES if name.startswith(f"{folder}/")), *earlier}
    found: set[str] = {"protocol"}
    for word in re.findall(r"\w+", SEES[room]):
        inner = f"{folder}/{word}"
        if inner in SEES and inner not in found:
            found |= {inner} | allowed(inner)
        elif word in {*HOUSE, "toolchain"}:
            found.add(word)
    return found


@pytest.mark.parametrize("room", SEES)
def test_room_imports_what_its_row_says(room: str) -> None:
    assert imported(room) <= allowed(room)


def test_every_python_file_names_its_licence() -> None:
    folders = (*ROOMS, "protocol", "sim_harness", "rtl", "ditto_cosim", "tests", "examples", "docs")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*.py") if not p.is_symlink()]
    without = [
        str(p.relative_to(ROOT))
        for p in files
        if "SPDX-License-Identifier: Apache-2.0" not in p.read_text()[:200]
    ]
    assert not without, f"their first line is to be `# SPDX-License-Identifier: Apache-2.0`: {without}"


def test_a_class_name_means_one_class() -> None:
    homes: dict[str, list[str]] = {}
    for folder in (*ROOMS, "protocol", "sim_harness", "ditto_cosim"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: found for name, found in homes.items() if len({*found}) > 1}
    assert not twice, f"one word for one thing: {twice}"
