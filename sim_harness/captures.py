# SPDX-License-Identifier: Apache-2.0
"""Operands in a file: any number of captures, each int8 current and reference [M, K], weights [K, N], mode and name.

What this file does not do: record (the device's capturing backend does) or run them (`recorded.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import MODES, Mode

from .errors import TileInputError

I8 = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Capture:
    """One layer's operands in one step."""

    name: str
    mode: Mode
    current: I8
    reference: I8
    weights: I8


def shipped() -> Path:
    """Activations that ship: layers of all kinds from a generation of `fashion-ddpm`."""
    return Path(__file__).with_name("activations.npz")


def save_captures(path: Path, captures: list[Capture]) -> None:
    """Writes captures into one .npz."""
    arrays: dict[str, Any] = {"names": np.array([c.name for c in captures])}
    arrays["modes"] = np.array([c.mode for c in captures])
    for i, capture in enumerate(captures):
        arrays |= {f"{i}.current": capture.current, f"{i}.reference": capture.reference}
        arrays[f"{i}.weights"] = capture.weights
    np.savez_compressed(path, **arrays)


def load_captures(path: Path) -> list[Capture]:
    """Reads what `save_captures` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, modes = file["names"], file["modes"]
            captures = [
                Capture(
                    str(name), cast(Mode, str(mode)),
                    *(file[f"{i}.{part}"] for part in ("current", "reference", "weights")),
                )
                for i, (name, mode) in enumerate(zip(names, modes, strict=True))
            ]  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise TileInputError(f"captures: {path} cannot be read: {error}") from error
    for capture in captures:
        shapes = capture.current.shape, capture.reference.shape, capture.weights.shape
        if shapes[0] != shapes[1] or shapes[0][1:] != shapes[2][:1] or capture.mode not in MODES:
            raise TileInputError(
                f"captures: {capture.name} in {path} has shapes {shapes}, mode {capture.mode!r}"
            )
    return captures
