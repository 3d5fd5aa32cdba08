# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels: what `slots.py` counts, `timing/schedule.py` times and `vector.py` computes, where there is a compiler.

Elsewhere NumPy does it (`portable.py`). One small library, built once and cached (`ditto_cosim/toolchain.py`). What this file
does not do: decide what is counted or computed, or check it.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.kernels.base import (
    F32,
    I8,
    I32,
    I64,
    U16,
    Against,
    Before,
    KernelWindow,
    Pieces,
    Reference,
)
from ditto_cosim.protocol.hardware import LOW_RULE_CODES, LowRule
from ditto_cosim.protocol.kept import digest, publish
from ditto_cosim.toolchain import BuildError, cache_dir, compiler, compiler_id, run_tool

log = logging.getLogger(__name__)

_REFERENCES: dict[Reference, int] = {"picture": 0, "pixel": 1, "row before": 2}
_SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in ("dram.cpp", "engine.cpp", "lanes.cpp", "rows.cpp", "vector.cpp")
)
_HEADERS = (Path(__file__).with_name("memory.h"),)
_FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)

_WORTH_THREADS = 4096
"""Numbers in steps of the engine below which threads cost more than they save."""
_most_threads = 0


def use_threads(most: int) -> None:
    """Of this process, whatever the cores: one of several processes that share them has its part."""
    global _most_threads
    _most_threads = most


def _threads() -> int:
    cores = len(os.sched_getaffinity(0))
    return min(_most_threads, cores) if _most_threads else cores


_RELEASING = (
    *("count_rows", "count_against", "count_windows", "lane_cycles", "work_cycles"),
    *("engine_new", "engine_free", "engine_push", "engine_close", "engine_settle", "engine_steps"),
    *("engine_transactions", "dram_channel"),
)


@cache
def kernels() -> NativeKernels | None:
    """The compiled kernels, or None where they cannot be had."""
    try:
        return NativeKernels(_build() / "units.so")
    except (BuildError, OSError) as error:
        log.info("NumPy counts rows and computes the vector unit: %s", error)
        return None


