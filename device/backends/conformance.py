"""Whether a backend does what the device needs of it: what somebody with a new board runs first, and last.

    report = check("my_board:Board", load_chip("tiny"))
    report.passed, report.findings

Every expectation is computed here in plain 64-bit NumPy from the text of `backends/base.py`, and cycles from
the contract (`timing/schedule.py`); no other backend is asked. A backend whose memory stalls it may take longer
than the contract says, which is reported; it can never be faster. What this file does not do: speed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ditto_cosim.device.backends import find_backend
from ditto_cosim.device.backends.base import I8, I32, Backend, Gemm, GemmResult
from ditto_cosim.device.chips import Chip
from ditto_cosim.device.timing.schedule import work_cycles
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import MODES, Geometry, Mode
from ditto_cosim.protocol.record import Work, split_k


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

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)


class _Wrong(Exception):
    """A check failed; the message says where and what was expected."""


def check(
    name: str, chip: Chip, *, on_finding: Callable[[Finding], None] = lambda finding: None
) -> ConformanceReport:
    """Runs every check; a check that fails does not keep the others from running."""
    report = ConformanceReport(name, chip.name)

    def note(title: str, run: Callable[[], str]) -> None:
        try:
            finding = Finding(title, True, run())
        except _Wrong as wrong:
            finding = Finding(title, False, str(wrong))
        except Exception as error:
            finding = Finding(title, False, f"unexpected {type(error).__name__}: {error}")
        report.findings.append(finding)
        on_finding(finding)

    made: list[Backend] = []
    note("starts", lambda: _starts(name, chip, made))
    if made:
        backend = made[0]
        for title, test in _CHECKS:
            note(title, partial(test, backend, chip))
        note("concurrency", lambda: _concurrency(name, chip))
        note("closes", lambda: _closes(backend))
    return report


# --- what is right ------------------------------------------------------------------------------------------


def expected(job: Gemm, geometry: Geometry) -> tuple[I32, I32, tuple[int, int, int]]:
    """Accumulators, slots by row, and elements by class."""
    reference = job.reference if isinstance(job.reference, int) else job.reference.astype(np.int64)
    difference = job.current.astype(np.int64) - reference
    wide = difference @ job.weights.astype(np.int64)
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


def _starts(name: str, chip: Chip, made: list[Backend]) -> str:
    backend = find_backend(name)(chip)
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
    if again.cycles != first.cycles or not np.array_equal(again.accumulators, kept):
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
    worst, exact, count = 0.0, 0, 0
    for shape in _shapes(chip.geometry):
        for mode, data in _MODES_AND_DATA:
            job = _job(rng, mode, shape, data)
            cycles = backend.gemm(job).cycles
            if not isinstance(cycles, int) or cycles < 1:
                raise _Wrong(f"{job.name} ({mode}): cycles are {cycles!r}, expected a positive integer")
            least = _contract(job, chip)
            if cycles < least:
                raise _Wrong(
                    f"{shape} ({mode}, {data}): {cycles} cycles, the contract takes {least} unstalled"
                )
            worst, exact, count = max(worst, cycles / least - 1), exact + (cycles == least), count + 1
    return f"{exact} of {count} products exactly as the contract says, the rest ≤ {100 * worst:.1f} % longer"


def _contract(job: Gemm, chip: Chip) -> int:
    groups, rows, k = job.current.shape
    work = Work(groups, rows, k, job.weights.shape[2])
    if job.mode == "original":
        return int(work_cycles(chip.geometry, chip.tiles, work, None).total[0])
    slots, at = [], 0
    for length in split_k(k, chip.geometry.k_max):
        part = slice(at, at + length)
        at += length
        reference = job.reference if isinstance(job.reference, int) else job.reference[:, :, part]
        piece = Gemm(job.name, job.current[:, :, part], reference, job.weights[:, part], job.mode)
        slots.append(expected(piece, chip.geometry)[1].reshape(-1))
    return int(work_cycles(chip.geometry, chip.tiles, work, np.array([slots], np.int64)).total[0])


def _layouts(backend: Backend, chip: Chip) -> str:
    """Operands that do not lie in one piece are views like any other: computed, or refused with a
    BackendError."""
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


def _concurrency(name: str, chip: Chip) -> str:
    """Two runs at once have a backend each, in a thread each."""
    failures: list[Exception] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            backend = find_backend(name)(chip)
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
]
