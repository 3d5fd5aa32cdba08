// SPDX-License-Identifier: Apache-2.0
// Proof by induction: whatever the codes, whenever they come, however many segments, whichever element `pick_i` names: the slots
// that leave a sparse encoder for it are one, with its code's magnitude and sign, if it is not 0, and none if it is; what was
// counted is what left. The invariants say, of any cycle, where its slot is on its way.
// What is assumed: a reset first; the pass's configuration and the element asked for do not change; a segment ends where it is
// full at the latest.

module prove_sparse_encoder
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  localparam int unsigned EncodeWidth = 4,
  localparam int unsigned KMax        = 1024,
  localparam int unsigned BlockSize   = 16,
  localparam int unsigned GroupSlots  = 2 * EncodeWidth,
  localparam int unsigned GroupWords  = GroupSlots / SlotsPerWord,
  localparam int unsigned GroupAddrWidth = $clog2(KMax / GroupSlots),
  localparam int unsigned PosWidth    = $clog2(2 * GroupSlots)
) (
  input logic                    clk_i,
  input logic                    rst_ni,
  input logic [SlotKWidth-1:0]   pick_i,
  input logic                    signed_i,
  input logic [SegmentWidth-1:0] last_segment_i,
  input logic                    open_i,
  input logic                    valid_i,
  input logic [CodeWidth-1:0]    code_i [EncodeWidth],
  input logic                    last_i,
  input logic [7:0]              scale_i
);

  logic                      ready;
  logic                      scale_valid;
  logic [SegmentWidth-1:0]   scale_segment;
  scale_t                    scale;
  logic                      group_valid;
  logic [GroupAddrWidth-1:0] group_addr;
  slot_word_t                group [GroupWords];
  logic                      row_end;
  logic [CountWidth-1:0]     row_slots;
  logic [KWidth-1:0]         row_nonzero;

  sparse_encoder #(
    .EncodeWidth(EncodeWidth), .KMax(KMax), .BlockSize(BlockSize)
  ) u_encoder (
    .clk_i, .rst_ni, .signed_i, .last_segment_i, .open_i, .valid_i, .ready_o(ready), .code_i, .last_i, .scale_i,
    .scale_valid_o(scale_valid), .scale_segment_o(scale_segment), .scale_o(scale),
    .group_valid_o(group_valid), .group_addr_o(group_addr), .group_o(group),
    .row_end_o(row_end), .row_slots_o(row_slots), .row_nonzero_o(row_nonzero)
  );

  ////////////////////////////////////////////////////
  // The element                                    //
  ////////////////////////////////////////////////////

  typedef struct packed {
    logic [3:0] magnitude;
    logic       twice;
    logic       wrong_sign;
  } found_t;

  logic                    started_q = 1'b0;
  logic [SlotKWidth-1:0]   pick_q;
  logic                    signed_q;
  logic [SegmentWidth-1:0] last_segment_q;
  logic [SlotKWidth-1:0]   k_q;       // of the next beat's first code
  logic                    over_q;    // the row's last beat has been taken
  logic                    appends_q; // a beat was taken in the cycle before
  logic [SlotKWidth-1:0]   beat_k_q;  // its first code's k
  logic                    seen_q;    // the element has been taken
  logic [3:0]              magnitude_q;
  logic                    negative_q;
  found_t                  found_q;   // in groups before this one
  logic                    scale_due_q;
  scale_t                  due_scale_q;
  logic [SegmentWidth-1:0] due_segment_q;

  function automatic found_t meet(found_t met, slot_t slot);
    automatic found_t found = met;
    if (slot.k == pick_i && slot.nibble != '0) begin
      found.twice      = met.twice || met.magnitude != '0;
      found.wrong_sign = met.wrong_sign || slot.sign != negative_q;
      found.magnitude  = met.magnitude | slot.nibble;
    end
    return found;
  endfunction

  // The row's last group has as many slots as were not in those before; a row without any has one word. The rest is not read.
  function automatic found_t meet_group(found_t met);
    automatic found_t found = met;
    automatic logic [PosWidth-1:0] rest = PosWidth'(row_slots - CountWidth'(group_addr) * CountWidth'(GroupSlots));
    automatic logic [PosWidth-1:0] read = !row_end ? PosWidth'(GroupSlots) : rest == '0 ? PosWidth'(SlotsPerWord) : rest;
    for (int unsigned w = 0; w < GroupWords; w++) begin
      for (int unsigned s = 0; s < SlotsPerWord; s++) begin
        if (PosWidth'(SlotsPerWord * w + s) < read) found = meet(found, group[w][s]);
      end
    end
    return found;
  endfunction

  // What has been met of it when the window is emptied.
  function automatic found_t meet_window(found_t met);
    automatic found_t found = met;
    for (int unsigned i = 0; i < GroupSlots; i++) begin
      if (PosWidth'(i) < u_encoder.fill_q) found = meet(found, slot_t'(u_encoder.window_q[i]));
    end
    return found;
  endfunction

  logic   taken;
  logic   pending;  // its beat is being appended
  found_t left;     // in groups, this cycle's too
  found_t found;    // and in the window

  assign taken   = valid_i && ready;
  assign pending = appends_q && pick_i[SlotKWidth-1:2] == beat_k_q[SlotKWidth-1:2];
  assign left    = group_valid ? meet_group(found_q) : found_q;
  assign found   = meet_window(left);

  always_ff @(posedge clk_i) begin : element
    started_q      <= 1'b1;
    pick_q         <= pick_i;
    signed_q       <= signed_i;
    last_segment_q <= last_segment_i;
    assume (rst_ni == started_q);
    if (started_q) assume (pick_i == pick_q && signed_i == signed_q && last_segment_i == last_segment_q);
    assume (last_segment_i < SegmentWidth'(KMax / BlockSize));
    assume (last_i || k_q[3:0] != 4'd12);
    scale_due_q   <= rst_ni && taken && last_i;
    due_segment_q <= SegmentWidth'(k_q >> 4);
    due_scale_q   <= unpack_scale(scale_i);
    if (!rst_ni || row_end) begin
      k_q         <= '0;
      over_q      <= 1'b0;
      appends_q   <= 1'b0;
      seen_q      <= 1'b0;
      magnitude_q <= '0;
      negative_q  <= 1'b0;
      found_q     <= '0;
    end else begin
      found_q   <= left;
      appends_q <= taken;
      if (taken) begin
        beat_k_q <= k_q;
        k_q      <= k_q + SlotKWidth'(EncodeWidth);
        if (last_i) k_q <= {k_q[SlotKWidth-1:4] + 6'd1, 4'd0};
        if (last_i && k_q[SlotKWidth-1:4] == last_segment_i[5:0]) over_q <= 1'b1;
        if (k_q[SlotKWidth-1:2] == pick_i[SlotKWidth-1:2]) begin
          seen_q      <= 1'b1;
          negative_q  <= signed_i && code_i[pick_i[1:0]][3];
          magnitude_q <= signed_i && code_i[pick_i[1:0]][3] ? -code_i[pick_i[1:0]] : code_i[pick_i[1:0]];
        end
      end
    end
    if (rst_ni) begin
      assert (scale_valid == scale_due_q);
      if (scale_valid) assert (scale == due_scale_q && scale_segment == due_segment_q);
      if (row_end) assert (left == {magnitude_q, 2'b00});
    end
  end

  ////////////////////////////////////////////////////
  // Invariants                                     //
  ////////////////////////////////////////////////////

  always_ff @(posedge clk_i) begin : invariants
    if (rst_ni) begin
      // A row is taken, appended to its last beat, flushed, ended: one of these at a time.
      assert ($onehot({u_encoder.taking_q, u_encoder.beat_valid_q && u_encoder.beat_end_q, u_encoder.flush_q, row_end}));
      assert (!(u_encoder.flush_q || row_end) || !u_encoder.beat_valid_q);
      assert (!row_end || u_encoder.fill_q == '0);
      assert (u_encoder.taking_q == !over_q);
      assert (u_encoder.fill_q <= PosWidth'(GroupSlots));
      if (u_encoder.taking_q) begin
        assert ({u_encoder.segment_q[5:0], u_encoder.place_q} == k_q && u_encoder.segment_q <= last_segment_i);
        assert (!seen_q || pick_i < k_q);
      end else begin
        assert (u_encoder.segment_q == '0 && u_encoder.place_q == '0);
      end
      assert (k_q[1:0] == '0);
      // The beat being appended.
      assert (u_encoder.beat_valid_q == appends_q);
      if (appends_q) begin
        assert (u_encoder.beat_k_q == beat_k_q && beat_k_q[1:0] == '0 && u_encoder.beat_end_q == over_q);
        assert (!pending || seen_q);
        for (int unsigned e = 0; e < EncodeWidth; e++) begin
          assert (u_encoder.slots_q[e] == (u_encoder.low_q[e][5:2] != '0 ? 8'd1 : 8'd0) && !u_encoder.low_q[e][0]);
        end
        if (pending) assert (u_encoder.low_q[pick_i[1:0]] == {magnitude_q, negative_q, 1'b0});
      end
      // The element: not yet there, in the beat, or in window and groups.
      if (!seen_q) assert (magnitude_q == '0);
      assert (found == (pending ? 6'd0 : {magnitude_q, 2'b00}));
    end
  end

endmodule