class NativeKernels:
    """See `base.Kernels`.

    Counting and timing run beside the values and release the GIL. What makes values keeps it: each is over sooner than another
    thread, once let in, would give it back."""

    def __init__(self, path: Path) -> None:
        library, keeping = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
        pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "count_rows": (None, [pointer, size, pointer, size, size, size, ctypes.c_int32, pointer]),
            "count_against": (
                ctypes.c_int32,
                [pointer, size, size, pointer, size, pointer, size, ctypes.c_int32, pointer, pointer],
            ),
            "work_cycles": (None, [pointer, pointer, pointer]),
            "count_windows": (
                ctypes.c_int32,
                [
                    *(pointer, pointer, ctypes.c_int32, pointer, pointer, size, pointer, pointer, size),
                    *(ctypes.c_int32, pointer, pointer),
                ],
            ),
            "unroll": (None, [pointer, pointer, pointer]),
            "pad": (None, [pointer] + [size] * 6 + [ctypes.c_int32, pointer]),
            "lane_cycles": (None, [pointer] + [size] * 4 + [pointer] + [size] * 4 + [pointer] * 4),
            "engine_new": (pointer, [pointer]),
            "engine_free": (None, [pointer]),
            "engine_push": (None, [pointer, pointer, size]),
            "engine_close": (ctypes.c_int32, [pointer]),
            "engine_settle": (size, [pointer, pointer]),
            "engine_transactions": (size, [pointer]),
            "engine_steps": (ctypes.c_int32, [pointer, pointer, size, size, pointer, pointer, size]),
            "dram_channel": (None, [pointer] * 4 + [size, pointer]),
            "silu": (None, [pointer, pointer, size]),
            "gelu_tanh": (None, [pointer, pointer, size]),
            "gelu_erf": (None, [pointer, pointer, size]),
            "softmax": (ctypes.c_int32, [pointer, pointer, pointer, size, size]),
            "extremes": (ctypes.c_int32, [pointer, size, pointer, pointer]),
            "quantize": (ctypes.c_int32, [pointer, pointer, size, real, real, real]),
            "add": (None, [pointer, pointer, pointer, size]),
            "add_row": (None, [pointer, pointer, pointer, size, size]),
            "copy_runs": (None, [pointer, size, size, pointer, size]),
            "dequantize_attention": (None, [pointer, pointer, size, size, real, pointer]),
            "dequantize": (None, [pointer, pointer, size, size, real, pointer, pointer]),
            "layer_norm": (
                ctypes.c_int32,
                [pointer, pointer, size, size, pointer, pointer, ctypes.c_double],
            ),
            "group_norm": (
                ctypes.c_int32,
                [pointer, pointer, size, size, size, pointer, pointer, ctypes.c_double],
            ),
        }
        self._call: dict[str, Any] = {}
        for name, (result, arguments) in signatures.items():
            function = getattr(library if name in _RELEASING else keeping, f"ditto_{name}")
            function.restype, function.argtypes = result, arguments
            self._call[name] = function

    def count_rows(self, current: I8, reference: I8 | int, rule: LowRule) -> I32:
        """(zero, low, full) elements of every row of [rows, K]: int32 [3, rows]."""
        rows, k = current.shape
        other = np.full((1, k), reference, np.int8) if isinstance(reference, int) else _adjacent(reference)
        stride = 0 if isinstance(reference, int) else other.strides[0]
        current = _adjacent(current)
        counted = np.empty((3, rows), np.int32)
        self._call["count_rows"](
            _at(current), current.strides[0], _at(other), stride, rows, k,
            LOW_RULE_CODES[rule], _at(counted),
        )  # fmt: skip
        return counted

    def count_against(
        self, current: I8, references: Sequence[Against], splits: tuple[int, ...], rule: LowRule
    ) -> tuple[U16, I64]:
        """See `base.Kernels`."""
        current, rows = _adjacent(current), len(current)
        described, alive = np.empty((len(references), 4), np.int64), []
        for row, reference in zip(described, references, strict=True):
            if isinstance(reference, np.ndarray):
                alive.append(other := _adjacent(reference))
                row[:] = _at(other), other.strides[0], 0, 0
            else:
                chain, value = reference if isinstance(reference, Before) else (0, reference)
                row[:] = 0, 0, chain, value
        slots = np.empty((len(references), len(splits), rows), np.uint16)
        totals = np.empty((len(references), 3), np.int64)
        done = self._call["count_against"](
            _at(current), current.strides[0], rows, _int64(splits).ctypes.data, len(splits),
            _at(described), len(references), LOW_RULE_CODES[rule], _at(slots), _at(totals),
        )  # fmt: skip
        if not done:
            raise MemoryError(f"counting the slots of {current.size} bytes")
        return slots, totals

    def count_windows(
        self,
        current: I8,
        reference: I8 | int,
        kind: Reference,
        window: KernelWindow,
        pieces: Pieces,
        rule: LowRule,
    ) -> tuple[U16, int, int]:
        """Slots [chunks, rows] of a convolution's rows, and how many elements are not zero and full, over all of them."""
        current = np.ascontiguousarray(current)
        pixel = isinstance(reference, int)
        other = np.full(current.shape[3], reference, np.int8) if pixel else np.ascontiguousarray(reference)
        chunks = len(pieces.ends)
        slots = np.empty((chunks, window.batch * window.out_h * window.out_w), np.uint16)
        totals = np.zeros(2, np.int64)
        done = self._call["count_windows"](
            _at(current), _at(other), _REFERENCES[kind], ctypes.addressof(window),
            _at(pieces.cuts), len(pieces.cuts) - 1, _at(pieces.pairs), _at(pieces.ends),
            chunks, LOW_RULE_CODES[rule], _at(slots), _at(totals),
        )  # fmt: skip
        if not done:
            raise MemoryError(f"counting the slots of {current.size} padded bytes")
        return slots, int(totals[0]), int(totals[1])

    def pad(self, pictures: I8, above: int, beside: int, value: int) -> I8:
        """[B, H, W, C] with a border of one value."""
        pictures = np.ascontiguousarray(pictures)
        b, h, w, c = pictures.shape
        padded = np.empty((b, h + 2 * above, w + 2 * beside, c), np.int8)
        self._call["pad"](_at(pictures), b, h, w, c, above, beside, value, _at(padded))
        return padded

    def unroll(self, padded: I8, window: KernelWindow, k: int) -> I8:
        """The rows of a convolution, [rows, K]."""
        padded = np.ascontiguousarray(padded)
        rows = np.empty((window.batch * window.out_h * window.out_w, k), np.int8)
        self._call["unroll"](_at(padded), ctypes.addressof(window), _at(rows))
        return rows

    def lane_cycles(
        self, slots: U16, groups: int, edges: I64, lanes: int, blocks: int, word: int, encode: I64
    ) -> tuple[I64, I64, I64]:
        """Of rows with these slots [steps, chunks, groups × rows], int64 [groups, tiles, steps, chunks] each: when the slowest
        lane is done, its cycles on the PEs for one of the blocks, the most that an encoder works."""
        slots = np.ascontiguousarray(slots)
        steps, chunks, rows = slots.shape
        of_passes = np.empty((3, groups, len(edges) - 1, steps, chunks), np.int64)
        self._call["lane_cycles"](
            _at(slots), steps, chunks, groups, rows // groups, _at(edges), len(edges) - 1,
            lanes, blocks, word, _at(encode), *(_at(part) for part in of_passes),
        )  # fmt: skip
        run, busy, encoded = of_passes
        return run, busy, encoded

    def work_cycles(self, of: I64, slots: U16) -> list[int]:
        """Of one step of a work (`schedule.described`) with these slots [chunks, groups × rows]: total, busy, load and encode
        cycles of the slowest tile, and the sum of the tiles' totals."""
        slots, found = np.ascontiguousarray(slots), np.empty(5, np.int64)
        self._call["work_cycles"](_at(of), _at(slots), _at(found))
        cycles: list[int] = found.tolist()
        return cycles

    def engine(self, config: I64) -> EngineStep:
        return EngineStep(self._call, config)

    def engine_steps(self, config: I64, rows: I64, causes: int) -> tuple[I64, I64]:
        """Steps [steps, groups, fields]: causes [steps, groups, causes] and transactions [steps]."""
        rows = np.ascontiguousarray(rows)
        steps, groups, _ = rows.shape
        found, transactions = np.empty((steps, groups, causes), np.int64), np.empty(steps, np.int64)
        ended = self._call["engine_steps"](
            _at(config), _at(rows), steps, groups, _at(found), _at(transactions),
            _threads() if rows.size > _WORTH_THREADS else 1,
        )  # fmt: skip
        if not ended:
            raise RuntimeError("engine: a group never ends")
        return found, transactions

    def dram_channel(
        self, config: I64, bank: I64, row: I64, write: npt.NDArray[np.bool_]
    ) -> tuple[int, int, int]:
        """A trace through one channel: the cycle of the last data, row hits, the reads' latencies added up."""
        found = np.empty(3, np.int64)
        bank, row, write = np.ascontiguousarray(bank), np.ascontiguousarray(row), np.ascontiguousarray(write)
        self._call["dram_channel"](
            _at(config),
            _at(bank),
            _at(row),
            _at(write),
            len(bank),
            _at(found),
        )
        end, hits, waited = found.tolist()
        return end, hits, waited

    def silu(self, x: F32, out: F32) -> None:
        self._call["silu"](_at(x), _at(out), x.size)

    def gelu(self, x: F32, out: F32, tanh: bool) -> None:
        self._call["gelu_tanh" if tanh else "gelu_erf"](_at(x), _at(out), x.size)

    def softmax(self, rows: F32, out: I8, sums: I32) -> bool:
        """Bytes and sums of [rows, width]; False if a row's greatest value is NaN or infinite."""
        found = self._call["softmax"](_at(rows), _at(out), _at(sums), *rows.shape)
        return bool(found)

    def extremes(self, x: F32) -> tuple[np.float32, np.float32] | None:
        """(least, greatest) value, or None if one is NaN or infinite."""
        found = np.empty(2, np.float32)
        finite = self._call["extremes"](_at(x), x.size, _at(found), _at(found[1:]))
        return (found[0], found[1]) if finite else None

    def quantize(self, x: F32, out: I8, reciprocal: float, zero: float, bottom: float) -> bool:
        """False if a value is NaN or infinite."""
        found = self._call["quantize"](_at(x), _at(out), x.size, reciprocal, zero, bottom)
        return bool(found)

    def add(self, a: F32, b: F32, out: F32) -> None:
        self._call["add"](_at(a), _at(b), _at(out), out.size)

    def add_row(self, x: F32, row: F32, out: F32) -> None:
        """[rows, width] plus one row."""
        self._call["add_row"](_at(x), _at(row), _at(out), *x.shape)

    def concatenate(self, parts: Sequence[npt.NDArray[Any]], axis: int, out: npt.NDArray[Any]) -> None:
        """Contiguous parts of one dtype into a contiguous result."""
        before = math.prod(out.shape[:axis])
        stride, at = out.nbytes // before, _at(out)
        for part in parts:
            length = part.nbytes // before
            self._call["copy_runs"](_at(part), before, length, at, stride)
            at += length

    def dequantize_attention(self, rows: I32, out: F32, factor: float, divisors: F32) -> None:
        self._call["dequantize_attention"](_at(rows), _at(out), *rows.shape, factor, _at(divisors))

    def dequantize(self, rows: I32, out: F32, scale: float, factor: F32 | None, bias: F32 | None) -> None:
        self._call["dequantize"](_at(rows), _at(out), *rows.shape, scale, _data(factor), _data(bias))

    def layer_norm(self, x: F32, out: F32, gamma: F32 | None, beta: F32 | None, eps: float) -> bool:
        """Of [rows, width]; False if a value is NaN or infinite."""
        found = self._call["layer_norm"](_at(x), _at(out), *x.shape, _data(gamma), _data(beta), eps)
        return bool(found)

    def group_norm(
        self, x: F32, out: F32, groups: int, gamma: F32 | None, beta: F32 | None, eps: float
    ) -> bool:
        """Of [pixels, channels]; False if a value is NaN or infinite."""
        found = self._call["group_norm"](_at(x), _at(out), *x.shape, groups, _data(gamma), _data(beta), eps)
        if found < 0:
            raise MemoryError(f"group norm of {list(x.shape)} needs more memory than there is")
        return bool(found)


