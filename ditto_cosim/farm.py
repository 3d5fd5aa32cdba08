# SPDX-License-Identifier: Apache-2.0
"""Runs of many models and seeds, each tried again where it fails, on this machine or on many through Ray.

    for run in farm(plan(models, seeds, folder, options), retries=2, on="local"): …      a `Done` as each ends

Contract
    A run is `ditto generate` in a process of its own, so that nothing of one reaches another; its second attempt goes on where
    the first one stopped (`ditto resume`), or starts again where it cannot. A failed check (exit status 1) is an answer, not
    tried again. A run whose outcome is kept (`farm.json` in its directory) is not run again: a farm that was stopped goes on.
    Elsewhere a run is computed in a folder of the worker's, and comes back whole.
    Two threads at work belong to each run, one of its host and one of its device: half as many runs at a time as cores.

What this file does not do: know what a run is (`host/generation.py`).
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from ditto_cosim import workers
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import write_text

KEPT = "farm.json"
_DITTO = (sys.executable, "-c", "from ditto_cosim.cli import main; main()")
SAID_LINES = 3
CHECK_FAILED = 1

Status = Literal["done", "kept", "check failed", "failed"]


class FarmError(DittoError):
    """A farm that cannot be begun; the message says why."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run."""

    model: str
    seed: int
    directory: Path
    options: tuple[str, ...]
    """Of `ditto generate`."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one."""

    model: str
    seed: int
    directory: str
    status: Status
    attempts: int
    seconds: float
    summary: dict[str, Any]
    """As `ditto generate --json` prints it."""
    error: str = ""


OURS = ("--model", "--seed", "--output", "-o", "--json", "--overwrite", "--view")


def plan(models: Sequence[str], seeds: Sequence[int], folder: Path, options: Sequence[str]) -> list[Planned]:
    """Every model with every seed, each with a directory of its own."""
    if taken := [o for o in options if o.partition("=")[0] in OURS]:
        raise FarmError(
            f"farm: {taken[0]} is said by the farm itself; options behind -- are those of every run"
        )
    if not models or not seeds:
        raise FarmError("farm: no run is asked for; give --model and --seeds, such as --seeds 0:7")
    wanted = {(model, seed): f"{Path(model).name or model}-seed{seed}" for model in models for seed in seeds}
    if len({*wanted.values()}) < len(wanted):
        raise FarmError("farm: two models have one name; their runs would share a directory")
    return [Planned(m, s, folder / name, tuple(options)) for (m, s), name in wanted.items()]


def farm(
    planned: Sequence[Planned],
    retries: int = 2,
    on: str = "local",
    jobs: int = 0,
    command: Sequence[str] = (),
) -> Iterator[Done]:
    """As they end. `command`: what stands for `ditto`."""
    workers.check(on)
    waiting = []
    for run in planned:
        kept = run.directory / KEPT
        if kept.is_file():
            yield replace(_kept(kept), status="kept")
        else:
            waiting.append(run)
    jobs = jobs or (max(1, workers.cores() // 2) if on == "local" else 0)
    state = _Ways(retries + 1, on != "local", tuple(command) or _DITTO)
    for _, (done, packed) in workers.each(_run, state, waiting, on, jobs):
        directory = Path(done.directory)
        if packed is not None:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(directory, filter="data")
        if done.status == "done":
            write_text(directory / KEPT, json.dumps(asdict(done)))
        yield done


def _kept(path: Path) -> Done:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Done)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FarmError(
            f"{path}: not what a farm leaves ({error}); remove it, and that run is made again"
        ) from None


@dataclass(frozen=True, slots=True)
class _Ways:
    attempts: int
    away: bool
    """Of the directory that it is meant for."""
    command: tuple[str, ...]


def _run(ways: _Ways, run: Planned) -> tuple[Done, bytes | None]:
    if not ways.away:
        return _try(ways, run, run.directory), None
    with tempfile.TemporaryDirectory(prefix="ditto-farm-") as folder:
        place = Path(folder) / run.directory.name
        done = _try(ways, run, place)
        if not place.is_dir():
            return done, None
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(place, ".")
        return done, packed.getvalue()


def _try(ways: _Ways, run: Planned, directory: Path) -> Done:
    began, said, status = time.monotonic(), "", 0
    resumes = (directory / "run.json").is_file()
    attempt = 0
    while attempt < ways.attempts:
        attempt += 1
        if resumes:
            arguments = ["resume", str(directory), *trusted(run.options), "--json"]
        else:
            chosen = [
                "--model",
                run.model,
                "--seed",
                str(run.seed),
                "--output",
                str(directory),
                "--overwrite",
            ]
            arguments = ["generate", *chosen, *run.options, "--json"]
        done = subprocess.run(
            [*ways.command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        status, said = done.returncode, "\n".join(done.stderr.strip().splitlines()[-SAID_LINES:])
        if status in (0, CHECK_FAILED):
            break
        # what an attempt left is gone on with once; what cannot be gone on with begins again
        resumes = not resumes and (directory / "run.json").is_file()
    summary = _summary(done.stdout) if status in (0, CHECK_FAILED) else {}
    named: Status = "done" if status == 0 else "check failed" if status == CHECK_FAILED else "failed"
    spent = round(time.monotonic() - began, 2)
    return Done(
        run.model, run.seed, str(run.directory), named, attempt, spent, summary, said if status else ""
    )


def trusted(options: Sequence[str]) -> list[str]:
    """What the farm's own options say of the backend and the device, for a resumed run to hold its record against."""

    def said(*names: str) -> list[str]:
        apart = [b for a, b in pairwise(options) if a in names]
        return apart + [o.partition("=")[2] for o in options if o.partition("=")[0] in names and "=" in o]

    code = [
        word for name in said("--backend", "--cross-check") if ":" in name for word in ("--backend", name)
    ]
    return code + [word for address in said("--connect") for word in ("--connect", address)]


def _summary(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found
