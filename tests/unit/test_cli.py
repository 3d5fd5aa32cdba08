# SPDX-License-Identifier: Apache-2.0
"""The command line as a person meets it: help, examples, typos, names, completion, plain terminals, the doctor."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table

from ditto_cosim import cli
from ditto_cosim.cli import completion, doctor, plain_text, tables
from ditto_cosim.cli.examples import EXAMPLES
from ditto_cosim.device.chips import chip_names, load_chip
from ditto_cosim.device.designs.base import design_names, load_design
from ditto_cosim.host.pipeline.models import ModelError, Wish, load_model
from ditto_cosim.names import check_model, model_for, prompt_for

DITTO = [sys.executable, "-c", "from ditto_cosim.cli import main; main()"]


def ditto(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DITTO, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=240,
        check=False,
    )


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what is typed for it."""
    below = (
        {n: command.get_command(None, n) for n in command.list_commands(None)}
        if hasattr(command, "list_commands")
        else {}
    )
    if not below:
        yield name, command
    for word, inner in below.items():
        yield from leaves(inner, f"{name} {word}".strip())


LEAVES = dict(leaves(typer.main.get_command(cli.root)))


def test_cli_every_command_has_examples_and_no_example_is_of_none() -> None:
    assert set(EXAMPLES) == set(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_cli_examples_are_understood(name: str) -> None:
    """Parsed by the command itself: options that are gone, or values out of range, are refused here."""
    for line in EXAMPLES[name]:
        inner = found[1] if (found := re.search(r"\$\((.*)\)", line)) else line.partition("|")[0]
        words = shlex.split(inner)
        prefix = ["ditto", *name.split()]
        assert words[: len(prefix)] == prefix, line
        assert line in (LEAVES[name].epilog or "")
        with LEAVES[name].make_context(name, words[len(prefix) :], resilient_parsing=False):
            pass


def test_cli_says_its_exit_statuses() -> None:
    assert "1 a check failed" in re.sub(r"\s+", " ", ditto("--help").stdout)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["genrate"], "did you mean 'generate'"),
        (["rtl", "tset"], "Did you mean 'test'"),
        (["rtl", "build", "tinny"], "did you mean 'tiny'"),
        (["generate", "--labl", "3"], "--label"),
        (["generate", "--observer", "foo"], "known: mse, percentile, minmax"),
        (["generate", "--policy", "dynmic"], "did you mean 'dynamic'"),
        (["generate", "--dtype", "fp8"], "known: fp32"),
        (["generate", "--chip", "tinny"], "did you mean 'tiny'"),
        (["generate", "--design", "dito"], "did you mean 'ditto'"),
        (["generate", "--backend", "rtl-wide"], "did you mean 'rtl_wide'"),
        (["chips", "edg"], "did you mean 'edge'"),
        (["backends", "bord"], "did you mean 'board'"),
        (["report", "no/such/run"], "no report.json here"),
    ],
)
def test_cli_refuses_in_a_sentence_with_status_2(words: list[str], says: str) -> None:
    done = ditto(*words)
    assert done.returncode == 2, done.stderr
    assert says in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_models_refuse_labels_they_do_not_know_and_prompts_they_do_not_take() -> None:
    classes, none = load_model("fashion-dit"), load_model("fashion-ddpm")
    assert classes.arguments(Wish(labels=(9,)))["class_labels"] == [9]
    with pytest.raises(ModelError, match=r"class label 99 is outside 0…9"):
        classes.arguments(Wish(labels=(99,)))
    with pytest.raises(ModelError, match="takes no prompt"):
        none.arguments(Wish(prompt="a cat"))


# --- names --------------------------------------------------------------------------------------------------------------


def test_chips_prints_every_parameter_of_every_chip() -> None:
    listed = json.loads(ditto("chips", "--json").stdout)["chips"]
    assert {chip["name"] for chip in listed} == set(chip_names())
    one = json.loads(ditto("chips", "tiny", "--json").stdout)
    assert one["geometry"]["columns"] == load_chip("tiny").geometry.columns
    assert one["dram"]["cas_ns"] > 0
    assert "geometry.columns" in ditto("chips", "tiny").stdout


def test_designs_prints_every_parameter_of_every_design() -> None:
    assert {d["name"] for d in json.loads(ditto("designs", "--json").stdout)["designs"]} == set(
        design_names()
    )
    one = json.loads(ditto("designs", "ditto_plus", "--json").stdout)
    assert (one["base_mode"], one["digest"]) == ("spatial", load_design("ditto_plus").digest)


def test_backends_says_who_measures() -> None:
    found = {
        row["backend"]: row["cycles"] for row in json.loads(ditto("backends", "--json").stdout)["backends"]
    }
    assert (found["rtl"], found["model"]) == ("measured", "from the contract")


