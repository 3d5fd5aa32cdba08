# SPDX-License-Identifier: Apache-2.0
"""Which rows of which layers a value came from: a walk back through the program, element by element.

    rows_behind(program, {value: mask})              every row that the masked elements were computed from
    rows_behind(program, {value: mask}, own=True)    only those at the same place: of a kernel its centre, of attention
                                                     the position itself

Both follow values, not statistics: mean and variance of a group norm come from the whole picture, and a row behind them
alone is not counted. Attention is followed (a query's row comes from every key), layer norm too (its statistics are one
position's own). What was kept in an earlier step, and what temporal mode adds to, is where the walk ends.
What this file does not do: know pictures, or which cycles a row took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.isa import ISA, Convolution, TensorSpec, ints
from ditto_cosim.protocol.program import Command, Program

Mask = npt.NDArray[np.bool_]

_ALONG_LAST = frozenset({"layer_norm", "rms_norm", "softmax"})


def rows_behind(program: Program, seeds: Mapping[int, Mask], own: bool = False) -> dict[int, Mask]:
    """Layer -> [groups × rows] of its first product, true where the masked elements come from it.

    `program` is of one class of steps (`Program.of`); layers are numbered as in it.
    """
    masks: dict[int, Mask] = dict(seeds)
    found: dict[int, Mask] = {}
    numbers = {id(command): i for i, command in enumerate(program.layers)}
    for command in reversed(program.commands):
        results = [masks.pop(value, None) for value in command.results]
        if not any(mask is not None and mask.any() for mask in results):
            continue
        if command.is_layer and results[0] is not None:
            found[numbers[id(command)]] = _rows(command, results[0])
        for at, mask in _operands(program, command, results, own):
            value = command.operands[at]
            if mask.any():
                masks[value] = mask | masks[value] if value in masks else mask
    return dict(sorted(found.items()))


def _rows(command: Command, result: Mask) -> Mask:
    """Rows of a layer's first product, in the order of the instruction set's text."""
    if command.op in ("conv2d", "conv2d_block"):
        groups = Convolution.of(command.attrs).groups
        batch, channels, height, width = result.shape
        by_group = _some(result.reshape(batch, groups, channels // groups, height, width), 2)
        return np.ascontiguousarray(by_group.transpose(1, 0, 2, 3)).reshape(-1)
    return _some(result, -1).reshape(-1)


def _operands(
    program: Program, command: Command, results: Sequence[Mask | None], own: bool
) -> Iterator[tuple[int, Mask]]:
    """(place, mask) of every operand that holds data, not constants or scales."""
    specs = program.specs(command.operands)
    constants = set(program.constants.values())
    data = [
        at
        for at, value in enumerate(command.operands)
        if value not in constants and not ISA[command.op].operand(at).is_params
    ]
    rule = _RULES.get(command.op, _same_place)
    for at in data:
        mask = rule(command, results, specs, at, own)
        if mask is not None:
            yield at, mask


def _some(mask: Mask, axis: int | tuple[int, ...], keepdims: bool = False) -> Mask:
    """True where any along the axis is."""
    return np.asarray(mask.any(axis, keepdims=keepdims), bool)


Rule = Callable[[Command, Sequence[Mask | None], Sequence[TensorSpec], int, bool], Mask | None]


def _first(results: Sequence[Mask | None]) -> Mask:
    return next(mask for mask in results if mask is not None)


def _same_place(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    """Element by element, with NumPy's broadcasting undone."""
    mask, shape = _first(results), specs[at].shape
    extra = mask.ndim - len(shape)
    if extra > 0:
        mask = _some(mask, tuple(range(extra)))
    stretched = tuple(i for i, size in enumerate(shape) if size == 1 and mask.shape[i] != 1)
    return np.broadcast_to(_some(mask, stretched, keepdims=True) if stretched else mask, shape)


