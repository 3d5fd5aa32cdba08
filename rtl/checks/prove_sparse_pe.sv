// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of one column of a sparse PE array: with a marked word the sums since the mark before leave, those of
// slot * offset weight less the offset, each word once; they wait unchanged until they are taken, and nothing else moves
// meanwhile. Weights stand in memory as they were loaded, whichever `pick_i` names.
// The multiplications are abstracted (`free_products`): of the same operands they give the same, whatever that is; the
// regression compares every product.
// What is assumed: a reset first; a word that waits does not change; the last word of a column block is marked.

module prove_sparse_pe
  import ditto_pkg::*;
  import sq_dm_pkg::*;
(
  input logic                  clk_i,
  input logic                  rst_ni,
  input logic [3:0]            pick_i,
  input logic                  weight_valid_i,
  input logic [KWidth-1:0]     weight_k_i,
  input logic [7:0]            weight_i [1],
  input logic                  word_valid_i,
  input slot_word_t            word_i,
  input logic                  word_last_i,
  input scale_t                word_scale_i,
  input logic [CycleWidth-1:0] enc_done_i,
  input logic [CycleWidth-1:0] done_i,
  input logic [KWidth-1:0]     nonzero_i,
  input logic                  sum_ready_i
);

  logic                    first_q;  // the next word is its column block's first
  logic                    word_ready;
  logic                    sum_valid;
  logic [SumWidth-1:0]     sum [1];
  logic [SegmentWidth-1:0] sum_segment;
  scale_t                  sum_scale;
  logic                    sum_first;
  logic                    sum_last;
  logic [CycleWidth-1:0]   enc_done;
  logic [CycleWidth-1:0]   done;
  logic [KWidth-1:0]       nonzero;

  sparse_pe_array #(
    .Columns(1), .KMax(32), .Blocks(1), .BlockSize(16)
  ) u_pes (
    .clk_i, .rst_ni, .weight_valid_i, .weight_block_i('0), .weight_k_i, .weight_i,
    .word_valid_i, .word_ready_o(word_ready), .word_i, .word_first_i(first_q), .word_last_i, .word_block_i('0),
    .word_scale_i, .enc_done_i, .done_i, .nonzero_i,
    .sum_valid_o(sum_valid), .sum_ready_i, .sum_o(sum), .sum_segment_o(sum_segment), .sum_scale_o(sum_scale),
    .sum_first_o(sum_first), .sum_last_o(sum_last), .enc_done_o(enc_done), .done_o(done), .nonzero_o(nonzero)
  );

  hold_checks #(
    .Width(SumWidth + SegmentWidth + 8 + 2 + 2 * CycleWidth + KWidth)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(sum_valid), .ready_i(sum_ready_i),
    .payload_i({sum[0], sum_segment, sum_scale, sum_first, sum_last, enc_done, done, nonzero})
  );

  ////////////////////////////////////////////////////
  // The sum that is due                            //
  ////////////////////////////////////////////////////

  function automatic logic [SumWidth-1:0] extended(slot_t slot);
    automatic logic [SumWidth-1:0] magnitude = {12'd0, slot.nibble};
    return slot.sign ? -magnitude : magnitude;
  endfunction

  function automatic logic [SumWidth-1:0] product(slot_t slot);
    return {12'd0, u_pes.weights[slot.k[4:0]][0]} * extended(slot);
  endfunction

  logic                open;        // a segment has begun and not ended
  logic                of_first_q;  // it is its column block's first
  logic                of_first;
  logic                marked;
  logic [SumWidth-1:0] due_so_far;
  logic [SumWidth-1:0] due;
  logic [SumWidth-1:0] offset;

  assign marked   = word_i[3].hi;
  assign of_first = open ? of_first_q : first_q;
  assign offset   = (extended(word_i[0]) + extended(word_i[1]) + extended(word_i[2]) + extended(word_i[3])) << 3;
  assign due      = (open ? due_so_far : '0) - offset + product(word_i[0]) + product(word_i[1]) + product(word_i[2])
                    + product(word_i[3]);

  segment_checks u_segments (
    .clk_i, .rst_ni, .pick_i, .weight_valid_i, .weight_k_i, .weight_i(weight_i[0]),
    .even_i(u_pes.weights[{pick_i, 1'b0}][0]), .odd_i(u_pes.weights[{pick_i, 1'b1}][0]),
    .valid_i(word_valid_i), .ready_i(word_ready), .ends_i(marked), .due_i(due),
    .beside_i({SegmentWidth'(word_i[0].k >> 4), word_scale_i, of_first, word_last_i}),
    .open_o(open), .due_o(due_so_far),
    .sum_valid_i(sum_valid), .sum_ready_i, .sums_i({sum[0], sum_segment, sum_scale, sum_first, sum_last})
  );

  always_ff @(posedge clk_i) begin : words
    assume (!word_last_i || marked);
    if (!rst_ni) begin
      first_q <= 1'b1;
    end else begin
      if (word_valid_i && word_ready) begin
        first_q    <= word_last_i;
        of_first_q <= of_first;
      end
      assert (!first_q || !open);
      if (open) assert (u_pes.partial_q[0] == due_so_far && !u_pes.begin_q && u_pes.first_q == of_first_q);
      else assert (first_q || u_pes.begin_q);
    end
  end

endmodule
