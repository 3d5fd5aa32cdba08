# SPDX-License-Identifier: Apache-2.0
"""`ditto chips`, `designs`, `backends`: what can be named, and every parameter of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto_cosim.cli import completion
from ditto_cosim.cli.output import emit

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]


def chips(
    name: Annotated[
        str, typer.Argument(help="A preset or a TOML file; all if left out", autocompletion=completion.chips)
    ] = "",
    design: Annotated[
        str,
        typer.Option(
            "--design", help="The design that area and power are of", autocompletion=completion.designs
        ),
    ] = "ditto",
    as_json: AsJson = False,
) -> None:
    """The chips that ship, or every parameter of one, defaults filled in; area and the power with all units at work."""
    from ditto_cosim.device.chips import Chip, chip_names, load_chip
    from ditto_cosim.device.designs.base import load_design
    from ditto_cosim.device.pricing.area import area, peak_power_w

    of = load_design(design)

    def size(chip: Chip) -> dict[str, Any]:
        return {"area_mm2": round(area(chip, of).mm2, 3), "power_w": round(peak_power_w(chip, of), 3)}

    def row(chip: Chip) -> dict[str, Any]:
        return {
            "chip": chip.name,
            "multipliers": chip.multipliers,
            "lanes": f"{chip.tiles} × {chip.geometry.lanes}",
            "PEs": chip.geometry.columns,
            "clock": f"{chip.clock_ghz:g} GHz",
            "buffer": f"{chip.buffer_bytes / 2**20:g} MB",
            "DRAM": f"{chip.dram.channels} channels",
            "mm²": f"{area(chip, of).mm2:,.1f}",
            "W at most": f"{peak_power_w(chip, of):,.1f}",
            "timing": chip.timing,
        }

    if name:
        chip = load_chip(name)
        parts = [asdict(part) for part in area(chip, of).parts]
        whole = {"digest": chip.digest, **asdict(chip), **size(chip)}
        shown = {**whole, "area": parts} if as_json else whole
        _one("chip", chip.name, shown, _words("chips", name), as_json)
        if not as_json:
            _parts(parts, design)
        return
    found = [load_chip(n) for n in chip_names()]
    if as_json:
        emit("chips", {"chips": [{"digest": c.digest, **asdict(c), **size(c)} for c in found]})
        return
    _all([row(c) for c in found], {c.name: _words("chips", c.name) for c in found})
    print(
        "\nditto chips NAME prints every parameter; --chip takes a name or a TOML file of yours (examples/my_chip.toml)."
    )


def designs(
    name: Annotated[
        str,
        typer.Argument(help="A preset or a TOML file; all if left out", autocompletion=completion.designs),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """The designs that ship, or every parameter of one, defaults filled in."""
    from ditto_cosim.device.designs.base import Design, design_names, load_design

    def row(design: Design) -> dict[str, Any]:
        return {
            "design": design.name,
            "title": design.title,
            "multipliers": f"{design.multipliers:,}",
            "datapath": design.datapath,
            "policy": design.policy,
            "base mode": design.base_mode,
            "exact": "yes" if design.exact else "no",
        }

    if name:
        design = load_design(name)
        _one(
            "design",
            design.name,
            {"digest": design.digest, **asdict(design)},
            _words("designs", name),
            as_json,
        )
        return
    found = [load_design(n) for n in design_names()]
    if as_json:
        emit("designs", {"designs": [{"digest": d.digest, **asdict(d)} for d in found]})
        return
    _all([row(d) for d in found], {})
    print("\nditto designs NAME prints every parameter; `ditto compare RUN` prices a run under all of them.")


def backends(
    name: Annotated[
        str,
        typer.Argument(
            help="A backend, or module:Class; all if left out", autocompletion=completion.backends
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Who can compute a layer's products: what ships, what is installed beside it, or one in detail."""
    from ditto_cosim.device.backends import names

    found = [_backend(n) for n in ([name] if name else names())]
    if as_json:
        emit("backend", found[0]) if name else emit("backends", {"backends": found})
    elif name:
        _one("backend", name, {k: v for k, v in found[0].items() if k != "what"}, found[0]["what"], False)
    else:
        _all(
            [{k: row[k] for k in ("backend", "cycles", "made of")} for row in found],
            {r["backend"]: r["what"] for r in found},
        )
        print("\nYours: module:Class with `gemm` (docs/backends.md); `ditto conform module:Class` checks it.")


def _backend(name: str) -> dict[str, Any]:
    import inspect

    from ditto_cosim.device.backends import find_backend

    made: Any = find_backend(name)
    kind = getattr(made, "func", made)
    measured = getattr(kind, "measures", None)
    doc = inspect.getdoc(inspect.getmodule(kind)) or inspect.getdoc(kind) or ""
    return {
        "backend": name,
        "cycles": {True: "measured", False: "from the contract"}.get(measured, "as it says itself")
        if isinstance(measured, bool)
        else "as it says itself",
        "made of": f"{kind.__module__}:{kind.__qualname__}",
        "what": doc.split("\n\n")[0].replace("\n", " "),
    }


# --- pieces -------------------------------------------------------------------------------------------------------------


def _parts(parts: list[dict[str, Any]], design: str) -> None:
    """What the area consists of, and whose figures these are."""
    print(f"\narea under {design}, 45 nm (docs/area.md):")
    for p in parts:
        print(
            f"  {p['name']:<13} {p['mm2']:>9,.3f} mm²  {p['leakage_w']:>7.3f} W leak  {p['word']}: {p['source']}"
        )


def _words(folder: str, name: str) -> str:
    """What the comment at a description's top says."""
    place: Any = resources.files("ditto_cosim.device").joinpath(folder, f"{name}.toml")
    if not place.is_file():
        place = Path(name)
    lines = []
    for line in place.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _one(kind: str, name: str, values: Mapping[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        emit(kind, {kind: name, "what": words, **values})
        return
    print(name if not words else f"{name}: {words}")
    flat = dict(_flat(values))
    width = max(map(len, flat))
    for key, value in flat.items():
        print(f"  {key:<{width}}  {value}")


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{above}{key}.")
        elif key != "name":
            found.append(
                (
                    above + key,
                    f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}",
                )
            )
    return found


def _all(rows: list[dict[str, Any]], words: Mapping[str, str]) -> None:
    from rich.table import Table

    from ditto_cosim.cli.tables import show_table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, no_wrap=True, justify="right" if name in ("multipliers", "PEs") else "left")
    if words:
        table.add_column("what it is")
    for row in rows:
        table.add_row(*map(str, row.values()), *([words[next(iter(row.values()))]] if words else []))
    show_table(table)
