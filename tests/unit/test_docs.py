# SPDX-License-Identifier: Apache-2.0
"""The documentation: builds without a warning, links to what is there, and names commands that exist with options they take."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ditto_cosim import cli
from ditto_cosim.protocol import isa

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = {
    f"reference/{name}.md" for name in ("cli", "python", "chips", "designs", "record", "isa", "wire")
}
BESIDE = [
    ROOT / name for name in ("CONTRIBUTING.md", "ARCHITECTURE.md", "rtl/README.md", "rtl/board/README.md")
]
"""Pages of the checkout that are not in the documentation."""
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).as_posix() not in GENERATED),
]


def fences(text: str) -> list[str]:
    """The contents of blocks of code that are not of another language."""
    return [
        body
        for kind, body in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.M | re.S)
        if kind in ("", "console", "sh", "bash")
    ]


def commands(page: Path) -> list[str]:
    """Every `ditto …` line of a page's blocks, its prompt, variables in front and remark left out."""
    found = []
    for body in fences(page.read_text(encoding="utf-8")):
        for line in body.replace("\\\n", " ").splitlines():
            bare = re.sub(r"^(\$ )?(\w+=\S+ )*", "", line.strip())
            if re.match(r"ditto [a-z]+(\s|$)", bare):
                found.append(re.split(r"\s(?:#|&|\|)", bare)[0].strip())
    return found


def test_docs_build_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in ("index", "tutorials/encoder", "reference/cli", "own_rtl"):
        assert (tmp_path / f"{page}.html").is_file()
    table = (tmp_path / "reference" / "isa.html").read_text(encoding="utf-8")
    assert all(f">{op}<" in table for op in isa.ISA)
    words = (tmp_path / "reference" / "cli.html").read_text(encoding="utf-8")
    assert all(name in words for name in cli.COMMANDS)


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_docs_link_to_what_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target) and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_docs_name_commands_with_options_they_take(page: Path) -> None:
    root: Any = typer.main.get_command(cli.root)
    for line in commands(page):
        words = shlex.split(line)[1:]
        command, name = root, "ditto"
        while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
            inner = command.get_command(None, words[0])
            assert inner is not None, f"{page.name}: {line}"
            name, command, words = f"{name} {words[0]}", inner, words[1:]
        if words == ["…"] or (not words and hasattr(command, "list_commands")):
            continue
        try:
            command.make_context(name, words, resilient_parsing=False)
        except typer._click.exceptions.UsageError as error:
            raise AssertionError(f"{page.name}: {line}: {error.format_message()}") from None


def test_docs_name_options_that_there_are_in_their_sentences() -> None:
    """Commands in running text, whose values may be placeholders: their words and options exist."""
    root: Any = typer.main.get_command(cli.root)
    wrong, seen = [], 0
    for page in [*PAGES, *BESIDE]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for line in re.findall(r"`(ditto [a-z][^`]*)`", prose):
            words, command = line.split()[1:], root
            while hasattr(command, "list_commands") and words and re.fullmatch(r"[a-z_]+", words[0]):
                if (inner := command.get_command(None, words[0])) is None:
                    wrong.append(f"{page.name}: {line}: no {words[0]}")
                    break
                command, words = inner, words[1:]
            known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
            seen += 1
            wrong += [
                f"{page.name}: {line}: no {word}"
                for word in (w.partition("=")[0] for w in words)
                if re.fullmatch(r"--[a-z][a-z-]+", word)
                and word not in known
                and not hasattr(command, "list_commands")
            ]
    assert not wrong
    assert seen > 50


def test_docs_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8") + (DOCS / "reference" / "index.md").read_text(
        encoding="utf-8"
    )
    for page in PAGES[1:]:
        if page.name != "index.md":
            assert page.relative_to(DOCS).with_suffix("").as_posix() in index, page
