# SPDX-License-Identifier: Apache-2.0
"""What only moves numbers: shapes, slices, joins, and picking by indices that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.builder import (
    Argument,
    Builder,
    Complex,
    LoweringError,
    Probabilities,
    Rule,
    Value,
)
from ditto_cosim.host.compiler.points import ALIASES, example


def axis_of(axis: int, rank: int) -> int:
    return axis % max(rank, 1)


def reshaped(low: Builder, x: Value, shape: tuple[int, ...]) -> Value:
    return x if shape == x.spec.shape else low.emit("reshape", x, shape=shape)[0]


def permuted(low: Builder, x: Value, order: Sequence[int]) -> Value:
    order = tuple(axis_of(i, len(x.spec.shape)) for i in order)
    return x if order == tuple(range(len(order))) else low.emit("permute", x, order=order)[0]


def moved_last(low: Builder, x: Value, axis: int) -> tuple[Value, list[int]]:
    """The value with this axis at the end, and the order that puts it back."""
    rank = len(x.spec.shape)
    axis = axis_of(axis, rank)
    order = [i for i in range(rank) if i != axis] + [axis]
    return permuted(low, x, order), [order.index(i) for i in range(rank)]


def sliced(low: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    if (start, stop, step) == (0, x.spec.shape[axis], 1):
        return x
    return low.emit("slice", x, axis=axis, start=start, stop=stop, step=step)[0]


def joined(low: Builder, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else low.emit("concat", *parts, axis=axis)[0]


def taken(low: Builder, x: Value, index: Sequence[int], axis: int) -> Value:
    """These places of one axis, in this order: a slice where they are evenly spaced."""
    axis = axis_of(axis, len(x.spec.shape))
    step = index[1] - index[0] if len(index) > 1 else 1
    if step > 0 and list(index) == list(range(index[0], index[0] + step * len(index), step)):
        return sliced(low, x, axis, index[0], index[-1] + 1, step)
    rank = len(x.spec.shape)
    order = [axis, *(i for i in range(rank) if i != axis)]
    places = low.constant(torch.tensor(index, dtype=torch.int64), f"{low.scope}/places".lstrip("/"))
    (found,) = low.emit("gather", permuted(low, x, order), places)
    return permuted(low, found, [order.index(i) for i in range(rank)])


# --- shapes -------------------------------------------------------------------------------------------------------------


def _alias(low: Builder, node: Node, x: Argument, *_: Any, **__: Any) -> Argument:
    return x


def _view(low: Builder, node: Node, x: Argument, *_: Any, **__: Any) -> Argument:
    shape = tuple(example(node).shape)
    if isinstance(x, Probabilities):
        if shape[-1] == x.p.spec.shape[-1]:
            return Probabilities(reshaped(low, x.p, shape), reshaped(low, x.sums, shape[:-1]))
        return reshaped(low, low.f32(x), shape)
    return reshaped(low, low.value(x), shape)


def _permute(low: Builder, node: Node, x: Argument, order: Any) -> Value:
    return permuted(low, low.any(x), order)


def _transpose(low: Builder, node: Node, x: Argument, a: int, b: int) -> Value:
    value = low.any(x)
    order = list(range(len(value.spec.shape)))
    order[a], order[b] = order[b], order[a]
    return permuted(low, value, order)


def _turned(low: Builder, node: Node, x: Argument) -> Value:
    value = low.any(x)
    return permuted(low, value, range(len(value.spec.shape))[::-1])


def _expand(low: Builder, node: Node, x: Argument, *_: Any, **__: Any) -> Value:
    value, shape = low.any(x), tuple(example(node).shape)
    return value if shape == value.spec.shape else low.emit("broadcast", value, shape=shape)[0]


def _meshgrid(
    low: Builder, node: Node, parts: Sequence[Argument], *, indexing: str = "ij"
) -> tuple[Value, ...]:
    """Every part along an axis of its own, stretched over all of them."""
    values = [low.any(p) for p in parts]
    axes = list(range(len(values)))
    if indexing == "xy" and len(axes) > 1:
        axes[:2] = 1, 0
    sizes = {axis: v.spec.elements for axis, v in zip(axes, values, strict=True)}
    shape = tuple(sizes[axis] for axis in range(len(axes)))
    lines = [
        reshaped(low, v, tuple(n if i == axis else 1 for i, n in enumerate(shape)))
        for axis, v in zip(axes, values, strict=True)
    ]
    return tuple(v if v.spec.shape == shape else low.emit("broadcast", v, shape=shape)[0] for v in lines)


def _repeat(low: Builder, node: Node, x: Argument, counts: Sequence[int]) -> Value:
    """Every axis that is repeated beside itself, by way of a new axis before it that is stretched."""
    value = low.any(x)
    shape = (1,) * (len(counts) - len(value.spec.shape)) + value.spec.shape
    narrow: list[int] = []
    wide: list[int] = []
    for count, size in zip(counts, shape, strict=True):
        narrow += [size] if count == 1 or size == 1 else [1, size]
        wide += [count * size] if count == 1 or size == 1 else [count, size]
    if wide != narrow:
        value = low.emit("broadcast", reshaped(low, value, tuple(narrow)), shape=tuple(wide))[0]
    return reshaped(low, value, tuple(example(node).shape))


def _repeat_interleave(
    low: Builder, node: Node, x: Argument, repeats: Any, dim: int | None = None, **__: Any
) -> Value:
    value = low.any(x)
    if dim is None:
        value, dim = reshaped(low, value, (math.prod(value.spec.shape),)), 0
    axis = axis_of(dim, len(value.spec.shape))
    if isinstance(repeats, torch.Tensor):
        counts = torch.arange(value.spec.shape[axis]).repeat_interleave(repeats)
        return taken(low, value, counts.tolist(), axis)
    shape = value.spec.shape
    wide = reshaped(low, value, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    stretched = low.emit("broadcast", wide, shape=(*shape[: axis + 1], repeats, *shape[axis + 1 :]))[0]
    return reshaped(low, stretched, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


# --- joins --------------------------------------------------------------------------------------------------------------


def _alike(low: Builder, parts: Sequence[Argument]) -> list[Value]:
    """As they are if they are of one type, else in binary32."""
    values = [low.any(p) for p in parts]
    return values if len({v.spec.dtype for v in values}) == 1 else [low.f32(p) for p in parts]


def _concat(low: Builder, node: Node, parts: Sequence[Argument], dim: int = 0) -> Value:
    values = _alike(low, [p for p in parts if not (isinstance(p, torch.Tensor) and not p.numel())])
    return joined(low, values, axis_of(dim, len(values[0].spec.shape)))


def _stack(low: Builder, node: Node, parts: Sequence[Argument], dim: int = 0) -> Value:
    values = _alike(low, parts)
    shape = values[0].spec.shape
    axis = axis_of(dim, len(shape) + 1)
    return joined(low, [reshaped(low, v, (*shape[:axis], 1, *shape[axis:])) for v in values], axis)


def _unbind(low: Builder, node: Node, x: Argument, dim: int = 0) -> tuple[Value, ...]:
    value = low.any(x)
    return tuple(
        _picked(low, value, dim, i) for i in range(value.spec.shape[axis_of(dim, len(value.spec.shape))])
    )


def _picked(low: Builder, x: Value, dim: int, index: int) -> Value:
    axis = axis_of(dim, len(x.spec.shape))
    start = index % x.spec.shape[axis]
    return reshaped(
        low, sliced(low, x, axis, start, start + 1), x.spec.shape[:axis] + x.spec.shape[axis + 1 :]
    )


def _pad(
    low: Builder, node: Node, x: Argument, pad: Any, mode: str = "constant", value: float | None = None
) -> Value:
    padded = low.f32(x)
    for i, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        padded = _padded(low, padded, len(padded.spec.shape) - 1 - i, before, after, mode, float(value or 0))
    return padded


def _padded(low: Builder, x: Value, axis: int, before: int, after: int, mode: str, value: float) -> Value:
    length = x.spec.shape[axis]
    if min(before, after) < 0:
        x = sliced(low, x, axis, max(-before, 0), length - max(-after, 0))
        return _padded(low, x, axis, max(before, 0), max(after, 0), mode, value)
    if not (before or after):
        return x
    if mode == "constant":
        sides = [
            [
                low.constant(
                    torch.full((*x.spec.shape[:axis], n, *x.spec.shape[axis + 1 :]), value),
                    f"{low.scope}.padding",
                )
            ]
            if n
            else []
            for n in (before, after)
        ]
        return joined(low, [*sides[0], x, *sides[1]], axis)
    line = torch.arange(length, dtype=torch.float32).reshape(1, 1, length)
    mode = {"replicate": "replicate", "reflect": "reflect", "circular": "circular"}.get(mode, mode)
    index = torch.nn.functional.pad(line, (before, after), mode=mode).flatten().to(torch.int64)
    return taken(low, x, index.tolist(), axis)


def _pad_sequence(
    low: Builder,
    node: Node,
    parts: Sequence[Argument],
    batch_first: bool = False,
    value: float = 0,
    side: str = "right",
) -> Value:
    values = [low.f32(p) for p in parts]
    longest = max(v.spec.shape[0] for v in values)
    missing = [longest - v.spec.shape[0] for v in values]
    ends = [(0, n) if side == "right" else (n, 0) for n in missing]
    padded = [_padded(low, v, 0, *end, "constant", float(value)) for v, end in zip(values, ends, strict=True)]
    return _stack(low, node, padded, 0 if batch_first else 1)


# --- parts --------------------------------------------------------------------------------------------------------------


def _slice(
    low: Builder,
    node: Node,
    x: Argument,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    value = low.any(x)
    axis = axis_of(dim, len(value.spec.shape))
    return sliced(low, value, axis, *slice(start, end, step).indices(value.spec.shape[axis]))


def _narrow(low: Builder, node: Node, x: Argument, dim: int, start: int, length: int) -> Value:
    return _slice(low, node, x, dim, start, start + length if start >= 0 or start + length < 0 else None)


def _select(low: Builder, node: Node, x: Argument, dim: int, index: int) -> Value:
    return _picked(low, low.any(x), dim, index)


def _split(low: Builder, node: Node, x: Argument, size: Any, dim: int = 0) -> tuple[Argument, ...]:
    value = low.any(x)
    length = value.spec.shape[axis_of(dim, len(value.spec.shape))]
    sizes = (
        [size] * (length // size) + ([length % size] if length % size else [])
        if isinstance(size, int)
        else size
    )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    axis = axis_of(dim, len(value.spec.shape))
    empty = torch.zeros((*value.spec.shape[:axis], 0, *value.spec.shape[axis + 1 :]))
    return tuple(
        sliced(low, value, axis, s, s + n) if n else empty for s, n in zip(starts, sizes, strict=True)
    )


def _chunk(low: Builder, node: Node, x: Argument, chunks: int, dim: int = 0) -> tuple[Argument, ...]:
    value = low.any(x)
    return _split(low, node, value, -(-value.spec.shape[axis_of(dim, len(value.spec.shape))] // chunks), dim)


def _glu(low: Builder, node: Node, x: Argument, dim: int = -1) -> Value:
    first, second = _chunk(low, node, low.f32(x), 2, dim)
    return low.emit("mul", low.f32(first), low.emit("sigmoid", low.f32(second))[0])[0]


def _flip(low: Builder, node: Node, x: Argument, dims: Sequence[int]) -> Value:
    value = low.any(x)
    for dim in dims:
        length = value.spec.shape[axis_of(dim, len(value.spec.shape))]
        value = taken(low, value, list(range(length))[::-1], dim)
    return value


def _roll(low: Builder, node: Node, x: Argument, shifts: Any, dims: Any = ()) -> Value:
    value = low.any(x)
    if isinstance(dims, list | tuple) and not len(dims):
        flat = reshaped(low, value, (value.spec.elements,))
        return reshaped(low, _roll(low, node, flat, shifts, [0]), value.spec.shape)
    pairs = [(shifts, dims)] if isinstance(shifts, int) else list(zip(shifts, dims, strict=True))
    for shift, dim in pairs:
        axis = axis_of(dim, len(value.spec.shape))
        length = value.spec.shape[axis]
        if cut := -shift % length:
            value = joined(
                low, [sliced(low, value, axis, cut, length), sliced(low, value, axis, 0, cut)], axis
            )
    return value


# --- picking by index ---------------------------------------------------------------------------------------------------


_CHOICES = 16


def _embedding(low: Builder, node: Node, table: Argument, index: Argument, *_: Any, **__: Any) -> Value:
    """A row of the table for every index; an index that is computed chooses between few rows one comparison each."""
    rows, places = low.f32(table), low.value(index)
    count = rows.spec.shape[0]
    if places.spec.dtype == "i64" or count > _CHOICES:
        return low.emit("gather", rows, places)[0]
    wide = reshaped(low, low.f32(places), (*places.spec.shape, 1))
    found = sliced(low, rows, 0, 0, 1)
    for row in range(1, count):
        here = low.emit("equal", wide, low.f32(float(row)))[0]
        found = low.emit("select", here, sliced(low, rows, 0, row, row + 1), found)[0]
    return reshaped(low, found, tuple(example(node).shape))


def _index_select(low: Builder, node: Node, x: Argument, dim: int, index: Argument) -> Value:
    if isinstance(index, torch.Tensor):
        return taken(low, low.any(x), index.tolist(), dim)
    return _index(low, node, x, [None] * axis_of(dim, len(example(node).shape)) + [index])


def _index(low: Builder, node: Node, x: Argument, indices: Sequence[Argument]) -> Value:
    value = low.any(x)
    given = [i for i, index in enumerate(indices) if index is not None]
    if given != list(range(given[0], given[-1] + 1)):
        raise LoweringError(
            f"{low.scope}: indexing on axes {given}, which are no neighbours, is not supported"
        )
    rank, count = len(value.spec.shape), len(given)
    order = [*given, *(i for i in range(rank) if i not in given)]
    front = permuted(low, value, order)
    if count == 1 and isinstance(indices[given[0]], Value):
        places, shape = indices[given[0]], indices[given[0]].spec.shape  # type: ignore[union-attr]  # a Value, as asked
    else:
        known = [indices[i] for i in given]
        if not all(isinstance(k, torch.Tensor) and k.dtype != torch.bool for k in known):
            raise LoweringError(
                f"{low.scope}: indexing by a mask or by several computed indices is not supported"
            )
        sizes = front.spec.shape[:count]
        flat = torch.zeros((), dtype=torch.int64)
        for index, size in zip(known, sizes, strict=True):
            assert isinstance(index, torch.Tensor)
            flat = flat * size + index % size
        front = reshaped(low, front, (math.prod(sizes), *front.spec.shape[count:]))
        places, shape = flat, tuple(flat.shape)
    (found,) = low.emit("gather", front, low.value(places, "places"))
    width, first = len(shape), given[0]
    back = [*range(width, width + first), *range(width), *range(width + first, len(found.spec.shape))]
    return permuted(low, found, back)


def _gathered(low: Builder, node: Node, x: Argument, dim: int, index: Argument, **__: Any) -> Value:
    """`torch.gather` by known indices that are the same on every other axis."""
    if not isinstance(index, torch.Tensor):
        raise LoweringError(f"{low.scope}: gather by a computed index is not supported")
    axis = axis_of(dim, index.dim())
    line = index.movedim(axis, -1).reshape(-1, index.shape[axis])
    if not bool((line == line[0]).all()):
        raise LoweringError(f"{low.scope}: gather by an index that differs between rows is not supported")
    return taken(low, low.any(x), line[0].tolist(), axis)


def _scattered(low: Builder, x: Argument, source: Argument, axis: int, places: Sequence[int]) -> Value:
    """`x` with the parts of `source` in these places of one axis."""
    if not places:
        return low.any(x)
    values = _alike(low, [x, source])
    length = values[0].spec.shape[axis]
    index = list(range(length))
    for at, place in enumerate(places):
        index[place] = length + at
    shape = list(values[0].spec.shape)
    shape[axis] = len(places)
    part = values[1]
    if part.spec.shape != tuple(shape):
        part = low.emit("broadcast", part, shape=tuple(shape))[0]
    if list(places) == list(range(length)):
        return part
    if list(places) == list(range(places[0], places[0] + len(places))):
        ends = [(0, places[0]), (places[-1] + 1, length)]
        before, after = ([sliced(low, values[0], axis, a, b)] if a < b else [] for a, b in ends)
        return joined(low, [*before, part, *after], axis)
    return taken(low, joined(low, [values[0], part], axis), index, axis)


def _slice_scatter(
    low: Builder,
    node: Node,
    x: Argument,
    source: Argument,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    shape = example(node).shape
    axis = axis_of(dim, len(shape))
    return _scattered(low, x, source, axis, list(range(shape[axis]))[slice(start, end, step)])


def _select_scatter(low: Builder, node: Node, x: Argument, source: Argument, dim: int, index: int) -> Value:
    shape = tuple(example(node).shape)
    axis = axis_of(dim, len(shape))
    part = reshaped(low, low.any(source), (*shape[:axis], 1, *shape[axis + 1 :]))
    return _scattered(low, x, part, axis, [index % shape[axis]])


def _index_copy(low: Builder, node: Node, x: Argument, dim: int, index: Argument, source: Argument) -> Value:
    if not isinstance(index, torch.Tensor):
        raise LoweringError(f"{low.scope}: index_copy by a computed index is not supported")
    return _scattered(low, x, source, axis_of(dim, len(example(node).shape)), index.flatten().tolist())


def _index_put(
    low: Builder,
    node: Node,
    x: Argument,
    indices: Sequence[Argument],
    source: Argument,
    accumulate: bool = False,
) -> Value:
    shape = tuple(example(node).shape)
    given = [i for i, index in enumerate(indices) if index is not None]
    index = indices[given[0]]
    mask = node.args[1][given[0]]  # type: ignore[index]  # the same list, as nodes
    if accumulate or len(given) != 1:
        raise LoweringError(
            f"{low.scope}: index_put on {len(given)} axes (accumulate = {accumulate}) is not supported"
        )
    if isinstance(mask, Node) and example(mask).dtype == torch.bool:
        if len(node.args) > 2 and isinstance(node.args[2], Node) and example(node.args[2]).numel() != 1:
            raise LoweringError(f"{low.scope}: writing many values through a mask is not supported")
        mark = low.f32(index)
        wide = (1,) * given[0] + mark.spec.shape
        wide += (1,) * (len(shape) - len(wide))
        return low.emit("select", reshaped(low, mark, wide), low.f32(source), low.f32(x))[0]
    if not isinstance(index, torch.Tensor) or index.dim() != 1:
        raise LoweringError(f"{low.scope}: index_put by a computed index is not supported")
    return _scattered(low, x, source, given[0], (index % shape[given[0]]).tolist())


def _copy(low: Builder, node: Node, x: Argument, source: Argument, *_: Any) -> Value:
    return _expand(low, node, source)


def _diagonal(
    low: Builder, node: Node, x: Argument, offset: int = 0, first: int = -2, second: int = -1
) -> Value:
    if (offset, first, second) != (0, -2, -1):
        raise LoweringError(f"{low.scope}: diag_embed on axes {first}, {second} is not supported")
    value = low.f32(x)
    wide = reshaped(low, value, (*value.spec.shape, 1))
    return low.emit("mul", wide, low.f32(torch.eye(value.spec.shape[-1])))[0]


def _as_complex(low: Builder, node: Node, x: Argument) -> Complex:
    value = low.f32(x)
    return Complex(_picked(low, value, -1, 0), _picked(low, value, -1, 1))


def _as_real(low: Builder, node: Node, x: Argument) -> Value:
    parts = low.complex(x)
    return _stack(low, node, [parts.real, parts.imag], -1)


def _pixel_shuffle(low: Builder, node: Node, x: Argument, factor: int) -> Value:
    value = low.any(x)
    *lead, channels, height, width = value.spec.shape
    n, out = len(lead), channels // factor**2
    apart = reshaped(low, value, (*lead, out, factor, factor, height, width))
    turned = permuted(low, apart, [*range(n + 1), n + 3, n + 1, n + 4, n + 2])
    return reshaped(low, turned, (*lead, out, height * factor, width * factor))


def _pixel_unshuffle(low: Builder, node: Node, x: Argument, factor: int) -> Value:
    value = low.any(x)
    *lead, channels, height, width = value.spec.shape
    n = len(lead)
    apart = reshaped(low, value, (*lead, channels, height // factor, factor, width // factor, factor))
    turned = permuted(low, apart, [*range(n + 1), n + 2, n + 4, n + 1, n + 3])
    return reshaped(low, turned, (*lead, channels * factor**2, height // factor, width // factor))


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *(
                "aten.view.default",
                "aten._unsafe_view.default",
                "aten.reshape.default",
                "aten.flatten.using_ints",
            ),
            *("aten.unflatten.int", "aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.dims"),
            *("aten.squeeze.default", "aten.view_as.default", "aten.reshape_as.default"),
        ),
        _view,
    ),
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    **dict.fromkeys(("aten.t.default", "aten.numpy_T.default", "aten.mT.default"), _turned),
    **dict.fromkeys(("aten.cat.default", "aten.concat.default", "aten.concatenate.default"), _concat),
    "aten.stack.default": _stack,
    "aten.unbind.int": _unbind,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": lambda low, node, x, pad, value=0: _pad(
        low, node, x, pad, "constant", value
    ),
    "aten.pad_sequence.default": _pad_sequence,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": _narrow,
    "aten.select.int": _select,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _chunk,
    "aten.glu.default": _glu,
    **dict.fromkeys(("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default"), _expand),
    **dict.fromkeys(("aten.repeat.default", "aten.tile.default"), _repeat),
    **{f"aten.repeat_interleave.{form}": _repeat_interleave for form in ("self_int", "self_Tensor")},
    **dict.fromkeys(("aten.meshgrid.default", "aten.meshgrid.indexing"), _meshgrid),
    "aten.flip.default": _flip,
    "aten.roll.default": _roll,
    "aten.embedding.default": _embedding,
    "aten.index.Tensor": _index,
    "aten.index_select.default": _index_select,
    "aten.gather.default": _gathered,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.select_scatter.default": _select_scatter,
    "aten.index_copy.default": _index_copy,
    "aten.index_put.default": _index_put,
    **dict.fromkeys(("aten.copy.default", "aten.fill.Tensor"), _copy),
    "aten.diag_embed.default": _diagonal,
    "aten.view_as_complex.default": _as_complex,
    "aten.view_as_real.default": _as_real,
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten.pixel_unshuffle.default": _pixel_unshuffle,
    **dict.fromkeys(ALIASES, _alias),
}

COMPONENTWISE = frozenset(
    {
        *(
            f"aten.{op}.default"
            for op in ("view", "_unsafe_view", "reshape", "unsqueeze", "permute", "cat", "stack")
        ),
        *(
            f"aten.{op}.default"
            for op in ("chunk", "expand", "repeat", "split_with_sizes", "index_select", "squeeze")
        ),
        *(
            "aten.flatten.using_ints",
            "aten.unflatten.int",
            "aten.squeeze.dim",
            "aten.transpose.int",
            "aten.slice.Tensor",
        ),
        *(
            "aten.select.int",
            "aten.split.Tensor",
            "aten.unbind.int",
            "aten.index.Tensor",
            "aten.copy.default",
        ),
        *ALIASES,
    }
)
"""Operations that treat the two parts of a complex number alike."""
