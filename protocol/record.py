# SPDX-License-Identifier: Apache-2.0
"""What a run records: enough to price it again under any design, and nothing more.

Interface
    Work(groups, rows, k, n)              one multiplication as a backend sees it; the rows are what gets encoded
    layer_work(program, layer, mode)      the works of a layer in a mode: one, or two for temporal attention
    split_k(k, k_max)                     lengths of the chunks a long row is cut into, the longer ones first
    SubOp(work, splits, slots, …)         one multiplication's slot counts, by chunk and row
    LayerRecord(layer, mode, works, …)    what a layer met in a step, in every mode it could have run in
    StepRecord(step, layers)              .to_frames() -> named arrays, StepRecord.from_frames() <- the same
    RunInfo(...)                          what the run was, its chip and design whole
    RunWriter(directory, info)            .append(step_record), .close(outcome); RunWriter.behind(record) goes on
    RunRecord(directory)                  .info, len(), [step] -> StepRecord (read when asked for), iteration, .interrupted

A row of K elements longer than the tile's `k_max` is encoded in chunks, and every chunk costs its own
`max(1, ceil(slots / 4))` cycles a column block; so slots are kept per (chunk, row), not per row. In
`original` every element makes two slots and no array is kept. On disk: `run.json` (with the steps planned), one
compressed `step-NNNN.npz` per step (in `record.zip` once the run has ended: `shelf.py`), and `outcome.json` then. Each is
whole or not there; a record with a step missing in the middle is refused.

What this file does not do: time (the device prices records) and arithmetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol import shelf
from ditto_cosim.protocol.errors import DittoError, IsaError, printable, printable_within
from ditto_cosim.protocol.files import replacing, sweep, write_text
from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.isa import Convolution
from ditto_cosim.protocol.program import Program

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

RECORD_VERSION = 1
STEP = "step-{:04d}.npz"
OUTCOME = "outcome.json"
RUN = "run.json"

TRAFFIC = ("weights", "input", "previous_input", "previous_output", "residual", "output")
"""Classes of DRAM traffic. `previous_output` counts its read and its write back; `residual` is every other value read."""


class RecordError(DittoError):
    """A record that cannot be read or is not what it claims; the message names file, field and expectation."""


@dataclass(frozen=True, slots=True)
class Work:
    """`groups` products of [rows, K] by [K, N]; the rows pass the encoder, the other operand is the weights."""

    groups: int
    rows: int
    k: int
    n: int

    @property
    def macs(self) -> int:
        return self.groups * self.rows * self.k * self.n


def layer_work(program: Program, layer: int, mode: Mode) -> tuple[Work, ...]:
    """The works of one layer. Temporal attention is ΔA·B_prev, then ΔBᵀ·Aᵀ, which yields the transpose."""
    command = program.layers[layer]
    operands, result = program.specs(command.operands), program.values[command.results[0]]
    if command.op in ("conv2d", "conv2d_block"):
        weights, groups = operands[2].shape, Convolution.of(command.attrs).groups
        batch, _, height, width = result.shape
        return (Work(groups, batch * height * width, math.prod(weights[1:]), weights[0] // groups),)
    if command.op in ("linear", "linear_block", "linear_increment"):
        n, k = operands[2].shape
        return (Work(1, operands[0].elements // k, k, n),)
    *batch_axes, m, k = operands[0].shape
    n, groups = operands[2].shape[-1], math.prod(batch_axes)
    first = Work(groups, m, k, n)
    if mode == "temporal" and not command.attrs["static_b"]:
        return first, Work(groups, n, k, m)
    return (first,)


@lru_cache(maxsize=4096)
def split_k(k: int, k_max: int) -> tuple[int, ...]:
    """Lengths of the chunks of a row: as few as fit, as equal as possible, the longer ones first."""
    return chunks_of(k, -(-k // k_max))


def chunks_of(length: int, count: int) -> tuple[int, ...]:
    """`length` cut into `count` pieces, as equal as possible, the longer ones first."""
    short, longer = divmod(length, count)
    return (short + 1,) * longer + (short,) * (count - longer)


@dataclass(frozen=True, slots=True)
class SubOp:
    """One work and what the encoder meets in it."""

    work: Work
    splits: tuple[int, ...]
    """Chunk lengths of K, `split_k(work.k, k_max)` of the geometry that ran."""
    slots: U16 | None
    """[chunks, groups × rows]; None: every element makes two slots (original mode)."""
    zero: int
    low: int
    full: int
    """Elements by class over the whole work. In original mode: of the values themselves, bypassed though they are. Of a
    block-scaled product: codes that are 0, other codes of 4 bits, other codes of 8."""
    channels: U32 | None = None
    """[3, channels] of a product of 4-bit codes: codes other than 0; the same, as often as windows meet them; 1 where the run
    gave the channel to the sparse array."""

    def __post_init__(self) -> None:
        work = self.work
        if sum(self.splits) != work.k:
            raise RecordError(f"record: chunks {self.splits} do not add up to K = {work.k}")
        expected = (len(self.splits), work.groups * work.rows)
        if self.slots is not None and (self.slots.shape != expected or self.slots.dtype != np.uint16):
            raise RecordError(
                f"record: slots are {self.slots.dtype}{self.slots.shape}, expected uint16{expected}"
            )

    @property
    def slot_total(self) -> int:
        if self.channels is not None:
            return int(self.channels[1].sum(dtype=np.int64))
        if self.slots is None:
            return 2 * self.work.groups * self.work.rows * self.work.k
        return int(self.slots.sum(dtype=np.int64))


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer in one step: the mode it ran in, and what every possible mode would have met."""

    layer: int
    """Index into `program.layers`."""
    mode: Mode
    forced: bool
    """The base mode was forced: a scale or zero point changed, so no temporal difference exists."""
    works: Mapping[Mode, tuple[SubOp, ...]]
    """By mode; `temporal` is missing in the first step and where forced."""
    measured_cycles: int | None = None
    """Compute cycles (encode and weight load included) as hardware or RTL counted them, in `mode`."""
    charged_cycles: int | None = None
    """All the cycles the run charged for this layer and the commands behind it; pricing must return the same."""
    traffic_bytes: tuple[int, ...] | None = None
    """DRAM bytes charged, in the order of `TRAFFIC`."""


