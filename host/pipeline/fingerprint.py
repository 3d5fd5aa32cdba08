# SPDX-License-Identifier: Apache-2.0
"""What a module computes, as a number: its weights, and whatever of its state its code may read.

A program is made from a module once; this is how one knows that it is still that module. Two readings: a quick one (where
tensors are, how often they were written, every plain attribute, every function) before each step, and one with the
content of every tensor when a generation begins, because writes through `.data` leave no trace. What cannot become part
of a program is refused by name. A third reading, `lasting`, means the same in another process, code included; it is had of
modules alone whose classes come from libraries with a version.
What this file does not do: decide what follows from a change (`denoiser.py`).
"""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from ditto_cosim.protocol.errors import DittoError

DEPTH = 8
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_READ = (list, dict, set, tuple, torch.Tensor, nn.Module, np.ndarray)
"""What a function may find under a name of its module, and somebody may change."""
_UNPATCHED = frozenset({"abc", "builtins", "collections", "ditto_cosim", "torch", "typing"})
"""Libraries whose classes are taken as they are; a patched method of any other is another denoiser."""
_MET: dict[int, types.FunctionType] = {}
"""Functions by what tells them apart, kept so that no other takes its place."""
_IGNORED = frozenset(
    {
        *_HOOKS,
        "_acceleration",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_diffusers_hook",
        "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_is_full_backward_hook",
        "_load_state_dict_post_hooks",
        "_load_state_dict_pre_hooks",
        "_modules",
        "_non_persistent_buffers_set",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
    }
)
"""Attributes of modules that say nothing about their result, or are looked at elsewhere."""
_PURE_HOOKS = frozenset({"WeightNorm", "SpectralNorm"})
"""Hooks on submodules that only make weights, which a capture follows."""


class UnfaithfulError(DittoError):
    """The module does what a program cannot follow; the message names it and says what to do."""


def quick(module: nn.Module, forward: Callable[..., Any]) -> int:
    """The module's state without the content of its tensors."""
    return _reading(module, forward, _place)


def thorough(module: nn.Module, forward: Callable[..., Any]) -> int:
    """The module's state with the content of its tensors, wherever they are kept."""
    return _reading(module, forward, _content)


def _reading(module: nn.Module, forward: Callable[..., Any], of_tensor: Callable[[torch.Tensor], Any]) -> int:
    walk = _Walk(of_tensor)
    walk.visit((module, forward), 0)
    return hash(tuple(walk.found))


LIBRARIES = frozenset({"diffusers", "torch", "transformers"})
"""Whose classes a lasting reading takes: a version says what their code is, and their code is read as well."""
_OF_PYTHON = frozenset({"builtins", "collections", "enum", "functools", "types", "typing"})
_OF_A_PROCESS = frozenset({("diffusers.utils.hub_utils", "SESSION_ID")})
"""Names whose values are drawn anew in every process, for its downloads."""


