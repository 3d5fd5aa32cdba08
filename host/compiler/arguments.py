# SPDX-License-Identifier: Apache-2.0
"""A call taken apart: its tensors by name, and the structure around them, from which it can be put together again.

Tensors are found wherever tuples, lists, dicts, dataclasses and registered pytrees hide them. Two calls of one structure
differ in the values of tensors alone; everything else (numbers, strings, flags, None) is part of the structure. Results
are taken apart in the same way, so that an output class keeps its fields.
What this file does not do: decide which inputs vary between steps (`capture.py`).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ditto_cosim.protocol.errors import DittoError

TIMES = frozenset({"timestep", "timesteps"})
"""Arguments whose numbers are taken as tensors: they change every step."""
TIME_NAMES = TIMES | {"t", "timestep_ratio", "time_step", "sigma", "sigmas"}
"""What denoisers call the time of a step."""
_VALUES = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    enum.Enum,
    torch.dtype,
    torch.device,
    type,
    range,
    slice,
)


class ArgumentError(DittoError):
    """An argument that cannot be followed from step to step; the message names it and says what to pass."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int


@dataclass(frozen=True, slots=True)
class _Value:
    kind: type
    key: Hashable
    value: Any = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Node:
    kind: type
    keys: tuple[Hashable, ...]
    children: tuple[Structure, ...]
    make: Callable[[list[Any]], Any] = field(compare=False)


Structure = _Tensor | _Value | _Node
"""What stands around a call's tensors; hashable, and never holds a tensor."""


def take_apart(tree: Any, name: str = "") -> tuple[dict[str, torch.Tensor], Structure]:
    """The tensors of a tree by name, in order, and its structure."""
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _take(tree, name, tensors)


def put_together(structure: Structure, tensors: Sequence[Any]) -> Any:
    """The inverse of `take_apart`, for any tensors."""
    if isinstance(structure, _Tensor):
        return tensors[structure.index]
    if isinstance(structure, _Value):
        return structure.value
    return structure.make([put_together(child, tensors) for child in structure.children])


def _take(tree: Any, path: str, tensors: dict[str, torch.Tensor]) -> Structure:
    if isinstance(tree, torch.Tensor):
        name = path or "0"
        while name in tensors:
            name += "'"
        tensors[name] = tree
        return _Tensor(len(tensors) - 1)
    if isinstance(tree, np.ndarray | np.generic):
        return _Value(type(tree), (tree.dtype.str, tree.shape, tree.tobytes()), tree)
    if isinstance(tree, _VALUES):
        return _Value(type(tree), repr(tree) if isinstance(tree, float | slice) else tree, tree)
    children = list(_children(tree))
    if not children and not _is_node(tree):
        raise ArgumentError(
            f"argument {path or 'of the denoiser'} is a {type(tree).__module__}.{type(tree).__qualname__}; expected "
            f"tensors, numbers and strings, in tuples, lists, dicts, dataclasses or classes registered with torch's pytree"
        )
    _, spec = pytree.tree_flatten(tree, is_leaf=lambda x: x is not tree)
    return _Node(
        type(tree),
        tuple(key for key, _ in children),
        tuple(_take(child, f"{path}.{key}" if path else str(key), tensors) for key, child in children),
        spec.unflatten if _is_node(tree) else _remake(tree),
    )


def _is_node(tree: Any) -> bool:
    return pytree._get_node_type(tree) in pytree.SUPPORTED_NODES


def _children(tree: Any) -> Iterator[tuple[Hashable, Any]]:
    if _is_node(tree):
        leaves, _ = pytree.tree_flatten(tree, is_leaf=lambda x: x is not tree)
        keys: Any = list(tree) if isinstance(tree, Mapping) else range(len(leaves))
        yield from zip(keys if len(keys) == len(leaves) else range(len(leaves)), leaves, strict=True)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        yield from ((f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree))


def _remake(tree: Any) -> Callable[[list[Any]], Any]:
    """A dataclass again, from its fields."""
    kind, names = type(tree), [f.name for f in dataclasses.fields(tree)]

    def make(values: list[Any]) -> Any:
        made = object.__new__(kind)
        for name, value in zip(names, values, strict=True):
            object.__setattr__(made, name, value)
        return made

    return make


_PLAIN_NODES: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "dict": lambda keys, values: dict(zip(keys, values, strict=True)),
    "list": lambda keys, values: list(values),
    "tuple": lambda keys, values: tuple(values),
}


