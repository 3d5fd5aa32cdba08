# SPDX-License-Identifier: Apache-2.0
"""The one place that writes JSON: what `--json` prints, as one object that says what it is.

    emit("doctor", {"findings": […]})      {"schema": "ditto.doctor", "version": 1, "findings": […]}

`schema` names the command, `version` rises when a key changes its meaning or goes; keys that are added leave it.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSIONS: Mapping[str, int] = {}
"""Of the schemas that are not at version 1."""


def labelled(command: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The object, with its schema first."""
    name = command.replace(" ", ".").replace("-", "_")
    return {"schema": f"ditto.{name}", "version": VERSIONS.get(name, 1), **data}


def emit(command: str, data: Mapping[str, Any], indent: int | None = None) -> None:
    """Prints it on standard output."""
    print(json.dumps(labelled(command, data), indent=indent))


def typed() -> str:
    """The command as it was typed, for files that are kept: names of places on this machine are left out."""

    def told(word: str) -> str:
        option, equals, path = word.rpartition("=") if word.startswith("--") else ("", "", word)
        return f"{option}{equals}{Path(path).name if Path(path).is_absolute() else path}"

    return shlex.join(["ditto", *map(told, sys.argv[1:])])
