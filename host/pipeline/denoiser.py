# SPDX-License-Identifier: Apache-2.0
"""An accelerated denoiser: the user's own module, whose call a device computes.

The module stays what it was, in the pipeline's place for it, with its parameters, config and files: only its class gains a
`forward` (and what a run shows, as attributes that the module lacked). One program is compiled per structure of arguments,
on first use, and again when the module has changed. A generation begins when the pipeline's scheduler has new timesteps,
or, without a scheduler, when the timestep rises. Inside it, every structure and every set of static inputs has a run of
its own, so that a conditional and an unconditional call each meet their own previous step.
What this file does not do: pipelines (`accelerate.py`), runs (`run.py`).
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import math
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from ditto_cosim.host.compiler.arguments import Call, describe, put_together, take_apart
from ditto_cosim.host.compiler.cache import Cache, plan_of
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import STATIC_INPUTS, Captured, as_fp32
from ditto_cosim.host.compiler.compiled import Compiled, capture_to_lower, compile_denoiser
from ditto_cosim.host.compiler.factors import Factors
from ditto_cosim.host.compiler.plan import PLANS, FormatPlan, draft
from ditto_cosim.host.compiler.points import quantization_points
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError, serves
from ditto_cosim.host.pipeline import fingerprint, programs
from ditto_cosim.host.pipeline.moments import Moment, Reach, begins_by_form, steps_of
from ditto_cosim.host.pipeline.programs import CallProgram
from ditto_cosim.host.pipeline.run import Generation, Recording, Settings
from ditto_cosim.host.reference.golden import TORCH_DTYPES

log = logging.getLogger("ditto.host")

STREAMS = 4
"""Runs of one structure that differ in static inputs; beyond it, the inputs that differ are taken as varying."""
HELD_VALUES = 8
"""Of inputs that are constants of a program, before a word is said of it."""
TRAJECTORY_BYTES = 256 * 2**20
"""Of a calibration's inputs, kept so that a changed module can be calibrated again."""


class AnyRun(Protocol):
    """What a denoiser needs of a run: a device's (`run.py`), or golden's (`analysis/quality.py`)."""

    @property
    def seen(self) -> Generation: ...

    def step(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]: ...

    def judge(self, step: int, snr_db: float) -> None: ...

    def close(self, outcome: Mapping[str, Any] | None = None) -> Generation: ...


OpenRun = Callable[[Compiled, int, Recording | None], AnyRun]
"""Makes a run of a compiled denoiser for about so many steps, recorded there."""


@dataclass
class _Stream:
    """One run with the static inputs that it began with."""

    key: Hashable
    static: Mapping[str, torch.Tensor]
    program: CallProgram
    run: AnyRun

    def fits(self, key: Hashable, call: Call) -> bool:
        return self.key == key and all(torch.equal(t, call.tensors[n]) for n, t in self.static.items())


@dataclass
class _Stage:
    """One thread's generation under way."""

    streams: list[_Stream] = field(default_factory=list)
    active: _Stream | None = None
    fresh: bool = True
    timesteps: Any = None
    """The scheduler's, by identity: a new tensor is a new generation."""
    announced: int = 0
    first: float | None = None
    last: float | None = None
    moves: int = 0
    single: bool = False
    """A risen timestep ended the generation before after one step."""
    upwards: bool = False
    """It did so twice in a row: the sampler's time rises."""
    told: bool = False
    """That its inputs go beyond what was calibrated."""


