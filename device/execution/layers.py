# SPDX-License-Identifier: Apache-2.0
"""Layers: how each one's operands become rows and weights, in every mode, and the temporal state it keeps.

Contract, for every mode the same accumulators:
    original   Σ w·(x − z)
    temporal   previous accumulators + Σ w·(x − previous x); attention: ΔA·B_prev, then (ΔBᵀ·Aᵀ)ᵀ on top. The previous
               x is that of the last step in which the layer ran. A layer may have a reference of its own and keeps
               nothing then: 0 (`linear` whose attribute says so), or the anchor's x (`linear_increment`: its one mode)
    spatial    running sums, down the rows of an image or head, of Σ w·(row − row before); the first row subtracts z
What this file does not do: choose the mode (`controller.py`), multiply (backends), take time (`pricing/pricer.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.backends.base import I8, I32, Backend, Gemm, GemmResult
from ditto_cosim.device.kernels.base import Against, Before
from ditto_cosim.device.kernels.slots import (
    Counted,
    Windows,
    count_against,
    count_windows,
    count_windows_spatial,
    pad,
)
from ditto_cosim.protocol.errors import BackendError, GridError
from ditto_cosim.protocol.hardware import LowRule, Mode
from ditto_cosim.protocol.isa import Convolution
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.record import SubOp, Work, split_k

Array = npt.NDArray[Any]
Operands = tuple[Array, ...]
Works = dict[Mode, tuple[SubOp, ...]]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a backend reported of one product."""

    mode: Mode
    slots: I32
    cycles: int | None
    """Stalls left out."""
    stalls: int = 0
    arrays: tuple[int, int] | None = None
    """Cycles of the dense and of the sparse array, where a backend has measured them."""
    audit: Callable[[], None] | None = None
    """What the backend has left to check of itself."""
    line_bytes: Mapping[str, int] = field(default_factory=dict)
    """What crossed a board's line."""


def _ran(mode: Mode, result: GemmResult) -> Ran:
    cycles = None if result.cycles is None else result.cycles - result.stalls
    return Ran(mode, result.slots, cycles, result.stalls, line_bytes=result.line_bytes)


