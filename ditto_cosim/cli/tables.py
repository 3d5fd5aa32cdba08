# SPDX-License-Identifier: Apache-2.0
"""Tables whose names are whole: what has to be typed again is never cut short, however narrow the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def show_table(table: Table) -> None:
    """Prints it at the terminal's width, or at the width that its unbroken columns need if that is more."""
    import sys

    from rich.console import Console
    from rich.measure import Measurement

    console = Console() if sys.stdout.isatty() else Console(width=120)
    asked = Measurement.get(console, console.options.update(max_width=10_000), table)
    needed = asked.maximum if all(column.no_wrap for column in table.columns) else asked.minimum
    Console(width=max(console.width, needed)).print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of a study, columns as wide as they need to be; nothing where there are none."""
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    print(f"\n{title}")
    for line in (names, *cells):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
