# SPDX-License-Identifier: Apache-2.0
"""The user's own RTL: interfaces, what is taken from where, contracts of his own, ours beside his."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli.rtl_trust import app
from ditto_cosim.device.backends import make_backend
from ditto_cosim.device.backends.base import Gemm
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.timing.contract import ContractError, LaneContract, load_contract
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.sim_harness.interface import check_interface
from ditto_cosim.sim_harness.regression import SETS
from ditto_cosim.sim_harness.sources import CHECKS, DESIGN, rtl_dir, sources
from ditto_cosim.toolchain import BuildError

SYMMETRIC = f"{Path(__file__).parents[2] / 'examples' / 'own_rtl' / 'symmetric.py'}:Symmetric"
SMALL = Geometry(lanes=1, columns=2, encode_width=4, k_max=32, n_max=4)


def own(folder: Path, file: str, old: str, new: str) -> Path:
    text = (rtl_dir() / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    return folder


@pytest.fixture
def symmetric(tmp_path: Path) -> Path:
    """The encoder of the tutorial: low is −7…7."""
    return own(tmp_path, "encoder.sv", "8'd8 + negative", "8'd8")


def test_a_folder_replaces_what_it_holds(symmetric: Path) -> None:
    (symmetric / "helper.sv").write_text("module helper; endmodule\n")
    chosen = sources(symmetric)
    assert chosen.own == ("encoder.sv", "helper.sv")
    places = {path.name: path.parent for path in chosen.design}
    assert places["encoder.sv"] == symmetric
    assert places["lane.sv"] == rtl_dir()
    assert set(places) == {*DESIGN, "helper.sv"}
    assert [path.name for path in chosen.checks] == [Path(name).name for name in CHECKS]
    own(symmetric, "lane.sv", "module lane", "// mine\nmodule lane")
    assert len(sources(symmetric).checks) == len(CHECKS), "our assertions still find in it what they look at"
    text = (rtl_dir() / "lane.sv").read_text()
    (symmetric / "lane.sv").write_text(re.sub(r"(?<!\.)\bword_last\b", "last_word", text))
    assert sources(symmetric).checks == (), "now they do not"


def test_a_folder_without_any_module_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"holds none of ditto_pkg\.sv"):
        sources(tmp_path)
    with pytest.raises(BuildError, match="is no folder"):
        sources(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "group_o [GroupWords]",
            "group_o [2 * GroupWords]",
            r"port group_o is an output of 64 bits \[4\], expected an",
        ),
        (
            " open_i,",
            " opened_i,",
            "port open_i is missing",
        ),
        ("  parameter bit          Mag4        = 1'b0,", "  ", "parameter Mag4 is missing"),
        (
            "output logic [KWidth-1:0]     row_full_o",
            "output logic [7:0] row_full_o",
            "row_full_o is an output of 8 bits",
        ),
    ],
)
def test_another_interface_is_refused_at_the_pins(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        check_interface(own(tmp_path, "encoder.sv", old, new), SETS["tiny"])


def test_a_file_that_is_no_systemverilog_is_refused_in_slangs_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"encoder\.sv:\d+:\d+: error"):
        check_interface(
            own(tmp_path, "encoder.sv", "assign ready_o = taking_q", "assign ready_o = taken_q"), SETS["tiny"]
        )


def test_own_ports_between_own_modules_are_the_users_affair(tmp_path: Path) -> None:
    own(tmp_path, "encoder.sv", "open_i", "opened_i")
    own(tmp_path, "lane.sv", ".open_i(", ".opened_i(")
    assert check_interface(tmp_path, SETS["tiny"]) == ("encoder.sv", "lane.sv")


def test_own_encoder_agrees_with_its_own_contract_and_not_with_ours(symmetric: Path) -> None:
    arguments = [
        "test",
        "--set",
        "tiny",
        "--seconds",
        "0",
        "--rtl-dir",
        str(symmetric),
        "--wave",
        str(symmetric / "w"),
        "--json",
    ]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 1
    assert json.loads(run.stdout.splitlines()[-1])["mismatches"][0]["what"] == "low"
    run = CliRunner().invoke(app, [*arguments, "--contract", SYMMETRIC])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout.splitlines()[-1])["complete"] is True


def test_diff_stands_both_side_by_side(symmetric: Path) -> None:
    arguments = ["diff", "--rtl-dir", str(symmetric), "--set", "tiny", "--no-synth", "--json"]
    run = CliRunner().invoke(app, [*arguments, "--contract", SYMMETRIC])
    assert run.exit_code == 0, run.output
    values = json.loads(run.stdout.splitlines()[-1])
    (row,) = values["sets"]
    assert values["own"] == ["encoder.sv"]
    assert row["wrong"] == ""
    assert row["cycles_own"] > row["cycles_ours"], "more differences are full"
    assert row["first_slower"].startswith("--case")


def test_contracts_are_found_by_file_and_refused_with_sentences(tmp_path: Path) -> None:
    contract = load_contract(SYMMETRIC)
    counts = contract.row_counts(np.array([[8, -8, 7, 0]], np.int8), 0, "temporal", "twos4")
    assert counts.ravel().tolist() == [1, 1, 2]
    assert type(load_contract("")) is LaneContract
    empty = tmp_path / "empty.py"
    empty.write_text("class Nothing: pass\n")
    with pytest.raises(ContractError, match="has no row_counts, tile_times"):
        load_contract(f"{empty}:Nothing")
    for wrong in ("nothing", f"{empty}:Missing", f"{tmp_path}/none.py:X", "no.such.module:X"):
        with pytest.raises(ContractError):
            load_contract(wrong)


def test_backend_runs_own_rtl_and_holds_it(symmetric: Path, tmp_path: Path) -> None:
    chip = replace(load_chip("tiny"), geometry=SMALL)
    rng = np.random.default_rng(3)
    current, reference = (rng.integers(-12, 12, (1, 9, 40)).astype(np.int8) for _ in range(2))
    job = Gemm("conv", current, reference, rng.integers(-9, 9, (1, 40, 6)).astype(np.int8), "temporal")
    ours, mine = make_backend("model", chip), make_backend(f"rtl:{symmetric},{SYMMETRIC}", chip)
    result, expected = mine.gemm(job), ours.gemm(job)
    np.testing.assert_array_equal(result.accumulators, expected.accumulators)
    np.testing.assert_array_equal(
        result.slots, expected.slots
    )  # by the chip's rule, which prices are made of
    assert result.cycles is not None
    mine.close()

    other = tmp_path / "lies.py"
    other.write_text(
        "from ditto_cosim.device.timing.contract import LaneContract\n"
        "class Lies(LaneContract):\n"
        "    def row_counts(self, *a):\n"
        "        return super().row_counts(*a)\n"
    )
    lies = make_backend(f"rtl:{symmetric},{other}:Lies", chip)
    with pytest.raises(BackendError, match=r"Lies says|Lies \d+"):
        lies.gemm(job)
    lies.close()


def test_backend_refuses_another_interface_before_it_builds(tmp_path: Path) -> None:
    shutil.copy(rtl_dir() / "lane.sv", tmp_path)
    own(
        tmp_path,
        "lane.sv",
        "output logic                  idle_o",
        "output logic                  idle_yes_o",
    )
    with pytest.raises(BackendError, match="port idle_o is missing"):
        make_backend(f"rtl:{tmp_path}", load_chip("tiny"))


@pytest.mark.long
def test_own_rtl_generates_a_picture(symmetric: Path, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("ditto")), "generate", "--chip", "tiny", "--steps", "2", "--verify", "--json",
        "--rtl-dir", str(symmetric), "--contract", SYMMETRIC, "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    assert values["verify"]["bit_identical"]
    assert values["own_lane_cycles"] > values["lane_cycles"] > 0
