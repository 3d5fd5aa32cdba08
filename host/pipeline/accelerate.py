# SPDX-License-Identifier: Apache-2.0
"""`accelerate`: any diffusers pipeline, or any module, with its denoiser computed by an emulated accelerator.

    pipe = accelerate(DDIMPipeline.from_pretrained(path), backend="rtl", design="ditto")
    image = pipe(num_inference_steps=50).images[0]
    pipe.unet.finish().totals

The pipeline and its scheduler stay what they were. What this file does not do: the call itself (`denoiser.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ditto_cosim.host.compiler.arguments import TIME_NAMES
from ditto_cosim.host.compiler.cache import METHODS, Cache
from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.factors import Factors
from ditto_cosim.host.compiler.plan import PLANS, FormatPlan, PlanError, load_plan
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError, load_grids
from ditto_cosim.host.pipeline.denoiser import AcceleratedDenoiser, Acceleration, OpenRun, attach, detach
from ditto_cosim.host.pipeline.factor import LONGEST_PERIOD, factor_denoiser
from ditto_cosim.host.pipeline.run import SNR_FLOOR_DB, Generation, Recording, Run, Settings
from ditto_cosim.host.wire.client import Device, OnLayer, connect
from ditto_cosim.host.wire.supervisor import LocalDevice, offers
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.messages import RunSpec

Target = TypeVar("Target")

SCALES_FILE = "ditto_scales.json"
CALIBRATION_STEPS = 20
DENOISERS = ("unet", "transformer")
"""Names under which pipelines keep a denoiser, whatever its class."""
_NO_DENOISERS = ("adapter", "controlnet", "encoder", "guider", "scheduler", "vae", "vqgan", "vqvae")
PARTS = {"vae": "vae.decoder", "vqvae": "vqvae.decoder", "movq": "movq.decoder"}
"""Components whose own call pipelines do not use -> the module inside that does the work."""


class TargetError(DittoError, TypeError):
    """What was given cannot be accelerated; the message says what can."""


def accelerate(
    target: Target,
    *,
    parts: Sequence[str] | None = None,
    backend: str = "rtl",
    design: str = "ditto",
    chip: str = "paper_twin",
    verify: bool = False,
    verify_sample: int = 0,
    snr_steps: Sequence[int] = (0,),
    snr_floor_db: float = SNR_FLOOR_DB,
    connect_to: str | Device | None = None,
    keys: Path | None = None,
    rtl_layers: tuple[str, ...] = (),
    cross_check: str = "",
    scales: Path | Mapping[str, Grid] | None = None,
    plan: Path | FormatPlan | str | None = None,
    calibration: Mapping[str, Any] | Callable[[Any], Any] | None = None,
    observer: str = "mse",
    policy: str = "auto",
    clusters: int = 4,
    hysteresis: float = 1.25,
    overrides: Mapping[str, Grid] | None = None,
    cache: Any = None,
    factors: Path | Factors | None = None,
    record: Recording | None = None,
    on_layer: OnLayer | None = None,
    on_step: Callable[[int], None] | None = None,
    on_open: Callable[[Compiled, int], None] | None = None,
    keep_weights: bool = True,
    open_run: OpenRun | None = None,
    generation: Callable[[], Generation] | None = None,
) -> Target:
    """`target` with its denoiser on the accelerator: a pipeline or a module, changed in place and returned.

    The denoiser stays the module it was; only its call goes to the device. Without `parts`, every component that is called
    with a timestep is taken; with it, the ones named (`"vae"` is its decoder).

    Activations are quantized on `scales` (a file or a mapping); without them on a `ditto_scales.json` beside the model's
    weights; without that on a calibration run: `calibration` holds arguments for one call of the pipeline, or is a
    function that calls it. Weights get one scale per output channel; a module with a `weight_scale` of its own keeps it
    (`quantize.load_quantized` reads such checkpoints). With `verify`, every value is compared with golden, and the results
    of `snr_steps` with the module's own in fp32: fewer decibels than `snr_floor_db` end the run. `verify_sample` is a number of
    layers a step to compare in place of everything, for models so large that golden would take longer than the device.

    With a `plan` its layers are block-scaled (SQ-DM): a file of formats, or the name of the rules that make one, for which a
    `ditto_plan.json` beside the model's weights is taken first. The design must have arrays for them.

    `cache` has most of a transformer's steps compute less (`compiler/cache.py`): a `Cache`, its name (`"icc"`, `"reuse"`), or a
    cache configuration of diffusers that does the same. `icc` needs `factors`, a file of `ditto factor`'s; without one they are
    made from the calibration's call.

    Without `keep_weights` the module's fp32 weights are dropped as soon as its program is made: a large model is then held
    once, in 8 bits, and can neither be saved nor called with other shapes.

    The device is started by this process unless `connect_to` names one; `open_run` (compiled denoiser, steps, recording →
    run) puts something else in its place, such as golden; `generation` makes what each run fills in.
    """
    found = find_parts(target, parts)
    if taken := [name for name, module in found.items() if isinstance(module, AcceleratedDenoiser)]:
        raise TargetError(
            f"{taken[0] or 'this module'} is accelerated already; change its `settings` instead"
        )
    if scripted := [name for name, module in found.items() if isinstance(module, torch.jit.ScriptModule)]:
        raise TargetError(
            f"{scripted[0] or 'this module'} is TorchScript, whose code cannot be followed; give the module that it was made from"
        )
    spec = RunSpec(
        backend=backend, chip=chip, design=design, rtl_layers=list(rtl_layers), cross_check=cross_check
    )
    device = _Devices(connect_to, keys, offers(backend, cross_check), record)
    pipeline = None if isinstance(target, nn.Module) else target
    calibrated: list[Any] = []
    wanted = Cache.of(cache)
    cached = next(iter(found)) if wanted is not None else None
    if wanted is not None and wanted.kind == "icc" and not wanted.idle:
        made = Factors.load(factors) if isinstance(factors, Path) else factors
        factors = made or _factors(
            wanted, found[cached or ""], _given_scales(scales, found[cached or ""]), target, calibration
        )
    for at, (name, module) in enumerate(found.items()):
        settings = Settings(
            spec,
            verify,
            _recording(record, name, at),
            on_layer,
            on_step,
            on_open,
            frozenset(snr_steps),
            snr_floor_db,
            verify_sample,
            keep_weights,
            generation,
        )

        def run_on_device(
            compiled: Compiled, steps: int, record: Recording | None, settings: Settings = settings
        ) -> Run:
            return Run(device(), compiled, settings, steps, record)

        grids = _given_scales(scales, module)
        acceleration = Acceleration(
            module,
            open_run or run_on_device,
            grids,
            settings,
            device.close,
            pipeline=pipeline,
            plan=_given_plan(plan, module),
            cache=wanted if name == cached else None,
            factors=factors if isinstance(factors, Factors) else None,
        )
        attach(module, acceleration)
        if grids is None and (pipeline is not None or calibration is not None):
            calibrated.append(module)
    choice = {
        "observer": observer,
        "policy": policy,
        "clusters": clusters,
        "hysteresis": hysteresis,
        "overrides": overrides,
    }
    try:
        with ExitStack() as stack:
            for module in calibrated:
                stack.enter_context(calibrating(module, **choice))
            if calibrated:
                _calibration_call(target, calibration, decodes="vae.decoder" in found)
    except BaseException:
        for module in found.values():
            detach(module)
        raise
    return target


class _MadeError(Exception):
    """Ends a pipeline's call when the program is there; carries it."""

    def __init__(self, compiled: Compiled) -> None:
        super().__init__()
        self.compiled = compiled