class Acceleration:
    """What stands behind an accelerated module: programs, scales, runs."""

    def __init__(
        self,
        module: nn.Module,
        open_run: OpenRun,
        grids: Mapping[str, Grid] | None,
        settings: Settings,
        shut_down: Callable[[], None],
        *,
        static_inputs: frozenset[str] = STATIC_INPUTS,
        pipeline: Any = None,
        plan: FormatPlan | str | None = None,
        cache: Cache | None = None,
        factors: Factors | None = None,
    ) -> None:
        self._cache, self._factors = cache, factors
        if cache is not None and not cache.idle:
            plan_of(cache, module, factors)  # what does not fit is better known before anything runs
        self.settings = settings
        self.plan = plan
        """Formats of block-scaled layers, or the rules that make them."""
        self.shut_down = shut_down
        """Stops the device, if it is this process's own."""
        self.grids = grids
        self.generations: list[Generation] = []
        self._module = weakref.ref(module)
        self._kind = type(module)
        self._own_forward = module.__dict__.get("forward")
        self._pipeline = _reference(pipeline)
        self._open_run = open_run
        self._static_inputs = static_inputs
        self._varying: set[str] = set()
        self._captured: dict[Hashable, list[Captured]] = {}
        self._programs: dict[Hashable, list[CallProgram]] = {}
        self._stages: dict[int, _Stage] = {}
        self._lock = threading.RLock()
        self._steps = 50
        self._quick = self._thorough = 0
        self.clipped: dict[str, float] = {}
        """After a calibration: point -> the share of what it saw that lies beyond its grid."""
        self._calibrators: list[Calibrator] | None = None
        self._choice: dict[str, Any] | None = None
        """How grids were chosen here; None: they were given."""
        self._trajectory: list[Call] = []
        self._moments: list[Moment] = []
        """Every call of the last calibration."""
        self._reach = Reach()
        """The numbers that its inputs held."""
        self._outgrown = False
        """The module has changed since its scales were given."""
        self._released = False
        """The module's weights are gone; its programs stay."""

    @property
    def module(self) -> nn.Module:
        module = self._module()
        assert module is not None
        return module

    @property
    def original(self) -> Callable[..., Any]:
        """The module's own forward, in PyTorch."""
        if self._own_forward is not None:
            return self._own_forward  # type: ignore[no-any-return]  # somebody's wrapper, put there before us
        return self._kind.forward.__get__(self.module)  # type: ignore[no-any-return]  # a function of any class

    # --- generations --------------------------------------------------------------------------------------------------

    def begin(self, steps: int | None = None) -> None:
        """The next call is step 0 of a new generation of about so many steps."""
        with self._lock:
            for stage in self._stages.values():
                stage.fresh = True
            if steps:
                self._steps = steps

    def finish(self, outcome: Mapping[str, Any] | None = None) -> Generation | None:
        """Ends the generation under way; returns what it showed, or what the last one showed where none is. `outcome` goes
        beside its record.

        From a thread that has none under way, those of the others end.
        """
        with self._lock:
            own = self._stages.get(threading.get_ident())
            stages = [own] if own is not None and own.streams else list(self._stages.values())
            ended = [g for g in (self._end(stage, outcome) for stage in stages) if g is not None]
            return ended[-1] if ended else next(reversed(self.generations), None)

    def _end(self, stage: _Stage, outcome: Mapping[str, Any] | None = None) -> Generation | None:
        streams, stage.streams, stage.active = stage.streams, [], None
        if not streams:
            return None
        seen = [stream.run.close(outcome) for stream in streams]
        seen[0].others = tuple(seen[1:])
        self.generations.append(seen[0])
        return seen[0]

    @property
    def generation(self) -> Generation | None:
        """What the generation under way has shown so far, or the last one; None before the first."""
        run = self.run
        return run.seen if run is not None else next(reversed(self.generations), None)

    @property
    def run(self) -> AnyRun | None:
        """The run of the last call, while its generation is under way."""
        with self._lock:
            own = self._stages.get(threading.get_ident())
            stages = [s for s in (own, *self._stages.values()) if s is not None and s.active is not None]
            return stages[0].active.run if stages and stages[0].active is not None else None

    # --- calibration --------------------------------------------------------------------------------------------------

    def start_calibration(self) -> None:
        """Until `stop_calibration`, calls run in fp32 and are watched."""
        fingerprint.refuse_unfaithful(self.module)
        self._seal()
        self._calibrators, self._trajectory = [], []
        self._moments, self._reach = [], Reach()

    def abandon_calibration(self) -> None:
        """As if it had never been started."""
        self._calibrators = None

    def stop_calibration(self, **choice: Any) -> dict[str, Grid]:
        """Grids from what was seen; they take effect at once."""
        calibrators, self._calibrators = self._calibrators or [], None
        if not calibrators:
            raise QuantizationError(
                "calibration saw no denoiser call; run the pipeline between start and stop"
            )
        self.grids, self._choice = _grids(calibrators, self._moments, choice), choice
        if self._timesteps() is None:
            self._steps = steps_of(self._moments)
        self.clipped = calibrators[0].clipped(self.grids)
        self._outgrown = False
        self._programs.clear()
        return dict(self.grids)

    def watched(self) -> tuple[Captured, list[Mapping[str, torch.Tensor]]]:
        """The denoiser as it was captured, and the inputs of the calls that calibration has watched (the first shapes' alone)."""
        if not self._calibrators or not self._trajectory:
            raise QuantizationError("calibration saw no denoiser call; run the pipeline first")
        key = self._trajectory[0].key
        return self._calibrators[0].captured, [c.tensors for c in self._trajectory if c.key == key]

    def _calibrate(self, call: Call) -> Any:
        assert self._calibrators is not None
        calibrator = _of(self._calibrators, self._capture(call))
        self._moments.append(Moment(self._calibrators.index(calibrator), _timestep(call), self._timesteps()))
        self._reach.add(call.tensors)
        held = sum(t.nbytes for c in self._trajectory for t in c.tensors.values())
        if held < TRAJECTORY_BYTES:
            copies = {n: t.clone() for n, t in call.tensors.items()}
            self._trajectory.append(replace(call, tensors=copies))
        results = calibrator.observe_all(call.tensors)
        captured = calibrator.captured
        return _rebuilt(captured.result, results, self._result_dtypes(call, captured), call)

    # --- the call -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(inspect.signature(self.original), args, kwargs)
        with self._lock:
            if self._calibrators is not None:
                return self._calibrate(call)
            for name, tensor in call.tensors.items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all() and "mask" not in name:
                    raise QuantizationError(
                        f"input {name!r} of the denoiser holds NaN or infinity; check the pipeline"
                    )
            stage = self._stages.setdefault(threading.get_ident(), _Stage())
            if self._begins(stage, _timestep(call)):
                self._end(stage)
                stage.told = False
                self._check(thoroughly=True)
            else:
                self._check(thoroughly=False)
            stage.fresh = False
            follows = all(grid.policy == "dynamic" for grid in (self.grids or {}).values())
            if not (stage.told or follows) and (beyond := self._reach.beyond(call.tensors)):
                stage.told = True
                log.warning(
                    "these scales were made from other inputs: %s; values beyond them are cut off, so calibrate with what is "
                    "to be run (accelerate(…, calibration=…)), or take policy='dynamic'",
                    ", ".join(beyond),
                )
            stage.active = stream = self._stream(stage, call)
            program, step = stream.program, stream.run.seen.steps
            period = program.compiled.program.period
            asked = step in self.settings.snr_steps or (period > 1 and step == period - 1)
            judged = self.settings.verify and asked and not self._released
            expected = self._own_results(call) if judged else None
            if not self.settings.keep_weights:
                self._release()
        found = stream.run.step(program_inputs(program.compiled, call))
        outputs = [found[name] for name in program.outputs]
        if expected is not None:
            stream.run.judge(step, _snr_db(expected, outputs))
        return _rebuilt(program.result, outputs, program.dtypes, call)

    def program_of(self, *args: Any, **kwargs: Any) -> Compiled:
        """The program for these arguments, as a call would run it."""
        with self._lock:
            self._check(thoroughly=True)
            return self._program(Call.of(inspect.signature(self.original), args, kwargs)).compiled

    def _begins(self, stage: _Stage, timestep: float | None) -> bool:
        """Whether a call with this timestep is step 0 of a generation; keeps what the next answer needs."""
        last, stage.last = stage.last, timestep
        timesteps = self._timesteps()
        renewed = timesteps is not None and timesteps is not stage.timesteps
        rose = timestep is not None and last is not None and timestep > last
        if renewed:
            stage.timesteps, stage.announced = timesteps, len(timesteps)
            self._steps = stage.announced or self._steps
            starts = True
        elif stage.fresh or not stage.streams:
            starts = True
        elif timesteps is not None:  # a sampler may travel back in time, but not beyond its beginning
            started = timestep is not None and (stage.first is None or timestep >= stage.first)
            starts = rose and (started or stage.moves >= stage.announced)
        elif stage.upwards:
            starts = timestep is not None and last is not None and timestep < last
        elif rose and stage.moves == 1 and stage.single:
            starts, stage.upwards = False, True
        else:
            starts, stage.single = (
                rose,
                (rose and stage.moves == 1) or (stage.single and not rose and timestep == last),
            )
        if starts:
            stage.first, stage.moves = timestep, 1
        elif timestep != last:
            stage.moves += 1
        return starts

    def _timesteps(self) -> Any:
        pipeline = self._pipeline()
        found = getattr(getattr(pipeline, "scheduler", None), "timesteps", None)
        return found if isinstance(found, torch.Tensor) else None

    def _stream(self, stage: _Stage, call: Call) -> _Stream:
        key = (self._quick, call.key, tuple(sorted(self._varying)))
        for stream in stage.streams:
            if stream.fits(key, call):
                return stream
        alike = [s for s in stage.streams if s.key == key]
        if len(alike) >= STREAMS:
            changed = {
                n
                for s in alike
                for n, t in s.static.items()
                if n not in s.program.held and not torch.equal(t, call.tensors[n])
            }
            if changed:
                self._varying |= changed
                return self._stream(stage, call)
        program = self._program(call)
        static = {n: call.tensors[n].clone() for n in program.compiled.program.static_inputs}
        static |= program.held
        if self.settings.on_open is not None:
            self.settings.on_open(program.compiled, self._steps)
        record = self.settings.record
        if record is not None:
            truths = [n for n, t in call.tensors.items() if t.dtype is torch.bool]
            asked = {"structure": describe(call.structure), "inputs": list(call.tensors), "truths": truths}
            record = replace(record, extra={**(record.extra or {}), "call": asked})
            if stage.streams:
                beside = record.directory / f"stream-{len(stage.streams) + 1}"
                begun = record.resume and (beside / "run.json").is_file()
                record = replace(record, directory=beside, resume=begun)
        run = self._open_run(program.compiled, self._steps, record)
        stage.streams.append(_Stream(key, static, program, run))
        return stage.streams[-1]

    # --- programs -----------------------------------------------------------------------------------------------------

    def _check(self, *, thoroughly: bool) -> None:
        """Sees whether the module is still the one that programs were made from; if not, they are made again."""
        quick = fingerprint.quick(self.module, self.original)
        if quick == self._quick and (self._released or not thoroughly):
            return
        if self._released:
            raise fingerprint.UnfaithfulError(
                "this denoiser has changed, but its weights were dropped when its program was made (keep_weights=False); "
                "load it again"
            )
        fingerprint.refuse_unfaithful(self.module)
        thorough = fingerprint.thorough(self.module, self.original)
        if thorough != self._thorough:
            changed = self._thorough != 0
            self._programs.clear()
            self._captured.clear()
            if changed and self._choice is not None and self._trajectory:
                self.grids = self._calibrated_again(self._choice)
            else:
                self._outgrown = self._outgrown or changed
            self._thorough = thorough
        elif quick != self._quick:  # moved, but the same: programs in use stay in use
            self._rename(quick)
        self._quick = quick

    def _rename(self, quick: int) -> None:
        for stage in self._stages.values():
            for stream in stage.streams:
                assert isinstance(stream.key, tuple)
                if stream.key[0] == self._quick:
                    stream.key = (quick, *stream.key[1:])

    def _seal(self) -> None:
        self._captured.clear()
        self._programs.clear()
        self._quick = fingerprint.quick(self.module, self.original)
        self._thorough = fingerprint.thorough(self.module, self.original)

    def _calibrated_again(self, choice: dict[str, Any]) -> dict[str, Grid]:
        """Grids of the changed module, from the trajectory of its first calibration."""
        calibrators: list[Calibrator] = []
        moments: list[Moment] = []
        for call, moment in zip(self._trajectory, self._moments, strict=False):
            calibrator = _of(calibrators, self._capture(call))
            calibrator.observe_all(call.tensors)
            moments.append(replace(moment, form=calibrators.index(calibrator)))
        return _grids(calibrators, moments, choice)

    def _capture(self, call: Call) -> Captured:
        known = self._captured.setdefault(call.key, [])
        for captured in known:
            if captured.holds(call.tensors):
                return captured
        known.append(capture_to_lower(self.module, self.original, call, static_inputs=self._static_inputs))
        return known[-1]

    def _program(self, call: Call) -> CallProgram:
        if self.grids is None:
            raise QuantizationError(
                "the denoiser is not calibrated; pass accelerate(…, calibration={…}) with arguments for one pipeline "
                "call, or scales=… with a file of scales"
            )
        clustered = any(grid.policy == "clustered" for grid in self.grids.values())
        key = (call.key, tuple(sorted(self._varying)), self._steps if clustered else 0)
        known = self._programs.setdefault(key, [])
        for program in known:
            if all(torch.equal(t, call.tensors[n]) for n, t in program.held.items()):
                return program
        if self._released:
            raise fingerprint.UnfaithfulError(
                "a call with other shapes or arguments needs another program, but this denoiser's weights were dropped when "
                "its first was made (keep_weights=False); load it again"
            )
        kept = self._kept_as(call, self._steps if clustered else 0)
        if kept is not None and (found := programs.load(kept)) is not None:
            known.append(found)
            return found
        captured = self._capture(call)
        captured = replace(captured, static_inputs=captured.static_inputs - self._varying)
        plan = None
        if self._cache is not None and not self._cache.idle:
            plan = plan_of(self._cache, self.module, self._factors)
        formats = draft(captured, PLANS[self.plan].block) if isinstance(self.plan, str) else self.plan
        grids = self._grids_for(captured, call)
        compiled = compile_denoiser(captured, grids, steps=self._steps, plan=plan, formats=formats)
        dtypes = self._result_dtypes(call, captured)
        if captured.held and len(known) == HELD_VALUES:
            log.warning(
                "%s decide what the denoiser computes and have had %d values: each is compiled anew",
                ", ".join(captured.held),
                HELD_VALUES,
            )
        known.append(CallProgram(compiled, captured.held, captured.outputs, captured.result, dtypes))
        if kept is not None and grids == self.grids:
            programs.keep(kept, known[-1])
        if not clustered:
            del self._captured[call.key]  # it holds a copy of weights that are not fp32
        return known[-1]

    def _kept_as(self, call: Call, steps: int) -> str | None:
        """What this call's program is kept under between processes, if it is one that may be."""
        if self._outgrown or (self._cache is not None and not self._cache.idle):
            return None
        return programs.key_of(
            self.module,
            self.original,
            call,
            self.grids or {},
            self.plan,
            self._static_inputs,
            self._varying,
            steps,
        )

    def _grids_for(self, captured: Captured, call: Call) -> dict[str, Grid]:
        """The grids, with dynamic ones, begun at this call's values, where a changed module has outgrown what was given."""
        grids, points = dict(self.grids or {}), quantization_points(captured)
        for point in points.keys() - grids.keys():  # a layer that an adapter has wrapped keeps its inputs
            bare = point.replace(".base_layer:", ":")
            if bare in grids:
                grids[point] = grids[bare]
        missing = points.keys() - grids.keys()
        if not (missing or self._outgrown) or not points.keys() & grids.keys():
            return grids
        calibrator = Calibrator(captured)
        calibrator.observe_all(call.tensors)
        fresh = calibrator.grids(policy="dynamic")
        if self._outgrown:
            missing |= {
                point
                for point in points.keys() & grids.keys()
                if not serves(grids[point], calibrator.histograms[point], points[point][1])
            }
        if missing:
            log.warning(
                "the denoiser has changed since its scales were made: those of %d of its %d quantization points, such as "
                "%s, follow their values from step to step (calibrate again to keep them)",
                len(missing),
                len(points),
                min(missing),
            )
        return {**grids, **{point: fresh[point] for point in missing}}

    def _result_dtypes(self, call: Call, captured: Captured) -> tuple[torch.dtype, ...]:
        """Types of the results as the module itself would give them for this call."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        nodes = next(iter(captured.module.graph.find_nodes(op="output"))).args[0]
        own = tuple(node.meta["val"].dtype for node in nodes)
        floats = {t.dtype for t in (*call.given, *self.module.parameters()) if t.is_floating_point()}
        if floats <= {torch.float32} and call.autocast is None:
            return own
        try:
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
                given = [mode.from_tensor(t.detach()) for t in call.given]
                results, _ = take_apart(call.invoke(self.original, given))
            return tuple(t.dtype for t in results.values())
        except Exception:  # whatever its code does with types; diffusers' own rule is the fallback
            first = next((t.dtype for t in call.given if t.is_floating_point()), torch.float32)
            return tuple(first if d.is_floating_point else d for d in own)

    def _own_results(self, call: Call) -> Sequence[torch.Tensor]:
        """What the module itself computes, in fp32, from the call's own inputs."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False), as_fp32(self.module):
            results, _ = take_apart(call.invoke(self.original, [t.clone() for t in call.tensors.values()]))
        return list(results.values())

    def _release(self) -> None:
        """Drops the module's weights, which its program holds in 8 bits: they keep their shapes and types alone."""
        if self._released:
            return
        self._released = True
        self._captured.clear()
        for part in self.module.modules():
            for name, tensor in part._parameters.items():
                if tensor is not None:
                    nothing = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
                    part._parameters[name] = nn.Parameter(nothing, requires_grad=False)

        def refuse(*_: Any) -> None:
            raise fingerprint.UnfaithfulError(
                "this denoiser's weights were dropped when its program was made (keep_weights=False); load it again to save it"
            )

        self.module.register_state_dict_pre_hook(refuse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        quick = fingerprint.quick(self.module, self.original)
        self._rename(quick)
        self._quick = quick

    def for_copy(self, module: nn.Module, memo: dict[int, Any]) -> Acceleration:
        """The acceleration of a copy: the same device and settings, runs of its own."""
        pipeline = self._pipeline()
        made = Acceleration(
            module,
            self._open_run,
            self.grids,
            copy.copy(self.settings),
            self.shut_down,
            static_inputs=self._static_inputs,
            pipeline=memo.get(id(pipeline)),
            plan=self.plan,
            cache=self._cache,
            factors=self._factors,
        )
        made._kind = self._kind
        made._own_forward = copy.deepcopy(self._own_forward, memo)
        made._choice, made._trajectory, made._steps = self._choice, list(self._trajectory), self._steps
        made._moments, made._reach = list(self._moments), self._reach
        made._thorough = self._thorough
        return made


SHOWN = frozenset(
    {
        "abandon_calibration",
        "begin",
        "clipped",
        "finish",
        "generation",
        "generations",
        "grids",
        "program_of",
        "run",
        "settings",
        "shut_down",
        "start_calibration",
        "stop_calibration",
        "watched",
    }
)
"""What of an acceleration is seen as attributes of its module."""


class AcceleratedDenoiser(nn.Module):
    """Goes before the class of a user's module. The module's own attributes win over those of its acceleration."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            acceleration = self.__dict__.get("_acceleration")
            if acceleration is None or name not in SHOWN:
                raise
            return getattr(acceleration, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        state = {k: v for k, v in self.__dict__.items() if k != "_acceleration"}
        made.__dict__.update(copy.deepcopy(state, memo))
        acceleration = self.__dict__.get("_acceleration")
        if acceleration is not None:
            made.__dict__["_acceleration"] = acceleration.for_copy(made, memo)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved, it is the module that it was."""
        kind = type(self).__mro__[2]
        state = {k: v for k, v in self.__dict__.items() if k != "_acceleration"}
        return _plain_again, (kind,), state


def _plain_again(kind: type) -> Any:
    return object.__new__(kind)


@functools.cache
def _accelerated(kind: Any) -> type[nn.Module]:
    """The class of accelerated modules of a class; it bears the same name."""

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        acceleration = self.__dict__.get("_acceleration")
        if acceleration is None:  # made from the class, not by accelerate
            return kind.forward(self, *args, **kwargs)
        if "torch._dynamo" in sys.modules:  # inside torch.compile, perhaps: there is nothing of it to compile
            return torch.compiler.disable(acceleration.__call__)(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch leaves it so
        return acceleration(*args, **kwargs)

    forward._torchdynamo_disable = True  # type: ignore[attr-defined]  # what `disable` marks its functions with
    names = {
        "forward": forward,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    made: type[nn.Module] = type(kind).__call__(type(kind), kind.__name__, (AcceleratedDenoiser, kind), names)
    return made


def attach(module: nn.Module, acceleration: Acceleration) -> None:
    """From now on the device computes the module's call."""
    module.__dict__.pop("forward", None)
    module.__class__ = _accelerated(type(module))  # type: ignore[arg-type]  # a class is hashable
    module.__dict__["_acceleration"] = acceleration


def detach(module: nn.Module) -> None:
    """Undoes `attach`: the module computes its call itself again."""
    acceleration = module.__dict__.pop("_acceleration", None)
    if acceleration is not None:
        acceleration.finish()
        module.__class__ = acceleration._kind
        if acceleration._own_forward is not None:
            module.__dict__["forward"] = acceleration._own_forward


def _snr_db(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """Signal over noise of all results together."""
    signal = noise = 0.0
    for live, got in zip(expected, outputs, strict=True):
        if live.is_floating_point():
            signal += float(live.double().square().sum())
            noise += float((live.double() - got.double()).square().sum())
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _reference(thing: Any) -> Callable[[], Any]:
    """A weak reference, where there can be one."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


def program_inputs(compiled: Compiled, call: Call) -> dict[str, torch.Tensor]:
    """A call's tensors as its program takes them: truth values as numbers."""
    values, inputs = compiled.program.values, compiled.program.inputs
    return {
        n: t.to(TORCH_DTYPES[values[inputs[n]].dtype]) if t.dtype is torch.bool else t
        for n, t in call.tensors.items()
        if n in inputs
    }


def _rebuilt(
    structure: Any, tensors: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype], call: Call
) -> Any:
    """Results in the caller's types, on the caller's device, inside what the module returns."""
    device = next((t.device for t in call.given), torch.device("cpu"))
    return put_together(
        structure, [t.to(device=device, dtype=dtype) for t, dtype in zip(tensors, dtypes, strict=True)]
    )


def _of(calibrators: list[Calibrator], captured: Captured) -> Calibrator:
    """The calibrator of a captured graph."""
    for calibrator in calibrators:
        if calibrator.captured is captured:
            return calibrator
    calibrators.append(Calibrator(captured))
    return calibrators[-1]


def _grids(
    calibrators: list[Calibrator], moments: Sequence[Moment], choice: dict[str, Any]
) -> dict[str, Grid]:
    for form, begins in begins_by_form(moments).items():
        calibrators[form].lay_over(begins)
    first, *others = calibrators
    for other in others:
        first.join(other)
    return first.grids(**choice)


def _timestep(call: Call) -> float | None:
    for name in ("timestep", "timesteps"):
        if name in call.tensors and call.tensors[name].numel():
            return float(call.tensors[name].flatten()[0])
    return None
