// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of one column of a block accumulator: what it offers is the sum over the segments since the last result of
// sum * scale_a * scale_w, exactly; results count rows and column blocks, hold until they are taken, and only the last sums
// of a result are ever made to wait.
// The two multiplications are abstracted (`free_products`): of the same operands they give the same, whatever that is; the
// regression compares every product.
// Scales stand in memory as they were loaded.
// What is assumed: a result begins where the one before ended; starts and loads come while no sums do.

module prove_accumulator
  import ditto_pkg::*;
  import sq_dm_pkg::*;
(
  input logic                    clk_i,
  input logic                    rst_ni,
  input logic                    start_i,
  input logic [BlockWidth-1:0]   last_block_i,
  input logic                    scale_valid_i,
  input logic [BlockWidth-1:0]   scale_block_i,
  input logic [SegmentWidth-1:0] scale_segment_i,
  input logic [7:0]              scale_i [1],
  input logic                    sum_valid_i,
  input logic [SumWidth-1:0]     sum_i [1],
  input logic [SegmentWidth-1:0] sum_segment_i,
  input scale_t                  sum_scale_i,
  input logic                    sum_last_i,
  input logic                    result_ready_i
);

  logic                  first_q;  // the next sums are a result's first
  logic                  sum_ready;
  logic                  result_valid;
  logic [AccWidth-1:0]   result [1];
  logic [RowWidth-1:0]   result_row;
  logic [BlockWidth-1:0] result_block;
  logic                  result_last;

  block_accumulator #(
    .Columns(1), .Segments(2), .Blocks(2)
  ) u_accumulator (
    .clk_i, .rst_ni, .start_i, .last_block_i,
    .scale_valid_i, .scale_block_i, .scale_segment_i, .scale_i,
    .sum_valid_i, .sum_ready_o(sum_ready), .sum_i, .sum_segment_i, .sum_scale_i, .sum_first_i(first_q), .sum_last_i,
    .enc_done_i('0), .done_i('0), .nonzero_i('0),
    .result_valid_o(result_valid), .result_ready_i, .result_o(result), .result_row_o(result_row),
    .result_block_o(result_block), .result_last_o(result_last), .enc_done_o(), .done_o(), .nonzero_o()
  );

  hold_checks #(
    .Width(AccWidth + RowWidth + BlockWidth + 1)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(result_valid), .ready_i(result_ready_i),
    .payload_i({result[0], result_row, result_block, result_last})
  );

  ////////////////////////////////////////////////////
  // The sum that is due                            //
  ////////////////////////////////////////////////////

  logic                  started_q = 1'b0;
  scale_t                scales_q [4];  // what was loaded, by column block and segment
  logic [AccWidth-1:0]   due_q;         // of the segments since the last result
  logic [AccWidth-1:0]   due_result_q;
  logic [BlockWidth-1:0] due_block_q;
  logic [RowWidth-1:0]   due_row_q;
  logic [BlockWidth-1:0] block_q;
  logic [RowWidth-1:0]   row_q;
  logic                  taken;
  scale_t                scale;
  logic [15:0]           mantissa;
  logic [31:0]           product;
  logic [4:0]            shift;
  logic [AccWidth-1:0]   term;
  logic [AccWidth-1:0]   sum;

  assign taken    = sum_valid_i && sum_ready;
  assign scale    = u_accumulator.scales[{u_accumulator.block_q[0], sum_segment_i[0]}][0];
  assign mantissa = {12'd0, sum_scale_i.mantissa} * {12'd0, scale.mantissa};
  assign product  = {16'd0, sum_i[0] ^ 16'h8000} * {16'd0, mantissa};
  assign shift    = {1'b0, sum_scale_i.exponent} + {1'b0, scale.exponent};
  assign term     = ({24'd0, product} - {25'd0, mantissa, 15'd0}) << shift;
  assign sum      = (first_q ? '0 : due_q) + term;

  always_ff @(posedge clk_i) begin : due
    started_q <= 1'b1;
    assume (rst_ni == started_q);
    if (!rst_ni) begin
      first_q <= 1'b1;
    end else begin
      assume (!start_i || !(sum_valid_i || result_valid));  // a start is heard by an idle tile only
      if (scale_valid_i) scales_q[{scale_block_i[0], scale_segment_i[0]}] <= unpack_scale(scale_i[0]);
      if (start_i) begin
        block_q <= '0;
        row_q   <= '0;
      end
      if (taken) begin
        first_q <= sum_last_i;
        due_q   <= sum;
        if (sum_last_i) begin
          due_result_q <= sum;
          due_block_q  <= block_q;
          due_row_q    <= row_q;
          block_q      <= block_q == last_block_i ? '0 : block_q + BlockWidth'(1);
          if (block_q == last_block_i) row_q <= row_q + RowWidth'(1);
        end
      end
      assert (sum_ready || (sum_valid_i && sum_last_i && result_valid && !result_ready_i));
      if (result_valid) assert (result[0] == due_result_q);
    end
  end

  ////////////////////////////////////////////////////
  // Invariants                                     //
  ////////////////////////////////////////////////////

  logic [3:0] loaded_q;  // so that memories are compared from the first load on
  logic passing_q;       // a pass has begun, so that counters are

  always_ff @(posedge clk_i) begin : invariants
    if (!rst_ni) begin
      loaded_q  <= '0;
      passing_q <= 1'b0;
    end else begin
      if (scale_valid_i) loaded_q[{scale_block_i[0], scale_segment_i[0]}] <= 1'b1;
      if (start_i) passing_q <= 1'b1;
      assume (!sum_valid_i || passing_q);
      assume (!(scale_valid_i && sum_valid_i));  // loads are heard while no pass runs
      for (int unsigned s = 0; s < 4; s++) begin
        if (loaded_q[s]) assert (u_accumulator.scales[s][0] == scales_q[s]);
      end
      if (!first_q) assert (u_accumulator.acc_q[0] == due_q && passing_q);
      if (passing_q) assert (u_accumulator.row_q == row_q && u_accumulator.block_q == block_q);
      if (result_valid) begin
        assert (passing_q && result_row == due_row_q && result_block == due_block_q);
      end
    end
  end

endmodule