_LAYER_COLUMNS = 4 + len(TRAFFIC) + 1
_WORK_COLUMNS = 11
COUNTS = 3
"""Rows of `SubOp.channels`."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """All layers of one denoising step, in program order: those that run in steps of its class."""

    step: int
    layers: tuple[LayerRecord, ...]
    charged_cycles: int | None = None
    """Cycles of the whole step as the run charged them."""

    def to_frames(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays: `step` and `layers` and `works` as int64 columns, `slots` as one run of uint16; `channels`, if there are any,
        as one of uint32. The last column of a work says what it keeps: nothing, 1: slots, n > 1: counts of n − 1 channels."""
        layers = np.full((len(self.layers), _LAYER_COLUMNS), -1, np.int64)
        works: list[tuple[int, ...]] = []
        slots: list[U16] = []
        channels: list[U32] = []
        for row, record in zip(layers, self.layers, strict=True):
            row[:5] = (
                record.layer,
                MODES.index(record.mode),
                record.forced,
                -1 if record.measured_cycles is None else record.measured_cycles,
                -1 if record.charged_cycles is None else record.charged_cycles,
            )
            if record.traffic_bytes is not None:
                row[5:] = record.traffic_bytes
            for mode, subops in record.works.items():
                for s in subops:
                    w = s.work
                    shape = (w.groups, w.rows, w.k, w.n)
                    kept = int(s.slots is not None)
                    if s.channels is not None:
                        kept = 1 + s.channels.shape[1]
                        channels.append(s.channels.reshape(-1))
                    works.append(
                        (
                            record.layer,
                            MODES.index(mode),
                            *shape,
                            len(s.splits),
                            s.zero,
                            s.low,
                            s.full,
                            kept,
                        )
                    )
                    if s.slots is not None:
                        slots.append(s.slots.reshape(-1))
        counted = {"channels": np.concatenate(channels)} if channels else {}
        return counted | {
            "step": np.array(
                [self.step, -1 if self.charged_cycles is None else self.charged_cycles], np.int64
            ),
            "layers": layers,
            "works": np.array(works, np.int64).reshape(-1, _WORK_COLUMNS),
            "slots": np.concatenate(slots) if slots else np.zeros(0, np.uint16),
        }

    @classmethod
    def from_frames(cls, frames: Mapping[str, npt.NDArray[Any]]) -> StepRecord:
        """The inverse of `to_frames`, for arrays of unknown origin: anything malformed is a `RecordError`."""
        step, layers, works, slots, counts = _checked(frames)
        by_layer: dict[int, dict[Mode, list[SubOp]]] = {}
        at = counted = 0
        for layer, mode, groups, rows, k, n, chunks, zero, low, full, kept in works.tolist():
            if not 0 <= mode < len(MODES) or min(groups, rows, k, n, chunks) < 1 or chunks > k:
                raise RecordError(
                    f"record: work of layer {layer} has shape {groups, rows, k, n} in {chunks} chunks"
                )
            array: U16 | None = None
            channels: U32 | None = None
            if kept > 1:
                size = COUNTS * (kept - 1)
                if counted + size > counts.size:
                    raise RecordError(f"record: counts of channels end inside layer {layer}")
                channels = counts[counted : counted + size].reshape(COUNTS, kept - 1)
                counted += size
            elif kept:
                size = chunks * groups * rows
                if at + size > slots.size:
                    raise RecordError(
                        f"record: slots end inside layer {layer}: {slots.size} of at least {at + size}"
                    )
                array = slots[at : at + size].reshape(chunks, groups * rows)
                at += size
            subop = SubOp(Work(groups, rows, k, n), chunks_of(k, chunks), array, zero, low, full, channels)
            by_layer.setdefault(layer, {}).setdefault(MODES[mode], []).append(subop)
        if at != slots.size or counted != counts.size:
            raise RecordError(
                f"record: {slots.size - at} slot counts and {counts.size - counted} counts of channels belong to no work"
            )
        records = []
        for layer, mode, forced, measured, charged, *traffic in layers.tolist():
            if not 0 <= mode < len(MODES):
                raise RecordError(
                    f"record: layer {layer} has mode number {mode}, expected 0…{len(MODES) - 1}"
                )
            made = {m: tuple(s) for m, s in by_layer.get(layer, {}).items()}
            records.append(
                LayerRecord(
                    layer,
                    MODES[mode],
                    bool(forced),
                    made,
                    None if measured < 0 else measured,
                    None if charged < 0 else charged,
                    None if traffic[0] < 0 else tuple(traffic),
                )
            )
        index, step_cycles = step.tolist()
        return cls(index, tuple(records), None if step_cycles < 0 else step_cycles)


