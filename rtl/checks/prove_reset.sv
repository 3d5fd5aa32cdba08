// SPDX-License-Identifier: Apache-2.0
// Proof: from whatever state, one cycle of reset leaves a tile that is silent: nothing busy, nothing valid, no operand asked
// for, at its ports and between its blocks, and it stays so until a start. Registers begin free, so nothing is bounded but the
// cycles after the reset. Bound to Ditto's tile and to both of SQ-DM's. What is assumed: no start.

module prove_reset (
  input logic clk_i,
  input logic rst_ni,
  input logic start_i,
  input logic silent_i
);

  logic reset_q = 1'b0;  // has been reset

  always_ff @(posedge clk_i) begin : silence
    if (!rst_ni) reset_q <= 1'b1;
    assume (rst_ni == reset_q);
    assume (!reset_q || !start_i);
    if (reset_q) assert (silent_i);
  end

endmodule

bind tile prove_reset u_prove (
  .clk_i, .rst_ni, .start_i,
  .silent_i(!busy_o && weight_ready_o && !operand_ready_o[0] && !result_valid_o[0] && !gen_lane[0].u_lane.group_valid
            && !gen_lane[0].u_lane.row_end && !gen_lane[0].u_lane.word_valid && !gen_lane[0].u_lane.replaying)
);

bind dense_tile prove_reset u_prove (
  .clk_i, .rst_ni, .start_i,
  .silent_i(
    !busy_o && weight_ready_o && !operand_ready_o && !result_valid_o && !streaming && !beat_valid_q && !sum_valid
  )
);

bind sparse_tile prove_reset u_prove (
  .clk_i, .rst_ni, .start_i,
  .silent_i(!busy_o && weight_ready_o && !operand_ready_o && !result_valid_o && !group_valid && !row_end && !scale_valid
            && !word_valid && !replaying && !sum_valid)
);
