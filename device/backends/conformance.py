# SPDX-License-Identifier: Apache-2.0
"""Whether a backend does what the device needs of it: what somebody with a new board runs first, and last.

    report = check("my_board:Board", load_chip("tiny"))                         here
    report = check_apart("my_board:Board", "tiny", seconds=60)                  in a process that may hang or die
    report.passed, report.findings, report.values, report.excluded_fault_rate

Every expectation is computed here in plain 64-bit NumPy from the text of `backends/base.py`, and cycles from
the contract (`timing/schedule.py`); no other backend is asked. A backend whose memory stalls it may take longer
than the contract says by as many cycles as it reports as stalls, which are told. What this file does not do: speed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ditto_cosim.device.backends import find_backend
from ditto_cosim.device.backends.base import I8, I32, Backend, Codes, Gemm, GemmResult, has_arrays
from ditto_cosim.device.backends.watched import WatchedBackend
from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.device.core import Activity
from ditto_cosim.device.timing.schedule import work_cycles
from ditto_cosim.protocol.blocks import E4M3_CODES, e4m3_scale
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import MODES, Geometry, Mode
from ditto_cosim.protocol.record import Work, split_k

PROGRESS_S = 60.0
"""A product may take so long, and a second more for every million multiplications."""
BETWEEN_S = 600.0
"""So long may pass between two products: a tile is built, a board configured."""


@dataclass(frozen=True)
class Finding:
    """One check's outcome."""

    check: str
    passed: bool
    text: str


@dataclass
class ConformanceReport:
    """All checks of one backend."""

    backend: str
    chip: str
    findings: list[Finding] = field(default_factory=list)
    values: int = 0
    """Accumulators that were compared."""

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def verdict(self) -> str:
        return "conforms" if self.passed else "does not conform"

    @property
    def excluded_fault_rate(self) -> float | None:
        """Wrong accumulators in all: a greater share than this would have shown itself in `values` with 95 % certainty, were
        faults independent. None if anything was wrong."""
        if not self.passed or not self.values:
            return None
        return float(-np.expm1(np.log(0.05) / self.values))


class _Wrong(Exception):
    """A check failed; the message says where and what was expected."""


OnFinding = Callable[[Finding], None]


def check(
    name: str,
    chip: Chip,
    *,
    seconds: float = 0.0,
    skip: int = 0,
    on_begin: Callable[[str], None] = lambda check: None,
    on_doing: Callable[[Activity | None], None] = lambda activity: None,
    on_finding: OnFinding = lambda finding: None,
) -> ConformanceReport:
    """Runs every check but the first `skip`; a check that fails does not keep the others from running. `seconds` more of
    random products follow."""
    report = ConformanceReport(name, chip.name)
    make = partial(_make, name, chip, on_doing)

    def note(title: str, run: Callable[[], str]) -> None:
        on_begin(title)
        try:
            finding = Finding(title, True, run())
        except _Wrong as wrong:
            finding = Finding(title, False, str(wrong))
        except Exception as error:
            finding = Finding(title, False, f"unexpected {type(error).__name__}: {error}")
        report.findings.append(finding)
        report.values = _compared.values
        on_finding(finding)

    _compared.values = 0
    made: list[Backend] = []
    checks: list[tuple[str, Callable[[], str]]] = [
        (title, lambda test=test: test(made[0], chip))  # type: ignore[misc]  # mypy cannot infer the default's type
        for title, test in _CHECKS
    ]
    checks += [("concurrency", lambda: _concurrency(make, chip))]
    if seconds:
        checks += [("endurance", lambda: _endurance(made[0], chip, seconds))]
    checks += [("closes", lambda: _closes(made[0]))]
    if skip == 0:
        note("starts", lambda: _starts(make, chip, made))
    else:
        made.append(make())
    if made:
        for title, run in checks[max(0, skip - 1) :]:
            note(title, run)
    return report


def _make(name: str, chip: Chip, on_doing: Callable[[Activity | None], None]) -> Backend:
    return WatchedBackend(find_backend(name)(chip), on_doing)


class _Compared(threading.local):
    """Accumulators that the checks of this thread have compared."""

    values = 0


_compared = _Compared()


# --- in a process of its own ----------------------------------------------------------------------------------


