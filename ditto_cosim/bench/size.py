# SPDX-License-Identifier: Apache-2.0
"""Real sizes: seconds and peak memory of every phase, from a small UNet to Stable Diffusion's, against fp32 in the same run.

Each rung runs in a host process of its own, with random weights and the rtl and model backends' devices beside it; fp32
weights are dropped when the program is made. The quick ladder stops where a laptop stops, the whole one where memory ends:
a rung that would not fit says what it needs. Linux only (/proc).
"""

from __future__ import annotations

import functools
import inspect
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ditto_cosim.bench.memory import family, status_bytes
from ditto_cosim.host.compiler.arguments import take_apart
from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.zoo import build_denoiser, example_inputs

STEPS = 3
BACKENDS = ("model", "rtl")


@dataclass(frozen=True)
class Rung:
    """One size of the ladder."""

    name: str
    workload: str
    """A model of the zoo, or `sdxl`."""
    latents: int | None = None
    """Side of its input, if not the published one."""
    quick: bool = False


LADDER = (
    Rung("fashion-ddpm", "fashion-ddpm", quick=True),
    Rung("ddpm", "ddpm", quick=True),
    Rung("dit-xl-2", "dit"),
    Rung("sd-v1.4-32", "sdm", 32),
    Rung("sd-v1.4-64", "sdm", 64),
    Rung("sdxl-32", "sdxl", 32),
)
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""Stable Diffusion XL's UNet as published, 2.57 G parameters: none of the paper's workloads, so not in the zoo."""
MEMORY_OVER_WEIGHTS = 1.9
"""What a rung may hold at most, in fp32 weights: the weights, their int8 copies on both sides, and what calibration sees."""


def measure(quick: bool, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The ladder's figures; a rung that did not fit into memory says so."""
    rungs = [r for r in LADDER if (r.name in names if names else r.quick or not quick)]
    return {"threads": torch.get_num_threads(), "models": [_in_its_own_process(rung) for rung in rungs]}


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{'':14}{'M':>7}{'fp32 s':>8}{'capture':>9}{'calibrate':>10}{'lower':>7}"
        f"{'upload':>8}{'model':>8}{'rtl':>8}{'×':>6}{'host GiB':>10}{'device GiB':>11}{'of fp32':>9}"
    ]
    for m in figures["models"]:
        if "error" in m:
            lines.append(f"{m['name']:14}{m['error']}")
            continue
        phases = m["phases"]
        cells = [phases["capture"], phases["calibrate"], phases["lower"], phases["upload"]]
        lines.append(
            f"{m['name']:14}{m['parameters'] / 1e6:7.1f}{m['fp32_s']:8.2f}{cells[0]:9.1f}{cells[1]:10.1f}{cells[2]:7.1f}"
            f"{cells[3]:8.1f}{m['steps_s']['model']:8.2f}{phases['step']:8.2f}{m['over_fp32']:6.2f}"
            f"{m['host_bytes'] / 2**30:10.2f}{m['device_bytes'] / 2**30:11.2f}{m['memory_over_fp32_weights']:9.2f}"
        )
    lines.append(
        "seconds; × is an rtl step over an fp32 step; memory is the most each process held while it stepped"
    )
    return "\n".join(lines)


