// SPDX-License-Identifier: Apache-2.0
// Proof by induction: a start is heard by an idle tile only, and only one that it can take, which is told; while a pass runs, its configuration and bank stay what they were
// at the start, whatever the ports say; its cycles are counted one by one; one bank takes weights only while no pass runs.
// What is assumed: a reset first.

module prove_start
  import ditto_pkg::*;
#(
  parameter int unsigned Lanes  = 1,
  parameter int unsigned KMax   = 8,
  parameter int unsigned Blocks = 1
) (
  input logic                  clk_i,
  input logic                  rst_ni,
  input logic                  start_i,
  input logic [1:0]            mode_i,
  input logic [RowWidth-1:0]   rows_i,
  input logic [KWidth-1:0]     k_i,
  input logic [BlockWidth-1:0] blocks_i,
  input logic                  busy_i,
  input logic                  refused_i,
  input logic [CycleWidth-1:0] cycle_i,
  input logic                  weight_ready_i,

  // What the tile goes by
  input mode_e                 pass_mode_i,
  input logic [RowWidth-1:0]   pass_rows_i,
  input logic [KWidth-1:0]     pass_k_i,
  input logic [BlockWidth-1:0] pass_last_block_i
);

  logic                  started_q = 1'b0;
  logic                  can;
  logic                  heard_q;  // a start came while the tile was idle
  logic                  could_q;  // and it was one that the tile can take
  logic                  busy_q;
  logic                  was_reset_q;
  logic [CycleWidth-1:0] cycle_q;
  mode_e                 mode_q;
  logic [RowWidth-1:0]   rows_q;
  logic [KWidth-1:0]     k_q;
  logic [BlockWidth-1:0] blocks_q;

  assign can = mode_i < 2'd3 && k_i > '0 && 32'(k_i) <= KMax && blocks_i > '0 && 32'(blocks_i) <= Blocks
               && 40'(rows_i) + 40'(Lanes) <= 40'h1000000;

  always_ff @(posedge clk_i) begin : start
    started_q   <= 1'b1;
    was_reset_q <= !rst_ni;
    heard_q     <= start_i && !busy_i;
    could_q     <= can;
    busy_q      <= busy_i;
    cycle_q     <= cycle_i;
    if (!busy_i) begin
      mode_q   <= mode_e'(mode_i);
      rows_q   <= rows_i;
      k_q      <= k_i;
      blocks_q <= blocks_i;
    end
    assume (rst_ni == started_q);
    if (rst_ni) begin
      assert (weight_ready_i == !busy_i);
      if (!was_reset_q) assert (!busy_i || busy_q || (heard_q && could_q));
      if (!was_reset_q && heard_q) assert (busy_i == could_q && refused_i != could_q);
      if (!was_reset_q && heard_q && could_q) assert (cycle_i == '0);
      if (!was_reset_q && busy_i && busy_q) assert (cycle_i == cycle_q + CycleWidth'(1));
      if (was_reset_q) assert (!busy_i && !refused_i);
      if (busy_i) assert (!refused_i);
      if (busy_i) begin
        assert (pass_mode_i == mode_q && pass_rows_i == rows_q && pass_k_i == k_q);
        assert (pass_last_block_i == blocks_q - BlockWidth'(1));
      end
    end
  end

endmodule

bind tile prove_start #(.Lanes(Lanes), .KMax(KMax), .Blocks(NMax / Columns)) u_prove (
  .clk_i, .rst_ni, .start_i, .mode_i, .rows_i, .k_i, .blocks_i,
  .busy_i(busy_o), .refused_i(refused_o), .cycle_i(cycle_o), .weight_ready_i(weight_ready_o),
  .pass_mode_i(mode_q), .pass_rows_i(rows_q), .pass_k_i(k_q), .pass_last_block_i(last_block_q)
);