def compile_pipeline(pipe: Any, arguments: Mapping[str, Any], scales: Path | Mapping[str, Grid]) -> Compiled:
    """The program of a pipeline's denoiser for these arguments, which nothing runs. The pipeline stays as it was."""

    def open_run(compiled: Compiled, *_: Any) -> Any:
        raise _MadeError(compiled)

    name = next(iter(find_parts(pipe)))
    accelerate(pipe, parts=[name], scales=scales, open_run=open_run)
    try:
        pipe(**arguments)
    except _MadeError as made:
        return made.compiled
    finally:
        restore(pipe)
    raise TargetError(f"{type(pipe).__name__} made its pictures without calling its {name}")


def trajectory_of(
    pipe: Any, arguments: Mapping[str, Any]
) -> tuple[Captured, list[Mapping[str, torch.Tensor]]]:
    """A pipeline's denoiser as it is captured, and the inputs of every call that these arguments make of it, in fp32. The
    pipeline stays as it was."""
    name = next(iter(find_parts(pipe)))
    accelerate(pipe, parts=[name], scales={}, backend="model")
    part: Any = _components(pipe)[name]
    try:
        part.start_calibration()
        pipe(**arguments)
        found: tuple[Captured, list[Mapping[str, torch.Tensor]]] = part.watched()
        return found
    finally:
        restore(pipe)


def restore(target: Target) -> Target:
    """Undoes `accelerate`: every part computes its call itself again. Returns `target`."""
    for module in _components(target).values():
        for part in module.modules():
            detach(part)
    return target