class EngineStep:
    """A step of the compiled engine of time (engine.cpp), freed with this object."""

    def __init__(self, call: dict[str, Any], config: I64) -> None:
        self._call = call
        self._step = call["engine_new"](_at(config))
        weakref.finalize(self, call["engine_free"], self._step)

    def push(self, rows: I64) -> None:
        self._call["engine_push"](self._step, _at(rows), len(rows))

    def close(self) -> bool:
        return bool(self._call["engine_close"](self._step))

    def settle(self, groups: int, causes: int) -> I64:
        """Causes of the groups that ended since; `groups` is how many were pushed in all."""
        found = np.empty((groups, causes), np.int64)
        ended: I64 = found[: self._call["engine_settle"](self._step, _at(found))]
        return ended

    @property
    def transactions(self) -> int:
        return int(self._call["engine_transactions"](self._step))


def _data(array: F32 | None) -> int | None:
    return None if array is None else _at(array)


def _at(array: npt.NDArray[Any]) -> int:
    """Where it begins, the quick way where there is one: most of a small kernel's time is its call."""
    if array.flags.writeable and array.flags.c_contiguous and array.size:
        held = ctypes.c_char.from_buffer(array)  # type: ignore[arg-type]  # typed as a buffer from Python 3.12 on
        return ctypes.addressof(held)
    return array.ctypes.data


@cache
def _int64(numbers: tuple[int, ...]) -> I64:
    return np.array(numbers, np.int64)


def _adjacent(rows: I8) -> I8:
    """Rows whose elements are neighbours in memory; their distance is free."""
    return rows if rows.shape[1] == 1 or rows.strides[1] == 1 else np.ascontiguousarray(rows)


def _build() -> Path:
    contents = (source.read_bytes() for source in (*_SOURCES, *_HEADERS))
    target = cache_dir() / f"units-{digest(*contents, ' '.join(_FLAGS), compiler_id())}"

    def make(work: Path) -> None:
        command = [str(compiler()), *_FLAGS, *map(str, _SOURCES), "-o", "units.so"]
        run_tool(command, "compiling the counting and vector kernels", work)

    publish(target, make)
    return target
