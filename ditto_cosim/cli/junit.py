# SPDX-License-Identifier: Apache-2.0
"""JUnit XML, which every build server shows: one test case a check, failed ones with what was found."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.protocol.errors import printable
from ditto_cosim.protocol.files import replacing


@dataclass(frozen=True)
class JUnitCase:
    """One check."""

    name: str
    failure: str = ""
    """What was found, its first line as the message; empty: it passed."""
    text: str = ""
    """What a passing check has to say."""


def write_junit(path: Path, suite: str, cases: Sequence[JUnitCase], seconds: float = 0.0) -> None:
    failed = sum(bool(case.failure) for case in cases)
    facts = {
        "name": suite,
        "tests": str(len(cases)),
        "failures": str(failed),
        "errors": "0",
        "time": f"{seconds:.3f}",
    }
    root = ET.Element("testsuites")
    top = ET.SubElement(root, "testsuite", facts)
    for case in cases:
        made = ET.SubElement(top, "testcase", {"classname": suite, "name": printable(case.name), "time": "0"})
        if case.failure:
            lines = printable(case.failure)
            ET.SubElement(made, "failure", {"message": lines.splitlines()[0]}).text = lines
        elif case.text:
            ET.SubElement(made, "system-out").text = printable(case.text)
    with replacing(path) as unfinished:
        ET.ElementTree(root).write(unfinished, encoding="utf-8", xml_declaration=True)
