# SPDX-License-Identifier: Apache-2.0
"""A run that ends early goes on behind its last whole step to the same outputs, records, reports and cycles."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from ditto_cosim.host.pipeline import journal
from ditto_cosim.host.pipeline.run import Generation, Recording, ResumeError, Run, Settings
from ditto_cosim.host.resume import resume_run
from ditto_cosim.host.wire.client import connect
from ditto_cosim.host.zoo import ZooError
from ditto_cosim.protocol import files
from ditto_cosim.protocol.errors import StorageError
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.record import RecordError, RunRecord
from support import families
from support.small_denoiser import STEPS, small
from support.wire_harness import serving

SPEC = RunSpec(backend="model", chip="tiny", design="ditto")


RECIPE: dict[str, Any] = {
    **dict.fromkeys(("folder", "scales", "cache"), None),
    "model": "nobody",
    "wish": {},
    "backend": "model",
    "chip": "tiny",
    "design": "ditto",
    "command": "",
    "policy": "auto",
    "observer": "mse",
    "settings": {},
}


class Stopped(Exception):
    pass


class Session:
    """One process' part of a run: the same denoiser and inputs, a device, a directory."""

    def __init__(self, address: str, directory: Path, policy: str, *, verify: bool = True) -> None:
        self.address, self.directory, self.policy, self.verify = address, directory, policy, verify
        _, self.inputs, self.compiled = small(policy)

    def run(
        self, *, resume: bool = False, stop_at: tuple[int, int] | None = None, spec: RunSpec = SPEC
    ) -> tuple[Generation, list[torch.Tensor]]:
        """Steps to the end, or to an exception in the callback of this (step, layer)."""

        def on_layer(report: LayerReport) -> None:
            if (report.step, report.layer) == stop_at:
                raise Stopped

        outputs: list[torch.Tensor] = []
        with connect(self.address) as device:
            record = Recording(self.directory, "small", resume=resume)
            settings = Settings(spec, self.verify, record, on_layer)
            run = Run(device, self.compiled, settings, STEPS, record)
            for given in self.inputs:
                outputs += run.step(given).values()
            return run.close({"done": True}), outputs


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(f"ipc://{tmp_path_factory.mktemp('s')}/device") as bound:
        yield bound


@pytest.fixture(scope="module", params=["static", "dynamic"])
def whole(
    request: Any, address: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Session, Generation, list[torch.Tensor]]:
    session = Session(address, tmp_path_factory.mktemp("whole"), request.param)
    return session, *session.run()


def records(directory: Path) -> list[dict[str, bytes]]:
    return [{k: v.tobytes() for k, v in step.to_frames().items()} for step in RunRecord(directory)]


def same(a: Generation, b: Generation) -> bool:
    return (a.reports, a.totals, a.steps, a.low_rule, a.verdict) == (
        *(b.reports, b.totals, b.steps),
        *(b.low_rule, b.verdict),
    )


@pytest.mark.parametrize("stop_at", [(0, 0), (1, 0), (2, 5), (3, 3)])
def test_interrupted_run_goes_on_to_the_same_end(
    whole: Any, tmp_path: Path, stop_at: tuple[int, int]
) -> None:
    session, expected, outputs = whole
    part = Session(session.address, tmp_path, session.policy)
    with pytest.raises(Stopped):
        part.run(stop_at=stop_at)
    left = RunRecord(tmp_path)
    assert len(left) == stop_at[0]
    assert left.interrupted == f"{stop_at[0]} of {STEPS} planned steps: it was killed"
    seen, again = part.run(resume=True)
    assert same(seen, expected)
    assert all(torch.equal(a, b) for a, b in zip(again, outputs, strict=True))
    assert records(tmp_path) == records(session.directory)
    assert RunRecord(tmp_path).interrupted == ""


def test_run_interrupted_again_and_again_goes_on(whole: Any, tmp_path: Path) -> None:
    session, expected, _ = whole
    part = Session(session.address, tmp_path, session.policy)
    for step in range(STEPS):
        with pytest.raises(Stopped):
            part.run(resume=step > 0, stop_at=(step, 2))
    assert same(part.run(resume=True)[0], expected)
    assert same(part.run(resume=True)[0], expected)  # a finished run is only told again
    assert records(tmp_path) == records(session.directory)


