# SPDX-License-Identifier: Apache-2.0
"""One generation on a device: steps in, outputs out, with everything seen on the way kept, checked and recorded.

A run whose record ends early goes on (`resume`): recorded steps are answered from the record, after their inputs have
been found to be the same bits, and the device takes over behind the last of them. What this file does not do: compile
the denoiser (`compiler/compiled.py`) or know diffusers (`accelerate.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ditto_cosim.host.compiler.compiled import Compiled, wire_array
from ditto_cosim.host.pipeline import journal
from ditto_cosim.host.pipeline.journal import INPUTS, Checked, Finished, State
from ditto_cosim.host.pipeline.wallclock import WallClock
from ditto_cosim.host.reference.audit import Audit, Discrepancy
from ditto_cosim.host.reference.golden import Difference, Verifier
from ditto_cosim.host.reference.sample import SampledVerifier
from ditto_cosim.host.wire.client import Completed, Device, OnLayer, RemoteRun, StepReply, weights_digest
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.messages import LayerReport, Observe, RunSpec
from ditto_cosim.protocol.record import RUN, RunInfo, RunRecord, RunWriter
from ditto_cosim.protocol.shelf import pack
from ditto_cosim.protocol.tensors import NUMPY_TYPES, Array

__all__ = [
    "INPUTS",
    "FidelityError",
    "Generation",
    "Recording",
    "Run",
    "Settings",
    "Verdict",
    "VerificationError",
]

SNR_FLOOR_DB = 10.0
"""A program whose noise is above a tenth of its signal's power is not the module it was made from."""

DIGESTS = {"rtl": "rtl_digest", "chip": "chip_digest", "contract": "contract_digest"}
"""What a verdict names, and the device's fact of that."""


class VerificationError(DittoError):
    """The device departed from golden; `difference` says where."""

    difference: Difference | Discrepancy | None = None

    def __init__(self, difference: Difference | Discrepancy) -> None:
        super().__init__(f"verification failed: {difference}")
        self.difference = difference


class FidelityError(VerificationError):
    """The program is too far from the module that it was made from, however exactly it was computed."""

    def __init__(self, step: int, snr_db: float, floor_db: float) -> None:
        DittoError.__init__(
            self,
            f"verification failed: step {step} is {snr_db:.1f} dB from the fp32 denoiser on the same inputs, the floor is "
            f"{floor_db:g} dB; calibrate again with inputs like these, or try policy='dynamic'",
        )


class ResumeError(DittoError):
    """A run that cannot go on as it began; the message says what has changed."""


@dataclass(frozen=True)
class Recording:
    """Where a generation's record goes, and what to call it."""

    directory: Path
    model: str = ""
    seed: int = 0
    extra: Mapping[str, Any] | None = None
    resume: bool = False
    """Go on behind the steps that are recorded there already."""


@dataclass
class Settings:
    """How an accelerated denoiser runs; may be changed between generations."""

    spec: RunSpec
    verify: bool = False
    record: Recording | None = None
    on_layer: OnLayer | None = None
    on_step: Callable[[int], None] | None = None
    on_open: Callable[[Compiled, int], None] | None = None
    snr_steps: frozenset[int] = frozenset({0})
    """Steps that `verify` also holds against the fp32 module itself; of a cached run the first period's last increment too."""
    snr_floor_db: float = SNR_FLOOR_DB
    verify_sample: int = 0
    """Layers that `verify` compares in a step, taking turns; 0: everything."""
    keep_weights: bool = True
    """Whether the module keeps its fp32 weights when its program is made."""
    generation: Callable[[], Generation] | None = None
    """Makes what a run fills in; something that can also show it, perhaps."""


@dataclass(frozen=True)
class Verdict:
    """What `--verify` found: of every value, of what was delivered, of records, reports and totals."""

    bit_identical: bool
    layers_checked: int
    values_checked: int
    delivered_checked: int
    """Tensors that the pipeline was given, each compared."""
    first_difference: Difference | Discrepancy | None
    digests: Mapping[str, str]
    """Of what was verified: program, weights, rtl (empty: none took part), chip, contract."""
    not_checked: tuple[str, ...]
    """What is taken on trust."""
    snr_by_step: Mapping[int, float] = field(default_factory=dict)
    """Full step -> signal-to-noise ratio of the denoiser's result against the live fp32 module on the same inputs."""
    increment_snr_by_step: Mapping[int, float] = field(default_factory=dict)
    """The same of increments, which leave something out by choice: no floor holds them."""

    @property
    def snr_db(self) -> float | None:
        """The lowest of full steps."""
        return min(self.snr_by_step.values(), default=None)

    @property
    def increment_snr_db(self) -> float | None:
        """The lowest of increments."""
        return min(self.increment_snr_by_step.values(), default=None)