def find_parts(target: Any, parts: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The modules of a pipeline that are denoisers, or are asked for, by name; a module is its own, under the empty name."""
    if isinstance(target, nn.Module):
        return {"": getattr(target, "_orig_mod", target)}
    modules = _components(target)
    if parts is not None:
        return {PARTS.get(name, name): _part(target, PARTS.get(name, name), modules) for name in parts}
    chosen = {n: m for n, m in modules.items() if n in DENOISERS}
    chosen |= {n: m for n, m in modules.items() if n not in chosen and _takes_time(n, m)}
    if not chosen:
        raise TargetError(
            f"accelerate takes a torch module, or a diffusers pipeline with a denoiser: a component called with a timestep, "
            f"or one that parts=[…] names. {type(target).__name__} has {', '.join(modules) or 'no module'}"
        )
    return chosen


def _components(target: Any) -> dict[str, nn.Module]:
    if isinstance(target, nn.Module):
        return {"": target}
    held = getattr(target, "components", None) or {
        k: v for k, v in vars(target).items() if not k.startswith("_")
    }
    return {n: m for n, m in held.items() if isinstance(m, nn.Module)}


def _part(target: Any, name: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    first, _, rest = name.partition(".")
    if first not in modules:
        raise TargetError(
            f"{type(target).__name__} has no module {first!r}; it has {', '.join(modules) or 'none'}"
        )
    try:
        return modules[first].get_submodule(rest)
    except AttributeError as error:
        raise TargetError(f"{type(target).__name__} has no part {name!r}: {error}") from None


def _takes_time(name: str, module: nn.Module) -> bool:
    if any(word in name for word in _NO_DENOISERS):
        return False
    return bool(TIME_NAMES & inspect.signature(module.forward).parameters.keys())


def _recording(record: Recording | None, part: str, at: int) -> Recording | None:
    """The first part records where it was told to, each other beside it."""
    return record if record is None or not at else replace(record, directory=record.directory / part)


@contextmanager
def calibrating(denoiser: Any, **choice: Any) -> Any:
    """Inside, the denoiser runs in fp32 and is watched; on leaving, its grids are chosen."""
    denoiser.start_calibration()
    try:
        yield denoiser
    except BaseException:
        denoiser.abandon_calibration()
        raise
    denoiser.stop_calibration(**choice)


def _calibration_call(target: Any, calibration: Any, *, decodes: bool) -> None:
    if callable(calibration):
        calibration(target)
        return
    if isinstance(target, AcceleratedDenoiser):
        target(**calibration)
        return
    parameters = inspect.signature(target.__call__).parameters
    required = [
        n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    arguments = dict(calibration or {})
    if "num_inference_steps" in parameters:
        arguments.setdefault("num_inference_steps", CALIBRATION_STEPS)
    if "output_type" in parameters and "vae" in getattr(target, "components", {}) and not decodes:
        arguments.setdefault("output_type", "latent")
    if "generator" in parameters:
        arguments.setdefault("generator", torch.Generator().manual_seed(0))
    if missing := [n for n in required if n not in arguments]:
        raise QuantizationError(
            f"{type(target).__name__} needs {', '.join(missing)} for its calibration run; "
            f"pass accelerate(…, calibration={{{missing[0]!r}: …}})"
        )
    try:
        target(**arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DittoError):
            raise
        raise TargetError(
            f"{type(target).__name__} failed in its own fp32 calibration call, before anything was accelerated: {error}"
        ) from error


def _factors(
    cache: Cache, module: nn.Module, grids: Mapping[str, Grid] | None, target: Any, calibration: Any
) -> Factors:
    """A denoiser's factors: those in a file that is named, or made from the call that calibrates."""
    if cache.factors not in METHODS:
        return Factors.load(Path(cache.factors))

    def call() -> None:
        _calibration_call(target, calibration, decodes=False)

    return factor_denoiser(
        call, module, cache.factors, cache.rank, grids=grids, longest_period=max(cache.period, LONGEST_PERIOD)
    )


def _given_scales(scales: Path | Mapping[str, Grid] | None, original: nn.Module) -> dict[str, Grid] | None:
    if isinstance(scales, Mapping):
        return dict(scales)
    if scales is not None:
        return load_grids(Path(scales))
    found = _beside(original, SCALES_FILE)
    return None if found is None else load_grids(found)


def _given_plan(plan: Path | FormatPlan | str | None, original: nn.Module) -> FormatPlan | str | None:
    if isinstance(plan, Path) or (isinstance(plan, str) and plan not in PLANS):
        if not Path(plan).suffix and not Path(plan).exists():
            raise PlanError(f"no plan {str(plan)!r}; known: {', '.join(PLANS)}, or give a file of one")
        return load_plan(Path(plan))
    if isinstance(plan, str) and (found := _beside(original, PLANS[plan].file)) is not None:
        return load_plan(found)
    return plan


def _beside(original: nn.Module, name: str) -> Path | None:
    """A file beside the model's weights."""
    origin = getattr(getattr(original, "config", None), "_name_or_path", "") or ""
    found = Path(origin) / name
    return found if origin and found.is_file() else None


class _Devices:
    """The device, found or started when first needed."""

    def __init__(
        self,
        target: str | Device | None,
        keys: Path | None,
        options: Sequence[str],
        record: Recording | None,
    ) -> None:
        self._target, self._keys, self._options = target, keys, options
        self._log_directory = None if record is None else record.directory
        self._device: Device | None = target if isinstance(target, Device) else None

    def __call__(self) -> Device:
        if self._device is None:
            if self._target is None:
                self._device = LocalDevice(self._options, run_directory=self._log_directory)
            else:
                self._device = connect(str(self._target), self._keys)
        return self._device

    def close(self) -> None:
        if self._device is not None and self._device is not self._target:
            self._device.close()
            self._device = None
