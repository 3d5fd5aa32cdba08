# SPDX-License-Identifier: Apache-2.0
"""One tree of errors, and one place where the command line ends with them."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
from pathlib import Path

import pytest

from ditto_cosim import cli
from ditto_cosim.device.chips import ChipError
from ditto_cosim.device.process import log_to_stderr
from ditto_cosim.host.reference.golden import VerifyError
from ditto_cosim.protocol import codec, errors
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import WIRE_ERRORS, DittoError

ROOT = Path(__file__).parents[2]
BUILT_IN = {"Exception", "ValueError", "TypeError", "LookupError", "KeyError", "RuntimeError", "OSError"}


def public_errors() -> dict[str, tuple[Path, ast.ClassDef]]:
    """Every exception class of the product whose name has no underscore in front."""
    found = {}
    for path in (
        f
        for d in ("protocol", "host", "device", "sim_harness", "ditto_cosim")
        for f in (ROOT / d).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef) or not node.bases or node.name.startswith("_"):
                continue
            if node.name.removesuffix("Error") not in ("", node.name):
                found[node.name] = (path, node)
    return found


def test_every_error_joins_the_tree_and_says_what_it_means() -> None:
    found = public_errors()
    assert len(found) > 30
    for name, (path, node) in found.items():
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if name != "DittoError":
            assert any(base in found for base in bases), f"{path}: {name} does not descend from DittoError"
        assert ast.get_docstring(node), f"{path}: {name} has no docstring"
        assert not any(isinstance(part, ast.Pass) for part in node.body), f"{path}: {name} has a body of pass"


def test_header_draws_the_tree_as_it_is() -> None:
    """The picture at the top of errors.py against the classes below it."""
    drawn: list[tuple[str, str, bool]] = []
    above = {0: "DittoError"}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:│   |    )*)[├└]── (\w+)( \(ours\))?", line):
            depth = len(match[1]) // 4 + 1
            above[depth] = match[2]
            drawn.append((match[2], above[depth - 1], bool(match[3])))
    real = {
        (name, cls.__bases__[0].__name__, "ours" in vars(cls) and cls.ours)
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, DittoError) and cls is not DittoError
    }
    assert set(drawn) == real


def test_every_kind_that_crosses_is_in_the_specification() -> None:
    text = (ROOT / "protocol" / "SPEC.md").read_text()
    section = text[text.index("## Errors") :].split("##")[1]
    assert set(re.findall(r"`(\w+Error)`", section)) == set(WIRE_ERRORS)


@pytest.mark.parametrize(
    ("error", "debug", "status", "traced"),
    [
        (ChipError("chip 'x': no tiles"), "", 2, False),
        (ChipError("chip 'x': no tiles"), "1", 2, True),
        (FileNotFoundError(2, "No such file", "scales.json"), "", 2, False),
        (OSError(28, "No space left on device"), "", 2, False),
        (VerifyError("verify: out of order"), "", 3, True),
        (ZeroDivisionError("division by zero"), "", 3, True),
        (OSError("a socket of ours"), "", 3, True),
    ],
)
def test_command_line_ends_by_whose_fault_it_is(
    error: Exception,
    debug: str,
    status: int,
    traced: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def root(prog_name: str) -> None:
        raise error

    monkeypatch.setattr(cli, "root", root)
    monkeypatch.setattr("sys.argv", ["ditto", "price", "a run"])
    monkeypatch.setenv("DITTO_DEBUG", debug)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == status
    assert ("Traceback" in said) == traced
    assert ("Please report it" in said and "ditto price 'a run'" in said) == (status == 3)
    assert f"error: {error}" in said


@pytest.mark.parametrize("debug", ["1", ""])
def test_debugging_logs_every_message_that_crosses(
    debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DITTO_DEBUG", debug)
    before = logging.getLogger().handlers[:]
    try:
        log_to_stderr("info")
        codec.decode_host(codec.encode(m.Ping(token=7)), m.Limits())
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger("ditto").setLevel(logging.NOTSET)
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == (["out Ping", "in Ping"] if debug else [])
