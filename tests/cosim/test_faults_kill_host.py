# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the host at random points: every completed step survives, files are whole, and the run goes on to the same end.

Here a sampler of a few steps, many times; `ditto` itself, all its writing commands, in the long test (`DITTO_KILLS=20` takes
fewer).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol.files import UNFINISHED
from ditto_cosim.protocol.kept import cache_dir
from ditto_cosim.protocol.record import RunRecord
from support.zygote import Zygote

KILLS = 20
COMMAND_KILLS = int(os.environ.get("DITTO_KILLS", "200"))


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


@pytest.mark.parametrize(
    ("job", "number", "says"),
    [
        ("generate", signal.SIGINT, "KeyboardInterrupt"),
        pytest.param("generate", signal.SIGTERM, "", marks=pytest.mark.long),
        pytest.param("generate_in_little_memory", 0, "MemoryError", marks=pytest.mark.long),
        ("generate_on_a_full_disk", 0, "cannot be written"),
    ],
)
def test_run_that_ends_for_another_reason_goes_on_too(
    place: Place, tmp_path: Path, job: str, number: int, says: str
) -> None:
    """A signal that can be caught, no memory, no room."""
    child = place.zygote.start(job, place.address, str(tmp_path), False)
    if number:
        while not (tmp_path / "step-0002.npz").exists():
            time.sleep(0.001)
        child.kill(signal.Signals(number))
    assert child.wait() != 0
    assert says in (told := place.zygote.log.read_text()[-3000:]), told
    assert 2 <= whole_so_far(tmp_path) < 8
    assert RunRecord(tmp_path).interrupted
    finished(place.zygote, "generate", place.address, str(tmp_path), True)
    assert contents(tmp_path) == contents(place.calm)


def test_killed_writers_leave_whole_files(place: Place, tmp_path: Path) -> None:
    rng = random.Random(7)
    for job, argument, names in (
        ("calibrate", (), ["scales.json"]),
        ("sweep", (str(place.calm),), ["sweep.json"]),
        ("report", (str(place.calm),), ["report.json", "report.html", "timeline.pftrace"]),
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


# --- the commands themselves ------------------------------------------------------------------------------------------

GENERATE = ("--backend", "model", "--chip", "tiny", "--steps", "3", "--seed", "4", "--verify", "--json")


@dataclass
class Commands:
    zygote: Zygote
    programs: Path
    """Where these commands, and no others, keep compiled programs."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    own, shared = folder / "cache", cache_dir("programs").parent
    own.mkdir()
    for kind in shared.iterdir() if shared.is_dir() else ():
        if kind.name != "programs":
            (own / kind.name).symlink_to(kind)  # compiled code
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DITTO_PROGRAMS", "on")
        patch.setenv("DITTO_CACHE", str(own))
        with Zygote("support.killed_commands", folder / "log") as zygote:
            yield Commands(zygote, own / "programs")


def kept(directory: Path) -> tuple[object, ...]:
    record = RunRecord(directory)
    report = json.loads((directory / "report.json").read_text())
    steps = [{k: v.tobytes() for k, v in step.to_frames().items()} for step in record]
    return steps, (directory / "picture-0.png").read_bytes(), report["total_cycles"], report["verdict"]


@dataclass
class Killer:
    """Kills jobs behind a random share of their work, however slow the machine is now."""

    zygote: Zygote
    rng: random.Random
    kills: int = 0
    cpu_s: float = 0.0
    """Of the processor, that the job took when nobody killed it."""

    def spare(self, function: str, *arguments: object) -> None:
        """Lets it come to its end."""
        child = self.zygote.start(function, *arguments)
        assert child.wait() == 0, self.zygote.log.read_text()[-3000:]
        self.cpu_s = child.cpu_s

    def kill(self, function: str, *arguments: object) -> None:
        """Counts if it was killed before its end."""
        child, at = self.zygote.start(function, *arguments), self.rng.random() * self.cpu_s
        while child.spent_s() < at:
            time.sleep(0.01)
        time.sleep(self.rng.random() * 0.05)
        child.kill()
        self.kills += child.wait() == -9
        print(f"{self.kills} kills: {function} {' '.join(map(str, arguments[:1]))}", flush=True)


@pytest.fixture
def killer(commands: Commands) -> Killer:
    return Killer(commands.zygote, random.Random(200))


@pytest.fixture(scope="module")
def calm(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody killed, and what it took."""
    run, spared = tmp_path_factory.mktemp("calm") / "run", Killer(commands.zygote, random.Random())
    spared.spare("ditto", "generate", *GENERATE, "-o", str(run))
    return run, spared.cpu_s


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)  # most of the commands come to their end, too
def test_generate_and_resume_killed_again_and_again_lose_nothing(
    commands: Commands, killer: Killer, calm: tuple[Path, float], tmp_path: Path
) -> None:
    expected, killer.cpu_s = kept(calm[0]), calm[1]
    lives = 0
    while killer.kills < COMMAND_KILLS * 6 // 10:
        run = tmp_path / f"run{lives}"
        lives += 1
        if lives % 2:  # it is compiled, and kept, between kills too
            shutil.rmtree(commands.programs, ignore_errors=True)
        for _ in range(8):
            if (run / "run.json").exists():
                done = len(RunRecord(run))
                killer.kill("ditto", "resume", str(run), "--json")
                assert len(RunRecord(run)) >= done
            else:
                killer.kill("ditto", "generate", *GENERATE, "-o", str(run))
        if not (run / "run.json").exists():
            finished(commands.zygote, "ditto", "generate", *GENERATE, "-o", str(run))
        finished(commands.zygote, "ditto", "resume", str(run), "--json")
        assert kept(run) == expected


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", ["calibrate", "sweep"])
def test_file_that_a_killed_command_writes_is_whole(
    command: str, killer: Killer, calm: tuple[Path, float], tmp_path: Path
) -> None:
    scales, plot = tmp_path / "scales.json", tmp_path / "sweep.png"
    target, arguments = {
        "calibrate": (scales, ("fashion-ddpm", "--steps", "3", "--batch", "1", "-o", str(scales))),
        "sweep": (plot, (str(calm[0]), "--json", "-o", str(plot))),
    }[command]
    killer.spare("ditto", command, *arguments)
    expected = target.read_bytes()
    while killer.kills < COMMAND_KILLS // 10:
        killer.kill("ditto", command, *arguments)
        assert target.read_bytes() == expected


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_page_that_a_killed_report_writes_is_whole(killer: Killer, tmp_path: Path) -> None:
    page, small = tmp_path / "page", tmp_path / "small"
    with LocalDevice(["--backend", "model", "--chip", "tiny"]) as device:
        finished(killer.zygote, "generate", device.link.address, str(small), False)
    killer.spare("report", str(small), str(page))
    texts = {p.name: p.read_bytes() for p in page.iterdir()}
    while killer.kills < COMMAND_KILLS // 10:
        killer.kill("report", str(small), str(page))
        assert {p.name: p.read_bytes() for p in page.iterdir() if UNFINISHED not in p.name} == texts


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_training_killed_again_and_again_goes_on(killer: Killer, tmp_path: Path) -> None:
    import torch

    weights, steps = tmp_path / "weights", 0
    killer.spare("train", str(tmp_path / "calm-weights"), 3)
    while killer.kills < COMMAND_KILLS // 10:
        killer.kill("train", str(weights), 1000)
        if (weights / "checkpoint.pt").exists():
            now = torch.load(weights / "checkpoint.pt", weights_only=True)["step"]
            assert now >= steps
            steps = now
    assert steps > 0
