# SPDX-License-Identifier: Apache-2.0
"""From pixel to flip-flop: which rows of which layers made a pixel in a step of a recorded run, and one of them in RTL again.

    path = path_of_pixel(run, (12, 7), step=3)     layers from the last to the first: row, slots, how far it reaches
    path = path_of_value(run, 3, 1307, (0, 2, 5))  the same for an element of any value, as a failed verification names it
    replayed(run, path, path.stops[0], wave.vcd)   the row's pass in RTL, and the cycle at which it stands in the waveform

A pixel's row of a layer is the one at its own place, followed back through the program (`host/analysis/receptive.py`): the
last convolution has exactly that row; every kernel before it adds neighbours, attention adds all, and `reached` counts them.
Between picture and denoiser there may be a decoder that runs on the host and mixes neighbours: then the place is the latent
cell by ratio. What this file does not do: print, or open a viewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ditto_cosim.host.analysis.receptive import Mask, pixel_mask, rows_behind
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import LayerRecord, RunRecord, layer_work

if TYPE_CHECKING:
    from ditto_cosim.sim_harness.recorded import RowPass
    from ditto_cosim.sim_harness.regression import Reference


class PixelError(DittoError):
    """A pixel, step or layer that a run does not have; the message says what there is."""


@dataclass(frozen=True)
class PathStop:
    """One layer on the way."""

    layer: int
    name: str
    op: str
    mode: str
    """Empty where the step was not completed: its verification failed."""
    rows: int
    """Of the layer's (first) product, its groups one after another."""
    row: int
    """The one at the pixel's place."""
    reached: int
    """Rows that the pixel comes from."""
    elements: int
    """K: of one row."""
    slots: int | None
    """Of the row, in the mode that ran; None where the record has no counts by row."""

    rows_of_one: int
    """Rows of one of its groups."""

    @property
    def group(self) -> int:
        """The product that the row is in."""
        return self.row // self.rows_of_one


@dataclass(frozen=True)
class PixelPath:
    """The way back from a pixel or a value."""

    run: Path
    step: int
    pixel: tuple[int, int] | None
    """Column and row of the picture, from its upper left."""
    picture: tuple[int, int] | None
    """Width and height."""
    place: tuple[int, int] | None
    """Column and row of the denoiser's output."""
    entry: int
    """Of the batch."""
    stops: tuple[PathStop, ...]
    """From the last layer to the first."""
    notes: tuple[str, ...]

    def stop(self, wanted: str) -> PathStop:
        """A layer on the path by name; the last one if none is named."""
        from ditto_cosim.protocol.suggest import did_you_mean

        if not wanted:
            return self.stops[0]
        names = [stop.name for stop in self.stops]
        if wanted not in names:
            raise PixelError(
                f"layer {wanted!r} is not on the path{did_you_mean(wanted, names)}; it has {len(names)}, "
                f"from {names[0]} back to {names[-1]}"
            )
        return self.stops[names.index(wanted)]


def path_of_pixel(run: Path, pixel: tuple[int, int], step: int = -1, picture: int = 0) -> PixelPath:
    """Of one pixel of one picture; the last step unless another is named."""
    record = RunRecord(run)
    step = len(record) - 1 if step < 0 else step
    program = _program(record, step)
    value = next(iter(program.outputs.values()))
    spec = program.values[value]
    if len(spec.shape) < 4:
        raise PixelError(f"{run}: the denoiser's output {spec} has no rows and columns")
    height, width = spec.shape[-2:]
    pictures = _pictures(record, spec.shape[0])
    if not 0 <= picture < pictures:
        raise PixelError(f"{run}: no picture {picture}; there are 0…{pictures - 1}")
    size = _size(record, (width, height))
    if not (0 <= pixel[0] < size[0] and 0 <= pixel[1] < size[1]):
        raise PixelError(
            f"{run}: no pixel {pixel[0]},{pixel[1]}; the picture has columns 0…{size[0] - 1}, rows 0…{size[1] - 1}"
        )
    place = pixel[0] * width // size[0], pixel[1] * height // size[1]
    entries = range(picture, spec.shape[0], pictures)
    notes = []
    if len(entries) > 1:
        notes.append(
            f"guidance: entries {', '.join(map(str, entries))} of the batch make the picture; the last is followed"
        )
    if size != (width, height):
        notes.append(
            f"a decoder on the host makes {size[0]} × {size[1]} pixels of {width} × {height} cells and mixes neighbours: "
            f"the pixel is followed from cell {place[0]},{place[1]}, the one at its place"
        )
    stops = _stops(record, program, step, value, pixel_mask(spec, place[1], place[0], (entries[-1],)))
    return PixelPath(run, step, pixel, size, place, entries[-1], stops, (*notes, *_NOTES))


