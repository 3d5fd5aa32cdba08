# SPDX-License-Identifier: Apache-2.0
"""`ditto models --coverage`: how far every denoiser class of the installed diffusers comes."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from ditto_cosim.cli.output import emit


def show_coverage(as_json: bool) -> None:
    """Captures, lowers and runs each class in a small size; a table, or `classes: [{class, captured, lowered, exact, …}]`."""
    import diffusers
    from rich.console import Console
    from rich.progress import track

    from ditto_cosim.coverage import CoverageReport, cover, denoisers

    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # diffusers and export warn about themselves
    console = Console(stderr=True)
    found: list[CoverageReport] = [
        cover(name)
        for name in track(denoisers(), "taking every class to the device", console=console, transient=True)
    ]
    if as_json:
        emit(
            "models coverage",
            {"diffusers": diffusers.__version__, "classes": [row.to_dict() for row in found]},
        )
        return
    _table(found, f"diffusers {diffusers.__version__}")


def _table(found: list[Any], version: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "captured", "lowered", "exact", "layers", "commands", "SNR", "missing", box=None)
    for row in found:
        marks = ("yes" if reached else "no" for reached in (row.captured, row.lowered, row.exact))
        snr = "—" if row.snr_db is None else f"{row.snr_db:.0f} dB"
        table.add_row(row.name, *marks, str(row.layers), str(row.commands), snr, "; ".join(row.missing)[:200])
    Console().print(table)
    counts = [sum(getattr(row, name) for row in found) for name in ("captured", "lowered", "exact")]
    print(
        "\n{}: of {} denoiser classes {} are captured, {} lowered, {} exact on the device. "
        "SNR: int8 with random weights against fp32.".format(version, len(found), *counts)
    )
