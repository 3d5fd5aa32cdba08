// SPDX-License-Identifier: Apache-2.0
// Proof, of one column: a word changes the partial sum by what its four slots are worth, signed, and a block's last word hands
// the sum on. Multipliers are taken out and spoken for by lemmas, each proved by itself:
//
//   Lemma = 1   for every weight and slot: the offset product, less its offset, is weight * value, and within its range
//   Lemma = 2   products are free within that range: the biased sum of a pair is the pair's sum, biased; so is that of two pairs
//   Lemma = 0   products are free but for lemma 2: sums and results are right, and results hold until they are taken
//
// One step from any state, so nothing is bounded. What is assumed: no high nibble on an odd position (the encoder's proof).

module prove_pe
  import ditto_pkg::*;
#(
  parameter int unsigned Lemma = 0,
  localparam int unsigned KMax = 4
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

  pe_array #(
    .Columns(1), .KMax(KMax), .Blocks(1), .WeightBanks(1)
  ) u_pe (
    .clk_i, .rst_ni, .weight_valid_i, .weight_bank_i(1'b0), .weight_block_i('0), .weight_k_i, .weight_i,
    .active_bank_i(1'b0), .word_valid_i, .word_ready_o(word_ready), .word_i, .word_first_i, .word_last_i, .word_block_i,
    .word_row_i, .row_done_i, .enc_done_i, .done_i, .zero_i, .low_i, .full_i,
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
  // Products                                       //
  ////////////////////////////////////////////////////

  logic [7:0]         stored  [SlotsPerWord];  // the weights of the four slots, offset by 128
  logic [15:0]        x       [SlotsPerWord];  // the slots' operands
  logic [15:0]        offset  [SlotsPerWord];  // their products with offset weights
  logic signed [15:0] product [SlotsPerWord];

  always_comb begin
    for (int unsigned s = 0; s < SlotsPerWord; s++) begin
      stored[s]  = u_pe.weights[word_i[s].k[$clog2(KMax)-1:0]][0];
      x[s]       = u_pe.operand(word_i[s], s % 2 == 0);
      offset[s]  = {8'd0, stored[s]} * x[s];
      product[s] = offset[s] - (x[s] << 7);
    end
  end

  for (genvar s = 0; s < SlotsPerWord; s++) begin : gen_product
    localparam int Largest = (s % 2 == 0 ? 240 : 15) * 128;
    if (Lemma == 1) begin : gen_proved
      logic signed [8:0]  value;
      logic signed [7:0]  weight;
      logic signed [16:0] exact;
      logic [8:0]         size;
      assign weight = stored[s] ^ 8'h80;
      assign size   = word_i[s].hi && s % 2 == 0 ? {1'b0, word_i[s].nibble, 4'd0} : {5'd0, word_i[s].nibble};
      assign value  = word_i[s].sign ? -size : size;
      assign exact  = 17'(value) * 17'(weight);
      always_ff @(posedge clk_i) begin
        assert (17'(product[s]) == exact);
        assert (product[s] <= Largest && product[s] >= -Largest);
      end
    end else begin : gen_taken
      always_ff @(posedge clk_i) assume (product[s] <= Largest && product[s] >= -Largest);
    end
  end

  logic [15:0]        biased [2];  // as the PEs have it
  logic signed [16:0] pair   [2];
  logic [31:0]        both;
  logic [31:0]        exact_both;

  assign both       = {16'd0, biased[0]} + {16'd0, biased[1]} - 32'h1_0000;
  assign exact_both = 32'(pair[0]) + 32'(pair[1]);

  for (genvar p = 0; p < 2; p++) begin : gen_pair
    assign biased[p] = offset[2*p] + offset[2*p+1] + (16'h8000 - ((x[2*p] + x[2*p+1]) << 7));
    assign pair[p]   = 17'(product[2*p]) + 17'(product[2*p+1]);
    always_ff @(posedge clk_i) begin
      if (Lemma == 2) assert ({1'b0, biased[p]} == 17'(pair[p]) + 17'h8000);
      if (Lemma == 0) assume ({1'b0, biased[p]} == 17'(pair[p]) + 17'h8000);
    end
  end

  always_ff @(posedge clk_i) begin
    if (Lemma == 2 && {1'b0, biased[0]} == 17'(pair[0]) + 17'h8000 &&
        {1'b0, biased[1]} == 17'(pair[1]) + 17'h8000) begin
      assert (both == exact_both);
    end
    if (Lemma == 0) assume (both == exact_both);
  end

  ////////////////////////////////////////////////////
  // Sums                                           //
  ////////////////////////////////////////////////////

  logic        started_q = 1'b0;
  logic        taken_q;
  logic        last_q;
  logic [31:0] expected_q;

  always_ff @(posedge clk_i) begin : sums
    started_q  <= 1'b1;
    taken_q    <= word_valid_i && word_ready;
    last_q     <= word_last_i;
    expected_q <= (word_first_i ? 32'd0 : u_pe.partial_q[0]) + exact_both;
    if (!started_q) assume (!rst_ni);
    assume (!word_i[1].hi && !word_i[3].hi);
    if (Lemma == 0 && started_q && taken_q) begin
      assert (u_pe.partial_q[0] == expected_q);
      if (last_q) assert (result[0] == expected_q);
    end
  end

endmodule
