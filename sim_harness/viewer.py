# SPDX-License-Identifier: Apache-2.0
"""A waveform viewer, opened at a time: Surfer or GTKWave, whichever the path has.

    viewer_command(Path("row.vcd"), 1340, ["TOP.tile.cycle_o"]) -> ["gtkwave", …], or None where there is no viewer
    open_viewer(…)                                              -> starts it beside us; its name, or ""

What each is told lies beside the waveform (`row.gtkw`, `row.sucl`), so that it opens there again by hand.
What this file does not do: make waveforms.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

AROUND = 200
"""Units of time before the cursor."""


def viewer_command(waveform: Path, time: int, signals: Sequence[str]) -> list[str] | None:
    """Surfer first; writes what it is told."""
    scopes = sorted({signal.rpartition(".")[0] for signal in signals})
    if found := shutil.which("surfer"):
        script = waveform.with_suffix(".sucl")
        lines = [*(f"scope_add {scope}" for scope in scopes), "zoom_fit", f"cursor_set {time}", "goto_cursor"]
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [found, "--command-file", str(script), str(waveform)]
    if found := shutil.which("gtkwave"):
        saved = waveform.with_suffix(".gtkw")
        lines = [
            f'[dumpfile] "{waveform.resolve()}"',
            f"[timestart] {max(0, time - AROUND)}",
            f"*-5.0 {time} " + " ".join(["-1"] * 26),
            *signals,
        ]
        saved.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [found, str(waveform), str(saved)]
    return None


def open_viewer(waveform: Path, time: int, signals: Sequence[str]) -> str:
    """Where there is a screen to open it on."""
    command = viewer_command(waveform, time, signals)
    if command is None or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return ""
    subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    return Path(command[0]).name
