// SPDX-License-Identifier: Apache-2.0
// Sparse PE array: C PEs of four 4b x 4b multipliers and an adder tree, and the weights they read. All PEs see the same word of
// four slots; PE c owns output column c of the block.
//
//   partial[c] = (the segment's first word ? 0 : partial[c]) + sum over the four slots of value(slot) * weight[k][c]
//
// With a marked word the partial sums, those of one segment, move to the register at the output, and the next word begins
// anew. Nothing moves while `sum_ready_i` is low.
//
// Weight memory: a row of C 4-bit weights for every k, stored offset by 8 (sign bit flipped); two neighbouring rows are written
// at once, a word reads four at arbitrary k (four ports or four copies). The offset is taken out once per word, not per column. 16 bits hold any sum
// of a segment, so everything here is modulo 2^16.
// What it does not do: scale (block_accumulator), skip null slots.

module sparse_pe_array
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter int unsigned Columns   = 128,
  parameter int unsigned KMax      = 1024,
  parameter int unsigned Blocks    = 4,
  parameter int unsigned BlockSize = 32,
  localparam int unsigned KAddrWidth     = $clog2(KMax),
  localparam int unsigned BlockAddrWidth = Blocks > 1 ? $clog2(Blocks) : 1,
  localparam int unsigned PlaceWidth     = $clog2(BlockSize)
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Weight load: per cycle the weights of k (low nibbles) and k + 1 of C columns, k even
  input  logic                  weight_valid_i,
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Slot words
  input  logic                  word_valid_i,
  output logic                  word_ready_o,
  input  slot_word_t            word_i,
  input  logic                  word_first_i,  // of a column block
  input  logic                  word_last_i,
  input  logic [BlockWidth-1:0] word_block_i,
  input  scale_t                word_scale_i,  // of the word's segment
  input  logic [CycleWidth-1:0] enc_done_i,
  input  logic [CycleWidth-1:0] done_i,
  input  logic [KWidth-1:0]     nonzero_i,

  // Sums of a segment
  output logic                    sum_valid_o,
  input  logic                    sum_ready_i,
  output logic [SumWidth-1:0]     sum_o [Columns],
  output logic [SegmentWidth-1:0] sum_segment_o,
  output scale_t                  sum_scale_o,
  output logic                    sum_first_o,  // of a column block
  output logic                    sum_last_o,
  output logic [CycleWidth-1:0]   enc_done_o,   // the row's report, valid with the last sums of its last column block
  output logic [CycleWidth-1:0]   done_o,
  output logic [KWidth-1:0]       nonzero_o
);

  localparam int unsigned AddrWidth = BlockAddrWidth + KAddrWidth;

  logic [3:0]          weights [1 << AddrWidth][Columns];
  logic [3:0]          even_row [Columns];
  logic [3:0]          odd_row [Columns];
  logic [SumWidth-1:0] partial_q [Columns];
  logic                begin_q;  // the next word is its segment's first
  logic                first_q;  // the segment is its column block's first

  logic marked;
  logic first;

  assign word_ready_o = sum_ready_i;
  assign marked = word_i[SlotsPerWord-1].hi;
  assign first  = word_first_i || (first_q && !begin_q);

  function automatic logic [AddrWidth-1:0] weight_addr(logic [BlockWidth-1:0] block, logic [SlotKWidth-1:0] k);
    return AddrWidth'({block[BlockAddrWidth-1:0], k[KAddrWidth-1:0]});
  endfunction

  function automatic logic [SumWidth-1:0] operand(slot_t slot);
    automatic logic [SumWidth-1:0] magnitude = {12'd0, slot.nibble};
    return slot.sign ? -magnitude : magnitude;
  endfunction

  // Loops over columns are functions: their variables are then locals of the simulator's code, not members.
  function automatic void offset_weights();
    for (int unsigned c = 0; c < Columns; c++) begin
      even_row[c] = weight_i[c][3:0] ^ 4'd8;
      odd_row[c]  = weight_i[c][7:4] ^ 4'd8;
    end
  endfunction

  function automatic void accumulate(
    logic [AddrWidth-1:0] row0, logic [AddrWidth-1:0] row1, logic [AddrWidth-1:0] row2, logic [AddrWidth-1:0] row3,
    logic [15:0] x0, logic [15:0] x1, logic [15:0] x2, logic [15:0] x3);
    automatic logic [15:0] bias = -((x0 + x1 + x2 + x3) << 3);  // 8 * x undoes the weights' offset
    automatic logic [15:0] keep = word_first_i || begin_q ? '0 : '1;
    for (int unsigned c = 0; c < Columns; c++) begin
      partial_q[c] = (partial_q[c] & keep) + bias + {12'd0, weights[row0][c]} * x0
                     + {12'd0, weights[row1][c]} * x1 + {12'd0, weights[row2][c]} * x2
                     + {12'd0, weights[row3][c]} * x3;
    end
  endfunction

  always_ff @(posedge clk_i) begin : load
    if (weight_valid_i) begin
      offset_weights();
      weights[weight_addr(weight_block_i, {weight_k_i[SlotKWidth-1:1], 1'b0})] <= even_row;
      weights[weight_addr(weight_block_i, {weight_k_i[SlotKWidth-1:1], 1'b1})] <= odd_row;
    end
  end

  always_ff @(posedge clk_i) begin : multiply
    if (word_valid_i && word_ready_o) begin
      accumulate(weight_addr(word_block_i, word_i[0].k), weight_addr(word_block_i, word_i[1].k),
                 weight_addr(word_block_i, word_i[2].k), weight_addr(word_block_i, word_i[3].k),
                 operand(word_i[0]), operand(word_i[1]), operand(word_i[2]), operand(word_i[3]));
      if (marked) sum_o <= partial_q;
    end
  end

  always_ff @(posedge clk_i) begin : segments
    if (!rst_ni) begin
      sum_valid_o <= 1'b0;
    end else if (word_ready_o) begin
      sum_valid_o <= word_valid_i && marked;
      if (word_valid_i) begin
        begin_q <= marked;
        first_q <= first;
        if (marked) begin
          sum_segment_o <= SegmentWidth'(word_i[0].k >> PlaceWidth);
          sum_scale_o   <= word_scale_i;
          sum_first_o   <= first;
          sum_last_o    <= word_last_i;
          enc_done_o    <= enc_done_i;
          done_o        <= done_i;
          nonzero_o     <= nonzero_i;
        end
      end
    end
  end

`ifndef SYNTHESIS
  always_ff @(posedge clk_i) begin : checks
    if (rst_ni && word_valid_i) begin
      assert (!word_last_i || marked) else $error("the last word of a column block ends no segment");
      assert (!(word_i[0].hi || word_i[1].hi || word_i[2].hi)) else $error("a mark within a word");
    end
  end
`endif

endmodule
