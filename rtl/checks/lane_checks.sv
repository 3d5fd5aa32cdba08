// SPDX-License-Identifier: Apache-2.0
// Assertions of a lane, bound into every lane of a checked build; speed runs and synthesis never see this file.
//
// Nothing is valid out of reset; handshakes hold until transfer; every difference of a row is replayed exactly once per column block, as slots whose
// values sum up to it and whose high nibbles sit on even positions; sums stay within what K elements can make; nothing is
// written to a bank that is full; every cycle of the replay is counted as busy, starved or stalled.
// What it does not do: check products (the regression compares every accumulator) or cycles (it compares those too).

module lane_checks
  import ditto_pkg::*;
#(
  parameter int unsigned Columns     = 128,
  parameter int unsigned EncodeWidth = 8
) (
  input logic clk_i,
  input logic rst_ni,
  input logic start_i,
  input logic [KWidth-1:0] k_i,
  input logic [CycleWidth-1:0] cycle_i,

  input logic       operand_valid_i,
  input logic       operand_ready_o,
  input logic [7:0] current_i   [EncodeWidth],
  input logic [7:0] reference_i [EncodeWidth],

  input logic       bank_free,
  input logic       group_valid,
  input slot_word_t group [2 * EncodeWidth / SlotsPerWord],
  input logic       row_end,
  input logic       replaying,

  input logic       word_valid,
  input logic       word_ready,
  input slot_word_t word,
  input logic       word_first,
  input logic       word_last,
  input logic       row_done,

  input logic                  result_valid_o,
  input logic                  result_ready_i,
  input logic [31:0]           result_o [Columns],
  input logic [BlockWidth-1:0] result_block_o,
  input logic [RowWidth-1:0]   result_row_o,
  input logic                  result_last_o,

  input logic [CycleWidth-1:0] busy_o,
  input logic [CycleWidth-1:0] starved_o,
  input logic [CycleWidth-1:0] stalled_o
);

  ////////////////////////////////////////////////////
  // Out of reset                                   //
  ////////////////////////////////////////////////////

  logic reset_q;

  always_ff @(posedge clk_i) begin : silence
    reset_q <= !rst_ni;
    if (rst_ni && reset_q) begin
      assert (!operand_ready_o && !group_valid && !row_end && !word_valid && !replaying && !result_valid_o)
      else $error("something is valid out of reset");
    end
  end

  ////////////////////////////////////////////////////
  // Handshakes                                     //
  ////////////////////////////////////////////////////

  logic [16*EncodeWidth-1:0] operands;
  logic [32*Columns-1:0]     results;

  for (genvar e = 0; e < EncodeWidth; e++) begin : gen_operands
    assign operands[16*e+:16] = {reference_i[e], current_i[e]};
  end
  for (genvar c = 0; c < Columns; c++) begin : gen_sums
    assign results[32*c+:32] = result_o[c];
  end

  hold_checks #(
    .Width(16 * EncodeWidth)
  ) u_operand (
    .clk_i, .rst_ni, .valid_i(operand_valid_i), .ready_i(operand_ready_o), .payload_i(operands)
  );

  hold_checks #(
    .Width(32 * Columns + BlockWidth + RowWidth + 1)
  ) u_result (
    .clk_i, .rst_ni, .valid_i(result_valid_o), .ready_i(result_ready_i),
    .payload_i({results, result_block_o, result_row_o, result_last_o})
  );

  ////////////////////////////////////////////////////
  // One element of every row                       //
  ////////////////////////////////////////////////////

  logic [SlotKWidth-1:0] pick_q;

  always_ff @(posedge clk_i) begin : pick
    if (!rst_ni) pick_q <= '0;
    else if (row_end) pick_q <= {1'b0, pick_q} + KWidth'(7) < k_i ? pick_q + SlotKWidth'(7) : SlotKWidth'(pick_q[1:0]);
  end

  element_checks #(
    .EncodeWidth(EncodeWidth)
  ) u_element (
    .clk_i, .rst_ni, .pick_i(pick_q), .k_i, .taken_i(operand_valid_i && operand_ready_o), .current_i, .reference_i,
    .group_valid_i(group_valid), .group_i(group), .row_end_i(row_end)
  );

  ////////////////////////////////////////////////////
  // Slots: in = out, for every block               //
  ////////////////////////////////////////////////////

  // Sums over a row of value * weight(k), with weights that tell elements apart.
  function automatic int signature(int k, int value);
    return value * (k * 40503 + 12345);
  endfunction

  int         row_sum_q;
  int         row_k_q;
  int         expected_q [4];  // rows taken but not yet replayed: at most one in flight and two in banks
  logic [1:0] put_q;
  logic [1:0] get_q;
  int         block_sum_q;

  // A scoreboard, not hardware: it is written like a program.
  // verilator lint_off BLKSEQ
  // verilog_lint: waive-start always-ff-non-blocking
  always_ff @(posedge clk_i) begin : slots
    if (!rst_ni) begin
      row_sum_q = 0;
      row_k_q   = 0;
      put_q     = '0;
      get_q     = '0;
    end else begin
      if (operand_valid_i && operand_ready_o) begin
        for (int e = 0; e < int'(EncodeWidth); e++) begin
          if (row_k_q + e < int'(k_i)) begin
            row_sum_q += signature(row_k_q + e, int'($signed(current_i[e])) - int'($signed(reference_i[e])));
          end
        end
        row_k_q += int'(EncodeWidth);
        if (row_k_q >= int'(k_i)) begin
          expected_q[put_q] = row_sum_q;
          put_q             = put_q + 2'd1;
          row_sum_q         = 0;
          row_k_q           = 0;
        end
      end
      if (word_valid && word_ready) begin
        if (word_first) block_sum_q = 0;
        for (int i = 0; i < int'(SlotsPerWord); i++) begin
          automatic int value = int'(word[i].nibble) << (word[i].hi ? 4 : 0);
          assert (!word[i].hi || i % 2 == 0) else $error("a high nibble sits on odd position %0d", i);
          assert (word[i].nibble == '0 || {1'b0, word[i].k} < k_i) else $error("a slot of element %0d", word[i].k);
          block_sum_q += signature(int'(word[i].k), word[i].sign ? -value : value);
        end
        if (word_last) assert (block_sum_q == expected_q[get_q]) else $error("slots were lost, doubled or changed");
        if (row_done) get_q = get_q + 2'd1;
      end
      if (group_valid || row_end) assert (bank_free) else $error("slots were written to a full bank");
    end
  end
  // verilog_lint: waive-stop always-ff-non-blocking
  // verilator lint_on BLKSEQ

  ////////////////////////////////////////////////////
  // Sums and counters                              //
  ////////////////////////////////////////////////////

  always_ff @(posedge clk_i) begin : sums
    if (rst_ni && result_valid_o) begin
      for (int c = 0; c < int'(Columns); c++) begin
        automatic int limit = 255 * 128 * int'(k_i);
        assert ($signed(result_o[c]) <= limit && $signed(result_o[c]) >= -limit)
        else $error("column %0d holds more than %0d elements can make", c, k_i);
      end
    end
    if (rst_ni && !start_i && replaying) begin
      assert (busy_o + starved_o + stalled_o == cycle_i) else $error("a cycle was counted twice or not at all");
    end
  end

endmodule

bind lane lane_checks #(.Columns(Columns), .EncodeWidth(EncodeWidth)) u_checks (.*);
