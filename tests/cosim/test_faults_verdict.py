# SPDX-License-Identifier: Apache-2.0
"""A device that computes right and delivers something else: no lie about outputs, record, reports or totals is verified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ditto_cosim.device.core import StepResult
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host.pipeline.run import INPUTS, Generation, Recording, Run, Settings, VerificationError
from ditto_cosim.host.wire.client import connect
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.record import LayerRecord, RunRecord, StepRecord, SubOp
from support.small_denoiser import STEPS, small
from support.wire_harness import serving

SPEC = RunSpec(backend="model", chip="tiny", design="ditto")
AT = 2
"""The step in which the device lies."""


class Honest(Machine):
    """The machine, with places to lie."""

    def outputs(self, arrays: dict[str, Any]) -> dict[str, Any]:
        return arrays

    def record(self, record: StepRecord) -> StepRecord:
        return record

    def report(self, report: LayerReport) -> LayerReport:
        return report

    def step(self, step: int, inputs: Mapping[str, Any], **how: Any) -> StepResult:
        lies, tell = step == AT, how["on_layer"]
        if not lies:
            return super().step(step, inputs, **how)
        result = super().step(step, inputs, **{**how, "on_layer": lambda r: tell(self.report(r))})
        assert result.record is not None
        return StepResult(
            self.outputs({n: a.copy() for n, a in result.outputs.items()}),
            self.record(result.record),
            self.told_totals(dict(result.totals)),
        )

    def told_totals(self, totals: dict[str, int]) -> dict[str, int]:
        return totals


def generate(
    address: str, factory: Callable[..., Any], design: str = "ditto", directory: Path | None = None
) -> Generation:
    _, inputs, compiled = small()
    with serving(address, factory=factory), connect(address) as device:
        settings = Settings(msgspec.structs.replace(SPEC, design=design), verify=True)
        recording = None if directory is None else Recording(directory, "small", 0)
        run = Run(device, compiled, settings, STEPS, recording)
        try:
            for given in inputs:
                run.step(given)
        except VerificationError:
            assert run.seen.verdict is not None
            assert not run.seen.verdict.bit_identical
            raise
        return run.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/device"


def spoil_output(self: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    flat = arrays["sample"].reshape(-1)
    flat[7] = np.nextafter(flat[7], np.float32(9))
    return arrays


def change_layer(change: Callable[[LayerRecord], LayerRecord], at: int = 1) -> Callable[..., StepRecord]:
    def record(self: Any, step: StepRecord) -> StepRecord:
        layers = list(step.layers)
        layers[at] = change(layers[at])
        return dataclasses.replace(step, layers=tuple(layers))

    return record


def change_work(mode: Mode, change: Callable[[SubOp], SubOp]) -> Callable[..., StepRecord]:
    def layer(record: LayerRecord) -> LayerRecord:
        first, *others = record.works[mode]
        return dataclasses.replace(record, works={**record.works, mode: (change(first), *others)})

    return change_layer(layer)


def one_slot_more(work: SubOp) -> SubOp:
    assert work.slots is not None
    slots = work.slots.copy()
    slots[0, 3] += 1
    return dataclasses.replace(work, slots=slots)


LIES: dict[str, tuple[str, Callable[..., Any], str]] = {
    "output": ("outputs", spoil_output, r"delivered output 'sample'"),
    "slots": ("record", change_work("temporal", one_slot_more), r"'to_qkv' \(temporal\), slots of row 3"),
    "slots of a mode that did not run": (
        "record",
        change_work("spatial", one_slot_more),
        r"'to_qkv' \(spatial\), slots of row 3",
    ),
    "classes": (
        "record",
        change_work("original", lambda w: dataclasses.replace(w, zero=w.zero + 1, low=w.low - 1)),
        r"'to_qkv' \(original\), elements",
    ),
    "forced": ("record", change_layer(lambda r: dataclasses.replace(r, forced=True)), "base mode forced"),
    "mode": ("record", change_layer(lambda r: dataclasses.replace(r, mode="spatial")), "mode"),
    "measured cycles": (
        "record",
        change_layer(lambda r: dataclasses.replace(r, measured_cycles=5)),
        "measured lane cycles",
    ),
    "charged cycles": (
        "record",
        change_layer(lambda r: dataclasses.replace(r, charged_cycles=r.charged_cycles + 1)),
        r"report of layer 'to_qkv', cycles",
    ),
    "traffic": (
        "record",
        change_layer(lambda r: dataclasses.replace(r, traffic_bytes=(1, 2, 3, 4, 5, 6))),
        "traffic",
    ),
    "step cycles": (
        "record",
        lambda self, r: dataclasses.replace(r, charged_cycles=r.charged_cycles + 1),
        "totals",
    ),
    "step cycles fewer than its layers'": (
        "record",
        lambda self, r: dataclasses.replace(r, charged_cycles=5),
        "cycles of the step",
    ),
    "a layer less": (
        "record",
        lambda self, r: dataclasses.replace(r, layers=r.layers[1:]),
        "each of 6 once",
    ),
    "totals": ("told_totals", lambda self, t: t | {"cycles": t["cycles"] - 1}, "totals"),
    "report": (
        "report",
        lambda self, r: msgspec.structs.replace(r, slots=r.slots + (r.layer == 1)),
        r"report of layer 'to_qkv', slots",
    ),
    "lane cycles": (
        "report",
        lambda self, r: msgspec.structs.replace(r, lane_cycles=r.lane_cycles - (r.layer == 1)),
        r"report of layer 'to_qkv', lane_cycles",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_verdict_finds_a_device_that_delivers_something_else(lie: str, address: str) -> None:
    place, told, words = LIES[lie]
    factory = type("Lying", (Honest,), {place: told})
    with pytest.raises(VerificationError, match=words) as caught:
        generate(address, factory)
    assert f"step {AT}" in str(caught.value)


def test_verdict_that_fails_leaves_what_the_step_was_asked(address: str, tmp_path: Path) -> None:
    """`ditto trace` computes the step again from it."""
    place, told, words = LIES["report"]
    with pytest.raises(VerificationError, match=words):
        generate(address, type("Lying", (Honest,), {place: told}), directory=tmp_path)
    record = RunRecord(tmp_path)
    assert len(record) == AT
    assert record.shelf.has(INPUTS.format(AT))


@pytest.mark.parametrize("design", ["ditto", "ditto_plus", "itc"])
def test_verdict_says_what_it_covers_and_what_not(design: str, address: str) -> None:
    seen = generate(address, Honest, design)
    verdict = seen.verdict
    assert verdict is not None
    assert verdict.bit_identical, str(verdict.first_difference)
    assert verdict.delivered_checked == STEPS
    assert verdict.layers_checked == STEPS * 6
    assert any("DRAM" in text for text in verdict.not_checked)
    assert any("cycles of the lanes" in text for text in verdict.not_checked) == (design == "itc")
    assert verdict.digests.keys() >= {"program", "weights", "rtl", "chip", "contract"}
    assert all(verdict.digests[name] for name in ("program", "weights", "chip", "contract"))


def test_verdict_follows_a_changing_device_only_with_the_same_weights(address: str) -> None:
    one, other = generate(address, Honest).verdict, generate(address, Honest).verdict
    assert one is not None
    assert other is not None
    assert one.digests == other.digests
