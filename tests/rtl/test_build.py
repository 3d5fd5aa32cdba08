# SPDX-License-Identifier: Apache-2.0
"""Builds: cached by content, safe against other processes and kills, refused with sentences."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ditto_cosim.protocol.errors import GeometryError
from ditto_cosim.protocol.hardware import GEOMETRIES, Geometry
from ditto_cosim.sim_harness import build as building
from ditto_cosim.sim_harness.build import BuildOptions, build, build_key, verilate
from ditto_cosim.sim_harness.lint import run_lint
from ditto_cosim.sim_harness.sources import rtl_dir
from ditto_cosim.toolchain import BuildError, ToolMissingError, cache_dir

SMALL = Geometry(lanes=1, columns=2, encode_width=4, k_max=16, n_max=2)
QUICK = BuildOptions(optimize=False)
BUILD = (
    "import sys; from ditto_cosim.protocol.hardware import Geometry;"
    "from ditto_cosim.sim_harness.build import build, BuildOptions;"
    "b = build(Geometry(lanes=1, columns=2, encode_width=4, k_max=16, n_max=2), BuildOptions(optimize=False));"
    "print('cached' if b.cached else 'built', b.library)"
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has Verilator's runtime and nothing else."""
    cache = cache_dir()
    build(SMALL, QUICK)
    target = tmp_path / "rtl"
    target.mkdir()
    for runtime in cache.glob("runtime-*"):
        if runtime.is_dir():
            (target / runtime.name).symlink_to(runtime)
    monkeypatch.setenv("DITTO_CACHE", str(tmp_path))
    return target


def test_build_is_found_again(empty_cache: Path) -> None:
    assert not build(SMALL, QUICK).cached
    began = time.perf_counter()
    again = build(SMALL, QUICK)
    assert again.cached
    assert again.library.exists()
    assert time.perf_counter() - began < 5  # it compiled nothing


def test_build_key_follows_everything_that_matters(tmp_path: Path) -> None:
    keys = {
        build_key(SMALL, QUICK),
        build_key(SMALL, BuildOptions()),
        build_key(replace(SMALL, k_max=32), QUICK),
    }
    keys.add(build_key(SMALL, replace(QUICK, assertions=True)))
    keys.add(build_key(SMALL, replace(QUICK, trace="vcd")))
    other = tmp_path / "rtl"
    subprocess.run(["cp", "-r", str(rtl_dir()), str(other)], check=True)
    assert build_key(SMALL, replace(QUICK, rtl_dir=other)) == build_key(SMALL, QUICK)
    with (other / "lane.sv").open("a") as file:
        file.write("// another line\n")
    keys.add(build_key(SMALL, replace(QUICK, rtl_dir=other)))
    assert len(keys) == 6


def test_build_of_two_processes_happens_once(empty_cache: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = sorted(process.communicate()[0].split()[0] for process in processes)
    assert said == ["built", "cached"]


def test_build_killed_in_the_middle_breaks_nothing(empty_cache: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(empty_cache.glob(".tile-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(empty_cache.glob("tile-*.so"))
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True)
    assert Path(done.stdout.split()[1]).exists()


def test_build_without_compiler_says_what_to_install(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolMissingError, match=r"`no-such-compiler` was not found; .*apt-get install g\+\+"):
        build(SMALL, QUICK)


def test_build_with_another_verilator_says_which_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "VERILATOR_VERSION", "1.2.3")
    with pytest.raises(ToolMissingError, match=r"1\.2\.3 is needed"):
        building.verilator_root()


ILLEGAL = {
    "lanes": (0, "Lanes = 0 is outside 1...64"),
    "columns": (2000, "Columns = 2000 is outside 1...1024"),
    "encode_width": (6, "EncodeWidth = 6 is none of 4, 8, 16"),
    "k_max": (48, "KMax = 48 is not a power of two"),
    "n_max": (3, "NMax = 3 is not a multiple of Columns = 2"),
    "weight_banks": (3, "WeightBanks = 3 is neither 1 nor 2"),
    "pe_stages": (3, "PeStages = 3 is neither 1 nor 5"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_parameters_stop_elaboration_with_a_sentence(tmp_path: Path, name: str) -> None:
    value, sentence = ILLEGAL[name]
    with pytest.raises(GeometryError, match=name):
        replace(SMALL, **{name: value})  # type: ignore[arg-type]  # one of them
    forced = replace(SMALL)
    object.__setattr__(forced, name, value)
    if name == "columns":
        object.__setattr__(forced, "n_max", value)
    with pytest.raises(BuildError) as caught:
        verilate(forced, QUICK, tmp_path)
    assert sentence in str(caught.value)


def test_rtl_is_lint_clean() -> None:
    assert run_lint() == []


def test_every_shipped_geometry_verilates(tmp_path: Path) -> None:
    for name, geometry in GEOMETRIES.items():
        for banks in (1, 2):
            verilate(replace(geometry, weight_banks=banks), QUICK, tmp_path / f"{name}{banks}")
