# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from top to bottom, in ipykernel, and say today what they said when they were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))


def said(notebook: Any) -> list[str]:
    """Results as text, cell by cell; pictures and streams left out."""
    return [
        output["data"].get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]


def test_notebooks_are_there_for_three_readers() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["architect", "diffusers", "rtl"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p.stem == "rtl" else pytest.mark.long, id=p.stem) for p in NOTEBOOKS],
)
def test_notebook_runs_and_says_what_it_shows(path: Path, tmp_path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    shown = said(kept)
    assert len(shown) >= 3, "kept without its results: run and save it"
    NotebookClient(kept, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert said(kept) == shown