def test_names_are_whole_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "down_blocks.0.resnets.0.conv_shortcut.weights.and.more"
    table = Table(box=None)
    table.add_column("layer", no_wrap=True)
    table.add_column("what it is")
    table.add_row(name, "words that may be broken between lines " * 8)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    tables.show_table(table)
    assert name in capsys.readouterr().out


# --- completion ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_ditto(tmp_path: Path) -> str:
    """A PATH that finds this checkout's `ditto`."""
    script = tmp_path / "ditto"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(DITTO)} "$@"\n')
    script.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


COMPLETED = [
    ("ditto gen", "generate"),
    ("ditto rtl mut", "mutate"),
    ("ditto generate --desi", "--design"),
    ("ditto generate --design ditto_pl", "ditto_plus"),
    ("ditto generate --model emoji", "emoji-sd"),
    ("ditto chips paper_t", "paper_twin"),
]


@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_completion_works_in_bash(line: str, expected: str, with_ditto: str) -> None:
    words = line.split()
    script = (
        'eval "$(ditto completion bash)"; '
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _ditto_completion ditto; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": with_ditto},
        check=True,
    )
    assert expected in done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_completion_works_in_fish(line: str, expected: str, with_ditto: str) -> None:
    script = f"ditto completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": with_ditto},
        check=True,
    )
    assert expected in [row.partition("\t")[0] for row in done.stdout.splitlines()]


ZSH_COMPLETES = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT=''; autoload -Uz compinit && compinit -u -D; eval \\"\\$(ditto completion zsh)\\"; echo rea''dy"
zpty -r -m shell out '*ready*'
zpty -w -n shell "$LINE"$'\\t'
zpty -r -m shell out "*$EXPECTED*" && echo found
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("line", "expected"), COMPLETED[:4])
def test_completion_works_in_zsh(line: str, expected: str, with_ditto: str, tmp_path: Path) -> None:
    variables = {**os.environ, "PATH": with_ditto, "LINE": line, "EXPECTED": expected, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH_COMPLETES],
        capture_output=True,
        text=True,
        env=variables,
        timeout=60,
        check=False,
    )
    assert "found" in done.stdout, done.stderr


@pytest.mark.parametrize("shell", list(completion.Shell))
def test_completion_scripts_ask_for_the_command_s_own_variable(shell: completion.Shell) -> None:
    assert completion.VARIABLE in ditto("completion", shell.value).stdout


# --- terminals and machines ---------------------------------------------------------------------------------------------


def test_ascii_terminals_get_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    plain_text.speak_ascii()
    print("2 × 3 → 6 − … ≥ Fréchet")
    sys.stdout.flush()
    assert raw.getvalue() == b"2 x 3 -> 6 - ... >= Frechet\n"


def test_ascii_terminals_end_no_command() -> None:
    done = ditto("chips", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "77 x 1" in done.stdout


def test_doctor_finds_a_compiler_missing_and_says_the_remedy(tmp_path: Path) -> None:
    done = ditto("doctor", "--json", CXX=str(tmp_path / "no-such-compiler"))
    found = {row["what"]: row for row in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["C++ compiler"]["state"] == "wrong"
    assert "apt-get install g++" in found["C++ compiler"]["remedy"]
    assert found["Verilator"]["state"] == "ok"


def test_doctor_names_boards_by_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from ditto_cosim.device.backends import board

    port = board.SerialPort("/dev/null", "FT5Q", "ULX3S")
    monkeypatch.setattr(board, "ports", lambda: [port])
    assert any("FT5Q" in found.found for found in doctor._boards())


def test_doctor_every_finding_that_is_not_well_has_a_remedy() -> None:
    found = [line for check in doctor.CHECKS for line in check()]
    assert {"Python", "C++ compiler", "Verilator", "PyTorch", "GPU", "ports", "cache"} <= {
        f.what for f in found
    }
    assert all(f.remedy for f in found if f.state != "ok")


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ({}, "emoji-sd"),
        ({"labelled": True}, "fashion-dit"),
        ({"cached": True}, "fashion-dit"),
        ({"plan": "sq_dm"}, "fashion-ddpm-relu"),
        ({"chip": "tiny"}, "fashion-ddpm"),
        ({"chip": "tiny", "prompted": True}, "emoji-sd"),
        ({"chip": "a chip of a device elsewhere"}, "emoji-sd"),
    ],
)
def test_who_names_no_model_gets_the_best_that_takes_what_is_asked_for(
    asked: dict[str, Any], model: str
) -> None:
    usual = {"chip": "paper_twin", "plan": "", "prompted": False, "labelled": False, "cached": False}
    words = {**usual, **asked}
    assert model_for(**words) == model
    prompted = bool(words["prompted"] or prompt_for(model))
    check_model(model, prompted, (3,) if words["labelled"] else ())
