# SPDX-License-Identifier: Apache-2.0
"""The Python API: a pipeline onto an accelerator, and a device without one.

    accelerate(pipe, backend=…, chip=…, design=…) -> pipe        changed in place, of the same type
    accelerated(pipe, …)                                         the same as a context: the device ends with it
    connect(backend=…) -> Device                                 single layers, or runs of programs

Names are checked when they are given, before a device starts. What this module does not do: any of the work; it asks
`host/pipeline/accelerate.py` and `host/wire/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, get_args

from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.compiler.factors import Factors
from ditto_cosim.host.compiler.plan import FormatPlan
from ditto_cosim.host.compiler.quantize import Choice, Grid, Observer
from ditto_cosim.host.pipeline import accelerate as pipelines
from ditto_cosim.host.pipeline.run import Recording
from ditto_cosim.host.wire import client
from ditto_cosim.host.wire.client import Device, OnLayer
from ditto_cosim.host.wire.link import DEAD_S
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.names import check_names, check_plan, plan_for
from ditto_cosim.progress import shown_progress
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.suggest import did_you_mean
from ditto_cosim.shown import ShownGeneration

Target = TypeVar("Target")


class OptionError(DittoError, ValueError):
    """An option whose value nobody knows; the message says which are known."""


class Options(TypedDict, total=False):
    """What `accelerate` takes besides the machine itself."""

    parts: Sequence[str] | None
    """Components to take instead of those called with a timestep; `"vae"` is its decoder."""
    verify_sample: int
    """Layers a step that `verify` compares, in turn, instead of all."""
    snr_steps: Sequence[int]
    """Steps that `verify` also holds against the module's own fp32."""
    snr_floor_db: float
    connect_to: str | Device | None
    """Address of a device that runs already, or one that `connect` gave."""
    keys: Path | None
    """Keys for a device on another machine."""
    rtl_layers: tuple[str, ...]
    """Patterns of layers that run in RTL whatever the backend."""
    cross_check: str
    """A second backend that must agree on every layer."""
    scales: Path | Mapping[str, Grid] | None
    """8-bit scales of the activations; default: beside the weights, or from a calibration run."""
    plan: Path | FormatPlan | str | None
    """Formats of block-scaled layers: a file, or `"sq_dm"`, which a design with arrays for them takes by itself."""
    cache: Any
    """What most of a transformer's steps leave out: `Cache("icc", period=3, rank=64)`, `"reuse"`, or diffusers' own
    configuration."""
    factors: Path | Factors | None
    """Of `cache`, as `ditto factor` writes them; default: made from the calibration's call."""
    calibration: Mapping[str, Any] | Callable[[Any], Any] | None
    """Arguments of the calibration run's one call, or a function that calls the pipeline."""
    observer: Observer
    """How calibration chooses a range."""
    policy: Choice
    """Whether scales are static, clustered by step, or dynamic."""
    clusters: int
    hysteresis: float
    overrides: Mapping[str, Grid] | None
    record: Recording | None
    """Where the record goes, with more to say of it than `directory`."""
    on_layer: OnLayer | None
    on_step: Callable[[int], None] | None
    on_open: Callable[[Compiled, int], None] | None
    keep_weights: bool
    """False: fp32 weights are dropped when the program is made."""


