# SPDX-License-Identifier: Apache-2.0
"""One layer alone on a device, without a model: quantized operands in, accumulators and what they cost out.

    with connect(backend="rtl") as device:
        out, report = device.linear(x, w, previous=x0)       report.mode, .slots, .cycles, .zero, .low, .full

Each call is a run of a program of one command. With `previous` it has two steps, and the second, which is reported, is
computed from the difference to the first. What this file does not do: quantize, or compare with anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import IsaError, TensorError
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import Attrs, DType, TensorSpec
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.suggest import did_you_mean

if TYPE_CHECKING:
    from ditto_cosim.host.wire.client import Device

Array = npt.NDArray[Any]
I32 = npt.NDArray[np.int32]
Pair = int | tuple[int, int]

DESIGNS: Mapping[Mode, str] = {"original": "ditto", "spatial": "ditto_plus", "temporal": "db_ds_attn"}
"""Mode -> a design of Ditto's multipliers that runs in it: in its first step or, temporal, in every later one."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """An operand with its zero point, and what it was a step before."""

    name: str
    array: Array
    zero_point: int = 0
    before: Array | None = None


def linear(
    device: Device, x: Any, w: Any, *, previous: Any = None, zero_point: int = 0, mode: Mode | None = None
) -> tuple[I32, LayerReport]:
    """Σ w·(x − z) over the last axis: x[…, K], w[N, K] → […, N]."""
    given = _operand("x", x, zero_point, previous)
    weights = _int8("w", w, "weights")
    if weights.ndim != 2 or not given.array.ndim or given.array.shape[-1] != weights.shape[1]:
        raise TensorError(
            f"linear: x {list(given.array.shape)} and w {list(weights.shape)} do not fit; expected x[…, K] and w[N, K]"
        )
    return _run(device, "linear", [given], weights, {}, mode)


def conv2d(
    device: Device,
    x: Any,
    w: Any,
    *,
    previous: Any = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    zero_point: int = 0,
    mode: Mode | None = None,
) -> tuple[I32, LayerReport]:
    """x[B, C, H, W], w[N, C ÷ groups, kh, kw] → [B, N, H′, W′]; the padding is the zero point."""
    given = _operand("x", x, zero_point, previous)
    weights = _int8("w", w, "weights")
    how = isa.Convolution(_pair(stride), _pair(padding), _pair(dilation), groups)
    return _run(device, "conv2d", [given], weights, how.attrs(), mode)


def attention(
    device: Device,
    a: Any,
    b: Any,
    *,
    previous: Sequence[Any] | None = None,
    mode: Mode | None = None,
) -> tuple[I32, LayerReport]:
    """One of attention's products, both operands activations: a[…, M, K] · b[…, K, N]; `previous` is the pair before."""
    if previous is not None and len(previous) != 2:
        raise TensorError(
            f"attention: previous has {len(previous)} operands; expected the pair (a, b) before"
        )
    before = previous or (None, None)
    pair = [_operand("a", a, 0, before[0]), _operand("b", b, 0, before[1])]
    if any(operand.array.ndim < 3 for operand in pair):
        raise TensorError(
            "attention: "
            + ", ".join(f"{o.name} {list(o.array.shape)}" for o in pair)
            + "; expected a[heads, M, K] and b[heads, K, N]"
        )
    return _run(device, "matmul", pair, None, {"static_b": False}, mode)


# --- operands ---------------------------------------------------------------------------------------------------------


def _int8(name: str, value: Any, what: str = "operands") -> Array:
    """A NumPy array or a tensor, as it crosses."""
    array = np.asarray(value)
    if array.dtype != np.int8:
        raise TensorError(
            f"{name} is {array.dtype}{list(array.shape)}; the lanes take {what} of 8 bits: quantize it and give int8"
        )
    if not array.size:
        raise TensorError(f"{name} {list(array.shape)} is empty")
    return np.ascontiguousarray(array)


