# SPDX-License-Identifier: Apache-2.0
"""How to get this run again, and what else lies beside the page."""

from __future__ import annotations

from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section:
    return Section("again", "How to get this again", {"command": shown.report.command_line})