class Layer(ABC):
    """One layer of the program over the steps of a run."""

    step = 0
    """The one that is about to run."""

    def __init__(self, command: Command, k_max: int, rule: LowRule) -> None:
        self.command = command
        self.k_max, self.rule = k_max, rule
        self.params: Operands = ()
        self.previous_params: Operands | None = None
        self.previous: Operands = ()
        self.previous_accumulators: I32 | None = None
        self.current: Operands = ()
        self._has_difference = False

    keeps = True
    """Whether it keeps a step's operands and accumulators, for the next step's differences."""

    # --- one step, in this order ----------------------------------------------------------------------------------------

    def begin(self, operands: Sequence[Array]) -> bool:
        """Takes the step's operands. True if a previous step exists but a changed scale, zero point or static operand
        forbids differences to it."""
        self.params = tuple(operands[i] for i in self._params_at)
        self.current = self._arrange(operands)
        self._has_difference = self.previous_params is not None and self._comparable()
        return self.previous_params is not None and not self._has_difference

    def modes(self) -> tuple[Mode, ...]:
        """The modes possible in this step; any of them gives its values."""
        return ("original", "spatial", "temporal") if self._has_difference else ("original", "spatial")

    def counting(self, modes: Sequence[Mode]) -> Callable[[], Works]:
        """Counts, when called, what the encoder meets in these modes of this step; any thread may, until the next one begins."""
        current, previous = self.current, self.previous
        return lambda: self._count(modes, current, previous)

    def run(self, mode: Mode, backend: Backend) -> tuple[I32, tuple[Ran, ...]]:
        """Accumulators in the shape the instruction set gives them, and what the backend says of its products."""
        results = [backend.gemm(job) for job in self._jobs(mode)]
        accumulators = self._combine(mode, results)
        if self.keeps:
            self.previous, self.previous_params = self.current, self.params
            self.previous_accumulators = accumulators
        self.current = ()
        return self._shape(accumulators), tuple(_ran(mode, r) for r in results)

    def check(self, ran: Sequence[Ran], counts: Sequence[SubOp], backend: str) -> None:
        """Whether the backend met what its operands hold: a lost or invented slot stops the run."""
        for met, counted in zip(ran, counts, strict=True):
            slots, expected = met.slots.reshape(-1), self._expected(met.mode, counted)
            differs = slots != expected
            if differs.any():
                row = int(differs.argmax())
                raise BackendError(
                    f"layer {self.command.name!r} ({met.mode}): backend {backend!r} reports {slots[row]} slots in "
                    f"row {row}, its operands make {np.broadcast_to(expected, slots.shape)[row]}"
                )

    @staticmethod
    def _expected(mode: Mode, counted: SubOp) -> npt.NDArray[Any]:
        """Slots of every row; two for every element in original mode."""
        if mode == "original":
            return np.array(2 * counted.work.k)
        assert counted.slots is not None
        slots: npt.NDArray[Any] = (
            counted.slots.sum(0, dtype=np.int32) if len(counted.slots) > 1 else counted.slots[0]
        )
        return slots

    @property
    def state_bytes(self) -> int:
        kept = self.previous_accumulators
        return sum(a.nbytes for a in self.previous) + (0 if kept is None else kept.nbytes)

    # --- what a kind of layer says ----------------------------------------------------------------------------------------

    _params_at: tuple[int, ...] = (1,)

    @abstractmethod
    def _arrange(self, operands: Sequence[Array]) -> Operands: ...

    @abstractmethod
    def _count(self, modes: Sequence[Mode], current: Operands, previous: Operands) -> Works: ...

    @abstractmethod
    def _jobs(self, mode: Mode) -> list[Gemm]: ...

    @abstractmethod
    def _shape(self, accumulators: I32) -> I32: ...

    def _combine(self, mode: Mode, results: Sequence[GemmResult]) -> I32:
        """[groups, rows, N], whatever the mode."""
        accumulators = results[0].accumulators
        if mode == "spatial":
            images = self._images
            chains = accumulators.reshape(images, -1, accumulators.shape[-1])
            accumulators = np.cumsum(chains, 1, dtype=np.int32).reshape(accumulators.shape)
        elif mode == "temporal" and self.keeps:
            assert self.previous_accumulators is not None
            accumulators += self.previous_accumulators
            if len(results) == 2:
                accumulators += results[1].accumulators.transpose(0, 2, 1)
        return accumulators

    # --- shared -----------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _images(self) -> int:
        """Spatial chains in one step's rows."""

    def _comparable(self) -> bool:
        assert self.previous_params is not None
        return all(map(_same_grid, self.params, self.previous_params))

    def _zero_point(self) -> int:
        return int(self.params[0][1])

    def _subop(self, work: Work, splits: tuple[int, ...], counted: Counted, mode: Mode) -> SubOp:
        slots = None if mode == "original" else counted.slots
        return SubOp(work, splits, slots, counted.zero, counted.low, counted.full)


def _same_grid(a: Array, b: Array) -> bool:
    """Static quantizers give the very same array in every step."""
    return a is b or bool(np.array_equal(a, b))


def _before(rows: I8, images: int, zero_point: int) -> I8:
    """Every row's predecessor within its image; the zero point before the first."""
    chains = rows.reshape(images, -1, rows.shape[-1])
    shifted = np.empty_like(chains)
    shifted[:, 0] = zero_point
    shifted[:, 1:] = chains[:, :-1]
    return shifted.reshape(rows.shape)


class _Weighted(Layer):
    """Constant weights [groups, K, N]; rows made from the operand by `_rows`."""

    def __init__(self, command: Command, k_max: int, rule: LowRule, weights: I8) -> None:
        super().__init__(command, k_max, rule)
        self.weights = np.ascontiguousarray(weights)

    @abstractmethod
    def _rows(self, arranged: Array) -> I8:
        """[groups, rows, K] of an arranged operand."""

    def _jobs(self, mode: Mode) -> list[Gemm]:
        rows = self._rows(self.current[0])
        reference: I8 | int
        if mode == "original":
            reference = self._zero_point()
        elif mode == "temporal":
            subtracted = self._subtracted(self.current, self.previous)
            reference = subtracted if isinstance(subtracted, int) else self._rows(subtracted)
        else:
            reference = _before(rows, self._images, self._zero_point())
        return [Gemm(self.command.name, rows, reference, self.weights, mode)]

    def _subtracted(self, current: Operands, previous: Operands) -> I8 | int:
        """The reference of temporal mode, arranged as the operand, or one number."""
        return previous[0]


