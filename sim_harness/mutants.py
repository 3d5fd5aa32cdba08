# SPDX-License-Identifier: Apache-2.0
"""Wrong RTL, by operator: every place of the sources where one of some two dozen kinds of mistake could be made.

A mutant replaces one expression or one statement. `one` writes a single mutant as a source text; `all_in_one` writes many into
one, each behind a number that the simulation chooses when it starts, so that hundreds of mutants cost one build:

    a < b            becomes        (ditto_pkg::mutant == 17 ? (a <= b) : (a < b))

Left alone: what elaboration folds (parameters, dimensions, bounds of part-selects, generate conditions), clocks, targets of
assignments, and declarations. What this file does not do: build or run (`mutation.py`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditto_cosim.toolchain import ToolMissingError

KINDS: dict[str, str] = {
    "arithmetic": "+ for −, − for +",
    "multiply": "+ for ·",
    "boundary": "< for ≤, > for ≥, and back",
    "comparison": "the opposite comparison",
    "equality": "= for ≠, and back",
    "logic": "&& for ||, and back",
    "bits": "& for |, | for &, & for ^",
    "shift": "left for right, and back",
    "reduction": "any for all",
    "operand": "one operand alone",
    "not": "a negation forgotten",
    "not too many": "a condition negated",
    "minus": "a sign forgotten",
    "constant": "a number off by one",
    "filling": "ones for zeros, and back",
    "branches": "the branches of ? : exchanged",
    "always": "a condition that always holds",
    "never": "a condition that never holds",
    "else": "the other branch forgotten",
    "assignment": "an assignment forgotten (<=)",
    "variable": "an assignment forgotten (=)",
    "reset ignored": "a process that no reset reaches",
    "reset forgotten": "a register that is not reset",
    "reset value": "a register reset to the opposite",
    "index": "the neighbouring element",
    "order": "parts of a concatenation exchanged",
    "signal": "another signal of the same shape",
    "port": "an input tied to zero",
}
"""Kinds of mistakes, and what each does."""

FILES = ("encoder.sv", "slot_buffer.sv", "pe_array.sv", "pe_pipeline.sv", "lane.sv", "tile.sv")
ARRAY_FILES = tuple(
    f"sq_dm/{name}.sv"
    for name in (
        "sparse_encoder", "sparse_pe_array", "dense_pe_array", "block_accumulator", "sparse_tile", "dense_tile",
        "sparsity_detector",
    )
)  # fmt: skip
SELECTOR = "ditto_pkg::mutant"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: bytes `start` … `end` of a file become `new`."""

    file: str
    kind: str
    line: int
    start: int
    end: int
    old: str
    new: str
    context: str
    """The line it is in."""
    statement: bool
    """Whether it replaces a statement; else an expression."""

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.kind}: {_short(self.old)} → {_short(self.new) or 'nothing'}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "…"


def one(text: bytes, mutant: Mutant) -> bytes:
    """The source with this mistake."""
    new = (mutant.new or ";") if mutant.statement else mutant.new
    return text[: mutant.start] + new.encode() + text[mutant.end :]


def all_in_one(text: bytes, numbered: dict[int, Mutant]) -> bytes:
    """The source with all of these, each made where `SELECTOR` has its number."""
    places: dict[tuple[int, int, bool], list[tuple[int, Mutant]]] = defaultdict(list)
    for number, mutant in numbered.items():
        places[(mutant.start, mutant.end, mutant.statement)].append((number, mutant))
    ordered = sorted(places, key=lambda place: (place[0], -place[1], not place[2]))
    written, at = _write(text, ordered, places, 0, len(text), 0)
    assert at == len(ordered)
    return written


def _write(
    text: bytes,
    ordered: list[tuple[int, int, bool]],
    places: dict[tuple[int, int, bool], list[tuple[int, Mutant]]],
    start: int,
    end: int,
    at: int,
) -> tuple[bytes, int]:
    """(text[start:end] with the places from `at` on that lie within, the next place)."""
    parts, done = [], start
    while at < len(ordered) and ordered[at][0] < end:
        place = ordered[at]
        parts.append(text[done : place[0]])
        inner, at = _write(text, ordered, places, place[0], place[1], at + 1)
        for number, mutant in places[place]:
            new, chosen = mutant.new.encode(), f"{SELECTOR} == {number}".encode()
            if mutant.statement:
                inner = b"if (%s) begin %s end else begin %s end" % (chosen, new, inner)
            else:
                inner = b"(%s ? (%s) : (%s))" % (chosen, new, inner)
        parts.append(inner)
        done = place[1]
    parts.append(text[done:end])
    return b"".join(parts), at


def find(folder: Path, files: Iterable[str] = FILES) -> list[Mutant]:
    """Every mutant of these sources, in the order of the text."""
    found = []
    for name in files:
        text = (folder / name).read_bytes()
        found += _Finder(name, text).mutants()
    return found


