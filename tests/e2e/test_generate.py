# SPDX-License-Identifier: Apache-2.0
"""`ditto generate` as a user runs it: two processes, the shipped model, pictures, report and record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.host.report import load_report
from ditto_cosim.protocol.record import RunRecord
from support.typed import ditto

Runs = dict[str, tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The same two steps on both backends, verified."""
    found = {}
    for backend in ("model", "rtl"):
        directory = tmp_path_factory.mktemp(backend)
        made = ditto(
            *("generate", "--steps", "2", "--seed", "3", "--backend", backend, "--chip", "tiny"),
            *("--verify", "--json", "-o", str(directory)),
        )
        found[backend] = (directory, json.loads(made.stdout))
    return found


def test_generate_verifies_every_value_on_both_backends(runs: Runs) -> None:
    for _, summary in runs.values():
        assert summary["verify"]["bit_identical"]
        assert summary["verify"]["layers_checked"] == 2 * 91
        assert summary["verify"]["first_difference"] is None


def test_generate_gives_one_picture_and_one_cycle_count(runs: Runs) -> None:
    (model_dir, model), (rtl_dir, rtl) = runs["model"], runs["rtl"]
    assert (model_dir / "picture-0.png").read_bytes() == (rtl_dir / "picture-0.png").read_bytes()
    assert model["cycles"] == rtl["cycles"] > 0


def test_generate_leaves_pictures_report_and_record(runs: Runs) -> None:
    directory, summary = runs["rtl"]
    assert Image.open(directory / "picture-0.png").size == (8 * 28, 8 * 28)
    assert Image.open(directory / "strip.png").height == 28
    report = load_report(directory)
    assert report.total_cycles == summary["cycles"]
    assert report.clock_hz == 100_000_000, "tiny runs at 0.1 GHz"
    assert report.measured.all()
    assert "<html" in (directory / "report.html").read_text()
    record = RunRecord(directory)
    assert len(record) == 2
    assert sum(step.charged_cycles or 0 for step in record) == summary["cycles"]
    assert record.outcome["verify"]["bit_identical"]


def looks(directory: Path, scratch: Path) -> dict[str, list[str]]:
    """Every command that looks at a run, as it is asked for JSON; those that take longer are in files of their own."""
    run = str(directory)
    return {
        "report": [run],
        "show program": [run],
        "show record": [run],
        "show run": [run, "--step", "1", "--layer", "conv_in"],
        "price": [run, "--design", "itc"],
        "compare": [run, "--designs", "itc,ditto"],
        "whatif": [run, "--layer", "conv_in"],
        "timeline": [run, "--step", "0", "-o", str(scratch / "t.pftrace")],
        "export": [run, "--dram", "dramsim3", "-o", str(scratch)],
        "diff": [run, run],
        "trace": [run, "--pixel", "12,7", "--no-replay"],
    }


def test_every_command_that_looks_at_a_run_says_its_schema(runs: Runs, tmp_path: Path) -> None:
    for name, words in looks(runs["model"][0], tmp_path).items():
        done = CliRunner().invoke(root, [*name.split(), *words, "--json"])
        assert done.exit_code == 0, f"{name}: {done.output}{done.exception}"
        told = json.loads(done.stdout)
        assert told["schema"] == f"ditto.{name.replace(' ', '.')}"
        assert isinstance(told["version"], int)
    for _, summary in runs.values():
        assert (summary["schema"], summary["version"]) == ("ditto.generate", 1)


def test_generate_refuses_bad_input_in_a_sentence(tmp_path: Path) -> None:
    for arguments, words in [
        (("--model", "no-such-model"), "fashion-ddpm"),
        (("--chip", "no-such-chip"), "paper_twin"),
        (("--design", "no-such-design"), "ditto_plus"),
        (("--backend", "no-such-backend"), "model"),
        (
            ("--model", "fashion-ddpm", "--label", "3"),
            "fashion-ddpm takes no class labels (--label); fashion-dit does",
        ),
        (("--label", "99"), "fashion-dit: class label 99 is outside 0…9"),
        (("--model", "emojisd"), "did you mean 'emoji-sd'"),
        (("--model", "emoji-sd"), "needs a prompt"),
        (("--model", str(tmp_path)), "not a folder that save_pretrained wrote"),
    ]:
        backend = () if "--backend" in arguments else ("--backend", "model")
        said = ditto("generate", "--steps", 1, "-o", tmp_path, *backend, *arguments, status=2)
        assert words in said.stderr
        assert "Traceback" not in said.stderr


def test_generate_without_a_compiler_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("DITTO_CACHE", str(tmp_path / "cache"))
    result = ditto("generate", "--steps", "1", "-o", str(tmp_path), "--chip", "tiny", status=2)
    assert "g++" in result.stderr
    assert "--backend model" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.long
def test_generate_works_without_a_compiler_and_leaves_prices_to_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("DITTO_CACHE", str(tmp_path / "cache"))
    words = ("generate", "--steps", "1", "-o", str(tmp_path), "--chip", "tiny", "--backend", "model")
    command = [sys.executable, "-c", "from ditto_cosim.cli import main; main()", *words]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "not priced: without a C++ compiler" in made.stderr
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "heavy"),
    [(["--help"], ("torch", "numpy")), (["generate", "--chip", "no-such-chip"], ("torch",))],
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(words: list[str], heavy: tuple[str, ...]) -> None:
    probe = (
        f"import sys; sys.argv = {['ditto', *words]}\n"
        "import ditto_cosim.cli as c\n"
        "try: c.main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert result.stdout.strip().endswith("[]")
    assert ("generate" if words == ["--help"] else "paper_twin") in result.stdout + result.stderr
