// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of one column in five stages: what a word does to the partial sum is what its four slots are worth with the
// weights as they were loaded, whatever stalls meanwhile; a block's last word hands the sum on, with the word's row and block;
// results hold until they are taken, and only a last word is ever waited for.
// The invariants say of every stage what is in it. What is assumed: a reset first; weights load while no word is on its way (the
// tile sees to it); no high nibble on an odd position (the encoder's proof).

module prove_pipeline
  import ditto_pkg::*;
#(
  localparam int unsigned KMax   = 4,
  localparam int unsigned Stages = 4
) (
  input logic                  clk_i,
  input logic                  rst_ni,
  input logic                  weight_valid_i,
  input logic [KWidth-1:0]     weight_k_i,
  input logic [7:0]            weight_i [1],
  input logic                  word_valid_i,
  input slot_word_t            word_i,
  input logic                  word_first_i,
  input logic                  word_last_i,
  input logic [BlockWidth-1:0] word_block_i,
  input logic [RowWidth-1:0]   word_row_i,
  input logic                  row_done_i,
  input logic [CycleWidth-1:0] enc_done_i,
  input logic [CycleWidth-1:0] done_i,
  input logic [KWidth-1:0]     zero_i,
  input logic [KWidth-1:0]     low_i,
  input logic [KWidth-1:0]     full_i,
  input logic                  result_ready_i
);

  logic                  word_ready;
  logic                  in_flight;
  logic                  result_valid;
  logic [31:0]           result [1];
  logic [RowWidth-1:0]   result_row;
  logic [BlockWidth-1:0] result_block;
  logic                  result_last;
  logic [CycleWidth-1:0] enc_done;
  logic [CycleWidth-1:0] done;
  logic [KWidth-1:0]     zero;
  logic [KWidth-1:0]     low;
  logic [KWidth-1:0]     full;

  pe_pipeline #(
    .Columns(1), .KMax(KMax), .Blocks(1), .WeightBanks(1)
  ) u_pe (
    .clk_i, .rst_ni, .weight_valid_i, .weight_bank_i(1'b0), .weight_block_i('0), .weight_k_i, .weight_i,
    .active_bank_i(1'b0), .word_valid_i, .word_ready_o(word_ready), .word_i, .word_first_i, .word_last_i, .word_block_i,
    .word_row_i, .row_done_i, .enc_done_i, .done_i, .zero_i, .low_i, .full_i, .in_flight_o(in_flight),
    .result_valid_o(result_valid), .result_ready_i, .result_o(result), .result_row_o(result_row),
    .result_block_o(result_block), .result_last_o(result_last), .enc_done_o(enc_done), .done_o(done), .zero_o(zero),
    .low_o(low), .full_o(full)
  );

  hold_checks #(
    .Width(32 + RowWidth + BlockWidth + 1 + 2 * CycleWidth + 3 * KWidth)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(result_valid), .ready_i(result_ready_i),
    .payload_i({result[0], result_row, result_block, result_last, enc_done, done, zero, low, full})
  );

  ////////////////////////////////////////////////////
  // What was loaded, and which word is where       //
  ////////////////////////////////////////////////////

  localparam int unsigned TagWidth = RowWidth + BlockWidth + 1 + 2 * CycleWidth + 3 * KWidth;

  logic signed [7:0]     loaded_q [KMax];
  slot_word_t            word_q   [Stages+1];
  logic [TagWidth-1:0]   tag_q    [Stages+1];
  logic                  first_q  [Stages+1];
  logic                  last_q   [Stages+1];

  assign word_q[0]  = word_i;
  assign tag_q[0]   = {word_row_i, word_block_i, row_done_i, enc_done_i, done_i, zero_i, low_i, full_i};
  assign first_q[0] = word_first_i;
  assign last_q[0]  = word_last_i;

  for (genvar s = 1; s <= Stages; s++) begin : gen_stage
    always_ff @(posedge clk_i) begin
      if (word_ready) begin
        word_q[s]  <= word_q[s-1];
        tag_q[s]   <= tag_q[s-1];
        first_q[s] <= first_q[s-1];
        last_q[s]  <= last_q[s-1];
      end
    end
  end

  always_ff @(posedge clk_i) begin : load
    if (weight_valid_i) loaded_q[weight_k_i[$clog2(KMax)-1:0]] <= weight_i[0];
  end

  logic [7:0] stored [2][KMax];  // both copies

  for (genvar k = 0; k < KMax; k++) begin : gen_stored
    assign stored[0][k] = u_pe.gen_two_copies.gen_copy[0].memory[k];
    assign stored[1][k] = u_pe.gen_two_copies.gen_copy[1].memory[k];
  end

  function automatic logic signed [7:0] weight_of(slot_t slot);
    return loaded_q[slot.k[$clog2(KMax)-1:0]];
  endfunction

  // Products of a signed nibble and a weight fit 12 bits: |15 * 128| < 2^11. The multipliers give anything, but one thing for the
  // same two numbers: what stands here is what stands there.
  typedef logic signed [11:0] product_t;
  product_t product_q [Stages+1][SlotsPerWord];

  always_ff @(posedge clk_i) begin : products
    if (word_ready) begin
      for (int unsigned s = 0; s < SlotsPerWord; s++) begin
        product_q[3][s] <= product_t'(u_pe.nibble_q[s] * $signed(u_pe.hold_q[s][7:0]));
        product_q[4][s] <= product_q[3][s];
      end
    end
  end

  // What the word at the sums is worth: a high nibble counts sixteenfold.
  function automatic logic signed [31:0] worth(slot_t slot, product_t product);
    return slot.hi ? 32'(product) <<< 4 : 32'(product);
  endfunction

  logic [31:0] worth_of_word;

  assign worth_of_word = worth(word_q[4][0], product_q[4][0]) + worth(word_q[4][1], product_q[4][1])
                       + worth(word_q[4][2], product_q[4][2]) + worth(word_q[4][3], product_q[4][3]);

  ////////////////////////////////////////////////////
  // Sums                                           //
  ////////////////////////////////////////////////////

  logic                started_q = 1'b0;
  logic                summed_q;   // a word reached the sums in the cycle before
  logic                handed_q;   // and was its block's last
  logic [31:0]         expected_q;
  logic [TagWidth-1:0] expected_tag_q;
  logic                reaches;

  assign reaches = u_pe.valid_q[Stages] && word_ready;

  always_ff @(posedge clk_i) begin : sums
    started_q      <= 1'b1;
    summed_q       <= rst_ni && reaches;
    handed_q       <= rst_ni && reaches && last_q[Stages];
    expected_q     <= (first_q[Stages] ? 32'd0 : u_pe.gen_pe[0].partial_q) + worth_of_word;
    expected_tag_q <= tag_q[Stages];
    assume (rst_ni == started_q);
    assume (!weight_valid_i || (!word_valid_i && !in_flight));
    assume (!word_i[1].hi && !word_i[3].hi);
    if (started_q) begin
      if (summed_q) assert (u_pe.gen_pe[0].partial_q == expected_q);
      if (handed_q) begin
        assert (result_valid && result[0] == expected_q);
        assert ({result_row, result_block, result_last, enc_done, done, zero, low, full} == expected_tag_q);
      end
      assert (word_ready || (u_pe.valid_q[Stages] && last_q[Stages] && result_valid && !result_ready_i));
    end
  end

  ////////////////////////////////////////////////////
  // Invariants                                     //
  ////////////////////////////////////////////////////

  always_ff @(posedge clk_i) begin : invariants
    for (int unsigned k = 0; k < KMax; k++) begin
      for (int unsigned copy = 0; copy < 2; copy++) begin
        if (!started_q) assume (stored[copy][k] == loaded_q[k]);
        else assert (stored[copy][k] == loaded_q[k]);
      end
    end
    if (started_q) begin
      for (int unsigned s = 0; s < SlotsPerWord; s++) begin
        if (u_pe.valid_q[1]) begin
          assert (u_pe.word_q[s] == word_q[1][s]);
          assert (u_pe.read_q[s] == weight_of(word_q[1][s]));
        end
        if (u_pe.valid_q[2]) begin
          assert (u_pe.hold_q[s] == weight_of(word_q[2][s]));
          assert (u_pe.nibble_q[s] == u_pe.signed_nibble(word_q[2][s].sign, word_q[2][s].nibble));
        end
        if (u_pe.valid_q[3]) begin
          assert (u_pe.gen_pe[0].product_q[s] == product_q[3][s]);
        end
      end
      // No product is larger than its factors make it.
      for (int unsigned s = 0; s < SlotsPerWord; s++) begin
        assume (product_q[3][s] <= 12'sd1920 && product_q[3][s] >= -12'sd1920);
        assume (product_q[4][s] <= 12'sd1920 && product_q[4][s] >= -12'sd1920);
      end
      for (int unsigned stage = 1; stage <= Stages; stage++) begin
        if (u_pe.valid_q[stage]) assert (!word_q[stage][1].hi && !word_q[stage][3].hi);
      end
      if (u_pe.valid_q[2]) assert (u_pe.high_q == {word_q[2][2].hi, word_q[2][0].hi});
      if (u_pe.valid_q[3]) assert (u_pe.shift_q == {word_q[3][2].hi, word_q[3][0].hi});
      if (u_pe.valid_q[4]) assert (32'(u_pe.gen_pe[0].sum_q) == worth_of_word);
      for (int unsigned stage = 1; stage <= Stages; stage++) begin
        if (u_pe.valid_q[stage]) begin
          assert ({u_pe.tag_q[stage].first, u_pe.tag_q[stage].last} == {first_q[stage], last_q[stage]});
          assert (u_pe.tag_q[stage][TagWidth+1:2] == tag_q[stage]);
        end
      end
    end
  end

endmodule
