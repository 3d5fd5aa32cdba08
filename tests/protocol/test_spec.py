# SPDX-License-Identifier: Apache-2.0
"""SPEC.md and messages.py say the same: every message, field, type, default and the version that added it."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, get_args

import msgspec
import pytest

from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import WIRE_ERRORS
from ditto_cosim.protocol.isa import ISA
from ditto_cosim.protocol.version import PROTOCOL_VERSION

SPEC = resources.files("ditto_cosim.protocol").joinpath("SPEC.md").read_text(encoding="utf-8")
HOST = {t.__name__ for t in get_args(m.HostMessage)}
DEVICE = {t.__name__ for t in get_args(m.DeviceMessage)}
PARTS = {"Piece", "TensorHeader", "TensorKey", "RunSpec", "Limits", "LayerReport", "Progress"}


def type_text(info: Any) -> str:
    """A field's type in the words of SPEC.md."""
    kinds = msgspec.inspect
    match info:
        case kinds.BoolType():
            return "bool"
        case kinds.IntType():
            return "integer"
        case kinds.FloatType():
            return "number"
        case kinds.StrType(max_length=most):
            return f"text ≤ {most}"
        case kinds.LiteralType(values=values):
            return "one of " + " ".join(str(v) for v in sorted(map(str, values)))
        case kinds.ListType(item_type=item) | kinds.VarTupleType(item_type=item):
            return f"list of {type_text(item)}"
        case kinds.DictType(value_type=value):
            return f"map to {type_text(value)}"
        case kinds.UnionType(types=types):
            return " or ".join(sorted(type_text(t) for t in types))
        case kinds.StructType(cls=cls):
            return str(cls.__name__)
    raise AssertionError(f"no words for {info}")


def fields_of(name: str) -> list[tuple[str, str, str]]:
    """(field, type, default) of a message or part, in the order of the code."""
    info = msgspec.inspect.type_info(getattr(m, name))
    assert isinstance(info, msgspec.inspect.StructType)
    rows = []
    for field in info.fields:
        default = "required"
        if field.default is not msgspec.NODEFAULT:
            default = msgspec.json.encode(field.default).decode()
        elif field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.json.encode(field.default_factory()).decode()
        rows.append((field.name, type_text(field.type), default))
    return rows


def tables() -> dict[str, list[list[str]]]:
    """Section title -> rows of its first table."""
    found = {}
    for title, body in re.findall(r"^#### (\w+)\n(.*?)(?=^#{2,4} |\Z)", SPEC, re.M | re.S):
        rows = [line for line in body.splitlines() if line.startswith("|")]
        found[title] = [[c.strip().strip("`") for c in row.strip("|").split("|")] for row in rows[2:]]
    return found


def test_spec_names_every_message_and_no_other() -> None:
    assert tables().keys() == HOST | DEVICE | PARTS
    order = SPEC.index("## Device to host")
    for name in HOST:
        assert SPEC.index(f"#### {name}\n") < order
    for name in DEVICE:
        assert SPEC.index(f"#### {name}\n") > order


@pytest.mark.parametrize("name", sorted(HOST | DEVICE | PARTS))
def test_spec_fields_are_the_codes_fields(name: str) -> None:
    written = [(row[0], row[1], row[2]) for row in tables()[name]]
    assert written == fields_of(name)


def test_spec_says_since_when_for_every_field() -> None:
    current = tuple(int(part) for part in PROTOCOL_VERSION.split("."))
    for title, rows in tables().items():
        for row in rows:
            assert len(row) == 5, f"{title}.{row[0]}"
            assert row[4], f"{title}.{row[0]} lacks its meaning"
            assert tuple(int(part) for part in row[3].split(".")) <= current, f"{title}.{row[0]}"


def test_spec_frames_are_the_codes_frames() -> None:
    for name in HOST | DEVICE:
        section = SPEC.split(f"#### {name}\n")[1].split("####")[0]
        says_frames = "Frames:" in section
        has_frames = "frame_count" in vars(getattr(m, name))
        assert says_frames == has_frames, name


def test_spec_lists_every_error_and_version() -> None:
    assert f"Protocol version {PROTOCOL_VERSION}" in SPEC
    for kind in WIRE_ERRORS:
        assert f"`{kind}`" in SPEC, kind


def test_spec_lists_every_command() -> None:
    section = SPEC.split("## Commands")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` ", section, re.M) == list(ISA)
