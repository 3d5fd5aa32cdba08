# SPDX-License-Identifier: Apache-2.0
"""What every view of a run is drawn from: per step and layer, what the device reported, and what the run was.

Arrays are [steps, layers], in the order of steps and of the program's layers. `report.json` holds everything:
every view can be made again without the run. What this file does not do: draw, or judge (`summary.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.errors import DittoError, printable_within
from ditto_cosim.protocol.hardware import MODES
from ditto_cosim.protocol.messages import LayerReport
from ditto_cosim.protocol.record import RUN, RunRecord

I64 = npt.NDArray[np.int64]

SCHEMA = "ditto.report"
REPORT_VERSION = 3
ABSENT = -1
"""In place of a mode: the layer has no part in the step (`protocol/program.py`: steps of two classes)."""


class ReportError(DittoError):
    """A report that cannot be made or read; the message says what is missing."""


@dataclass(frozen=True)
class CheckSummary:
    """What `--verify` found, in the words and figures that views show."""

    bit_identical: bool
    layers_checked: int
    values_checked: int
    delivered_checked: int = 0
    """Tensors that the pipeline was given, compared."""
    first_difference: str | None = None
    """Where, in words."""
    snr_db: float | None = None
    """The lowest signal-to-noise ratio against the live fp32 module, of the full steps that were held against it."""
    increment_snr_db: float | None = None
    """The same of increments between full steps, which leave something out by choice."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of what was verified."""
    not_checked: tuple[str, ...] = ()
    """What is taken on trust."""