def accelerate(
    target: Target,
    *,
    backend: str = "rtl",
    chip: str | Path = "paper_twin",
    design: str | Path = "ditto",
    verify: bool = False,
    directory: str | Path | None = None,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Target:
    """`target`, a diffusers pipeline or any module, with its denoiser computed by an emulated accelerator.

    It is changed in place and returned, of the type that it was; its own call, scheduler and files stay.

    backend    `rtl`, `rtl_wide`, `model`, `board`, `board@SERIAL`, or your own as `module:Class`
    chip       a preset (`ditto chips`) or a TOML file
    design     a preset (`ditto designs`) or a TOML file
    verify     compare every value of every step with the independent int8 reference
    directory  where the record goes, which energy, `ditto price` and `ditto compare` read; none without it
    progress   a bar with layers and cycles; by default in notebooks
    options    everything else: see `Options`

    What the last run showed is `pipe.unet.generation`:

    >>> from ditto_cosim import accelerate
    >>> from ditto_cosim.host.pipeline.models import load_model
    >>> model = load_model("fashion-ddpm")
    >>> pipe = accelerate(model.pipe, backend="model", chip="tiny", scales=model.scales)
    >>> image = pipe(num_inference_steps=2).images[0]
    >>> pipe.unet.generation
    <generation: 2 steps of ditto on tiny (model), ... cycles>
    >>> sorted(pipe.unet.generation.layers["mode"].unique())
    ['original', 'temporal']
    >>> pipe.unet.shut_down()

    A name that nobody knows is refused at once:

    >>> accelerate(model.pipe, design="dito")
    Traceback (most recent call last):
    ...
    ditto_cosim.device.designs.base.DesignError: design 'dito': neither a preset (...) ... (did you mean 'ditto'?)
    """
    _known("observer", options.get("observer", "mse"), get_args(Observer))
    _known("policy", options.get("policy", "auto"), get_args(Choice))
    if options.get("connect_to") is None:
        check_names(str(chip), str(design), backend, options.get("cross_check", ""))
        check_plan(str(options.get("plan") or ""), str(design))
    options.setdefault("plan", plan_for(str(design)) or None)
    if directory is not None and options.get("record") is None:
        options["record"] = Recording(Path(directory), type(target).__name__)
    found = shown_progress(progress, options.get("on_open"), options.get("on_layer"))
    options["on_open"], options["on_layer"] = found.on_open, found.on_layer
    return pipelines.accelerate(
        target,
        backend=backend,
        chip=str(chip),
        design=str(design),
        verify=verify,
        generation=ShownGeneration,
        **options,
    )


@contextmanager
def accelerated(
    target: Target,
    *,
    backend: str = "rtl",
    chip: str | Path = "paper_twin",
    design: str | Path = "ditto",
    verify: bool = False,
    directory: str | Path | None = None,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Iterator[Target]:
    """`accelerate` for the length of a `with`: behind it the device has ended and the target computes its call itself again.

    >>> import torch
    >>> from ditto_cosim import accelerated
    >>> layer = torch.nn.Linear(8, 4).eval()
    >>> x = torch.ones(1, 8)
    >>> with accelerated(layer, backend="model", chip="tiny", calibration={"input": x}) as fast:
    ...     y = fast(x)
    ...     cycles = fast.finish().cycles
    >>> bool(cycles > 0 and (y - layer(x)).abs().max() < 0.05)
    True
    """
    made = accelerate(
        target,
        backend=backend,
        chip=chip,
        design=design,
        verify=verify,
        directory=directory,
        progress=progress,
        **options,
    )
    parts: list[Any] = list(pipelines.find_parts(made, options.get("parts")).values())
    closing = [part.shut_down for part in parts]
    try:
        yield made
    finally:
        try:
            pipelines.restore(made)
        finally:
            for shut_down in closing:
                shut_down()


def connect(
    address: str = "",
    *,
    backend: str = "rtl",
    chip: str | Path = "paper_twin",
    keys: Path | None = None,
    timeout_s: float = 30.0,
    dead_s: float = DEAD_S,
) -> Device:
    """A device to talk to without a model: one of this process's own, or the one that listens at `address`.

    It computes single layers, `linear`, `conv2d` and `attention`, from operands that are int8 already: for experiments, and
    for a board's first days. Each gives the 32-bit accumulators and what they cost.

    >>> import numpy as np
    >>> import ditto_cosim
    >>> rng = np.random.default_rng(0)
    >>> x0, w = rng.integers(-128, 128, (4, 32), np.int8), rng.integers(-128, 128, (16, 32), np.int8)
    >>> x = x0.copy()
    >>> x[:, ::4] ^= 1                                      # every fourth element differs by one
    >>> with ditto_cosim.connect(backend="model", chip="tiny") as device:
    ...     out, report = device.linear(x, w, previous=x0)
    ...     whole, bypassed = device.linear(x, w)
    >>> (report.mode, report.zero, report.low, report.slots), bypassed.slots
    (('temporal', 96, 32, 32), 256)
    >>> bool((out == whole).all() and (out == x.astype(int) @ w.T.astype(int)).all())
    True
    """
    device: Device
    if address:
        device = client.connect(address, keys, timeout_s=timeout_s, dead_s=dead_s)
    else:
        check_names(str(chip), "ditto", backend)
        offers = [text for name in (backend,) if ":" in name or "@" in name for text in ("--offer", name)]
        device = LocalDevice(offers, dead_s=dead_s)
    device.defaults = RunSpec(backend=backend, chip=str(chip))
    return device


def _known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(
            f"{option} {value!r} is unknown{did_you_mean(str(value), known)}; known: {', '.join(known)}"
        )
