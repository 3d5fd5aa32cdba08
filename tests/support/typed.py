# SPDX-License-Identifier: Apache-2.0
"""A command as a person types it, run in this process: what it says, prints and ends with, without a second's worth of imports.

What this file does not do: tell anything about a process of its own (signals, a terminal); tests of those start one.
"""

from __future__ import annotations

import io
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from ditto_cosim.cli import main


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def ditto(*words: object, status: int = 0) -> Said:
    """`ditto WORDS`, which has to end with this status."""
    out, errors, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    ended: int | str | None = 0
    try:
        with (
            mock.patch.object(sys, "argv", ["ditto", *map(str, words)]),
            redirect_stdout(out),
            redirect_stderr(errors),
        ):
            main()
    except SystemExit as end:
        ended = end.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = Said(int(ended or 0), out.getvalue(), errors.getvalue())
    assert said.returncode == status, said.stderr
    return said
