# SPDX-License-Identifier: Apache-2.0
"""Every promise of `docs/threat-model.md` names a test that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    promised = text.split("## What is promised")[1].split("## What is not promised")[0]
    rows = [
        row
        for row in promised.splitlines()
        if row.startswith("|") and not row.startswith(("| promise", "|---"))
    ]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", row)
        assert named, row
        for path, test in named:
            tree = ast.parse((ROOT / path).read_text())
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
                path,
                test,
            )
