// SPDX-License-Identifier: Apache-2.0
// PE array: the C PEs of a lane and the weights they multiply. All PEs see the same word of four slots; PE c owns
// output column c of the block.
//
//   partial[c] = (first word of the block ? 0 : partial[c]) + sum over the four slots of value(slot) * weight[k][c]
//
// Slots 0 and 2 pass a shifter (nibble * 16 when `hi`), slots 1 and 3 do not. Sums are int32, modulo 2^32.
// After a block's last word the sums move to the result register and wait there for the receiver, while the next
// block goes on; only its last word would have to wait.
//
// Weight memory: row {bank, block, k} of C bytes; a word reads four rows at arbitrary k (four ports or four copies).
// Weights are stored offset by 128 (sign bit flipped): the offset is taken out once per pair of slots, not per column.
// How it is written: one loop over C with everything that does not depend on c hoisted, 16-bit pair sums
// (|15*16*128| + |15*128| < 2^15), because that is what simulates fast; see rtl/README.md.
// What it does not do: skip null slots, detect overflow (an assertion does), add partial sums of a split K.

module pe_array
  import ditto_pkg::*;
#(
  parameter int unsigned Columns     = 128,
  parameter int unsigned KMax        = 1024,
  parameter int unsigned Blocks      = 4,
  parameter int unsigned WeightBanks = 1,
  localparam int unsigned KAddrWidth = $clog2(KMax),
  localparam int unsigned BlockAddrWidth = Blocks > 1 ? $clog2(Blocks) : 1
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Weight load: one row of C weights per cycle into the bank that is not replayed from (or the only bank)
  input  logic                  weight_valid_i,
  input  logic                  weight_bank_i,
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Slot words
  input  logic                  active_bank_i,
  input  logic                  word_valid_i,
  output logic                  word_ready_o,
  input  slot_word_t            word_i,
  input  logic                  word_first_i,
  input  logic                  word_last_i,
  input  logic [BlockWidth-1:0] word_block_i,
  input  logic [RowWidth-1:0]   word_row_i,
  input  logic                  row_done_i,
  input  logic [CycleWidth-1:0] enc_done_i,
  input  logic [CycleWidth-1:0] done_i,
  input  logic [KWidth-1:0]     zero_i,
  input  logic [KWidth-1:0]     low_i,
  input  logic [KWidth-1:0]     full_i,

  // Results: one column block of a row
  output logic                  result_valid_o,
  input  logic                  result_ready_i,
  output logic [31:0]           result_o [Columns],
  output logic [RowWidth-1:0]   result_row_o,
  output logic [BlockWidth-1:0] result_block_o,
  output logic                  result_last_o,   // last block of the row
  output logic [CycleWidth-1:0] enc_done_o,      // the row's report, valid with result_last_o
  output logic [CycleWidth-1:0] done_o,
  output logic [KWidth-1:0]     zero_o,
  output logic [KWidth-1:0]     low_o,
  output logic [KWidth-1:0]     full_o
);

  localparam int unsigned BankWidth  = WeightBanks > 1 ? 1 : 0;
  localparam int unsigned AddrWidth  = BankWidth + BlockAddrWidth + KAddrWidth;

  logic [7:0]  weights [1 << AddrWidth][Columns];
  logic [7:0]  offset_row [Columns];
  logic [31:0] partial_q [Columns];

  function automatic logic [AddrWidth-1:0] weight_addr(logic bank, logic [BlockWidth-1:0] block,
                                                       logic [SlotKWidth-1:0] k);
    return AddrWidth'({bank && (WeightBanks > 1), block[BlockAddrWidth-1:0], k[KAddrWidth-1:0]});
  endfunction

  // The multiplier operand of a slot; odd positions have no shifter.
  function automatic logic [15:0] operand(slot_t slot, logic shifter);
    automatic logic [15:0] magnitude;
    magnitude = shifter && slot.hi ? {8'd0, slot.nibble, 4'd0} : {12'd0, slot.nibble};
    return slot.sign ? -magnitude : magnitude;
  endfunction

  // Loops over columns are functions: their variables are then locals of the simulator's code, not members.
  function automatic void offset_weights();
    for (int unsigned c = 0; c < Columns; c++) offset_row[c] = weight_i[c] ^ 8'h80;
  endfunction

  function automatic void accumulate(logic [AddrWidth-1:0] row0, logic [AddrWidth-1:0] row1,
                                     logic [AddrWidth-1:0] row2, logic [AddrWidth-1:0] row3,
                                     logic [15:0] x0, logic [15:0] x1, logic [15:0] x2, logic [15:0] x3);
    // 2^15 makes a pair sum non-negative, so that widening it needs no sign; 128 * x undoes the weights' offset.
    automatic logic [15:0] bias01 = 16'h8000 - ((x0 + x1) << 7);
    automatic logic [15:0] bias23 = 16'h8000 - ((x2 + x3) << 7);
    automatic logic [31:0] keep = word_first_i ? '0 : '1;
    for (int unsigned c = 0; c < Columns; c++) begin
      automatic logic [15:0] pair01 = {8'd0, weights[row0][c]} * x0 + {8'd0, weights[row1][c]} * x1 + bias01;
      automatic logic [15:0] pair23 = {8'd0, weights[row2][c]} * x2 + {8'd0, weights[row3][c]} * x3 + bias23;
      partial_q[c] = (partial_q[c] & keep) + ({16'd0, pair01} + {16'd0, pair23} - 32'h1_0000);
    end
  endfunction

  always_ff @(posedge clk_i) begin : load
    if (weight_valid_i) begin
      offset_weights();
      weights[weight_addr(weight_bank_i, weight_block_i, weight_k_i[SlotKWidth-1:0])] <= offset_row;
    end
  end

  assign word_ready_o = !(word_valid_i && word_last_i && result_valid_o && !result_ready_i);

  always_ff @(posedge clk_i) begin : multiply
    if (word_valid_i && word_ready_o) begin
      accumulate(weight_addr(active_bank_i, word_block_i, word_i[0].k),
                 weight_addr(active_bank_i, word_block_i, word_i[1].k),
                 weight_addr(active_bank_i, word_block_i, word_i[2].k),
                 weight_addr(active_bank_i, word_block_i, word_i[3].k),
                 operand(word_i[0], 1'b1), operand(word_i[1], 1'b0),
                 operand(word_i[2], 1'b1), operand(word_i[3], 1'b0));
      if (word_last_i) result_o <= partial_q;
    end
  end

  always_ff @(posedge clk_i) begin : result
    if (!rst_ni) begin
      result_valid_o <= 1'b0;
    end else begin
      if (result_ready_i) result_valid_o <= 1'b0;
      if (word_valid_i && word_ready_o && word_last_i) begin
        result_valid_o <= 1'b1;
        result_row_o   <= word_row_i;
        result_block_o <= word_block_i;
        result_last_o  <= row_done_i;
        enc_done_o     <= enc_done_i;
        done_o         <= done_i;
        zero_o         <= zero_i;
        low_o          <= low_i;
        full_o         <= full_i;
      end
    end
  end

endmodule
