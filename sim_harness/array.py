# SPDX-License-Identifier: Apache-2.0
"""One Verilated tile of one of SQ-DM's two arrays as an object: load weights, run rows, read cycles.

An `ArrayTile` owns one model and its clock; make one per thread. `run` and `run_product` release the GIL while the RTL runs. A
`Layout` says which elements of a row the array sees, block by block: its driver is the address generator.
Arguments are checked before anything runs, and errors name the argument, the value and the limit.
What it does not do: decide which channels are sparse, split N beyond `n_max`, add the two arrays' sums (`device/backends`).
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.blocks import E4M3_CODES, SCALE_MAX, e4m3_scale
from ditto_cosim.protocol.hardware import ARRAY_ABI_VERSION, ArrayGeometry

from .build import BuildOptions, Built, build
from .errors import HarnessError, TileAssertionError, TileFaultError, TileInputError, TileStuckError
from .tile import ROWS_MAX, Exclusive, PortTrace, Stalls, trace_format

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.int8]
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]

_NO_CODE = 255
_CODE_OF: U8 = np.full(SCALE_MAX + 1, _NO_CODE, np.uint8)
_CODE_OF[[e4m3_scale(code) for code in range(E4M3_CODES)]] = np.arange(E4M3_CODES)
_STUCK, _ASSERTION, _RESET = 1, 2, 4


@dataclass(frozen=True)
class Layout:
    """What of a row's K elements an array sees: for each scale block with any of its channels, a segment."""

    wanted: npt.NDArray[np.bool_]
    """[K]: the elements of a row."""
    block_size: int
    counts: I32
    """[segments]: elements of each, 1…G."""
    blocks: I32
    """[segments]: which of the row's scale blocks."""

    @classmethod
    def of(cls, wanted: npt.NDArray[np.bool_], block_size: int) -> Layout:
        """Segments of the wanted elements [K] of a row of whole blocks."""
        if wanted.ndim != 1 or not wanted.size or wanted.size % block_size:
            raise TileInputError(
                f"array: {list(wanted.shape)} elements are no whole blocks of {block_size}; fill the last one up"
            )
        of_block = wanted.reshape(-1, block_size).sum(1, dtype=np.int32)
        blocks = np.flatnonzero(of_block)
        return cls(np.ascontiguousarray(wanted), block_size, of_block[blocks], blocks.astype(np.int32))

    @property
    def elements(self) -> int:
        """K of the whole row."""
        return self.wanted.size

    @property
    def segments(self) -> int:
        return len(self.counts)

    @cached_property
    def _c(self) -> _Layout:
        return _Layout(self.segments, self.wanted.ctypes.data, self.blocks.ctypes.data)


@dataclass(frozen=True, slots=True)
class ArrayRun:
    """What a pass gave and what it took, in cycles of the tile's clock since the pass began."""

    accumulators: I64
    """[M, N]"""
    enc_done: U32
    """[M]: first cycle in which the row could be replayed; zero in the dense array."""
    done: U32
    """[M]: the cycle after the one in which the row's last beat or word was taken."""
    nonzero: U16
    """[M]: codes other than zero, as the encoder counts them; zero in the dense array."""
    met: I64
    """[K]: codes other than zero of each element, as they were handed over."""
    busy: int
    starved: int
    stalled: int
    """busy + starved + stalled = `done` of the last row."""
    cycles: int
    """The whole pass, drain included."""
    ports: PortTrace | None
    """Recorded handshakes, if asked for."""


@dataclass(frozen=True, slots=True)
class ArrayRuns:
    """What a product of any K gave, run as several passes."""

    nonzero: U16
    """[chunks, M]: as the encoder counted them; zero in the dense array."""
    met: I64
    """[K]: codes other than zero of each element, as they were handed over."""
    cycles: I64
    """[chunks, ranges]: each pass's, drain included."""
    loaded: I64
    """[chunks]: cycles of loading the chunk's weights and scales."""


class _Layout(ctypes.Structure):
    """`ArrayLayout` of array_driver.h."""

    _fields_ = (
        ("segments", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("wanted", "blocks")),
    )


