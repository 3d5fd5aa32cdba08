// SPDX-License-Identifier: Apache-2.0
// One element of a row, whichever `pick_i` names: the slots that leave the encoder for it make up its difference, its low
// nibble once, its high nibble once, each with its sign. In every group: no high nibble on an odd position, no slot of an
// element that the row does not have.
//
// `pick_i` holds while a row is in the encoder. A proof leaves it free, and so speaks of every element; a simulation draws it.
// What it does not do: products, cycles, the order of slots.

module element_checks
  import ditto_pkg::*;
#(
  parameter int unsigned EncodeWidth = 8,
  localparam int unsigned GroupWords = 2 * EncodeWidth / SlotsPerWord
) (
  input logic clk_i,
  input logic rst_ni,
  input logic [SlotKWidth-1:0] pick_i,
  input logic [KWidth-1:0]     k_i,

  input logic       taken_i,  // a beat is taken
  input logic [7:0] current_i   [EncodeWidth],
  input logic [7:0] reference_i [EncodeWidth],

  input logic       group_valid_i,
  input slot_word_t group_i [GroupWords],
  input logic       row_end_i
);

  // What slots of the element have been met. Nibbles are gathered, not added, so that a proof meets no adders; each at most
  // once makes that the same.
  typedef struct packed {
    logic [3:0] hi;
    logic [3:0] lo;
    logic       twice;
    logic       wrong_sign;
  } found_t;

  logic [KWidth-1:0] base_q;       // element the next beat starts with
  logic [8:0]        magnitude_q;  // of the element's difference
  logic              negative_q;
  found_t            found_q;      // in groups before this one

  function automatic found_t meet(found_t met, slot_t slot);
    automatic found_t found = met;
    if (slot.k == pick_i && slot.nibble != '0) begin
      found.twice      = met.twice || (slot.hi ? met.hi != '0 : met.lo != '0);
      found.wrong_sign = met.wrong_sign || slot.sign != negative_q;
      if (slot.hi) found.hi = met.hi | slot.nibble;
      else found.lo = met.lo | slot.nibble;
    end
    return found;
  endfunction

  function automatic found_t meet_group(found_t met);
    automatic found_t found = met;
    for (int unsigned w = 0; w < GroupWords; w++) begin
      for (int unsigned s = 0; s < SlotsPerWord; s++) found = meet(found, group_i[w][s]);
    end
    return found;
  endfunction

  found_t found;  // this cycle's group too

  assign found = group_valid_i ? meet_group(found_q) : found_q;

  always_ff @(posedge clk_i) begin : element
    if (!rst_ni || row_end_i) begin
      base_q      <= '0;
      magnitude_q <= '0;
      negative_q  <= 1'b0;
      found_q     <= '0;
    end else begin
      found_q <= found;
      if (taken_i) begin
        base_q <= base_q + KWidth'(EncodeWidth);
        for (int unsigned e = 0; e < EncodeWidth; e++) begin
          if (base_q + KWidth'(e) == {1'b0, pick_i} && {1'b0, pick_i} < k_i) begin
            automatic logic [8:0] a = {current_i[e][7], current_i[e]};
            automatic logic [8:0] b = {reference_i[e][7], reference_i[e]};
            negative_q  <= $signed(a) < $signed(b);
            magnitude_q <= $signed(a) < $signed(b) ? b - a : a - b;
          end
        end
      end
    end
    if (rst_ni && group_valid_i) begin
      for (int unsigned w = 0; w < GroupWords; w++) begin
        for (int unsigned s = 0; s < SlotsPerWord; s++) begin
          assert (!group_i[w][s].hi || s % 2 == 0) else $error("a high nibble sits on odd position %0d", s);
          assert (group_i[w][s].nibble == '0 || {1'b0, group_i[w][s].k} < k_i) else $error("a slot of no element");
        end
      end
    end
    if (rst_ni && row_end_i) begin
      assert ({1'b0, found.hi, found.lo} == magnitude_q && !found.wrong_sign && !found.twice)
      else $error("the slots of element %0d are not its difference", pick_i);
    end
  end

endmodule
