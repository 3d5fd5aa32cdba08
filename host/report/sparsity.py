# SPDX-License-Identifier: Apache-2.0
"""What a run's record says of its 4-bit layers: zero codes by channel and step, and which channels were tagged sparse.

What this file does not do: draw (`plots.py`), or take time (`ditto study sq_dm` has the arrays' use and the sweeps).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.record import RUN, RunRecord


@dataclass(frozen=True, slots=True)
class ChannelCounts:
    """Of all 4-bit layers in program order, channel by channel."""

    zeros: npt.NDArray[np.float64]
    """[channels of all layers, steps]: share of zero codes."""
    sparse: npt.NDArray[np.bool_]
    """The same, as the run tagged them."""
    layers: tuple[str, ...]
    starts: tuple[int, ...]
    """Where each layer's channels begin."""

    @property
    def flips(self) -> npt.NDArray[np.float64]:
        """[steps − 1]: share of tags that differ from the step before."""
        changed: npt.NDArray[np.float64] = (self.sparse[:, 1:] != self.sparse[:, :-1]).mean(axis=0)
        return changed


def read_counts(directory: Path) -> ChannelCounts | None:
    """From the record in a run's directory; None if it has no 4-bit layers."""
    if not (directory / RUN).is_file():
        return None
    record = RunRecord(directory)
    program = record.program
    if not any(c.op in BLOCK_LAYER_OPS for c in program.layers):
        return None
    zeros: dict[str, list[npt.NDArray[np.float64]]] = {}
    sparse: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for step in record:
        for layer in step.layers:
            channels = layer.works[layer.mode][0].channels
            if channels is None:
                continue
            command = program.layers[layer.layer]
            pixels = program.values[command.operands[0]].elements // channels.shape[1]
            zeros.setdefault(command.name, []).append(1 - channels[0] / pixels)
            sparse.setdefault(command.name, []).append(channels[2] > 0)
    if not zeros:
        return None
    sizes = [len(steps[0]) for steps in zeros.values()]
    return ChannelCounts(
        np.concatenate([np.stack(steps, 1) for steps in zeros.values()]),
        np.concatenate([np.stack(steps, 1) for steps in sparse.values()]),
        tuple(zeros),
        tuple(np.cumsum([0, *sizes[:-1]]).tolist()),
    )