def _operand(name: str, value: Any, zero_point: int, previous: Any) -> _Operand:
    array = _int8(name, value)
    if not -128 <= zero_point <= 127:
        raise TensorError(f"zero point {zero_point} is outside −128…127")
    before = None if previous is None else _int8(f"previous {name}", previous)
    if before is not None and before.shape != array.shape:
        raise TensorError(
            f"previous {name} is {list(before.shape)}, {name} {list(array.shape)}; they differ element by element"
        )
    return _Operand(name, array, int(zero_point), before)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


# --- the run ------------------------------------------------------------------------------------------------------------


def _run(
    device: Device, op: str, operands: list[_Operand], weights: Array | None, attrs: Attrs, mode: Mode | None
) -> tuple[I32, LayerReport]:
    before = operands[0].before is not None
    wanted = _mode(mode, before)
    program = _program(op, operands, weights, attrs)
    constants = {} if weights is None else {"w": weights}
    spec = _spec(device.defaults, wanted)
    reports: list[LayerReport] = []
    with device.open_run(program, constants, spec) as run:
        if wanted == "temporal":
            run.step(0, _inputs(operands, before=True))
            reply = run.step(1, _inputs(operands, before=False), on_layer=reports.append)
        else:
            reply = run.step(0, _inputs(operands, before=False), on_layer=reports.append)
    return reply.outputs["out"].copy(), reports[-1]


def _mode(mode: Mode | None, before: bool) -> Mode:
    if mode is None:
        return "temporal" if before else "original"
    if mode not in get_args(Mode):
        raise TensorError(
            f"mode {mode!r} is unknown{did_you_mean(str(mode), get_args(Mode))}; known: {', '.join(get_args(Mode))}"
        )
    if (mode == "temporal") != before:
        raise TensorError(
            "mode 'temporal' computes from a difference: give previous=…"
            if mode == "temporal"
            else f"mode {mode!r} takes no previous operand; leave it out"
        )
    return mode


def _spec(defaults: RunSpec, mode: Mode) -> RunSpec:
    return RunSpec(
        backend=defaults.backend, chip=defaults.chip, design=DESIGNS[mode], cross_check=defaults.cross_check
    )


def _inputs(operands: list[_Operand], *, before: bool) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for operand in operands:
        found[operand.name] = operand.before if before and operand.before is not None else operand.array
        found[f"params_{operand.name}"] = np.array([1.0, operand.zero_point], np.float32)
    return found


def _program(op: str, operands: list[_Operand], weights: Array | None, attrs: Attrs) -> Program:
    values: list[TensorSpec] = []
    inputs: dict[str, int] = {}
    taken: list[int] = []

    def value(shape: tuple[int, ...], dtype: DType) -> int:
        values.append(TensorSpec(shape, dtype))
        return len(values) - 1

    for operand in operands:
        inputs[operand.name] = value(operand.array.shape, "i8")
        inputs[f"params_{operand.name}"] = value((2,), "f32")
        taken += [inputs[operand.name], inputs[f"params_{operand.name}"]]
    constants: dict[str, int] = {}
    if weights is not None:
        constants["w"] = value(weights.shape, "i8")
        taken.append(constants["w"])
    try:
        (result,) = isa.infer(op, [values[v] for v in taken], attrs)
    except IsaError as error:  # here it is the caller's shapes, not our program, that break the form
        raise TensorError(str(error)) from None
    if (k := _reduced(op, values)) > isa.K_EXACT:
        raise TensorError(f"{op}: K = {k}; a sum of more than {isa.K_EXACT} products may leave 32 bits")
    out = value(result.shape, "i32")
    program = Program(
        tuple(values),
        inputs,
        frozenset(),
        constants,
        {"out": out},
        (Command(op, op, tuple(taken), (out,), attrs),),
    )
    program.validate()
    return program


def _reduced(op: str, values: Sequence[TensorSpec]) -> int:
    """K: how many products are summed."""
    if op == "conv2d":
        _, channels, kh, kw = values[2].shape
        return channels * kh * kw
    return values[0].shape[-1]