_SWAPS: dict[str, list[tuple[str, str]]] = {
    "AddExpression": [("arithmetic", "-")],
    "SubtractExpression": [("arithmetic", "+")],
    "MultiplyExpression": [("multiply", "+")],
    "LessThanExpression": [("boundary", "<="), ("comparison", ">=")],
    "LessThanEqualExpression": [("boundary", "<"), ("comparison", ">")],
    "GreaterThanExpression": [("boundary", ">="), ("comparison", "<=")],
    "GreaterThanEqualExpression": [("boundary", ">"), ("comparison", "<")],
    "EqualityExpression": [("equality", "!=")],
    "InequalityExpression": [("equality", "==")],
    "LogicalAndExpression": [("logic", "||")],
    "LogicalOrExpression": [("logic", "&&")],
    "BinaryAndExpression": [("bits", "|")],
    "BinaryOrExpression": [("bits", "&")],
    "BinaryXorExpression": [("bits", "&")],
    "LogicalShiftLeftExpression": [("shift", ">>")],
    "LogicalShiftRightExpression": [("shift", "<<")],
}
_HALVES = ("AddExpression", "SubtractExpression", "LogicalAndExpression", "LogicalOrExpression", "BinaryAndExpression",
           "BinaryXorExpression")  # fmt: skip
_FOLDED = ("ParameterDeclaration", "ParameterDeclarationStatement", "ParameterPortList", "ParameterValueAssignment",
           "VariableDimension", "SimpleRangeSelect", "AscendingRangeSelect", "DescendingRangeSelect", "LoopGenerate",
           "IfGenerate", "EventControlWithExpression", "ImplicitAnsiPort", "FunctionPrototype", "ModuleHeader",
           "ForVariableDeclaration", "PostincrementExpression", "LogicType", "IntType", "NamedType",
           "PackageDeclaration", "TypedefDeclaration", "ConcurrentAssertionStatement", "ImmediateAssertStatement",
           "BindDirective", "ElabSystemTask")  # fmt: skip