def test_run_goes_on_without_verification_too(address: str, tmp_path: Path) -> None:
    expected, outputs = Session(address, tmp_path / "whole", "static", verify=False).run()
    part = Session(address, tmp_path / "part", "static", verify=False)
    with pytest.raises(Stopped):
        part.run(stop_at=(2, 1))
    seen, again = part.run(resume=True)
    assert same(seen, expected)
    assert seen.verdict is None
    assert all(torch.equal(a, b) for a, b in zip(again, outputs, strict=True))


@pytest.fixture
def half(address: str, tmp_path: Path) -> Session:
    """A run that was interrupted in its third step."""
    session = Session(address, tmp_path, "static")
    with pytest.raises(Stopped):
        session.run(stop_at=(2, 1))
    return session


def test_resume_refuses_another_question_another_program_and_another_chip(half: Session) -> None:
    other = Session(half.address, half.directory, "static")
    other.inputs = [{"sample": given["sample"] + 1} for given in half.inputs]
    with pytest.raises(ResumeError, match="in step 0 the pipeline asks with another 'sample'"):
        other.run(resume=True)
    with pytest.raises(ResumeError, match=r"is a run of program .*, this model compiles to"):
        Session(half.address, half.directory, "dynamic").run(resume=True)
    with pytest.raises(ResumeError, match="the run began with chip"):
        half.run(resume=True, spec=msgspec.structs.replace(SPEC, chip="edge"))
    changed = {n: (t + 1 if t.dtype == torch.int8 else t) for n, t in half.compiled.constants.items()}
    half.compiled = dataclasses.replace(half.compiled, constants=changed)
    with pytest.raises(ResumeError, match="the run began with weights"):
        half.run(resume=True)


def test_resume_finds_a_changed_output(half: Session) -> None:
    finished = journal.read(half.directory, 1)
    spoiled = finished.outputs["sample"].copy()
    spoiled.reshape(-1)[5] += 1
    journal.write(half.directory, dataclasses.replace(finished, outputs={"sample": spoiled}))
    with pytest.raises(Exception, match="gives another 'sample' than before"):
        half.run(resume=True)


def test_resume_of_a_damaged_record_is_refused_in_a_sentence(half: Session, tmp_path: Path) -> None:
    (half.directory / "outputs-0001.npz").write_bytes(b"PK half a file")
    with pytest.raises(RecordError, match=r"outputs-0001\.npz: cannot be read"):
        half.run(resume=True)
    (half.directory / "outputs-0001.npz").unlink()
    with pytest.raises(RecordError, match=r"outputs-0001\.npz is missing"):
        half.run(resume=True)
    (half.directory / "step-0000.npz").unlink()
    with pytest.raises(RecordError, match=r"step-0000\.npz is missing, later steps are there"):
        RunRecord(half.directory)


def test_resume_takes_no_outputs_that_the_program_does_not_make(half: Session) -> None:
    finished = journal.read(half.directory, 1)
    (name,) = finished.outputs
    for outputs in (
        {name: finished.outputs[name][:, :, :1]},
        {name: finished.outputs[name].astype(np.float64)},
        {"other": finished.outputs[name]},
        {},
    ):
        journal.write(half.directory, dataclasses.replace(finished, outputs=outputs))
        with pytest.raises(ResumeError, match="step 1 left"):
            half.run(resume=True)


