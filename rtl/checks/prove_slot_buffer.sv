// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of whichever word of whichever row `pick_*_i` name: it is replayed once in every column block, with what
// was written; words come in order, first, last and done where they belong; an offered word holds; every cycle of the replay is
// counted once. Rows of any number, blocks of any number, receivers that wait as they like.
// What is assumed of the encoder: it writes only while a bank is free, and ends a row when all its words are written.

module prove_slot_buffer
  import ditto_pkg::*;
#(
  parameter int unsigned EncodeWidth = 4,
  parameter int unsigned KMax        = 16,
  localparam int unsigned GroupWords = 2 * EncodeWidth / SlotsPerWord,
  localparam int unsigned GroupAddrWidth = $clog2(KMax / EncodeWidth),
  localparam int unsigned WordInGroupWidth = $clog2(GroupWords),
  localparam int unsigned WordAddrWidth = GroupAddrWidth + WordInGroupWidth
) (
  input logic                      clk_i,
  input logic                      rst_ni,
  input logic                      start_i,
  input logic [RowWidth-1:0]       rows_i,
  input logic [BlockWidth-1:0]     last_block_i,
  input logic [KWidth-1:0]         k_i,
  input logic                      group_valid_i,
  input logic [GroupAddrWidth-1:0] group_addr_i,
  input slot_word_t                group_i [GroupWords],
  input logic                      row_end_i,
  input logic [CountWidth-1:0]     row_slots_i,
  input logic [KWidth-1:0]         row_full_i,
  input logic                      ready_i,
  input logic [RowWidth-1:0]       pick_row_i,
  input logic [WordAddrWidth-1:0]  pick_word_i
);

  logic                  free;
  logic                  valid;
  slot_word_t            word;
  logic                  first;
  logic                  last;
  logic [BlockWidth-1:0] block;
  logic [RowWidth-1:0]   row;
  logic                  row_done;
  logic [CycleWidth-1:0] enc_done;
  logic [CycleWidth-1:0] done;
  logic [KWidth-1:0]     zero;
  logic [KWidth-1:0]     low;
  logic [KWidth-1:0]     full;
  logic                  replaying;
  logic [CycleWidth-1:0] busy;
  logic [CycleWidth-1:0] starved;
  logic [CycleWidth-1:0] stalled;
  logic [CycleWidth-1:0] cycle_q;
  logic                  ready;

  assign ready = ready_i || !valid;  // as the PE array: it waits only with a word in hand

  slot_buffer #(
    .EncodeWidth(EncodeWidth), .KMax(KMax), .FirstRow(0), .RowStride(1)
  ) u_buffer (
    .clk_i, .rst_ni, .start_i, .rows_i, .last_block_i, .k_i, .cycle_i(cycle_q), .free_o(free), .group_valid_i,
    .group_addr_i, .group_i, .row_end_i, .row_slots_i, .row_full_i,
    .word_valid_o(valid), .word_ready_i(ready), .word_o(word), .word_first_o(first), .word_last_o(last),
    .word_block_o(block), .word_row_o(row), .row_done_o(row_done), .enc_done_o(enc_done), .done_o(done),
    .zero_o(zero), .low_o(low), .full_o(full), .replaying_o(replaying), .busy_o(busy), .starved_o(starved),
    .stalled_o(stalled)
  );

  hold_checks #(
    .Width($bits(slot_word_t) + 3 + BlockWidth + RowWidth)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(valid), .ready_i(ready), .payload_i({word, first, last, row_done, block, row})
  );

  ////////////////////////////////////////////////////
  // Environment and what it knows                  //
  ////////////////////////////////////////////////////

  logic                     started_q = 1'b0;
  logic                     running_q;
  logic [RowWidth-1:0]      pick_row_q;
  logic [WordAddrWidth-1:0] pick_word_q;
  logic [BlockWidth-1:0]    last_block_q;
  logic [RowWidth-1:0]      rows_q;
  logic [RowWidth-1:0]      fill_row_q;  // the row being written
  logic                     written_q;   // the word asked for has been
  slot_word_t               data_q;
  logic                     ended_q;     // its row has been written
  logic [WordAddrWidth-1:0] last_word_q;

  logic [WordAddrWidth-1:0] last_word;

  assign last_word = row_slots_i == '0 ? '0 : WordAddrWidth'((row_slots_i - CountWidth'(1)) >> 2);

  always_ff @(posedge clk_i) begin : environment
    started_q    <= 1'b1;
    pick_row_q   <= pick_row_i;
    pick_word_q  <= pick_word_i;
    last_block_q <= last_block_i;
    rows_q       <= rows_i;
    cycle_q      <= start_i ? '0 : cycle_q + CycleWidth'(1);
    assume (rst_ni == started_q);
    assume (!rst_ni || start_i != running_q);  // one pass, from the first cycle on
    assume (rows_i < RowWidth'(1 << 20));      // so that rows can be told apart
    if (running_q) begin
      assume (pick_row_i == pick_row_q && pick_word_i == pick_word_q && last_block_i == last_block_q &&
              rows_i == rows_q);
    end
    assume (!(group_valid_i || row_end_i) || (free && running_q && fill_row_q < rows_i));
    assume (!row_end_i || row_slots_i <= CountWidth'(2 * KMax));
    if (row_end_i && fill_row_q == pick_row_i && pick_word_i <= last_word) begin
      assume (written_q || (group_valid_i && group_addr_i == pick_word_i[WordAddrWidth-1-:GroupAddrWidth]));
    end
    assume (!(row_end_i && group_valid_i));
    if (!rst_ni) begin
      running_q  <= 1'b0;
      fill_row_q <= '0;
      written_q  <= 1'b0;
      ended_q    <= 1'b0;
    end else begin
      if (start_i) running_q <= 1'b1;
      if (group_valid_i && fill_row_q == pick_row_i &&
          group_addr_i == pick_word_i[WordAddrWidth-1-:GroupAddrWidth]) begin
        written_q <= 1'b1;
        data_q    <= group_i[pick_word_i[WordInGroupWidth-1:0]];
      end
      if (row_end_i) begin
        fill_row_q <= fill_row_q + RowWidth'(1);
        if (fill_row_q == pick_row_i) begin
          ended_q     <= 1'b1;
          last_word_q <= last_word;
        end
      end
    end
  end

  ////////////////////////////////////////////////////
  // The word that is due                           //
  ////////////////////////////////////////////////////

  logic [RowWidth-1:0]      due_row_q;
  logic [BlockWidth-1:0]    due_block_q;
  logic [WordAddrWidth-1:0] due_word_q;

  always_ff @(posedge clk_i) begin : order
    if (!rst_ni) begin
      due_row_q   <= '0;
      due_block_q <= '0;
      due_word_q  <= '0;
    end else if (valid && ready) begin
      due_word_q <= last ? '0 : due_word_q + WordAddrWidth'(1);
      if (last) due_block_q <= row_done ? '0 : due_block_q + BlockWidth'(1);
      if (row_done) due_row_q <= due_row_q + RowWidth'(1);
    end
    if (rst_ni && valid) begin
      assert (row == due_row_q && block == due_block_q && first == (due_word_q == '0));
      assert (row_done == (last && due_block_q == last_block_i));
      if (due_row_q == pick_row_i) begin
        assert (ended_q && last == (due_word_q == last_word_q));
        if (due_word_q == pick_word_i) assert (word == data_q);
      end
    end
    if (rst_ni && running_q && replaying) assert (busy + starved + stalled == cycle_q);
  end

  ////////////////////////////////////////////////////
  // Invariants                                     //
  ////////////////////////////////////////////////////

  logic [RowWidth-1:0] ahead;      // rows written and not replayed
  logic                pick_bank;  // where the row asked for is

  assign ahead = fill_row_q - u_buffer.row_q;
  assign pick_bank = u_buffer.replay_bank_q ^ (pick_row_i != u_buffer.row_q);

  always_ff @(posedge clk_i) begin : invariants
    if (rst_ni) begin
      if (!running_q) assert (u_buffer.full_q == '0 && !valid && fill_row_q == '0 && !written_q && due_row_q == '0);
      if (!running_q) assert (u_buffer.replay_addr_q == '0 && u_buffer.block_q == '0 && due_block_q == '0);
      if (!running_q) assert (due_word_q == '0 && u_buffer.fill_bank_q == u_buffer.replay_bank_q && !ended_q);
      if (running_q) begin
        assert (fill_row_q <= rows_i && u_buffer.row_q <= fill_row_q && ahead <= RowWidth'(2));
        assert (u_buffer.full_q[u_buffer.replay_bank_q] == (ahead != '0));
        assert (u_buffer.full_q[!u_buffer.replay_bank_q] == (ahead == RowWidth'(2)));
        assert ((u_buffer.fill_bank_q == u_buffer.replay_bank_q) == !ahead[0]);
        assert (u_buffer.block_q <= last_block_i);
        if (ahead == '0) assert (u_buffer.replay_addr_q == '0 && u_buffer.block_q == '0);
        else assert (u_buffer.replay_addr_q <= u_buffer.last_addr_q[u_buffer.replay_bank_q]);
        // The replay's registers are one word ahead of what is due.
        if (!valid) begin
          assert (u_buffer.row_q == due_row_q && u_buffer.block_q == due_block_q &&
                  u_buffer.replay_addr_q == due_word_q);
        end else begin
          assert (u_buffer.replay_addr_q == (last ? WordAddrWidth'(0) : due_word_q + WordAddrWidth'(1)));
          assert (u_buffer.block_q == (!last ? due_block_q : row_done ? BlockWidth'(0) : due_block_q + BlockWidth'(1)));
          assert (u_buffer.row_q == due_row_q + RowWidth'(row_done));
          assert (due_row_q < rows_i);
        end
        // Of the row asked for.
        assert (ended_q == (fill_row_q > pick_row_i));
        if (fill_row_q < pick_row_i) assert (!written_q);
        if (written_q && !ended_q) assert (ahead <= RowWidth'(1));
        if (ended_q && pick_word_i <= last_word_q) assert (written_q);
        if (ended_q && u_buffer.row_q <= pick_row_i) begin
          assert (u_buffer.last_addr_q[pick_bank] == last_word_q);
          if (pick_row_i == u_buffer.row_q) assert (u_buffer.replay_addr_q <= last_word_q);
          if (valid && due_row_q == pick_row_i) assert (due_word_q <= last_word_q);
        end
        if (written_q && u_buffer.row_q <= pick_row_i) begin
          assert (u_buffer.memory[{pick_bank, pick_word_i[WordAddrWidth-1-:GroupAddrWidth]}]
                                 [pick_word_i[WordInGroupWidth-1:0]] == data_q);
        end
      end
    end
  end

endmodule
