// SPDX-License-Identifier: Apache-2.0
// Slot buffer: two banks, each one encoded row. The encoder fills one while the other is replayed, one word of four
// slots per cycle, once per column block.
//
// Per row of s slots: max(1, ceil(s/4)) words for each of B blocks; the bank is free again in the cycle after the last.
// A word taken in cycle t leaves the memory with the edge that ends t, so the PEs see it in t + 1.
// What it does not do: reorder, skip or merge slots; stop an encoder that writes without permission (see `free_o`).

module slot_buffer
  import ditto_pkg::*;
#(
  parameter int unsigned EncodeWidth = 8,
  parameter int unsigned KMax        = 1024,
  parameter int unsigned FirstRow    = 0,
  parameter int unsigned RowStride   = 1,
  localparam int unsigned GroupWords = 2 * EncodeWidth / SlotsPerWord,
  localparam int unsigned GroupAddrWidth = $clog2(KMax / EncodeWidth),
  localparam int unsigned WordInGroupWidth = $clog2(GroupWords),
  localparam int unsigned WordAddrWidth = GroupAddrWidth + WordInGroupWidth
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass
  input  logic                  start_i,
  input  logic [RowWidth-1:0]   rows_i,
  input  logic [BlockWidth-1:0] last_block_i,
  input  logic [KWidth-1:0]     k_i,
  input  logic [CycleWidth-1:0] cycle_i,

  // Fill side
  output logic                      free_o,  // the bank to be filled is free
  input  logic                      group_valid_i,
  input  logic [GroupAddrWidth-1:0] group_addr_i,
  input  slot_word_t                group_i [GroupWords],
  input  logic                      row_end_i,
  input  logic [CountWidth-1:0]     row_slots_i,
  input  logic [KWidth-1:0]         row_full_i,

  // Replay side
  output logic                  word_valid_o,
  input  logic                  word_ready_i,
  output slot_word_t            word_o,
  output logic                  word_first_o,  // first word of a column block
  output logic                  word_last_o,   // last word of a column block
  output logic [BlockWidth-1:0] word_block_o,
  output logic [RowWidth-1:0]   word_row_o,
  output logic                  row_done_o,    // with word_last_o of the last block
  output logic [CycleWidth-1:0] enc_done_o,    // the row's report, valid with row_done_o
  output logic [CycleWidth-1:0] done_o,
  output logic [KWidth-1:0]     zero_o,
  output logic [KWidth-1:0]     low_o,
  output logic [KWidth-1:0]     full_o,

  // Every cycle from the pass's first to the one in which its last word is taken is one of these
  output logic                  replaying_o,   // rows remain to be replayed
  output logic [CycleWidth-1:0] busy_o,        // a word was taken
  output logic [CycleWidth-1:0] starved_o,     // no encoded row was waiting
  output logic [CycleWidth-1:0] stalled_o      // the receiver of the results held the PEs
);

  ////////////////////////////////////////////////////
  // Memory                                         //
  ////////////////////////////////////////////////////

  slot_word_t memory [2 * KMax / EncodeWidth][GroupWords];  // row {bank, group}

  logic                     fill_bank_q;
  logic                     replay_bank_q;
  logic [WordAddrWidth-1:0] replay_addr_q;

  always_ff @(posedge clk_i) begin : fill
    if (group_valid_i) memory[{fill_bank_q, group_addr_i}] <= group_i;
  end

  ////////////////////////////////////////////////////
  // Banks and replay                               //
  ////////////////////////////////////////////////////

  logic [1:0]               full_q;
  logic [WordAddrWidth-1:0] last_addr_q [2];
  logic [CountWidth-1:0]    slots_q     [2];
  logic [KWidth-1:0]        wide_q      [2];  // elements of two slots
  logic [CycleWidth-1:0]    enc_done_q  [2];
  logic [BlockWidth-1:0]    block_q;

  logic [RowWidth-1:0]      row_q;

  assign free_o      = !full_q[fill_bank_q];
  assign replaying_o = row_q < rows_i;

  always_ff @(posedge clk_i) begin : replay
    if (!rst_ni) begin
      fill_bank_q   <= 1'b0;
      replay_bank_q <= 1'b0;
      replay_addr_q <= '0;
      full_q        <= '0;
      block_q       <= '0;
      word_valid_o  <= 1'b0;
      row_q         <= '1;
    end else if (start_i) begin
      row_q     <= RowWidth'(FirstRow);
      busy_o    <= '0;
      starved_o <= '0;
      stalled_o <= '0;
    end else begin
      if (row_end_i) begin
        full_q[fill_bank_q]      <= 1'b1;
        last_addr_q[fill_bank_q] <= row_slots_i == '0 ? '0 : WordAddrWidth'((row_slots_i - CountWidth'(1)) >> 2);
        slots_q[fill_bank_q]     <= row_slots_i;
        wide_q[fill_bank_q]      <= row_full_i;
        enc_done_q[fill_bank_q]  <= cycle_i + CycleWidth'(1);
        fill_bank_q              <= !fill_bank_q;
      end
      if (!word_ready_i) begin
        if (replaying_o) stalled_o <= stalled_o + CycleWidth'(1);
      end else begin
        word_valid_o <= full_q[replay_bank_q];
        if (!full_q[replay_bank_q]) begin
          if (replaying_o) starved_o <= starved_o + CycleWidth'(1);
        end else begin
          busy_o       <= busy_o + CycleWidth'(1);
          word_row_o   <= row_q;
          word_o       <= memory[{replay_bank_q, replay_addr_q[WordAddrWidth-1-:GroupAddrWidth]}]
                                [replay_addr_q[WordInGroupWidth-1:0]];
          word_first_o <= replay_addr_q == '0;
          word_last_o  <= 1'b0;
          row_done_o   <= 1'b0;
          word_block_o <= block_q;
          if (replay_addr_q == last_addr_q[replay_bank_q]) begin
            replay_addr_q <= '0;
            word_last_o   <= 1'b1;
            block_q       <= block_q + BlockWidth'(1);
            if (block_q == last_block_i) begin
              block_q               <= '0;
              row_q                 <= row_q + RowWidth'(RowStride);
              row_done_o            <= 1'b1;
              full_q[replay_bank_q] <= 1'b0;
              replay_bank_q         <= !replay_bank_q;
              enc_done_o <= enc_done_q[replay_bank_q];
              done_o     <= cycle_i + CycleWidth'(1);
              zero_o     <= KWidth'(CountWidth'(k_i) - slots_q[replay_bank_q] + CountWidth'(wide_q[replay_bank_q]));
              low_o      <= KWidth'(slots_q[replay_bank_q] - {wide_q[replay_bank_q], 1'b0});
              full_o     <= wide_q[replay_bank_q];
            end
          end else begin
            replay_addr_q <= replay_addr_q + WordAddrWidth'(1);
          end
        end
      end
    end
  end

endmodule
