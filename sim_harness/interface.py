# SPDX-License-Identifier: Apache-2.0
"""Holds a user's own module to the interface of ours: ports by name, direction, shape and width, parameters by name.

Both are elaborated by slang (PyPI `pyslang`) as part of a whole tile, so that widths are those of the geometry that is built.
A module whose parent is the user's too may have any ports; the tile itself is driven by the harness and may not.
What this file does not do: look at behaviour (`regression.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.toolchain import BuildError, ToolMissingError

from .sources import DESIGN, sources


@dataclass(frozen=True, slots=True)
class PortShape:
    """One port as it was elaborated."""

    direction: str
    bits: int
    """All of it."""
    unpacked: tuple[int, ...]
    """Sizes of its unpacked dimensions."""

    def __str__(self) -> str:
        one = self.bits
        for size in self.unpacked:
            one //= max(1, size)
        array = "".join(f" [{size}]" for size in self.unpacked)
        return f"{self.direction} of {one} bit{'s' if one != 1 else ''}{array}"


@dataclass(frozen=True, slots=True)
class Module:
    """The outside of one module."""

    ports: dict[str, PortShape]
    parameters: frozenset[str]
    parents: frozenset[str]


def modules(
    files: Iterable[Path], parameters: dict[str, int], top: str = "tile"
) -> tuple[dict[str, Module], str]:
    """Every module from `top` down, elaborated with these parameters of it; what slang finds wrong, if anything."""
    try:
        import pyslang
        from pyslang import ast, syntax
    except ModuleNotFoundError:
        raise ToolMissingError(
            "rtl: slang is not installed; `pip install pyslang` (the extra [rtl])"
        ) from None
    options = ast.CompilationOptions()
    options.topModules = {top}
    options.paramOverrides = [f"{name}={value}" for name, value in parameters.items()]
    compilation = ast.Compilation(pyslang.Bag([options]))
    manager = pyslang.SourceManager()  # the one slang shares would remember a file that has changed since
    for path in files:
        compilation.addSyntaxTree(syntax.SyntaxTree.fromFile(str(path), manager))
    tops = list(compilation.getRoot().topInstances)
    errors = [d for d in compilation.getAllDiagnostics() if d.isError()]
    said = pyslang.DiagnosticEngine.reportAll(compilation.sourceManager, errors) if errors else ""
    if not tops:
        raise BuildError(f"rtl: these files make no {top}:\n{said or f'there is no module {top}'}")
    found: dict[str, Module] = {}
    for parent, body in _bodies(tops[0].body, ""):
        name = str(body.definition.name)
        before = found.get(name)
        parents = (before.parents if before else frozenset()) | {parent}
        ports = {str(p.name): _shape(p) for p in body.portList}
        inner = frozenset(str(p.name) for p in body.parameters if not p.isLocalParam)
        found[name] = Module(ports, inner, parents)
    return found, said


def _bodies(body: Any, parent: str) -> Iterator[tuple[str, Any]]:
    """(name of the parent module, instance body), the body itself first."""
    from pyslang import ast

    yield parent, body
    name = str(body.definition.name)

    def inside(scope: Any) -> Iterator[tuple[str, Any]]:
        for member in scope:
            if member.kind == ast.SymbolKind.Instance:
                yield from _bodies(member.body, name)
            elif member.kind in (ast.SymbolKind.GenerateBlock, ast.SymbolKind.GenerateBlockArray):
                yield from inside(member)

    yield from inside(body)


def _shape(port: Any) -> PortShape:
    _, _, unpacked = str(port.type).partition("$")
    sizes = []
    for text in re.findall(r"\[([^\]]*)\]", unpacked):
        first, colon, last = text.partition(":")
        sizes.append(abs(int(last) - int(first)) + 1 if colon else int(first))
    direction = {"In": "input", "Out": "output"}.get(str(port.direction).rpartition(".")[2], "inout")
    return PortShape(direction, int(port.type.bitstreamWidth), tuple(sizes))


def check_interface(own_dir: Path, geometry: Geometry) -> tuple[str, ...]:
    """Names of the user's files, if their modules can take the place of ours; otherwise says everything that differs."""
    from .build import parameters

    chosen, values = sources(own_dir), parameters(geometry)
    ours, _ = modules(sources().design, values)
    theirs, said = modules(chosen.design, values)
    wrong = []
    own_modules = {name.removesuffix(".sv") for name in chosen.own if name in DESIGN}
    for name in sorted(own_modules & ours.keys()):
        if name not in theirs:
            wrong.append(f"{name}.sv: the tile has no module {name} any more")
        elif name == "tile" or theirs[name].parents - own_modules:
            wrong += [f"{name}.sv: {text}" for text in _differences(ours[name], theirs[name])]
    if wrong:
        raise BuildError("rtl: not the interface of ours:\n  " + "\n  ".join(wrong))
    if said:
        raise BuildError(f"rtl: slang refuses these files:\n{said}")
    return chosen.own


def _differences(ours: Module, theirs: Module) -> list[str]:
    said = []
    for name, port in ours.ports.items():
        if name not in theirs.ports:
            said.append(f"port {name} is missing, expected an {port}")
        elif theirs.ports[name] != port:
            said.append(f"port {name} is an {theirs.ports[name]}, expected an {port}")
    said += [f"port {name} is not one of ours" for name in theirs.ports if name not in ours.ports]
    missing = sorted(ours.parameters - theirs.parameters)
    return said + [f"parameter {name} is missing" for name in missing]
