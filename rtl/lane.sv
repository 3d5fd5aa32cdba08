// SPDX-License-Identifier: Apache-2.0
// Lane: one encoder, its slot buffer, C PEs that share the replayed slots, and their weights.
//
// Rows `first_row_i`, `first_row_i` + stride, ... below `rows_i` pass through in order. Timing of row r of a lane, with
// s slots and B column blocks (the cycle contract; cycle 0 is the first after `start_i`):
//   enc_done[r] = max(enc_done[r-1], done[r-2]) + ceil(K/E) + 3
//   done[r]     = max(done[r-1], enc_done[r]) + B * max(1, ceil(s/4))
// What it does not do: split K beyond KMax, share work with other lanes, hold results past the one register.

module lane
  import ditto_pkg::*;
#(
  parameter int unsigned Columns     = 128,
  parameter int unsigned EncodeWidth = 8,
  parameter int unsigned KMax        = 1024,
  parameter int unsigned Blocks      = 4,
  parameter bit          Mag4        = 1'b0,
  parameter int unsigned WeightBanks = 1,
  parameter int unsigned PeStages    = 1,  // 1: pe_array, 5: pe_pipeline
  parameter int unsigned FirstRow    = 0,
  parameter int unsigned RowStride   = 1
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass
  input  logic                  start_i,  // one pulse; the pass runs from the next cycle
  input  mode_e                 mode_i,
  input  logic [RowWidth-1:0]   rows_i,
  input  logic [KWidth-1:0]     k_i,
  input  logic [BlockWidth-1:0] last_block_i,
  input  logic                  active_bank_i,
  input  logic [CycleWidth-1:0] cycle_i,
  output logic                  idle_o,   // every row of this lane has been delivered

  // Weights
  input  logic                  weight_valid_i,
  input  logic                  weight_bank_i,
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Operands
  input  logic                     operand_valid_i,
  output logic                     operand_ready_o,
  input  logic [7:0] current_i   [EncodeWidth],
  input  logic [7:0] reference_i [EncodeWidth],

  // Results
  output logic                  result_valid_o,
  input  logic                  result_ready_i,
  output logic [31:0]           result_o [Columns],
  output logic [RowWidth-1:0]   result_row_o,
  output logic [BlockWidth-1:0] result_block_o,
  output logic                  result_last_o,
  output logic [CycleWidth-1:0] enc_done_o,
  output logic [CycleWidth-1:0] done_o,
  output logic [KWidth-1:0]     zero_o,
  output logic [KWidth-1:0]     low_o,
  output logic [KWidth-1:0]     full_o,

  // Counters, of the pass: busy + starved + stalled = done of the lane's last row
  output logic [CycleWidth-1:0] busy_o,
  output logic [CycleWidth-1:0] starved_o,
  output logic [CycleWidth-1:0] stalled_o
);

  localparam int unsigned GroupWords = 2 * EncodeWidth / SlotsPerWord;
  localparam int unsigned GroupAddrWidth = $clog2(KMax / EncodeWidth);

  logic                      bank_free;
  logic                      group_valid;
  logic [GroupAddrWidth-1:0] group_addr;
  slot_word_t                group [GroupWords];
  logic                      row_end;
  logic [CountWidth-1:0]     row_slots;
  logic [KWidth-1:0]         row_full;

  logic                  word_valid;
  logic                  word_ready;
  slot_word_t            word;
  logic                  word_first;
  logic                  word_last;
  logic [BlockWidth-1:0] word_block;
  logic [RowWidth-1:0]   word_row;
  logic                  row_done;
  logic [CycleWidth-1:0] enc_done;
  logic [CycleWidth-1:0] done;
  logic [KWidth-1:0]     zero;
  logic [KWidth-1:0]     low;
  logic [KWidth-1:0]     full;

  logic                replaying;
  logic [RowWidth-1:0] encode_row_q;

  logic                in_flight;

  assign idle_o = !replaying && !word_valid && !in_flight && !result_valid_o;

  always_ff @(posedge clk_i) begin : rows
    if (!rst_ni) begin
      encode_row_q <= '1;
    end else if (start_i) begin
      encode_row_q <= RowWidth'(FirstRow);
    end else if (row_end) begin
      encode_row_q <= encode_row_q + RowWidth'(RowStride);
    end
  end

  encoder #(
    .EncodeWidth(EncodeWidth), .KMax(KMax), .Mag4(Mag4), .Scatter(PeStages > 1)
  ) u_encoder (
    .clk_i, .rst_ni,
    .original_i(mode_i == ModeOriginal), .k_i,
    .open_i(bank_free && encode_row_q < rows_i),
    .valid_i(operand_valid_i), .ready_o(operand_ready_o), .current_i, .reference_i,
    .group_valid_o(group_valid), .group_addr_o(group_addr), .group_o(group),
    .row_end_o(row_end), .row_slots_o(row_slots), .row_full_o(row_full)
  );

  slot_buffer #(
    .EncodeWidth(EncodeWidth), .KMax(KMax), .FirstRow(FirstRow), .RowStride(RowStride)
  ) u_slot_buffer (
    .clk_i, .rst_ni, .start_i, .rows_i, .last_block_i, .k_i, .cycle_i,
    .free_o(bank_free), .group_valid_i(group_valid), .group_addr_i(group_addr), .group_i(group),
    .row_end_i(row_end), .row_slots_i(row_slots), .row_full_i(row_full),
    .word_valid_o(word_valid), .word_ready_i(word_ready), .word_o(word),
    .word_first_o(word_first), .word_last_o(word_last), .word_block_o(word_block), .word_row_o(word_row),
    .row_done_o(row_done), .enc_done_o(enc_done), .done_o(done), .zero_o(zero), .low_o(low), .full_o(full),
    .replaying_o(replaying), .busy_o, .starved_o, .stalled_o
  );

  if (PeStages == 1) begin : gen_array
    assign in_flight = 1'b0;

    pe_array #(
      .Columns(Columns), .KMax(KMax), .Blocks(Blocks), .WeightBanks(WeightBanks)
    ) u_pe_array (
      .clk_i, .rst_ni,
      .weight_valid_i, .weight_bank_i, .weight_block_i, .weight_k_i, .weight_i,
      .active_bank_i, .word_valid_i(word_valid), .word_ready_o(word_ready), .word_i(word),
      .word_first_i(word_first), .word_last_i(word_last), .word_block_i(word_block), .word_row_i(word_row),
      .row_done_i(row_done),
      .enc_done_i(enc_done), .done_i(done), .zero_i(zero), .low_i(low), .full_i(full),
      .result_valid_o, .result_ready_i, .result_o, .result_row_o, .result_block_o, .result_last_o,
      .enc_done_o, .done_o, .zero_o, .low_o, .full_o
    );
  end else begin : gen_pipeline
    pe_pipeline #(
      .Columns(Columns), .KMax(KMax), .Blocks(Blocks), .WeightBanks(WeightBanks)
    ) u_pe_pipeline (
      .clk_i, .rst_ni,
      .weight_valid_i, .weight_bank_i, .weight_block_i, .weight_k_i, .weight_i,
      .active_bank_i, .word_valid_i(word_valid), .word_ready_o(word_ready), .word_i(word),
      .word_first_i(word_first), .word_last_i(word_last), .word_block_i(word_block), .word_row_i(word_row),
      .row_done_i(row_done),
      .enc_done_i(enc_done), .done_i(done), .zero_i(zero), .low_i(low), .full_i(full), .in_flight_o(in_flight),
      .result_valid_o, .result_ready_i, .result_o, .result_row_o, .result_block_o, .result_last_o,
      .enc_done_o, .done_o, .zero_o, .low_o, .full_o
    );
  end

endmodule
