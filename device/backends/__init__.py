# SPDX-License-Identifier: Apache-2.0
"""Who computes a layer: one file per backend, found by its name.

A name is a file here (`rtl`, `rtl_wide`, `model`, `board`), an entry point of the group `ditto_cosim.backends`, or
`module:Class`;
`rtl:FOLDER` and `rtl:FOLDER,file.py:Class` run the user's own RTL, held to ours or to the contract named;
`board@SERIAL` computes on one board of several.
The class is made with the chip it computes for and closes with the run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import cast

from ditto_cosim.device.backends.base import Backend
from ditto_cosim.device.backends.mixed import CheckedBackend, MixedBackend, matching
from ditto_cosim.device.chips import Chip
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.suggest import did_you_mean

OWN_RTL = "rtl:"
ONE_BOARD = "board@"
ENTRY_POINTS = "ditto_cosim.backends"
_BUILT_IN = {
    "board": "ditto_cosim.device.backends.board:BoardBackend",
    "model": "ditto_cosim.device.backends.model:ModelBackend",
    "rtl": "ditto_cosim.device.backends.rtl:RtlBackend",
    "rtl_wide": "ditto_cosim.device.backends.rtl_wide:RtlWideBackend",
}

BackendFactory = Callable[..., Backend]
"""Called with the chip."""


def names() -> list[str]:
    """Backends that can be asked for by a plain name."""
    return sorted({*_BUILT_IN, *(e.name for e in metadata.entry_points(group=ENTRY_POINTS))})


def find_backend(name: str) -> BackendFactory:
    """The class behind a name, not made yet."""
    if name.startswith(ONE_BOARD):
        return partial(find_backend("board"), board=name.removeprefix(ONE_BOARD))
    if name.startswith(OWN_RTL):
        folder, _, contract = name.removeprefix(OWN_RTL).partition(",")
        from ditto_cosim.device.backends.own_rtl import OwnRtlBackend

        return lambda chip: OwnRtlBackend(chip, Path(folder), contract)
    target = _BUILT_IN.get(name) or next(
        (e.value for e in metadata.entry_points(group=ENTRY_POINTS) if e.name == name), name
    )
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise BackendError(
            f"backend {name!r} is unknown{did_you_mean(name, names())}; known: {', '.join(names())}, "
            "or give module:Class or board@SERIAL"
        )
    try:
        return cast(BackendFactory, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise BackendError(f"backend {name!r} cannot be loaded from {target}: {error}") from error


def make_backend(name: str, chip: Chip) -> Backend:
    return find_backend(name)(chip)


def backend_for(spec: RunSpec, chip: Chip, layers: Sequence[str]) -> Backend:
    """The backend a run asks for; `layers` are the names of its program's layers."""
    names_in_rtl = matching(spec.rtl_layers, layers)
    made: list[Backend] = []
    try:
        backend = make_backend(spec.backend, chip)
        made.append(backend)
        if spec.rtl_layers:
            made.append(make_backend("rtl", chip))
            backend = MixedBackend(backend, made[-1], names_in_rtl)
        if spec.cross_check:
            made.append(make_backend(spec.cross_check, chip))
            backend = CheckedBackend(backend, made[-1])
    except BaseException:
        for part in made:
            part.close()
        raise
    return backend
