# SPDX-License-Identifier: Apache-2.0
"""A recorded run, computed again by golden: the device's records and golden's values tell the same story."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host.analysis.analyze import COUNTS, KINDS, LOW_RULES
from ditto_cosim.host.analysis.replay import AnalysisError, analyze_run
from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.pipeline.run import INPUTS
from ditto_cosim.host.reference.golden import Verifier
from ditto_cosim.host.report.analysis import tables, write_plots
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.record import RunInfo, RunWriter
from support.small_denoiser import STEPS, Denoiser, small

CHIP = "tiny"


@dataclass
class Recorded:
    directory: Path
    denoiser: nn.Module
    compiled: Compiled


def record(directory: Path, policy: str) -> Recorded:
    """Runs the denoiser on the machine, step by step, verified, and leaves a recorded run."""
    denoiser, inputs, compiled = small(policy)
    machine = Machine(compiled.program, compiled.arrays, RunSpec(backend="model", chip=CHIP, design="ditto"))
    verifier = Verifier(compiled.program, compiled.constants)
    facts = machine.facts
    info = RunInfo(
        program=compiled.program.to_dict(),
        model="small",
        chip=CHIP,
        chip_digest=str(facts["chip_digest"]),
        design="ditto",
        backend="model",
        low_rule=str(facts["low_rule"]),
        steps=STEPS,
        seed=0,
        k_max=int(facts["k_max"]),
    )
    writer = RunWriter(directory, info)
    for step, given in enumerate(inputs):
        verifier.expect(step, given)
        arrays = {name: tensor.numpy() for name, tensor in given.items()}
        result = machine.step(
            step, arrays, observe="all", timed=True, on_layer=lambda _: None, on_value=verifier.check
        )
        assert verifier.first_difference is None, str(verifier.first_difference)
        np.savez_compressed(directory / INPUTS.format(step), allow_pickle=False, **arrays)
        assert result.record is not None
        writer.append(result.record)
    writer.close({})
    return Recorded(directory, denoiser, compiled)


@pytest.fixture(scope="module")
def static_run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), "static")


@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_replay_counts_what_the_device_recorded(tmp_path: Path, policy: str) -> None:
    """`analyze_run` compares every mode, layer and step; here it must have had something to compare."""
    run = record(tmp_path, policy)
    analysis = analyze_run(run.directory, run.denoiser)
    assert analysis.steps == tuple(range(STEPS))
    assert set(analysis.ops) == {"conv2d", "linear", "matmul"}
    temporal = analysis.counts["temporal"][..., 0]
    assert (temporal[0] == -1).all()
    assert (temporal[1:] > 0).any()
    assert (temporal[1:] == -1).any() == (policy == "dynamic")
    for kind in KINDS:
        for rule in LOW_RULES:
            assert sum(analysis.shares(kind, rule).values()) == pytest.approx(1)


def test_replay_refuses_another_model(static_run: Recorded) -> None:
    torch.manual_seed(1)
    with pytest.raises(AnalysisError, match="the model has changed since the run"):
        analyze_run(static_run.directory, Denoiser().eval())


def test_replay_names_missing_inputs(static_run: Recorded, tmp_path: Path) -> None:
    shutil.copytree(static_run.directory, tmp_path / "copy")
    (tmp_path / "copy" / INPUTS.format(2)).unlink()
    with pytest.raises(AnalysisError, match=r"inputs-0002\.npz is missing"):
        analyze_run(tmp_path / "copy", static_run.denoiser)


def test_replay_finds_temporal_similarity_of_a_slow_trajectory(static_run: Recorded) -> None:
    """A trajectory that hardly moves: similar between steps, cheap in bit operations, small differences."""
    analysis = analyze_run(static_run.directory, static_run.denoiser)
    figures = analysis.figures()
    assert figures["cosine"]["temporal"] > 0.95 > figures["cosine"]["spatial"]
    assert figures["range_ratio"]["temporal"] > 1
    relative = figures["relative_bit_operations"]
    assert relative["best.twos4"] <= min(1.0, relative["temporal.twos4"], relative["spatial.twos4"])
    assert relative["temporal.mag4"] <= relative["temporal.twos4"] < relative["activations.twos4"]
    assert analysis.counts["temporal"].shape == (STEPS, len(static_run.compiled.program.layers), len(COUNTS))


def test_views_of_an_analysis_show_its_figures(static_run: Recorded, tmp_path: Path) -> None:
    analysis = analyze_run(static_run.directory, static_run.denoiser)
    out = io.StringIO()
    Console(file=out, width=140).print(tables(analysis))
    text = out.getvalue()
    figures = analysis.figures()
    assert f"{figures['cosine']['temporal']:.4f}" in text
    assert f"{figures['relative_bit_operations']['temporal.twos4']:.3f}" in text
    assert f"{analysis.shares('spatial', 'mag4', 'linear')['full']:.2%}" in text
    written = write_plots(analysis, tmp_path)
    assert [path.name for path in written] == [
        f"analysis-{n}.png" for n in ("similarity", "ranges", "widths", "bops")
    ]
    assert all(len(np.unique(np.asarray(Image.open(path)))) > 10 for path in written)
    data = json.loads(analysis.to_json())
    assert data["counts"]["temporal"][1] == analysis.counts["temporal"][1].tolist()
    assert data["cosine"]["temporal"][0] == [None] * len(data["names"])
