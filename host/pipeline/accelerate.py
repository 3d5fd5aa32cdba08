"""`accelerate`: any diffusers pipeline, or any module, with its denoiser computed by an emulated accelerator.

    pipe = accelerate(DDIMPipeline.from_pretrained(path), backend="rtl", design="ditto")
    image = pipe(num_inference_steps=50).images[0]
    pipe.unet.finish().totals

The pipeline and its scheduler stay what they were. What this file does not do: the call itself (`denoiser.py`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError, load_grids
from ditto_cosim.host.pipeline.denoiser import AcceleratedDenoiser, OpenRun
from ditto_cosim.host.pipeline.run import Recording, Run, Settings
from ditto_cosim.host.wire.client import Device, OnLayer, connect
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.messages import RunSpec

DENOISERS = ("unet", "transformer")
SCALES_FILE = "ditto_scales.json"
CALIBRATION_STEPS = 20


class TargetError(DittoError, TypeError):
    """What was given cannot be accelerated; the message says what can."""


def accelerate(
    target: Any,
    *,
    backend: str = "rtl",
    design: str = "ditto",
    chip: str = "paper_twin",
    verify: bool = False,
    connect_to: str | Device | None = None,
    keys: Path | None = None,
    rtl_layers: tuple[str, ...] = (),
    cross_check: str = "",
    scales: Path | Mapping[str, Grid] | None = None,
    calibration: Mapping[str, Any] | Callable[[Any], Any] | None = None,
    observer: str = "mse",
    policy: str = "static",
    clusters: int = 4,
    hysteresis: float = 1.25,
    overrides: Mapping[str, Grid] | None = None,
    record: Recording | None = None,
    on_layer: OnLayer | None = None,
    on_step: Callable[[int], None] | None = None,
    on_open: Callable[[Compiled, int], None] | None = None,
    open_run: OpenRun | None = None,
) -> Any:
    """`target` with its denoiser on the accelerator: a pipeline (changed in place and returned), or a module's stand-in.

    Activations are quantized on `scales` (a file or a mapping); without them on a `ditto_scales.json` beside the model's
    weights; without that on a calibration run: `calibration` holds arguments for one call of the pipeline, or is a
    function that calls it. Weights get one scale per output channel; a module with a `weight_scale` of its own keeps it
    (`quantize.load_quantized` reads such checkpoints). The device is started by this process unless `connect_to` names one;
    `open_run` (compiled denoiser, steps → run) puts something else in its place, such as golden.
    """
    ((name, original),) = find_parts(target).items()
    if isinstance(original, AcceleratedDenoiser):
        raise TargetError("this pipeline is accelerated already; change its denoiser's `settings` instead")
    spec = RunSpec(
        backend=backend, chip=chip, design=design, rtl_layers=list(rtl_layers), cross_check=cross_check
    )
    settings = Settings(spec, verify, record, on_layer, on_step, on_open)
    device = _Devices(connect_to, keys, [n for n in (backend, cross_check) if ":" in n], record)

    def run_on_device(compiled: Compiled, steps: int) -> Run:
        return Run(device(), compiled, settings, steps)

    grids = _given_scales(scales, original)
    denoiser = AcceleratedDenoiser(original, open_run or run_on_device, grids, settings, device.close)
    if name:
        _hook_scheduler(target.scheduler, denoiser)
        setattr(target, name, denoiser)
    if grids is None and (name or calibration is not None):
        with calibrating(
            denoiser,
            observer=observer,
            policy=policy,
            clusters=clusters,
            hysteresis=hysteresis,
            overrides=overrides,
        ):
            _calibration_call(target if name else denoiser, calibration)
    return target if name else denoiser


def find_parts(target: Any) -> dict[str, nn.Module]:
    """The modules of a pipeline that are denoisers, by name; a module itself is its own, under the empty name."""
    if isinstance(target, nn.Module):
        return {"": target}
    name = next((n for n in DENOISERS if isinstance(getattr(target, n, None), nn.Module)), None)
    if name is None:
        raise TargetError(
            f"accelerate takes a diffusers pipeline with one of {', '.join(DENOISERS)}, or a torch module; "
            f"got {type(target).__name__}"
        )
    return {name: getattr(target, name)}


@contextmanager
def calibrating(denoiser: AcceleratedDenoiser, **choice: Any) -> Any:
    """Inside, the denoiser runs in fp32 and is watched; on leaving, its grids are chosen."""
    denoiser.start_calibration()
    try:
        yield denoiser
    except BaseException:
        denoiser._calibrators = None
        raise
    denoiser.stop_calibration(**choice)


def _calibration_call(target: Any, calibration: Any) -> None:
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
    if "output_type" in parameters and "vae" in getattr(target, "components", {}):
        arguments.setdefault("output_type", "latent")
    if "generator" in parameters:
        arguments.setdefault("generator", torch.Generator().manual_seed(0))
    if missing := [n for n in required if n not in arguments]:
        raise QuantizationError(
            f"{type(target).__name__} needs {', '.join(missing)} for its calibration run; "
            f"pass accelerate(…, calibration={{{missing[0]!r}: …}})"
        )
    target(**arguments)


def _given_scales(scales: Path | Mapping[str, Grid] | None, original: nn.Module) -> dict[str, Grid] | None:
    if isinstance(scales, Mapping):
        return dict(scales)
    if scales is not None:
        return load_grids(Path(scales))
    origin = getattr(getattr(original, "config", None), "_name_or_path", "") or ""
    beside = Path(origin) / SCALES_FILE
    return load_grids(beside) if origin and beside.is_file() else None


def _hook_scheduler(scheduler: Any, denoiser: AcceleratedDenoiser) -> None:
    """A scheduler that sets its timesteps begins a generation."""
    original = scheduler.set_timesteps

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        denoiser.begin(len(scheduler.timesteps))
        return result

    scheduler.set_timesteps = set_timesteps


class _Devices:
    """The device, found or started when first needed."""

    def __init__(
        self,
        target: str | Device | None,
        keys: Path | None,
        backends: Sequence[str],
        record: Recording | None,
    ) -> None:
        self._target, self._keys = target, keys
        self._options = [text for name in backends for text in ("--offer", name)]
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
