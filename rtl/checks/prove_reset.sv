// SPDX-License-Identifier: Apache-2.0
// Proof: from whatever state, one cycle of reset leaves a tile that is silent: nothing busy, nothing valid, no operand asked
// for, at its ports and between its blocks, and it stays so until a start. Registers begin free, so nothing is bounded but the
// cycles after the reset. What is assumed: no start.

module prove_reset
  import ditto_pkg::*;
#(
  parameter int unsigned WeightBanks = 1
) (
  input logic                  clk_i,
  input logic                  rst_ni,
  input logic                  swap_i,
  input logic [1:0]            mode_i,
  input logic [RowWidth-1:0]   rows_i,
  input logic [KWidth-1:0]     k_i,
  input logic [BlockWidth-1:0] blocks_i,
  input logic                  start_i,
  input logic                  weight_valid_i,
  input logic [BlockWidth-1:0] weight_block_i,
  input logic [KWidth-1:0]     weight_k_i,
  input logic [7:0]            weight_i [1],
  input logic                  operand_valid_i [1],
  input logic [7:0]            current_i [4],
  input logic [7:0]            reference_i [4],
  input logic                  result_ready_i [1]
);

  logic                  busy;
  logic [CycleWidth-1:0] cycle;
  logic                  weight_ready;
  logic                  operand_ready [1];
  logic                  result_valid [1];

  tile #(
    .Lanes(1), .Columns(1), .EncodeWidth(4), .KMax(8), .NMax(1), .WeightBanks(WeightBanks)
  ) u_tile (
    .clk_i, .rst_ni, .start_i, .swap_i, .mode_i, .rows_i, .k_i, .blocks_i, .busy_o(busy), .cycle_o(cycle),
    .weight_valid_i, .weight_ready_o(weight_ready), .weight_block_i, .weight_k_i, .weight_i,
    .operand_valid_i, .operand_ready_o(operand_ready), .current_i, .reference_i,
    .result_valid_o(result_valid), .result_ready_i, .result_o(), .result_row_o(), .result_block_o(), .result_last_o(),
    .enc_done_o(), .done_o(), .zero_o(), .low_o(), .full_o(), .busy_cycles_o(), .starved_cycles_o(), .stalled_cycles_o()
  );

  logic reset_q = 1'b0;  // has been reset

  always_ff @(posedge clk_i) begin : silence
    if (!rst_ni) reset_q <= 1'b1;
    assume (rst_ni == reset_q);
    assume (!reset_q || !start_i);
    if (reset_q) begin
      assert (!busy && weight_ready && !operand_ready[0] && !result_valid[0]);
      assert (!u_tile.gen_lane[0].u_lane.group_valid && !u_tile.gen_lane[0].u_lane.row_end);
      assert (!u_tile.gen_lane[0].u_lane.word_valid && !u_tile.gen_lane[0].u_lane.replaying);
    end
  end

endmodule