def lasting(module: nn.Module, forward: Callable[..., Any]) -> str | None:
    """The module's content and code, equal in every process; None where a part of it is nobody's release."""
    try:
        walk = _LastingWalk(_content)
        walk.visit((module, forward), 0)
        versions = [f"{name} {version(name)}" for name in sorted(LIBRARIES & walk.libraries)]
        text = "\n".join([sys.version, *versions, *map(_spelled, walk.found)])
    except (_FleetingError, PackageNotFoundError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_unfaithful(module: nn.Module) -> None:
    """Raises for state and hooks that would make a program differ from the module."""
    for name, part in module.named_modules():
        where = f"{type(part).__name__} {name!r}" if name else type(module).__name__
        registry = part.__dict__.get("_diffusers_hook")
        if hooks := getattr(registry, "hooks", None):
            raise UnfaithfulError(
                f"{where} has the diffusers hook {', '.join(hooks)} (enable_cache, layer skipping, offloading or layerwise "
                f"casting), which changes from step to step what the denoiser computes; the accelerator runs one program: "
                f"take it away (pipe.{'unet' if not name else '…'}.disable_cache() for a cache, and "
                "ask for accelerate(cache=…) instead)"
            )
        if _offloads(part.__dict__.get("_hf_hook")):
            raise UnfaithfulError(
                f"{where} is offloaded; remove the hook first (pipe.remove_all_hooks(), or "
                f"accelerate.hooks.remove_hook_from_module)"
            )
        if name:
            for held in _HOOKS:
                for hook in part.__dict__.get(held, {}).values():
                    kind = getattr(hook, "__name__", type(hook).__name__)
                    if kind not in _PURE_HOOKS:
                        raise UnfaithfulError(
                            f"{where} has the forward hook {kind}, which would not be called: the accelerator computes the "
                            f"denoiser as one program; remove the hook, or put it on the denoiser itself"
                        )
        if part.training and _trains(part):
            raise UnfaithfulError(f"{where} is in training mode; call .eval() on the denoiser first")
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if tensor.is_meta:
                raise UnfaithfulError(
                    f"{where} has weights on the meta device, that is none; load them first"
                )


def _offloads(hook: Any) -> bool:
    """Whether a hook of the library accelerate moves weights when the module is called."""
    inside = (hook, *getattr(hook, "hooks", ()))
    return any(getattr(h, "offload", False) or type(h).__name__ == "CpuOffload" for h in inside)


def _trains(part: nn.Module) -> bool:
    """Whether training mode changes what a layer computes."""
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    return isinstance(part, nn.modules.batchnorm._NormBase)


def _place(tensor: torch.Tensor) -> Any:
    try:
        where: Any = (tensor.data_ptr(), tensor._version)
    except RuntimeError:  # inference tensors keep no version, tensor subclasses may have no storage
        where = id(tensor)
    return where, tensor.shape, tensor.dtype, tensor.device


def _content(tensor: torch.Tensor) -> Any:
    kind = tensor.shape, tensor.dtype, tensor.device.type
    if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
        names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
        return kind, tuple(_content(getattr(tensor, name)) for name in names) or id(tensor)
    if tensor.device.type == "meta" or not tensor.numel():
        return kind
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return kind, xxhash.xxh3_64_intdigest(flat.view(torch.uint8).numpy().data)


class _Walk:
    """Everything of a thing's state that its code may read, as a list of hashable values."""

    def __init__(self, of_tensor: Callable[[torch.Tensor], Any]) -> None:
        self.found: list[Any] = []
        self._of_tensor = of_tensor
        self._seen: set[int] = set()
        self._kinds: set[type] = set()

    def visit(self, thing: Any, depth: int) -> None:
        found = self.found
        kind = type(thing)
        found.append(kind.__name__)
        if kind in _PLAIN:
            found.append(repr(thing) if kind is float else thing)
            return
        if isinstance(thing, torch.Tensor):
            found.append(self._of_tensor(thing))
            return
        if depth > DEPTH or id(thing) in self._seen:
            return
        depth += 1
        if isinstance(thing, list | tuple):
            found.append(len(thing))
            for value in thing:
                self.visit(value, depth)
        elif isinstance(thing, Mapping):
            config = (
                kind.__name__ == "FrozenDict"
            )  # diffusers': its private entries say where a module was saved
            for key, value in thing.items():
                if config and key.startswith("_"):
                    continue
                found.append(key if type(key) in _PLAIN else repr(key))
                self.visit(value, depth)
        elif isinstance(thing, AbstractSet):
            found.extend(sorted(map(repr, thing)))
        elif isinstance(thing, nn.Module):
            self._module(thing, depth)
        elif isinstance(thing, np.ndarray):
            found.append(
                xxhash.xxh3_64_intdigest(np.ascontiguousarray(thing).view(np.uint8).data)
                if thing.dtype != object
                else id(thing)
            )
        else:
            self._object(thing, depth)

    def _module(self, module: nn.Module, depth: int) -> None:
        self._seen.add(id(module))
        self.found.append(getattr(type(module).forward, "__code__", None))
        self._methods(type(module), depth)
        state = module.__dict__
        for name, value in state.items():
            if name not in _IGNORED:
                self.found.append(name)
                self.visit(value, depth)
        for held in _HOOKS:
            if hooks := state.get(held):
                self.visit(list(hooks.values()), depth)
        for name, part in module._modules.items():
            self.found.append(name)
            self.visit(part, 0)

    def _methods(self, kind: type, depth: int) -> None:
        """Which functions a class has now, and what those that nobody released read of their module."""
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] in _UNPATCHED:
                continue
            for name, function in vars(base).items():
                if isinstance(function, types.FunctionType):
                    _MET[id(function)] = function
                    self.found.append((name, id(function)))
                    self._globals(function, depth)

    def _globals(self, function: types.FunctionType, depth: int) -> None:
        """The values that a function of somebody's own finds under names of its module; what it calls is looked at in turn."""
        if _released_function(function):
            return
        for name in function.__code__.co_names:
            held = function.__globals__.get(name)
            if isinstance(held, types.FunctionType):
                if id(held) not in self._seen:
                    self._seen.add(id(held))
                    self.found.append((name, held.__code__))
                    self._globals(held, depth)
            elif type(held) in _PLAIN or isinstance(held, _READ):
                self.found.append(name)
                self.visit(held, depth)

    def _object(self, thing: Any, depth: int) -> None:
        if isinstance(thing, types.MethodType):
            self.visit(thing.__func__, depth)
            if not isinstance(thing.__self__, nn.Module):
                self.visit(thing.__self__, depth)
        elif isinstance(thing, functools.partial):
            self.visit((thing.func, thing.args, thing.keywords), depth)
        elif isinstance(thing, types.FunctionType):
            self._seen.add(id(thing))
            self.found.append(thing.__code__)
            self._globals(thing, depth)
            self.visit((thing.__defaults__, thing.__kwdefaults__), depth)
            for cell in thing.__closure__ or ():
                try:
                    self.visit(cell.cell_contents, depth)
                except ValueError:  # a cell not filled yet
                    self.found.append("empty")
        elif isinstance(thing, types.BuiltinFunctionType | types.ModuleType) or not hasattr(
            thing, "__dict__"
        ):
            self.found.append(getattr(thing, "__qualname__", ""))
        elif isinstance(thing, type):
            self.found.append(thing)
        else:
            self._seen.add(id(thing))
            self.found.append(getattr(type(thing).__call__, "__code__", None) if callable(thing) else None)
            self._methods(type(thing), depth)
            self.visit(vars(thing), depth)


