# SPDX-License-Identifier: Apache-2.0
"""What a section is given and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ditto_cosim.host.report.model import RunReport
from ditto_cosim.host.report.prices import Prices


@dataclass(frozen=True)
class Shown:
    """A run as the page has it."""

    report: RunReport
    prices: Prices | None
    directory: Path
    """Where its pictures are."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    """Of its module, its template and its anchor."""
    title: str
    """Empty: no heading."""
    values: Mapping[str, Any] = field(default_factory=dict)
    charts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Vega-Lite by the name that the template gives its place."""
    mark: str = ""
    """Beside the heading: measured, modelled, …"""