def path_of_value(run: Path, step: int, value: int, index: tuple[int, ...]) -> PixelPath:
    """Of one element of any value of the program."""
    record = RunRecord(run)
    program = _program(record, step)
    known = {v for command in program.commands for v in command.results}
    if value not in known:
        raise PixelError(f"{run}: no command of step {step} makes value {value}")
    shape = program.values[value].shape
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise PixelError(
            f"{run}: value {value} is {program.values[value]}; it has no element {','.join(map(str, index))}"
        )
    mask = np.zeros(shape, bool)
    mask[index] = True
    stops = _stops(record, program, step, value, mask)
    if not stops:
        raise PixelError(f"{run}: no layer is behind value {value}")
    return PixelPath(run, step, None, None, None, index[0] if index else 0, stops, _NOTES)


def failed_at(run: Path) -> tuple[int, int, tuple[int, ...]] | None:
    """(step, value, element) where the run's verification failed, if it did."""
    verify = RunRecord(run).outcome.get("verify")
    found = verify.get("difference_at") if isinstance(verify, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    return int(found["step"]), int(found["value"]), tuple(int(i) for i in found["element"])


_NOTES = (
    "rows are followed through values; statistics of group norms come from the whole picture and are not counted",
)


def _program(record: RunRecord, step: int) -> Program:
    """What ran in that step."""
    program = record.program
    last = len(record) if record.shelf.has(f"inputs-{len(record):04d}.npz") else len(record) - 1
    if not 0 <= step <= last:
        raise PixelError(f"{record.directory}: no step {step}; there are 0…{last}")
    return program.of(program.step_class(step))


def _pictures(record: RunRecord, batch: int) -> int:
    found = record.outcome.get("pictures")
    return found if isinstance(found, int) and 0 < found <= batch and batch % found == 0 else batch


def _size(record: RunRecord, output: tuple[int, int]) -> tuple[int, int]:
    """The picture's width and height; what older runs do not tell is the output's."""
    found = record.outcome.get("picture_px")
    return (int(found[0]), int(found[1])) if isinstance(found, list) and len(found) == 2 else output


def _stops(record: RunRecord, program: Program, step: int, value: int, mask: Mask) -> tuple[PathStop, ...]:
    own, reach = rows_behind(program, {value: mask}, own=True), rows_behind(program, {value: mask})
    whole = {command.name: i for i, command in enumerate(record.program.layers)}
    recorded = {r.layer: r for r in record[step].layers} if step < len(record) else {}
    stops = []
    for layer, rows in own.items():
        command, reached = program.layers[layer], reach[layer]
        at = np.flatnonzero(rows)
        number = whole[command.name]
        work = layer_work(program, layer, "original")[0]
        first = at[at // work.rows == at[0] // work.rows]  # of heads and groups, the first one's
        row = int(first[len(first) // 2])
        stops.append(_stop(number, command, recorded.get(number), work.k, work.rows, row, reached))
    return tuple(reversed(stops))


def _stop(
    number: int,
    command: Command,
    recorded: LayerRecord | None,
    k: int,
    rows_of_one: int,
    row: int,
    reached: Mask,
) -> PathStop:
    slots = None
    if recorded is not None:
        sub = recorded.works[recorded.mode][0]
        if sub.slots is not None:
            slots = int(sub.slots[:, row].sum())
        elif sub.channels is None:
            slots = 2 * k
    return PathStop(
        layer=number,
        name=command.name,
        op=command.op,
        mode="" if recorded is None else recorded.mode,
        rows=reached.size,
        row=row,
        reached=int(reached.sum()),
        elements=k,
        slots=slots,
        rows_of_one=rows_of_one,
    )


def replayed(path: PixelPath, stop: PathStop, waveform: Path, model: Reference, chunk: int = 0) -> RowPass:
    """The stop's row in RTL again, with the operands that it had; the run is computed up to the step for them."""
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.recapture import recapture, recorded_denoiser
    from ditto_cosim.sim_harness.recorded import replay_row
    from ditto_cosim.sim_harness.regression import SETS

    record = RunRecord(path.run)
    captures = recapture(path.run, recorded_denoiser(record), path.step, [stop.name])
    geometry = load_chip(record.info.chip).geometry
    name = next((name for name, known in SETS.items() if known == geometry), "chip")
    SETS[name] = geometry
    return replay_row(captures[stop.group], stop.row % stop.rows_of_one, chunk, name, model, waveform)


def as_dict(path: PixelPath) -> dict[str, Any]:
    """For `--json`."""
    return {
        "run": str(path.run),
        "step": path.step,
        "pixel": path.pixel,
        "picture": path.picture,
        "place": path.place,
        "entry": path.entry,
        "notes": list(path.notes),
        "layers": [
            {
                "layer": s.layer, "name": s.name, "op": s.op, "mode": s.mode or None, "row": s.row, "rows": s.rows,
                "reached": s.reached, "elements": s.elements, "slots": s.slots,
            }
            for s in path.stops
        ],
    }  # fmt: skip
