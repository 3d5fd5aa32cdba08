# SPDX-License-Identifier: Apache-2.0
"""Whether the run holds, what it says, and what exactly was verified."""

from __future__ import annotations

from ditto_cosim.host.report import summary, why
from ditto_cosim.host.report.certificate import CERTIFICATE
from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section:
    report, verdict = shown.report, shown.report.verdict
    words = summary.verdict_words(report)
    return Section(
        "verdict",
        "Verdict",
        {
            "words": f"{words[:1].upper()}{words[1:]}.",
            "kind": "" if verdict is None else "good" if verdict.bit_identical else "bad",
            "sentences": why.sentences(report, shown.prices),
            "headline": [line for line in summary.headline(report) if line[0] != "verification"],
            "digests": {} if verdict is None else dict(verdict.digests),
            "versions": dict(report.versions),
            "certificate": CERTIFICATE,
        },
    )
