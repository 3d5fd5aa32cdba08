// SPDX-License-Identifier: Apache-2.0
// Sparse encoder: takes E codes of a row per cycle, drops the zeros, and packs what is left into slots.
//
//   code 0 -> no slot     otherwise -> {k, magnitude, sign, mark}     k = segment * G + place in the segment
//
// A word of four slots holds slots of one segment: where a segment ends its last word is filled up with null slots, and the
// last slot of that word carries the mark (the bit that is `hi` in ditto_pkg; a 4-bit code has no high nibble). A segment
// without a slot leaves no word; a row without any leaves one null word, marked.
// Beside the slots go the segments' activation scales, once each, with the segment's last beat.
// Slots leave in groups of 2E. A full group waits for the next slot, because its last word may have to be marked.
// Cycle behaviour is Ditto's encoder's: a row whose last beat is taken in cycle t ends (`row_end_o`) in cycle t + 3.
// What it does not do: store a row (slot_buffer), know about columns, or choose the channels (the address generator feeds
// only those that are tagged sparse).

module sparse_encoder
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter int unsigned EncodeWidth = 8,
  parameter int unsigned KMax        = 1024,
  parameter int unsigned BlockSize   = 32,
  localparam int unsigned GroupSlots = 2 * EncodeWidth,
  localparam int unsigned GroupWords = GroupSlots / SlotsPerWord,
  localparam int unsigned GroupAddrWidth = $clog2(KMax / GroupSlots),
  localparam int unsigned PlaceWidth = $clog2(BlockSize)
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass configuration, stable while rows are in flight
  input  logic                    signed_i,        // codes are two's complement, otherwise 0 ... 15
  input  logic [SegmentWidth-1:0] last_segment_i,

  // Operands: one beat of E codes of one segment; places the segment does not fill carry code 0
  input  logic                 open_i,  // a row may be taken: rows remain and a slot bank is free
  input  logic                 valid_i,
  output logic                 ready_o,
  input  logic [CodeWidth-1:0] code_i [EncodeWidth],
  input  logic                 last_i,   // the segment's last beat
  input  logic [7:0]           scale_i,  // the segment's activation scale (E4M3), looked at with its last beat

  // Scales of the row in flight
  output logic                    scale_valid_o,
  output logic [SegmentWidth-1:0] scale_segment_o,
  output scale_t                  scale_o,

  // Slot groups of the row in flight
  output logic                      group_valid_o,
  output logic [GroupAddrWidth-1:0] group_addr_o,
  output slot_word_t                group_o [GroupWords],

  // End of row: one pulse, after the last group; the counts hold until the next one
  output logic                  row_end_o,
  output logic [CountWidth-1:0] row_slots_o,    // null slots included: four a word
  output logic [KWidth-1:0]     row_nonzero_o
);

  localparam int unsigned WindowSlots = 2 * GroupSlots;
  localparam int unsigned PosWidth    = $clog2(WindowSlots);

  ////////////////////////////////////////////////////
  // Beats: a row is taken whole, then flushed      //
  ////////////////////////////////////////////////////

  logic                    taking_q;
  logic [SegmentWidth-1:0] segment_q;
  logic [PlaceWidth-1:0]   place_q;

  assign ready_o = taking_q && open_i;

  logic                  beat_valid_q;
  logic                  beat_last_q;  // of its segment
  logic                  beat_end_q;   // of its row
  logic [SlotKWidth-1:0] beat_k_q;

  always_ff @(posedge clk_i) begin : beats
    if (!rst_ni) begin
      taking_q      <= 1'b1;
      segment_q     <= '0;
      place_q       <= '0;
      beat_valid_q  <= 1'b0;
      scale_valid_o <= 1'b0;
    end else begin
      beat_valid_q  <= valid_i && ready_o;
      scale_valid_o <= valid_i && ready_o && last_i;
      if (valid_i && ready_o) begin
        beat_k_q        <= SlotKWidth'({segment_q, place_q});
        beat_last_q     <= last_i;
        beat_end_q      <= 1'b0;
        scale_segment_o <= segment_q;
        scale_o         <= unpack_scale(scale_i);
        place_q         <= place_q + PlaceWidth'(EncodeWidth);
        if (last_i) begin
          place_q   <= '0;
          segment_q <= segment_q + SegmentWidth'(1);
          if (segment_q == last_segment_i) begin
            segment_q  <= '0;
            taking_q   <= 1'b0;
            beat_end_q <= 1'b1;
          end
        end
      end
      if (row_end_o) taking_q <= 1'b1;
    end
  end

  ////////////////////////////////////////////////////
  // Stage 1: which codes are slots                 //
  // Stage 2: append to the window, emit groups     //
  ////////////////////////////////////////////////////

  logic [5:0] low_q   [EncodeWidth];  // a slot's bits below k
  logic [7:0] slots_q [EncodeWidth];  // 0 or 1

  // The window holds the group being filled and what one beat can add past it; a row of s slots, null ones included, has
  // filled `groups_q` groups and `fill_q` entries of the window: s = groups * 2E + fill.
  logic [15:0]             window_q [WindowSlots];
  logic [PosWidth-1:0]     fill_q;
  logic [GroupAddrWidth:0] groups_q;
  logic [KWidth-1:0]       nonzero_q;
  logic                    begun_q;  // the segment has slots
  slot_word_t              group [GroupWords];
  logic                    flush_q;

  // Loops over codes are functions: their variables are then locals of the simulator's code, not members.
  function automatic void classify();
    for (int unsigned e = 0; e < EncodeWidth; e++) begin
      automatic logic [3:0] code = code_i[e];
      automatic logic negative = signed_i && code[3];
      automatic logic [3:0] magnitude = negative ? -code : code;
      low_q[e]   = {magnitude, negative, 1'b0};
      slots_q[e] = code != 4'd0 ? 8'd1 : 8'd0;
    end
  endfunction

  // Each code writes one entry; that of a zero is null, and the next one overwrites it.
  function automatic void append();
    automatic logic [PosWidth-1:0] pos = fill_q;
    for (int unsigned e = 0; e < EncodeWidth; e++) begin
      window_q[pos] = {beat_k_q + SlotKWidth'(e), low_q[e]};
      pos = pos + PosWidth'(slots_q[e]);
    end
    nonzero_q = nonzero_q + KWidth'(pos - fill_q);
    begun_q   = begun_q || pos != fill_q;
    fill_q    = pos;
  endfunction

  // A segment's last word: filled up, and marked.
  function automatic void close_segment();
    for (int unsigned i = 0; i < SlotsPerWord - 1; i++) window_q[fill_q+PosWidth'(i)] = '0;
    fill_q = {fill_q[PosWidth-1:2] + (PosWidth - 2)'(fill_q[1:0] != 2'd0), 2'd0};
    window_q[fill_q-PosWidth'(1)][0] = 1'b1;
    begun_q = 1'b0;
  endfunction

  function automatic void write_null_word();
    for (int unsigned i = 0; i < SlotsPerWord; i++) window_q[i] = '0;
    window_q[SlotsPerWord-1][0] = 1'b1;
  endfunction

  function automatic void form_group();
    for (int unsigned w = 0; w < GroupWords; w++) begin
      group[w] = {window_q[4*w+3], window_q[4*w+2], window_q[4*w+1], window_q[4*w]};
    end
  endfunction

  function automatic void shift_window();
    for (int unsigned i = 0; i < EncodeWidth; i++) window_q[i] = window_q[i+GroupSlots];
  endfunction

  // The arrays of this process are its own, so it assigns them with `=`: see "Written for two readers", rtl/README.md.
  // verilator lint_off BLKSEQ
  // verilog_lint: waive-start always-ff-non-blocking
  always_ff @(posedge clk_i) begin : stages
    if (!rst_ni) begin
      fill_q        = '0;
      groups_q      = '0;
      nonzero_q     = '0;
      begun_q       = 1'b0;
      flush_q       <= 1'b0;
      group_valid_o <= 1'b0;
      row_end_o     <= 1'b0;
    end else begin
      group_valid_o <= 1'b0;
      row_end_o     <= flush_q;
      flush_q       <= beat_valid_q && beat_end_q;

      if (beat_valid_q) begin
        append();
        if (beat_last_q && begun_q) close_segment();
        if (fill_q > PosWidth'(GroupSlots)) begin
          form_group();
          group_valid_o <= 1'b1;
          group_addr_o  <= groups_q[GroupAddrWidth-1:0];
          group_o       <= group;
          shift_window();
          fill_q   = fill_q - PosWidth'(GroupSlots);
          groups_q = groups_q + (GroupAddrWidth + 1)'(1);
        end
      end else if (flush_q) begin
        // The rest of the row: whole words, as every segment ends with one. A row without slots leaves one null word, marked.
        if (fill_q == '0) write_null_word();
        form_group();
        group_valid_o <= 1'b1;
        group_addr_o  <= groups_q[GroupAddrWidth-1:0];
        group_o       <= group;
        row_slots_o   <= CountWidth'(groups_q) * CountWidth'(GroupSlots) + CountWidth'(fill_q);
        row_nonzero_o <= nonzero_q;
        fill_q        = '0;
        groups_q      = '0;
        nonzero_q     = '0;
      end

      // Last in this process, so that stage 2 saw the beat before.
      if (valid_i && ready_o) classify();
    end
  end
  // verilog_lint: waive-stop always-ff-non-blocking
  // verilator lint_on BLKSEQ

endmodule