def _in_its_own_process(rung: Rung) -> dict[str, Any]:
    if short := _too_large(rung):
        return {"name": rung.name, "error": short}
    made = subprocess.run(
        [sys.executable, "-m", "ditto_cosim.bench.size", rung.name],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        said = made.stderr.strip().splitlines() or [f"ended with status {made.returncode}"]
        return {"name": rung.name, "error": said[-1]}
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return found


def _too_large(rung: Rung) -> str:
    """Why a rung would not fit into the memory that is free; empty if it does."""
    weights = sum(p.numel() for p in _denoiser(rung, "meta").parameters()) * 4
    needed, free = weights * MEMORY_OVER_WEIGHTS, _available_bytes()
    if needed <= free:
        return ""
    return f"needs about {needed / 2**30:.0f} GiB of memory, {free / 2**30:.0f} GiB are free"


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def run_rung(rung: Rung) -> dict[str, Any]:
    """One size, in this process."""
    compiled, inputs, found = _compile(rung)
    steps_s: dict[str, float] = {}
    uploads_s: dict[str, float] = {}
    device_bytes = 0
    _forget_peak("self")
    for backend in BACKENDS:
        uploads_s[backend], steps_s[backend], held = _steps(compiled, inputs, backend)
        device_bytes = max(device_bytes, held)
    host_bytes = status_bytes("self", "VmHWM")
    phases = {**found.pop("phases"), "upload": uploads_s["rtl"], "step": steps_s["rtl"]}
    return {
        "name": rung.name,
        **found,
        "phases": phases,
        "steps_s": steps_s,
        "uploads_s": uploads_s,
        "over_fp32": steps_s["rtl"] / found["fp32_s"],
        "model_over_fp32": steps_s["model"] / found["fp32_s"],
        "host_bytes": host_bytes,
        "device_bytes": device_bytes,
        "memory_over_fp32_weights": (host_bytes + device_bytes) / found["weights_bytes"],
    }


def _compile(rung: Rung) -> tuple[Compiled, dict[str, torch.Tensor], dict[str, Any]]:
    """The program with its inputs and what making it cost; the module and its fp32 weights are left behind."""
    denoiser, arguments = _model(rung)
    inputs, _ = take_apart(arguments)
    phases: dict[str, float] = {}
    with torch.no_grad():
        denoiser(**arguments)
        fp32_s = statistics.median(_timed(lambda: denoiser(**arguments))[0] for _ in range(STEPS))
    phases["capture"], captured = _timed(lambda: capture(denoiser, arguments, extra={"return_dict": False}))
    calibrator = Calibrator(captured)
    phases["calibrate"], _ = _timed(lambda: calibrator.observe(inputs))
    grids = calibrator.grids(observer="minmax")
    phases["lower"], compiled = _timed(lambda: compile_denoiser(captured, grids, steps=STEPS))
    found = {
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "weights_bytes": sum(p.nbytes for p in denoiser.parameters()),
        "fp32_s": fp32_s,
        "compile_peak_bytes": status_bytes("self", "VmHWM"),
        "phases": phases,
    }
    return compiled, inputs, found


def _denoiser(rung: Rung, device: str = "cpu") -> torch.nn.Module:
    if rung.workload != "sdxl":
        return build_denoiser(rung.workload, device)
    from diffusers import UNet2DConditionModel

    with torch.device(device):
        module: torch.nn.Module = UNet2DConditionModel(**SDXL).eval()
    return module


def _model(rung: Rung) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A denoiser with random weights, and the arguments of one call."""
    torch.manual_seed(0)
    denoiser = _denoiser(rung)
    if rung.workload == "sdxl":
        side, times = rung.latents or SDXL["sample_size"], 6 * SDXL["addition_time_embed_dim"]
        pooled = SDXL["projection_class_embeddings_input_dim"] - times
        conditions = {"text_embeds": torch.randn(1, pooled), "time_ids": torch.full((1, 6), 256.0)}
        return denoiser, {
            "sample": torch.randn(1, 4, side, side),
            "timestep": torch.tensor([500]),
            "encoder_hidden_states": torch.randn(1, 77, SDXL["cross_attention_dim"]),
            "added_cond_kwargs": conditions,
        }
    positional, named = example_inputs(rung.workload)
    arguments = {
        **dict(zip(inspect.signature(denoiser.forward).parameters, positional, strict=False)),
        **named,
    }
    if rung.latents is not None:
        name = next(iter(arguments))
        arguments[name] = arguments[name][..., : rung.latents, : rung.latents].contiguous()
    return denoiser, arguments


def _steps(compiled: Compiled, inputs: Mapping[str, torch.Tensor], backend: str) -> tuple[float, float, int]:
    """Seconds of the upload with the first step, of a later step, and the most bytes the device held."""
    from ditto_cosim.host.wire.supervisor import LocalDevice
    from ditto_cosim.protocol.messages import RunSpec

    generator = torch.Generator().manual_seed(1)
    name = next(iter(inputs))

    def at(step: int) -> dict[str, Any]:
        moved = inputs[name] + 0.02 * step * torch.randn(inputs[name].shape, generator=generator)
        return {n: (moved if n == name else t).numpy() for n, t in inputs.items()}

    with LocalDevice() as device:
        began = time.perf_counter()
        with device.open_run(
            compiled.program, compiled.arrays, RunSpec(backend=backend, chip="paper_twin", design="ditto")
        ) as run:
            run.step(0, at(0))
            upload_s = time.perf_counter() - began
            times = [_timed(functools.partial(run.step, step, at(step)))[0] for step in range(1, STEPS + 1)]
            held = sum(status_bytes(pid, "VmHWM") for pid in family(device.pid))
        return upload_s, statistics.median(times), held


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the work gave."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _forget_peak(pid: int | str) -> None:
    """The peak of a process starts again from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


if __name__ == "__main__":
    torch.set_num_threads(max(1, torch.get_num_threads()))
    print(json.dumps(run_rung(next(r for r in LADDER if r.name == sys.argv[1]))))
