// SPDX-License-Identifier: Apache-2.0
// Encoder: takes E elements of a row per cycle, subtracts the reference operand, classifies each difference as zero,
// low or full, and packs the slots of the row densely, high nibbles on even positions.
//
//   d = current - reference, sign and magnitude, |d| <= 255
//   original mode:  every element two slots
//   otherwise:      zero -> no slot   low -> {lo}   full -> {hi, lo} at an even position, {lo, hi} at an odd one
//
// A full element therefore never needs a bubble to meet a shifter, and a row of s slots fills ceil(s/4) words.
// Slots leave in groups of 2E (aligned, zero-padded at the end of the row) for the slot buffer.
// Cycle behaviour: rtl/README.md. A row whose last beat is taken in cycle t ends (`row_end_o`) in cycle t + 3.
// What it does not do: store a row (slot_buffer), know about columns, or choose the reference (the driver does).

module encoder
  import ditto_pkg::*;
#(
  parameter int unsigned EncodeWidth = 8,
  parameter int unsigned KMax        = 1024,
  parameter bit          Mag4        = 1'b0,  // low rule: 0 = twos4 (-8 ... 7), 1 = mag4 (|d| <= 15)
  parameter bit          Scatter     = 1'b0,  // append as gates like it: same window, a simulator takes its time
  localparam int unsigned GroupSlots = 2 * EncodeWidth,
  localparam int unsigned GroupWords = GroupSlots / SlotsPerWord,
  localparam int unsigned GroupAddrWidth = $clog2(KMax / EncodeWidth)
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass configuration, stable while rows are in flight
  input  logic              original_i,
  input  logic [KWidth-1:0] k_i,

  // Operands: one beat of E elements; elements past K in the last beat are ignored
  input  logic                     open_i,  // a row may be taken: rows remain and a slot bank is free
  input  logic                     valid_i,
  output logic                     ready_o,
  input  logic [7:0] current_i   [EncodeWidth],
  input  logic [7:0] reference_i [EncodeWidth],

  // Slot groups of the row in flight
  output logic                      group_valid_o,
  output logic [GroupAddrWidth-1:0] group_addr_o,
  output slot_word_t                group_o [GroupWords],

  // End of row: one pulse, after the last group; the counts hold until the next one
  output logic                  row_end_o,
  output logic [CountWidth-1:0] row_slots_o,
  output logic [KWidth-1:0]     row_full_o
);

  localparam int unsigned WindowSlots = 2 * GroupSlots;
  localparam int unsigned PosWidth    = $clog2(WindowSlots);

  ////////////////////////////////////////////////////
  // Beats: a row is taken whole, then flushed      //
  ////////////////////////////////////////////////////

  logic              taking_q;
  logic [KWidth-1:0] k_base_q;

  assign ready_o = taking_q && open_i;

  logic              beat_valid_q;
  logic              beat_last_q;
  logic [SlotKWidth-1:0] beat_k_q;

  always_ff @(posedge clk_i) begin : beats
    if (!rst_ni) begin
      taking_q     <= 1'b1;
      k_base_q     <= '0;
      beat_valid_q <= 1'b0;
    end else begin
      beat_valid_q <= valid_i && ready_o;
      if (valid_i && ready_o) begin
        beat_k_q <= k_base_q[SlotKWidth-1:0];
        if (k_base_q + KWidth'(EncodeWidth) >= k_i) begin
          beat_last_q <= 1'b1;
          taking_q    <= 1'b0;
          k_base_q    <= '0;
        end else begin
          beat_last_q <= 1'b0;
          k_base_q    <= k_base_q + KWidth'(EncodeWidth);
        end
      end
      if (row_end_o) taking_q <= 1'b1;
    end
  end

  ////////////////////////////////////////////////////
  // Stage 1: subtract and classify                 //
  // Stage 2: append to the window, emit groups     //
  ////////////////////////////////////////////////////

  logic [7:0] magnitude_q [EncodeWidth];
  logic [7:0] sign_q      [EncodeWidth];  // 0 or 1
  logic [7:0] slots_q     [EncodeWidth];  // 0 zero, 1 low, 2 full

  // The window holds the group being filled and what one beat can add past it; a row of s slots has filled
  // `groups_q` groups and `fill_q` entries of the window: s = groups * 2E + fill.
  logic [15:0]             window_q [WindowSlots];
  logic [PosWidth-1:0]     fill_q;
  logic [GroupAddrWidth:0] groups_q;
  logic [KWidth-1:0]       full_q;
  slot_word_t              group [GroupWords];
  logic                    flush_q;

  // Loops over elements are functions: their variables are then locals of the simulator's code, not members.
  // Offset-binary operands: their order is the sign, the difference of the larger and the smaller the magnitude.
  function automatic void classify();
    automatic logic [KWidth-1:0] left = k_i - k_base_q;
    for (int unsigned e = 0; e < EncodeWidth; e++) begin
      automatic logic [7:0] a = current_i[e] ^ 8'h80;
      automatic logic [7:0] b = reference_i[e] ^ 8'h80;
      automatic logic [7:0] m = a < b ? b - a : a - b;
      automatic logic [7:0] negative = a < b ? 8'd1 : 8'd0;
      automatic logic [7:0] low_limit = Mag4 ? 8'd16 : 8'd8 + negative;
      automatic logic [7:0] count = m >= low_limit || original_i ? 8'd2 : m != 8'd0 ? 8'd1 : 8'd0;
      magnitude_q[e] = m;
      sign_q[e]      = negative;
      slots_q[e]     = count;
    end
    if (left < KWidth'(EncodeWidth)) begin  // a row's last beat: nothing beyond K
      for (int unsigned e = 0; e < EncodeWidth; e++) begin
        if (KWidth'(e) >= left) slots_q[e] = 8'd0;
      end
    end
  endfunction

  // Each element writes two entries; those past its slots are overwritten by the next one or masked by the flush.
  function automatic void append();
    automatic logic [PosWidth-1:0] pos = fill_q;
    automatic logic [KWidth-1:0]   full_sum = full_q;
    for (int unsigned e = 0; e < EncodeWidth; e++) begin
      automatic logic [SlotKWidth-1:0] k = beat_k_q + SlotKWidth'(e);
      automatic logic [15:0] lo = {k, magnitude_q[e][3:0], sign_q[e][0], 1'b0};
      automatic logic [15:0] hi = {k, magnitude_q[e][7:4], sign_q[e][0], 1'b1};
      automatic logic hi_first = slots_q[e][1] && !pos[0];
      window_q[pos]                = hi_first ? hi : lo;
      window_q[pos + PosWidth'(1)] = hi_first ? lo : hi;
      pos      = pos + PosWidth'(slots_q[e]);
      full_sum = full_sum + KWidth'(slots_q[e][1]);
    end
    fill_q = pos;
    full_q = full_sum;
  endfunction

  // The same with nothing that waits for the element before: positions are prefix sums, in log2 E steps, and every entry looks
  // for the element that covers it. On an even position a full element has its high nibble, whichever of its two it is.
  function automatic void scatter();
    automatic logic [PosWidth-1:0] place [EncodeWidth];  // slots of the beat up to and with this element
    automatic logic [KWidth-1:0]   full_sum = full_q;
    for (int unsigned e = 0; e < EncodeWidth; e++) begin
      place[e] = PosWidth'(slots_q[e]);
      full_sum = full_sum + KWidth'(slots_q[e][1]);
    end
    for (int unsigned d = 1; d < EncodeWidth; d = 2 * d) begin
      for (int unsigned e = EncodeWidth - 1; e >= d; e--) place[e] = place[e] + place[e-d];
    end
    for (int unsigned i = 0; i < WindowSlots; i++) begin
      automatic logic [15:0] found = '0;
      automatic logic        met = 1'b0;
      for (int unsigned e = 0; e < EncodeWidth; e++) begin
        automatic logic [PosWidth-1:0] behind = fill_q + place[e];
        automatic logic covers = (slots_q[e] != 8'd0 && behind == PosWidth'(i + 1))
                                 || (slots_q[e][1] && behind == PosWidth'(i + 2));
        automatic logic hi = slots_q[e][1] && i % 2 == 0;
        if (covers) found = found | {SlotKWidth'(e), hi ? magnitude_q[e][7:4] : magnitude_q[e][3:0], sign_q[e][0], hi};
        met = met || covers;
      end
      if (met) window_q[i] = found | {beat_k_q, 6'd0};
    end
    fill_q = fill_q + place[EncodeWidth-1];
    full_q = full_sum;
  endfunction

  function automatic void clear_rest();
    for (int unsigned i = 0; i < GroupSlots; i++) begin
      if (PosWidth'(i) >= fill_q) window_q[i] = '0;
    end
  endfunction

  function automatic void form_group();
    for (int unsigned w = 0; w < GroupWords; w++) begin
      group[w] = {window_q[4*w+3], window_q[4*w+2], window_q[4*w+1], window_q[4*w]};
    end
  endfunction

  function automatic void shift_window();
    for (int unsigned i = 0; i < GroupSlots; i++) window_q[i] = window_q[i+GroupSlots];
  endfunction

  // The arrays of this process are its own, so it assigns them with `=`: see "Written for two readers", rtl/README.md.
  // verilator lint_off BLKSEQ
  // verilog_lint: waive-start always-ff-non-blocking
  always_ff @(posedge clk_i) begin : stages
    if (!rst_ni) begin
      fill_q        = '0;
      groups_q      = '0;
      full_q        = '0;
      flush_q       <= 1'b0;
      group_valid_o <= 1'b0;
      row_end_o     <= 1'b0;
    end else begin
      group_valid_o <= 1'b0;
      row_end_o     <= flush_q;
      flush_q       <= beat_valid_q && beat_last_q;

      if (beat_valid_q) begin
        if (Scatter) scatter();
        else append();
        if (fill_q[PosWidth-1]) begin
          form_group();
          group_valid_o <= 1'b1;
          group_addr_o  <= groups_q[GroupAddrWidth-1:0];
          group_o       <= group;
          shift_window();
          fill_q[PosWidth-1] = 1'b0;
          groups_q = groups_q + (GroupAddrWidth + 1)'(1);
        end
      end else if (flush_q) begin
        // The rest of the row, zero-padded; an all-zero row leaves one null group.
        clear_rest();
        form_group();
        group_valid_o <= fill_q != '0 || groups_q == '0;
        group_addr_o  <= groups_q[GroupAddrWidth-1:0];
        group_o       <= group;
        row_slots_o   <= CountWidth'({groups_q, fill_q[PosWidth-2:0]});
        row_full_o    <= full_q;
        fill_q        = '0;
        groups_q      = '0;
        full_q        = '0;
      end

      // Last in this process, so that stage 2 saw the beat before.
      if (valid_i && ready_o) classify();
    end
  end
  // verilog_lint: waive-stop always-ff-non-blocking
  // verilator lint_on BLKSEQ

endmodule
