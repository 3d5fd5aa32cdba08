# SPDX-License-Identifier: Apache-2.0
"""Every `--json` of every command is one object that says what it is, and one place writes it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner
from unit.test_cli import LEAVES

from ditto_cosim import cli
from ditto_cosim.cli.bench import Name
from ditto_cosim.cli.output import labelled

FOLDER = Path(cli.__file__).parent
SAME_AS = {"resume": "generate", "bench": "bench rtl"}
"""Commands whose object is another's, or one of several."""


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
                yield path, node


def test_json_is_printed_in_one_place() -> None:
    printed = [
        f"{path.name}:{call.lineno}"
        for name in ("print", "echo", "write")
        for path, call in calls(name)
        if path.name != "output.py" and any("json" in ast.unparse(argument) for argument in call.args)
    ]
    assert not printed, f"let `emit` print it: {printed}"


def test_every_command_with_json_emits_under_its_own_name() -> None:
    emitted = {f"bench {name.value}" for name in Name}
    for _, call in calls("emit"):
        if isinstance(call.args[0], ast.Constant):
            emitted.add(str(call.args[0].value))
    asked = {name for name, command in LEAVES.items() if any("--json" in p.opts for p in command.params)}
    assert len(asked) > 30
    assert {SAME_AS.get(name, name) for name in asked} <= emitted


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("chips", "ditto.chips"),
        ("chips tiny", "ditto.chip"),
        ("designs", "ditto.designs"),
        ("designs itc", "ditto.design"),
        ("backends", "ditto.backends"),
        ("backends rtl", "ditto.backend"),
        ("models", "ditto.models"),
        ("board list", "ditto.board.list"),
        ("show program ddpm", "ditto.show.program"),
    ],
)
def test_json_is_one_object_with_schema_and_version(words: str, schema: str) -> None:
    done = CliRunner().invoke(cli.root, [*words.split(), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told)[:2] == ["schema", "version"]
    assert (told["schema"], told["version"]) == (schema, 1)


def test_a_schema_of_its_own_is_not_hidden() -> None:
    """`ditto report --json` prints the file's own version."""
    assert labelled("report", {"version": 3, "a": 1}) == {"schema": "ditto.report", "version": 3, "a": 1}
