// SPDX-License-Identifier: Apache-2.0
// What the proofs of both of SQ-DM's PE arrays say of one column: the sums of a segment leave once, as they are due, one cycle
// behind its last beat or word, and stand until they are taken; weights stand in memory as they were loaded, whichever `pick_i`
// names.
// What is assumed: a reset first; loads come while no pass runs.
// What it does not do: say what is due (the proof that holds it), or that what stands beside the sums waits (hold_checks).

module segment_checks
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  localparam int unsigned SumsWidth = SumWidth + SegmentWidth + $bits(scale_t) + 2
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // Weights of one column, and two of them as they stand in memory
  input  logic [3:0]           pick_i,
  input  logic                 weight_valid_i,
  input  logic [KWidth-1:0]    weight_k_i,
  input  logic [7:0]           weight_i,
  input  logic [3:0]           even_i,
  input  logic [3:0]           odd_i,

  // Beats, or words: what the sums are with this one, and what belongs to them
  input  logic                 valid_i,
  input  logic                 ready_i,
  input  logic                 ends_i,  // the segment
  input  logic [SumWidth-1:0]  due_i,
  input  logic [SumsWidth-SumWidth-1:0] beside_i,
  output logic                 open_o,  // a segment has begun and not ended
  output logic [SumWidth-1:0]  due_o,   // of what it has had

  // Sums of a segment as they leave
  input  logic                 sum_valid_i,
  input  logic                 sum_ready_i,
  input  logic [SumsWidth-1:0] sums_i
);

  logic                 started_q = 1'b0;
  logic [3:0]           pick_q;
  logic                 loaded_q;   // the weights of `pick_i` have been
  logic [7:0]           weights_q;  // as which
  logic                 sums_due_q;
  logic [SumsWidth-1:0] sums_q;

  always_ff @(posedge clk_i) begin : sums
    started_q <= 1'b1;
    pick_q    <= pick_i;
    assume (rst_ni == started_q);
    if (started_q) assume (pick_i == pick_q);
    assume (!(weight_valid_i && valid_i));
    if (!rst_ni) begin
      loaded_q   <= 1'b0;
      open_o     <= 1'b0;
      sums_due_q <= 1'b0;
    end else begin
      if (weight_valid_i && weight_k_i[4:1] == pick_i) begin
        loaded_q  <= 1'b1;
        weights_q <= weight_i;
      end
      if (sum_ready_i) sums_due_q <= 1'b0;
      if (valid_i && ready_i) begin
        open_o <= !ends_i;
        due_o  <= due_i;
        if (ends_i) begin
          sums_due_q <= 1'b1;
          sums_q     <= {due_i, beside_i};
        end
      end
      assert (ready_i == sum_ready_i && sum_valid_i == sums_due_q);
      if (sum_valid_i) assert (sums_i == sums_q);
      if (loaded_q) assert ({odd_i, even_i} == (weights_q ^ 8'h88));
    end
  end

endmodule
