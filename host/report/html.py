# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML file that needs nothing else: pictures and plots are inside it."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from ditto_cosim.host.report import plots, summary
from ditto_cosim.host.report.model import ReportError, RunReport
from ditto_cosim.host.report.sparsity import read_counts
from ditto_cosim.protocol.hardware import MODES

SLOW_LAYERS = 12


def render(report: RunReport, directory: Path) -> str:
    """The page; `directory` is where the report's pictures are."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    by_cause = sorted(summary.cycles_by_cause(report).items(), key=lambda item: -item[1])
    total = max(sum(cycles for _, cycles in by_cause), 1)
    traffic = {name: int(array.sum()) for name, array in report.traffic_bytes.items()}
    classified = bool((report.mode != MODES.index("original")).any())
    verdict = report.verdict
    counts = read_counts(directory)
    return environment.get_template("report.html.j2").render(
        report=report,
        images=[_picture(directory, path) for path in report.images],
        strip=[(step, _picture(directory, path)) for step, path in report.strip],
        headline=[line for line in summary.headline(report) if line[0] != "verification"],
        verdict=_sentence(summary.verdict_words(report)),
        verdict_class="" if verdict is None else "good" if verdict.bit_identical else "bad",
        measured=summary.measured_words(report),
        causes=[(summary.CAUSES.get(name, name), cycles, cycles / total) for name, cycles in by_cause],
        cause_sentence=_cause_sentence(report, dict(by_cause), total),
        forced=int(report.forced.sum()),
        forced_shares=summary.forced_shares(report),
        decisions=summary.decisions(report),
        shares=[(mode, share) for mode in MODES if any((share := summary.shares(report, mode)).values())],
        slowest=summary.slowest(report, SLOW_LAYERS),
        traffic=[
            (name.replace("_", " "), count, count / max(sum(traffic.values()), 1))
            for name, count in sorted(traffic.items(), key=lambda item: -item[1])
        ],
        plots={
            "mode_map": _inline(plots.mode_map(report)),
            "cycles_by_step": _inline(plots.cycles_by_step(report)),
            "shares_by_step": _inline(plots.shares_by_step(report)) if classified else "",
            "sparsity_map": _inline(plots.sparsity_map(counts)) if counts is not None else "",
        },
        counts=counts,
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _cause_sentence(report: RunReport, by_cause: dict[str, int], total: int) -> str:
    working = by_cause.get("compute", 0) / total
    waits = {name: cycles for name, cycles in by_cause.items() if name != "compute" and cycles}
    text = f"The PEs worked in {working:.0%} of the {report.cycles.sum():,} cycles of all layers"
    if not waits:
        return f"{text}."
    worst = max(waits, key=lambda name: waits[name])
    return f"{text}; the largest loss: {summary.CAUSES.get(worst, worst)} ({waits[worst] / total:.0%})."


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _picture(directory: Path, path: str) -> str:
    file = directory / path
    if not file.is_file():
        raise ReportError(
            f"report: picture {path!r} is not in {directory}; pictures are named relative to the run"
        )
    return _inline(file.read_bytes())
