"""kill -9 of the host at random points: every completed step survives, files are whole, and the run goes on to the same end.

Here a sampler of a few steps, many times; `ditto` itself, all its writing commands, in the long test.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol.files import UNFINISHED
from ditto_cosim.protocol.record import RunRecord
from support.zygote import Zygote

KILLS = 20
COMMAND_KILLS = 200


@dataclass
class Place:
    zygote: Zygote
    address: str
    calm: Path
    """A run that nobody disturbed."""
    took_s: float


def finished(zygote: Zygote, function: str, *arguments: object) -> float:
    """Runs a job to its end; how long it took."""
    began = time.monotonic()
    assert zygote.start(function, *arguments).wait() == 0, zygote.log.read_text()[-3000:]
    return time.monotonic() - began


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("kills")
    # The device is somebody else's: the host's death is the matter here.
    with (
        LocalDevice(["--backend", "model", "--chip", "tiny", "--idle-s", "5"]) as device,
        Zygote("support.killed_jobs", folder / "log") as zygote,
    ):
        address, calm = device.link.address, folder / "calm"
        finished(zygote, "generate", address, str(folder / "warm"), False)
        took_s = finished(zygote, "generate", address, str(calm), False)
        yield Place(zygote, address, calm, took_s)


def contents(directory: Path) -> dict[str, object]:
    """All that a run leaves and that must not depend on what happened to it."""
    record = RunRecord(directory)
    steps = [{k: v.tobytes() for k, v in step.to_frames().items()} for step in record]
    picture = (directory / "picture.npy").read_bytes()
    info = json.loads((directory / "run.json").read_text())
    return {"steps": steps, "picture": picture, "outcome": record.outcome, "info": info}


def whole_so_far(directory: Path) -> int:
    """How many steps are complete; each can be read, none is missing in between."""
    if not (directory / "run.json").exists():
        assert not list(directory.glob("step-*")) if directory.exists() else True
        return 0
    return len(list(RunRecord(directory)))


def test_run_killed_anywhere_and_resumed_is_the_same_run(place: Place, tmp_path: Path) -> None:
    rng, kills, lives = random.Random(20), 0, 0
    while kills < KILLS:
        directory = tmp_path / str(lives)
        lives += 1
        resume, done = False, 0
        while True:
            child = place.zygote.start("generate", place.address, str(directory), resume)
            ends = rng.random() < 0.1 or kills == KILLS
            if not ends:
                time.sleep(rng.random() * place.took_s)
                child.kill()
            status = child.wait()
            complete = whole_so_far(directory)
            assert complete >= done, "a completed step was lost"
            done, resume = complete, (directory / "run.json").exists()
            if status == 0:
                break
            assert status == -9, place.zygote.log.read_text()[-3000:]
            kills += 1
        assert contents(directory) == contents(place.calm)
        assert not list(directory.glob(f"{UNFINISHED}*"))


def test_killed_writers_leave_whole_files(place: Place, tmp_path: Path) -> None:
    rng = random.Random(7)
    for job, argument, names in (
        ("calibrate", (), ["scales.json"]),
        ("sweep", (str(place.calm),), ["sweep.json"]),
        ("report", (str(place.calm),), ["report.json", "report.html", "timeline.json"]),
    ):
        folder = tmp_path / job
        target = str(folder if job == "report" else folder / names[0])
        took_s = finished(place.zygote, job, *argument, target)
        expected = {n: (folder / n).read_bytes() for n in names}
        for _ in range(2):
            (folder / names[0]).unlink()
            child = place.zygote.start(job, *argument, target)
            time.sleep(took_s * (0.5 + rng.random() / 2))
            child.kill()
            child.wait()
            for name in names:
                assert not (folder / name).exists() or (folder / name).read_bytes() == expected[name]
            finished(place.zygote, job, *argument, target)
            assert {n: (folder / n).read_bytes() for n in names} == expected
