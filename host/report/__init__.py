# SPDX-License-Identifier: Apache-2.0
"""What a run shows its user: tables, a page, a timeline, and all of its figures as JSON.

    report = RunReport.of(layer_reports, model=…, design=…, …)
    print_report(report)
    write_report(report, directory)

What this package does not do: run anything, or price a run under another design.
"""

from __future__ import annotations

from pathlib import Path

from ditto_cosim.host.report.model import CheckSummary, ReportError, RunReport, load_report
from ditto_cosim.protocol.files import replacing, write_text

__all__ = [
    "CheckSummary",
    "ReportError",
    "RunReport",
    "load_report",
    "print_report",
    "write_csv",
    "write_figures",
    "write_page",
    "write_report",
]


def write_report(report: RunReport, directory: Path) -> tuple[Path, ...]:
    """Writes `report.json`, `report.html`, `certificate.json`, `layers.parquet` and the timeline beside the run's record.

    Prices that lie there (`prices.json`) are in the page.
    """
    return (*write_figures(report, directory), write_page(report, directory))


def write_figures(report: RunReport, directory: Path) -> tuple[Path, ...]:
    """All of it but the page: what needs no prices."""
    from ditto_cosim.host.report import certificate, columns, timeline  # slow to import

    directory.mkdir(parents=True, exist_ok=True)
    texts = {"report.json": report.to_json(), certificate.CERTIFICATE: certificate.as_json(report)}
    for name, text in texts.items():
        write_text(directory / name, text)
    with replacing(directory / timeline.TIMELINE) as unfinished:
        unfinished.write_bytes(timeline.trace(report))
    written = (*texts, timeline.TIMELINE)
    return (*(directory / name for name in written), columns.write_parquet(report, directory))


def write_page(report: RunReport, directory: Path) -> Path:
    """`report.html`, with the prices that lie there."""
    from ditto_cosim.host.report import html  # drawing is slow to import
    from ditto_cosim.host.report.prices import load_prices

    write_text(directory / "report.html", html.render(report, directory, load_prices(directory)))
    return directory / "report.html"


def write_csv(report: RunReport, directory: Path) -> Path:
    """Its layers and steps as `layers.csv`."""
    from ditto_cosim.host.report import columns

    return columns.write_csv(report, directory)


def print_report(report: RunReport, slow: int = 10) -> None:
    """Prints the run's tables."""
    from ditto_cosim.host.report import terminal

    terminal.print_report(report, slow=slow)
