# SPDX-License-Identifier: Apache-2.0
"""Plants one wrong line at a time in the RTL and reports which the regression catches.

    PYTHONPATH=tests python -m support.mutations [--seconds 60] [--only NAME] [--no-assertions]

Every mutant is a copy of the RTL with one line changed, built and run like the real one until a mismatch, a failed assertion,
a hang, or the end of the time. `keeps_behaviour` marks changes that no port can show; they are expected to survive.
What it does not do: count mutants that Verilator refuses to build: those would be no test of the regression.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.device.timing import lane
from ditto_cosim.sim_harness import regression
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.sources import rtl_dir
from ditto_cosim.toolchain import BuildError
from support.lane_reference import LaneReference


@dataclass(frozen=True)
class Mutant:
    """One changed line."""

    name: str
    file: str
    old: str
    new: str
    keeps_behaviour: str = ""
    """Why no port can show it; empty if one can."""


ENCODER, BUFFER, PE, PIPELINE, LANE, TILE = (
    f"{n}.sv" for n in ("encoder", "slot_buffer", "pe_array", "pe_pipeline", "lane", "tile")
)

MUTANTS = (
    # encoder: differences and classes
    Mutant("swapped subtraction", ENCODER, "a < b ? b - a : a - b", "a < b ? a - b : b - a"),
    Mutant("no sign offset on the reference", ENCODER, "reference_i[e] ^ 8'h80", "reference_i[e] ^ 8'h00"),
    Mutant("sign inverted", ENCODER, "a < b ? 8'd1 : 8'd0", "a < b ? 8'd0 : 8'd1"),
    Mutant("sign of equal operands", ENCODER, "negative = a < b", "negative = a <= b", "minus zero is zero"),
    Mutant("low rule off by one", ENCODER, "8'd8 + negative", "8'd9 + negative"),
    Mutant("low rule symmetric", ENCODER, "8'd8 + negative", "8'd8"),
    Mutant("mag4 limit", ENCODER, "8'd16 :", "8'd15 :"),
    Mutant("low taken for <=", ENCODER, "m >= low_limit", "m > low_limit"),
    Mutant("original mode classifies", ENCODER, "m >= low_limit || original_i", "m >= low_limit || original_i && sign_q[0][0]"),
    Mutant("zeros not skipped", ENCODER, "m != 8'd0 ? 8'd1 : 8'd0", "m != 8'd0 ? 8'd1 : 8'd1"),
    Mutant("elements past K encoded", ENCODER, "KWidth'(e) >= left", "KWidth'(e) > left"),
    Mutant("last beat assumed full", ENCODER, "left < KWidth'(EncodeWidth)", "left < KWidth'(1)"),
    # encoder: packing
    Mutant("high nibble first everywhere", ENCODER, "slots_q[e][1] && !pos[0]", "slots_q[e][1]"),
    Mutant("high nibble on odd positions", ENCODER, "slots_q[e][1] && !pos[0]", "slots_q[e][1] && pos[0]"),
    Mutant("wrong nibble in lo", ENCODER, "{k, magnitude_q[e][3:0]", "{k, magnitude_q[e][7:4]"),
    Mutant("hi flag missing", ENCODER, "sign_q[e][0], 1'b1}", "sign_q[e][0], 1'b0}"),
    Mutant("k off by one", ENCODER, "beat_k_q + SlotKWidth'(e)", "beat_k_q + SlotKWidth'(e + 1)"),
    Mutant("group too early", ENCODER, "if (fill_q[PosWidth-1])", "if (fill_q[PosWidth-1] || &fill_q[PosWidth-2:0])"),
    Mutant("window not moved", ENCODER, "window_q[i] = window_q[i+GroupSlots]", "window_q[i] = window_q[i]"),
    Mutant("window moved by one less", ENCODER, "window_q[i+GroupSlots];", "window_q[i+GroupSlots-1];"),
    Mutant("rest of the group not cleared", ENCODER, "if (PosWidth'(i) >= fill) window_q[i] = '0;",
           "if (PosWidth'(i) > fill) window_q[i] = '0;"),
    Mutant("full count keeps the row before", ENCODER, "        full_q        = '0;\n      end\n\n", "      end\n\n"),
    Mutant("groups keep the row before", ENCODER, "        groups_q      = '0;\n        full_q        = '0;\n      end\n\n",
           "        full_q        = '0;\n      end\n\n"),
    Mutant("no null group for a zero row", ENCODER, "fill_q != '0 || groups_q == '0", "fill_q != '0"),
    Mutant("flush always writes", ENCODER, "fill_q != '0 || groups_q == '0", "1'b1"),
    Mutant("row ends a cycle early", ENCODER, "row_end_o     <= flush_q;",
           "row_end_o     <= beat_valid_q && beat_last_q;"),
    Mutant("next row not waited for", ENCODER, "taking_q    <= 1'b0;", "taking_q    <= 1'b1;"),
    Mutant("row one beat too long", ENCODER, "k_base_q + KWidth'(EncodeWidth) >= k_i",
           "k_base_q + KWidth'(EncodeWidth) > k_i"),
    Mutant("beat taken without valid", ENCODER, "beat_valid_q <= valid_i && ready_o", "beat_valid_q <= ready_o"),
    # slot buffer
    Mutant("one word too few", BUFFER, "(row_slots_i - CountWidth'(1)) >> 2", "(row_slots_i - CountWidth'(2)) >> 2"),
    Mutant("one word too many", BUFFER, "(row_slots_i - CountWidth'(1)) >> 2", "row_slots_i >> 2"),
    Mutant("banks not toggled on fill", BUFFER, "fill_bank_q              <= !fill_bank_q",
           "fill_bank_q              <= fill_bank_q"),
    Mutant("bank freed a block early", BUFFER, "block_q == last_block_i", "block_q + BlockWidth'(1) >= last_block_i"),
    Mutant("bank never freed", BUFFER, "full_q[replay_bank_q] <= 1'b0", "full_q[replay_bank_q] <= 1'b1"),
    Mutant("replay starts at one", BUFFER, "replay_addr_q <= '0;\n            word_last_o",
           "replay_addr_q <= WordAddrWidth'(1);\n            word_last_o"),
    Mutant("word lost under a stall", BUFFER, "if (!word_ready_i) begin", "if (!word_ready_i && !word_last_o) begin"),
    Mutant("free ignores the bank", BUFFER, "free_o      = !full_q[fill_bank_q]", "free_o      = !(&full_q)",
           "banks fill and empty in turn: the one to fill is full only if both are"),
    Mutant("free if any bank is", BUFFER, "free_o      = !full_q[fill_bank_q]", "free_o      = full_q == 2'b00"),
    Mutant("enc_done stamp", BUFFER, "enc_done_q[fill_bank_q]  <= cycle_i + CycleWidth'(1)",
           "enc_done_q[fill_bank_q]  <= cycle_i"),
    Mutant("starved counts idle", BUFFER, "if (replaying_o) starved_o", "starved_o"),
    Mutant("stalled counts past the end", BUFFER, "if (replaying_o) stalled_o", "stalled_o"),
    Mutant("zero count", BUFFER, "+ CountWidth'(wide_q[replay_bank_q]))", "- CountWidth'(wide_q[replay_bank_q]))"),
    Mutant("counters not cleared", BUFFER, "      busy_o    <= '0;\n", ""),
    Mutant("first flag stays", BUFFER, "word_first_o <= replay_addr_q == '0", "word_first_o <= replay_addr_q <= 1"),
    Mutant("row tag stride", BUFFER, "row_q + RowWidth'(RowStride)", "row_q + RowWidth'(RowStride) + RowWidth'(row_q[2])"),
    # PE array
    Mutant("no shift at position 2", PE, "operand(word_i[2], 1'b1)", "operand(word_i[2], 1'b0)"),
    Mutant("shift by three", PE, "{8'd0, slot.nibble, 4'd0}", "{9'd0, slot.nibble, 3'd0}"),
    Mutant("sign ignored", PE, "slot.sign ? -magnitude : magnitude", "slot.sign ? magnitude : magnitude"),
    Mutant("partial not cleared", PE, "word_first_i ? '0 : '1", "word_first_i ? '1 : '1"),
    Mutant("weights' offset forgotten", PE, "16'h8000 - ((x0 + x1) << 7)", "16'h8000 - ((x0 + x1) << 6)"),
    Mutant("pair bias", PE, "- 32'h1_0000", "- 32'h0_8000"),
    Mutant("wrong row of weights", PE, "{8'd0, weights[row1][c]} * x1", "{8'd0, weights[row0][c]} * x1"),
    Mutant("wrong column", PE, "{8'd0, weights[row3][c]} * x3", "{8'd0, weights[row3][c^1]} * x3"),
    Mutant("weights loaded unflipped", PE, "weight_i[c] ^ 8'h80", "weight_i[c] ^ 8'h00"),
    Mutant("block ignored on load", PE, "weight_addr(weight_bank_i, weight_block_i,", "weight_addr(weight_bank_i, '0,"),
    Mutant("bank ignored on load", PE, "weight_addr(weight_bank_i,", "weight_addr(1'b0,"),
    Mutant("stall without a waiting result", PE, "word_last_i && result_valid_o && !result_ready_i",
           "word_last_i && !result_ready_i"),
    Mutant("result overwritten", PE, "word_last_i && result_valid_o && !result_ready_i",
           "word_last_i && result_valid_o && !result_ready_i && word_first_i"),
    Mutant("result stalls every word", PE, "word_valid_i && word_last_i && result_valid_o",
           "word_valid_i && result_valid_o"),
    Mutant("result valid dropped", PE, "if (result_ready_i) result_valid_o <= 1'b0", "result_valid_o <= 1'b0"),
    Mutant("last flag of the row", PE, "result_last_o  <= row_done_i", "result_last_o  <= word_last_i"),
    Mutant("block tag", PE, "result_block_o <= word_block_i", "result_block_o <= word_block_i ^ BlockWidth'(word_first_i)"),
    # PEs in five stages
    Mutant("a stage that does not wait", PIPELINE, "if (advance) hold_q <= read_q", "hold_q <= read_q"),
    Mutant("results overwritten", PIPELINE, "!(valid_q[Stages] && tag_q[Stages].last && result_valid_o && !result_ready_i)",
           "1'b1"),
    Mutant("sign of the word behind", PIPELINE, "signed_nibble(word_q[s].sign", "signed_nibble(word_i[s].sign"),
    Mutant("shifters a stage early", PIPELINE, "shift_q <= high_q", "shift_q <= {word_q[2].hi, word_q[0].hi}"),
    Mutant("sums not cleared", PIPELINE, "tag_q[Stages].first ? 32'd0 : ", ""),
    Mutant("weights of the other copy", PIPELINE, "addr = weight_valid_i ? load_addr : read_addr[2*p]", "addr = load_addr"),
    Mutant("bank ignored by the stages", PIPELINE, "row |= 32'(bank) <<", "row |= 32'(1'b0) <<"),
    Mutant("prefix sums a step short", ENCODER, "d < EncodeWidth; d = 2 * d", "d < EncodeWidth / 2; d = 2 * d"),
    Mutant("high nibble on odd entries", ENCODER, "slots_q[e][1] && i % 2 == 0", "slots_q[e][1] && i % 2 == 1"),
    # lane
    Mutant("encoder open past the last row", LANE, "bank_free && encode_row_q < rows_i", "bank_free"),
    Mutant("encoder ignores the banks", LANE, "bank_free && encode_row_q < rows_i", "encode_row_q < rows_i"),
    Mutant("one row more", LANE, "encode_row_q < rows_i", "encode_row_q <= rows_i"),
    Mutant("encode row stride", LANE, "encode_row_q + RowWidth'(RowStride)",
           "encode_row_q + RowWidth'(RowStride) + RowWidth'(encode_row_q[2])"),
    Mutant("idle before the result is taken", LANE, "!in_flight && !result_valid_o", "!in_flight"),
    Mutant("idle with words in the stages", LANE, "!word_valid && !in_flight && ", "!word_valid && "),
    Mutant("mode ignored", LANE, "mode_i == ModeOriginal", "mode_i == ModeSpatial"),
    # tile
    Mutant("first row of a lane", TILE, ".FirstRow(l)", ".FirstRow(0)"),
    Mutant("blocks off by one", TILE, "blocks_i - BlockWidth'(1)", "blocks_i"),
    Mutant("start while busy", TILE, "start_i && !busy_q", "start_i"),
    Mutant("mode 3 heard", TILE, "mode_i != 2'd3 && ", ""),
    Mutant("rows that are too long heard", TILE, "32'(k_i) <= KMax", "32'(k_i) <= KMax + 1"),
    Mutant("rows of nothing heard", TILE, "k_i != '0 && ", ""),
    Mutant("too many blocks heard", TILE, "32'(blocks_i) <= Blocks", "32'(blocks_i) <= Blocks + 1"),
    Mutant("rows that wrap heard", TILE, "(RowWidth + 1)'(Lanes - 1)", "(RowWidth + 1)'(0)"),
    Mutant("refused and changed", TILE, "end else if (start) begin", "end else if (heard) begin"),
    Mutant("weights without a place loaded", TILE, "32'(weight_k_i) < KMax && ", ""),
    Mutant("blocks without a place loaded", TILE, " && 32'(weight_block_i) < Blocks", ""),
    Mutant("bank not swapped", TILE, "swap_i && (WeightBanks > 1)", "swap_i && (WeightBanks > 2)"),
    Mutant("bank always swapped", TILE, "(swap_i && (WeightBanks > 1))",
           "((swap_i || rows_i != '0) && (WeightBanks > 1))"),
    Mutant("loads into the active bank", TILE, "(WeightBanks > 1) && !bank_q", "(WeightBanks > 1) && bank_q"),
    Mutant("weights refused while busy", TILE, "(WeightBanks > 1) || !busy_q", "!busy_q"),
    Mutant("cycle not cleared", TILE, "      cycle_q      <= '0;\n", ""),
    Mutant("done with one lane idle", TILE, "if (&idle) busy_q", "if (|idle) busy_q"),
    Mutant("mode not stored", TILE, "mode_e'(mode_i);", "mode_e'(mode_i & 2'd1);"),
)  # fmt: skip


def plant(mutant: Mutant, folder: Path) -> Path:
    """A copy of the RTL with the mutant's line."""
    target = folder / "rtl"
    shutil.copytree(rtl_dir(), target)
    path = target / mutant.file
    text = path.read_text()
    if text.count(mutant.old) < 1:
        raise SystemExit(f"mutations: {mutant.name}: {mutant.old!r} is not in {mutant.file}; update the list")
    path.write_text(text.replace(mutant.old, mutant.new))
    return target