class Linear(_Weighted):
    """y = x·Wᵀ over the last axis; an image's rows are its tokens."""

    def __init__(self, command: Command, k_max: int, rule: LowRule, weights: I8) -> None:
        super().__init__(command, k_max, rule, weights.T[None])
        self.lead: tuple[int, ...] = ()
        self._of_rows: tuple[Work, tuple[int, ...]] | None = None

    def _arrange(self, operands: Sequence[Array]) -> Operands:
        self.lead = operands[0].shape[:-1]
        return (np.ascontiguousarray(operands[0]).reshape(-1, operands[0].shape[-1]),)

    def _rows(self, arranged: Array) -> I8:
        return arranged[None]

    @property
    def _images(self) -> int:
        return self.lead[0] if self.lead else 1

    def _count(self, modes: Sequence[Mode], current: Operands, previous: Operands) -> Works:
        rows, zero_point = current[0], self._zero_point()
        references: list[Against] = []
        for mode in modes:
            if mode == "temporal":
                references.append(self._subtracted(current, previous))
            else:
                down = mode == "spatial"
                references.append(Before(len(rows) // self._images, zero_point) if down else zero_point)
        work, splits = self._work(len(rows))
        counted = count_against(rows, references, splits, self.rule)
        return {m: (self._subop(work, splits, c, m),) for m, c in zip(modes, counted, strict=True)}

    def _work(self, rows: int) -> tuple[Work, tuple[int, ...]]:
        """Of so many rows, and how its K is cut."""
        if self._of_rows is None or self._of_rows[0].rows != rows:
            _, k, n = self.weights.shape
            self._of_rows = Work(1, rows, k, n), split_k(k, self.k_max)
        return self._of_rows

    def _shape(self, accumulators: I32) -> I32:
        return accumulators.reshape(*self.lead, accumulators.shape[-1])


class ValueLinear(Linear):
    """Temporal mode subtracts 0: what is small costs little, and nothing is kept."""

    keeps = False

    def modes(self) -> tuple[Mode, ...]:
        return ("original", "spatial") if self._zero_point() else ("original", "spatial", "temporal")

    def _subtracted(self, current: Operands, previous: Operands) -> I8 | int:
        return 0


class LinearIncrement(Linear):
    """Of the difference to the anchor's operand, which comes with the command."""

    keeps = False

    def begin(self, operands: Sequence[Array]) -> bool:
        if not _same_grid(operands[1], operands[4]):
            now, then = (f"{float(p[0])!r}, {int(p[1])}" for p in (operands[1], operands[4]))
            raise GridError(
                f"linear_increment {self.command.name!r}: its operand has scale and zero point {now}, the anchor's {then}; a "
                "difference needs one grid: give the layer a static one, or one that changes in full steps alone"
            )
        return super().begin(operands)

    def modes(self) -> tuple[Mode, ...]:
        return ("temporal",)

    def _arrange(self, operands: Sequence[Array]) -> Operands:
        anchor = np.ascontiguousarray(operands[3]).reshape(-1, operands[3].shape[-1])
        return (*super()._arrange(operands), anchor)

    def _subtracted(self, current: Operands, previous: Operands) -> I8 | int:
        return current[1]


class Conv2d(_Weighted):
    """Rows are windows (b, i, j) of the padded picture, elements in the order (u, v, c).

    A group is a product of its own on pictures of its own channels: [groups × B, H, W, C]."""

    def __init__(
        self, command: Command, k_max: int, rule: LowRule, weights: I8, out: tuple[int, ...]
    ) -> None:
        n, channels, kh, kw = weights.shape
        how = Convolution.of(command.attrs)
        self.groups, self.padding, self.batch = how.groups, how.padding, out[0]
        of_groups = weights.reshape(self.groups, n // self.groups, channels, kh, kw)
        super().__init__(
            command,
            k_max,
            rule,
            of_groups.transpose(0, 3, 4, 2, 1).reshape(self.groups, -1, n // self.groups),
        )
        self.windows = Windows((kh, kw), how.stride, (out[2], out[3]), how.dilation)

    def _arrange(self, operands: Sequence[Array]) -> Operands:
        pictures = operands[0].transpose(0, 2, 3, 1)
        if self.groups > 1:
            apart = pictures.reshape(*pictures.shape[:3], self.groups, -1)
            pictures = apart.transpose(3, 0, 1, 2, 4).reshape(-1, *apart.shape[1:3], apart.shape[4])
        return (pad(pictures, *self.padding, self._zero_point()),)

    def _rows(self, arranged: Array) -> I8:
        rows = self.windows.unroll(arranged)
        return rows.reshape(self.groups, -1, rows.shape[1])

    @property
    def _images(self) -> int:
        return self.groups * self.batch

    def _count(self, modes: Sequence[Mode], current: Operands, previous: Operands) -> Works:
        picture = current[0]
        _, k, n = self.weights.shape
        splits = split_k(k, self.k_max)
        work = Work(self.groups, self.batch * math.prod(self.windows.out), k, n)
        found: Works = {}
        for mode in modes:
            if mode == "spatial":
                counted = count_windows_spatial(picture, self._zero_point(), self.windows, splits, self.rule)
            else:
                reference = previous[0] if mode == "temporal" else self._zero_point()
                counted = count_windows(picture, reference, self.windows, splits, self.rule)
            found[mode] = (self._subop(work, splits, counted, mode),)
        return found

    def _shape(self, accumulators: I32) -> I32:
        apart = accumulators.reshape(self.groups, self.batch, *self.windows.out, -1).transpose(1, 0, 4, 2, 3)
        return apart.reshape(self.batch, -1, *self.windows.out)


class Matmul(Layer):
    """a[…,M,K] · b[…,K,N]; a static b is weights and has no difference of its own."""

    _params_at = (1, 3)

    def __init__(self, command: Command, k_max: int, rule: LowRule) -> None:
        super().__init__(command, k_max, rule)
        self.static = bool(command.attrs["static_b"])
        self.lead: tuple[int, ...] = ()

    def _arrange(self, operands: Sequence[Array]) -> Operands:
        a, b = operands[0], operands[2]
        self.lead = a.shape[:-2]
        return (
            np.ascontiguousarray(a).reshape(-1, *a.shape[-2:]),
            np.ascontiguousarray(b.swapaxes(-1, -2)).reshape(-1, b.shape[-1], b.shape[-2]),
        )

    def _comparable(self) -> bool:
        same = super()._comparable()
        return same and not (self.static and not np.array_equal(self.current[1], self.previous[1]))

    @property
    def _images(self) -> int:
        return math.prod(self.lead)

    def _sides(self, mode: Mode, current: Operands, previous: Operands) -> list[tuple[I8, I8 | int, I8]]:
        """(rows, reference, weights) of each product."""
        a, bt = current
        if mode == "original":
            return [(a, 0, bt.transpose(0, 2, 1))]
        if mode == "spatial":
            return [(a, _before(a, len(a), 0), bt.transpose(0, 2, 1))]
        before_a, before_bt = previous
        first = (a, before_a, before_bt.transpose(0, 2, 1))
        return [first] if self.static else [first, (bt, before_bt, a.transpose(0, 2, 1))]

    def _count(self, modes: Sequence[Mode], current: Operands, previous: Operands) -> Works:
        a, bt = current
        references: list[Against] = []
        for mode in modes:
            if mode == "temporal":
                references.append(previous[0].reshape(-1, a.shape[2]))
            else:
                references.append(Before(a.shape[1], 0) if mode == "spatial" else 0)
        of_a = self._met(a, bt.shape[1], references, modes)
        found: Works = {m: (met,) for m, met in zip(modes, of_a, strict=True)}
        if "temporal" in modes and not self.static:
            before = previous[1].reshape(-1, bt.shape[2])
            found["temporal"] += tuple(self._met(bt, a.shape[1], [before], ["temporal"]))
        return found

    def _met(self, rows: I8, n: int, references: Sequence[Against], modes: Sequence[Mode]) -> list[SubOp]:
        """Of one operand [groups, rows, K], by reference."""
        groups, m, k = rows.shape
        work, splits = Work(groups, m, k, n), split_k(k, self.k_max)
        counted = count_against(rows.reshape(-1, k), references, splits, self.rule)
        return [self._subop(work, splits, c, mode) for c, mode in zip(counted, modes, strict=True)]

    def _jobs(self, mode: Mode) -> list[Gemm]:
        return [
            Gemm(self.command.name, rows, reference, np.ascontiguousarray(weights), mode)
            for rows, reference, weights in self._sides(mode, self.current, self.previous)
        ]

    def _shape(self, accumulators: I32) -> I32:
        return accumulators.reshape(*self.lead, *accumulators.shape[-2:])
