# SPDX-License-Identifier: Apache-2.0
"""One run, one directory; its steps in one file once it has ended; its layers as a table that others read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ditto_cosim.host import rundir
from ditto_cosim.host.rundir import UsedDirectoryError, clear_run, free, refuse_used, run_name
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import RecordError, RunInfo, RunRecord, RunWriter, StepRecord
from ditto_cosim.protocol.shelf import PACKED, Shelf, pack

EMPTY = Program((TensorSpec((1,), "f32"),), {"x": 0}, frozenset(), {}, {"x": 0}, ())
INFO = RunInfo(EMPTY.to_dict(), "m", "tiny", "", "ditto", "model", "mag4", 3, 0, 64)


def a_run(directory: Path, steps: int = 3, outcome: dict[str, str] | None = None) -> Path:
    writer = RunWriter(directory, INFO)
    for step in range(steps):
        np.savez_compressed(directory / f"inputs-{step:04d}.npz", x=np.full(3, step))
        writer.append(StepRecord(step, (), 10 + step))
    if outcome is not None:
        writer.close(outcome)
    return directory


def test_links_in_a_run_s_directory_lead_to_nobody_s_loss(tmp_path: Path) -> None:
    """One that came from elsewhere may hold links; what they lead to is not the run's to remove."""
    other, hostile = a_run(tmp_path / "other", outcome={}), a_run(tmp_path / "hostile")
    (hostile / "part").symlink_to(other)
    (hostile / "layers.d").symlink_to(other)
    (hostile / "report.html").symlink_to(other / "run.json")
    held = sorted(other.iterdir())
    clear_run(hostile)
    assert [p.name for p in hostile.iterdir()] == ["part"]
    a_run(hostile)
    assert sorted(other.iterdir()) == held


def test_packed_run_is_one_file_and_the_same_record(tmp_path: Path) -> None:
    directory = a_run(tmp_path, outcome={})
    before = [step.to_frames() for step in RunRecord(directory)]
    reader = RunRecord(directory)
    pack(directory)
    assert {p.name for p in directory.iterdir()} == {PACKED, "run.json", "outcome.json"}
    for record in (RunRecord(directory), reader):  # one that was opened before it was packed, too
        again = [step.to_frames() for step in record]
        assert all(np.array_equal(a[k], b[k]) for a, b in zip(before, again, strict=True) for k in a), (
            "the record changed"
        )
    assert Shelf(directory).arrays("inputs-0002.npz")["x"].tolist() == [2, 2, 2]
    with zipfile.ZipFile(directory / PACKED) as archive, archive.open("inputs-0001.npz") as member:
        assert np.load(member)["x"].tolist() == [1, 1, 1], "NumPy alone reads it"
    packed = (directory / PACKED).read_bytes()
    pack(directory)
    assert (directory / PACKED).read_bytes() == packed


def test_steps_behind_a_packed_run_go_into_it(tmp_path: Path) -> None:
    directory = pack(a_run(tmp_path, 2, {})).parent
    writer = RunWriter.behind(RunRecord(directory))
    writer.append(StepRecord(2, (), 77))
    assert [step.charged_cycles for step in RunRecord(directory)] == [10, 11, 77]
    pack(directory)
    assert not list(directory.glob("*.npz"))
    assert [step.charged_cycles for step in RunRecord(directory)] == [10, 11, 77]


def test_killed_packing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the archive's appearance and the last file's removal both are there."""
    directory, removed = a_run(tmp_path, outcome={}), 0
    real: Callable[..., None] = Path.unlink

    def dies(path: Path, missing_ok: bool = False) -> None:
        nonlocal removed
        if path.suffix == ".npz":
            removed += 1
            if removed > 2:
                raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            pack(directory)
    assert list(directory.glob("*.npz"))
    assert [step.charged_cycles for step in RunRecord(directory)] == [10, 11, 12]


def test_spoiled_archive_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = pack(a_run(tmp_path, outcome={}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match=r"record\.zip: not a whole archive"):
        RunRecord(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step-0000.npz", b"PK half a file")
    with pytest.raises(RecordError, match=r"record\.zip: step-0000\.npz: not a whole"):
        RunRecord(tmp_path)[0]


def test_used_directory_is_refused_and_says_by_what(tmp_path: Path) -> None:
    refuse_used(tmp_path)
    a_run(tmp_path / "done", outcome={"pictures": "1"})
    with pytest.raises(
        UsedDirectoryError, match=r"a finished run of m; two runs are never mixed\. Say --overwrite"
    ):
        refuse_used(tmp_path / "done")
    a_run(tmp_path / "half", 2)
    words = r"interrupted after 2 of 3 planned steps: it was killed \(`ditto resume .*half`"
    with pytest.raises(UsedDirectoryError, match=words):
        refuse_used(tmp_path / "half")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "report.json").write_text("{}")
    with pytest.raises(UsedDirectoryError, match="holds another run"):
        refuse_used(tmp_path / "odd")


def test_free_directory_is_the_next_without_a_run(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "x"
    assert free(wanted) == wanted
    a_run(wanted)
    assert free(wanted) == tmp_path / "runs" / "x-2"
    a_run(tmp_path / "runs" / "x-2")
    assert free(wanted) == tmp_path / "runs" / "x-3"


def test_clearing_takes_what_runs_leave_and_nothing_else(tmp_path: Path) -> None:
    directory = pack(a_run(tmp_path, outcome={})).parent
    a_run(directory / "stream-2", outcome={})
    for name in (
        "picture-0.png",
        "step-0003.png",
        "report.html",
        "layers.parquet",
        "timeline.pftrace",
        "certificate.json",
    ):
        (directory / name).write_bytes(b"old")
    (directory / "notes.txt").write_text("mine")
    (directory / "data").mkdir()
    clear_run(directory)
    assert {p.name for p in directory.iterdir()} == {"notes.txt", "data"}
    (directory / "picture-0.png").write_bytes(b"mine: no run is here")
    clear_run(directory)
    assert (directory / "picture-0.png").exists()


def test_name_tells_runs_apart() -> None:
    name = run_name("/models/emoji-sd", "my/chip.toml", "ditto", "rtl", 25, 1)
    assert name == "emoji-sd-chip-ditto-rtl-25steps-seed1"
    seen = {
        run_name(m, c, d, b, n, s)
        for m in ("a", "b") for c in ("tiny", "edge") for d in ("itc", "ditto")
        for b in ("rtl", "model") for n in (5, 6) for s in (0, 1)
    }  # fmt: skip
    assert len(seen) == 64
    assert rundir.MARKS[0] == "run.json"
