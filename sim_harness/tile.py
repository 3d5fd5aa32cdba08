# SPDX-License-Identifier: Apache-2.0
"""One Verilated tile as an object: load weights, run rows, read cycles.

A `Tile` owns one model and its clock; make one per thread. `run` releases the GIL while the RTL runs.
Arguments are checked before anything runs, and errors name the argument, the value and the limit.
What it does not do: split K beyond `k_max` or N beyond `n_max` (the device does), choose references.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import MODE_CODES, TILE_ABI_VERSION, Geometry, Mode

from .build import BuildOptions, Built, build
from .errors import (
    HarnessError,
    TileAssertionError,
    TileBusyError,
    TileFaultError,
    TileInputError,
    TileStuckError,
)

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

ROWS_MAX = 1 << 23
_OPERANDS = ("current", "reference", "weights")
_STUCK, _ASSERTION, _RESET = 1, 2, 4


class _Pass(ctypes.Structure):
    """`DittoPass` of tile_driver.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "k", "n")),
        *((name, ctypes.c_int64) for name in ("current_stride", "reference_stride", "accumulators_stride")),
        ("pattern_cycles", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("next_k", "next_n", "next_stride")),
        ("watchdog_idle_cycles", ctypes.c_uint64),
        ("reset_cycle", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("current", "reference", "accumulators", "enc_done", "done")),
        *((name, ctypes.c_void_p) for name in ("zero", "low", "full", "counters", "offer", "accept")),
        ("next_weights", ctypes.c_void_p),
        ("cycles", ctypes.c_uint64),
        ("next_cycles", ctypes.c_uint64),
        ("mode", ctypes.c_int32),
        ("record", ctypes.c_int32),
        ("adds", ctypes.c_int32),
    )


