# SPDX-License-Identifier: Apache-2.0
"""The picture, how it emerged, and the model's own in fp32 beside it."""

from __future__ import annotations

import math

from ditto_cosim.host.report.sections.base import Section, Shown


def section(shown: Shown) -> Section | None:
    report = shown.report
    if not report.images and not report.strip:
        return None
    psnr = [f"{db:.1f} dB" if math.isfinite(db) else "equal" for db in report.fp32_psnr_db]
    verified = report.verdict is not None and report.verdict.bit_identical
    return Section(
        "pictures",
        "",
        {
            "images": report.images,
            "fp32": report.fp32,
            "psnr": psnr,
            "strip": report.strip,
            "caption": "int8, through the accelerator"
            + ("; the int8 reference gives the same bits" if verified else ""),
        },
    )