def _checked(frames: Mapping[str, npt.NDArray[Any]]) -> tuple[I64, I64, I64, U16, U32]:
    expected: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "step": ("int64", (2,)),
        "layers": ("int64", (None, _LAYER_COLUMNS)),
        "works": ("int64", (None, _WORK_COLUMNS)),
        "slots": ("uint16", (None,)),
        "channels": ("uint32", (None,)),
    }
    none = np.zeros(0, np.uint32)  # most runs have no counts of channels
    for name, (dtype, shape) in expected.items():
        array = frames.get(name, none if name == "channels" else None)
        if array is None:
            raise RecordError(f"record: frame {name!r} is missing")
        fits = array.ndim == len(shape) and all(
            w in (None, g) for w, g in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise RecordError(
                f"record: frame {name!r} is {array.dtype}{array.shape}, expected {dtype}{shape}"
            )
    return frames["step"], frames["layers"], frames["works"], frames["slots"], frames.get("channels", none)


@dataclass(frozen=True)
class RunInfo:
    """What was run, on what, and how; everything that pricing and reports need to know."""

    program: Mapping[str, Any]
    """`Program.to_dict()`."""
    model: str
    chip: str
    chip_digest: str
    """Digest of the chip as it was, its name apart: a renamed chip keeps its measurements, an edited one is told apart."""
    design: str
    backend: str
    low_rule: str
    steps: int
    seed: int
    k_max: int
    """Chunk limit the slots were counted with."""
    batch: int = 1
    clock_hz: int = 0
    """The chip's."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of program, weights, RTL, chip and contract, as a verdict names them."""
    chip_description: Mapping[str, Any] = field(default_factory=dict)
    """The chip whole, as the device had it (empty in records of version 0.1: then `chip` names it) …"""
    design_description: Mapping[str, Any] = field(default_factory=dict)
    """… and the design."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Free for reports: prompt, sampler, versions. Pricing never reads it."""

    @classmethod
    def from_dict(cls, data: Any, where: str) -> RunInfo:
        try:
            cls(**data)  # names
            info = msgspec.convert(data, cls)  # types
        except (TypeError, msgspec.ValidationError) as error:
            raise RecordError(f"{where}: not a run's description ({error})") from None
        return replace(  # what terminals are given
            info,
            model=printable(info.model),
            chip=printable(info.chip),
            design=printable(info.design),
            backend=printable(info.backend),
            low_rule=printable(info.low_rule),
            chip_description=printable_within(info.chip_description),
            design_description=printable_within(info.design_description),
        )


class RunWriter:
    """Writes a run's directory step by step; an interrupted run stays readable up to its last whole step."""

    def __init__(self, directory: Path, info: RunInfo) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        (directory / OUTCOME).unlink(missing_ok=True)
        shelf.clear(directory)
        for beside in directory.glob(f"*/{RUN}"):  # streams and parts of an older run
            if not beside.parent.is_symlink():
                beside.unlink()
        self._write(RUN, {"version": RECORD_VERSION, "info": asdict(info)})

    @classmethod
    def behind(cls, record: RunRecord) -> RunWriter:
        """Goes on behind the last step of an interrupted run."""
        writer = cls.__new__(cls)
        writer.directory = record.directory
        sweep(record.directory)
        (record.directory / OUTCOME).unlink(missing_ok=True)
        return writer

    def append(self, step: StepRecord) -> None:
        with replacing(self.directory / STEP.format(step.step)) as path:
            np.savez_compressed(path, **step.to_frames())  # type: ignore[arg-type]  # NumPy's stub types the flag first

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Leaves the run's own summary (picture, verdict, totals) beside its steps; `interrupted` in it says why it ended
        early."""
        self._write(OUTCOME, outcome)

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        write_text(self.directory / name, json.dumps(data))


class RunRecord:
    """A recorded run on disk. Steps are read when asked for and not kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / RUN
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecordError(
                f"{directory}: no run.json here; give the directory a run was written to"
            ) from None
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}: not JSON ({error})") from None
        if not isinstance(data, dict) or data.get("version") != RECORD_VERSION:
            found = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise RecordError(f"{path}: record version {found!r}, this program reads {RECORD_VERSION}")
        self.info = RunInfo.from_dict(data.get("info"), str(path))
        try:
            self.program = Program.from_dict(self.info.program)
        except IsaError as error:
            raise RecordError(f"{path}: {error}") from None
        try:
            self.shelf = shelf.Shelf(directory)
        except ValueError as error:
            raise RecordError(str(error)) from None
        self._count = len(self.shelf.steps("step"))
        expected = [STEP.format(step) for step in range(self._count)]
        if missing := [name for name in expected if not self.shelf.has(name)]:
            raise RecordError(
                f"{directory}: {missing[0]} is missing, later steps are there; a record with a gap cannot be used. "
                "Restore the file, or run again."
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> StepRecord:
        name = STEP.format(range(self._count)[index])
        try:
            return StepRecord.from_frames(self.shelf.arrays(name))
        except (ValueError, OSError, KeyError, RecordError) as error:
            raise RecordError(f"{self.shelf.where(name)}: {error}") from None

    def __iter__(self) -> Iterator[StepRecord]:
        return (self[i] for i in range(len(self)))

    @property
    def outcome(self) -> Mapping[str, Any]:
        """What `close` left, or nothing if the run did not end."""
        path = self.directory / OUTCOME
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}: not JSON ({error})") from None
        if not isinstance(found, dict):
            raise RecordError(f"{path}: a {type(found).__name__}, expected an object")
        return found

    @property
    def interrupted(self) -> str:
        """Empty if the run came to its end, otherwise how far it came and why not further."""
        outcome = self.outcome
        if outcome and not outcome.get("interrupted"):
            return ""
        why = str(outcome.get("interrupted") or "it was killed")
        return f"{len(self)} of {self.info.steps} planned steps: {why}"
