# SPDX-License-Identifier: Apache-2.0
"""What gets killed: a run of the small denoiser, a calibration, a sweep, a report, and any `ditto` command."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditto_cosim.device.chips import load_chip  # noqa: F401 (imported once, for all children)
from ditto_cosim.device.pricing import sweep as sweeping
from ditto_cosim.device.pricing.fields import Axis
from ditto_cosim.device.pricing.recorded import RecordColumns
from ditto_cosim.host import report as reports
from ditto_cosim.host.compiler.calibrate import calibrate as calibrate_grids
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.quantize import save_grids
from ditto_cosim.host.pipeline import journal
from ditto_cosim.host.pipeline.run import Recording, Run, Settings
from ditto_cosim.host.wire.client import connect
from ditto_cosim.protocol.files import replacing, write_text
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.record import RunRecord
from support.small_denoiser import small

torch.set_num_threads(1)
STEPS = 8
DENOISER, INPUTS, COMPILED = small()


def generate(
    address: str, directory: str, resume: bool, on_step: Callable[[int], None] = lambda step: None
) -> None:
    """A sampler whose every step depends on all before it; leaves record, outcome and picture."""
    settings = Settings(
        RunSpec(backend="model", chip="tiny", design="ditto"),
        verify=True,
        record=Recording(Path(directory), "small", resume=resume),
    )
    noise = torch.Generator().manual_seed(5)
    with connect(address) as device:
        run = Run(device, COMPILED, settings, STEPS, settings.record)
        x = INPUTS[0]["sample"]
        for step in range(STEPS):
            on_step(step)
            (made,) = run.step({"sample": x}).values()
            x = 0.97 * x - 0.05 * torch.nn.functional.interpolate(made, x.shape[2:])
            x = x + 0.01 * torch.randn(x.shape, generator=noise)
        verdict = run.seen.verdict
        assert verdict is not None
        assert verdict.bit_identical
        with replacing(Path(directory) / "picture.npy") as path:
            np.save(path, x.numpy())
        run.close({"cycles": run.seen.totals["cycles"], "checked": verdict.values_checked})


def generate_in_little_memory(address: str, directory: str, resume: bool) -> None:
    """The system grants a few more megabytes, and the pipeline takes more with every step."""
    held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (held + (200 << 20), resource.RLIM_INFINITY))
    taken: list[bytes] = []
    generate(address, directory, resume, lambda step: taken.append(bytes(64 << 20)))


def generate_on_a_full_disk(address: str, directory: str, resume: bool) -> None:
    """Behind the third step no file can be written, as far as the system goes with its limit on the length of files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(step: int) -> None:
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    try:
        generate(address, directory, resume, fill)
    finally:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )  # the log's


def calibrate(path: str) -> None:
    save_grids(calibrate_grids(capture(DENOISER, INPUTS[0]), INPUTS), Path(path))


def sweep(run: str, path: str) -> None:
    base = sweeping.Base((Path(run),))
    wanted, _ = base.candidates([Axis("design", ("ditto", "itc")), Axis("tile.tiles", (1, 2))])
    records = {Path(run): RecordColumns.load(RunRecord(Path(run)))}
    write_text(Path(path), json.dumps([sweeping.price(records, candidate) for candidate in wanted]))


def report(run: str, path: str) -> None:
    """The page of a finished run, drawn again."""
    record = RunRecord(Path(run))
    states = [journal.read(record.directory, step).state for step in range(len(record))]
    info = record.info
    found = reports.RunReport.of(
        [r for state in states for r in state.reports],
        model=info.model,
        design=info.design,
        chip=info.chip,
        backend=info.backend,
        low_rule=info.low_rule,
        clock_hz=int(1e9),
        seed=info.seed,
        command_line="",
        wall_s=0.0,
        total_cycles=states[-1].totals["cycles"],
    )
    reports.write_report(found, Path(path))


def ditto(*arguments: Any) -> int:
    """The command line."""
    from ditto_cosim.cli import main

    sys.argv = ["ditto", *(str(a) for a in arguments)]
    main()
    return 0


def train(out: str, steps: int) -> None:
    """A few steps of the smallest recipe on noise, with a checkpoint after each."""
    from ditto_cosim.host.zoo import data
    from ditto_cosim.host.zoo import train as training

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 1, 28, 28), np.uint8), rng.integers(0, 10, 64).astype(np.uint8)
    data.load = lambda *_: noise
    training.CHECKPOINT_EVERY_S, training.LOG_EVERY_STEPS = 0.0, 1
    training.train("fashion-ddpm", Path(out), None, steps, 0, "cpu")
