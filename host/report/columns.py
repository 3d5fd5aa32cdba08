# SPDX-License-Identifier: Apache-2.0
"""A run as one table, a row a step and layer: `layers.parquet`, and `layers.csv` where somebody asks for it.

    polars.read_parquet("runs/demo/layers.parquet")        pandas.read_parquet(…) reads the same

`COLUMNS` is the schema and its documentation (docs/record.md holds the same table, by a test). Its version is in the
file's own metadata (`schema`, `version`) and rises when a column goes or changes its meaning; new columns are added at
the end. What this file does not do: price anything; energies are in `ditto price`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditto_cosim.protocol.files import replacing
from ditto_cosim.protocol.hardware import MODES
from ditto_cosim.protocol.record import TRAFFIC

if TYPE_CHECKING:
    import polars

    from ditto_cosim.host.report.model import RunReport

SCHEMA, VERSION = "ditto.layers", 1
PARQUET, CSV = "layers.parquet", "layers.csv"

UNIT_NAMES = ("encode", "compute", "weight_load", "vector", "dram")
LINE_NAMES = ("weights", "operands", "results")
STALL_NAMES = ("encode", "weight_load", "vector", "dram", "fill")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type in Polars' words, and what a number in it is."""

    name: str
    dtype: str
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("step", "Int32", "denoising step, 0 is the first"),
    Column("layer", "Int32", "position in the program, from 0"),
    Column("name", "String", "the layer's name in the model"),
    Column("op", "String", "`conv2d`, `linear` or `matmul` (attention)"),
    Column("mode", "String", "how it ran: `original`, `temporal` or `spatial`"),
    Column("forced", "Boolean", "a changed scale or zero point forced the base mode"),
    Column("measured", "Boolean", "RTL or a board counted the lanes' cycles; otherwise the contract did"),
    Column("zero", "Int64", "elements that the encoder met as zero (in original mode: of the values)"),
    Column("low", "Int64", "elements of one slot"),
    Column("full", "Int64", "elements of two slots"),
    Column("slots", "Int64", "4-bit multiplier operands that reached the PEs"),
    Column("cycles", "Int64", "from the end of the layer before to its own; they add up to the step's"),
    *(Column(f"unit_{n}_cycles", "Int64", f"busy cycles, `{n}`; units overlap") for n in UNIT_NAMES),
    *(Column(f"stall_{n}_cycles", "Int64", f"cycles in which the PEs waited, `{n}`") for n in STALL_NAMES),
    *(Column(f"dram_{n}_bytes", "Int64", f"DRAM bytes, {n.replace('_', ' ')}") for n in TRAFFIC),
    *(Column(f"line_{n}_bytes", "Int64", f"bytes over the line to a board for {n}, frames and all") for n in LINE_NAMES),
)  # fmt: skip


def frame(report: RunReport) -> polars.DataFrame:
    """The table; `COLUMNS` in order."""
    import numpy as np
    import polars as pl

    from ditto_cosim.host.report.model import ABSENT

    steps, layers = report.cycles.shape
    none = np.zeros((steps, layers), np.int64)
    data: dict[str, Any] = {
        "step": np.repeat(np.asarray(report.steps), layers),
        "layer": np.tile(np.arange(layers), steps),
        "name": list(report.names) * steps,
        "op": list(report.ops) * steps,
        "mode": [None if mode == ABSENT else MODES[mode] for mode in report.mode.reshape(-1)],
        "forced": report.forced.reshape(-1).astype(bool),
        "measured": report.measured.reshape(-1).astype(bool),
    }
    data |= {n: getattr(report, n).reshape(-1) for n in ("zero", "low", "full", "slots", "cycles")}
    for prefix, found, names, unit in (
        ("unit", report.unit_cycles, UNIT_NAMES, "cycles"),
        ("stall", report.stall_cycles, STALL_NAMES, "cycles"),
        ("dram", report.traffic_bytes, TRAFFIC, "bytes"),
        ("line", report.line_bytes, LINE_NAMES, "bytes"),
    ):
        data |= {f"{prefix}_{n}_{unit}": found.get(n, none).reshape(-1) for n in names}
    table = pl.DataFrame(data, schema={c.name: getattr(pl, c.dtype) for c in COLUMNS})
    return table.filter(pl.col("mode").is_not_null())  # not of layers that have no part in a step


def write_parquet(report: RunReport, directory: Path) -> Path:
    with replacing(directory / PARQUET) as unfinished:
        frame(report).write_parquet(unfinished, metadata={"schema": SCHEMA, "version": str(VERSION)})
    return directory / PARQUET


def write_csv(report: RunReport, directory: Path) -> Path:
    with replacing(directory / CSV) as unfinished:
        frame(report).write_csv(unfinished)
    return directory / CSV


def documentation() -> str:
    """The schema as a table of Markdown."""
    rows = [f"| `{c.name}` | {c.dtype} | {c.meaning} |" for c in COLUMNS]
    return "\n".join(["| column | type | a number in it is |", "|---|---|---|", *rows])
