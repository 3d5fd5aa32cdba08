# SPDX-License-Identifier: Apache-2.0
"""Programs of denoisers, kept on disk by what they were made from: the next session's first step need not wait for the compiler.

    key = key_of(module, forward, call, …)            None: part of it is nobody's release, so nothing is kept
    program = load(key) or …                          made anew, then
    keep(key, program)

A key covers the module's weights, state and code (`fingerprint.lasting`), the call's shapes and structure, scales, formats, and
our own sources; a file that was altered, cut or another key's is no program. $DITTO_PROGRAMS=off keeps none. What this file does
not do: make programs, or know when one is stale within a process (`denoiser.py`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ditto_cosim.host
import ditto_cosim.protocol
from ditto_cosim.host.compiler.arguments import Call, describe, describe_result, result_from
from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.plan import FormatPlan
from ditto_cosim.host.compiler.quantize import Grid
from ditto_cosim.host.pipeline import fingerprint
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.kept import cache_dir, digest, publish

LARGEST_BYTES = 512 * 2**20
"""Of a program's constants: a larger one takes as long to read as its denoiser's weights."""
ALL_BYTES = 2 * 2**30
"""Of all that is kept; what was not used for longest goes."""
_PROGRAM, _CALL = "program.safetensors", "call.json"


@dataclass(frozen=True)
class CallProgram:
    """A compiled denoiser with what its caller expects around its results."""

    compiled: Compiled
    held: Mapping[str, torch.Tensor]
    """Arguments whose values are part of the program."""
    outputs: tuple[str, ...]
    result: Any
    """The structure that `arguments.put_together` takes."""
    dtypes: tuple[torch.dtype, ...]


def key_of(
    module: nn.Module,
    forward: Callable[..., Any],
    call: Call,
    grids: Mapping[str, Grid],
    plan: FormatPlan | str | None,
    static_inputs: Collection[str],
    varying: Collection[str],
    steps: int,
) -> str | None:
    """What a program is kept under; `varying` are inputs that turned out not to be static, `steps` is 0 where no scale depends
    on it."""
    structure = describe(call.structure)
    if os.environ.get("DITTO_PROGRAMS") == "off" or structure is None:
        return None
    read = fingerprint.lasting(module, forward)
    if read is None:
        return None
    scales = {name: asdict(grid) for name, grid in grids.items()}
    formats = asdict(plan) if isinstance(plan, FormatPlan) else plan
    plain = [structure, scales, formats, sorted(static_inputs), sorted(varying), steps]
    around = [list(call.tensors), call.kinds, call.autocast, torch.get_default_dtype()]
    return digest(read, json.dumps(plain, default=repr), repr(around), _sources())


def load(key: str) -> CallProgram | None:
    """The program of a key, if there is one that is whole."""
    folder = _folder() / key
    if not folder.is_dir():
        return None
    try:
        told = json.loads((folder / _CALL).read_text())
        if told.pop("seal") != _seal(key, told):
            raise ValueError("damaged")
        compiled = Compiled.load(folder / _PROGRAM)
        if compiled.seal != told["program"]:
            raise ValueError("another's")
        dtypes = tuple(getattr(torch, name) for name in told["dtypes"])
        program = CallProgram(compiled, {}, tuple(told["outputs"]), result_from(told["result"]), dtypes)
    except (
        *(DittoError, OSError, ValueError, KeyError, TypeError, AttributeError),
        *(ImportError, RecursionError),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)
    return program


def keep(key: str, program: CallProgram) -> None:
    """Keeps a program, unless its results cannot be described, it is large, or there is no room: it can be made again."""
    result = describe_result(program.result)
    size = sum(t.nbytes for t in program.compiled.constants.values())
    if result is None or program.held or size > LARGEST_BYTES:
        return
    told = {
        "outputs": program.outputs,
        "result": result,
        "dtypes": [str(dtype).removeprefix("torch.") for dtype in program.dtypes],
    }

    def write(folder: Path) -> None:
        about = {**told, "program": program.compiled.save(folder / _PROGRAM)}
        (folder / _CALL).write_text(json.dumps({**about, "seal": _seal(key, about)}))

    with contextlib.suppress(OSError, DittoError):
        publish(_folder() / key, write)
        _sweep(ALL_BYTES)


def _seal(key: str, told: Mapping[str, Any]) -> str:
    """Of what is kept beside a program's file; the file's own is part of it, so that neither goes with another."""
    return digest(key, json.dumps(told, sort_keys=True))


def _folder() -> Path:
    return cache_dir("programs")


def _sweep(most: int) -> None:
    """Removes what was not used for longest, until the rest fits."""
    found = sorted(
        (f for f in _folder().iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime, reverse=True
    )
    held = 0
    for folder in found:
        held += sum(file.stat().st_size for file in folder.iterdir())
        if held > most:
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{folder}.lock").unlink(missing_ok=True)


@functools.cache
def _sources() -> str:
    """Our own code that takes part in making a program."""
    files = [
        path
        for room in (ditto_cosim.host, ditto_cosim.protocol)
        for path in sorted(Path(room.__path__[0]).rglob("*.py"))
    ]
    return digest(*(path.read_bytes() for path in files))
