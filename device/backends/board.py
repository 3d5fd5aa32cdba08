# SPDX-License-Identifier: Apache-2.0
"""Backend `board`: every product goes over a serial line to a tile on an FPGA, or to the Verilated board that is one to it.

Operands cross as one byte an element where they can: the encoder subtracts, so a difference that fits a byte is sent as
itself with reference 0, and results are those of the two operands. Weights stay while rows pass.
`board` takes the only board there is; `board@SERIAL` the one with this USB serial number, `board@/dev/ttyUSB0` (or any
pySerial URL) that port, `board@sim` starts the Verilated board top behind a pseudo-terminal and opens that.
Cycles are not measured for layers: rows wait for the line, so a pass is as short as the board's memories. Its counters say
what the passes took on the tile. What this file does not do: frames (`board_link.py`).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import serial.tools.list_ports

from ditto_cosim.device.backends.base import I8, I32, Gemm, GemmResult
from ditto_cosim.device.backends.board_link import BoardLink, BoardResetError
from ditto_cosim.device.chips import Chip
from ditto_cosim.protocol.errors import BackendError, ParametersError
from ditto_cosim.protocol.hardware import LOW_RULE_CODES, MODE_CODES, Geometry
from ditto_cosim.protocol.record import split_k

BAUD = 12_000_000
MAGIC, STREAM_VERSION = 0x4F545444, 2
REGISTER, WEIGHT, CURRENT, REFERENCE, RESULT, REPORT, RESULT24, IDENTITY = (
    region << 28 for region in (0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0xF)
)
K_OF_24_BITS = (1 << 23) // (255 * 128)
"""Sums of so many products of a difference and a weight fit 24 bits, sign included."""
STATUS_AT, PASSES_AT, REFERENCE_IN_MEMORY = 0x18, 0x20, 1 << 8
RESTARTS = 3
"""So often a product is begun anew on a board that was reset under it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a board says it is."""

    geometry: Geometry
    operand_beats: int
    result_depth: int
    window: int
    digest: str
    """Of the geometry its bitstream was made for."""


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A serial port with something on it."""

    path: str
    serial_number: str
    description: str


def ports() -> list[SerialPort]:
    """USB serial ports of this machine."""
    found = serial.tools.list_ports.comports()
    return [
        SerialPort(p.device, p.serial_number or "", p.description or "") for p in found if p.vid is not None
    ]


def choose_port(wanted: str) -> str:
    """The port of the board asked for by serial number, path or URL; of the only one if nothing is asked for."""
    if "/" in wanted or ":" in wanted:
        return wanted
    there = ports()
    fitting = [p for p in there if not wanted or p.serial_number == wanted]
    listed = "; ".join(f"{p.path} (serial number {p.serial_number or 'none'})" for p in there) or "none"
    if not fitting:
        what = f"no board with serial number {wanted!r}" if wanted else "no board"
        raise BackendError(
            f"board: {what} is connected; USB serial ports: {listed}. `--board sim` runs the Verilated board instead."
        )
    if len(fitting) > 1:
        raise BackendError(f"board: several could be it: {listed}. Name one: --board SERIAL or --board PORT")
    return fitting[0].path


def identify(link: BoardLink) -> Identity:
    """Reads what the board is; raises if it is none of ours."""
    raw = link.read(IDENTITY, 60)
    link.finish()
    magic, version, *words = struct.unpack("<15I", raw)
    if magic != MAGIC or version != STREAM_VERSION:
        raise ParametersError(
            f"board: {link.port} speaks version {version} of the stream, this host version {STREAM_VERSION}; load "
            "a bitstream of this release"
        )
    lanes, columns, width, k_max, n_max, rule, banks, beats, depth, window, low, high, stages = words
    names = {code: name for name, code in LOW_RULE_CODES.items()}
    geometry = Geometry(lanes, columns, width, k_max, n_max, names[rule], banks, stages)
    return Identity(geometry, beats, depth, window, f"{high:08x}{low:08x}")


