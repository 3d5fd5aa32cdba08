# SPDX-License-Identifier: Apache-2.0
"""One denoising step five ways, side by side: PyTorch fp32, golden, and the backends `model`, `rtl_wide` and `rtl`.

The memory of a run is measured apart, in device processes of their own (`memory.py`).
Each denoiser takes a few steps whose inputs differ as a sampler's do; the last ones are timed, interleaved, and the median
of each is compared. The device runs in this process, so the wire is not in the figures (`ditto bench wire` has it). Weights
of the paper's 35.7 M configuration are random: its trajectory differences are synthetic, its shapes are not.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ditto_cosim.bench import codes, increments
from ditto_cosim.bench.memory import run_bytes
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.process import keep_memory
from ditto_cosim.host import zoo
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import compile_denoiser
from ditto_cosim.host.reference.golden import Golden
from ditto_cosim.protocol.messages import LayerReport, RunSpec

BACKENDS = ("model", "rtl_wide", "rtl")
WAYS = ("fp32", "golden", *BACKENDS)
DRIFT, STRIDE = 0.008, 1
"""Change of the input between steps, in standard deviations, and of the timestep: with random weights, which exaggerate both,
they leave about the paper's mix (44.5 % zero, 51.5 % low, 4 % full: 0.6 slots an element). `slots_per_element` says what a
run met."""


def measure(quick: bool = False) -> dict[str, Any]:
    """Seconds of a step and ratios to fp32, for the 35.7 M configuration and every model that ships; `icc` is what a slot of an
    increment costs (`increments.py`), `sq_dm` what a code of SQ-DM's costs (`codes.py`)."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_memory()  # as a device process does; PyTorch's steps profit as well
    names = [] if quick else [m.name for m in zoo.models().values() if m.weights is not None]
    repeats = 1 if quick else 3
    rows = {name: _one(name, repeats) for name in ["ddpm", *names]}
    return {
        **rows,
        "icc": increments.measure_increments(_steps, repeats),
        "sq_dm": codes.measure_codes(_steps, repeats),
    }


def _one(name: str, repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = zoo.find(name)
    if model.weights is None:
        denoiser = zoo.build_denoiser(name)
    else:
        pipe = zoo.load_pipeline(name)
        denoiser = getattr(pipe, "unet", None) or pipe.transformer
    steps = _steps(name, denoiser, 3 + repeats)
    captured = capture(denoiser, steps[0], extra={"return_dict": False})
    calibrator = Calibrator(captured)
    calibrator.observe(steps[0])
    compiled = compile_denoiser(captured, calibrator.grids(observer="minmax"))
    golden = Golden(compiled.program, compiled.constants)
    met: list[LayerReport] = []
    machines = {
        b: Machine(compiled.program, compiled.arrays, RunSpec(backend=b, chip="paper_twin", design="ditto"))
        for b in BACKENDS
    }

    def fp32(step: int) -> None:
        with torch.no_grad():
            denoiser(**steps[step], return_dict=False)

    def device(backend: str) -> Callable[[int], None]:
        machine = machines[backend]

        def run(step: int) -> None:
            inputs = {n: t.numpy() for n, t in steps[step].items()}
            met.clear()
            machine.step(step, inputs, observe="none", timed=True, on_layer=met.append, on_value=_ignore)

        return run

    ways = {
        "fp32": fp32,
        "golden": lambda i: golden.step(i, steps[i]),
        **{backend: device(backend) for backend in BACKENDS},
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    inside: list[float] = []
    for step in range(len(steps)):
        for way in WAYS:
            spent = _spend(machines["rtl"]) if way == "rtl" else None
            began = time.perf_counter()
            ways[way](step)
            taken = time.perf_counter() - began
            if step >= 3:
                seconds[way].append(taken)
                if spent is not None:
                    inside.append(spent() / taken)
            elif spent is not None:
                spent()
    for machine in machines.values():
        machine.close()
    median = {way: statistics.median(values) for way, values in seconds.items()}
    state = machines["rtl"].state_bytes
    weights = sum(t.numel() for t in compiled.constants.values() if t.dtype == torch.int8)
    return {
        **{f"{way}_s": median[way] for way in WAYS},
        **{f"{way}_over_fp32": median[way] / median["fp32"] for way in WAYS[1:]},
        "slots_per_element": sum(r.slots for r in met) / sum(r.zero + r.low + r.full for r in met),
        "rtl_outside_backend": 1 - statistics.median(inside),
        "weights_bytes": weights,
        "state_bytes": state,
        **{
            f"{b}_memory_over_weights_and_state": run_bytes(compiled, steps, b) / (weights + state)
            for b in BACKENDS
        },
        "threads": torch.get_num_threads(),
    }


def _spend(machine: Machine) -> Callable[[], float]:
    """Times the backend's own work until the returned function is called."""
    backend, total = machine.backend, 0.0
    original = backend.gemm

    def gemm(job: Any) -> Any:
        nonlocal total
        began = time.perf_counter()
        result = original(job)
        total += time.perf_counter() - began
        return result

    backend.gemm = gemm  # type: ignore[method-assign]  # for the length of one step

    def stop() -> float:
        del backend.gemm
        return total

    return stop


def _steps(name: str, denoiser: torch.nn.Module, count: int) -> list[dict[str, torch.Tensor]]:
    import inspect

    positional, named = zoo.example_inputs(name)
    first = {**dict(zip(inspect.signature(denoiser.forward).parameters, positional, strict=False)), **named}
    first = {n: t for n, t in first.items() if isinstance(t, torch.Tensor)}
    steps = []
    for i in range(count):
        inputs = {}
        for n, t in first.items():
            if "timestep" in n:
                inputs[n] = t - STRIDE * i
            else:
                inputs[n] = t + DRIFT * torch.randn_like(t) if t.is_floating_point() and i else t
        steps.append(inputs)
    return steps


def _ignore(*_: Any) -> None:
    pass


def table(figures: Mapping[str, Any]) -> str:
    """One row a model, and a line each of increments and of codes."""
    rows = {name: row for name, row in figures.items() if name not in ("icc", "sq_dm")}
    lines = [
        f"{'one step':18}"
        + "".join(f"{way + ' s':>12}" for way in WAYS)
        + "".join(f"{way:>10}" for way in WAYS[1:])
        + "  × fp32"
    ]
    for name, row in rows.items():
        times = "".join(f"{row[f'{way}_s']:12.3f}" for way in WAYS)
        ratios = "".join(f"{row[f'{way}_over_fp32']:10.2f}" for way in WAYS[1:])
        lines.append(f"{name:18}{times}{ratios}")
    first = next(iter(rows.values()))
    lines.append(
        f"{first['slots_per_element']:.2f} slots an element; outside the backend in an rtl step: "
        f"{first['rtl_outside_backend']:.0%}; {first['threads']:.0f} threads"
    )
    lines.append(
        "peak memory of a run ÷ (weights + temporal state): "
        + ", ".join(f"{b} {first[f'{b}_memory_over_weights_and_state']:.2f}" for b in BACKENDS)
    )
    lines += [increments.line(figures["icc"]), codes.line(figures["sq_dm"])]
    return "\n".join(lines)