def check_apart(
    name: str,
    chip: str,
    *,
    seconds: float = 0.0,
    progress_s: float = PROGRESS_S,
    between_s: float = BETWEEN_S,
    on_finding: OnFinding = lambda finding: None,
) -> ConformanceReport:
    """`check` in another process, which is given up when it makes no progress. Always ends: a check that hangs or kills its
    process has failed, and the next one starts afresh."""
    report = ConformanceReport(name, chip)
    while True:
        child = _Child(name, chip, seconds, len(report.findings))
        try:
            finished = child.follow(report, progress_s, between_s, on_finding)
        finally:
            child.end()
        if (
            finished
            or not report.findings
            or report.findings[0].check != "starts"
            or not report.findings[0].passed
        ):
            return report


class _Child:
    """The other process: it tells what it begins, what it computes and what it finds, a JSON line each."""

    def __init__(self, name: str, chip: str, seconds: float, skip: int) -> None:
        read, write = os.pipe()
        command = [sys.executable, "-m", "ditto_cosim.device.backends.conformance"]
        command += [name, chip, str(seconds), str(skip), str(write)]
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if _has_file(sys.stderr) else subprocess.DEVNULL,
            pass_fds=(write,),
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        os.close(write)
        self._read = read
        self._begun, self._doing, self._macs = "starts", "", 0

    def follow(
        self, report: ConformanceReport, progress_s: float, between_s: float, on_finding: OnFinding
    ) -> bool:
        """Whether it came to its end; otherwise the check that it failed in has been noted."""
        before, buffered, since = report.values, b"", time.monotonic()
        while True:
            allowed_s = progress_s + self._macs / 1e6 if self._doing else between_s
            left_s = max(0.0, since + allowed_s - time.monotonic())
            if not select.select([self._read], [], [], left_s)[0]:
                what = self._doing or "between two products"
                text = f"WatchdogError: {what}: no answer for {time.monotonic() - since:.0f} s; its process was killed"
                break
            data = os.read(self._read, 1 << 16)
            if not data:
                code = self._process.wait()
                how = (
                    f"killed by signal {-code} ({signal.Signals(-code).name})"
                    if code < 0
                    else f"exit status {code}"
                )
                text = f"its process ended: {how}" + (f", in {self._doing}" if self._doing else "")
                break
            buffered += data
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                said, since = json.loads(line), time.monotonic()
                match said["told"]:
                    case "begin":
                        self._begun, self._doing = said["check"], ""
                    case "doing":
                        self._doing, self._macs = said["what"], said["macs"]
                    case "finding":
                        report.values = before + said.pop("values")
                        finding = Finding(said["check"], said["passed"], said["text"])
                        report.findings.append(finding)
                        on_finding(finding)
                    case "end":
                        return True
        finding = Finding(self._begun, False, text)
        report.findings.append(finding)
        on_finding(finding)
        return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)


def _has_file(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, AttributeError, ValueError):
        return False
    return True


def _tell(pipe: int, told: str, **what: object) -> None:
    os.write(pipe, json.dumps({"told": told, **what}).encode() + b"\n")


def main(argv: list[str]) -> None:
    """The other process."""
    name, chip, seconds, skip, pipe = argv[0], argv[1], float(argv[2]), int(argv[3]), int(argv[4])

    def doing(activity: Activity | None) -> None:
        _tell(pipe, "doing", what=activity.what if activity else "", macs=activity.macs if activity else 0)

    check(
        name,
        load_chip(chip),
        seconds=seconds,
        skip=skip,
        on_begin=lambda title: _tell(pipe, "begin", check=title),
        on_doing=doing,
        on_finding=lambda finding: _tell(pipe, "finding", values=_compared.values, **asdict(finding)),
    )
    _tell(pipe, "end")
    os._exit(0)


# --- what is right ------------------------------------------------------------------------------------------


