// SPDX-License-Identifier: Apache-2.0
// For waveforms: the four weight rows a word is multiplied with, one vector each, column 0 in the lowest byte, and the
// slots' values. Bound into every PE array of a traced build; speed runs and synthesis never see this file.

module pe_view
  import ditto_pkg::*;
#(
  parameter int unsigned Columns = 128
) (
  input slot_word_t word_i,
  input logic [7:0] row0_i [Columns],
  input logic [7:0] row1_i [Columns],
  input logic [7:0] row2_i [Columns],
  input logic [7:0] row3_i [Columns]
);

  logic [8*Columns-1:0]                weights [SlotsPerWord];
  logic signed [SlotsPerWord-1:0][8:0] value;

  for (genvar c = 0; c < Columns; c++) begin : gen_column
    assign weights[0][8*c+:8] = row0_i[c] ^ 8'h80;
    assign weights[1][8*c+:8] = row1_i[c] ^ 8'h80;
    assign weights[2][8*c+:8] = row2_i[c] ^ 8'h80;
    assign weights[3][8*c+:8] = row3_i[c] ^ 8'h80;
  end

  function automatic logic [8:0] signed_value(slot_t slot);
    automatic logic [8:0] magnitude = slot.hi ? {1'b0, slot.nibble, 4'd0} : {5'd0, slot.nibble};
    return slot.sign ? -magnitude : magnitude;
  endfunction

  for (genvar s = 0; s < SlotsPerWord; s++) begin : gen_value
    assign value[s] = signed_value(word_i[s]);
  end

endmodule

bind pe_array pe_view #(.Columns(Columns)) u_view (
  .word_i,
  .row0_i(weights[weight_addr(active_bank_i, word_block_i, word_i[0].k)]),
  .row1_i(weights[weight_addr(active_bank_i, word_block_i, word_i[1].k)]),
  .row2_i(weights[weight_addr(active_bank_i, word_block_i, word_i[2].k)]),
  .row3_i(weights[weight_addr(active_bank_i, word_block_i, word_i[3].k)])
);
