# SPDX-License-Identifier: Apache-2.0
"""A farm's runs are tried again, gone on with and kept; a script stands for `ditto` here, and does as `ditto` does.

With the real one, and on Ray: `tests/e2e/test_farm.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.farm import FarmError, farm, plan, trusted

STANDS_IN = """
import json, sys
from pathlib import Path
log, how = Path(sys.argv[1]), sys.argv[2]
what, rest = sys.argv[3], sys.argv[4:]
place = Path(rest[0] if what == "resume" else rest[rest.index("--output") + 1])
with log.open("a") as file:
    file.write(f"{what} {place.name}\\n")
tried = sum(line.split()[1] == place.name for line in log.read_text().splitlines())
if how == "check":
    sys.exit(1)
if how == "never" or (how == "third" and tried < 3):
    place.mkdir(parents=True, exist_ok=True)
    (place / "run.json").write_text("{}")
    print(f"error: attempt {tried} is lost", file=sys.stderr)
    sys.exit(2)
place.mkdir(parents=True, exist_ok=True)
print(json.dumps({"cycles": 7, "seed": place.name}))
"""


def stand_in(folder: Path, how: str) -> tuple[str, ...]:
    script = folder / "ditto.py"
    script.write_text(STANDS_IN)
    return sys.executable, str(script), str(folder / "log"), how


def test_every_model_and_seed_has_a_run_of_its_own(tmp_path: Path) -> None:
    planned = plan(["a", "./b"], [0, 3], tmp_path, ["--backend", "model"])
    assert [p.directory.name for p in planned] == ["a-seed0", "a-seed3", "b-seed0", "b-seed3"]
    found = list(farm(planned, command=stand_in(tmp_path, "well"), jobs=2))
    assert {d.directory for d in found} == {str(p.directory) for p in planned}
    assert all(d.status == "done" and d.attempts == 1 and d.summary["cycles"] == 7 for d in found)
    again = list(farm(planned, command=stand_in(tmp_path, "never")))
    assert {d.status for d in again} == {"kept"}
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_a_run_that_fails_is_gone_on_with_and_then_begun_again(tmp_path: Path) -> None:
    planned = plan(["a"], [0], tmp_path, [])
    (done,) = farm(planned, retries=2, command=stand_in(tmp_path, "third"))
    assert (done.status, done.attempts) == ("done", 3)
    assert (tmp_path / "log").read_text().split() == [
        *("generate", "a-seed0"),
        *("resume", "a-seed0"),
        *("generate", "a-seed0"),
    ]


def test_a_run_that_always_fails_says_its_last_words_and_the_others_go_on(tmp_path: Path) -> None:
    (done,) = farm(plan(["a"], [0], tmp_path, []), retries=1, command=stand_in(tmp_path, "never"))
    assert (done.status, done.attempts) == ("failed", 2)
    assert "attempt 2 is lost" in done.error
    assert not (Path(done.directory) / "farm.json").exists()


def test_a_failed_check_is_an_answer(tmp_path: Path) -> None:
    (done,) = farm(plan(["a"], [0], tmp_path, []), retries=5, command=stand_in(tmp_path, "check"))
    assert (done.status, done.attempts) == ("check failed", 1)


def test_what_comes_back_from_elsewhere_is_the_run_whole(tmp_path: Path) -> None:
    """The worker's side of a farm on Ray, without Ray."""
    import io
    import tarfile

    from ditto_cosim.farm import _run, _Ways

    (planned,) = plan(["a"], [0], tmp_path, [])
    done, packed = _run(_Ways(3, True, stand_in(tmp_path, "third")), planned)
    assert done.status == "done"
    assert packed is not None
    assert not planned.directory.exists()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert "./run.json" in archive.getnames()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seeds", "7:0"), "upwards"),
        (("--seeds", "a"), "whole numbers"),
        (("--", "--seed", "3"), "said by the farm itself"),
        (("--model", "x/a", "--model", "y/a"), "one name"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(root, ["farm", "-o", str(tmp_path / "f"), *arguments])
    assert isinstance(done.exception, FarmError)
    assert said in str(done.exception)
    assert not (tmp_path / "f").exists()


def test_farm_prints_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditto_cosim.farm._DITTO", stand_in(tmp_path, "well"))
    done = CliRunner().invoke(root, ["farm", "--seeds", "0:1", "-o", str(tmp_path / "f"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [r["seed"] for r in found["runs"]] == [0, 1]
    assert found["failed"] == 0


def test_a_run_on_code_of_the_user_s_own_is_gone_on_with_by_its_name() -> None:
    """Which `ditto resume` asks for, since a record may be anybody's."""
    assert trusted(["--backend", "model", "--steps", "2"]) == []
    said = ["--backend", "mine:Board", "--cross-check=rtl:/src,c.py:Contract"]
    assert trusted(said) == ["--backend", "mine:Board", "--backend", "rtl:/src,c.py:Contract"]
    assert trusted(["--connect", "tcp://far:5"]) == ["--connect", "tcp://far:5"]
