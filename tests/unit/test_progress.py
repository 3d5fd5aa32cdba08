# SPDX-License-Identifier: Apache-2.0
"""What a person sees while a run goes on: time left on a clock of ours, the bar's end, the picture, the growing page."""

from __future__ import annotations

import http.client
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.live import Live

from ditto_cosim.cli.progress import TimeLeft, _drawing, half_blocks
from ditto_cosim.cli.view import LivePage, serving
from ditto_cosim.host.generation import Watcher
from ditto_cosim.progress import shown_progress
from support.families import compiled

LAYERS = [3, 5, 5, 3, 5, 5]
"""A full step, two increments, twice."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_time_left_is_the_time_that_is_left() -> None:
    """Nine steps of ten seconds, their layers of unequal length: right to a tenth of a step once the first is forgotten."""
    clock = Clock()
    left = TimeLeft([3] * 9, clock)
    assert left.seconds is None
    for step in range(9):
        for at in (1.0, 2.0, 10.0):
            clock.now = 10.0 * step + at
            left.layer(step)
            if step >= 4:
                assert left.seconds == pytest.approx(90.0 - clock.now, abs=1.0)


def test_progress_of_the_first_step_counts_every_layer_that_is_to_come() -> None:
    clock = Clock()
    left = TimeLeft(LAYERS, clock)
    clock.now = 2.0
    left.layer(0)
    assert left.seconds == pytest.approx(2.0 * (sum(LAYERS) - 1))


def report(step: int) -> Any:
    return SimpleNamespace(step=step, name="conv_in", mode="temporal", cycles=7)


def test_progress_ends_at_all_where_steps_differ() -> None:
    """Steps of a cached run have different layers: the bar is full when the last is done, and not before."""
    console, shown = Console(file=io.StringIO(), width=100, force_terminal=True), []
    with Live(console=console) as live:
        drawing = _drawing(Watcher, live, None)
        drawing.opened(LAYERS)
        for step, layers in enumerate(LAYERS):
            for _ in range(layers):
                drawing.layer(report(step))
                with console.capture() as seen:
                    console.print(live.get_renderable())
                (bar,) = (line for line in seen.get().splitlines() if "step" in line)
                shown.append("100%" in bar)
    assert shown == [False] * (sum(LAYERS) - 1) + [True]


def test_progress_bar_of_python_knows_the_layers_of_cached_runs(capsys: pytest.CaptureFixture[str]) -> None:
    program = compiled("dit-icc")
    steps = program.program.layers_by_step(6)
    assert steps[0] != steps[1]
    assert steps == [steps[0], steps[1], steps[1]] * 2
    watching = shown_progress(True, None, None)
    assert watching.on_open is not None
    assert watching.on_layer is not None
    watching.on_open(program, 6)
    for step, layers in enumerate(steps):
        for _ in range(layers):
            assert "100%" not in capsys.readouterr().err
            watching.on_layer(report(step))
    assert "100%" in capsys.readouterr().err


def test_progress_picture_has_two_pixels_a_character() -> None:
    picture = Image.new("RGB", (2, 2))
    for at, colour in {
        (0, 0): (255, 0, 0),
        (1, 0): (0, 255, 0),
        (0, 1): (0, 0, 255),
        (1, 1): (9, 9, 9),
    }.items():
        picture.putpixel(at, colour)
    text = half_blocks(picture, 2)
    assert text.plain == "▀▀\n"
    styles: list[Any] = [span.style for span in text.spans]
    found = [(s.color.triplet, s.bgcolor.triplet) for s in styles]
    wanted = [((255, 0, 0), (0, 0, 255)), ((0, 255, 0), (9, 9, 9))]
    assert found == [tuple(Color.from_rgb(*c).triplet for c in pair) for pair in wanted]


def test_progress_page_is_served_to_this_machine_and_counts_whole_steps(tmp_path: Path) -> None:
    page = LivePage(tmp_path)
    page.layers = LAYERS

    def get(path: str, host: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    with serving(page) as address:
        assert "No step is whole yet" in get("/")[1]
        for step, layers in enumerate(LAYERS):
            for at in range(1, layers + 1):
                page.add(report(step))
                assert get("/steps") == (200, str(step + 1 if at == layers else step))
        assert get("/../etc")[0] == 404
        assert get("/", host="elsewhere.example")[0] == 403