def test_full_disk_names_the_path_and_leaves_nothing_half(
    half: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = np.savez_compressed, 0

    def full(path: Any, *args: Any, **arrays: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *args, **arrays)

    before = {p.name: p.read_bytes() for p in half.directory.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        with pytest.raises(StorageError, match=r"outputs-0002\.npz: cannot be written \(No space left"):
            half.run(resume=True)
    after = {p.name: p.read_bytes() for p in half.directory.iterdir()}
    assert after == before | {"inputs-0002.npz": after["inputs-0002.npz"]}
    half.run(resume=True)
    assert RunRecord(half.directory).interrupted == ""


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.write_text(path, "old")
    shutil.copy(path, tmp_path / f"{files.UNFINISHED}999999999-run.json")

    def interrupted() -> None:
        with files.replacing(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    files.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_part_of_a_run_that_had_not_begun_begins(address: str, tmp_path: Path) -> None:
    """A stream or denoiser beside the first one, whose first step the interruption forestalled."""
    seen, _ = Session(address, tmp_path / "stream-2", "static").run(resume=True)
    assert seen.steps == STEPS == len(RunRecord(tmp_path / "stream-2"))


def test_new_run_leaves_nothing_of_older_streams(half: Session) -> None:
    beside = Session(half.address, half.directory / "stream-2", "static")
    with pytest.raises(Stopped):
        beside.run(stop_at=(1, 0))
    with pytest.raises(Stopped):
        half.run(stop_at=(1, 0))
    with pytest.raises(RecordError, match=r"no run\.json"):
        RunRecord(half.directory / "stream-2")


def test_resume_without_a_recipe_is_a_sentence(half: Session, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="only runs of `ditto generate` can be resumed"):
        resume_run(half.directory)
    path = half.directory / "run.json"
    run = json.loads(path.read_text())
    for name, value in (
        *(("wish", {"colour": 3}), ("wish", None), ("wish", {"steps": "\x1b[31m"}), ("model", 10**30)),
        *(("design", -1), ("settings", {"more": 1}), ("cache", 3), ("options", {"lora": 3})),
    ):
        run["info"]["extra"]["recipe"] = {**RECIPE, name: value}
        path.write_text(json.dumps(run))
        with pytest.raises(ResumeError, match="its recipe cannot be read"):
            resume_run(half.directory)
    with pytest.raises(RecordError, match=r"no run\.json"):
        resume_run(tmp_path / "nowhere")


@pytest.mark.parametrize("code", ["evil:Backend", "rtl:/tmp/evil,contract.py:Contract"])
@pytest.mark.parametrize("how", ["backend", "cross_check"])
def test_resume_follows_a_record_to_no_code_that_the_user_does_not_name(
    half: Session, code: str, how: str
) -> None:
    path = half.directory / "run.json"
    run = json.loads(path.read_text())
    told = {"backend": code} if how == "backend" else {"settings": {"cross_check": code}}
    run["info"]["extra"]["recipe"] = {**RECIPE, **told}
    path.write_text(json.dumps(run))
    for trusted in ([], ["other:Backend"]):
        with pytest.raises(ResumeError, match="code that is not ours"):
            resume_run(half.directory, trusted=trusted)
    with pytest.raises(ZooError, match="nobody"):  # the next thing that is looked at
        resume_run(half.directory, trusted=[code])


def test_resume_sends_nothing_to_an_address_that_a_record_alone_names(half: Session) -> None:
    """With a model's folder in its recipe, and keys beside it, it would be given that model's weights."""
    path = half.directory / "run.json"
    run = json.loads(path.read_text())
    for address, asked in (
        ("tcp://192.0.2.7:5555", True),
        ("tcp://127.0.0.1:5555", False),
        ("ipc:///tmp/d", False),
    ):
        run["info"]["extra"]["recipe"] = {**RECIPE, "settings": {"connect_to": address, "keys": "keys"}}
        path.write_text(json.dumps(run))
        with pytest.raises(
            ResumeError if asked else ZooError, match="its device was at" if asked else "nobody"
        ):
            resume_run(half.directory)
    with pytest.raises(ZooError, match="nobody"):
        resume_run(half.directory, connect_to="tcp://192.0.2.7:5555")


def test_new_run_in_an_old_directory_is_a_new_run(half: Session) -> None:
    with pytest.raises(Stopped):
        half.run(stop_at=(1, 0))
    assert len(RunRecord(half.directory)) == 1


def test_verification_of_an_unverified_beginning_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        Session(address, tmp_path, "static", verify=False).run(stop_at=(2, 1))
    with pytest.raises(ResumeError, match="begun without --verify"):
        Session(address, tmp_path, "static").run(resume=True)


@pytest.mark.parametrize("whole_steps", [2, 3, 4])
def test_resume_goes_on_between_full_steps(address: str, tmp_path: Path, whole_steps: int) -> None:
    """A run of period 3 that ended behind an increment, behind a full step's eve, behind a full step."""
    compiled = families.compiled("dit-icc")
    inputs = families.calibrated("dit-icc")[1] + families.calibrated("dit-icc")[1]

    def run(
        directory: Path, stop: int | None = None, *, resume: bool = False
    ) -> tuple[Generation, list[Any]]:
        outputs: list[torch.Tensor] = []
        with connect(address) as device:
            record = Recording(directory, "dit", resume=resume)
            run = Run(device, compiled, Settings(SPEC, True, record), len(inputs), record)
            for given in inputs[:stop]:
                outputs += run.step(given).values()
            return run.close({} if stop is None else {"interrupted": "here"}), outputs

    seen, expected = run(tmp_path / "whole")
    run(tmp_path / "part", whole_steps)
    again, outputs = run(tmp_path / "part", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert (again.totals, again.reports) == (seen.totals, seen.reports)
    assert again.verdict == seen.verdict
    assert records(tmp_path / "part") == records(tmp_path / "whole")