def expected(job: Gemm, geometry: Geometry) -> tuple[I32, I32, tuple[int, int, int]]:
    """Accumulators, slots by row, and elements by class."""
    reference = job.reference if isinstance(job.reference, int) else job.reference.astype(np.int64)
    difference = job.current.astype(np.int64) - reference
    # Binary64 holds these sums exactly, and multiplies faster: 255 · 128 · K stays far below 2⁵³.
    wide = (difference.astype(np.float64) @ job.weights.astype(np.float64)).astype(np.int64)
    accumulators = (wide & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    if job.mode == "original":
        slots = np.full(difference.shape[:2], 2 * difference.shape[2], np.int32)
        return accumulators, slots, (0, 0, difference.size)
    low = (difference >= -8) & (difference <= 7) if geometry.low_rule == "twos4" else np.abs(difference) <= 15
    count = np.where(difference == 0, 0, np.where(low, 1, 2))
    classes = tuple(int((count == n).sum()) for n in range(3))
    return accumulators, count.sum(-1, dtype=np.int32), (classes[0], classes[1], classes[2])


def _verify(job: Gemm, result: GemmResult, geometry: Geometry) -> None:
    groups, rows, k = job.current.shape
    where = f"{job.name} ({job.mode}, {groups}×[{rows}, {k}]·[{k}, {job.weights.shape[2]}])"
    accumulators, slots, classes = expected(job, geometry)
    for what, got, right in (
        ("accumulators", result.accumulators, accumulators),
        ("slots", result.slots, slots),
    ):
        if got.shape != right.shape or got.dtype != np.int32:
            raise _Wrong(f"{where}: {what} are {got.dtype}{got.shape}, expected int32{right.shape}")
        if not np.array_equal(got, right):
            at = tuple(int(i) for i in np.argwhere(got != right)[0])
            wrong = int((got != right).sum())
            raise _Wrong(f"{where}: {wrong} {what} are wrong, first at {at}: {got[at]}, expected {right[at]}")
    if (result.zero, result.low, result.full) != classes:
        got_classes = (result.zero, result.low, result.full)
        raise _Wrong(f"{where}: (zero, low, full) are {got_classes}, expected {classes}")
    _compared.values += accumulators.size


# --- jobs ---------------------------------------------------------------------------------------------------

_Values = Callable[[np.random.Generator, tuple[int, ...]], tuple[I8, I8]]


def _anything(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[I8, I8]:
    return rng.integers(-128, 128, shape).astype(np.int8), rng.integers(-128, 128, shape).astype(np.int8)


def _similar(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[I8, I8]:
    """Mostly zero and low differences, as two steps give them."""
    before = rng.integers(-100, 100, shape)
    return (before + np.rint(rng.standard_normal(shape) * 2).astype(np.int64)).astype(np.int8), before.astype(
        np.int8
    )


def _equal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[I8, I8]:
    values = rng.integers(-128, 128, shape).astype(np.int8)
    return values, values.copy()


def _extreme(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[I8, I8]:
    """Differences of ±255, the ends of both low rules, and their neighbours."""
    ends = np.array([-255, 255, -16, -15, -9, -8, -7, -1, 0, 1, 7, 8, 9, 15, 16])
    difference = rng.choice(ends, shape)
    before = np.clip(np.where(difference > 0, -128, 127), -128, 127)
    return (before + difference).astype(np.int8), before.astype(np.int8)


_DATA: dict[str, _Values] = {"anything": _anything, "similar": _similar, "equal": _equal, "extreme": _extreme}


def _job(
    rng: np.random.Generator,
    mode: Mode,
    shape: tuple[int, int, int, int],
    data: str = "anything",
) -> Gemm:
    groups, rows, k, n = shape
    current, before = _DATA[data](rng, (groups, rows, k))
    weights = rng.integers(-127, 128, (groups, k, n)).astype(np.int8)
    reference: I8 | int = int(before.flat[0]) if mode == "original" else before
    for array in (current, before, weights):
        array.flags.writeable = False
    return Gemm(f"{data} values", current, reference, weights, mode)


def _shapes(geometry: Geometry) -> Iterator[tuple[int, int, int, int]]:
    """groups, rows, K, N: one, odd, exactly the tile's, one more, and several times the tile's."""
    e, c, lanes = geometry.encode_width, geometry.columns, geometry.lanes
    yield 1, 1, 1, 1
    yield 1, lanes + 1, e + 1, c + 1
    yield 2, 3 * lanes, 3 * e, c
    yield 1, 2, geometry.k_max, 2
    yield 1, 2, geometry.k_max + 1, 3
    yield 1, 3, 2 * geometry.k_max + 7, c + 2
    yield 1, 2, 2 * e, geometry.n_max
    yield 1, 2, e, geometry.n_max + 1
    yield 3, 2, 5, 2 * geometry.n_max + c + 1


# --- checks -------------------------------------------------------------------------------------------------


def _starts(make: Callable[[], Backend], chip: Chip, made: list[Backend]) -> str:
    backend = make()
    made.append(backend)
    if backend.geometry != chip.geometry:
        raise _Wrong(f"its tile is {backend.geometry}, the chip {chip.name!r} has {chip.geometry}")
    if not isinstance(backend.name, str) or not backend.name or not isinstance(backend.measures, bool):
        raise _Wrong(f"name = {backend.name!r} or measures = {backend.measures!r} is missing")
    measures = "measures" if backend.measures else "does not measure"
    return f"{backend.name!r}, {measures} cycles, tile {backend.geometry.digest}"


def _exactness(backend: Backend, chip: Chip) -> str:
    rng = np.random.default_rng(1)
    count = 0
    for shape in _shapes(chip.geometry):
        for mode in MODES:
            for data in _DATA:
                job = _job(rng, mode, shape, data)
                _verify(job, backend.gemm(job), chip.geometry)
                count += 1
    return f"{count} products"


def _references(backend: Backend, chip: Chip) -> str:
    """A number as reference in every mode, and all of its range."""
    rng = np.random.default_rng(2)
    for mode in MODES:
        for zero_point in (-128, -1, 0, 1, 127):
            job = _job(rng, mode, (1, 3, 11, 5))
            job = Gemm("zero point", job.current, zero_point, job.weights, mode)
            _verify(job, backend.gemm(job), chip.geometry)
    return "zero points −128 … 127 in every mode"


def _wraps(backend: Backend, chip: Chip) -> str:
    """K beyond the exact range: sums modulo 2³², as partial sums may be."""
    k = 66_500
    current, weights = np.full((1, 1, k), 127, np.int8), np.full((1, k, 1), 127, np.int8)
    job = Gemm("overflowing sum", current, -128, weights, "original")
    _verify(job, backend.gemm(job), chip.geometry)
    return f"K = {k}: sums are taken modulo 2³²"


def _purity(backend: Backend, chip: Chip) -> str:
    rng = np.random.default_rng(3)
    job, other = (_job(rng, "temporal", (1, 5, 13, 9), "similar") for _ in range(2))
    before = [np.copy(a) for a in (job.current, job.reference, job.weights)]
    first = backend.gemm(job)
    kept, slots = first.accumulators.copy(), first.slots.copy()
    backend.gemm(other)
    if not (np.array_equal(first.accumulators, kept) and np.array_equal(first.slots, slots)):
        raise _Wrong("a later product changed an earlier result: results must own their memory")
    if not first.accumulators.flags.writeable:
        raise _Wrong("accumulators are read-only; the layer adds to them in place")
    if any(
        not np.array_equal(a, b)
        for a, b in zip(before, (job.current, job.reference, job.weights), strict=True)
    ):
        raise _Wrong("the operands were changed")
    again = backend.gemm(job)
    if _running(again) != _running(first) or not np.array_equal(again.accumulators, kept):
        raise _Wrong(f"the same product again differs (cycles {first.cycles}, then {again.cycles})")
    return "operands kept, results owned, repetition identical"


def _other_weights(backend: Backend, chip: Chip) -> str:
    rng = np.random.default_rng(4)
    jobs = [_job(rng, "temporal", (1, 2, 9, 7)) for _ in range(5)]
    for job in (*jobs, *reversed(jobs)):
        _verify(job, backend.gemm(job), chip.geometry)
    return "products of one shape, each with weights of its own"


_MODES_AND_DATA: tuple[tuple[Mode, str], ...] = (
    ("original", "anything"),
    ("temporal", "similar"),
    ("spatial", "equal"),
    ("temporal", "extreme"),
)


def _cycles(backend: Backend, chip: Chip) -> str:
    rng = np.random.default_rng(5)
    if not backend.measures:
        if backend.gemm(_job(rng, "temporal", (1, 2, 3, 4))).cycles is not None:
            raise _Wrong("it does not measure, so cycles must be None")
        return "none, as it does not measure"
    stalled, count, total = 0, 0, 0
    for shape in _shapes(chip.geometry):
        for mode, data in _MODES_AND_DATA:
            job = _job(rng, mode, shape, data)
            result = backend.gemm(job)
            _verify_cycles(job, result, chip, f"{shape} ({mode}, {data})")
            stalled, count, total = stalled + result.stalls, count + 1, total + (result.cycles or 0)
    if not stalled:
        return f"{count} products exactly as the contract says"
    return f"{count} products exactly as the contract says, and {stalled} of {total} cycles stalled besides"


def _running(result: GemmResult) -> int | None:
    return None if result.cycles is None else result.cycles - result.stalls


def _verify_cycles(job: Gemm, result: GemmResult, chip: Chip, where: str) -> None:
    cycles, stalls = result.cycles, result.stalls
    if not isinstance(cycles, int) or cycles < 1:
        raise _Wrong(f"{where}: cycles are {cycles!r}, expected a positive integer")
    if not isinstance(stalls, int) or not 0 <= stalls < cycles:
        raise _Wrong(f"{where}: {stalls!r} of {cycles} cycles are stalls, expected 0 to {cycles - 1}")
    least = _contract(job, chip)
    if cycles - stalls != least:
        raise _Wrong(
            f"{where}: {cycles} cycles, {stalls} of them stalls; the contract takes {least} without stalls"
        )


def _contract(job: Gemm, chip: Chip) -> int:
    groups, rows, k = job.current.shape
    work = Work(groups, rows, k, job.weights.shape[2])
    if job.mode == "original":
        return int(work_cycles(chip.geometry, chip.tiles, work, None, chip.adders).total[0])
    slots, at = [], 0
    for length in split_k(k, chip.geometry.k_max):
        part = slice(at, at + length)
        at += length
        reference = job.reference if isinstance(job.reference, int) else job.reference[:, :, part]
        piece = Gemm(job.name, job.current[:, :, part], reference, job.weights[:, part], job.mode)
        slots.append(expected(piece, chip.geometry)[1].reshape(-1))
    return int(
        work_cycles(chip.geometry, chip.tiles, work, np.array([slots], np.int64), chip.adders).total[0]
    )


def _layouts(backend: Backend, chip: Chip) -> str:
    """Operands that do not lie in one piece are views like any other: computed, or refused with a BackendError."""
    rng = np.random.default_rng(6)
    good = _job(rng, "temporal", (2, 3, 10, 6))
    assert not isinstance(good.reference, int)

    def transposed(array: I8) -> I8:
        return np.ascontiguousarray(array.transpose(2, 1, 0)).transpose(2, 1, 0)

    def strided(array: I8) -> I8:
        wide = np.zeros((*array.shape[:2], 2 * array.shape[2]), np.int8)
        wide[..., ::2] = array
        return wide[..., ::2]

    computed = 0
    for lay in (transposed, strided):
        for which in range(3):
            parts = [good.current, good.reference, good.weights]
            parts[which] = lay(parts[which])
            job = Gemm(f"{lay.__name__} operand", parts[0], parts[1], parts[2], "temporal")
            try:
                result = backend.gemm(job)
            except BackendError:
                _verify(good, backend.gemm(good), chip.geometry)
            else:
                _verify(job, result, chip.geometry)
                computed += 1
    return f"{computed} of 6 views computed, the others refused"


def _endurance(backend: Backend, chip: Chip, seconds: float) -> str:
    """Random products of every kind until the time is over."""
    geometry = chip.geometry
    end, count, macs, before = time.monotonic() + seconds, 0, 1 << 18, _compared.values
    while (began := time.monotonic()) < end:
        rng = np.random.default_rng((9, count))
        k = int(rng.integers(1, min(2 * geometry.k_max, 4096) + 2))
        n = min(int(rng.integers(1, 2 * geometry.n_max + 2)), max(1, macs // k))
        groups = int(rng.integers(1, 3))
        shape = groups, int(rng.integers(1, max(1, macs // (k * n * groups)) + 1)), k, n
        mode, data = MODES[count % len(MODES)], list(_DATA)[count // len(MODES) % len(_DATA)]
        job = _job(rng, mode, shape, data)
        result = backend.gemm(job)
        _verify(job, result, geometry)
        if backend.measures:
            _verify_cycles(job, result, chip, f"product {count}, {shape} ({mode}, {data})")
        count += 1
        took_s = time.monotonic() - began
        macs = (
            min(2 * macs, 1 << 24) if took_s < 0.005 else max(macs // 2, 1 << 12) if took_s > 0.05 else macs
        )
    return f"{count} products, {_compared.values - before} values in {seconds:g} s"


def _blocks(backend: Backend, chip: Chip) -> str:
    """Products of block-scaled codes: exact, whatever array a channel goes to, and every code other than 0 met once."""
    inner = getattr(backend, "inner", backend)
    if not has_arrays(inner):
        return "none: this backend has no arrays for them"
    rng, count = np.random.default_rng(11), 0
    numbers = np.array([e4m3_scale(code) for code in range(E4M3_CODES)], np.int32)
    for block, channels, taps, n in ((32, 40, 2, chip.geometry.columns + 1), (16, 16, 1, 1), (64, 33, 1, 3)):
        filled = -(-channels // block) * block
        channel = np.tile(np.where(np.arange(filled) < channels, np.arange(filled), -1), taps).astype(
            np.int32
        )
        for unsigned in (True, False):
            codes = (
                rng.integers(0, 16, (5, len(channel))) if unsigned else rng.integers(-7, 8, (5, len(channel)))
            )
            codes[:, channel < 0] = 0
            codes[rng.random(codes.shape) < 0.5] = 0
            a: Codes = codes.astype(np.uint8) if unsigned else codes.astype(np.int8)
            w = rng.integers(-7, 8, (n, len(channel))).astype(np.int8)
            a_scales = rng.choice(numbers, (5, len(channel) // block))
            w_scales = rng.choice(numbers, (n, len(channel) // block))
            cut = codes.reshape(5, -1, block).transpose(1, 0, 2) @ w.astype(np.int64).reshape(
                n, -1, block
            ).transpose(1, 2, 0)
            right = (cut * a_scales.T[:, :, None].astype(np.int64) * w_scales.T[:, None]).sum(0)
            met = np.array([np.count_nonzero(codes[:, channel == c]) for c in range(channels)])
            for sparse in (np.zeros(channels, bool), np.ones(channels, bool), rng.random(channels) < 0.5):
                made = inner.block_gemm(a, a_scales, w, w_scales, channel, sparse)
                where = f"blocks of {block}, {channels} channels, {int(sparse.sum())} of them sparse, N = {n}"
                if made.acc.shape != right.shape or not np.array_equal(made.acc, right):
                    raise _Wrong(f"{where}: acc is not the exact sum")
                if not np.array_equal(made.nonzero, met):
                    raise _Wrong(
                        f"{where}: codes other than 0 by channel are {made.nonzero.tolist()}, not {met.tolist()}"
                    )
                if backend.measures and (made.dense_cycles is None or made.sparse_cycles is None):
                    raise _Wrong(f"{where}: it measures, and gives no cycles of its arrays")
                if made.audit is not None:
                    made.audit()
                _compared.values += right.size
                count += 1
    return f"{count} products exact, whatever array a channel goes to"


def _concurrency(make: Callable[[], Backend], chip: Chip) -> str:
    """Two runs at once have a backend each, in a thread each."""
    failures: list[Exception] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            backend = make()
            try:
                for _ in range(10):
                    job = _job(
                        rng,
                        "temporal",
                        (1, 4, 3 * chip.geometry.encode_width, chip.geometry.columns),
                        "similar",
                    )
                    _verify(job, backend.gemm(job), chip.geometry)
            finally:
                backend.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise _Wrong(f"two at once: {failures[0]}")
    return "two at once do not mix"


def _closes(backend: Backend) -> str:
    backend.close()
    backend.close()
    return "twice without complaint"


_CHECKS: list[tuple[str, Callable[[Backend, Chip], str]]] = [
    ("exactness", _exactness),
    ("zero points", _references),
    ("overflow", _wraps),
    ("purity", _purity),
    ("other weights", _other_weights),
    ("cycles", _cycles),
    ("layouts", _layouts),
    ("block products", _blocks),
]


if __name__ == "__main__":
    main(sys.argv[1:])
