# SPDX-License-Identifier: Apache-2.0
"""The public face of ditto-cosim.

from ditto_cosim import accelerate

pipe = accelerate(pipeline, backend="rtl", design="ditto")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditto_cosim.host.pipeline.accelerate import accelerate
    from ditto_cosim.host.pipeline.run import Recording
    from ditto_cosim.host.wire.client import connect

__all__ = ["Recording", "accelerate", "connect"]

_HOMES = {
    "accelerate": "ditto_cosim.host.pipeline.accelerate",
    "connect": "ditto_cosim.host.wire.client",
    "Recording": "ditto_cosim.host.pipeline.run",
}


def __getattr__(name: str) -> Any:
    """Imports torch and friends when first asked for something that needs them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ditto_cosim' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
