# SPDX-License-Identifier: Apache-2.0
"""`ditto generate --view`: the report of a run that is going on, served to a browser on this machine.

    with viewing(wanted, watching(…), directory) as watcher: …

The page is the report of the steps that are whole, made when it is asked for; it asks every two seconds whether there are
more and loads itself again. Only this machine is answered, and only under the server's own name, so that no other page can
read it. It ends with the run: the finished report is a file.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditto_cosim.host.generation import Watcher
    from ditto_cosim.protocol.messages import LayerReport

LOOPBACK = "127.0.0.1"
WAITING = "<!doctype html><meta charset=utf-8><title>ditto</title><p>No step is whole yet.</p>"
AGAIN = """<script>
setInterval(async () => {
  try { if (await (await fetch("/steps")).text() !== "%s") location.reload(); } catch {}
}, 2000);
</script>"""


class LivePage:
    """What has been reported so far, as a page."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._reports: list[LayerReport] = []
        self.layers: Sequence[int] = ()
        """How many each step has."""

    def add(self, report: LayerReport) -> None:
        with self._lock:
            self._reports.append(report)

    @property
    def whole(self) -> int:
        """Steps of which every layer is there."""
        with self._lock:
            done, found = len(self._reports), 0
        for layers in self.layers:
            done -= layers
            found += done >= 0
        return found

    def html(self) -> str:
        from ditto_cosim.host.report import RunReport
        from ditto_cosim.host.report.html import render
        from ditto_cosim.protocol.record import RunRecord

        steps = self.whole
        again = AGAIN % steps
        if not steps:
            return WAITING + again
        with self._lock:
            reports = [r for r in self._reports if r.step < steps]
        record = RunRecord(self._directory)
        info = record.info
        report = RunReport.of(
            reports,
            model=info.model,
            design=info.design,
            chip=info.chip,
            backend=info.backend,
            low_rule=info.low_rule,
            clock_hz=info.clock_hz,
            seed=info.seed,
            command_line=str(info.extra.get("command", "")),
            wall_s=0.0,
            period=record.program.period,
        )
        return render(report, self._directory, None).replace("</body>", f"{again}</body>")


@contextmanager
def serving(page: LivePage) -> Iterator[str]:
    """The page's address, while inside."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host") != f"{LOOPBACK}:{server.server_port}":
                self.send_error(403)
                return
            pages: dict[str, tuple[str, Callable[[], str]]] = {
                "/": ("text/html", page.html),
                "/steps": ("text/plain", lambda: str(page.whole)),
            }
            if self.path not in pages:
                self.send_error(404)
                return
            kind, make = pages[self.path]
            body = make().encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing: the terminal belongs to the run."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def viewing(wanted: bool, watched: AbstractContextManager[Watcher], directory: Path) -> Iterator[Watcher]:
    """The watcher, and beside it the live page if it is wanted."""
    with watched as watcher:
        if not wanted:
            yield watcher
            return
        import webbrowser

        page = LivePage(directory)
        tell_opened, tell_layer = watcher.opened, watcher.layer

        def opened(layers: Sequence[int]) -> None:
            page.layers = page.layers or layers
            tell_opened(layers)

        def layer(report: LayerReport) -> None:
            page.add(report)
            tell_layer(report)

        watcher.opened, watcher.layer = opened, layer  # type: ignore[method-assign]  # one watcher, told by two
        with serving(page) as address:
            watcher.say(f"the report grows at {address}")
            if sys.stderr.isatty():
                with contextlib.suppress(webbrowser.Error):
                    webbrowser.open(address)
            yield watcher
