"""The denoiser's stand-in: the same call and config as the module it replaces, computed by a device.

One program is compiled per set of input shapes, on first use. A generation begins when the scheduler sets its timesteps,
or when the timestep rises. What this file does not do: pipelines (`accelerate.py`).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import nn

from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import STATIC_INPUTS, Captured, capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError
from ditto_cosim.host.pipeline.run import Generation, Settings


class AnyRun(Protocol):
    """What a denoiser needs of a run: a device's (`run.py`), or golden's (`analysis/quality.py`)."""

    @property
    def seen(self) -> Generation: ...

    def step(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor: ...

    def close(self, outcome: Mapping[str, Any] | None = None) -> Generation: ...


OpenRun = Callable[[Compiled, int], AnyRun]
"""Makes a run of a compiled denoiser for so many steps."""


@dataclass(frozen=True)
class _Call:
    """One call of the denoiser, its arguments sorted."""

    tensors: dict[str, torch.Tensor]
    extra: dict[str, Any]
    return_dict: bool

    @property
    def key(self) -> tuple[Any, ...]:
        shapes = tuple((n, tuple(t.shape), t.dtype) for n, t in self.tensors.items())
        return shapes, tuple(sorted((k, repr(v)) for k, v in self.extra.items()))


class AcceleratedDenoiser(nn.Module):
    """Stands where the pipeline's denoiser stood."""

    def __init__(
        self,
        original: nn.Module,
        open_run: OpenRun,
        grids: Mapping[str, Grid] | None,
        settings: Settings,
        shut_down: Callable[[], None],
        *,
        static_inputs: frozenset[str] = STATIC_INPUTS,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.shut_down = shut_down
        """Stops the device, if it is this process's own."""
        object.__setattr__(self, "original", original)  # not a submodule: .to() and .half() must not reach it
        self.grids = grids
        self.generations: list[Generation] = []
        self._open_run = open_run
        self._static_inputs = static_inputs
        self._signature = inspect.signature(original.forward)
        self._captured: dict[Any, Captured] = {}
        self._compiled: dict[Any, Compiled] = {}
        self._run: AnyRun | None = None
        self._run_key: Any = None
        self._timestep: float | None = None
        self._steps = 50
        self._fresh = True
        self._calibrators: dict[Any, Calibrator] | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["original"], name)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    # --- generations --------------------------------------------------------------------------------------------------

    def begin(self, steps: int | None = None) -> None:
        """The next call is step 0 of a new generation of about so many steps."""
        self._fresh = True
        if steps:
            self._steps = steps

    def finish(self, outcome: Mapping[str, Any] | None = None) -> Generation | None:
        """Ends the generation under way; returns what it showed. `outcome` goes beside its record."""
        if self._run is None:
            return None
        run, self._run = self._run, None
        seen = run.close(outcome)
        self.generations.append(seen)
        return seen

    @property
    def run(self) -> AnyRun | None:
        """The generation under way."""
        return self._run

    # --- calibration --------------------------------------------------------------------------------------------------

    def start_calibration(self) -> None:
        """Until `stop_calibration`, calls run in fp32 and are watched."""
        self._calibrators = {}

    def stop_calibration(self, **choice: Any) -> dict[str, Grid]:
        """Grids from what was seen; they take effect at once."""
        calibrators, self._calibrators = self._calibrators or {}, None
        if not calibrators:
            raise QuantizationError(
                "calibration saw no denoiser call; run the pipeline between start and stop"
            )
        first, *others = calibrators.values()
        for other in others:
            for point, histograms in other.histograms.items():
                first.histograms[point].extend(histograms)
        self.grids = first.grids(**choice)
        self._compiled.clear()
        return dict(self.grids)

    # --- the call -----------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self._sort(args, kwargs)
        if self._calibrators is not None:
            calibrator = self._calibrators.get(call.key)
            if calibrator is None:
                calibrator = self._calibrators[call.key] = Calibrator(self._capture(call))
            return self._wrap(calibrator.observe(call.tensors), call)
        for name, tensor in call.tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise QuantizationError(
                    f"input {name!r} of the denoiser holds NaN or infinity; check the pipeline"
                )
        timestep = _timestep(call)
        rose = timestep is not None and self._timestep is not None and timestep > self._timestep
        if self._fresh or rose or self._run is None or self._run_key != call.key:
            self.finish()
            compiled = self._compile(call)
            if self.settings.on_open is not None:
                self.settings.on_open(compiled, self._steps)
            self._run = self._open_run(compiled, self._steps)
            self._run_key, self._fresh = call.key, False
        self._timestep = timestep
        return self._wrap(self._run.step(call.tensors), call)

    def compile(self, *args: Any, **kwargs: Any) -> Compiled:  # type: ignore[override]  # nn.Module's is torch.compile
        """The program for these arguments, as `forward` would run it."""
        return self._compile(self._sort(args, kwargs))

    def _sort(self, args: Any, kwargs: Any) -> _Call:
        bound = self._signature.bind(*args, **kwargs)
        arguments = dict(bound.arguments)
        for name in [n for n, p in self._signature.parameters.items() if p.kind is p.VAR_KEYWORD]:
            arguments.update(arguments.pop(name, {}))
        return_dict = bool(arguments.pop("return_dict", True))
        tensors, extra = {}, {}
        for name, value in arguments.items():
            if name in ("timestep", "timesteps") and not isinstance(value, torch.Tensor):
                value = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float32)
            if isinstance(value, torch.Tensor):
                tensors[name] = _plain(value.detach().cpu())
            elif value is not None:
                extra[name] = value
        if "return_dict" in self._signature.parameters:
            extra["return_dict"] = False
        return _Call(tensors, extra, return_dict)

    def _capture(self, call: _Call) -> Captured:
        if call.key not in self._captured:
            self._captured[call.key] = capture(
                self.original, call.tensors, extra=call.extra, static_inputs=self._static_inputs
            )
        return self._captured[call.key]

    def _compile(self, call: _Call) -> Compiled:
        if self.grids is None:
            raise QuantizationError(
                "the denoiser is not calibrated; pass accelerate(…, calibration={…}) with arguments for one pipeline "
                "call, or scales=… with a file of scales"
            )
        clustered = any(grid.policy == "clustered" for grid in self.grids.values())
        key = (call.key, self._steps if clustered else 0)
        if key not in self._compiled:
            self._compiled[key] = compile_denoiser(self._capture(call), self.grids, steps=self._steps)
        return self._compiled[key]

    def _wrap(self, sample: torch.Tensor, call: _Call) -> Any:
        if not call.return_dict or "return_dict" not in self._signature.parameters:
            return (sample,) if "return_dict" in self._signature.parameters else sample
        annotation = typing.get_type_hints(self.original.forward).get("return")
        for kind in typing.get_args(annotation) or (annotation,):
            if hasattr(kind, "__dataclass_fields__"):
                return kind(sample=sample)
        return SimpleNamespace(sample=sample)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The types that programs take: float32 and int64."""
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    return tensor.to(torch.int64)


def _timestep(call: _Call) -> float | None:
    for name in ("timestep", "timesteps"):
        if name in call.tensors:
            return float(call.tensors[name].flatten()[0])
    return None
