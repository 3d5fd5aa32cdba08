# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, where this machine has one; a test that needs it says so where it has not.

$DITTO_CHROMIUM names one; otherwise `chromium`, `chromium-browser`, `google-chrome` on the path, or Playwright's own
(`playwright install chromium`). Where none of these can be had: `npm install @sparticuz/chromium` brings a compressed one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """Skips the test where there is none."""
    with sync_playwright() as playwright:
        named = os.environ.get("DITTO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
        path = named or playwright.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip("no Chromium here: set DITTO_CHROMIUM, or `playwright install chromium`")
        found = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--no-zygote", "--font-render-hinting=none"],
        )
        try:
            yield found
        finally:
            found.close()
