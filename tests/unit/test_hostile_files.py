# SPDX-License-Identifier: Apache-2.0
"""Files that somebody made to hurt: what reads them answers in a sentence, and takes no more memory than it says."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditto_cosim import toolchain
from ditto_cosim.device.chips import Chip, ChipError, load_chip
from ditto_cosim.device.designs.base import Design, DesignError, load_design
from ditto_cosim.farm import FarmError, farm, plan
from ditto_cosim.host.compiler.plan import PlanError, load_plan
from ditto_cosim.host.compiler.quantize import QuantizationError, load_grids
from ditto_cosim.protocol import files
from ditto_cosim.protocol.errors import DeviceError, printable, revive
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import RecordError, RunInfo, RunRecord, RunWriter, StepRecord

EMPTY = Program((TensorSpec((1,), "f32"),), {"x": 0}, frozenset(), {}, {"x": 0}, ())
INFO = RunInfo(EMPTY.to_dict(), "m", "tiny", "", "ditto", "model", "mag4", 3, 0, 64)


def a_run(directory: Path) -> Path:
    writer = RunWriter(directory, INFO)
    for step in range(3):
        writer.append(StepRecord(step, (), 10))
    return directory


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("step.npy", "w") as entry:
        for _ in range(64):
            entry.write(bytes(1 << 20))


def liar(path: Path) -> None:
    """A header that claims 2⁶⁰ numbers."""
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846976,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("step.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def pickled(path: Path) -> None:
    np.savez(path, step=np.array([object()]))


def other_types(path: Path) -> None:
    np.savez(
        path, step=np.zeros(2, np.float32), layers=np.zeros((1, 2)), works=np.zeros(3), slots=np.zeros(1)
    )


@pytest.mark.parametrize("spoil", [torn, bomb, liar, pickled, other_types])
def test_hostile_step_is_a_sentence_that_names_it(
    tmp_path: Path, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ARRAYS_BYTES", 32 << 20)
    run = a_run(tmp_path / "run")
    spoil(run / "step-0001.npz")
    with pytest.raises(RecordError, match=r"step-0001\.npz"):
        list(RunRecord(run))


def test_missing_middle_step_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "step-0001.npz").unlink()
    with pytest.raises(RecordError, match=r"step-0001\.npz is missing"):
        RunRecord(run)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\x00", json.dumps({"version": 1e400})])
def test_hostile_description_is_a_sentence(tmp_path: Path, text: str) -> None:
    run = a_run(tmp_path / "run")
    (run / "run.json").write_text(text)
    with pytest.raises(RecordError, match=r"run\.json"):
        RunRecord(run)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("program", "values", 0), [[1.5, 2], "f32"]),
        (("program", "values", 0), [[1, 2], "\x1b[31m"]),
        (("program", "commands"), None),
        (("program", "skip_summation"), [True]),
        (("program", "static_inputs"), "x"),
        (("program",), []),
        (("steps",), None),
        (("seed",), "\x1b[31m"),
        (("clock_hz",), 1.5),
        (("extra",), "x"),
        (("digests",), {"rtl": 3}),
    ],
)
def test_hostile_run_is_a_sentence(tmp_path: Path, where: tuple[str | int, ...], value: object) -> None:
    run = a_run(tmp_path / "run")
    data = json.loads((run / "run.json").read_text())
    within = data["info"]
    for name in where[:-1]:
        within = within[name]
    within[where[-1]] = value
    (run / "run.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match=r"run\.json: [^\x1b]*$"):
        RunRecord(run)


def test_names_of_a_hostile_run_reach_no_terminal(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    data = json.loads((run / "run.json").read_text())
    data["info"] |= dict.fromkeys(("model", "chip", "design", "backend", "low_rule"), "\x1b]0;evil\x07")
    (run / "run.json").write_text(json.dumps(data))
    info = RunRecord(run).info
    assert (info.model, info.chip, info.design, info.backend) == ("\\x1b]0;evil\\x07",) * 4
    relu = ["relu", "\x1b[31m", [0], [1], {}]
    data["info"]["program"] |= {"values": [[[1], "f32"]] * 2, "commands": [relu]}
    (run / "run.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match="cannot be printed"):
        RunRecord(run)


def test_control_characters_reach_no_terminal() -> None:
    assert printable("a\x1b]0;evil\x07\x9b31m\u202eb\nc") == "a\\x1b]0;evil\\x07\\x9b31m\\u202eb\nc"
    error = revive("DeviceError", "\x1b[2J", "\x1b[31m")
    assert isinstance(error, DeviceError)
    assert str(error) == "\\x1b[2J\n\\x1b[31m"


def test_cache_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITTO_CACHE", str(tmp_path))
    (tmp_path / "rtl").mkdir()
    assert toolchain.cache_dir() == tmp_path / "rtl"
    (tmp_path / "rtl").chmod(0o777)
    with pytest.raises(toolchain.BuildError, match="others may write to it"):
        toolchain.cache_dir()
    (tmp_path / "rtl").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(tmp_path / "rtl", 4711, -1)
    else:
        monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(toolchain.BuildError, match="belongs to another user"):
        toolchain.cache_dir()


def spoilt(base: Path, to: Path, where: tuple[str | int, ...], value: object) -> Path:
    """A JSON file with another value somewhere."""
    data = json.loads(base.read_text())
    within = data
    for name in where[:-1]:
        within = within[name]
    within[where[-1]] = value
    to.write_text(json.dumps(data))
    return to


GRID = {"policy": "static", "scales": [0.1], "zero_points": [3], "symmetric": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zero_points", [3.7]),
        ("zero_points", [1e400]),
        ("zero_points", [300]),
        ("scales", [float("nan")]),
        ("scales", [0.1, 0.2]),
        ("starts", [float("nan")]),
        ("starts", [-1.0]),
        ("hysteresis", -1.0),
        ("channels", [0.0]),
        ("policy", "\x1b[31m"),
        ("scales", "x"),
    ],
)
def test_hostile_scales_are_a_sentence(tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / "good.json").write_text(json.dumps({"conv": GRID}))
    assert load_grids(tmp_path / "good.json")["conv"].zero_points == (3,)
    bad = spoilt(tmp_path / "good.json", tmp_path / "scales.json", ("conv", name), value)
    with pytest.raises(QuantizationError, match=r"scales\.json"):
        load_grids(bad)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\x00", "[]", '{"layers": {"conv": 7}}'])
def test_hostile_scales_and_plans_are_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(QuantizationError, match=r"it\.json"):
        load_grids(tmp_path / "it.json")
    with pytest.raises(PlanError, match=r"it\.json"):
        load_plan(tmp_path / "it.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clock_ghz", 2**63),
        ("vector_depth_cycles", float("nan")),
        ("tiles", -1),
        ("tiles", "x"),
        ("buffer_bytes", None),
        ("dram", 3),
        ("geometry", {}),
        ("timing", "never"),
    ],
)
def test_hostile_chip_in_a_record_is_a_sentence(name: str, value: object) -> None:
    tiny = load_chip("tiny")
    assert Chip.from_description(tiny.description, "record") == tiny
    with pytest.raises(ChipError, match="record"):
        Chip.from_description({**tiny.description, name: value}, "record")


@pytest.mark.parametrize(
    "data", [b"\xff\xfea = 1", b"\x00", b"a = " + b"[" * 100_000, b"extends = 'it.toml'"]
)
def test_hostile_chip_and_design_files_are_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "it.toml").write_bytes(data)
    with pytest.raises(ChipError, match=r"it\.toml"):
        load_chip(tmp_path / "it.toml")
    with pytest.raises(DesignError, match=r"it\.toml"):
        load_design(tmp_path / "it.toml")


def test_hostile_design_in_a_record_is_a_sentence() -> None:
    itc = load_design("itc")
    assert Design.from_description(itc.description, "record") == itc
    for name, value in (("multipliers", 10**30), ("power_watts", float("nan")), ("policy", [])):
        with pytest.raises(DesignError, match="record"):
            Design.from_description({**itc.description, name: value}, "record")


def test_texts_of_a_hostile_chip_and_design_reach_no_terminal(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    data = json.loads((run / "run.json").read_text())
    data["info"]["design_description"] = {"title": "\x1b[31m"}
    data["info"]["chip_description"] = {"name": "\x1b[31m", "dram": {"mapping": ["\x07"]}}
    (run / "run.json").write_text(json.dumps(data))
    info = RunRecord(run).info
    assert info.design_description == {"title": "\\x1b[31m"}
    assert info.chip_description == {"name": "\\x1b[31m", "dram": {"mapping": ["\\x07"]}}


def test_farm_s_file_that_is_not_one_is_a_sentence(tmp_path: Path) -> None:
    (planned,) = plan(["a"], [0], tmp_path, [])
    for text in ("[" * 100_000, "{}", '{"model": 3}'):
        planned.directory.mkdir(exist_ok=True)
        (planned.directory / "farm.json").write_text(text)
        with pytest.raises(FarmError, match=r"farm\.json: not what a farm leaves"):
            list(farm([planned]))
