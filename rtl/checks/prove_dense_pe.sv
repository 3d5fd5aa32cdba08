// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of one column of a dense PE array: the sums of a segment are those of code * offset weight over its beats,
// less the offset, each beat once; they wait unchanged until they are taken, and nothing else moves meanwhile. Weights stand in
// memory as they were loaded, whichever `pick_i` names.
// The multiplications are abstracted (`free_products`): of the same operands they give the same, whatever that is; the
// regression compares every product.
// What is assumed: a reset first; a beat that waits does not change; segments begin at their place 0.

module prove_dense_pe
  import ditto_pkg::*;
  import sq_dm_pkg::*;
(
  input logic                  clk_i,
  input logic                  rst_ni,
  input logic                  signed_i,
  input logic [3:0]            pick_i,
  input logic                  weight_valid_i,
  input logic [KWidth-1:0]     weight_k_i,
  input logic [7:0]            weight_i [1],
  input logic                  beat_valid_i,
  input logic [CodeWidth-1:0]  beat_code_i [4],
  input logic [SlotKWidth-1:0] beat_k_i,
  input scale_t                beat_scale_i,
  input logic                  beat_last_i,
  input logic                  beat_first_segment_i,
  input logic                  beat_last_segment_i,
  input logic [CycleWidth-1:0] done_i,
  input logic                  sum_ready_i
);

  logic                    beat_ready;
  logic                    sum_valid;
  logic [SumWidth-1:0]     sum [1];
  logic [SegmentWidth-1:0] sum_segment;
  scale_t                  sum_scale;
  logic                    sum_first;
  logic                    sum_last;
  logic [CycleWidth-1:0]   done;

  dense_pe_array #(
    .Columns(1), .DenseWidth(4), .KMax(32), .Blocks(1), .BlockSize(16)
  ) u_pes (
    .clk_i, .rst_ni, .signed_i, .weight_valid_i, .weight_block_i('0), .weight_k_i, .weight_i,
    .beat_valid_i, .beat_ready_o(beat_ready), .beat_code_i, .beat_k_i, .beat_block_i('0), .beat_scale_i, .beat_last_i,
    .beat_first_segment_i, .beat_last_segment_i, .done_i,
    .sum_valid_o(sum_valid), .sum_ready_i, .sum_o(sum), .sum_segment_o(sum_segment), .sum_scale_o(sum_scale),
    .sum_first_o(sum_first), .sum_last_o(sum_last), .done_o(done)
  );

  hold_checks #(
    .Width(SumWidth + SegmentWidth + 8 + 2 + CycleWidth)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(sum_valid), .ready_i(sum_ready_i),
    .payload_i({sum[0], sum_segment, sum_scale, sum_first, sum_last, done})
  );

  ////////////////////////////////////////////////////
  // The sum that is due                            //
  ////////////////////////////////////////////////////

  function automatic logic [SumWidth-1:0] extended(logic [CodeWidth-1:0] code);
    return {signed_i && code[3] ? 12'hfff : 12'd0, code};
  endfunction

  function automatic logic [SumWidth-1:0] product(logic [CodeWidth-1:0] code, logic [3:0] weight);
    return {12'd0, weight} * extended(code);
  endfunction

  logic                started_q = 1'b0;
  logic                signed_q;
  logic                open;  // a segment has begun and not ended
  logic [SumWidth-1:0] due_so_far;
  logic [SumWidth-1:0] due;
  logic [SumWidth-1:0] offset;
  logic [5:0]          row;  // as the array has it, so that the same weights are multiplied

  assign row    = {1'b0, beat_k_i[4:0]};
  assign offset = (extended(beat_code_i[0]) + extended(beat_code_i[1]) + extended(beat_code_i[2])
                   + extended(beat_code_i[3])) << 3;
  assign due = (open ? due_so_far : '0) - offset + product(beat_code_i[0], u_pes.weights[row][0])
               + product(beat_code_i[1], u_pes.weights[row+6'd1][0]) + product(beat_code_i[2], u_pes.weights[row+6'd2][0])
               + product(beat_code_i[3], u_pes.weights[row+6'd3][0]);

  segment_checks u_segments (
    .clk_i, .rst_ni, .pick_i, .weight_valid_i, .weight_k_i, .weight_i(weight_i[0]),
    .even_i(u_pes.weights[{pick_i, 1'b0}][0]), .odd_i(u_pes.weights[{pick_i, 1'b1}][0]),
    .valid_i(beat_valid_i), .ready_i(beat_ready), .ends_i(beat_last_i), .due_i(due),
    .beside_i({SegmentWidth'(beat_k_i >> 4), beat_scale_i, beat_first_segment_i, beat_last_segment_i}),
    .open_o(open), .due_o(due_so_far),
    .sum_valid_i(sum_valid), .sum_ready_i, .sums_i({sum[0], sum_segment, sum_scale, sum_first, sum_last})
  );

  always_ff @(posedge clk_i) begin : beats
    started_q <= 1'b1;
    signed_q  <= signed_i;
    if (started_q) assume (signed_i == signed_q);
    assume (beat_k_i[1:0] == '0 && (beat_k_i[3:0] == '0) == !open);  // a segment's first beat, and no other
    if (rst_ni && open) assert (u_pes.partial_q[0] == due_so_far);
  end

endmodule