@dataclass(frozen=True)
class RunReport:
    """One run, ready to be shown."""

    model: str
    design: str
    chip: str
    backend: str
    low_rule: str
    clock_hz: int
    """The chip's clock: what turns cycles into seconds."""
    seed: int
    command_line: str
    """What to type to get this run again."""
    wall_s: float
    names: tuple[str, ...]
    """Layers, in program order."""
    ops: tuple[str, ...]
    steps: tuple[int, ...]
    mode: I64
    """Index into `MODES`, or `ABSENT`."""
    forced: I64
    """1 where a changed scale or zero point forced the base mode."""
    measured: I64
    """1 where RTL or hardware counted the lanes' cycles; elsewhere the cycle contract did."""
    zero: I64
    low: I64
    full: I64
    slots: I64
    cycles: I64
    unit_cycles: Mapping[str, I64]
    """Busy cycles; units overlap."""
    stall_cycles: Mapping[str, I64]
    """Cycles in which the PEs did not work, by cause; with the compute unit's they add up to `cycles`."""
    traffic_bytes: Mapping[str, I64]
    total_cycles: int = 0
    """Of the whole run: the layers' and those of commands before the first layer."""
    verdict: CheckSummary | None = None
    """None: the run was not verified."""
    robust: str = ""
    """Which conclusions hang on a constant that nobody knows, once `ditto compare --robust` has been asked."""
    images: tuple[str, ...] = ()
    """Pictures, as paths relative to the run's directory."""
    strip: tuple[tuple[int, str], ...] = ()
    """Intermediate pictures: step, path."""
    recoveries: int = 0
    """Times the device was restarted and the run went on."""
    period: int = 1
    """A full step, and the increments behind it up to the next (`protocol/program.py`)."""
    fp32: tuple[str, ...] = ()
    """The same pictures as the model itself makes them in fp32, as paths; empty where nobody asked."""
    fp32_psnr_db: tuple[float, ...] = ()
    """Each picture against the one of `fp32`; infinite where they are equal."""
    picture_digests: tuple[str, ...] = ()
    """SHA-256 of each picture's pixels, before it was enlarged."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what made the run."""
    line_bytes: Mapping[str, I64] = field(default_factory=dict)
    """Bytes that crossed the line to a board, by what they carried; empty where no board computed."""
    host_us: Mapping[str, I64] = field(default_factory=dict)
    """Wall-clock since the run began, in microseconds: `asked` and `answered` [steps]; [steps, layers] `arrived` (a layer's
    report), `check_begin` and `check` (its values compared, for how long); −1: it did not happen."""

    @property
    def classified(self) -> npt.NDArray[np.bool_]:
        """Where an encoder told zero, low and full apart."""
        return self.mode > MODES.index("original")

    @property
    def increments(self) -> npt.NDArray[np.bool_]:
        """Which steps are not full."""
        return np.array(self.steps) % self.period > 0

    @classmethod
    def of(cls, reports: Sequence[LayerReport], **run: Any) -> RunReport:
        """From what the device sent; a layer reported again (after a recovery) counts once."""
        if not reports:
            raise ReportError("report: the run reported no layers; run at least one step first")
        latest = {(r.step, r.layer): r for r in reports}
        steps = sorted({step for step, _ in latest})
        layers = sorted({layer for _, layer in latest})
        period: int = run.get("period", 1)
        of_class: dict[bool, set[int]] = {}
        for step, layer in latest:
            of_class.setdefault(step % period > 0, set()).add(layer)
        missing = [(s, i) for s in steps for i in sorted(of_class[s % period > 0]) if (s, i) not in latest]
        if missing:
            raise ReportError(
                f"report: step {missing[0][0]} has no report of layer {missing[0][1]} "
                f"({len(missing)} missing in all); report whole steps only"
            )
        rows = [[latest.get((s, i)) for i in layers] for s in steps]
        named = {layer: report for (_, layer), report in latest.items()}

        def array(value: Any, absent: int = 0) -> I64:
            return np.array([[absent if r is None else int(value(r)) for r in row] for row in rows], np.int64)

        def by_name(attribute: str) -> dict[str, I64]:
            keys = dict.fromkeys(k for r in latest.values() for k in getattr(r, attribute))
            return {k: array(lambda r, k=k: getattr(r, attribute).get(k, 0)) for k in keys}

        cycles = array(lambda r: r.cycles)
        run.setdefault("total_cycles", int(cycles.sum()))
        return cls(
            names=tuple(named[i].name for i in layers),
            ops=tuple(named[i].op for i in layers),
            steps=tuple(steps),
            mode=array(lambda r: MODES.index(r.mode), ABSENT),
            forced=array(lambda r: r.forced_base),
            measured=array(lambda r: r.measured),
            zero=array(lambda r: r.zero),
            low=array(lambda r: r.low),
            full=array(lambda r: r.full),
            slots=array(lambda r: r.slots),
            cycles=cycles,
            unit_cycles=by_name("unit_cycles"),
            stall_cycles=by_name("stall_cycles"),
            traffic_bytes=by_name("traffic_bytes"),
            line_bytes=by_name("line_bytes"),
            **run,
        )

    def to_json(self) -> str:
        data = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return json.dumps(
            {"schema": SCHEMA, "version": REPORT_VERSION, "modes": list(MODES), **data}, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str) -> RunReport:
        """The inverse of `to_json`, for text of unknown origin: anything malformed is a `ReportError`."""
        try:
            data = printable_within(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ReportError(f"report: not JSON ({error})") from None
        if not isinstance(data, dict):
            raise ReportError(f"report: a {type(data).__name__}, expected an object")
        version, modes = data.pop("version", None), data.pop("modes", None)
        data.pop("schema", None)
        if version != REPORT_VERSION or modes != list(MODES):
            raise ReportError(
                f"report: version {version!r} with modes {modes}, this program reads {REPORT_VERSION}"
            )
        known = {f.name: f.type for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        if wrong := (needed - data.keys()) | (data.keys() - known.keys()):
            raise ReportError(f"report: fields {', '.join(sorted(wrong))} are missing or unknown")
        hints = get_type_hints(cls)
        made = {name: _typed(name, str(known[name]), hints[name], value) for name, value in data.items()}
        size = len(made["steps"]), len(made["names"])
        if any(made[name].shape != size for name, kind in known.items() if kind == "I64"):
            raise ReportError(f"report: figures of layers are not {size[0]} steps of {size[1]} layers")
        by_name = [a for n in ("unit_cycles", "stall_cycles", "traffic_bytes") for a in made[n].values()]
        if any(array.shape != size for array in by_name) or len(made["ops"]) != size[1]:
            raise ReportError(f"report: figures by name are not {size[0]} steps of {size[1]} layers")
        if made["clock_hz"] < 1 or made.get("period", 1) < 1:
            raise ReportError("report: clock and period are positive numbers")
        return cls(**made)


def inside(directory: Path, path: str) -> Path:
    """A file of a run, by a path that somebody else may have written: what lies elsewhere is nobody's to show."""
    file = directory / path
    if not file.resolve().is_relative_to(directory.resolve()):
        raise ReportError(f"report: {path!r} is not in {directory}; pictures are named relative to the run")
    return file


def load_report(directory: Path) -> RunReport:
    """The report a run left in its directory."""
    path = directory / "report.json"
    if not path.exists():
        if (directory / RUN).exists() and (why := RunRecord(directory).interrupted):
            raise ReportError(
                f"{directory}: no report yet, the run was interrupted after {why}; `ditto resume {directory}` goes on"
            )
        raise ReportError(f"{directory}: no report.json here; give the directory a run was written to")
    try:
        report = RunReport.from_json(path.read_text(encoding="utf-8"))
        for picture in (*report.images, *report.fp32, *(name for _, name in report.strip)):
            inside(directory, picture)
        return report
    except (UnicodeDecodeError, ReportError) as error:
        raise ReportError(f"{path}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, CheckSummary):
        return vars(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _typed(name: str, annotation: str, hint: Any, value: Any) -> Any:
    try:
        if annotation == "I64":
            return np.array(value, np.int64)
        if annotation.startswith("Mapping[str, I64"):
            return {k: np.array(v, np.int64) for k, v in value.items()}
        return msgspec.convert(value, hint)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ReportError(f"report: {name} cannot be read ({error})") from None