class _FleetingError(Exception):
    """Something that another process cannot be known to have."""


class _LastingWalk(_Walk):
    """Reads the code of every class it meets too, and of what their modules call by name."""

    def __init__(self, of_tensor: Callable[[torch.Tensor], Any]) -> None:
        super().__init__(of_tensor)
        self.libraries: set[str] = set()
        self._modules: set[str] = set()
        self._functions: set[int] = set()
        self._code_of(nn.functional)

    def _module(self, module: nn.Module, depth: int) -> None:
        self._class(type(module))
        super()._module(module, depth)

    def _object(self, thing: Any, depth: int) -> None:
        self._class(thing if isinstance(thing, type) else type(thing))
        if isinstance(thing, types.FunctionType) and not _released_function(thing):
            raise _FleetingError(thing.__qualname__)
        super()._object(thing, depth)

    def _methods(self, kind: type, depth: int) -> None:
        """Their code is read by name."""

    def _globals(self, function: types.FunctionType, depth: int) -> None:
        """Nobody's own function comes so far."""

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            home = base.__module__
            if home.partition(".")[0] == "ditto_cosim":  # the class that accelerates
                continue
            self._released(home)
            if home not in self._modules and home.partition(".")[0] in LIBRARIES:
                self._code_of(sys.modules[home])

    def _released(self, home: str) -> None:
        root = home.partition(".")[0]
        if root in LIBRARIES:
            self.libraries.add(root)
        elif root not in _OF_PYTHON:
            raise _FleetingError(home)

    def _code_of(self, home: types.ModuleType) -> None:
        """Every name of a module, and of the classes that are defined there: with a patched one it is another module."""
        self._modules.add(home.__name__)
        for name, thing in sorted(vars(home).items()):
            if (home.__name__, name) in _OF_A_PROCESS:
                continue
            if isinstance(thing, type) and thing.__module__ == home.__name__:
                for member, value in sorted(vars(thing).items()):
                    self._named((name, member), value)
            else:
                self._named((name,), thing)

    def _named(self, name: tuple[str, ...], thing: Any) -> None:
        """What stands under a name: code, a builtin, a number. A function of nobody's release may read anything."""
        if isinstance(thing, staticmethod | classmethod):
            thing = thing.__func__
        elif isinstance(thing, property):
            thing = thing.fget
        if isinstance(thing, types.FunctionType):
            if not _released_function(thing):
                raise _FleetingError(".".join(name))
            self.found.append((name, thing.__code__))
            if id(thing) not in self._functions:
                self._functions.add(id(thing))
                for cell in thing.__closure__ or ():
                    self._cell((*name, "cell"), cell)
        elif type(thing) in _PLAIN:
            self.found.append((name, thing))
        elif isinstance(thing, type | types.BuiltinFunctionType):
            self.found.append((name, f"{thing.__module__}.{thing.__qualname__}"))
        elif callable(thing):  # its class is released, but what it holds need not be
            self.found.append((name, type(thing).__qualname__))
            if type(thing).__module__.partition(".")[0] not in LIBRARIES | sys.stdlib_module_names:
                raise _FleetingError(".".join(name))
            if isinstance(thing, functools.partial | functools.partialmethod):
                raise _FleetingError(".".join(name))

    def _cell(self, name: tuple[str, ...], cell: types.CellType) -> None:
        """What a function holds: looked at like a name, and of all else the class has to be a library's."""
        try:
            held = cell.cell_contents
        except ValueError:  # not filled yet
            return
        self._named(name, held)
        kind = type(held)
        if kind not in _PLAIN and kind.__module__.partition(".")[
            0
        ] not in LIBRARIES | sys.stdlib_module_names | {"builtins"}:
            raise _FleetingError(".".join(name))


def _released_function(function: types.FunctionType) -> bool:
    """Whether the module that it was written in was installed, not the one that it claims after `functools.wraps`."""
    home = str(function.__globals__.get("__name__", ""))
    if home.partition(".")[0] in LIBRARIES | sys.stdlib_module_names:
        return True
    file = str(getattr(sys.modules.get(home), "__file__", None) or "")
    return file.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))


def _spelled(thing: Any) -> str:
    """A reading as text that means the same elsewhere."""
    if isinstance(thing, types.CodeType):
        parts = (thing.co_name, thing.co_code, thing.co_names, thing.co_varnames, *thing.co_consts)
        return f"code({','.join(map(_spelled, parts))})"
    if isinstance(thing, tuple):
        return f"({','.join(map(_spelled, thing))})"
    if isinstance(thing, frozenset):
        return f"{{{','.join(sorted(map(_spelled, thing)))}}}"
    if isinstance(thing, type):
        return f"{thing.__module__}.{thing.__qualname__}"
    if type(thing) in _PLAIN or thing is Ellipsis:
        return repr(thing)
    raise _FleetingError(type(thing).__name__)
