# SPDX-License-Identifier: Apache-2.0
"""The picture of a report in the README: `python docs/screenshot.py RUN` draws a run's report in a headless Chromium.

`make docs` runs it on `runs/demo`, where `make demo` has left one. Chromium is $DITTO_CHROMIUM, one on the path, or
Playwright's own; `npm install @sparticuz/chromium` brings one where nothing else does (its executablePath() unpacks it).
Without a run or a Chromium the picture that is there stays, and a line says so.
"""

import io
import os
import shutil
import sys
from pathlib import Path

PICTURE = Path(__file__).parent / "pictures" / "report.png"
SIZE = {"width": 1180, "height": 1290}
COLOURS = 128
"""Of the picture: text and flat colours need no more."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def screenshot(page: Path, picture: Path) -> bool:
    """False where there is no browser."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        named = os.environ.get("DITTO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
        program = named or playwright.chromium.executable_path
        if not Path(program).is_file():
            return False
        arguments = ["--no-sandbox", "--disable-gpu", "--no-zygote", "--font-render-hinting=none"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
        drawn = tab.screenshot()
        browser.close()
    whole = Image.open(io.BytesIO(drawn)).convert("RGB")
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    return True


def main(run: Path) -> None:
    page = run / "report.html"
    if not page.is_file():
        print(f"{PICTURE.name} stays as it is: no {page} (`make demo` makes one)")
    elif screenshot(page, PICTURE):
        print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB, of {page}")
    else:
        print(f"{PICTURE.name} stays as it is: no Chromium here; $DITTO_CHROMIUM may name one")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
