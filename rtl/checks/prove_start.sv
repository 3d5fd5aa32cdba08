// SPDX-License-Identifier: Apache-2.0
// Proof by induction: a start is heard by an idle tile only; while a pass runs, its configuration and bank stay what they were
// at the start, whatever the ports say; its cycles are counted one by one; one bank takes weights only while no pass runs.
// What is assumed: a reset first.

module prove_start
  import ditto_pkg::*;
(
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
    .Lanes(1), .Columns(1), .EncodeWidth(4), .KMax(8), .NMax(1), .WeightBanks(1)
  ) u_tile (
    .clk_i, .rst_ni, .start_i, .swap_i, .mode_i, .rows_i, .k_i, .blocks_i, .busy_o(busy), .cycle_o(cycle),
    .weight_valid_i, .weight_ready_o(weight_ready), .weight_block_i, .weight_k_i, .weight_i,
    .operand_valid_i, .operand_ready_o(operand_ready), .current_i, .reference_i,
    .result_valid_o(result_valid), .result_ready_i, .result_o(), .result_row_o(), .result_block_o(), .result_last_o(),
    .enc_done_o(), .done_o(), .zero_o(), .low_o(), .full_o(), .busy_cycles_o(), .starved_cycles_o(), .stalled_cycles_o()
  );

  logic                  started_q = 1'b0;
  logic                  heard_q;  // a start came while the tile was idle
  logic                  busy_q;
  logic                  was_reset_q;
  logic [CycleWidth-1:0] cycle_q;
  mode_e                 mode_q;
  logic [RowWidth-1:0]   rows_q;
  logic [KWidth-1:0]     k_q;
  logic [BlockWidth-1:0] blocks_q;

  always_ff @(posedge clk_i) begin : start
    started_q   <= 1'b1;
    was_reset_q <= !rst_ni;
    heard_q     <= start_i && !busy;
    busy_q      <= busy;
    cycle_q     <= cycle;
    if (!busy) begin
      mode_q   <= mode_e'(mode_i);
      rows_q   <= rows_i;
      k_q      <= k_i;
      blocks_q <= blocks_i;
    end
    assume (rst_ni == started_q);
    if (rst_ni) begin
      assert (weight_ready == !busy);
      if (!was_reset_q) assert (!busy || busy_q || heard_q);
      if (!was_reset_q && heard_q) assert (busy && cycle == '0);
      if (!was_reset_q && busy && busy_q) assert (cycle == cycle_q + CycleWidth'(1));
      if (was_reset_q) assert (!busy);
      if (busy) begin
        assert (u_tile.mode_q == mode_q && u_tile.rows_q == rows_q && u_tile.k_q == k_q);
        assert (u_tile.last_block_q == blocks_q - BlockWidth'(1));
      end
    end
  end

endmodule
