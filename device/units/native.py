"""The compiled form of what `slots.py` counts, where there is a compiler; None elsewhere, and NumPy counts.

What this file does not do: decide what is counted. A test holds both forms together.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import LOW_RULE_CODES, LowRule
from ditto_cosim.sim_harness.compiled import cache_dir, compiler, compiler_id, digest, publish, run_tool
from ditto_cosim.sim_harness.errors import HarnessError

log = logging.getLogger(__name__)

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
CountRows = Callable[[I8, "I8 | int", LowRule], I32]

_SOURCE = Path(__file__).with_name("count_rows.cpp")
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden", "-shared")


@cache
def row_counter() -> CountRows | None:
    """(zero, low, full) elements of every row of [rows, K]: int32 [3, rows]."""
    try:
        library = ctypes.CDLL(str(_build() / "count_rows.so"))
    except (HarnessError, OSError) as error:
        log.info("rows are counted by NumPy: %s", error)
        return None
    function = library.ditto_count_rows
    function.restype = None
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, size, pointer, size, size, size, ctypes.c_int32, pointer]

    def count_rows(current: I8, reference: I8 | int, rule: LowRule) -> I32:
        rows, k = current.shape
        other = np.full((1, k), reference, np.int8) if isinstance(reference, int) else _adjacent(reference)
        stride = 0 if isinstance(reference, int) else other.strides[0]
        current = _adjacent(current)
        counted = np.empty((3, rows), np.int32)
        function(
            current.ctypes.data, current.strides[0], other.ctypes.data, stride, rows, k,
            LOW_RULE_CODES[rule], counted.ctypes.data,
        )  # fmt: skip
        return counted

    return count_rows


def _adjacent(rows: I8) -> I8:
    """Rows whose elements are neighbours in memory; their distance is free."""
    return rows if rows.shape[1] == 1 or rows.strides[1] == 1 else np.ascontiguousarray(rows)


def _build() -> Path:
    source = _SOURCE.read_bytes()
    target = cache_dir() / f"count-rows-{digest(source, ' '.join(_FLAGS), compiler_id())}"

    def make(work: Path) -> None:
        run_tool(
            [str(compiler()), *_FLAGS, str(_SOURCE), "-o", "count_rows.so"], "compiling the row counter", work
        )

    publish(target, make)
    return target
