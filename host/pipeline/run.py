"""One generation on a device: steps in, outputs out, with everything seen on the way kept, checked and recorded.

What this file does not do: compile the denoiser (`compiler/compiled.py`) or know diffusers (`accelerate.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.reference.golden import Difference, Verifier
from ditto_cosim.host.wire.client import Device, OnLayer
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.record import RunInfo, RunWriter

INPUTS = "inputs-{:04d}.npz"
"""The denoiser's inputs in a step of a recorded run, from which the run can be computed again."""


class VerificationError(DittoError):
    """The device departed from golden; `difference` says where."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(f"verification failed: {difference}")
        self.difference = difference


@dataclass(frozen=True)
class Recording:
    """Where a generation's record goes, and what to call it."""

    directory: Path
    model: str = ""
    seed: int = 0
    extra: Mapping[str, Any] | None = None


@dataclass
class Settings:
    """How an accelerated denoiser runs; may be changed between generations."""

    spec: RunSpec
    verify: bool = False
    record: Recording | None = None
    on_layer: OnLayer | None = None
    on_step: Callable[[int], None] | None = None
    on_open: Callable[[Compiled, int], None] | None = None


@dataclass(frozen=True)
class Verdict:
    """What `--verify` found."""

    bit_identical: bool
    layers_checked: int
    values_checked: int
    first_difference: Difference | None


@dataclass
class Generation:
    """What a finished or running generation has shown so far."""

    reports: list[LayerReport] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    wall_s: float = 0.0
    low_rule: str = ""
    clock_hz: int = 0
    board: dict[str, str | int] = field(default_factory=dict)
    """Of the line to a board, if one computes: link, baud, digest; bytes, resends and tile cycles so far."""
    recoveries: int = 0
    verdict: Verdict | None = None


class Run:
    """A run of a compiled denoiser on a device."""

    def __init__(self, device: Device, compiled: Compiled, settings: Settings, steps: int) -> None:
        self.compiled = compiled
        self.seen = Generation()
        self._on_layer, self._on_step = settings.on_layer, settings.on_step
        self._verifier = Verifier(compiled.program, compiled.constants) if settings.verify else None
        self._remote = device.open_run(compiled.program, compiled.arrays, settings.spec)
        self.spec = self._remote.spec
        facts = self._remote.started.facts
        self.seen.low_rule, self.seen.clock_hz = str(facts["low_rule"]), int(facts["clock_hz"])
        self.seen.board = board_figures(facts)
        self._writer: RunWriter | None = None
        if settings.record is not None:
            self._writer = RunWriter(settings.record.directory, self._info(settings.record, steps))

    def _info(self, record: Recording, steps: int) -> RunInfo:
        facts, program = self._remote.started.facts, self.compiled.program
        batch = next(iter(program.inputs.values()))
        return RunInfo(
            program=program.to_dict(),
            model=record.model,
            chip=self.spec.chip,
            chip_digest=str(facts["chip_digest"]),
            design=self.spec.design,
            backend=self.spec.backend,
            low_rule=str(facts["low_rule"]),
            steps=steps,
            seed=record.seed,
            k_max=int(facts["k_max"]),
            batch=program.values[batch].shape[0],
            extra=dict(record.extra or {}),
        )

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One denoiser evaluation."""
        began = time.perf_counter()
        step = self.seen.steps
        if self._verifier is not None:
            self._verifier.expect(step, inputs)
        result = self._remote.step(
            step,
            {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items()},
            observe="none" if self._verifier is None else "all",
            on_layer=self._layer,
            on_value=None if self._verifier is None else self._check,
        )
        self.seen.steps += 1
        self.seen.totals = result.totals
        self.seen.board |= board_figures(result.totals)
        self.seen.recoveries = self._remote.recoveries
        self.seen.wall_s += time.perf_counter() - began
        if self._verifier is not None:
            self.seen.verdict = self._verdict(self._verifier)
        if self._writer is not None and result.record is not None:
            arrays = {name: tensor.detach().numpy() for name, tensor in inputs.items()}
            np.savez_compressed(self._writer.directory / INPUTS.format(step), allow_pickle=False, **arrays)
            self._writer.append(result.record)
        if self._on_step is not None:
            self._on_step(step)
        return torch.from_numpy(result.outputs["sample"].copy())

    def close(self, outcome: Mapping[str, Any] | None = None) -> Generation:
        """Ends the run; `outcome` goes beside its record."""
        self._remote.close()
        if self._writer is not None:
            self._writer.close(outcome or {})
            self._writer = None
        return self.seen

    def _layer(self, report: LayerReport) -> None:
        self.seen.reports.append(report)
        if self._on_layer is not None:
            self._on_layer(report)

    def _check(self, value: int, array: Any) -> None:
        assert self._verifier is not None
        if not self._verifier.check(value, array):
            self.seen.verdict = self._verdict(self._verifier)
            difference = self._verifier.first_difference
            assert difference is not None
            raise VerificationError(difference)

    @staticmethod
    def _verdict(verifier: Verifier) -> Verdict:
        return Verdict(
            verifier.bit_identical,
            verifier.layers_checked,
            verifier.values_checked,
            verifier.first_difference,
        )


def board_figures(found: Mapping[str, str | int]) -> dict[str, str | int]:
    """What a board reports, under its own names."""
    return {name.removeprefix("board_"): value for name, value in found.items() if name.startswith("board_")}
