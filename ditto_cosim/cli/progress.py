# SPDX-License-Identifier: Apache-2.0
"""What a person sees while a run goes on: steps, an honest time left, modes, cycles beside ITC's, the forming picture.

Interface
    watching(silent) -> a Watcher: draws on standard error if that is a terminal, says sentences if not, nothing if silent
    TimeLeft                       how long the rest takes, from how long what is done took
    half_blocks(picture, columns)  a picture in characters, two pixels each

Everything drawn comes from the device's own reports. ITC computes every value, so one recorded step says what each of its
steps takes. What this file does not do: price (`device/pricing/`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from ditto_cosim.host.generation import Watcher
    from ditto_cosim.protocol.messages import LayerReport

PICTURE_COLUMNS = 32
REDRAWN_S = 1.0
"""A guess is drawn no more often: decoding latents takes time."""
REMEMBERED_STEPS = 3


class TimeLeft:
    """The rest of a run in seconds. Steps differ (the first is computed whole, the second tries differences), so the mean of
    the last few counts; inside a step, the moments at which its predecessor's layers came."""

    def __init__(self, layers: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        """`layers`: how many each step has."""
        self._layers, self._clock = layers, clock
        self._began = self._step_began = clock()
        self._step = 0
        self._lengths: list[float] = []
        self._came: list[float] = []
        self._before: list[float] = []
        """When each layer of the step before came, from its begin."""

    def layer(self, step: int) -> None:
        """A layer of a step is done."""
        now = self._clock()
        if step != self._step:
            self._lengths = [*self._lengths, now - self._step_began][-REMEMBERED_STEPS:]
            self._step, self._step_began = step, now
            self._before, self._came = self._came, []
        self._came.append(now - self._step_began)

    @property
    def seconds(self) -> float | None:
        """None while nothing is known."""
        spent = self._clock() - self._step_began
        done = len(self._came)
        if not done:
            return None
        if not self._lengths:  # the first step: layers are all there is to count
            return spent * (sum(self._layers) - done) / done
        mean = sum(self._lengths) / len(self._lengths)
        last = self._before[-1] if self._before else 0.0
        reached = (
            self._before[min(done, len(self._before)) - 1] / last if last else done / self._layers[self._step]
        )
        return max(mean * (1 - reached), 0.0) + mean * (len(self._layers) - self._step - 1)


def clock(seconds: float | None) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "…"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def half_blocks(picture: Any, columns: int = PICTURE_COLUMNS) -> Text:
    """The picture, `columns` wide; a character holds an upper and a lower pixel."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    rows = max(2, round(columns * picture.height / picture.width / 2) * 2)
    pixels = picture.convert("RGB").resize((columns, rows))
    text = Text()
    for y in range(0, rows, 2):
        for x in range(columns):
            upper, lower = (Color.from_rgb(*pixels.getpixel((x, y + half))) for half in (0, 1))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text


@contextmanager
def watching(silent: bool, directory: Path | None = None) -> Iterator[Watcher]:
    """Sentences and, on a terminal, a picture of the run on standard error; `directory` is where its record will be."""
    from ditto_cosim.host.generation import Watcher

    if silent:
        yield Watcher()
        return

    class Speaking(Watcher):
        def say(self, text: str) -> None:
            print(text, file=sys.stderr)

    if not sys.stderr.isatty():
        yield Speaking()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        yield _drawing(Speaking, live, directory)


def _drawing(speaking: Any, live: Any, directory: Path | None) -> Watcher:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    class Drawing(speaking):  # type: ignore[misc]  # a class made above
        def __init__(self) -> None:
            self.left: TimeLeft | None = None
            self.began = time.monotonic()
            self.cycles = self.done = self.steps = self.total = 0
            self.of_whole_steps = 0
            self.modes: dict[str, int] = {}
            self.now = "starting the device"
            self.step = 0
            self.itc: int | None = None
            self.picture: Text | None = None
            self.drawn_at = 0.0

        def say(self, text: str) -> None:
            live.console.print(text, highlight=False)

        def opened(self, layers: Sequence[int]) -> None:
            self.total, self.steps, self.left = sum(layers), len(layers), TimeLeft(layers)

        def layer(self, report: LayerReport) -> None:
            assert self.left is not None
            if report.step != self.step:
                self.step, self.of_whole_steps, self.modes = report.step, self.cycles, {}
                if self.itc is None and directory is not None:
                    self.itc = itc_step_cycles(directory)
            self.left.layer(report.step)
            self.cycles += report.cycles
            self.done += 1
            self.modes[report.mode] = self.modes.get(report.mode, 0) + 1
            self.now = f"{report.name} ({report.mode})"
            live.update(self.look())

        def guess(self, step: int, draw: Callable[[], Any]) -> None:
            if time.monotonic() - self.drawn_at >= REDRAWN_S:
                self.picture = half_blocks(draw())
                self.drawn_at = time.monotonic()

        def look(self) -> Group:
            width = live.console.width
            left = None if self.left is None else self.left.seconds
            line = Table.grid(padding=(0, 1))
            line.add_row(
                f"step {self.step + 1}/{self.steps}",
                ProgressBar(total=max(self.total, 1), completed=self.done, width=max(10, width - 52)),
                f"{self.done / max(self.total, 1):4.0%}",
                f"{clock(time.monotonic() - self.began)}, {clock(left)} left",
            )
            met = sum(self.modes.values())
            shares = (
                ", ".join(f"{mode} {count / met:.0%}" for mode, count in self.modes.items()) if met else ""
            )
            beside = ""
            if self.itc and self.of_whole_steps:
                beside = f"  {self.itc * self.step / self.of_whole_steps:.2f}× ITC"
            facts = Text(
                f"{self.cycles:,} cycles{beside}  {shares}", style="dim", no_wrap=True, overflow="ellipsis"
            )
            now = Text(self.now, style="dim", no_wrap=True, overflow="ellipsis")
            return Group(*([self.picture] if self.picture is not None else []), line, facts, now)

    return Drawing()


def itc_step_cycles(directory: Path) -> int | None:
    """What a step takes under ITC, from the first recorded one; None where that cannot be said."""
    from ditto_cosim.device.designs.base import load_design
    from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, price_run
    from ditto_cosim.protocol.errors import DittoError
    from ditto_cosim.protocol.record import RunRecord

    try:
        record = RunRecord(directory)
        columns = RecordColumns(record.program, record.info, [record[0]])
        return int(price_run(columns, chip_of(record.info), load_design("itc")).step_cycles[0])
    except (DittoError, IndexError):
        return None