class BoardBackend:
    """See the file's header."""

    name = "board"
    measures = False

    def __init__(self, chip: Chip, board: str = "", baud: int = BAUD) -> None:
        self.geometry = chip.geometry
        self._simulated = None
        if board == "sim":
            from ditto_cosim.sim_harness.board import SimulatedBoard

            self._simulated = SimulatedBoard(chip.geometry)
        try:
            self._link = BoardLink(self._simulated.port if self._simulated else choose_port(board), baud)
        except BaseException:
            self._stop_simulated()
            raise
        try:
            self.identity = identify(self._link)
            if self.identity.digest != chip.geometry.digest or self.identity.geometry != chip.geometry:
                raise ParametersError(
                    f"board: {self._link.port} holds a tile of {self.identity.geometry} ({self.identity.digest}), chip "
                    f"{chip.name!r} needs {chip.geometry} ({chip.geometry.digest}); load its bitstream with "
                    "`ditto board load`, or choose the board's chip with --chip"
                )
        except BaseException:
            self.close()
            raise
        self._link.window = self.identity.window
        self._resident: object = None
        self._passes = self._passes_run()
        self.cycles = 0
        """What all passes took on the tile."""
        self._crossed: Counter[str] = Counter()

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What does not change while a run goes on."""
        return {
            "board_link": "simulated" if self._simulated else self._link.port,
            "board_baud": self._link.baud,
            "board_digest": self.identity.digest,
        }

    @property
    def totals(self) -> Mapping[str, int]:
        """What has crossed the line so far, and the tile's own cycles."""
        link = self._link
        return {
            "board_bytes": self._on_the_line,
            "board_resends": link.resends,
            "board_cycles": self.cycles,
        }

    def gemm(self, job: Gemm) -> GemmResult:
        self._crossed.clear()
        for _ in range(RESTARTS):
            try:
                result = self._gemm(job)
                return replace(result, line_bytes=dict(self._crossed))
            except BoardResetError:
                self._begin_anew()
        raise BackendError(
            f"layer {job.name!r}: the board on {self._link.port} was reset {RESTARTS} times while it computed; check "
            "its power supply"
        )

    @property
    def _on_the_line(self) -> int:
        return self._link.sent_bytes + self._link.received_bytes

    @contextmanager
    def _carrying(self, what: str) -> Iterator[None]:
        """What crosses meanwhile is told as this; an answer that is late, as what follows."""
        before = self._on_the_line
        yield
        self._crossed[what] += self._on_the_line - before

    def close(self) -> None:
        self._link.close()
        self._stop_simulated()

    def _stop_simulated(self) -> None:
        if self._simulated is not None:
            self._simulated.close()

    def _begin_anew(self) -> None:
        self._link.hello()
        self._resident = None
        if identify(self._link) != self.identity:
            raise ParametersError(f"board: {self._link.port} came back from its reset as another board")
        self._passes = self._passes_run()

    def _passes_run(self) -> int:
        """The board's own count since its reset: the next pass adds one, or was none."""
        raw = self._link.read(REGISTER + PASSES_AT, 4)
        self._link.finish()
        return int.from_bytes(raw, "little")

    # --- one product --------------------------------------------------------------------------------------------------

    def _gemm(self, job: Gemm) -> GemmResult:
        groups, rows, k = job.current.shape
        n = job.weights.shape[2]
        out = np.zeros((groups, rows, n), np.int32)
        classes = np.zeros((3, groups, rows), np.int32)
        for group in range(groups):
            start = 0
            for length in split_k(k, self.geometry.k_max):
                chunk = slice(start, start + length)
                start += length
                operands = self._encodable(job, group, chunk)
                for left in range(0, n, self.geometry.n_max):
                    columns = slice(left, min(n, left + self.geometry.n_max))
                    with self._carrying("weights"):
                        self._load(job.weights[group, chunk, columns])
                    self._rows(
                        job, operands, out[group, :, columns], classes[:, group] if left == 0 else None
                    )
        zero, low, full = (int(c) for c in classes.sum((1, 2)))
        return GemmResult(out, classes[1] + 2 * classes[2], zero, low, full, None)

    def _encodable(self, job: Gemm, group: int, chunk: slice) -> tuple[I8, I8 | int]:
        """Operands as they cross: one per element where the difference is a byte, else both."""
        current = job.current[group, :, chunk]
        if isinstance(job.reference, int):
            return current, job.reference
        reference = job.reference[group, :, chunk]
        difference = current.astype(np.int16) - reference
        if difference.min() >= -128 and difference.max() <= 127:
            return difference.astype(np.int8), 0
        return current, reference

    def _load(self, weights: I8) -> None:
        """Weights of one chunk of K and some columns, block by block; they stay until others come."""
        k, n = weights.shape
        columns = self.geometry.columns
        blocks = -(-n // columns)
        padded = np.zeros((k, blocks * columns), np.int8)
        padded[:, :n] = weights
        resident = (k, n, padded.tobytes())
        if resident == self._resident:
            return
        self._resident = None
        for block in range(blocks):
            part = np.ascontiguousarray(padded[:, block * columns : (block + 1) * columns])
            self._link.write(WEIGHT + block * self.geometry.k_max * columns, part.tobytes())
        self._resident = resident

    def _rows(self, job: Gemm, operands: tuple[I8, I8 | int], out: I32, classes: I32 | None) -> None:
        """All rows against the loaded weights, as many at a time as the board holds."""
        tile, has = self.geometry, self.identity
        current, reference = operands
        rows, k = current.shape
        beats, blocks = -(-k // tile.encode_width), -(-out.shape[1] // tile.columns)
        most = tile.lanes * min(has.operand_beats // beats, has.result_depth // blocks)
        for first in range(0, rows, most):
            some = slice(first, min(rows, first + most))
            count = some.stop - first
            with self._carrying("operands"):
                self._put(CURRENT, current[some], beats)
                if not isinstance(reference, int):
                    self._put(REFERENCE, reference[some], beats)
            constant = reference & 0xFF if isinstance(reference, int) else REFERENCE_IN_MEMORY
            settings = struct.pack("<6I", MODE_CODES[job.mode], count, k, blocks, constant, 1)
            met = None if classes is None else classes[:, some]
            with self._carrying("results"):
                self._link.write(REGISTER, settings)
                self._passes += 1
                self._take(job, out[some], met, blocks, k <= K_OF_24_BITS)

    def _put(self, region: int, operands: I8, beats: int) -> None:
        lanes, width = self.geometry.lanes, beats * self.geometry.encode_width
        for lane in range(lanes):
            mine = operands[lane::lanes]
            padded = np.zeros((len(mine), width), np.int8)
            padded[:, : mine.shape[1]] = mine
            base = region + lane * self.identity.operand_beats * self.geometry.encode_width
            self._link.write(base, padded.tobytes())

    def _take(self, job: Gemm, out: I32, classes: I32 | None, blocks: int, narrow: bool) -> None:
        """The pass's results, added to what earlier chunks of K gave."""
        lanes, depth = self.geometry.lanes, self.identity.result_depth
        entry_bytes = 4 * self.geometry.columns
        region, word_bytes = (RESULT24, 3) if narrow else (RESULT, 4)
        results, reports = [], []
        for lane in range(lanes):
            rows = len(range(lane, len(out), lanes))
            count = rows * blocks * self.geometry.columns
            results.append(self._link.read(region + lane * depth * entry_bytes, count, word_bytes))
            if classes is not None:
                reports.append(self._link.read(REPORT + lane * depth * 8, rows * 8))
        status = self._link.read(REGISTER + STATUS_AT, 12)
        self._link.finish()
        flags, cycles, passes = struct.unpack("<3I", status)
        if flags or passes != self._passes:
            raise BackendError(
                f"layer {job.name!r}: the board refused a pass (status {flags}, pass {passes}, expected {self._passes}); its "
                "tile is not the one it says it is"
            )
        self.cycles += cycles
        for lane, raw in enumerate(results):
            words = np.zeros((len(raw) // word_bytes, 4), np.uint8)
            words[:, 4 - word_bytes :] = np.frombuffer(raw, np.uint8).reshape(-1, word_bytes)
            found = (words.view("<i4")[:, 0] >> (8 * (4 - word_bytes))).reshape(
                -1, blocks * self.geometry.columns
            )
            out[lane::lanes] += found[:, : out.shape[1]]
        if classes is not None:
            for lane, raw in enumerate(reports):
                classes[:, lane::lanes] += np.frombuffer(raw, "<u2").reshape(-1, 4)[:, :3].T.astype(np.int32)
