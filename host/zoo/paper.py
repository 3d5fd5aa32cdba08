# SPDX-License-Identifier: Apache-2.0
"""Builds the paper's workloads and the inputs of one step, on the CPU or on torch's `meta` device.

Does: turn the configurations of `workloads.py` into diffusers modules with fresh parameters.
Does not: load weights: there are none. On `meta` even the largest costs no memory.
"""

from __future__ import annotations

from typing import Any

import torch

from .workloads import Workload, workloads

_CONTEXT_TOKENS = {"img": 1, "sdm": 77}


def build(name: str, device: str = "cpu") -> torch.nn.Module:
    """The denoiser of one workload with fresh parameters on `device`."""
    import diffusers

    workload = _find(name)
    with torch.device(device):
        module: torch.nn.Module = getattr(diffusers, workload.diffusers_class)(**workload.config)
    return module.eval()


def example_inputs(name: str, device: str = "cpu", batch: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one denoiser call, random, with the published shapes."""
    workload = _find(name)
    config = workload.config
    size = config["sample_size"]
    frames = (config["video_length"],) if workload.family == "latte" else ()
    with torch.device(device):
        sample = torch.randn(batch, config["in_channels"], *frames, size, size)
        timestep = torch.full((batch,), 500, dtype=torch.int64)
        if workload.family == "unet-conditional":
            context = torch.randn(batch, _CONTEXT_TOKENS[name], config["cross_attention_dim"])
            return (sample, timestep), {"encoder_hidden_states": context}
        if workload.family == "dit":
            return (sample,), {"timestep": timestep, "class_labels": torch.zeros(batch, dtype=torch.int64)}
        if workload.family == "latte":
            unused_caption = torch.zeros(batch, 1, config["caption_channels"])
            return (sample,), {"timestep": timestep, "encoder_hidden_states": unused_caption}
        return (sample, timestep), {}


def _find(name: str) -> Workload:
    try:
        return workloads()[name]
    except KeyError:
        raise KeyError(f"the paper has no workload {name!r}; it has {', '.join(workloads())}") from None
