# SPDX-License-Identifier: Apache-2.0
"""One run, one directory: whether one is used, what a run leaves in it, and names that say which run it is.

Interface
    run_name(model, chip, design, backend, steps, seed)    fashion-ddpm-paper_twin-ditto-rtl-50steps-seed0
    free(directory) -> Path                                 the directory, or it with -2, -3, … if a run is in it
    refuse_used(directory)                                  an error in a sentence if a run is in it
    clear_run(directory)                                    removes what a run leaves, and nothing else

A directory is used if a run's record or report is in it. What this file does not do: write any of it.
"""

from __future__ import annotations

import shutil
from itertools import chain, count
from pathlib import Path

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.record import OUTCOME, RUN, RecordError, RunRecord
from ditto_cosim.protocol.shelf import clear

MARKS = (RUN, "report.json")
LEFT = (
    OUTCOME, "certificate.json", "device.log", "factors.safetensors", "layers.*", "report.*", "timeline.*", "prices.json",
    "transactions.pftrace", "picture-*.png", "fp32-*.png",
    "step-*.png", "grid.png", "strip.png", "compare.png", "analysis.json", "analysis-*.png",
)  # fmt: skip
"""What a run, and what is asked of it later, leaves beside its steps and `MARKS`."""


class UsedDirectoryError(DittoError):
    """Two runs would be mixed."""


def run_name(model: str, chip: str, design: str, backend: str, steps: int, seed: int) -> str:
    """Everything that tells two runs of a user apart; paths lose their folders and suffixes."""
    parts = (Path(model).name, Path(chip).stem, Path(design).stem, backend, f"{steps}steps", f"seed{seed}")
    return "-".join(parts)


def used(directory: Path) -> bool:
    return any((directory / mark).is_file() for mark in MARKS)


def free(directory: Path) -> Path:
    others = (directory.with_name(f"{directory.name}-{n}") for n in count(2))
    return next(d for d in chain([directory], others) if not used(d))


def refuse_used(directory: Path) -> None:
    if used(directory):
        raise UsedDirectoryError(
            f"{directory} holds {_what(directory)}; two runs are never mixed. Say --overwrite to replace it, "
            "or another --output."
        )


def clear_run(directory: Path) -> None:
    if not used(directory):
        return
    for mark in reversed(MARKS):  # without its description the rest is nobody's
        (directory / mark).unlink(missing_ok=True)
    clear(directory)
    for pattern in LEFT:
        for path in directory.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for beside in directory.glob(f"*/{RUN}"):  # streams and parts
        if beside.parent.is_symlink():  # another's
            continue
        clear_run(beside.parent)
        if not any(beside.parent.iterdir()):
            beside.parent.rmdir()


def _what(directory: Path) -> str:
    try:
        record = RunRecord(directory)
    except RecordError:
        return "another run"
    if record.interrupted:
        return f"a run that was interrupted after {record.interrupted} (`ditto resume {directory}` goes on with it)"
    return f"a finished run of {record.info.model}"
