# SPDX-License-Identifier: Apache-2.0
"""Ray: a cluster of two workers gives, bit for bit, what one process gives. Runs of a farm there come back whole.

Ray exchanges 127.0.0.1 for the machine's own address, whatever it is told, so the cluster lives in a network namespace with
nothing but `lo` (`unshare -n`); where that is not permitted, the test is skipped with the reason.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from ditto_cosim.device.chips import load_chip
from ditto_cosim.protocol.record import RunInfo, RunWriter
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program

ray = pytest.importorskip("ray")

ALONE = [
    *("unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"),
    *("sh", "-c", 'ip link set lo up && "$@"', "alone"),
]
"""Process ids of its own, too: when the test ends, the kernel ends every daemon of Ray's, and no other."""

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Of this test's own cluster: Ray's client sends none unless it is told one."""

SWEEP = """
import json, os, sys
from pathlib import Path
from ditto_cosim.device.pricing.fields import Axis
from ditto_cosim.device.pricing.sweep import Base
from ditto_cosim.explore import explore

base, axes = Base((Path(sys.argv[1]),)), [Axis("dram.channels", (1, 2, 4)), Axis("design", ("itc", "diffy"))]
one = explore(base, axes, ["cycles"], jobs=1).rows
there = explore(base, axes, ["cycles"], on="ray", jobs=2).rows
print(json.dumps({"same": one == there, "points": len(there), "cycles": [r["cycles"] for r in one]}))
"""

CLIENT = """
import subprocess, sys
ray = [sys.executable, "-m", "ray.scripts.scripts"]
start = ["start", "--head", "--num-cpus", "2", "--ray-client-server-port", "10001", "--include-dashboard", "false"]
begun = subprocess.run([*ray, *start], capture_output=True, text=True)
assert begun.returncode == 0, begun.stderr[-3000:]
ditto = [sys.executable, "-c", "from ditto_cosim.cli import main; main()"]
done = subprocess.run([*ditto, "farm", "--seeds", "0:1", "-o", sys.argv[1], "--on", "ray://127.0.0.1:10001", "--json",
                       "--", "--backend", "model", "--steps", "2"], capture_output=True, text=True)
print(done.stderr, file=sys.stderr)
print(done.stdout)
sys.exit(done.returncode)
"""


def alone(code: str, *arguments: str) -> str:
    """Runs Python where there is no network but loopback."""
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip(
            "no network namespace of our own is permitted here (`unshare -n`), and Ray would leave loopback"
        )
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", **TOKEN},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.long
def test_a_sweep_on_two_ray_workers_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "ddpm"
    program, chip = workload_program("ddpm"), load_chip("edge")
    info = RunInfo(
        program.to_dict(), "ddpm", chip.name, chip.digest, "ditto", "synthetic", "twos4", 2, 0, 1024
    )
    writer = RunWriter(folder, info)
    for step in range(2):
        writer.append(synthetic_step(program, step, PUBLISHED, 1024))
    found = json.loads(alone(SWEEP, str(folder)).strip().splitlines()[-1])
    assert found["same"]
    assert found["points"] == len(found["cycles"]) == 6
    assert len(set(found["cycles"])) > 3


@pytest.mark.long
def test_a_farm_on_a_ray_cluster_brings_back_the_runs_that_one_machine_makes(tmp_path: Path) -> None:
    there = json.loads(alone(CLIENT, str(tmp_path / "there")).strip().splitlines()[-1])
    ditto = [sys.executable, "-c", "from ditto_cosim.cli import main; main()"]
    options = (
        "--seeds",
        "0:1",
        "-o",
        str(tmp_path / "here"),
        "--json",
        "--",
        "--backend",
        "model",
        "--steps",
        "2",
    )
    here = json.loads(
        subprocess.run([*ditto, "farm", *options], capture_output=True, text=True, check=True).stdout
    )
    assert there["failed"] == here["failed"] == 0
    for mine, theirs in zip(here["runs"], there["runs"], strict=True):
        assert mine["summary"]["cycles"] == theirs["summary"]["cycles"]
        for name in ("picture-0.png", "run.json"):
            assert (Path(theirs["directory"]) / name).is_file()
        assert (Path(mine["directory"]) / "picture-0.png").read_bytes() == (
            Path(theirs["directory"]) / "picture-0.png"
        ).read_bytes()
