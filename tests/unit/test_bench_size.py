# SPDX-License-Identifier: Apache-2.0
"""The ladder of real sizes: what its largest rung is made of, and what it says where memory ends."""

from __future__ import annotations

import pytest
import torch

from ditto_cosim.bench import size
from ditto_cosim.bench.size import LADDER, Rung


def test_bench_size_knows_sdxl_as_published() -> None:
    found = size._denoiser(LADDER[-1], "meta")
    assert sum(p.numel() for p in found.parameters()) == 2_567_463_684


def test_bench_size_compiles_a_denoiser_with_nested_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "sample_size": 8,
        "block_out_channels": (32, 32, 32),
        "transformer_layers_per_block": 1,
        "attention_head_dim": 1,
        "cross_attention_dim": 8,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
    }
    monkeypatch.setattr(size, "SDXL", {**size.SDXL, **small})
    compiled, inputs, found = size._compile(Rung("small", "sdxl", 8))
    assert set(found["phases"]) == {"capture", "calibrate", "lower"}
    assert inputs["added_cond_kwargs.text_embeds"].shape == (1, 8)
    assert set(compiled.program.inputs) == set(inputs)
    assert all(isinstance(t, torch.Tensor) for t in inputs.values())


def test_bench_size_says_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "_available_bytes", lambda: 2**30)
    found = size._in_its_own_process(LADDER[-1])
    assert found == {"name": "sdxl-32", "error": "needs about 18 GiB of memory, 1 GiB are free"}
