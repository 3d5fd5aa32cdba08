# SPDX-License-Identifier: Apache-2.0
"""How long one denoiser evaluation takes on a real GPU, beside the roofline that `designs/gpu.py` states.

Interface: `measure_step(model, device, repeats) -> GpuStep`; `present() -> device or None`.
The model is the zoo's, in half precision on CUDA, batch 1 as in a run, weights random where none ship: time does not
depend on them. What this file does not do: compile, tune or batch; it is what eager PyTorch gives.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from ditto_cosim.host import zoo


@dataclass(frozen=True, slots=True)
class GpuStep:
    """One evaluation, the median of several."""

    name: str
    seconds: float


def present() -> str | None:
    """The torch device to measure on, if there is one."""
    return "cuda" if torch.cuda.is_available() else None


def measure_step(model: str, device: str, repeats: int = 10) -> GpuStep:
    """Median seconds of one evaluation after two to warm up."""
    cuda = device == "cuda"
    dtype = torch.float16 if cuda else torch.float32
    denoiser = zoo.build_denoiser(model, device).to(dtype).eval()
    positional, named = zoo.example_inputs(model, device)

    def half(value: object) -> object:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    arguments, options = [half(v) for v in positional], {k: half(v) for k, v in named.items()}
    taken = []
    for _ in range(repeats + 2):
        if cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.no_grad():
            denoiser(*arguments, **options)
        if cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    name = torch.cuda.get_device_name() if cuda else "CPU"
    return GpuStep(name, statistics.median(taken[2:]))
