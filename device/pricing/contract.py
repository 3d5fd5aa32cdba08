# SPDX-License-Identifier: Apache-2.0
"""Identity of the contract of cycles: which text of it a run was timed by.

What this file does not do: hold the contract. `timing/` and `pricing/` do, in the headers of their files.
"""

from __future__ import annotations

import hashlib
from importlib import resources


def contract_digest() -> str:
    """Sixteen hex digits over everything that says what takes how long."""
    return _DIGEST


def _digest() -> str:
    found = hashlib.sha256()
    for room in ("timing", "pricing"):
        folder = resources.files("ditto_cosim.device").joinpath(room)
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith((".py", ".cpp", ".toml")):
                found.update(file.name.encode() + b"\0" + file.read_bytes())
    for name in ("engine.cpp", "memory.h"):
        found.update(resources.files("ditto_cosim.device").joinpath("kernels", name).read_bytes())
    hardware = resources.files("ditto_cosim.protocol").joinpath("hardware.py")
    found.update(hardware.read_bytes())
    return found.hexdigest()[:16]


_DIGEST = _digest()
"""Taken when the contract itself is imported: files that change under a running device are not what it runs."""
