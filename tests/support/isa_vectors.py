# SPDX-License-Identifier: Apache-2.0
"""Writes `golden/isa_vectors.json`: operands and results of every command, from the scalar instruction set.

    PYTHONPATH=tests python -m support.isa_vectors

Numbers of type f32 are hexadecimal floats. A case is one command over one or more steps, between which a
dynamic quantize keeps state and `keep` a value (its programs, and those of `recall`, have period 3). `refused` marks operands
that the command must refuse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.isa_cases import OPS, PERIOD, Case, Seeded, make
from support.isa_scalar import Refused, Value, execute, f32

VECTORS = Path(__file__).parents[1] / "golden" / "isa_vectors.json"
CASES_PER_COMMAND = 4


def _line(low: float, high: float, count: int) -> Value:
    return Value((count,), "f32", [f32(low + (high - low) * i / (count - 1)) for i in range(count)])


def _chosen() -> Iterator[Case]:
    """Cases that drawing would seldom meet: rounding ties, clamps, cancellation, what must be refused."""
    for op in ("silu", "sigmoid", "tanh", "relu", "exp", "trunc", "sin", "cos"):
        yield Case(op, {}, ((0, (_line(-91.0, 91.0, 41),)),))
        yield Case(op, {}, ((0, (_line(-6.5, 6.5, 41),)),))
    yield Case("log", {}, ((0, (_line(0.0, 9.0, 41),)),))
    yield Case(
        "log", {}, ((0, (Value((6,), "f32", [math.inf, 0.0, 2.0**-149, 2.0**-126, f32(0.70710677), 1e38]),)),)
    )
    yield Case("sqrt", {}, ((0, (_line(0.0, 91.0, 41),)),))
    for tanh in (True, False):
        yield Case("gelu", {"tanh": tanh}, ((0, (_line(-9.0, 9.0, 41),)),))
    for scale, zero, symmetric in ((0.5, 0, True), (0.25, -128, False), (f32(0.1), 127, False)):
        attrs = {"scales": (scale,), "zero_points": (zero,), "bounds": (0,), "symmetric": symmetric}
        case = {"policy": "static", "hysteresis": 1.0, **attrs}
        yield Case("quantize", case, ((0, (_line(-70.0, 70.0, 57),)),))
    dynamic = {
        "policy": "dynamic",
        "scales": (0.125,),
        "zero_points": (0,),
        "bounds": (0,),
        "symmetric": True,
    }
    peaks = (0.0, 1.0, 1.2, 0.99, 0.6, 0.0, 0.5, 1e-40, 100.0)
    steps = tuple((i, (_line(-p / 2, p, 5),)) for i, p in enumerate(peaks))
    yield Case("quantize", {**dynamic, "hysteresis": 1.25}, steps)
    offset = Value((1, 16), "f32", [f32(1000.0 + i / 1024) for i in range(16)])
    yield Case("layer_norm", {"eps": 1e-5}, ((0, (offset,)),))
    yield Case("layer_norm", {"eps": 1e-5}, ((0, (Value((1, 4), "f32", [0.0] * 4),)),))
    yield Case("softmax", {}, ((0, (Value((1, 3), "f32", [-math.inf, 1.0, 0.0]),)),))
    for op, bad in (
        *(("softmax", math.nan), ("softmax", math.inf), ("sin", 2.0**21), ("cos", math.nan)),
        *(("log", -1.0), ("log", math.nan), ("sum", math.inf), ("sum", math.nan)),
    ):
        yield Case(op, {}, ((0, (Value((1, 2), "f32", [bad, 1.0]),)),))
    yield Case("sum", {}, ((0, (Value((1, 4), "f32", [0.0] * 4),)),))
    yield Case("sum", {}, ((0, (Value((3,), "f32", [f32(1e30), 1.0, -f32(1e30)]),)),))
    yield Case("rms_norm", {"eps": 1e-6}, ((0, (Value((1, 2), "f32", [math.inf, 1.0]),)),))
    for op in ("max", "min"):
        yield Case(op, {}, ((0, (_line(-2.0, 2.0, 9), Value((9,), "f32", [0.5] * 9))),))
    yield Case("softmax", {}, ((0, (Value((1, 2), "f32", [-math.inf] * 2),)),))
    for bad in (math.nan, math.inf, -math.inf):
        value = Value((1, 2), "f32", [bad, 1.0])
        yield Case("layer_norm", {"eps": 1e-5}, ((0, (value,)),))
        yield Case("group_norm", {"eps": 1e-5, "groups": 1}, ((0, (value,)),))
        yield Case("quantize", {**dynamic, "hysteresis": 1.0}, ((0, (value,)),))
        yield Case("quantize", {**dynamic, "policy": "static", "hysteresis": 1.0}, ((0, (value,)),))
    yield from _chosen_blocks()
    row, half, other = Value((1, 3), "i8", [1, 2, 3]), _params(0.5, 0.0), _params(0.25, 0.0)
    weights = Value((1, 3), "i8", [127, -127, 1])
    yield Case("linear_increment", {}, ((0, (row, half, weights, row, half)),))  # nothing changed
    for then in (other, _params(0.5, 1.0)):
        yield Case("linear_increment", {}, ((0, (row, half, weights, row, then)),))
    table, index = Value((2,), "f32", [1.0, 2.0]), Value((1,), "i64", [2])
    yield Case("gather", {}, ((0, (table, index)),))


def _chosen_blocks() -> Iterator[Case]:
    """Ties of codes and of E4M3, blocks of zeros, the window of exponents, a number that rounds up into the next code."""
    for form in ("uint4", "int4", "mxint8"):
        attrs = {"format": form, "block": 16, "axis": 1}
        ties = [f32(i / 4) for i in range(-29, 31)] + [0.0] * 20 + [448.0, 2.0**-20]
        yield Case("quantize_block", attrs, ((0, (Value((1, len(ties)), "f32", list(ties)),)),))
        spread = [f32(math.ldexp(1.4375, e)) for e in range(-140, 100, 3)]
        yield Case("quantize_block", attrs, ((0, (Value((len(spread), 1), "f32", list(spread)),)),))
        below_half = [
            f32(64.0),
            math.ldexp(float(2**24 - 1), -25),
            -math.ldexp(float(2**24 - 1), -25),
            0.5,
            -0.5,
        ]
        yield Case("quantize_block", attrs, ((0, (Value((1, 5), "f32", list(below_half)),)),))
        yield Case("quantize_block", attrs, ((0, (Value((1, 2), "f32", [0.0, -0.0]),)),))
        for bad in (math.nan, math.inf):
            yield Case("quantize_block", attrs, ((0, (Value((1, 2), "f32", [bad, 1.0]),)),))


def _params(scale: float, zero_point: float) -> Value:
    return Value((2,), "f32", [scale, zero_point])


def _plain(value: Value) -> dict[str, Any]:
    data = [float(v).hex() for v in value.data] if value.dtype == "f32" else [int(v) for v in value.data]
    return {"shape": list(value.shape), "dtype": value.dtype, "data": data}


def results_of(
    case: Case,
    step: int,
    operands: tuple[Value, ...],
    previous_scale: float | None,
    held: dict[str, Value],
) -> tuple[Value, ...]:
    """What a case gives in a step."""
    if case.op not in ("keep", "recall"):
        return execute(case.op, operands, case.attrs, step, previous_scale)
    if step % PERIOD:
        return execute("recall", (), case.attrs, step, held=held)
    execute("keep", operands, case.attrs, step, held=held)
    return operands


def _case(case: Case) -> dict[str, Any]:
    previous, steps = None, []
    held: dict[str, Value] = {}
    for step, operands in case.steps:
        done: dict[str, Any] = {"step": step, "operands": [_plain(v) for v in operands]}
        try:
            results = results_of(case, step, operands, previous, held)
            done["results"] = [_plain(v) for v in results]
            if case.op == "quantize":
                previous = float(results[1].data[0])
        except Refused:
            done["refused"] = True
        steps.append(done)
    return {"op": case.op, "attrs": case.attrs, "steps": steps}


def text() -> str:
    drawn = [make(op, Seeded(97 * n + i)) for n, op in enumerate(OPS) for i in range(CASES_PER_COMMAND)]
    lines = [json.dumps(_case(case)) for case in (*drawn, *_chosen())]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    VECTORS.write_text(text())
    print(f"{VECTORS.name}: {VECTORS.stat().st_size} bytes")
