# SPDX-License-Identifier: Apache-2.0
"""Where serving and execution meet: what a run asks of a machine, and what a machine answers.

Neither room imports the other; both import this. What this file does not do: anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import StepRecord
from ditto_cosim.protocol.tensors import Array


@dataclass(frozen=True)
class StepResult:
    """What a machine returns for one step."""

    outputs: Mapping[str, Array]
    record: StepRecord | None = None
    totals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a machine waits for: one product."""

    what: str
    """Layer, mode and shape."""
    macs: int


class Executor(Protocol):
    """Executes one run's program: what serving needs of execution. Arrays handed to it are read-only; inputs are those
    that the program names, of its shapes and types: serving has checked them."""

    geometry_digest: str
    measures: bool

    @property
    def facts(self) -> Mapping[str, str | int]: ...

    tell: Callable[[Activity | None], None]
    """Called when its backend begins a product, and with None when it has ended; whoever wants to know sets it."""

    def step(
        self,
        step: int,
        inputs: Mapping[str, Array],
        *,
        observe: m.Observe,
        timed: bool,
        on_layer: Callable[[m.LayerReport], None],
        on_value: Callable[[int, Array], object],
    ) -> StepResult: ...

    def snapshot(self) -> bytes: ...

    def restore(self, blob: bytes) -> None: ...

    @property
    def state_bytes(self) -> int: ...

    def close(self) -> None: ...


ExecutorFactory = Callable[[Program, Mapping[str, Array], m.RunSpec], Executor]
