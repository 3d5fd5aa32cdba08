# SPDX-License-Identifier: Apache-2.0
"""Standard streams that whoever started this process has closed (`ditto … <&- 2>&-`): they lead nowhere, but they are there.

Else the next file or socket that is opened takes their numbers, libraries write into it, and `sys.stderr` is None.
What this file does not do: redirect a stream that is open.
"""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """To be called before anything else is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 (stays open)
