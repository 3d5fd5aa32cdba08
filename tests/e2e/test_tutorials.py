# SPDX-License-Identifier: Apache-2.0
"""A reader with a fresh folder types what the pages say: every `$` line, every block of Python, from top to bottom.

A line that ends in `# exit status N` has to end so, all others with 0.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LONG = {"tutorials/first_picture", "tutorials/encoder", "tutorials/board", "tutorials/three_chips"}
"""Pages that take more than a few seconds."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """What a page has its reader type, in order: (`console` or `python`, text)."""
    found = re.findall(r"^```(console|python)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [(kind, body) for kind, body in found if kind == "python" or "$ " in body]


PAGES = [
    pytest.param(page, marks=[pytest.mark.long] if name in LONG else [], id=name)
    for page in sorted([*(DOCS / "tutorials").glob("*.md"), *(DOCS / "howto").glob("*.md")])
    for name in [page.relative_to(DOCS).with_suffix("").as_posix()]
    if blocks(page)
]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """An empty folder with the examples in it, and a `ditto` of this checkout."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = tmp_path / "bin" / "ditto"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from ditto_cosim.cli import main; main()" "$@"\n'
    )
    script.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_page_does_what_it_says(page: Path, desk: Path) -> None:
    path = os.pathsep.join([str(desk / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    for kind, body in blocks(page):
        if kind == "python":
            words: list[list[str]] = [[sys.executable, "-c", body]]
        else:
            words = [["bash", "-c", line[2:]] for line in body.splitlines() if line.startswith("$ ")]
        for word in words:
            done = subprocess.run(
                word, cwd=desk, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
            told = re.search(r"# exit status (\d)", word[-1])
            assert done.returncode == (int(told[1]) if told else 0), (
                f"{word[-1]}\n{done.stdout}\n{done.stderr}"
            )
