# SPDX-License-Identifier: Apache-2.0
"""What a module keeps from one call to the next, outside its parameters and buffers.

A capture runs the module once, on tensors that are none: what it keeps of that is put back (`untouched`). A module whose
result depends on what it has kept, or that keeps its activations for others to read, is no program and is refused by the
names of what it keeps (`refuse_state`); one that only remembers what it would make again, such as a table of positions, is
left alone. What this file does not do: buffers that a call writes, which export sees (`capture.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from ditto_cosim.protocol.errors import DittoError

ALIKE = 1e-3
"""Of the norm of a result: how far two orders of the same fp32 operations may lie apart."""
DEPTH = 3
"""How far helpers of helpers are followed."""
CALLS = 3
"""After so many calls a module that counts them has shown it, if it ever does something else in between."""
_CONTAINERS = (dict, list, set, deque)
_OPAQUE = (nn.Module, torch.Tensor, type, ModuleType, FunctionType, MethodType)
"""What attributes are not followed into: modules are looked at one by one, tensors and classes keep nothing."""
_OF_TORCH = frozenset({"_acceleration", "_buffers", "_modules", "_parameters"})


class StateError(DittoError):
    """A module whose result depends on its calls before, or that keeps what others read."""


class Kept:
    """The attributes of a module, its parts and their helpers, and what is in the containers under them."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes: dict[int, tuple[str, Any, dict[str, Any]]] = {}
        self._containers: dict[int, tuple[str, Any, Any]] = {}
        for name, part in module.named_modules():
            self._look_at(name, part, DEPTH)

    def _look_at(self, name: str, owner: Any, depth: int) -> None:
        if id(owner) in self._attributes:
            return
        held = dict(vars(owner))
        self._attributes[id(owner)] = name, owner, held
        for key, value in held.items():
            if key not in _OF_TORCH:
                self._look_into(_joined(name, key), value)
                if depth and hasattr(value, "__dict__") and not isinstance(value, _OPAQUE):
                    self._look_at(_joined(name, key), value, depth - 1)

    def _look_into(self, name: str, held: Any) -> None:
        if type(held) in _CONTAINERS and id(held) not in self._containers:
            self._containers[id(held)] = name, held, held.copy()
            for value in held.values() if isinstance(held, dict) else held:
                self._look_into(name, value)

    def changed(self) -> dict[str, list[torch.Tensor]]:
        """What is not as it was when this was made, by name, with the tensors that are in it now."""
        found: dict[str, list[torch.Tensor]] = {}
        for name, owner, before in self._attributes.values():
            now = vars(owner)
            for key in dict.fromkeys((*before, *now)):
                if key not in _OF_TORCH and now.get(key, found) is not before.get(key, found):
                    found[_joined(name, key)] = list(_tensors(now.get(key)))
        for name, held, was in self._containers.values():
            now, then = (list(c.values() if isinstance(c, dict) else c) for c in (held, was))
            if len(now) != len(then) or any(n is not t for n, t in zip(now, then, strict=True)):
                found[name] = list(_tensors(held))
        return found

    def put_back(self) -> None:
        """Everything as it was when this was made."""
        for _, owner, before in self._attributes.values():
            vars(owner).clear()
            vars(owner).update(before)
        for _, held, was in self._containers.values():
            held.clear()
            (held.update if isinstance(held, dict | set) else held.extend)(was)


@contextmanager
def untouched(module: nn.Module) -> Iterator[Kept]:
    """The module and its helpers as they were: what they keep for the next call during a capture is nothing to compute with."""
    kept = Kept(module)
    try:
        yield kept
    finally:
        kept.put_back()
        _forget({type(part) for part in module.modules()})


def refuse_state(
    name: str, call: Callable[..., Sequence[torch.Tensor]], tensors: Sequence[torch.Tensor], kept: Kept
) -> None:
    """Raises if what a call of these tensors leaves behind changes a later one, or holds what this one computed."""
    if any(t.is_meta for t in tensors):
        return
    others = [_moved(t) for t in tensors]
    with torch.no_grad():
        fresh, left = _call_from(kept, call, others)
        _, before = _call_from(kept, call, tensors)
        shown = [what for what, held in left.items() if _differ(held, before.get(what, held))]
        for _ in range(CALLS):
            later = call(*(t.clone() for t in others))
            if _differ(fresh, later):
                names = ", ".join(sorted(kept.changed()))
                raise StateError(
                    f"{name} keeps {names} from one call to the next, and its result depends on it (a cache of "
                    f"activations, a counter of steps); a program has no state of its own: take it away, and ask for "
                    f"accelerate(cache=…) for steps that compute less"
                )
    if shown:
        raise StateError(
            f"{name} keeps its own activations in {', '.join(sorted(shown))} for others to read, which a program does not "
            f"return; take it away, or return them as results"
        )


def _call_from(
    kept: Kept, call: Callable[..., Sequence[torch.Tensor]], tensors: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], Mapping[str, list[torch.Tensor]]]:
    """Results of a call that meets what was there at first, and what it leaves behind."""
    kept.put_back()
    results = [t.clone() for t in call(*(t.clone() for t in tensors))]
    return results, {what: [t.clone() for t in held] for what, held in kept.changed().items()}


def _moved(tensor: torch.Tensor) -> torch.Tensor:
    """Other values of the same kind; whole numbers and truth values stay, and so do single numbers, such as a time."""
    if not tensor.is_floating_point() or tensor.dim() < 2:
        return tensor.clone()
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + 0.1 * tensor.abs().mean() * noise


def _differ(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    if len(first) != len(second):
        return True
    return any(
        a.shape != b.shape
        or (a.is_floating_point() and bool((a.double() - b.double()).norm() > ALIKE * a.double().norm()))
        for a, b in zip(first, second, strict=True)
    )


def _tensors(held: Any) -> Iterator[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, _CONTAINERS):
        for value in held.values() if isinstance(held, dict) else held:
            yield from _tensors(value)


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _forget(kinds: set[type]) -> None:
    """Empties what functions of these classes remember by themselves."""
    for kind in kinds:
        for forget in [c for n in dir(kind) if (c := getattr(getattr(kind, n), "cache_clear", None))]:
            forget()
