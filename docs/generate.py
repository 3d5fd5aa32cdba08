# SPDX-License-Identifier: Apache-2.0
"""The reference pages that are read out of the code: command line, Python API, chips and designs, record, instruction set, wire.

    python docs/generate.py            writes docs/reference/*.md; `make docs` does it before every build

Nothing is said twice: words come from docstrings, values from the objects themselves.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGES = ("cli", "python", "chips", "designs", "record", "isa", "wire")
MADE = "<!-- Written by docs/generate.py from the code: change that. -->\n"


def write(folder: Path) -> None:
    """Writes every page whose text has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        text = MADE + globals()[f"_{name}"]()
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# --- the command line -----------------------------------------------------------------------------------------------------


def leaves(command: Any, name: str = "ditto") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what is typed for it."""
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    if not names:
        yield name, command
    for word in names:
        yield from leaves(command.get_command(None, word), f"{name} {word}")


def _cli() -> str:
    import typer

    from ditto_cosim import cli

    os.environ["COLUMNS"] = "100"
    parts = [
        "# Command line\n",
        "`ditto --help` lists the commands; each has `--help`, and those that print tables `--json`: one object, with "
        "`schema` and `version`.\n",
    ]
    doc = inspect.getdoc(cli) or ""
    statuses = doc[doc.index("Exit statuses") : doc.index("DITTO_DEBUG")]
    parts += ["## Exit statuses\n", _fence(statuses.partition("\n")[2].rstrip())]
    for name, command in leaves(typer.main.get_command(cli.root)):
        with command.make_context(name, [], resilient_parsing=True) as context:
            parts += [f"## {name}\n", _fence(command.get_help(context))]
    return "\n".join(parts)


# --- Python ---------------------------------------------------------------------------------------------------------------


def _python() -> str:
    import ditto_cosim
    from ditto_cosim import api
    from ditto_cosim.host.wire.client import Device
    from ditto_cosim.shown import ShownGeneration

    parts = ["# Python\n", _fence(inspect.getdoc(ditto_cosim) or "", "python")]
    for function in (api.accelerate, api.accelerated, api.connect, ditto_cosim.restore):
        parts += [
            f"## ditto_cosim.{function.__name__}\n",
            _fence(f"{function.__name__}{_signature(function)}", "python"),
        ]
        parts.append(_fence(inspect.getdoc(function) or ""))
    parts += [
        "## Options\n",
        "What `accelerate` takes besides what its signature names.\n",
        _attributes(api.Options),
    ]
    parts += ["## A generation\n", "`pipe.unet.generation`, and what `finish()` gives.\n"]
    for name in ("layers", "energy", "report", "cycles", "seconds", "verdict", "others"):
        found = inspect.getattr_static(ShownGeneration, name, None)
        words = inspect.getdoc(found) if isinstance(found, property) or callable(found) else ""
        parts.append(
            f"- `{name}`: {_line(words or _words(ShownGeneration.__mro__[1]).get(name, 'what verification found'))}"
        )
    parts += ["", "## A device\n", "What `connect` gives.\n"]
    for name in ("linear", "conv2d", "attention", "open_run", "close"):
        method = getattr(Device, name)
        parts += [
            f"### {name}\n",
            _fence(f"{name}{_signature(method)}", "python"),
            f"{_line(inspect.getdoc(method) or 'Ends it.')}\n",
        ]
    return "\n".join(parts)


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    lines = [f"    {p}," for p in signature.parameters.values() if p.name != "self"]
    return "(\n" + "\n".join(lines) + "\n)"


# --- hardware -------------------------------------------------------------------------------------------------------------


def _chips() -> str:
    from ditto_cosim.device.chips import _FIELDS, Chip, chip_names
    from ditto_cosim.device.timing.dma import DmaPolicy
    from ditto_cosim.device.timing.dram import DramConfig
    from ditto_cosim.protocol.hardware import Geometry

    said = {**_words(Chip), **_words(Geometry), **_words(DmaPolicy), **_words(DramConfig)}
    parts = [
        "# Chips\n",
        "A chip is a TOML file: a preset by name, yours by path; `extends` starts from another. An unknown field is refused.\n",
    ]
    for table, fields in _FIELDS.items():
        parts.append(f"## {f'[{table}]' if table else 'At the top'}\n")
        parts.append(
            _table(
                ["field", "type", "what it is"],
                [[f"`{n}`", _type(t), said.get(n, "")] for n, t in fields.items()],
            )
        )
    return "\n".join(parts) + _presets("chips", chip_names())


def _designs() -> str:
    from ditto_cosim.device.designs.base import _TYPES, Design, Roofline, design_names

    said = _words(Design)
    doc = inspect.getdoc(inspect.getmodule(Design)) or ""
    parts = ["# Designs\n", _fence(doc)]
    parts.append(
        _table(
            ["field", "type", "what it is"],
            [[f"`{n}`", _type(t), said.get(n, "")] for n, t in _TYPES.items()],
        )
    )
    parts += ["## [roofline]\n", _attributes(Roofline)]
    return "\n".join(parts) + _presets("designs", design_names())


def _presets(folder: str, names: tuple[str, ...]) -> str:
    from importlib import resources

    parts = ["\n## Presets\n"]
    for name in names:
        text = (
            resources.files("ditto_cosim.device").joinpath(folder, f"{name}.toml").read_text(encoding="utf-8")
        )
        parts += [f"### {name}\n", _fence(text.rstrip(), "toml")]
    return "\n".join(parts)


# --- what crosses and what stays ------------------------------------------------------------------------------------------


def _record() -> str:
    from ditto_cosim.protocol import record
    from ditto_cosim.protocol.messages import LayerReport

    parts = ["# Record\n", _fence(inspect.getdoc(record) or "")]
    for kind in (
        record.RunInfo,
        record.StepRecord,
        record.LayerRecord,
        record.SubOp,
        record.Work,
        LayerReport,
    ):
        parts += [f"## {kind.__name__}\n", f"{_line(inspect.getdoc(kind) or '')}\n", _attributes(kind)]
    return "\n".join(parts)


def _isa() -> str:
    from ditto_cosim.protocol import isa

    parts = [
        "# Instruction set\n",
        f"{len(isa.ISA)} commands, specified to the bit.\n",
        _fence(inspect.getdoc(isa) or ""),
    ]
    for form in isa.ISA.values():
        operands = ", ".join(map(str, form.operands))
        parts += [f"## {form.op}\n", _fence(f"{', '.join(form.results)} = {form.op}({operands})")]
        parts.append(f"A {form.kind} command, since {form.since}.\n")
        if form.attrs:
            parts.append(
                _table(["attribute", "what it is"], [[f"`{n}`", text] for n, text in form.attrs.items()])
            )
        parts.append(_fence(inspect.cleandoc(form.semantics)))
    return "\n".join(parts)


def _wire() -> str:
    from ditto_cosim.protocol import paths

    text = (Path(paths.__file__).parent / "SPEC.md").read_text(encoding="utf-8")
    return re.sub(r"^####", "###", text, flags=re.MULTILINE)


# --- pieces ---------------------------------------------------------------------------------------------------------------


def _words(kind: Any) -> dict[str, str]:
    """Attribute -> the docstring below it, of a class and those it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        assert isinstance(body, ast.ClassDef)
        for at, node in enumerate(body.body[:-1]):
            below = body.body[at + 1]
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[node.target.id] = _line(str(below.value.value))
    return found


def _attributes(kind: Any) -> str:
    said = _words(kind)
    types = {
        name: str(note)
        for base in reversed(kind.__mro__)
        for name, note in getattr(base, "__annotations__", {}).items()
    }
    return _table(
        ["field", "type", "what it is"],
        [[f"`{n}`", f"`{t}`", said.get(n, "")] for n, t in types.items() if not n.startswith("_")],
    )


def _type(kind: Any) -> str:
    return " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(header: list[str], rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]) + "\n"


def _fence(text: str, language: str = "text") -> str:
    return f"````{language}\n{text}\n````\n"


if __name__ == "__main__":
    write(Path(__file__).parent / "reference")