class _Finder:
    """Walks one file's syntax tree."""

    def __init__(self, name: str, text: bytes) -> None:
        try:
            from pyslang import syntax
        except ModuleNotFoundError:
            raise ToolMissingError("mutate: slang is not installed; `pip install pyslang`") from None
        self.file, self.text, self.node_type = name, text, syntax.SyntaxNode
        self.root = syntax.SyntaxTree.fromText(text.decode()).root
        self.found: list[Mutant] = []
        self.shapes = self._shapes()

    def mutants(self) -> list[Mutant]:
        self._visit(self.root, in_reset=False)
        told_apart = {(m.start, m.end, m.new): m for m in reversed(self.found)}
        return sorted(told_apart.values(), key=lambda m: (m.start, m.end, m.kind, m.new))

    def _shapes(self) -> dict[str, list[str]]:
        """Signals of the module by type, arrays left out."""
        by_type: dict[str, list[str]] = defaultdict(list)
        for node in self._all(self.root):
            kind = _kind(node)
            if kind == "ImplicitAnsiPort":
                declared = self._text(node)
            elif kind == "DataDeclaration" and b"automatic" not in self._bytes(node):
                declared = self._text(node).rstrip(";")
            else:
                continue
            match = re.fullmatch(r"(?:input|output)?\s*(.+?)\s+(\w+)", " ".join(declared.split()))
            if match and match[2] not in ("clk_i", "rst_ni"):
                by_type[match[1].replace(" ", "")].append(match[2])
        return {name: names for names in by_type.values() for name in names}

    def _all(self, node: Any) -> Iterator[Any]:
        yield node
        for child in node:
            if isinstance(child, self.node_type):
                yield from self._all(child)

    def _bytes(self, node: Any) -> bytes:
        return self.text[node.sourceRange.start.offset : node.sourceRange.end.offset]

    def _text(self, node: Any) -> str:
        return self._bytes(node).decode()

    def _add(self, node: Any, kind: str, new: str, *, statement: bool = False) -> None:
        start, end = node.sourceRange.start.offset, node.sourceRange.end.offset
        line = self.text.count(b"\n", 0, start) + 1
        old = self._text(node)
        if new != old:
            context = self.text.splitlines()[line - 1].decode().strip()
            self.found.append(Mutant(self.file, kind, line, start, end, old, new, context, statement))

    def _visit(self, node: Any, in_reset: bool) -> None:
        kind = _kind(node)
        if kind in _FOLDED:
            if kind in ("LoopGenerate", "IfGenerate"):  # the conditions are folded, what is generated is not
                for child in self._children(node):
                    if _kind(child) in ("GenerateBlock", "ElseClause"):
                        self._visit(child, in_reset)
            return
        children = self._children(node)
        if kind == "ConditionalStatement":
            self._conditional(node, children, in_reset)
            return
        if kind in ("NonblockingAssignmentExpression", "AssignmentExpression"):
            self._assignment(children[0])
            self._visit(children[1], in_reset)
            return
        if kind == "ExpressionStatement":
            self._statement(node, children[0], in_reset)
        elif kind == "CastExpression":
            self._visit(children[-1], in_reset)
            return
        elif kind == "NamedPortConnection":
            self._port(node, children, in_reset)
            return
        elif kind == "ForLoopStatement":
            for child in children:
                self._visit(child, in_reset)
            return
        elif kind == "InvocationExpression":  # not the function's name
            for child in children[1:]:
                self._visit(child, in_reset)
            return
        else:
            self._expression(node, kind, children)
        for child in children:
            self._visit(child, in_reset)

    def _children(self, node: Any) -> list[Any]:
        return [child for child in node if isinstance(child, self.node_type)]

    def _assignment(self, target: Any) -> None:
        """Of a target only what chooses the element."""
        for node in self._all(target):
            if _kind(node) == "BitSelect":
                self._visit(node, in_reset=False)

    def _statement(self, node: Any, expression: Any, in_reset: bool) -> None:
        kind = _kind(expression)
        if kind == "NonblockingAssignmentExpression" or (in_reset and kind == "AssignmentExpression"):
            self._add(node, "reset forgotten" if in_reset else "assignment", "", statement=True)
        elif kind == "AssignmentExpression":
            self._add(node, "variable", "", statement=True)
        if in_reset and kind.endswith("AssignmentExpression"):
            _, value = self._children(expression)
            text = self._text(value)
            opposite = {"'0": "'1", "'1": "'0", "1'b0": "1'b1", "1'b1": "1'b0"}.get(text)
            if opposite:
                self._add(value, "reset value", opposite)

    def _conditional(self, node: Any, children: list[Any], in_reset: bool) -> None:
        predicate, branch, *rest = children
        text = self._text(predicate)
        if text == "!rst_ni":
            self._add(predicate, "reset ignored", "1'b0")
            self._visit(branch, in_reset=True)
        else:
            self._add(predicate, "always", "1'b1")
            self._add(predicate, "never", "1'b0")
            self._add(predicate, "not too many", f"!({text})")
            self._visit(predicate, in_reset)
            self._visit(branch, in_reset)
        for other in rest:
            (body,) = self._children(other)
            if text != "!rst_ni":
                self._add(body, "else", "", statement=True)
            self._visit(body, in_reset=False)

    def _port(self, node: Any, children: list[Any], in_reset: bool) -> None:
        name = self._text(node).partition("(")[0].strip().lstrip(".")
        if not name.endswith("_i") or name == "clk_i" or not children:
            return
        text = self._text(children[0])
        if "+:" in text or re.fullmatch(
            r"weight_i|current_i|reference_i|group|code_i|beat_code_q|sum", text
        ):  # arrays
            return
        self._add(children[0], "port", "'0")
        self._visit(children[0], in_reset)

    def _expression(self, node: Any, kind: str, children: list[Any]) -> None:
        if kind in _SWAPS:
            left, right = (self._text(child) for child in children)
            for name, operator in _SWAPS[kind]:
                self._add(node, name, f"{left} {operator} {right}")
            if kind in _HALVES:
                self._add(node, "operand", left)
                self._add(node, "operand", right)
        elif kind in ("UnaryLogicalNotExpression", "UnaryBitwiseNotExpression"):
            self._add(node, "not", self._text(children[0]))
        elif kind == "UnaryMinusExpression":
            self._add(node, "minus", self._text(children[0]))
        elif kind == "UnaryBitwiseAndExpression":
            self._add(node, "reduction", f"|{self._text(children[0])}")
        elif kind == "UnaryBitwiseOrExpression":
            self._add(node, "reduction", f"&{self._text(children[0])}")
        elif kind == "ConditionalExpression":
            predicate, yes, no = (self._text(child) for child in children)
            self._add(node, "branches", f"{predicate} ? {no} : {yes}")
            self._add(node, "always", yes)
            self._add(node, "never", no)
        elif kind == "UnbasedUnsizedLiteralExpression":
            text = self._text(node)
            self._add(node, "filling", "'1" if text == "'0" else "'0")
        elif kind == "IntegerVectorExpression":
            self._number(node)
        elif kind == "IntegerLiteralExpression":
            self._add(node, "constant", str(int(self._text(node)) + 1))
        elif kind == "BitSelect":
            text = self._text(children[0])
            self._add(children[0], "index", f"{text} + 1")
        elif kind == "ConcatenationExpression" and len(children) == 2:
            first, second = (self._text(child) for child in children)
            self._add(node, "order", f"{{{second}, {first}}}")
        elif kind == "ConcatenationExpression" and len(children) > 2:
            parts = [self._text(child) for child in children]
            self._add(node, "order", "{" + ", ".join([parts[1], parts[0], *parts[2:]]) + "}")
        elif kind == "IdentifierName":
            name = self._text(node)
            alike = self.shapes.get(name, [name])
            if len(alike) > 1:
                self._add(node, "signal", alike[(alike.index(name) + 1) % len(alike)])

    def _number(self, node: Any) -> None:
        match = re.fullmatch(r"(\d+)'([bdh])([0-9a-fA-F_]+)", self._text(node))
        if not match:
            return
        width, base = int(match[1]), {"b": 2, "d": 10, "h": 16}[match[2]]
        value = int(match[3].replace("_", ""), base)
        for other in (value + 1, value - 1):
            if 0 <= other < 1 << width:
                self._add(node, "constant", f"{width}'d{other}")


def _kind(node: Any) -> str:
    return str(node.kind).rpartition(".")[2]
