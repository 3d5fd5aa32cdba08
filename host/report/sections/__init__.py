# SPDX-License-Identifier: Apache-2.0
"""The page, section by section: one module and one template each, in the order of `ORDER`.

A module has `section(shown) -> Section | None` (None: nothing to say of this run) and beside it a template of its name,
which sees `shown`, the section's `values` and the filters of `html.py`. A chart is a Vega-Lite specification by name;
the template says where it goes: `<div data-chart="name"></div>`. Data that several charts share lies in the page once
(`page.js` makes the rows): a specification names it, `charts.shared("cells")`.

To add a section: its module, its template, its place in `ORDER`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ditto_cosim.host.report.sections.base import Section, Shown

ORDER = (
    "pictures",
    "verdict",
    "cycles",
    "step_classes",
    "layer_map",
    "layer_table",
    "encoder",
    "sparsity",
    "memory",
    "line",
    "roofline",
    "energy",
    "designs",
    "what_if",
    "robustness",
    "again",
)


def sections(shown: Shown) -> list[Section]:
    """Those that have something to say."""
    found = []
    for name in ORDER:
        make: Callable[[Shown], Section | None] = import_module(f"{__name__}.{name}").section
        if (section := make(shown)) is not None:
            found.append(section)
    return found