def _along_last(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    """Every element of the last axis comes from all of it."""
    shape = specs[at].shape
    lines = np.zeros(shape[:-1], bool)
    for mask in results:
        if mask is not None:
            lines |= mask if mask.ndim < len(shape) else _some(mask, -1)
    return np.broadcast_to(lines[..., None], shape)


def _of_rows(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    """A product over the last axis."""
    shape = specs[at].shape
    return np.broadcast_to(_some(_first(results), -1)[..., None], shape)


def _convolution(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    if at != 0:  # scales of blocks are at their values' place
        return None
    how, (batch, channels, height, width) = Convolution.of(command.attrs), specs[0].shape
    kernel = specs[2].shape[2:]
    if any(size % 2 == 0 for size in kernel) and own:
        own = False  # no centre
    result = _first(results)
    by_group = _some(result.reshape(batch, how.groups, -1, *result.shape[2:]), 2)
    padded = np.zeros(
        (batch, how.groups, *(n + 2 * p for n, p in zip((height, width), how.padding, strict=True))), bool
    )
    taps = [range(size // 2, size // 2 + 1) if own else range(size) for size in kernel]
    for u in taps[0]:
        for v in taps[1]:
            top, left = u * how.dilation[0], v * how.dilation[1]
            down, right = (
                slice(begin, begin + step * (count - 1) + 1, step)
                for begin, step, count in zip((top, left), how.stride, result.shape[2:], strict=True)
            )
            padded[:, :, down, right] |= by_group
    inside = padded[:, :, how.padding[0] :, how.padding[1] :][:, :, :height, :width]
    return np.repeat(inside, channels // how.groups, axis=1)


def _matmul(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    rows = _some(_first(results), -1)  # […, m]
    if at == 0:
        return np.broadcast_to(rows[..., None], specs[0].shape)
    *_, k, n = specs[2].shape
    if not own:
        if _first(results).shape[-2] == 0:
            return None
        return np.broadcast_to(_some(_first(results), -2)[..., None, :], specs[2].shape)
    if n == rows.shape[-1]:  # scores of a sequence with itself: the same position's key
        return np.broadcast_to(rows[..., None, :], specs[2].shape)
    if k == rows.shape[-1]:  # … and its value
        return np.broadcast_to(rows[..., :, None], specs[2].shape)
    return None


def _of_attention(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    mask = _first(results)
    return mask if at == 0 else np.ascontiguousarray(_some(mask, -1)) if at == 1 else None


def _moved(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    mask, attrs, shape = _first(results), command.attrs, specs[at].shape
    match command.op:
        case "reshape":
            return mask.reshape(shape)
        case "permute":
            return mask.transpose(np.argsort(ints(attrs, "order")))
        case "concat":
            axis = int(attrs["axis"])  # type: ignore[arg-type]  # the program is valid
            begin = sum(spec.shape[axis] for spec in specs[:at])
            index = [slice(None)] * mask.ndim
            index[axis] = slice(begin, begin + shape[axis])
            return mask[tuple(index)]
        case "slice":
            axis, start, stop, step = (int(attrs[n]) for n in ("axis", "start", "stop", "step"))  # type: ignore[arg-type]
            whole = np.zeros(shape, bool)
            index = [slice(None)] * mask.ndim
            index[axis] = slice(start, stop, step)
            whole[tuple(index)] = mask
            return whole
        case "upsample_nearest":
            fh, fw = ints(attrs, "factor")
            *lead, height, width = shape
            return _some(mask.reshape(*lead, height, fh, width, fw), (-3, -1))
        case "gather":
            if at == 0:
                return None
            return _some(mask, tuple(range(len(shape), mask.ndim)))
    return None


def _blocks(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    """Codes are at their values' place; the scale of a block is of that block, and follows them."""
    return results[0]


def _sum(
    command: Command, results: Sequence[Mask | None], specs: Sequence[TensorSpec], at: int, own: bool
) -> Mask | None:
    return np.broadcast_to(_first(results)[..., None], specs[at].shape)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ALONG_LAST, _along_last),
    **dict.fromkeys(("linear", "linear_block", "linear_increment"), _of_rows),
    **dict.fromkeys(("reshape", "permute", "concat", "slice", "upsample_nearest", "gather"), _moved),
    "conv2d": _convolution,
    "conv2d_block": _convolution,
    "matmul": _matmul,
    "dequantize_attention": _of_attention,
    "quantize_block": _blocks,
    "sum": _sum,
}


def pixel_mask(spec: TensorSpec, row: int, column: int, entries: Sequence[int]) -> Mask:
    """All channels of one place of an output [batch, channels, …, height, width], in these entries of the batch."""
    mask = np.zeros(spec.shape, bool)
    mask[list(entries), ..., row, column] = True
    return mask
