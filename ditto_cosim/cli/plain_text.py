# SPDX-License-Identifier: Apache-2.0
"""Terminals without UTF-8: what they cannot show is spelled in ASCII instead of ending the command with an error."""

from __future__ import annotations

import codecs
import sys
from io import TextIOWrapper

SPELLED = {
    "×": "x",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": "*",
    "÷": "/",
    "→": "->",
    "←": "<-",
    "≥": ">=",
    "≤": "<=",
    "±": "+-",
    "Σ": "sum",
    "Δ": "d",
    "µ": "u",
    "μ": "u",
    "²": "2",
    "³": "3",
    "é": "e",
    "“": '"',
    "”": '"',
    "’": "'",
    "█": "#",
    "▄": "#",
    "▀": "#",
    "━": "-",
    "─": "-",
    "│": "|",
}


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    met = error.object[error.start : error.end]
    return "".join(SPELLED.get(character, "?") for character in met), error.end


def speak_ascii() -> None:
    """From now on both streams spell out what their encoding lacks."""
    codecs.register_error("ditto.spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="ditto.spell")
