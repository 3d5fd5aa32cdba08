# SPDX-License-Identifier: Apache-2.0
"""Block-scaled layers in a run: the same bits whatever the arrays, the tags, or the split; tags, records and prices recounted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler

from ditto_cosim import accelerated
from ditto_cosim.device.backends.base import WrittenBack, has_arrays
from ditto_cosim.device.backends.model import ModelBackend
from ditto_cosim.device.backends.rtl_detector import RtlDetector
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import designs_for, load_design
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.pricing.cost import PricingError
from ditto_cosim.device.pricing.recorded import RecordColumns, price_run
from ditto_cosim.device.timing.hetero import Detector, LiveTags
from ditto_cosim.host.pipeline.bare import BarePipeline
from ditto_cosim.host.pipeline.models import load_model
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.program import Command
from ditto_cosim.protocol.record import RunRecord, RunWriter, StepRecord
from ditto_cosim.sim_harness.detector import DetectorGeometry
from ditto_cosim.study.edm import heun_evaluations
from support.relu_denoiser import STEPS, Ran, compiled, design, info, machine_for, run

ARRAYS: dict[str, dict[str, Any]] = {
    "published": {},
    "all dense": {"arrays": "dense"},
    "all sparse": {"arrays": "sparse"},
    "threshold 0": {"threshold": 0.0},
    "threshold 1": {"threshold": 1.0},
    "carried, every third step": {"tags": "carried", "interval": 3},
    "larger sparse PEs": {"sparse_area": 3.0},
}


@pytest.fixture(scope="module")
def runs() -> dict[str, Ran]:
    return {name: run(design(**changed), verify=name == "published") for name, changed in ARRAYS.items()}


def _four_bit_layers() -> list[Command]:
    return [c for c in compiled().program.layers if c.attrs.get("format") == "uint4"]


def test_a_run_equals_golden_value_by_value_and_its_record_golden_s_counts(runs: dict[str, Ran]) -> None:
    verifier = runs["published"].verifier
    assert verifier is not None
    assert verifier.bit_identical, verifier.first_difference
    assert verifier.layers_checked == STEPS * len(compiled().program.layers)
    assert len(_four_bit_layers()) == 4


def test_no_tag_split_or_area_changes_a_bit_and_most_change_the_time(runs: dict[str, Ran]) -> None:
    first = runs["published"]
    for ran in runs.values():
        for mine, theirs in zip(ran.values, first.values, strict=True):
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[v], theirs[v]) for v in mine)
    assert len({ran.cycles for ran in runs.values()}) >= 5


def test_tags_equal_a_recount_from_the_codes(runs: dict[str, Ran]) -> None:
    """Of every layer and step; both kinds occur, and a channel at exactly the threshold would be sparse."""
    program, kinds = compiled().program, set()
    for ran in (runs["published"], runs["threshold 0"], runs["threshold 1"]):
        share = {"published": 0.3, "threshold 0": 0.0, "threshold 1": 1.0}[
            next(n for n, r in runs.items() if r is ran)
        ]
        for record, values in zip(ran.records, ran.values, strict=True):
            for command in _four_bit_layers():
                codes = (
                    values[command.operands[0]]
                    .transpose(1, 0, 2, 3)
                    .reshape(-1, 2 * values[command.operands[0]][0, 0].size)
                )
                zeros = (codes == 0).mean(1)
                layer = program.layers.index(command)
                channels = record.layers[layer].works["original"][0].channels
                assert channels is not None
                assert channels[0].tolist() == (codes != 0).sum(1).tolist()
                assert channels[2].astype(bool).tolist() == (zeros >= share).tolist()
                kinds |= set(channels[2].tolist()) if share == 0.3 else set()
    assert kinds == {0, 1}


def test_carried_tags_are_those_of_the_step_before() -> None:
    fresh, carried = run(design()), run(design(tags="carried"))
    for layer, command in enumerate(compiled().program.layers):
        if command not in _four_bit_layers():
            continue
        tags = [
            [r.layers[layer].works["original"][0].channels for r in ran.records] for ran in (fresh, carried)
        ]
        assert not tags[1][0][2].any()
        for now, later in zip(tags[0], tags[1][1:], strict=False):
            assert now is not None
            assert later is not None
            assert np.array_equal(now[2], later[2])


@pytest.mark.parametrize(
    "changed", [{}, {"tags": "carried"}, {"interval": 3}, {"tags": "carried", "interval": 2}]
)
def test_pricing_a_record_returns_the_runs_cycles(changed: dict[str, Any], tmp_path: Path) -> None:
    made, chip = design(**changed), load_chip("tiny")
    ran = run(made)
    writer = RunWriter(tmp_path, info(made))
    for record in ran.records:
        writer.append(record)
    columns = RecordColumns.load(RunRecord(tmp_path))
    price = price_run(columns, chip, made)
    assert price.step_cycles.tolist() == [r.charged_cycles for r in ran.records]
    other = design(threshold=0.55, dense_share=0.4)
    assert price_run(columns, chip, other).total_cycles == run(other).cycles
    assert set(designs_for(columns.program)) >= {"sq_dm", "fp16_dense", "int4_dense", "int4_vsq"}
    with pytest.raises(PricingError, match=r"no arrays for block-scaled layers.*sq_dm"):
        price_run(columns, chip, load_design("itc"))


def test_detectors_survive_a_restart_of_the_device() -> None:
    made = design(tags="carried", interval=2)

    def restarted(machine: Machine) -> Machine:
        other = machine_for(made)
        other.restore(machine.snapshot())
        machine.close()
        return other

    whole, interrupted = run(made), run(made, between=restarted)
    assert interrupted.cycles == whole.cycles
    forgotten = run(made, between=lambda machine: machine_for(made))
    assert forgotten.cycles != whole.cycles


def test_verification_finds_a_tag_or_a_count_that_is_not_the_codes_own() -> None:
    program = compiled().program
    layer = program.layers.index(_four_bit_layers()[1])
    for row, words in (
        (0, "codes other than 0 of channel 5"),
        (1, "as windows meet them"),
        (2, "tag of channel 5"),
    ):

        def spoil(record: StepRecord, row: int = row) -> StepRecord:
            layers = list(record.layers)
            (subop,) = layers[layer].works["original"]
            assert subop.channels is not None
            channels = subop.channels.copy()
            channels[row, 5] ^= 1
            layers[layer] = replace(layers[layer], works={"original": (replace(subop, channels=channels),)})
            return replace(record, layers=tuple(layers))

        ran = run(design(), verify=True, spoil=spoil, steps=1)
        assert ran.verifier is not None
        assert words in str(ran.verifier.first_difference)


def test_a_backend_that_loses_a_code_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ModelBackend.block_gemm

    def losing(self: ModelBackend, *operands: Any) -> Any:
        made = honest(self, *operands)
        return replace(made, nonzero=made.nonzero - (np.arange(len(made.nonzero)) == 3))

    monkeypatch.setattr(ModelBackend, "block_gemm", losing)
    with pytest.raises(
        BackendError, match=r"backend 'model' met \d+ codes other than 0 in channel 3, its operands hold"
    ):
        run(design(), steps=1)


@pytest.fixture(scope="module")
def rtl_detector() -> Iterator[RtlDetector]:
    """Two layers a tag memory, so that a run needs several detectors."""
    detector = RtlDetector(geometry=DetectorGeometry(width=16, channels=64, layers=2, count_width=12))
    yield detector
    detector.close()


@pytest.mark.parametrize("changed", [{}, {"interval": 2}, {"tags": "carried"}], ids=str)
def test_a_run_goes_by_the_tags_of_the_detector_in_rtl(
    changed: dict[str, Any], rtl_detector: RtlDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []

    def hold(self: ModelBackend, written: WrittenBack) -> None:
        held.append(written.layer)
        rtl_detector.hold_tags(written)

    monkeypatch.setattr(ModelBackend, "hold_tags", hold, raising=False)
    run(design(**changed))
    assert held == STEPS * [c.name for c in _four_bit_layers()]


def test_a_tag_that_the_detector_in_rtl_does_not_give_stops_the_run(
    rtl_detector: RtlDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ModelBackend, "hold_tags", lambda self, written: rtl_detector.hold_tags(written), raising=False
    )
    honest = LiveTags.of_step

    def flipped(self: LiveTags, step: int, nonzero: Any) -> Any:
        tags = honest(self, step, nonzero).copy()
        tags[7] ^= step == 1
        return tags

    monkeypatch.setattr(LiveTags, "of_step", flipped)
    with pytest.raises(
        BackendError, match=r"layer 'blocks.*detector in RTL lists channels \[.*as sparse, the run goes by"
    ):
        run(design())
    monkeypatch.setattr(LiveTags, "of_step", honest)
    monkeypatch.setattr(Detector, "least", lambda self, pixels: int(0.3 * pixels))  # rounded down, not up
    wrong = rtl_detector.hold_tags

    def told(self: ModelBackend, written: WrittenBack) -> None:
        wrong(replace(written, least=written.least + 1))

    monkeypatch.setattr(ModelBackend, "hold_tags", told, raising=False)
    with pytest.raises(BackendError, match=r"detector in RTL, channel \d+: tag \(1: sparse\) 0, expected 1"):
        run(design())


def test_what_cannot_run_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    program = compiled()
    with pytest.raises(
        PricingError, match=r"design ditto has no arrays for block-scaled layers.*under sq_dm"
    ):
        Machine(program.program, program.arrays, RunSpec(backend="model", chip="tiny", design="ditto"))
    monkeypatch.delattr(ModelBackend, "block_gemm")
    backend = ModelBackend(load_chip("tiny"))
    assert not has_arrays(backend)
    with pytest.raises(
        BackendError, match="backend 'model' has no arrays for block-scaled products, which 4 layers"
    ):
        Machine(
            program.program,
            program.arrays,
            RunSpec(backend="model", chip="tiny", design="sq_dm"),
            backend=backend,
        )


def test_a_dense_machine_skips_nothing_and_a_faster_format_pays() -> None:
    """Same program: FP16 takes four times the multiplier cycles of 4 bits, and no baseline depends on the data."""
    times = {name: run(name) for name in ("fp16_dense", "int4_dense", "int4_vsq", "sq_dm_sparse")}
    cycles = {name: ran.cycles for name, ran in times.items()}
    assert cycles["fp16_dense"] > cycles["int4_dense"] > cycles["sq_dm_sparse"]
    assert cycles["int4_vsq"] >= cycles["int4_dense"]
    dense = [r.charged_cycles for r in times["int4_dense"].records]
    assert len(set(dense)) == 1


def test_channel_first_fetches_a_4_bit_layers_operands_twice() -> None:
    last, first = run("sq_dm"), run("sq_dm_channel_first")
    program = compiled().program
    for layer, command in enumerate(program.layers):
        moved = [ran.records[0].layers[layer].traffic_bytes for ran in (last, first)]
        assert moved[0] is not None
        assert moved[1] is not None
        more = moved[1][0] - moved[0][0]
        if command in _four_bit_layers():
            assert more == program.values[command.operands[2]].elements // 2
        else:
            assert more == 0


@pytest.mark.parametrize("tags", ["carried", pytest.param("fresh", marks=pytest.mark.long)])
def test_heun_s_evaluations_are_steps_of_the_device_each_with_tags_of_its_own(
    tags: str, tmp_path: Path
) -> None:
    """Two Heun steps are three evaluations: the corrector's tags are counted anew, and what is carried on is the evaluation's
    before, not the step's."""
    model = load_model("fashion-ddpm-relu")
    scheduler = HeunDiscreteScheduler.from_config(model.pipe.scheduler.config)
    heun = tmp_path / "heun.toml"
    heun.write_text(f'extends = "sq_dm"\n[hetero]\ntags = "{tags}"\n')
    with accelerated(
        BarePipeline(unet=model.pipe.unet, scheduler=scheduler), backend="model", chip="tiny", design=heun,
        scales=model.scales, verify=True, snr_steps=(0, 1, 2), directory=tmp_path / "run",
    ) as pipe:  # fmt: skip
        pipe(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent")
        generation = pipe.unet.finish()
    assert generation.verdict is not None
    assert generation.verdict.bit_identical
    assert sorted(generation.verdict.snr_by_step) == [0, 1, 2]  # above the floor, or the run had ended
    record = RunRecord(tmp_path / "run")
    evaluations = [record[i] for i in range(len(record))]
    assert len(evaluations) == heun_evaluations(2) == len(scheduler.timesteps)
    at = [float(t) for t in scheduler.timesteps]
    assert at[0] > at[1] == at[2]
    columns = RecordColumns.load(record)
    price = price_run(columns, load_chip("tiny"), load_design(str(heun)))
    assert price.step_cycles.tolist() == [e.charged_cycles for e in evaluations]
    changed = np.zeros(2, np.int64)
    for layer, command in enumerate(columns.program.layers):
        if command.attrs.get("format") != "uint4":
            continue
        works = [e.layers[layer].works["original"][0].channels for e in evaluations]
        counts, held = (
            np.array([w[0] for w in works if w is not None]),
            [w[2] for w in works if w is not None],
        )
        pixels = columns.program.values[command.operands[0]].elements // counts.shape[1]
        recount = (pixels - counts.astype(np.int64)) * 10 >= 3 * pixels
        expected = recount if tags == "fresh" else [np.zeros(counts.shape[1], bool), *recount[:-1]]
        assert np.array_equal(held, expected)
        changed += (recount[1:] != recount[:-1]).sum(1)
    assert changed.all()  # also between the corrector and the step behind it, at the same noise
