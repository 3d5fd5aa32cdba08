# SPDX-License-Identifier: Apache-2.0
"""The board backend against the Verilated board behind a pseudo-terminal, and the cables in between that real boards have."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ditto_cosim.device.backends import board as board_module
from ditto_cosim.device.backends import board_link, find_backend
from ditto_cosim.device.backends.base import Gemm
from ditto_cosim.device.backends.board import REGISTER, BoardBackend, SerialPort, choose_port
from ditto_cosim.device.backends.model import ModelBackend
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.timing.lane import tile_times
from ditto_cosim.protocol.errors import BackendError, ParametersError, WatchdogError
from ditto_cosim.sim_harness.board import SimulatedBoard

TINY = load_chip("tiny")


class Cable:
    """A serial line between a host and a board that damages what it carries: a fraction of bytes flipped or lost, each way."""

    def __init__(self, port: str, seed: int, flipped: float, lost: float) -> None:
        self._host, terminal = os.openpty()
        tty.setraw(terminal, termios.TCSANOW)
        self._terminal = terminal
        self.port = os.ttyname(terminal)
        self._board = os.open(port, os.O_RDWR | os.O_NOCTTY)
        self._random, self._flipped, self._lost = random.Random(seed), flipped, lost
        self.damaged = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        others = {self._host: self._board, self._board: self._host}
        while not self._stopping.is_set():
            ready, _, _ = select.select(list(others), [], [], 0.05)
            for end in ready:
                data = self._damage(os.read(end, 4096))
                while data:
                    data = data[os.write(others[end], data) :]

    def _damage(self, data: bytes) -> bytes:
        kept = bytearray()
        for byte in data:
            chance = self._random.random()
            if chance < self._lost:
                self.damaged += 1
            elif chance < self._lost + self._flipped:
                self.damaged += 1
                kept.append(byte ^ 1 << self._random.randrange(8))
            else:
                kept.append(byte)
        return bytes(kept)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for end in (self._host, self._terminal, self._board):
            os.close(end)


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatedBoard]:
    board = SimulatedBoard(TINY.geometry)
    yield board
    board.close()


@pytest.fixture
def backend(simulated: SimulatedBoard) -> Iterator[BoardBackend]:
    made = BoardBackend(TINY, simulated.port)
    yield made
    made.close()


def product(
    rows: int, k: int, n: int, mode: Any = "temporal", *, groups: int = 1, step: int = 6, seed: int = 0
) -> Gemm:
    """Operands whose differences go up to `step`; beyond 127 they cross as two bytes."""
    rng = np.random.default_rng(seed)
    current = rng.integers(-128, 128, (groups, rows, k), dtype=np.int8)
    moved = current.astype(np.int16) + rng.integers(-step, step + 1, current.shape)
    reference: Any = np.clip(moved, -128, 127).astype(np.int8)
    if mode == "original":
        reference = -7
    weights = rng.integers(-128, 128, (groups, k, n), dtype=np.int8)
    return Gemm("layer", current, reference, weights, mode)


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found.accumulators, expected.accumulators)
    np.testing.assert_array_equal(found.slots, expected.slots)
    assert (found.zero, found.low, found.full) == (expected.zero, expected.low, expected.full)


@pytest.mark.parametrize(
    "job",
    [
        product(1, 1, 1),
        product(7, 30, 9, "original"),
        product(70, 300, 70, groups=2),
        product(65, 576, 64, "spatial", step=255),
        product(200, 16, 5, "temporal", step=255),
    ],
    ids=["one", "original", "groups", "two-byte", "many-rows"],
)
def test_board_computes_what_the_model_computes(backend: BoardBackend, job: Gemm) -> None:
    assert_same(backend.gemm(job), ModelBackend(TINY).gemm(job))


def test_board_extremes_fit_the_three_bytes_that_results_cross_in(backend: BoardBackend) -> None:
    k = TINY.geometry.k_max
    current, reference = np.full((1, 3, k), -128, np.int8), np.full((1, 3, k), 127, np.int8)
    weights = np.full((1, k, 8), -128, np.int8)
    weights[..., ::2] = 127
    job = Gemm("extremes", current, reference, weights, "temporal")
    assert_same(backend.gemm(job), ModelBackend(TINY).gemm(job))


def test_board_reports_what_crossed_the_line(backend: BoardBackend) -> None:
    before = backend.totals["board_bytes"]
    result = backend.gemm(product(16, 64, 8))
    crossed = backend.totals["board_bytes"] - before
    operands, weights, results = 16 * 64, 64 * 8, 16 * 8 * 3
    assert operands + weights + results < crossed < 1.5 * (operands + weights + results)
    assert backend.totals["board_cycles"] > 16
    assert sum(result.line_bytes.values()) == crossed
    assert all(result.line_bytes[what] > 0 for what in ("weights", "operands", "results"))
    assert backend.facts["board_digest"] == TINY.geometry.digest


@pytest.mark.parametrize(("flipped", "lost"), [(1e-4, 0.0), (0.0, 1e-4), (2e-4, 2e-4)])
def test_board_gives_the_same_bits_over_a_bad_cable(
    simulated: SimulatedBoard, flipped: float, lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_link, "ANSWER_TIMEOUT_S", 0.05)
    cable = Cable(simulated.port, 11, flipped, lost)
    try:
        backend = BoardBackend(TINY, cable.port)
        for seed in range(3):
            job = product(60, 100, 40, seed=seed)
            assert_same(backend.gemm(job), ModelBackend(TINY).gemm(job))
        assert cable.damaged > 0
        assert backend.totals["board_resends"] > 0
        backend.close()
    finally:
        cable.close()


def test_board_reset_under_a_product_costs_time_and_no_bit(
    simulated: SimulatedBoard, backend: BoardBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = product(200, 256, 64, seed=5)
    written = 0
    write = backend._link.write

    def pressing(address: int, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == 12:
            simulated.press_reset()
        write(address, data)

    monkeypatch.setattr(backend._link, "write", pressing)
    assert_same(backend.gemm(job), ModelBackend(TINY).gemm(job))
    assert written > 12


def test_board_that_keeps_resetting_is_given_up(
    simulated: SimulatedBoard, backend: BoardBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = backend._link.write

    def pressing(address: int, data: bytes) -> None:
        write(address, data)
        backend._link.finish()
        simulated.press_reset()

    monkeypatch.setattr(backend._link, "write", pressing)
    with pytest.raises(BackendError, match="was reset 3 times"):
        backend.gemm(product(20, 64, 8, seed=6))


def test_board_unplugged_is_told_in_a_sentence() -> None:
    board = SimulatedBoard(TINY.geometry)
    backend = BoardBackend(TINY, board.port)
    board.unplug()
    with pytest.raises(BackendError, match=r"unplugged|silent"):
        backend.gemm(product(20, 64, 8))
    backend.close()
    board.close()


def test_board_gone_silent_is_a_watchdog_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_link, "SILENCE_S", 0.5)
    board = SimulatedBoard(TINY.geometry)
    backend = BoardBackend(TINY, board.port)
    os.kill(board._process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(WatchdogError, match="went silent"):
            backend.gemm(product(20, 64, 8))
    finally:
        os.kill(board._process.pid, signal.SIGCONT)
        backend.close()
        board.close()


def test_board_of_another_geometry_is_refused(simulated: SimulatedBoard) -> None:
    with pytest.raises(ParametersError, match="load its bitstream"):
        BoardBackend(load_chip("edge"), simulated.port)


def test_board_port_that_nobody_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_link, "HELLO_TIMEOUT_S", 0.3)
    host, terminal = os.openpty()
    try:
        with pytest.raises(BackendError, match=r"nothing on .* answers at"):
            BoardBackend(TINY, os.ttyname(terminal))
    finally:
        os.close(host)
        os.close(terminal)


def test_board_port_held_by_another_is_refused(backend: BoardBackend) -> None:
    with pytest.raises(BackendError, match="another program may hold it"):
        BoardBackend(TINY, backend._link.port)


@pytest.mark.parametrize(
    ("there", "wanted", "says"),
    [
        ([], "", "no board is connected"),
        (
            [SerialPort("/dev/a", "A1", ""), SerialPort("/dev/b", "B2", "")],
            "",
            r"several could be it: /dev/a .serial number A1",
        ),
        ([SerialPort("/dev/a", "A1", "")], "C3", "no board with serial number 'C3'"),
    ],
)
def test_board_choice_says_what_there_is(
    there: list[SerialPort], wanted: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "ports", lambda: there)
    with pytest.raises(BackendError, match=says):
        choose_port(wanted)


def test_board_is_chosen_by_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        board_module, "ports", lambda: [SerialPort("/dev/a", "A1", ""), SerialPort("/dev/b", "B2", "")]
    )
    assert choose_port("B2") == "/dev/b"
    assert choose_port("/dev/ttyS9") == "/dev/ttyS9"


@pytest.mark.parametrize(
    "settings",
    [
        (3, 4, 16, 1, 0),
        (1, 4, 257, 1, 0),
        (1, 4, 0, 1, 0),
        (1, 4, 16, 9, 0),
        (1, 0, 16, 1, 0),
        (1, 4000, 256, 1, 0),
    ],
    ids=["mode", "k", "no-k", "blocks", "no-rows", "rows"],
)
def test_board_hardware_refuses_what_its_tile_cannot_take(
    backend: BoardBackend, settings: tuple[int, ...]
) -> None:
    link = backend._link
    before = link.read(REGISTER + 0x20, 4)
    link.write(REGISTER, struct.pack("<6I", *settings, 1))
    status, after = link.read(REGISTER + 0x18, 4), link.read(REGISTER + 0x20, 4)
    link.finish()
    assert struct.unpack("<I", status)[0] == 2
    assert before == after


@pytest.mark.parametrize(("chip_name", "rows", "k"), [("ecp5", 37, 100), ("tiny", 1, 3), ("tiny", 40, 4)])
def test_board_keeps_bits_and_cycles_of_the_contract(chip_name: str, rows: int, k: int) -> None:
    chip, job = load_chip(chip_name), product(rows, k, 40, seed=7)
    board = SimulatedBoard(chip.geometry)
    backend = BoardBackend(chip, board.port)
    try:
        expected = ModelBackend(chip).gemm(job)
        assert_same(backend.gemm(job), expected)
        assert backend.cycles == tile_times(expected.slots[0], k, 40, chip.geometry).cycles
    finally:
        backend.close()
        board.close()


def test_board_name_makes_the_backend_for_one_board(simulated: SimulatedBoard) -> None:
    made: Any = find_backend(f"board@{simulated.port}")(TINY)
    assert made.name == "board"
    assert not made.measures
    made.close()


def test_frames_survive_bytes_that_mean_something_on_the_line() -> None:
    content = bytes(range(256)) + b"\x7e\x7d\x7d\x5e\x7d\x5d\x7e"
    frame = board_link.encode(content)
    assert frame.count(b"\x7e") == 2
    assert board_link.decode(frame[1:-1]) == content
    assert board_link.decode(frame[1:-2]) is None


def test_board_conforms() -> None:
    from ditto_cosim.device.backends.conformance import check

    report = check("board@sim", TINY)
    assert report.passed, [finding for finding in report.findings if not finding.passed]


def test_board_computes_a_whole_run_that_its_user_asked_for() -> None:
    import torch

    from ditto_cosim.host.pipeline.accelerate import accelerate
    from support.families import build, calibrated

    calibrator, steps, _ = calibrated("odds")
    torch.manual_seed(0)  # the weights that were calibrated
    module = accelerate(
        build("odds"), backend="board@sim", chip="tiny", verify=True, scales=calibrator.grids()
    )
    try:
        for inputs in steps:
            module(**inputs)
        seen = module.finish()
    finally:
        module.shut_down()
    assert seen.verdict.bit_identical
    assert seen.board["link"] == "simulated"
    assert seen.board["bytes"] > 1000
    assert 0 < sum(sum(r.line_bytes.values()) for r in seen.reports) <= seen.board["bytes"]
