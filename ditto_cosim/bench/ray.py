# SPDX-License-Identifier: Apache-2.0
"""`ditto bench ray`: what a second worker is worth, to a sweep on Ray and to the same sweep on local processes.

    points            priced in each sweep: chips of different lanes and memories under Ditto and ITC, a record of the DDPM
    one_s, two_s      with one worker and with two, each with its workers' own start; Ray itself has begun before
    ratio             one ÷ two
    same              both found the same rows, bit for bit

Ray takes the machine's own address, whatever it is told. Where it shall stay on loopback:
    unshare --net --pid --mount-proc --fork --kill-child sh -c 'ip link set lo up && ditto bench ray'

What this file does not do: start a cluster; it goes to the one that RAY_ADDRESS names, or begins one here.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ditto_cosim import workers
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.pricing.fields import Axis
from ditto_cosim.device.pricing.sweep import Base
from ditto_cosim.explore import explore
from ditto_cosim.protocol.record import RunInfo, RunWriter
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program

COLUMNS, STACKS = (16, 32, 64, 128, 256), (1, 2, 3, 4)
TILES = (16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 77)
STEPS = 100
"""So many that a sweep takes much longer than its workers' start."""


def measure(quick: bool = False) -> dict[str, Any]:
    workers.check("ray")
    steps, columns, tiles = (2, COLUMNS[:2], TILES[:1]) if quick else (STEPS, COLUMNS, TILES)
    axes = [
        Axis("tile.columns", columns),
        Axis("dram.stacks", STACKS),
        Axis("tile.tiles", tiles),
        Axis("design", ("itc", "ditto")),
    ]
    figures: dict[str, Any] = {"steps": steps, "cores": workers.cores()}
    with tempfile.TemporaryDirectory() as folder:
        base = Base((_record(Path(folder) / "ddpm", steps),), chip="paper_twin")
        for on in ("local", "ray"):
            with workers.cluster(on) if on == "ray" else contextlib.nullcontext():
                found: dict[str, Any] = {}
                for jobs, name in (
                    (2, "two_s"),
                    (1, "one_s"),
                ):  # what one learns here, two would be forked with
                    begun = time.perf_counter()
                    found[name] = explore(base, axes, ["cycles"], on=on, jobs=jobs).rows
                    figures[f"{on}_{name}"] = time.perf_counter() - begun
            figures[f"{on}_ratio"] = figures[f"{on}_one_s"] / figures[f"{on}_two_s"]
            figures[f"{on}_same"] = found["one_s"] == found["two_s"]
            figures["points"] = len(found["one_s"])
    return figures


def _record(folder: Path, steps: int) -> Path:
    program, chip = workload_program("ddpm"), load_chip("paper_twin")
    k_max = chip.geometry.k_max
    info = RunInfo(
        *(program.to_dict(), "ddpm", chip.name, chip.digest, "ditto", "synthetic", "twos4", steps, 0, k_max)
    )
    writer = RunWriter(folder, info)
    for step in range(steps):
        writer.append(synthetic_step(program, step, PUBLISHED, k_max))
    return folder


def table(figures: Mapping[str, Any]) -> str:
    lines = [
        f"a sweep of {figures['points']} points, {figures['steps']} steps each, {figures['cores']} cores here"
    ]
    for on, title in (("local", "local processes"), ("ray", "Ray workers")):
        lines.append(
            f"{title}: one {figures[f'{on}_one_s']:.1f} s, two {figures[f'{on}_two_s']:.1f} s,"
            f" {figures[f'{on}_ratio']:.2f}×; rows " + ("equal" if figures[f"{on}_same"] else "DIFFER")
        )
    return "\n".join(lines)
