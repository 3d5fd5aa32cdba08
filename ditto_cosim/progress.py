# SPDX-License-Identifier: Apache-2.0
"""A bar for runs from Python: layers of all steps, cycles so far; a widget in a notebook, a line in a terminal.

Whoever watches already goes on being told. What this file does not do: the command line's bar (`cli/progress.py`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.wire.client import OnLayer
from ditto_cosim.protocol.messages import LayerReport

OnOpen = Callable[[Compiled, int], None]


@dataclass(frozen=True, slots=True)
class Watching:
    """What `accelerate` calls when a run opens and when a layer is done."""

    on_open: OnOpen | None
    on_layer: OnLayer | None


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def shown_progress(progress: bool | None, on_open: OnOpen | None, on_layer: OnLayer | None) -> Watching:
    """The two calls with a bar in front of them; None: in notebooks."""
    if not (in_notebook() if progress is None else progress):
        return Watching(on_open, on_layer)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # without ipywidgets a notebook gets the terminal's bar, which does as well
        from tqdm.auto import tqdm

    bars: list[Any] = []
    spent = 0

    def opened(compiled: Compiled, steps: int) -> None:
        nonlocal spent
        for bar in bars:
            bar.close()
        spent = 0
        bars[:] = [tqdm(total=sum(compiled.program.layers_by_step(steps)), unit=" layers", desc="ditto")]
        if on_open is not None:
            on_open(compiled, steps)

    def layer(report: LayerReport) -> None:
        nonlocal spent
        spent += report.cycles
        for bar in bars:
            bar.set_postfix_str(f"step {report.step}, {spent:,} cycles", refresh=False)
            bar.update()
            if bar.n == bar.total:
                bar.close()
        if on_layer is not None:
            on_layer(report)

    return Watching(opened, layer)
