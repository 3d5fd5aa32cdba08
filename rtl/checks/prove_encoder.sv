// SPDX-License-Identifier: Apache-2.0
// Proof by induction: whatever the operands, whenever they come, however long the row, whichever element is asked for,
// `element_checks` hold. What is assumed: a reset first; the pass's configuration and the element asked for do not change.
// The invariants below say, of any cycle, where the slots of the element are on their way through the encoder.

module prove_encoder
  import ditto_pkg::*;
#(
  parameter int unsigned EncodeWidth = 4,
  parameter int unsigned KMax        = 16,
  parameter bit          Mag4        = 1'b0,
  parameter bit          Scatter     = 1'b0,
  localparam int unsigned GroupWords = 2 * EncodeWidth / SlotsPerWord,
  localparam int unsigned GroupAddrWidth = $clog2(KMax / EncodeWidth)
) (
  input logic clk_i,
  input logic rst_ni,
  input logic [SlotKWidth-1:0] pick_i,
  input logic              original_i,
  input logic [KWidth-1:0] k_i,
  input logic              open_i,
  input logic              valid_i,
  input logic [7:0] current_i   [EncodeWidth],
  input logic [7:0] reference_i [EncodeWidth]
);

  logic                      ready;
  logic                      group_valid;
  logic [GroupAddrWidth-1:0] group_addr;
  slot_word_t                group [GroupWords];
  logic                      row_end;
  logic [CountWidth-1:0]     row_slots;
  logic [KWidth-1:0]         row_full;

  encoder #(
    .EncodeWidth(EncodeWidth), .KMax(KMax), .Mag4(Mag4), .Scatter(Scatter)
  ) u_encoder (
    .clk_i, .rst_ni, .original_i, .k_i, .open_i, .valid_i, .ready_o(ready), .current_i, .reference_i,
    .group_valid_o(group_valid), .group_addr_o(group_addr), .group_o(group),
    .row_end_o(row_end), .row_slots_o(row_slots), .row_full_o(row_full)
  );

  element_checks #(
    .EncodeWidth(EncodeWidth)
  ) u_checks (
    .clk_i, .rst_ni, .pick_i, .k_i, .taken_i(valid_i && ready), .current_i, .reference_i,
    .group_valid_i(group_valid), .group_i(group), .row_end_i(row_end)
  );

  ////////////////////////////////////////////////////
  // Environment                                    //
  ////////////////////////////////////////////////////

  logic                  started_q = 1'b0;
  logic [SlotKWidth-1:0] pick_q;
  logic                  original_q;
  logic [KWidth-1:0]     k_q;

  always_ff @(posedge clk_i) begin : environment
    started_q  <= 1'b1;
    pick_q     <= pick_i;
    original_q <= original_i;
    k_q        <= k_i;
    assume (rst_ni == started_q);
    assume (k_i >= KWidth'(1) && k_i <= KWidth'(KMax));
    if (started_q) assume (pick_i == pick_q && original_i == original_q && k_i == k_q);
  end

  ////////////////////////////////////////////////////
  // Invariants                                     //
  ////////////////////////////////////////////////////

  localparam int unsigned GroupSlots = 2 * EncodeWidth;
  localparam int unsigned PosWidth   = $clog2(2 * GroupSlots);

  logic [KWidth-1:0] beat_base;  // first element of the beat being appended
  logic              in_row;     // the row has the element
  logic              seen;       // its beat has been taken
  logic              pending;    // and is being appended

  assign beat_base = u_checks.base_q - KWidth'(EncodeWidth);
  assign in_row    = {1'b0, pick_i} < k_i;
  assign seen      = in_row && {1'b0, pick_i} < u_checks.base_q;
  assign pending   = seen && u_encoder.beat_valid_q && {1'b0, pick_i} >= beat_base;

  // What has been met of the element's slots when the window is emptied.
  function automatic logic [9:0] meet_window(logic [9:0] met);
    automatic logic [9:0] found = met;
    for (int unsigned i = 0; i < GroupSlots; i++) begin
      if (PosWidth'(i) < u_encoder.fill_q) found = u_checks.meet(found, slot_t'(u_encoder.window_q[i]));
    end
    return found;
  endfunction

  logic [9:0] found;

  assign found = meet_window(u_checks.found);

  always_ff @(posedge clk_i) begin : invariants
    if (rst_ni) begin
      // A row is taken, appended to its last beat, flushed, ended: one of these at a time.
      assert ($onehot({u_encoder.taking_q, u_encoder.beat_valid_q && u_encoder.beat_last_q,
                        u_encoder.flush_q, row_end}));
      assert (!(u_encoder.flush_q || row_end) || !u_encoder.beat_valid_q);
      assert (!row_end || u_encoder.fill_q == '0);
      assert (u_checks.base_q[1:0] == '0);
      if (u_encoder.taking_q) assert (u_encoder.k_base_q == u_checks.base_q && u_checks.base_q < k_i);
      else assert (u_encoder.k_base_q == '0 && u_checks.base_q >= k_i && beat_base < k_i);
      if (u_encoder.beat_valid_q) begin
        assert (u_checks.base_q >= KWidth'(EncodeWidth));
        assert ({1'b0, u_encoder.beat_k_q} == beat_base);
        assert (u_encoder.beat_last_q == !u_encoder.taking_q);
      end
      assert (u_encoder.fill_q < PosWidth'(GroupSlots));
      // The beat being appended.
      if (u_encoder.beat_valid_q) begin
        for (int unsigned e = 0; e < EncodeWidth; e++) begin
          assert (u_encoder.slots_q[e] <= 8'd2);
          assert (beat_base + KWidth'(e) < k_i || u_encoder.slots_q[e] == 8'd0);
          if (pending && beat_base + KWidth'(e) == {1'b0, pick_i}) begin
            assert ({1'b0, u_encoder.magnitude_q[e]} == u_checks.magnitude_q);
            assert (u_encoder.magnitude_q[e] == '0 || u_encoder.sign_q[e][0] == u_checks.negative_q);
            assert (u_encoder.slots_q[e] != 8'd0 || u_encoder.magnitude_q[e] == '0);
            assert (u_encoder.slots_q[e] != 8'd1 || u_encoder.magnitude_q[e][7:4] == '0);
          end
        end
      end
      // What has been appended.
      for (int unsigned i = 0; i < GroupSlots; i++) begin
        automatic slot_t slot = slot_t'(u_encoder.window_q[i]);
        if (PosWidth'(i) < u_encoder.fill_q) begin
          assert (!slot.hi || i % 2 == 0);
          assert (slot.nibble == '0 || {1'b0, slot.k} < k_i);
        end
      end
      if (!seen) assert (u_checks.magnitude_q == '0);
      assert (!u_checks.magnitude_q[8]);
      assert (found == (pending ? 10'd0 : {u_checks.magnitude_q[7:0], 2'b00}));
    end
  end

endmodule
