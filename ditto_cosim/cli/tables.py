# SPDX-License-Identifier: Apache-2.0
"""Tables whose names are whole: what has to be typed again is never cut short, however narrow the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
