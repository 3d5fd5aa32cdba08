# SPDX-License-Identifier: Apache-2.0
"""`ditto device`, `ditto keys`, `ditto conform` as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.host.wire.client import connect
from support.typed import ditto
from support.wire_programs import chain, inputs_of


def test_device_serves_until_ctrl_c_and_logs_json(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/device"
    command = [sys.executable, "-m", "ditto_cosim.device", "--bind", address]
    command += ["--backend", "support.plain_backend:PlainBackend", "--chip", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"ditto device listens on {address}\n"
    with connect(address) as device, device.open_run(*chain(2)) as run:
        assert run.spec.chip == "tiny"
        run.step(0, inputs_of(run.program, 0))
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert [e["event"] for e in events][:3] == ["host greeted", "host connected", "run opened"]
    assert events[-1]["event"] == "device stops"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bind", "tcp://0.0.0.0:0"], "takes keys on both sides. Make them with `ditto keys DIRECTORY`"),
        (["--bind", "somewhere"], "expected ipc://PATH or tcp://HOST:PORT"),
        (["--bind", "ipc:///no/such/directory/x"], "cannot listen on"),
    ],
)
def test_device_that_cannot_listen_says_why(
    options: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(root, ["device", *options])
    assert result.exit_code == 2
    assert says in capfd.readouterr().err + result.output


def test_keys_writes_them_and_says_where_they_go(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["keys", str(tmp_path / "k"), "--host", "lab"])
    assert result.exit_code == 0
    assert "lab.key_secret" in result.output
    assert (tmp_path / "k" / "hosts" / "lab.key").exists()


def test_conform_prints_its_findings() -> None:
    result = CliRunner().invoke(root, ["conform", "support.plain_backend:PlainBackend", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert report["verdict"] == "conforms"
    assert report["excluded_fault_rate"] == pytest.approx(3 / report["values"], rel=0.01)
    assert {f["check"] for f in report["findings"]} > {"exactness", "cycles", "concurrency"}
    result = CliRunner().invoke(root, ["conform", "support.wire_harness:StuckBackend"])
    assert result.exit_code == 1
    assert "does not conform" in result.output


@pytest.mark.long
def test_bench_wire_keeps_its_keys() -> None:
    found = json.loads(ditto("bench", "wire", "--quick", "--json").stdout)
    assert found["process_per_run"].keys() >= {"us_per_command", "mib_per_run"}
    assert found["pong_p99_s_under_attack"] == max(found["pong_p99_s_by_attack"].values())
    assert found["added_us_per_command"] > 0
    assert [row["bytes"] for row in found["throughput"]][3:5] == [1 << 16, 1 << 20]
    for row in found["throughput"]:
        assert row["ratio"] == pytest.approx(row["wire_bytes_per_s"] / row["raw_bytes_per_s"])
