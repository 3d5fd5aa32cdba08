# SPDX-License-Identifier: Apache-2.0
"""What a step leaves beside its record, so that another process can go on behind it: `ditto resume`.

    inputs-NNNN.npz     what the pipeline asked
    outputs-NNNN.npz    what it was given, with the device's snapshot, the totals, the layer reports, and what verification
                        must know: the dynamic scales and what has been checked so far

Both are written before the step's record, so a step that has a record can be gone behind. What this file does not do:
decide what to do with it (`run.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ditto_cosim.protocol.files import replacing
from ditto_cosim.protocol.messages import LayerReport
from ditto_cosim.protocol.record import RecordError
from ditto_cosim.protocol.shelf import Shelf
from ditto_cosim.protocol.tensors import Array

INPUTS = "inputs-{:04d}.npz"
"""The denoiser's inputs in a step of a recorded run, from which the run can be computed again."""
OUTPUTS = "outputs-{:04d}.npz"
_STATE = "state"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """How far verification had come behind a step."""

    layers: int
    values: int
    delivered: int
    scales: dict[str, float]
    """Of dynamic quantizers."""
    not_checked: list[str]
    """What the verdict takes on trust."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a step left besides its outputs."""

    snapshot: bytes
    totals: dict[str, int]
    reports: list[LayerReport]
    checked: Checked | None
    """None: the run is not verified."""


@dataclass(frozen=True)
class Finished:
    """A whole step."""

    step: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    state: State


def write(directory: Path, finished: Finished) -> None:
    """Leaves a step's inputs and outputs; its record is to follow."""
    write_inputs(directory, finished.step, finished.inputs)
    packed = np.frombuffer(msgspec.msgpack.encode(finished.state), np.uint8)
    outputs = {f"output.{name}": array for name, array in finished.outputs.items()}
    _save(directory / OUTPUTS.format(finished.step), {_STATE: packed, **outputs})


def write_inputs(directory: Path, step: int, inputs: Mapping[str, Array]) -> None:
    """Leaves what a step was asked, alone where it was not completed."""
    _save(directory / INPUTS.format(step), inputs)


def read(directory: Path, step: int) -> Finished:
    """The inverse of `write`; what cannot be gone behind is a `RecordError`."""
    try:
        shelf = Shelf(directory)
    except ValueError as error:
        raise RecordError(str(error)) from None
    inputs, outputs = (_load(shelf, name.format(step)) for name in (INPUTS, OUTPUTS))
    try:
        state = msgspec.msgpack.decode(outputs.pop(_STATE).tobytes(), type=State)
    except (KeyError, msgspec.DecodeError) as error:
        where = shelf.where(OUTPUTS.format(step))
        raise RecordError(f"{where}: not what a step leaves ({type(error).__name__}: {error})") from None
    return Finished(step, inputs, {n.removeprefix("output."): a for n, a in outputs.items()}, state)


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, allow_pickle=False, **arrays)


def _load(shelf: Shelf, name: str) -> dict[str, Array]:
    try:
        return shelf.arrays(name)
    except FileNotFoundError:
        raise RecordError(
            f"{shelf.where(name)} is missing, so nobody can go on behind that step; run again from the start"
        ) from None
    except (ValueError, OSError) as error:
        raise RecordError(f"{shelf.where(name)}: cannot be read ({error})") from None