class _Product(ctypes.Structure):
    """`DittoProduct` of tile_driver.h."""

    _fields_ = (
        ("whole", _Pass),
        ("weights", ctypes.c_void_p),
        ("weights_stride", ctypes.c_int64),
        ("chunks", ctypes.c_void_p),
        ("chunk_count", ctypes.c_int64),
        ("edges", ctypes.c_void_p),
        ("range_count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("classes", "cycles", "loaded")),
    )


SHARE_FIELDS = (
    *("group", "part", "k", "chunk", "chunk_count", "column", "n"),
    *("row", "rows", "edge", "range_count", "cycles", "loaded"),
)
"""`DittoShare` of tile_driver.h."""


class _Gemm(ctypes.Structure):
    """`DittoGemm` of tile_driver.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("current", "reference", "weights", "accumulators")),
        *((f"{name}_{axis}", ctypes.c_int64) for name in _OPERANDS for axis in ("group", "row")),
        *((f"accumulators_{axis}", ctypes.c_int64) for axis in ("part", "group", "row")),
        *((name, ctypes.c_int64) for name in ("groups", "rows")),
        ("shares", ctypes.c_void_p),
        ("share_count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("chunks", "edges", "classes", "cycles", "loaded", "next")),
        ("watchdog_idle_cycles", ctypes.c_uint64),
        ("mode", ctypes.c_int32),
    )


@dataclass(frozen=True)
class TilePlan:
    """How products of many groups are cut into shares; made once for a shape."""

    shape: tuple[int, int, int, int]
    """groups, rows, K, N"""
    parts: int
    """Sums of parts of K."""
    shares: I64
    """[shares, fields]: see `DittoShare`."""
    chunks: I64
    edges: I64
    """Of all shares, one after another."""

    def __post_init__(self) -> None:
        """What would reach past an operand is refused here, once."""
        groups, rows, k, n = self.shape
        wide = self.shares.ndim == 2 and self.shares.shape[1] == len(SHARE_FIELDS)
        if not wide or any(a.dtype != np.int64 or not a.flags.c_contiguous for a in self._arrays):
            raise TileInputError("tile: a plan's shares, chunks and edges are contiguous int64")
        of = dict(zip(SHARE_FIELDS, self.shares.T, strict=True))
        ends = np.concatenate([[0], np.cumsum(self.chunks)])
        for name, first, count, end in (
            ("group", of["group"], 1, groups), ("part", of["part"], 1, self.parts),
            ("rows", of["row"], of["rows"], rows), ("columns", of["column"], of["n"], n),
            ("chunks", of["chunk"], of["chunk_count"], len(self.chunks)),
            ("edges", of["edge"], of["range_count"] + 1, len(self.edges)),
        ):  # fmt: skip
            if ((first < 0) | (np.asarray(count) < 1) | (first + count > end)).any():
                raise TileInputError(f"tile: a share's {name} reach past {end}")
        if ends[-1] != k or (self.chunks < 1).any() or (ends[of["chunk"]] != of["k"]).any():
            raise TileInputError(f"tile: chunks {self.chunks.tolist()} and the shares' K do not fit K = {k}")
        for edge, count, its_rows in self.shares[:, [9, 10, 8]].tolist():
            edges = self.edges[edge : edge + count + 1]
            if edges[0] or edges[-1] != its_rows or (np.diff(edges) < 1).any():
                raise TileInputError(f"tile: edges {edges.tolist()} do not rise from 0 to {its_rows} rows")

    @property
    def _arrays(self) -> tuple[I64, I64, I64]:
        return self.shares, self.chunks, self.edges

    @cached_property
    def addresses(self) -> tuple[int, int, int, int]:
        """Of the shares, how many they are, of the chunks, of the edges."""
        shares, chunks, edges = (a.ctypes.data for a in self._arrays)
        return shares, len(self.shares), chunks, edges

    @cached_property
    def longest(self) -> int:
        """Chunk of K."""
        return int(self.chunks.max())

    @cached_property
    def widest(self) -> int:
        """Share of N."""
        return int(self.shares[:, 6].max())

    @cached_property
    def passes(self) -> int:
        """Times of passes that a run gives."""
        return int((self.shares[:, 4] * self.shares[:, 10]).sum())

    @cached_property
    def loads(self) -> int:
        """Times of loading weights that a run gives."""
        return int(self.shares[:, 4].sum())


@dataclass(frozen=True, slots=True)
class GemmRun:
    """What products of many groups give; several tiles fill one."""

    accumulators: I32
    """[parts, groups, M, N]"""
    classes: I32
    """[parts, zero | low | full, groups, M]"""
    cycles: I64
    """[passes]: share by share, [chunks, ranges] each."""
    loaded: I64
    """[loads]: share by share, [chunks] each."""
    next: I64
    """[1]: the share that is taken next."""

    @classmethod
    def of(cls, plan: TilePlan) -> GemmRun:
        groups, rows, _, n = plan.shape
        return cls(
            np.empty((plan.parts, groups, rows, n), np.int32),
            np.empty((plan.parts, 3, groups, rows), np.int32),
            np.empty(plan.passes, np.int64),
            np.empty(plan.loads, np.int64),
            np.zeros(1, np.int64),
        )


@dataclass(frozen=True, slots=True)
class Stalls:
    """When the driver holds back: uint8 [lanes, cycles] each, repeated; 1 = go, 0 = wait.

    An offered beat stays offered until it is taken."""

    offer: U8
    accept: U8


@dataclass(frozen=True, slots=True)
class PortTrace:
    """What happened at a lane's handshakes: uint8 [lanes, cycles] each, cycle 0 is the pass's first."""

    operand_valid: U8
    operand_ready: U8
    result_valid: U8
    result_ready: U8


@dataclass(frozen=True, slots=True)
class TileRun:
    """What a pass gave and what it took, in cycles of the tile's clock since the pass began."""

    accumulators: I32
    """[M, N]"""
    enc_done: U32
    """[M]: first cycle in which the row could be replayed."""
    done: U32
    """[M]: first cycle in which the row's slot bank was free again."""
    zero: U16
    low: U16
    full: U16
    """[M]: elements by class; in original mode every element counts as full."""
    busy: U32
    starved: U32
    stalled: U32
    """[lanes]: busy + starved + stalled = done of the lane's last row."""
    cycles: int
    """The whole pass, fill and drain included."""
    next_weights_cycles: int
    """Cycle by which `next_weights` were loaded; 0 without."""
    ports: PortTrace | None
    """Recorded handshakes, if asked for."""

    @property
    def slots(self) -> U16:
        """[M]: slots of each row."""
        return self.low + 2 * self.full


@dataclass(frozen=True, slots=True)
class TileProduct:
    """What a product of any K gave, run as several passes."""

    accumulators: I32
    """[M, N]"""
    classes: I32
    """[zero | low | full, M]: elements over all chunks of K; in original mode every element counts as full."""
    cycles: I64
    """[chunks, ranges]: each pass's, fill and drain included."""
    loaded: I64
    """[chunks]: cycles of loading the chunk's weights."""


@lru_cache(maxsize=256)
def _constant(value: int, k: int) -> I8:
    """A row of one value."""
    return np.full((1, 1, k), value, np.int8)


def _at(array: npt.NDArray[Any]) -> int:
    """Where it begins, the quick way where there is one: a product's call must not cost more than the product."""
    if array.flags.writeable and array.flags.c_contiguous and array.size:
        held = ctypes.c_char.from_buffer(array)  # type: ignore[arg-type]  # typed as a buffer from Python 3.12 on
        return ctypes.addressof(held)
    return array.ctypes.data


def _library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ditto_abi": (ctypes.c_int32, []),
        "ditto_open": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_uint32]),
        "ditto_close": (None, [ctypes.c_void_p]),
        "ditto_reset": (None, [ctypes.c_void_p]),
        "ditto_mutant": (None, [ctypes.c_int32]),
        "ditto_attack": (None, [ctypes.c_void_p, ctypes.c_uint64]),
        "ditto_load_weights": (ctypes.c_int64, [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3),
        "ditto_run": (ctypes.c_int32, [ctypes.c_void_p, ctypes.POINTER(_Pass)]),
        "ditto_run_product": (ctypes.c_int32, [ctypes.c_void_p, ctypes.POINTER(_Product)]),
        "ditto_run_gemm": (ctypes.c_int32, [ctypes.c_void_p, ctypes.POINTER(_Gemm)]),
        "ditto_run_bare": (ctypes.c_uint64, [ctypes.c_void_p, ctypes.POINTER(_Pass)]),
        "ditto_trace": (ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint64]),
        "ditto_state": (ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]),
        "ditto_message": (ctypes.c_char_p, [ctypes.c_void_p]),
        "ditto_write_coverage": (None, [ctypes.c_void_p, ctypes.c_char_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.ditto_abi()
    if found != TILE_ABI_VERSION:
        raise HarnessError(
            f"tile: {path} speaks interface {found}, this harness {TILE_ABI_VERSION}; rebuild it"
        )
    return library


def _check_matrix(name: str, value: object, dtype: type[np.generic], what: str) -> npt.NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise TileInputError(f"tile: {name} is a {type(value).__name__}, a numpy array {what} is expected")
    if value.dtype != dtype:
        raise TileInputError(f"tile: {name} has dtype {value.dtype}, {np.dtype(dtype)} is expected")
    if value.ndim != 2:
        raise TileInputError(f"tile: {name} has shape {value.shape}, {what} is expected")
    if value.size and value.shape[1] > 1 and value.strides[1] != value.itemsize:
        raise TileInputError(
            f"tile: {name} has elements {value.strides[1]} bytes apart; rows may have any stride, but "
            "the elements of a row must be adjacent: use np.ascontiguousarray"
        )
    if value.strides[0] % value.itemsize:
        raise TileInputError(
            f"tile: {name} has a row stride of {value.strides[0]} bytes, not a multiple of its items"
        )
    return value


def _check_stack(name: str, value: object, shape: tuple[int, int, int]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != np.int8 or value.shape != shape:
        met = (
            f"{value.dtype}{list(value.shape)}"
            if isinstance(value, np.ndarray)
            else f"a {type(value).__name__}"
        )
        raise TileInputError(f"tile: {name} is {met}, int8 {list(shape)} is expected")
    if shape[2] > 1 and value.strides[2] != 1:
        raise TileInputError(
            f"tile: {name} has elements {value.strides[2]} bytes apart; groups and rows may have any stride, but the elements "
            "of a row must be adjacent: use np.ascontiguousarray"
        )


class Tile:
    """One Verilated tile. Close it, or use it as a context manager, to finish a waveform."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        options: BuildOptions | None = None,
        watchdog_idle_cycles: int = 20_000,
        trace: Path | None = None,
        state_seed: int = 0,
        mutant: int = 0,
    ) -> None:
        options = options or BuildOptions(trace="none" if trace is None else trace_format(trace))
        if trace is not None and options.trace != trace_format(trace):
            raise TileInputError(f"tile: trace = {trace} needs a build with trace = {trace_format(trace)!r}")
        if watchdog_idle_cycles < 1:
            raise TileInputError(f"tile: watchdog_idle_cycles = {watchdog_idle_cycles} is not positive")
        self.geometry = geometry
        self.built: Built = build(geometry, options)
        self._library = _library(self.built.library)
        self._watchdog = watchdog_idle_cycles
        self._lock = threading.Lock()
        self._loaded: tuple[int, int] | None = None
        self._options, self._trace, self._mutant = options, trace, mutant
        self._handle = self._open(state_seed)

    def _open(self, state_seed: int) -> Any:
        self._library.ditto_mutant(self._mutant)
        path = str(self._trace).encode() if self._trace is not None else None
        return self._library.ditto_open(path, state_seed & 0xFFFF_FFFF)

    def power_up(self, state_seed: int) -> None:
        """The tile as new: another random state where the build has one, then a reset."""
        with self._exclusive():
            self._library.ditto_close(self._handle)
            self._handle = self._open(state_seed)
            self._loaded = None

    def attack(self, seed: int) -> None:
        """From now on ports without their valid carry garbage, and starts and weights are offered where they must not
        be heard (checked builds); 0 ends it."""
        if seed and not self._options.checked:
            raise TileInputError(
                "tile: only a checked build can be attacked: assertions, random_state or trace"
            )
        with self._exclusive():
            self._library.ditto_attack(self._handle, seed & 0xFFFF_FFFF_FFFF_FFFF)

    def hold(self, k: int, n: int) -> None:
        """Says that the bank a reset made active still has weights of this shape: memories outlive a reset."""
        with self._exclusive():
            self._loaded = (k, n)

    def load_weights(self, weights: I8) -> int:
        """Loads int8 [K, N]; they stay until the next load. Returns the cycles that took."""
        self._check_weights("weights", weights)
        with self._exclusive():
            k, n = weights.shape
            cycles = self._library.ditto_load_weights(
                self._handle, weights.ctypes.data, weights.strides[0], k, n
            )
            if cycles < 0:
                self._fail(-cycles, f"while weights K = {k}, N = {n} were loaded")
            self._loaded = (k, n)
            return int(cycles)

    def run(
        self,
        current: I8,
        reference: I8 | int,
        mode: Mode,
        *,
        accumulators: I32 | None = None,
        next_weights: I8 | None = None,
        stalls: Stalls | None = None,
        record: bool = False,
    ) -> TileRun:
        """Runs the rows of `current` [M, K] against the loaded weights.

        `reference` is what the encoder subtracts: [M, K], or one int8 zero point. `accumulators` takes the
        result without a copy. `next_weights` load meanwhile and are the loaded ones after it (two banks)."""
        k, n = self._held()
        current, rows = self._check_operands(current, reference, mode, k)
        m = len(current)
        accumulators = self._target(accumulators, m, n)
        if next_weights is not None:
            self._check_weights("next_weights", next_weights)
            if self.geometry.weight_banks < 2:
                raise TileInputError(
                    "tile: next_weights needs a geometry with weight_banks = 2, this one has 1"
                )
        if stalls is not None:
            self._check_stalls(stalls)

        enc_done, done = np.empty(m, np.uint32), np.empty(m, np.uint32)
        classes = np.empty(m, np.uint16), np.empty(m, np.uint16), np.empty(m, np.uint16)
        counters = np.empty((self.geometry.lanes, 3), np.uint32)
        request = self._pass(current, rows, reference, mode, accumulators, counters)
        request.enc_done, request.done = enc_done.ctypes.data, done.ctypes.data
        request.zero, request.low, request.full = (c.ctypes.data for c in classes)
        request.record = int(record)
        if next_weights is not None:
            request.next_weights = next_weights.ctypes.data
            request.next_stride = next_weights.strides[0]
            request.next_k, request.next_n = next_weights.shape
        if stalls is not None:
            request.pattern_cycles = stalls.offer.shape[1]
            request.offer, request.accept = stalls.offer.ctypes.data, stalls.accept.ctypes.data
        with self._exclusive():
            status = self._library.ditto_run(self._handle, ctypes.byref(request))
            if status:
                self._fail(status, f"in a pass of {m} rows, K = {k}, N = {n}, mode {mode}")
            if next_weights is not None:
                self._loaded = (next_weights.shape[0], next_weights.shape[1])
            ports = self._ports() if record else None
        busy, starved, stalled = (np.ascontiguousarray(column) for column in counters.T)
        return TileRun(
            accumulators, enc_done, done, *classes, busy, starved, stalled,
            int(request.cycles), int(request.next_cycles), ports,
        )  # fmt: skip

    def run_cut(
        self, current: I8, reference: I8 | int, mode: Mode, reset_cycle: int, stalls: Stalls | None = None
    ) -> None:
        """Starts the rows and resets the tile in the cycle `reset_cycle` of the pass, or at its end (checked builds)."""
        if not self._options.checked or reset_cycle < 1:
            raise TileInputError(f"tile: reset_cycle = {reset_cycle} needs a checked build, and starts at 1")
        k, n = self._held()
        current, rows = self._check_operands(current, reference, mode, k)
        m = len(current)
        times, classes = np.empty((2, m), np.uint32), np.empty((3, m), np.uint16)
        dropped, counters = np.empty((m, n), np.int32), np.empty((self.geometry.lanes, 3), np.uint32)
        request = self._pass(current, rows, reference, mode, dropped, counters)
        request.enc_done, request.done = (row.ctypes.data for row in times)
        request.zero, request.low, request.full = (row.ctypes.data for row in classes)
        request.reset_cycle = reset_cycle
        if stalls is not None:
            self._check_stalls(stalls)
            request.pattern_cycles = stalls.offer.shape[1]
            request.offer, request.accept = stalls.offer.ctypes.data, stalls.accept.ctypes.data
        with self._exclusive():
            status = self._library.ditto_run(self._handle, ctypes.byref(request))
            if status != _RESET:
                self._fail(status, f"in a pass of {m} rows, K = {k}, N = {n}, mode {mode}, cut by a reset")
            self._loaded = None

    def run_bare(self, beat: I8, rows: int, mode: Mode) -> int:
        """A pass of `rows` rows made of one repeated beat [E] against zero, clock only: what driving costs is
        the difference to `run`. Nothing comes back but the cycles."""
        k, n = self._held()
        current, _ = self._check_operands(np.tile(beat, (1, k // len(beat))), 0, mode, k)
        zeros = np.zeros_like(current)
        request = _Pass(
            rows=rows,
            k=k,
            n=n,
            mode=MODE_CODES[mode],
            current=current.ctypes.data,
            reference=zeros.ctypes.data,
        )
        with self._exclusive():
            return int(self._library.ditto_run_bare(self._handle, ctypes.byref(request)))

    def _held(self) -> tuple[int, int]:
        """K and N of the loaded weights."""
        if self._loaded is None:
            raise TileInputError("tile: no weights are loaded; call load_weights first")
        return self._loaded

    def reset(self) -> None:
        """Pulls the reset; loaded weights are forgotten."""
        with self._exclusive():
            self._library.ditto_reset(self._handle)
            self._loaded = None

    def run_product(
        self,
        current: I8,
        reference: I8 | int,
        weights: I8,
        mode: Mode,
        *,
        chunks: Sequence[int] | None = None,
        edges: I64 | None = None,
        accumulators: I32 | None = None,
    ) -> TileProduct:
        """`current` [M, K] times `weights` [K, N], K in `chunks` of at most `k_max`, in one call.

        For every chunk its weights are loaded, then rows edges[i] … edges[i+1]−1 run as a pass each, one after another, as
        if several tiles with the same weights took a share of the rows each; without `edges`, all rows are one pass."""
        k, n = _check_matrix("weights", weights, np.int8, "int8 [K, N]").shape
        self._check_columns("weights", n)
        lengths = np.array([k] if chunks is None else chunks, np.int64)
        if lengths.ndim != 1 or lengths.sum() != k or not (lengths > 0).all():
            raise TileInputError(f"tile: chunks = {chunks} are not positive numbers that add up to K = {k}")
        if lengths.max() > self.geometry.k_max:
            raise TileInputError(f"tile: a chunk of {lengths.max()} is over k_max = {self.geometry.k_max}")
        current, rows = self._check_operands(current, reference, mode, k)
        m = len(current)
        accumulators = self._target(accumulators, m, n)
        edges = np.array([0, m], np.int64) if edges is None else edges
        if edges.dtype != np.int64 or edges.ndim != 1 or len(edges) < 2 or edges[0] or edges[-1] != m:
            raise TileInputError(f"tile: edges must be int64 [count + 1] from 0 to M = {m}")
        if (np.diff(edges) < 1).any():
            raise TileInputError("tile: edges must rise by at least one row each")
        edges = np.ascontiguousarray(edges)
        classes, loaded = np.empty((3, m), np.int32), np.empty(len(lengths), np.int64)
        cycles = np.empty((len(lengths), len(edges) - 1), np.int64)
        counters = np.empty((self.geometry.lanes, 3), np.uint32)
        request = _Product(
            weights=weights.ctypes.data,
            weights_stride=weights.strides[0],
            chunks=lengths.ctypes.data,
            chunk_count=len(lengths),
            edges=edges.ctypes.data,
            range_count=len(edges) - 1,
            classes=classes.ctypes.data,
            cycles=cycles.ctypes.data,
            loaded=loaded.ctypes.data,
            whole=self._pass(current, rows, reference, mode, accumulators, counters),
        )
        with self._exclusive():
            status = self._library.ditto_run_product(self._handle, ctypes.byref(request))
            if status:
                self._fail(status, f"in a product of {m} rows, K = {k}, N = {n}, mode {mode}")
            self._loaded = int(lengths[-1]), n
        return TileProduct(accumulators, classes, cycles, loaded)

    def run_gemm(
        self, current: I8, reference: I8 | int, weights: I8, mode: Mode, plan: TilePlan, into: GemmRun
    ) -> None:
        """`current` [G, M, K] times `weights` [G, K, N]: takes shares of the plan, in one call, until no thread has left one.

        Each share runs as `run_product` does. Tiles of several threads may fill one `into`."""
        groups, m, k, n = plan.shape
        if mode not in MODE_CODES:
            raise TileInputError(f"tile: mode = {mode!r} is none of {', '.join(MODE_CODES)}")
        if isinstance(reference, int):
            if not -128 <= reference <= 127:
                raise TileInputError(f"tile: reference = {reference} is outside −128…127")
            other, reach = _constant(reference, k), (0, 0)
        else:
            other, reach = reference, (reference.strides[0], reference.strides[1])
            _check_stack("reference", other, (groups, m, k))
        _check_stack("current", current, (groups, m, k))
        _check_stack("weights", weights, (groups, k, n))
        if plan.longest > self.geometry.k_max or plan.widest > self.geometry.n_max:
            raise TileInputError(
                f"tile: the plan has chunks of {plan.longest} and shares of {plan.widest} columns, this tile takes "
                f"{self.geometry.k_max} and {self.geometry.n_max}"
            )
        out = into.accumulators
        request = _Gemm(
            _at(current), _at(other), _at(weights), _at(out),
            *current.strides[:2], *reach, *weights.strides[:2], *(s // 4 for s in out.strides[:3]),
            groups, m, *plan.addresses,
            _at(into.classes), _at(into.cycles), _at(into.loaded), _at(into.next),
            self._watchdog, MODE_CODES[mode],
        )  # fmt: skip
        with self._exclusive():
            status = self._library.ditto_run_gemm(self._handle, ctypes.byref(request))
            if status:
                self._fail(status, f"in products of {groups}×[{m}, {k}]·[{k}, {n}], mode {mode}")
            self._loaded = None

    def _target(self, accumulators: I32 | None, m: int, n: int) -> I32:
        if accumulators is None:
            return np.empty((m, n), np.int32)
        if _check_matrix("accumulators", accumulators, np.int32, f"int32 [{m}, {n}]").shape != (m, n):
            raise TileInputError(f"tile: accumulators has shape {accumulators.shape}, [{m}, {n}] is expected")
        return accumulators

    def _pass(
        self, current: I8, rows: I8, reference: I8 | int, mode: Mode, accumulators: I32, counters: U32
    ) -> _Pass:
        m, n = accumulators.shape
        return _Pass(
            rows=m,
            k=current.shape[1],
            n=n,
            mode=MODE_CODES[mode],
            current=current.ctypes.data,
            current_stride=current.strides[0],
            reference=rows.ctypes.data,
            reference_stride=rows.strides[0] if isinstance(reference, np.ndarray) else 0,
            accumulators=accumulators.ctypes.data,
            accumulators_stride=accumulators.strides[0] // 4,
            watchdog_idle_cycles=self._watchdog,
            counters=counters.ctypes.data,
        )

    def state(self) -> str:
        """Every scalar port and the driver's position, one per line."""
        with self._exclusive():
            return self._state()

    def write_coverage(self, path: Path) -> None:
        """Writes the counters of all this library's tiles (builds with coverage)."""
        with self._exclusive():
            self._library.ditto_write_coverage(self._handle, str(path).encode())

    def close(self) -> None:
        """Frees the model and finishes its waveform."""
        if self._handle:
            self._library.ditto_close(self._handle)
            self._handle = None

    def __enter__(self) -> Tile:
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
            raise HarnessError("tile: this tile is closed; make another one")
        return Exclusive(self._lock)

    def _fail(self, status: int, where: str) -> NoReturn:
        """Raises what a call ended with; the tile is reset first, so it stays usable."""
        state, message = self._state(), self._library.ditto_message(self._handle).decode()
        self._library.ditto_reset(self._handle)
        self._loaded = None
        after = "the tile was reset, load its weights again. Its state was:"
        if status == _STUCK:
            raise TileStuckError(f"tile: no handshake for {self._watchdog} cycles {where}; {after}", state)
        fault = TileAssertionError if status == _ASSERTION else TileFaultError
        raise fault(f"tile: {message}, {where}; {after}", state)

    def _state(self) -> str:
        buffer = ctypes.create_string_buffer(1 << 16)
        length = self._library.ditto_state(self._handle, buffer, len(buffer))
        return buffer.raw[:length].decode()

    def _ports(self) -> PortTrace:
        cycles = int(self._library.ditto_trace(self._handle, 0, None, 0))
        bits = np.empty((self.geometry.lanes, cycles), np.uint8)
        for lane in range(self.geometry.lanes):
            self._library.ditto_trace(self._handle, lane, bits[lane].ctypes.data, cycles)
        valid, ready, given, accepted = (((bits >> bit) & 1).astype(np.uint8) for bit in range(4))
        return PortTrace(valid, ready, given, accepted)

    def _check_weights(self, name: str, weights: object) -> None:
        matrix = _check_matrix(name, weights, np.int8, "int8 [K, N]")
        k, n = matrix.shape
        if not 1 <= k <= self.geometry.k_max:
            raise TileInputError(
                f"tile: {name} has K = {k}, this tile takes 1…{self.geometry.k_max}; split K"
            )
        self._check_columns(name, n)

    def _check_columns(self, name: str, n: int) -> None:
        if not 1 <= n <= self.geometry.n_max:
            raise TileInputError(
                f"tile: {name} has N = {n}, this tile takes 1…{self.geometry.n_max}; split N"
            )

    def _check_operands(
        self, current: object, reference: object, mode: object, weights_k: int
    ) -> tuple[I8, I8]:
        if mode not in MODE_CODES:
            raise TileInputError(f"tile: mode = {mode!r} is none of {', '.join(MODE_CODES)}")
        matrix: I8 = _check_matrix("current", current, np.int8, "int8 [M, K]")
        m, k = matrix.shape
        if not 1 <= m <= ROWS_MAX:
            raise TileInputError(f"tile: current has M = {m} rows, a pass takes 1…{ROWS_MAX}")
        if k != weights_k:
            raise TileInputError(f"tile: current has K = {k}, the weights have K = {weights_k}")
        if isinstance(reference, bool) or not isinstance(reference, (int, np.integer, np.ndarray)):
            raise TileInputError(
                f"tile: reference is a {type(reference).__name__}, int8 [{m}, {k}] or a zero point is wanted"
            )
        if isinstance(reference, np.ndarray):
            rows: I8 = _check_matrix("reference", reference, np.int8, f"int8 [{m}, {k}]")
            if rows.shape != (m, k):
                raise TileInputError(f"tile: reference has shape {rows.shape}, [{m}, {k}] is expected")
            return matrix, rows
        if not -128 <= reference <= 127:
            raise TileInputError(f"tile: reference = {reference} is outside −128…127")
        return matrix, np.full((1, k), reference, np.int8)

    def _check_stalls(self, stalls: Stalls) -> None:
        lanes = self.geometry.lanes
        for name, pattern in (("offer", stalls.offer), ("accept", stalls.accept)):
            matrix = _check_matrix(f"stalls.{name}", pattern, np.uint8, f"uint8 [{lanes}, cycles]")
            if matrix.shape[0] != lanes or not matrix.flags.c_contiguous:
                raise TileInputError(
                    f"tile: stalls.{name} has shape {matrix.shape}, contiguous [{lanes}, cycles] is expected"
                )
        if stalls.offer.shape != stalls.accept.shape or not stalls.offer.shape[1]:
            raise TileInputError(
                f"tile: stalls.offer {stalls.offer.shape} and stalls.accept {stalls.accept.shape} "
                "must have one length, at least one cycle"
            )


class Exclusive:
    """A lock that refuses instead of waiting."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise TileBusyError("tile: another thread is using this tile; make one tile per thread")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def trace_format(path: Path) -> Any:
    """Waveform format by file name: .vcd or .fst."""
    if path.suffix not in (".vcd", ".fst"):
        raise TileInputError(f"tile: trace = {path} ends neither in .vcd nor in .fst")
    return path.suffix[1:]