def try_mutant(mutant: Mutant, seconds: float, assertions: bool) -> str:
    """What the regression said: the mismatch, '' if nothing, or 'not built: …'."""
    with tempfile.TemporaryDirectory(prefix="ditto-mutant-") as folder:
        options = BuildOptions(optimize=False, rtl_dir=plant(mutant, Path(folder)))
        checked = regression.CHECKED
        if not assertions:
            regression.CHECKED = ()  # type: ignore[assignment]  # the sets that are built with assertions
        try:
            report = regression.run_regression(
                LaneReference(lane), seconds=seconds, geometries=checked, options=options, smallest=False
            )
        except BuildError as error:
            reason = [line for line in str(error).splitlines() if line.startswith("%")]
            return f"not built: {reason[0] if reason else error}"
        finally:
            regression.CHECKED = checked
    if not report.mismatches:
        return ""
    found = report.mismatches[0]
    where = (
        found.detail.splitlines()[0]
        if found.what in ("assertion", "protocol", "stuck") and found.detail
        else ""
    )
    return f"{found.what} {where}".strip() + f" (pass {report.cases})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--file", default="")
    parser.add_argument("--no-assertions", action="store_true")
    arguments = parser.parse_args()
    os.environ["DITTO_CACHE"] = tempfile.mkdtemp(prefix="ditto-mutants-")
    caught = survived = refused = 0
    for mutant in MUTANTS:
        if arguments.only not in mutant.name or arguments.file not in mutant.file:
            continue
        began = time.monotonic()
        said = try_mutant(mutant, arguments.seconds, not arguments.no_assertions)
        verdict = "refused" if said.startswith("not built") else "caught" if said else "SURVIVED"
        if mutant.keeps_behaviour and not said:
            verdict = "same behaviour"
            said = mutant.keeps_behaviour
        caught += verdict == "caught"
        survived += verdict == "SURVIVED"
        refused += verdict == "refused"
        print(
            f"{verdict:14} {mutant.file:15} {mutant.name:34} {time.monotonic() - began:5.1f} s  {said}",
            flush=True,
        )
    print(
        f"caught {caught} of {caught + survived} mutants that build and change behaviour; {refused} refused"
    )
    return 1 if survived or refused else 0


if __name__ == "__main__":
    sys.exit(main())
