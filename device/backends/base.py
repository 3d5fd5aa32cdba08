# SPDX-License-Identifier: Apache-2.0
"""The seam between the device and whoever computes a layer.

A backend multiplies one operand matrix by one weight matrix, from differences, and says what it met on the
way. It knows nothing of layers, steps, quantization or time beyond its own lanes. `ditto conform BACKEND`
checks one against all of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import MODES, Geometry, Mode

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gemm:
    """`groups` independent products: accumulators[g] = (current[g] − reference[g]) · weights[g]."""

    name: str
    """The layer it belongs to, for messages."""
    current: I8
    """[groups, rows, K]"""
    reference: I8 | int
    """What the encoder subtracts: [groups, rows, K], or one zero point for all."""
    weights: I8
    """[groups, K, N]"""
    mode: Mode
    """`original` bypasses classification: two slots per element. The other two differ in their reference alone."""

    def __post_init__(self) -> None:
        """What no backend can compute is refused here, so that none has to look."""
        operands = {"current": self.current, "weights": self.weights}
        if not isinstance(self.reference, int):
            operands["reference"] = self.reference
        if any(a.ndim != 3 or a.dtype != np.int8 for a in operands.values()):
            met = ", ".join(f"{name} {a.dtype}{list(a.shape)}" for name, a in operands.items())
            raise BackendError(f"layer {self.name!r}: operands are {met}; expected int8 with three axes")
        (groups, _, k), weights = self.current.shape, self.weights.shape
        if weights[:2] != (groups, k) or (
            not isinstance(self.reference, int) and self.reference.shape != self.current.shape
        ):
            met = ", ".join(f"{name} {list(a.shape)}" for name, a in operands.items())
            raise BackendError(
                f"layer {self.name!r}: {met} do not fit; expected [G, M, K], [G, K, N], [G, M, K]"
            )
        if isinstance(self.reference, int) and not -128 <= self.reference <= 127:
            raise BackendError(f"layer {self.name!r}: zero point {self.reference} is outside −128…127")
        if 0 in self.current.shape or 0 in weights:
            raise BackendError(f"layer {self.name!r}: {list(self.current.shape)}·{list(weights)} is empty")
        if self.mode not in MODES:
            raise BackendError(f"layer {self.name!r}: mode {self.mode!r} is none of {', '.join(MODES)}")


@dataclass(frozen=True, slots=True)
class GemmResult:
    """What came out, and what the encoder saw."""

    accumulators: I32
    """[groups, rows, N], exact modulo 2³²"""
    slots: I32
    """[groups, rows]: 4-bit slots of each row"""
    zero: int
    low: int
    full: int
    """Elements by class over the whole product (original mode: all full)."""
    cycles: int | None
    """Measured cycles of the slowest lane, weight load and stalls included; None if this backend does not measure."""
    stalls: int = 0
    """Those of `cycles` in which the lanes stood still because the board's own memory or link kept them waiting. Without
    them, `cycles` are what the contract says, to the cycle; RTL has none."""


class Backend(Protocol):
    """What a backend must offer. It raises `protocol.errors.BackendError` for what it refuses or fails at."""

    name: str
    geometry: Geometry
    """The tile it computes with (or models)."""
    measures: bool
    """Whether `cycles` are counted by hardware or RTL."""

    def gemm(self, job: Gemm) -> GemmResult: ...

    def close(self) -> None: ...


class ReportingBackend(Backend, Protocol):
    """A backend with something of its own to report, such as what its link carried."""

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What does not change while a run goes on."""

    @property
    def totals(self) -> Mapping[str, int]:
        """What has added up so far."""


def facts_of(backend: Backend) -> Mapping[str, str | int]:
    """The backend's own facts, if it reports any."""
    found: Mapping[str, str | int] = getattr(backend, "facts", {})
    return found


def totals_of(backend: Backend) -> Mapping[str, int]:
    """The backend's own totals, if it reports any."""
    found: Mapping[str, int] = getattr(backend, "totals", {})
    return found
