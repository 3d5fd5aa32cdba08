# SPDX-License-Identifier: Apache-2.0
"""The seam between the device and whoever computes a layer.

A backend multiplies one operand matrix by one weight matrix, from differences, and says what it met on the
way. It knows nothing of layers, steps, quantization or time beyond its own lanes. `ditto conform BACKEND`
checks one against all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.blocks import BLOCKS
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import MODES, Geometry, Mode

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.int8]
Tags = npt.NDArray[np.bool_]


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
        current, weights, reference = self.current, self.weights, self.reference
        operands = {"current": current, "weights": weights}
        if not isinstance(reference, int):
            operands["reference"] = reference
        for a in operands.values():
            if a.ndim != 3 or a.dtype != np.int8:
                met = ", ".join(f"{name} {a.dtype}{list(a.shape)}" for name, a in operands.items())
                raise BackendError(f"layer {self.name!r}: operands are {met}; expected int8 with three axes")
        groups, rows, k = current.shape
        if weights.shape[:2] != (groups, k) or (
            not isinstance(reference, int) and reference.shape != current.shape
        ):
            met = ", ".join(f"{name} {list(a.shape)}" for name, a in operands.items())
            raise BackendError(
                f"layer {self.name!r}: {met} do not fit; expected [G, M, K], [G, K, N], [G, M, K]"
            )
        if isinstance(reference, int) and not -128 <= reference <= 127:
            raise BackendError(f"layer {self.name!r}: zero point {reference} is outside −128…127")
        if not (groups and rows and k and weights.shape[2]):
            raise BackendError(f"layer {self.name!r}: {list(current.shape)}·{list(weights.shape)} is empty")
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
    line_bytes: Mapping[str, int] = field(default_factory=dict)
    """What crossed a board's line for it, frames and all, by what it carried: weights, operands, results."""


@dataclass(frozen=True, slots=True)
class BlockProducts:
    """What came out of the two arrays, and what they met."""

    acc: I64
    """[rows, N]: the arrays' partial sums added, exact."""
    dense_cycles: int | None
    """Measured cycles of the dense array; None if this backend does not measure."""
    sparse_cycles: int | None
    """The same of the sparse array."""
    nonzero: I64
    """[channels]: codes other than 0 in each channel's elements of `a`, as the arrays met them."""
    audit: Callable[[], None] | None = None
    """Holds what was measured against the backend's own contract, or raises `BackendError`: for the books, beside the values."""


class Backend(Protocol):
    """What a backend must offer. It raises `protocol.errors.BackendError` for what it refuses or fails at."""

    name: str
    geometry: Geometry
    """The tile it computes with (or models)."""
    measures: bool
    """Whether `cycles` are counted by hardware or RTL."""

    def gemm(self, job: Gemm) -> GemmResult: ...

    def close(self) -> None: ...


class BlockBackend(Backend, Protocol):
    """A backend with SQ-DM's two arrays.

    One product of block-scaled codes: acc = Σ over blocks of (Σ a·w) × a_scale × w_scale, exactly. K is cut into whole blocks
    of G = K ÷ blocks neighbours; in a convolution it runs over taps first, input channels innermost, each tap filled up to
    whole blocks with code 0. Which array computes a channel never changes `acc`.

        a         [rows, K]          0…15 as uint8, or −7…7 as int8
        a_scales  [rows, blocks]     in units of 2⁻⁹, 0…229,376
        w         [N, K]             −7…7
        w_scales  [N, blocks]
        channel   [K]                the input channel of each element; −1 where a block was filled up
        sparse    [channels]         the detector's tags: a sparse channel goes to the sparse array
    """

    def block_gemm(
        self, a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags
    ) -> BlockProducts: ...


@dataclass(frozen=True, slots=True)
class WrittenBack:
    """A layer's input as a sparsity detector sees it, and what the run says of it."""

    layer: str
    codes: I8
    """[channels, pixels]."""
    least: int
    """Zero codes from which on a channel is sparse."""
    counted: Tags
    """[channels]: the tags that these codes have."""
    nonzero: I64
    """[channels]: their codes other than 0."""
    listed: Tags | None
    """[channels]: the tags that the step runs with; None: they come from another step."""
    update: bool
    """Whether the tags are stored."""


class DetectingBackend(Backend, Protocol):
    """A backend with a sparsity detector of its own: it is shown every layer's input, and refuses tags that are not its own."""

    def hold_tags(self, written: WrittenBack) -> None: ...


def check_blocks(a: Codes, a_scales: I32, w: I8, w_scales: I32, channel: I32, sparse: Tags) -> None:
    """What no backend can compute is refused here, so that none has to look."""
    (rows, k), n, blocks = a.shape, len(w), a_scales.shape[-1]
    expected: dict[str, tuple[npt.NDArray[Any], tuple[int, ...], tuple[type[np.generic], ...]]] = {
        "a": (a, (rows, k), (np.uint8, np.int8)),
        "a_scales": (a_scales, (rows, blocks), (np.int32,)),
        "w": (w, (n, k), (np.int8,)),
        "w_scales": (w_scales, (n, blocks), (np.int32,)),
        "channel": (channel, (k,), (np.int32,)),
        "sparse": (sparse, sparse.shape, (np.bool_,)),
    }
    for name, (array, shape, types) in expected.items():
        if array.shape != shape or array.dtype.type not in types:
            told = " or ".join(np.dtype(one).name for one in types)
            raise BackendError(
                f"block product: {name} is {array.dtype}{list(array.shape)}, expected {told}{list(shape)}"
            )
    if 0 in (rows, k, n, blocks) or k % blocks or k // blocks not in BLOCKS:
        raise BackendError(
            f"block product: {k} codes in {blocks} blocks; a block has {', '.join(map(str, BLOCKS))}"
        )
    if not -1 <= channel.min() <= channel.max() < sparse.size:
        raise BackendError(f"block product: channels {channel.min()}…{channel.max()} of {sparse.size}")


class ReportingBackend(Backend, Protocol):
    """A backend with something of its own to report, such as what its link carried."""

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What does not change while a run goes on."""

    @property
    def totals(self) -> Mapping[str, int]:
        """What has added up so far."""


def has_detector(backend: Backend) -> TypeGuard[DetectingBackend]:
    """Whether a backend holds a run's tags against a detector."""
    return callable(getattr(backend, "hold_tags", None))


def has_arrays(backend: Backend) -> TypeGuard[BlockBackend]:
    """Whether a backend computes block-scaled products; one made of others does if they do."""
    parts: tuple[Backend, ...] = getattr(backend, "parts", ())
    return callable(getattr(backend, "block_gemm", None)) and all(map(has_arrays, parts))


def facts_of(backend: Backend) -> Mapping[str, str | int]:
    """The backend's own facts, if it reports any."""
    found: Mapping[str, str | int] = getattr(backend, "facts", {})
    return found


def totals_of(backend: Backend) -> Mapping[str, int]:
    """The backend's own totals, if it reports any."""
    found: Mapping[str, int] = getattr(backend, "totals", {})
    return found
