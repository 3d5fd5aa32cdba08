// SPDX-License-Identifier: Apache-2.0
// Proof: from whatever state, one cycle of reset leaves one of SQ-DM's tiles silent: nothing busy, nothing valid, no operand asked
// for, at its ports and between its blocks, and it stays so until a start. Registers begin free, so nothing is bounded but the
// cycles after the reset. What is assumed: no start.

module prove_array_reset
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter bit Sparse = 1'b0
) (
  input logic                    clk_i,
  input logic                    rst_ni,
  input logic                    start_i,
  input logic                    signed_i,
  input logic [RowWidth-1:0]     rows_i,
  input logic [SegmentWidth-1:0] segments_i,
  input logic [BlockWidth-1:0]   blocks_i,
  input logic                    weight_valid_i,
  input logic                    weight_scale_i,
  input logic [BlockWidth-1:0]   weight_block_i,
  input logic [KWidth-1:0]       weight_k_i,
  input logic [7:0]              weight_i [1],
  input logic                    operand_valid_i,
  input logic [CodeWidth-1:0]    code_i [4],
  input logic                    last_i,
  input logic [7:0]              scale_i,
  input logic                    result_ready_i
);

  logic busy;
  logic weight_ready;
  logic operand_ready;
  logic result_valid;
  logic moving;  // something is on its way between blocks

  if (Sparse) begin : gen_sparse
    sparse_tile #(
      .Columns(1), .EncodeWidth(4), .BlockSize(16), .KMax(32), .NMax(1)
    ) u_tile (
      .clk_i, .rst_ni, .start_i, .signed_i, .rows_i, .segments_i, .blocks_i, .busy_o(busy), .cycle_o(),
      .weight_valid_i, .weight_ready_o(weight_ready), .weight_scale_i, .weight_block_i, .weight_k_i, .weight_i,
      .operand_valid_i, .operand_ready_o(operand_ready), .code_i, .last_i, .scale_i,
      .result_valid_o(result_valid), .result_ready_i, .result_o(), .result_row_o(), .result_block_o(), .result_last_o(),
      .enc_done_o(), .done_o(), .nonzero_o(), .busy_cycles_o(), .starved_cycles_o(), .stalled_cycles_o()
    );
    assign moving = u_tile.group_valid || u_tile.row_end || u_tile.scale_valid || u_tile.word_valid || u_tile.replaying
                    || u_tile.sum_valid;
  end else begin : gen_dense
    dense_tile #(
      .Columns(1), .DenseWidth(4), .BlockSize(16), .KMax(32), .NMax(1)
    ) u_tile (
      .clk_i, .rst_ni, .start_i, .signed_i, .rows_i, .segments_i, .blocks_i, .busy_o(busy), .cycle_o(),
      .weight_valid_i, .weight_ready_o(weight_ready), .weight_scale_i, .weight_block_i, .weight_k_i, .weight_i,
      .operand_valid_i, .operand_ready_o(operand_ready), .code_i, .last_i, .scale_i,
      .result_valid_o(result_valid), .result_ready_i, .result_o(), .result_row_o(), .result_block_o(), .result_last_o(),
      .done_o(), .busy_cycles_o(), .starved_cycles_o(), .stalled_cycles_o()
    );
    assign moving = u_tile.streaming || u_tile.beat_valid_q || u_tile.sum_valid;
  end

  logic reset_q = 1'b0;  // has been reset

  always_ff @(posedge clk_i) begin : silence
    if (!rst_ni) reset_q <= 1'b1;
    assume (rst_ni == reset_q);
    assume (!reset_q || !start_i);
    if (reset_q) assert (!busy && weight_ready && !operand_ready && !result_valid && !moving);
  end

endmodule
