# SPDX-License-Identifier: Apache-2.0
"""Chips and designs as data: strict TOML, shipped beside the code or the user's own by path.

Interface
    names(folder) -> the shipped ones
    read(kind, folder, name_or_path, error) -> Source(name, where, values), `extends` followed
    check(values, types, where, error)      names and types; an unknown one is answered with the nearest known

What it does not do: know a field.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.suggest import did_you_mean

MOST_EXTENDED = 8


@dataclass(frozen=True, slots=True)
class Source:
    """A description as it stands in its file."""

    name: str
    where: str
    values: Mapping[str, Any]


def names(folder: str) -> tuple[str, ...]:
    files = resources.files("ditto_cosim.device").joinpath(folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def read(kind: str, folder: str, name: str | Path, error: type[DittoError], depth: int = 0) -> Source:
    """A shipped description by name, or a TOML file by path; what it extends lies beneath its own values."""
    if depth > MOST_EXTENDED:
        raise error(
            f"{kind} {str(name)!r}: `extends` goes more than {MOST_EXTENDED} deep; it must end in one that has none"
        )
    text, known = str(name), names(folder)
    if text in known:
        source = (
            resources.files("ditto_cosim.device").joinpath(folder, f"{text}.toml").read_text(encoding="utf-8")
        )
        found, where, beside = text, text, Path()
    else:
        path = Path(name)
        if not path.is_file():
            raise error(
                f"{kind} {text!r}: neither a preset ({', '.join(known)}) nor a TOML file that exists"
                f"{did_you_mean(path.stem, known)}"
            )
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as wrong:
            raise error(f"{text}: not TOML, which is text in UTF-8 ({wrong})") from None
        found, where, beside = path.stem, text, path.parent
    try:
        values = tomllib.loads(source)
    except (tomllib.TOMLDecodeError, RecursionError) as wrong:
        raise error(f"{where}: not TOML ({wrong})") from None
    base = values.pop("extends", None)
    if base is None:
        return Source(found, where, values)
    if not isinstance(base, str):
        raise error(f"{where}: extends = {base!r}, expected the name or path of a {kind}")
    below = read(kind, folder, base if base in known else beside / base, error, depth + 1)
    return Source(found, where, _over(below.values, values))


def check(values: Mapping[str, Any], types: Mapping[str, Any], where: str, error: type[DittoError]) -> None:
    """Every name is known and every value of its type."""
    for key, value in values.items():
        if key not in types:
            raise error(f"{where} {key} is unknown{did_you_mean(key, types)}; known: {', '.join(types)}")
        wanted = types[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise error(f"{where} {key} = {value!r} has the wrong type")


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged
