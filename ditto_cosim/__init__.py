# SPDX-License-Identifier: Apache-2.0
"""The public face of ditto-cosim.

import ditto_cosim

pipe = ditto_cosim.accelerate(pipeline, backend="rtl", design="ditto")       any diffusers pipeline, or a module
with ditto_cosim.connect(backend="rtl") as device:                           single layers, without a model
    out, report = device.linear(x, w, previous=x0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditto_cosim.api import accelerate, accelerated, connect
    from ditto_cosim.host.pipeline.accelerate import restore
    from ditto_cosim.host.pipeline.run import Recording
    from ditto_cosim.host.wire.client import Device
    from ditto_cosim.shown import ShownGeneration

    __version__: str

__all__ = [
    "Device",
    "Recording",
    "ShownGeneration",
    "__version__",
    "accelerate",
    "accelerated",
    "connect",
    "restore",
]

_HOMES = {
    "accelerate": "ditto_cosim.api",
    "accelerated": "ditto_cosim.api",
    "connect": "ditto_cosim.api",
    "restore": "ditto_cosim.host.pipeline.accelerate",
    "Device": "ditto_cosim.host.wire.client",
    "Recording": "ditto_cosim.host.pipeline.run",
    "ShownGeneration": "ditto_cosim.shown",
}


def __getattr__(name: str) -> Any:
    """Imports torch and friends when first asked for something that needs them."""
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("ditto-cosim")
    if name not in _HOMES:
        from ditto_cosim.protocol.suggest import did_you_mean

        raise AttributeError(f"module 'ditto_cosim' has no attribute {name!r}{did_you_mean(name, _HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
