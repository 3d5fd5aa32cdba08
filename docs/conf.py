# SPDX-License-Identifier: Apache-2.0
"""Sphinx: `make docs` builds these pages with sphinx, myst-parser and furo, warnings as errors, into build/docs.

The pages of `reference/` that are tables of what the code holds are written by `generate.py` before each build.
"""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402  # it lies beside this file

project = "ditto-cosim"
release = metadata.version("ditto-cosim")
extensions = ["myst_parser"]  # myst-parser
html_theme = "furo"
html_title = "ditto-cosim"
html_extra_path: list[str] = []
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
# Links to files of the checkout (examples/, rtl/) lead out of these pages; tests/unit/test_docs.py holds every one of them.
suppress_warnings = ["myst.xref_missing"]
nitpicky = True
highlight_language = "none"

generate.write(HERE / "reference")