@dataclass
class Generation:
    """What a finished or running generation has shown so far."""

    reports: list[LayerReport] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    wall_s: float = 0.0
    clock: WallClock = field(default_factory=WallClock)
    """When its host asked and was answered."""
    low_rule: str = ""
    clock_hz: int = 0
    board: dict[str, str | int] = field(default_factory=dict)
    """Of the line to a board, if one computes: link, baud, digest; bytes, resends and tile cycles so far."""
    recoveries: int = 0
    verdict: Verdict | None = None
    spec: RunSpec | None = None
    """As the device took it: its defaults filled in."""
    directory: Path | None = None
    """Where its record is, if there is one."""
    model: str = ""
    seed: int = 0
    period: int = 1
    """A full step, and the increments up to the next."""
    others: tuple[Generation, ...] = ()
    """Runs beside this one in the same generation: calls with other static inputs, or of another structure."""


class Run:
    """A run of a compiled denoiser on a device."""

    def __init__(
        self, device: Device, compiled: Compiled, settings: Settings, steps: int, record: Recording | None
    ) -> None:
        """`record` says where this run's record goes, which for all but the first of a generation is beside the settings'."""
        self.compiled = compiled
        self.seen = (settings.generation or Generation)()
        self.seen.period = compiled.program.period
        self.spec = settings.spec
        self._device, self._settings, self._steps = device, settings, steps
        self._recording = record
        self._snr_by_step: dict[int, float] = {}
        self._increment_snr_by_step: dict[int, float] = {}
        self._reports: list[LayerReport] = []
        """Of the step under way."""
        self._verifier: Verifier | SampledVerifier | None = None
        self._audit: Audit | None = None
        self._remote: RemoteRun | None = None
        self._writer: RunWriter | None = None
        self._past: RunRecord | None = None
        self._last: Finished | None = None
        self._digests: Mapping[str, str] = {}
        if record is not None:
            self.seen.directory, self.seen.model, self.seen.seed = record.directory, record.model, record.seed
        if record is not None and record.resume and (record.directory / RUN).exists():
            self._past = self._same_run(RunRecord(record.directory))
            self._digests = self._past.info.digests
            self.seen.low_rule, self.seen.clock_hz = self._past.info.low_rule, self._past.info.clock_hz
        if self._past is None or not len(self._past):
            self._open(None)

    def step(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One denoiser evaluation; its results by name."""
        began = time.perf_counter()
        step = self.seen.steps
        given = {name: wire_array(tensor) for name, tensor in inputs.items()}
        if self._past is not None and step < len(self._past):
            outputs = self._recorded(step, given)
        else:
            self.seen.clock.asked(step)
            outputs = self._computed(step, inputs, given)
            self.seen.clock.answered(step)
        self.seen.steps += 1
        self.seen.wall_s += time.perf_counter() - began
        if self._settings.on_step is not None:
            self._settings.on_step(step)
        return {name: torch.from_numpy(array.copy()) for name, array in outputs.items()}

    def judge(self, step: int, snr_db: float) -> None:
        """Takes note of a step's signal-to-noise ratio against the live fp32 module; a full one below the floor ends the run."""
        full = self.compiled.program.step_class(step) == "full"
        (self._snr_by_step if full else self._increment_snr_by_step)[step] = snr_db
        if self.seen.verdict is not None:
            self.seen.verdict = replace(
                self.seen.verdict,
                snr_by_step=dict(self._snr_by_step),
                increment_snr_by_step=dict(self._increment_snr_by_step),
            )
        if full and not snr_db >= self._settings.snr_floor_db:
            raise FidelityError(step, snr_db, self._settings.snr_floor_db)

    def close(self, outcome: Mapping[str, Any] | None = None) -> Generation:
        """Ends the run; `outcome` goes beside its record."""
        if self._remote is not None:
            self._remote.close()
        if self._writer is None and self._past is not None:
            self._writer = RunWriter.behind(self._past)
        if self._writer is not None:
            self._writer.close(outcome or {})
            if not (outcome or {}).get("interrupted"):
                pack(self._writer.directory)
            self._writer = None
        return self.seen

    # --- a step ----------------------------------------------------------------------------------------------

    def _computed(
        self, step: int, inputs: Mapping[str, torch.Tensor], given: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        if self._remote is None:
            self._open(self._last)
        assert self._remote is not None
        self._reports = []
        if self._verifier is not None:
            self._verifier.expect(step, inputs)
        try:
            result = self._remote.step(
                step,
                given,
                observe=self._observed(),
                on_layer=self._layer,
                on_value=None if self._verifier is None else self._check,
            )
            if self._verifier is not None:
                self._verifier.check_delivered(result.outputs, result.record, self._reports, result.totals)
                self._judge()
        except VerificationError:
            if self._writer is not None:  # what the step was asked, so that it can be traced (`ditto trace`)
                journal.write_inputs(self._writer.directory, step, given)
            raise
        self._keep(step, given, result)
        self.seen.totals = result.totals
        self.seen.board |= board_figures(result.totals)
        self.seen.recoveries = self._remote.recoveries
        return result.outputs

    def _observed(self) -> Observe:
        """Which values the device sends."""
        if self._verifier is None:
            return "none"
        return self._verifier.wanted if isinstance(self._verifier, SampledVerifier) else "all"

    def _recorded(self, step: int, given: Mapping[str, Array]) -> Mapping[str, Array]:
        """A step that was completed before the run was interrupted."""
        assert self._past is not None
        finished = self._last = journal.read(self._past.directory, step)
        for name in finished.inputs.keys() | given.keys():
            asked, recorded = given.get(name), finished.inputs.get(name)
            if asked is None or recorded is None or not _same_bits(asked, recorded):
                raise ResumeError(
                    f"{self._past.directory}: in step {step} the pipeline asks with another {name!r} than was recorded. "
                    "Model, seed, settings or library versions are not those of the run; run it again from the start."
                )
        program = self.compiled.program
        specs = {name: program.values[value] for name, value in program.outputs.items()}
        found = {n: (a.shape, a.dtype) for n, a in finished.outputs.items()}
        if found != {n: (s.shape, NUMPY_TYPES[s.dtype]) for n, s in specs.items()}:
            raise ResumeError(
                f"{self._past.directory}: step {step} left {found}, the program makes {specs}; run it again from the start"
            )
        for report in finished.state.reports:
            self._layer(report)
        self.seen.totals = finished.state.totals
        if finished.state.checked is not None:
            self.seen.verdict = self._verdict_of(finished.state.checked)
        return finished.outputs

    def _keep(self, step: int, given: Mapping[str, Array], result: StepReply) -> None:
        """Leaves the step on disk: it is complete from then on, whatever happens."""
        if self._writer is None or result.record is None:
            return
        state = State(
            snapshot=result.snapshot, totals=result.totals, reports=self._reports, checked=self._checked()
        )
        journal.write(self._writer.directory, Finished(step, given, result.outputs, state))
        self._writer.append(result.record)

    # --- opening ---------------------------------------------------------------------------------------------

    def _open(self, behind: Finished | None) -> None:
        """Opens the run on the device, behind a recorded step if there is one."""
        compiled = self.compiled
        if behind is not None:
            self._same_digests({"weights": weights_digest(compiled.arrays)})
        after = [
            Completed(f.step, dict(f.inputs), dict(f.outputs), f.state.snapshot)
            for f in self._rests_on(behind)
        ]
        self._remote = self._device.open_run(compiled.program, compiled.arrays, self.spec, after)
        self.spec = self._remote.spec
        facts = self._remote.started.facts
        digests = {"program": compiled.program.digest, "weights": self._remote.weights_digest}
        digests |= {name: str(facts.get(fact, "")) for name, fact in DIGESTS.items()}
        if self._past is not None:
            self._same_digests(digests)
            self._writer = RunWriter.behind(self._past)
        elif self._recording is not None:
            info = self._info(self._recording, facts, digests)
            self._writer = RunWriter(self._recording.directory, info)
        self._digests = digests
        self.seen.low_rule, self.seen.clock_hz = str(facts["low_rule"]), int(facts["clock_hz"])
        self.seen.spec = self.spec
        self.seen.board |= board_figures(facts)
        if self._settings.verify and self._settings.verify_sample:
            self._verifier = SampledVerifier(
                compiled.program, compiled.constants, self._settings.verify_sample
            )
            if behind is not None:
                self._count_on(behind)
        elif self._settings.verify:
            self._audit = Audit(compiled.program, facts)
            self._verifier = Verifier(compiled.program, compiled.constants, self._audit)
            if behind is not None:
                self._verify_behind(behind)

    def _rests_on(self, behind: Finished | None) -> list[Finished]:
        """A recorded step, behind the full step before it if it is an increment."""
        if behind is None:
            return []
        anchor = self.compiled.program.anchor(behind.step)
        assert self._past is not None
        return [*([journal.read(self._past.directory, anchor)] if anchor != behind.step else []), behind]

    def _info(self, record: Recording, facts: Mapping[str, str | int], digests: Mapping[str, str]) -> RunInfo:
        program = self.compiled.program
        batch = next(iter(program.inputs.values()))
        return RunInfo(
            program=program.to_dict(),
            model=record.model,
            chip=self.spec.chip,
            chip_digest=str(facts["chip_digest"]),
            design=self.spec.design,
            backend=self.spec.backend,
            low_rule=str(facts["low_rule"]),
            steps=self._steps,
            seed=record.seed,
            k_max=int(facts["k_max"]),
            chip_description=json.loads(str(facts["chip"])),
            design_description=json.loads(str(facts["design"])),
            batch=program.values[batch].shape[0],
            clock_hz=int(facts["clock_hz"]),
            digests=digests,
            extra={
                **(record.extra or {}),
                "channels": {p: list(g.channels) for p, g in self.compiled.grids.items() if g.channels},
            },
        )

    def _verify_behind(self, behind: Finished) -> None:
        """Golden computes the last recorded step again: what was recorded must be what it gives."""
        assert isinstance(self._verifier, Verifier)
        assert self._audit is not None
        self._audit.resume(behind.state.totals["cycles"], behind.state.totals["steps"])
        for finished in self._rests_on(behind):
            inputs = {name: torch.from_numpy(array) for name, array in finished.inputs.items()}
            scales = self._count_on(finished).scales
            if not self._verifier.resume(finished.step, inputs, finished.outputs, scales):
                break
        self._count_on(behind)  # what has just been compared again had been counted
        self._judge()

    def _count_on(self, behind: Finished) -> Checked:
        """What had been checked so far counts."""
        checked = behind.state.checked
        if checked is None:
            raise ResumeError(
                "the run was begun without --verify; what was computed then cannot be verified now"
            )
        assert self._verifier is not None
        self._verifier.layers_checked = checked.layers
        self._verifier.values_checked = checked.values
        self._verifier.delivered_checked = checked.delivered
        return checked

    def _same_run(self, past: RunRecord) -> RunRecord:
        """The record, if it is of this program under these names."""
        if past.program.digest != self.compiled.program.digest:
            raise ResumeError(
                f"{past.directory} is a run of program {past.program.digest}, this model compiles to "
                f"{self.compiled.program.digest}: model, scales or batch are not those of the run"
            )
        return past

    def _same_digests(self, digests: Mapping[str, str]) -> None:
        assert self._past is not None
        for name, now in digests.items():
            if (then := self._past.info.digests.get(name)) != now:
                raise ResumeError(
                    f"{self._past.directory}: the run began with {name} {then}, now it is {now}; "
                    "a run goes on only as it began. Run it again from the start."
                )

    # --- what is seen ----------------------------------------------------------------------------------------

    def _layer(self, report: LayerReport) -> None:
        self._reports.append(report)
        self.seen.reports.append(report)
        self.seen.clock.arrived(report.step, report.layer)
        if self._settings.on_layer is not None:
            self._settings.on_layer(report)

    def _check(self, value: int, array: Any) -> None:
        assert self._verifier is not None
        with self.seen.clock.checking():
            same = self._verifier.check(value, array)
        if not same:
            self._judge()

    def _judge(self) -> None:
        """Brings the verdict up to date; raises if something has differed."""
        assert self._verifier is not None
        checked = self._checked()
        assert checked is not None
        difference = self._verifier.first_difference
        self.seen.verdict = replace(
            self._verdict_of(checked),
            bit_identical=self._verifier.bit_identical,
            first_difference=difference,
        )
        if difference is not None:
            raise VerificationError(difference)

    def _checked(self) -> Checked | None:
        if self._verifier is None:
            return None
        trusted = self._verifier if isinstance(self._verifier, SampledVerifier) else self._audit
        assert trusted is not None
        return Checked(
            layers=self._verifier.layers_checked,
            values=self._verifier.values_checked,
            delivered=self._verifier.delivered_checked,
            scales=self._verifier.scales,
            not_checked=list(trusted.not_checked),
        )

    def _verdict_of(self, checked: Checked) -> Verdict:
        """Of steps in which nothing differed."""
        return Verdict(
            checked.values > 0,
            checked.layers,
            checked.values,
            checked.delivered,
            None,
            self._digests,
            tuple(checked.not_checked),
            dict(self._snr_by_step),
            dict(self._increment_snr_by_step),
        )


def _same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def board_figures(found: Mapping[str, str | int]) -> dict[str, str | int]:
    """What a board reports, under its own names."""
    return {name.removeprefix("board_"): value for name, value in found.items() if name.startswith("board_")}