class _Weights(ctypes.Structure):
    """`ArrayWeights`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "codes_stride", "scales_stride")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales")),
    )


class _Pass(ctypes.Structure):
    """`ArrayPass`."""

    _fields_ = (
        ("layout", _Layout),
        *((name, ctypes.c_int64) for name in ("rows", "n", "codes_stride", "scales_stride")),
        *((name, ctypes.c_int64) for name in ("accumulators_stride", "pattern_cycles")),
        *((name, ctypes.c_uint64) for name in ("watchdog_idle_cycles", "reset_cycle")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "accumulators", "enc_done", "done")),
        *((name, ctypes.c_void_p) for name in ("nonzero", "counters", "met", "offer", "accept")),
        ("cycles", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("is_signed", "record", "adds")),
    )


class _Product(ctypes.Structure):
    """`ArrayProduct`."""

    _fields_ = (
        ("whole", _Pass),
        ("weights", _Weights),
        ("chunks", ctypes.c_void_p),
        ("chunk_count", ctypes.c_int64),
        ("edges", ctypes.c_void_p),
        ("range_count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("nonzero", "cycles", "loaded")),
    )


def _library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "array_abi": (ctypes.c_int32, []),
        "array_open": (pointer, [ctypes.c_char_p, ctypes.c_uint32]),
        "array_close": (None, [pointer]),
        "array_reset": (None, [pointer]),
        "array_mutant": (None, [ctypes.c_int32]),
        "array_attack": (None, [pointer, ctypes.c_uint64]),
        "array_load": (ctypes.c_int64, [pointer, ctypes.POINTER(_Weights), ctypes.POINTER(_Layout)]),
        "array_run": (ctypes.c_int32, [pointer, ctypes.POINTER(_Pass)]),
        "array_run_product": (ctypes.c_int32, [pointer, ctypes.POINTER(_Product)]),
        "array_trace": (ctypes.c_uint64, [pointer, pointer, ctypes.c_uint64]),
        "array_state": (ctypes.c_uint64, [pointer, pointer, ctypes.c_uint64]),
        "array_message": (ctypes.c_char_p, [pointer]),
        "array_write_coverage": (None, [pointer, ctypes.c_char_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.array_abi()
    if found != ARRAY_ABI_VERSION:
        raise HarnessError(
            f"array: {path} speaks interface {found}, this harness {ARRAY_ABI_VERSION}; rebuild it"
        )
    return library


def scale_codes(name: str, scales: npt.NDArray[np.integer]) -> U8:
    """E4M3 codes of scales in units of 2⁻⁹; refuses what is no such number."""
    inside = scales.size == 0 or (scales.min() >= 0 and scales.max() <= SCALE_MAX)
    codes: U8 = _CODE_OF[scales if inside else np.clip(scales, 0, SCALE_MAX)]
    wrong = (codes == _NO_CODE) if inside else (codes == _NO_CODE) | (scales < 0) | (scales > SCALE_MAX)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise TileInputError(f"array: {name}{list(at)} = {int(scales[at])} × 2⁻⁹ is no number of E4M3")
    return codes


def chunks_of(layout: Layout, geometry: ArrayGeometry) -> I64:
    """Where the layout is cut: as few pieces as the tile takes, as equal as may be."""
    pieces = -(-layout.segments // geometry.segments_max)
    return np.array([layout.segments * i // pieces for i in range(pieces + 1)], np.int64)


class ArrayTile:
    """One Verilated tile. Close it, or use it as a context manager, to finish a waveform."""

    def __init__(
        self,
        geometry: ArrayGeometry,
        *,
        options: BuildOptions | None = None,
        watchdog_idle_cycles: int = 20_000,
        trace: Path | None = None,
        state_seed: int = 0,
        mutant: int = 0,
    ) -> None:
        options = options or BuildOptions(trace="none" if trace is None else trace_format(trace))
        if trace is not None and options.trace != trace_format(trace):
            raise TileInputError(f"array: trace = {trace} needs a build with trace = {trace_format(trace)!r}")
        self.geometry = geometry
        self.built: Built = build(geometry, options)
        self._library = _library(self.built.library)
        self._watchdog = watchdog_idle_cycles
        self._lock = threading.Lock()
        self._loaded: tuple[Layout, int] | None = None
        self._options, self._trace, self._mutant = options, trace, mutant
        self._handle = self._open(state_seed)

    def _open(self, state_seed: int) -> Any:
        self._library.array_mutant(self._mutant)
        path = str(self._trace).encode() if self._trace is not None else None
        return self._library.array_open(path, state_seed & 0xFFFF_FFFF)

    def power_up(self, state_seed: int) -> None:
        """The tile as new: another random state where the build has one, then a reset."""
        with self._exclusive():
            self._library.array_close(self._handle)
            self._handle = self._open(state_seed)
            self._loaded = None

    def reset(self) -> None:
        """Pulls the reset; loaded weights are forgotten."""
        with self._exclusive():
            self._library.array_reset(self._handle)
            self._loaded = None

    def attack(self, seed: int) -> None:
        """From now on ports without their valid carry garbage, and starts and weights are offered where they must not
        be heard (checked builds); 0 ends it."""
        if seed and not self._options.checked:
            raise TileInputError(
                "array: only a checked build can be attacked: assertions, random_state or trace"
            )
        with self._exclusive():
            self._library.array_attack(self._handle, seed & 0xFFFF_FFFF_FFFF_FFFF)

    def load(self, layout: Layout, weights: I8, scales: U8) -> int:
        """Loads the layout's part of weights [K, N], −7…7, and of their scales [blocks, N], E4M3 codes. Returns the cycles
        that took."""
        self._check_layout(layout)
        request = self._weights(layout, weights, scales)
        with self._exclusive():
            cycles = self._library.array_load(self._handle, ctypes.byref(request), ctypes.byref(layout._c))
            if cycles < 0:
                self._fail(-cycles, f"while weights of {layout.segments} segments were loaded")
            self._loaded = layout, weights.shape[1]
            return int(cycles)

    def run(
        self, codes: Codes, scales: U8, *, stalls: Stalls | None = None, record: bool = False
    ) -> ArrayRun:
        """Runs rows of `codes` [M, K] with `scales` [M, blocks], E4M3 codes, against the loaded weights."""
        layout, n = self._held()
        m = self._check_rows(layout, codes, scales)
        accumulators = np.zeros((m, n), np.int64)
        enc_done, done = np.zeros(m, np.uint32), np.zeros(m, np.uint32)
        nonzero, counters = np.zeros(m, np.uint16), np.zeros(3, np.uint32)
        met = np.zeros(layout.elements, np.int64)
        request = self._pass(layout, codes, scales, accumulators, counters, met)
        request.enc_done, request.done = enc_done.ctypes.data, done.ctypes.data
        request.nonzero, request.record = nonzero.ctypes.data, int(record)
        self._stall(request, stalls)
        with self._exclusive():
            status = self._library.array_run(self._handle, ctypes.byref(request))
            if status:
                self._fail(status, f"in a pass of {m} rows, {layout.segments} segments, N = {n}")
            ports = self._ports() if record else None
        busy, starved, stalled = (int(c) for c in counters)
        cycles = int(request.cycles)
        return ArrayRun(accumulators, enc_done, done, nonzero, met, busy, starved, stalled, cycles, ports)

    def run_cut(self, codes: Codes, scales: U8, reset_cycle: int, stalls: Stalls | None = None) -> None:
        """Starts the rows and resets the tile in the cycle `reset_cycle` of the pass, or at its end (checked builds).
        What was loaded stays, as memories do."""
        if not self._options.checked or reset_cycle < 1:
            raise TileInputError(f"array: reset_cycle = {reset_cycle} needs a checked build, and starts at 1")
        layout, n = self._held()
        m = self._check_rows(layout, codes, scales)
        dropped, counters = np.zeros((m, n), np.int64), np.zeros(3, np.uint32)
        times, nonzero, met = (
            np.zeros((2, m), np.uint32),
            np.zeros(m, np.uint16),
            np.zeros(layout.elements, np.int64),
        )
        request = self._pass(layout, codes, scales, dropped, counters, met)
        request.enc_done, request.done = (row.ctypes.data for row in times)
        request.nonzero, request.reset_cycle = nonzero.ctypes.data, reset_cycle
        self._stall(request, stalls)
        with self._exclusive():
            status = self._library.array_run(self._handle, ctypes.byref(request))
            if status != _RESET:
                self._fail(status, f"in a pass of {m} rows cut by a reset")

    def run_product(
        self,
        layout: Layout,
        codes: Codes,
        scales: U8,
        weights: I8,
        weight_scales: U8,
        *,
        edges: I64,
        accumulators: I64,
        adds: bool = False,
    ) -> ArrayRuns:
        """The layout's part of `codes` [M, K] times `weights` [K, N] in one call, into `accumulators` [M, N] or onto them.

        The layout is cut where the tile's memories end; for every piece its weights are loaded, then rows edges[i] …
        edges[i+1]−1 run as a pass each, as if several tiles with the same weights took a share of the rows each."""
        m = self._check_rows(layout, codes, scales)
        if edges[0] or edges[-1] != m or (np.diff(edges) < 1).any():
            raise TileInputError(f"array: edges must rise from 0 to M = {m}")
        if accumulators.shape != (m, weights.shape[1]) or accumulators.dtype != np.int64:
            raise TileInputError(
                f"array: accumulators are {accumulators.dtype}{list(accumulators.shape)}, "
                f"int64[{m}, {weights.shape[1]}] is expected"
            )
        edges, chunks = np.ascontiguousarray(edges, np.int64), chunks_of(layout, self.geometry)
        pieces = len(chunks) - 1
        nonzero, loaded = np.zeros((pieces, m), np.uint16), np.zeros(pieces, np.int64)
        cycles, counters = np.zeros((pieces, len(edges) - 1), np.int64), np.zeros(3, np.uint32)
        met = np.zeros(layout.elements, np.int64)
        request = _Product(
            whole=self._pass(layout, codes, scales, accumulators, counters, met),
            weights=self._weights(layout, weights, weight_scales),
            chunks=chunks.ctypes.data,
            chunk_count=pieces,
            edges=edges.ctypes.data,
            range_count=len(edges) - 1,
            nonzero=nonzero.ctypes.data,
            cycles=cycles.ctypes.data,
            loaded=loaded.ctypes.data,
        )
        request.whole.adds = int(adds)
        with self._exclusive():
            status = self._library.array_run_product(self._handle, ctypes.byref(request))
            self._loaded = None
            if status:
                self._fail(
                    status, f"in a product of {m} rows, {layout.segments} segments, N = {weights.shape[1]}"
                )
        return ArrayRuns(nonzero, met, cycles, loaded)

    def state(self) -> str:
        """Every scalar port and the driver's position, one per line."""
        with self._exclusive():
            return self._state()

    def write_coverage(self, path: Path) -> None:
        """Writes the counters of all this library's tiles (builds with coverage)."""
        with self._exclusive():
            self._library.array_write_coverage(self._handle, str(path).encode())

    def close(self) -> None:
        """Frees the model and finishes its waveform."""
        if self._handle:
            self._library.array_close(self._handle)
            self._handle = None

    def __enter__(self) -> ArrayTile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _exclusive(self) -> Exclusive:
        if not self._handle:
            raise HarnessError("array: this tile is closed; make another one")
        return Exclusive(self._lock)

    def _held(self) -> tuple[Layout, int]:
        if self._loaded is None:
            raise TileInputError("array: no weights are loaded; call load first")
        return self._loaded

    def _weights(self, layout: Layout, weights: I8, scales: U8) -> _Weights:
        blocks = layout.elements // layout.block_size
        n = weights.shape[-1] if weights.ndim == 2 else 0
        if weights.dtype != np.int8 or weights.shape != (layout.elements, n):
            raise TileInputError(
                f"array: weights are {weights.dtype}{list(weights.shape)}, int8[{layout.elements}, N] is expected"
            )
        if scales.dtype != np.uint8 or scales.shape != (blocks, n):
            raise TileInputError(
                f"array: weight scales are {scales.dtype}{list(scales.shape)}, uint8[{blocks}, {n}] is expected"
            )
        if not 1 <= n <= self.geometry.n_max:
            raise TileInputError(
                f"array: weights have N = {n}, this tile takes 1…{self.geometry.n_max}; split N"
            )
        if n > 1 and (weights.strides[1] != 1 or scales.strides[1] != 1):
            raise TileInputError("array: columns of weights and of their scales must be adjacent")
        return _Weights(n, weights.strides[0], scales.strides[0], weights.ctypes.data, scales.ctypes.data)

    def _check_layout(self, layout: Layout, whole: bool = True) -> None:
        if layout.block_size != self.geometry.block_size:
            raise TileInputError(
                f"array: the layout has blocks of {layout.block_size}, this tile of {self.geometry.block_size}"
            )
        if not layout.segments or (whole and layout.segments > self.geometry.segments_max):
            raise TileInputError(
                f"array: the layout has {layout.segments} segments, a pass takes 1…{self.geometry.segments_max}"
            )

    def _check_rows(self, layout: Layout, codes: Codes, scales: U8) -> int:
        self._check_layout(layout, whole=False)
        m, blocks = len(codes), layout.elements // layout.block_size
        if codes.dtype.type not in (np.uint8, np.int8) or codes.shape != (m, layout.elements):
            raise TileInputError(
                f"array: codes are {codes.dtype}{list(codes.shape)}, uint8 or int8[M, {layout.elements}] is expected"
            )
        if scales.dtype != np.uint8 or scales.shape != (m, blocks):
            raise TileInputError(
                f"array: scales are {scales.dtype}{list(scales.shape)}, uint8[{m}, {blocks}] is expected"
            )
        if not 1 <= m <= ROWS_MAX:
            raise TileInputError(f"array: codes have M = {m} rows, a pass takes 1…{ROWS_MAX}")
        if codes.strides[1] != 1 or (blocks > 1 and scales.strides[1] != 1):
            raise TileInputError("array: codes of a row, and its scales, must be adjacent")
        return m

    def _pass(
        self, layout: Layout, codes: Codes, scales: U8, accumulators: I64, counters: U32, met: I64
    ) -> _Pass:
        m, n = accumulators.shape
        return _Pass(
            layout=layout._c,
            rows=m,
            n=n,
            codes_stride=codes.strides[0],
            scales_stride=scales.strides[0],
            accumulators_stride=accumulators.strides[0] // 8,
            watchdog_idle_cycles=self._watchdog,
            codes=codes.ctypes.data,
            scales=scales.ctypes.data,
            accumulators=accumulators.ctypes.data,
            counters=counters.ctypes.data,
            met=met.ctypes.data,
            is_signed=int(codes.dtype == np.int8),
        )

    def _stall(self, request: _Pass, stalls: Stalls | None) -> None:
        if stalls is None:
            return
        if stalls.offer.shape != stalls.accept.shape or stalls.offer.shape[0] != 1 or not stalls.offer.size:
            raise TileInputError(
                f"array: stalls are {list(stalls.offer.shape)} and {list(stalls.accept.shape)}, uint8[1, cycles] twice "
                "is expected"
            )
        request.pattern_cycles = stalls.offer.shape[1]
        request.offer, request.accept = stalls.offer.ctypes.data, stalls.accept.ctypes.data

    def _fail(self, status: int, where: str) -> NoReturn:
        """Raises what a call ended with; the tile is reset first, so it stays usable."""
        state, message = self._state(), self._library.array_message(self._handle).decode()
        self._library.array_reset(self._handle)
        self._loaded = None
        after = "the tile was reset, load its weights again. Its state was:"
        if status == _STUCK:
            raise TileStuckError(f"array: no handshake for {self._watchdog} cycles {where}; {after}", state)
        fault = TileAssertionError if status == _ASSERTION else TileFaultError
        raise fault(f"array: {message}, {where}; {after}", state)

    def _state(self) -> str:
        buffer = ctypes.create_string_buffer(1 << 14)
        length = self._library.array_state(self._handle, buffer, len(buffer))
        return buffer.raw[:length].decode()

    def _ports(self) -> PortTrace:
        cycles = int(self._library.array_trace(self._handle, None, 0))
        bits = np.empty((1, cycles), np.uint8)
        self._library.array_trace(self._handle, bits.ctypes.data, cycles)
        valid, ready, given, accepted = (((bits >> bit) & 1).astype(np.uint8) for bit in range(4))
        return PortTrace(valid, ready, given, accepted)
