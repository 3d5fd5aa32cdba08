# SPDX-License-Identifier: Apache-2.0
"""Sensitivity finds the layer whose scale is bad, and no other."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ditto_cosim.host.analysis.sensitivity import on_grid, probabilities_on_grid, sensitivities
from ditto_cosim.host.compiler.calibrate import calibrate
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import compile_denoiser
from ditto_cosim.host.pipeline.run import INPUTS
from ditto_cosim.protocol.isa import Attrs
from ditto_cosim.protocol.record import RunInfo, RunWriter, StepRecord


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        q = self.first(sample)
        p = (q @ sample.transpose(1, 2)).softmax(-1)
        return self.second(p @ sample) + sample


def recorded(directory: Path, spoil: str | None) -> nn.Module:
    """A run's directory with inputs and program, one point's scale made 40 times too coarse."""
    torch.manual_seed(0)
    denoiser = Attention().eval()
    inputs = [{"sample": torch.randn(1, 12, 16)} for _ in range(3)]
    captured = capture(denoiser, inputs[0])
    grids = calibrate(captured, inputs)
    if spoil is not None:
        grids[spoil] = replace(grids[spoil], scales=tuple(40 * s for s in grids[spoil].scales))
    compiled = compile_denoiser(captured, grids, steps=3)
    info = RunInfo(compiled.program.to_dict(), "small", "tiny", "", "ditto", "model", "twos4", 3, 0, 256)
    writer = RunWriter(directory, info)
    for step, given in enumerate(inputs):
        np.savez_compressed(
            directory / INPUTS.format(step), allow_pickle=False, **{k: v.numpy() for k, v in given.items()}
        )
        writer.append(StepRecord(step, ()))
    return denoiser


def test_sensitivity_covers_every_layer_and_is_sorted(tmp_path: Path) -> None:
    rows = sensitivities(tmp_path, recorded(tmp_path, None))
    assert {row.op for row in rows} == {"linear", "matmul"}
    assert len(rows) == 4
    assert [row.sqnr_db for row in rows] == sorted(row.sqnr_db for row in rows)
    assert all(20 < row.sqnr_db < math.inf for row in rows)


@pytest.mark.parametrize("layer", ["first:x", "second:x"])
def test_sensitivity_finds_the_spoiled_layer(tmp_path: Path, layer: str) -> None:
    (tmp_path / "good").mkdir()
    denoiser = recorded(tmp_path / "good", None)
    good = {row.layer: row.sqnr_db for row in sensitivities(tmp_path / "good", denoiser)}
    (tmp_path / "bad").mkdir()
    bad = sensitivities(tmp_path / "bad", recorded(tmp_path / "bad", layer))
    name = layer.partition(":")[0]
    assert bad[0].layer == name
    assert bad[0].sqnr_db < good[name] - 15
    assert all(row.sqnr_db == good[row.layer] for row in bad[1:])


def test_grids_of_sensitivity_are_those_of_the_instruction_set() -> None:
    attrs: Attrs = {
        "policy": "clustered",
        "scales": (0.5, 0.25),
        "zero_points": (3, -100),
        "bounds": (0, 2),
        "symmetric": False,
        "hysteresis": 1.0,
    }
    x = torch.linspace(-80, 80, 1001)
    for step, (scale, zero) in enumerate([(0.5, 3), (0.5, 3), (0.25, -100)]):
        q = torch.clamp(torch.round(x / scale) + zero, -128, 127)
        assert torch.equal(on_grid(x, attrs, step), (q - zero) * scale)
    p = torch.randn(5, 9).softmax(-1)
    kept = probabilities_on_grid(p)
    assert torch.allclose(kept.sum(-1), torch.ones(5))
    assert float((kept - p).abs().max()) < 0.05