def describe(structure: Structure) -> Any:
    """A structure as plain data that JSON keeps; None if it holds anything but dicts, lists, tuples and plain values."""
    if isinstance(structure, _Tensor):
        return {"tensor": structure.index}
    if isinstance(structure, _Value):
        plain = structure.kind in (type(None), bool, int, float, str)
        return {"value": structure.value} if plain else None
    children = [describe(child) for child in structure.children]
    if structure.kind.__name__ not in _PLAIN_NODES or None in children:
        return None
    return {"kind": structure.kind.__name__, "keys": list(structure.keys), "children": children}


def from_description(data: Any) -> Structure:
    """The inverse of `describe`."""
    if "tensor" in data:
        return _Tensor(int(data["tensor"]))
    if "value" in data:
        return _Value(type(data["value"]), data["value"], data["value"])
    make, keys = _PLAIN_NODES[data["kind"]], tuple(data["keys"])
    children = tuple(map(from_description, data["children"]))
    kind = {"dict": dict, "list": list, "tuple": tuple}[data["kind"]]
    return _Node(kind, keys, children, functools.partial(make, list(keys)))


def describe_result(structure: Structure) -> Any:
    """`describe` of what a denoiser returns, which may be one of diffusers' output classes."""
    if isinstance(structure, _Node) and structure.kind.__module__.partition(".")[0] == "diffusers":
        children = [describe(child) for child in structure.children]
        kind = f"{structure.kind.__module__}:{structure.kind.__qualname__}"
        fields = dataclasses.is_dataclass(structure.kind) and None not in children
        return {"output": kind, "keys": list(structure.keys), "children": children} if fields else None
    return describe(structure)


def result_from(data: Any) -> Structure:
    """The inverse of `describe_result`. It imports what the data names: for data of one's own alone."""
    if "output" not in data:
        return from_description(data)
    home, _, name = data["output"].partition(":")
    kind, keys = getattr(importlib.import_module(home), name), tuple(data["keys"])

    def make(values: list[Any]) -> Any:
        return kind(**dict(zip(keys, values, strict=True)))

    return _Node(kind, keys, tuple(map(from_description, data["children"])), make)


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    tensors: Mapping[str, torch.Tensor]
    """As programs take them, on the host: float32, int64 or bool."""
    given: tuple[torch.Tensor, ...]
    """The same as the caller gave them."""
    structure: Structure

    @classmethod
    def of(cls, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """A call of something with this signature; raises TypeError as Python would."""
        bound = signature.bind(*args, **kwargs)
        named: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            else:
                named[name] = _time(value) if name in TIMES else value
        found, structure = take_apart(named)
        for name, tensor in found.items():
            if tensor.requires_grad and tensor.is_leaf and torch.is_grad_enabled():
                raise ArgumentError(
                    f"input {name!r} asks for gradients, which the device does not compute; call under torch.no_grad()"
                )
        return cls({n: plain(n, t) for n, t in found.items()}, tuple(found.values()), structure)

    @property
    def key(self) -> Hashable:
        """Equal for calls that one program computes."""
        return self.structure, tuple(self.tensors), self.kinds, self.autocast

    @property
    def kinds(self) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shapes and types of the caller's tensors."""
        return tuple((tuple(t.shape), t.dtype) for t in self.given)

    @property
    def autocast(self) -> torch.dtype | None:
        """What PyTorch would turn matrix products into around this call."""
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None

    def invoke(self, forward: Callable[..., Any], tensors: Sequence[Any]) -> Any:
        """The same call with these tensors in place of its own."""
        signature = inspect.signature(forward)
        named = put_together(self.structure, tensors)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        positional = True
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(named.pop(name, ()))
            elif name not in named:
                positional = False
            elif parameter.kind is parameter.POSITIONAL_ONLY or (
                positional and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ):
                args.append(named.pop(name))
            else:
                kwargs[name] = named.pop(name)
        return forward(*args, **kwargs, **named)


def plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as programs take it: float32, int64 or bool, on the host."""
    found = tensor.detach()
    if found.is_complex():
        raise ArgumentError(f"input {name!r} is {tensor.dtype}; expected real numbers (torch.view_as_real)")
    if found.is_floating_point():
        return found.to("cpu" if found.device.type != "meta" else "meta", torch.float32)
    if found.dtype is not torch.bool:
        found = found.to(torch.int64)
    return found if found.device.type == "meta" else found.cpu()


def _time(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float32)
