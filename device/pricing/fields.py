# SPDX-License-Identifier: Apache-2.0
"""Every field of a chip and a design by its dotted name: what a sweep varies.

    tile.columns, dram.stacks, buffer.megabytes, clock_ghz, …     as in a chip's TOML file
    chip, design                                                  the whole thing, by name or file
    design.policy, design.hetero.threshold, …                     as in a design's TOML file

Interface
    parse_axis("tile.columns=32,64,128") -> Axis(name, values)    lists; ranges 1:4 (both ends), 1:16:5 (by fives), 1:16:*2
                                                                  (doubling); a name that is none: the nearest that is one
    made(chip, design, {name: value}) -> (chip, design)           checked as if it stood in a file
    names() -> all of them

What is not said follows: multipliers keep their share of the lanes' own. What this file does not do: price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any

from ditto_cosim.device.chips import Chip, chip_fields, chip_from_settings, chip_settings, load_chip
from ditto_cosim.device.designs.base import Design, DesignError, Roofline, TwoArrays, load_design
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.suggest import did_you_mean

Value = int | float | bool | str
WHOLE = ("chip", "design")
RECORDED = {
    "tile.low_rule": "it decides what counts as a slot, so a record has it; record a run under each and give both"
}
MOST_VALUES = 10_000


class FieldError(DittoError):
    """A field that nobody knows, or values that cannot be its."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A field and what it takes in turn."""

    name: str
    values: tuple[Value, ...]


def names() -> tuple[str, ...]:
    """Of everything that can be varied."""
    of_design = [
        f"design.{f.name}" for f in fields(Design) if f.name not in ("name", "title", "roofline", "hetero")
    ]
    for table, kind in (("hetero", TwoArrays), ("roofline", Roofline)):
        of_design += [f"design.{table}.{f.name}" for f in fields(kind)]
    return (*WHOLE, *(n for n in chip_fields() if n not in RECORDED), *of_design)


def check_name(name: str) -> str:
    known = names()
    if name in RECORDED:
        raise FieldError(f"--vary {name}: {RECORDED[name]}")
    if name not in known:
        last = {n.rpartition(".")[2]: n for n in reversed(known)}
        near = did_you_mean(name, known) or did_you_mean(name.rpartition(".")[2], last)
        if near and not did_you_mean(name, known):
            short = near.split("'")[1]
            near = f" (did you mean {last[short]!r}?)"
        raise FieldError(
            f"--vary {name}: no chip or design has such a field{near}; `ditto chips NAME` and `ditto designs NAME` list them"
        )
    return name


def parse_axis(text: str) -> Axis:
    """`name=values`."""
    name, sign, values = text.partition("=")
    if not sign or not values.strip():
        raise FieldError(
            f"--vary {text!r}: expected name=values, such as tile.columns=32,64,128 or dram.stacks=1:4"
        )
    name = check_name(name.strip())
    found = parse_values(values, name)
    if not found:
        raise FieldError(f"--vary {text!r}: no value is given; expected a list or a range such as 1:4")
    return Axis(name, found)


def parse_values(text: str, name: str = "") -> tuple[Value, ...]:
    """A list of values and ranges, each value once."""
    found = [v for part in text.split(",") if part.strip() for v in _values(name, part.strip())]
    return tuple(dict.fromkeys(found))


def _values(name: str, part: str) -> list[Value]:
    if name in WHOLE or ":" not in part:
        return [part if name in WHOLE else _value(part)]
    try:
        low, high, *rest = part.split(":")
        by = rest[0] if rest else "1"
        at, end, times = Decimal(low), Decimal(high), by.startswith("*")
        step = Decimal(by.removeprefix("*"))
        grows = at > 0 and step > 1 if times else step > 0
        if len(rest) > 1 or not grows or at > end:
            raise ValueError
    except (InvalidOperation, ValueError):
        raise FieldError(
            f"{_asked(name, part)}: expected first:last, first:last:step or first:last:*factor, upwards, such as 1:4 or 16:256:*2"
        ) from None
    found: list[Value] = []
    while at <= end:
        if len(found) == MOST_VALUES:
            raise FieldError(f"{_asked(name, part)}: more than {MOST_VALUES:,} values")
        found.append(int(at) if at == at.to_integral_value() else float(at))
        at = at * step if times else at + step
    return found


def _asked(name: str, part: str) -> str:
    return f"--vary {name}={part}" if name else part


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            continue
    return text


def made(chip: Chip, design: Design, settings: Mapping[str, Value]) -> tuple[Chip, Design]:
    """What these settings make of a chip and a design; a sentence where they make none."""
    chip = load_chip(str(settings["chip"])) if "chip" in settings else chip
    design = load_design(str(settings["design"])) if "design" in settings else design
    of_design = {k.removeprefix("design."): v for k, v in settings.items() if k.startswith("design.")}
    of_chip = {k: v for k, v in settings.items() if k not in WHOLE and not k.startswith("design.")}
    return (_chip(chip, of_chip) if of_chip else chip), (_design(design, of_design) if of_design else design)


def _chip(base: Chip, settings: Mapping[str, Value]) -> Chip:
    where = f"{base.name} with {told(settings)}"
    channels = {"dram.stacks", "dram.channels"} & settings.keys()
    if channels and base.dram.bytes_per_cycle is not None and "dram.bytes_per_cycle" not in settings:
        raise FieldError(
            f"{where}: its DRAM is a pipe of {base.dram.bytes_per_cycle} bytes a cycle whatever its channels; "
            "vary dram.bytes_per_cycle"
        )
    values = chip_settings(base)
    for name, value in settings.items():
        table, _, key = name.rpartition(".")
        if name == "dram.stacks":
            values["dram"].pop("channels")
        (values[table] if table else values)[key] = value
    if "multipliers" not in settings:
        values.pop("multipliers")
        own = base.tiles * base.geometry.multipliers
        found = chip_from_settings(values, base.name, where)
        if own == base.multipliers:
            return found
        values["multipliers"] = max(1, round(base.multipliers * found.multipliers / own))
    return chip_from_settings(values, base.name, where)


def _design(base: Design, settings: Mapping[str, Value]) -> Design:
    values: dict[str, Any] = {k: v for k, v in asdict(base).items() if v is not None}
    where = f"{base.name} with {told(settings, 'design.')}"
    for name, value in settings.items():
        table, _, key = name.rpartition(".")
        if table and table not in values:
            raise DesignError(
                f"{where}: {base.name} has no [{table}] table; vary it with a design that has one"
            )
        (values[table] if table else values)[key] = value
    return Design.from_description(values, where)


def told(settings: Mapping[str, Value], before: str = "") -> str:
    """In words."""
    return ", ".join(f"{before}{k} = {v}" for k, v in settings.items())
