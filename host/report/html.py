# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML file that needs nothing else: pictures, charts, their data and what draws them are inside it.

What is said is decided by the sections (`sections/`), what it looks like by `page.css`, what happens on a click by
`page.js`. Vega draws; it comes from the package `vl-convert-python` and is kept in the user's cache, because bundling it
takes seconds.
"""

from __future__ import annotations

import base64
import json
import os
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup
from platformdirs import user_cache_path

from ditto_cosim.host.report import summary
from ditto_cosim.host.report.model import ReportError, RunReport, inside
from ditto_cosim.host.report.prices import Prices
from ditto_cosim.host.report.sections import sections
from ditto_cosim.host.report.sections.base import Shown
from ditto_cosim.protocol.files import replacing
from ditto_cosim.protocol.hardware import MODES

HERE = Path(__file__).parent


def render(report: RunReport, directory: Path, prices: Prices | None) -> str:
    """The page; `directory` is where the report's pictures are."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, HERE / "sections"]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": lambda n: f"{n:,}",
        "share": lambda x: f"{x:.1%}",
        "picture": lambda path: picture(directory, path),
        "megabytes": lambda n: f"{n / 1e6:,.1f} MB",
    }
    shown = Shown(report, prices, directory)
    made = sections(shown)
    parts = [
        (
            s,
            Markup(
                environment.get_template(f"{s.name}.html.j2").render(shown=shown, report=report, **s.values)
            ),
        )
        for s in made
    ]  # its own templates escape what they show
    specs = {name: spec for s in made for name, spec in s.charts.items()}
    return environment.get_template("page.html.j2").render(
        report=report,
        parts=parts,
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=_script((HERE / "page.js").read_text(encoding="utf-8")),
        vega=_script(vega()),
        data=_data(page_data(report, prices)),
        specs=_data(specs),
    )


def page_data(report: RunReport, prices: Prices | None) -> dict[str, Any]:
    """What `page.js` makes rows of: by column, steps first."""
    parts = summary.causes(report)
    return {
        "steps": list(report.steps),
        "names": list(report.names),
        "ops": list(report.ops),
        "modes": list(MODES),
        "mode": report.mode.tolist(),
        "forced": report.forced.tolist(),
        "cycles": report.cycles.tolist(),
        "slots": report.slots.tolist(),
        "zero": report.zero.tolist(),
        "low": report.low.tolist(),
        "full": report.full.tolist(),
        "causes": {summary.CAUSES.get(name, name): array.tolist() for name, array in parts.items()},
        "bytes": {
            name.replace("_", " "): array.sum(0).tolist() for name, array in report.traffic_bytes.items()
        },
        "layers": []
        if prices is None
        else [{"macs": p.macs, "products": p.products, "bytes": p.dram_bytes} for p in prices.layers],
        "chip": None
        if prices is None
        else {"multipliers": prices.multipliers, "bytes_per_cycle": prices.peak_bytes_per_cycle},
        "clock_hz": report.clock_hz,
    }


def picture(directory: Path, path: str) -> str:
    """A picture as an address that holds it."""
    file = inside(directory, path)
    if not file.is_file():
        raise ReportError(
            f"report: picture {path!r} is not in {directory}; pictures are named relative to the run"
        )
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


@cache
def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    name = f"vega-{vl_convert.get_vega_version()}-{metadata.version('vl-convert-python')}.js"
    kept = user_cache_path("ditto-cosim") / "report" / name
    if _ours(kept):
        return kept.read_text(encoding="utf-8")
    text: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub asks for what it defaults
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with replacing(kept) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return text


def _ours(path: Path) -> bool:
    """Nobody else could have written it: what lies there runs in a browser."""
    try:
        found = [path.parent.stat(), path.stat()]
    except FileNotFoundError:
        return False
    return all(s.st_uid == os.getuid() and not s.st_mode & 0o022 for s in found)


def _script(text: str) -> Markup:
    return Markup(text.replace("</script", "<\\/script"))


def _data(value: Any) -> Markup:
    """JSON that a page may hold."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
