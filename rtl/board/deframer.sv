// SPDX-License-Identifier: Apache-2.0
//
// Deframer: bytes of the line in, whole checked frames out. A frame is kept in one of `Slots` slots until its reader has
// done with it; one whose CRC is wrong, that is too short or too long, or that finds no free slot, is dropped and counted.
//
// A byte is always taken: a line without flow control must not be told to wait. A host that keeps no more than `Slots`
// requests without an answer never finds the slots full.
// What it does not do: look at sequence numbers (engine), ask for anything again (the host does).

module deframer
  import board_pkg::*;
#(
  parameter int unsigned Slots = 4,
  parameter int unsigned SlotBytes = 2048,
  localparam int unsigned SlotWidth = $clog2(Slots),
  localparam int unsigned ByteWidth = $clog2(SlotBytes)
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Line
  input  logic       valid_i,
  input  logic [7:0] data_i,

  // The oldest frame: kind, sequence number and payload, without its CRC
  output logic                 frame_valid_o,
  output logic [ByteWidth-1:0] frame_bytes_o,
  input  logic                 frame_done_i,
  input  logic [ByteWidth-1:0] read_addr_i,
  output logic [7:0]           read_data_o,  // of the address of the cycle before

  output logic [15:0]          dropped_o
);

  logic [7:0]           memory [Slots * SlotBytes];
  logic [SlotWidth-1:0] write_slot_q;
  logic [SlotWidth-1:0] read_slot_q;
  logic [SlotWidth:0]   held_q;
  logic [ByteWidth-1:0] bytes_q [Slots];

  logic                 escaped_q;
  logic                 broken_q;   // too long, or a flag came where an escaped byte was due
  logic [ByteWidth-1:0] at_q;
  logic [31:0]          crc_q;
  logic [7:0]           plain;
  logic                 is_flag;
  logic                 is_data;
  logic                 whole;
  logic                 good;

  assign is_flag = valid_i && data_i == Flag;
  assign is_data = valid_i && data_i != Flag && data_i != Escape;
  assign plain   = escaped_q ? data_i ^ Flip : data_i;
  assign whole   = is_flag && (at_q != '0 || broken_q);
  assign good    = whole && !broken_q && !escaped_q && at_q >= ByteWidth'(6) && crc_q == CrcResidue
                   && held_q != (SlotWidth + 1)'(Slots);

  assign frame_valid_o = held_q != '0;
  assign frame_bytes_o = bytes_q[read_slot_q];

  always_ff @(posedge clk_i) begin : store
    if (is_data) memory[{write_slot_q, at_q}] <= plain;
    read_data_o <= memory[{read_slot_q, read_addr_i}];
  end

  always_ff @(posedge clk_i) begin : frames
    if (!rst_ni) begin
      write_slot_q <= '0;
      read_slot_q  <= '0;
      held_q       <= '0;
      escaped_q    <= 1'b0;
      broken_q     <= 1'b1;  // the first flag after a reset may end half a frame
      at_q         <= '0;
      crc_q        <= '1;
      dropped_o    <= '0;
    end else begin
      held_q <= held_q + (SlotWidth + 1)'(good) - (SlotWidth + 1)'(frame_done_i);
      if (frame_done_i) read_slot_q <= read_slot_q + SlotWidth'(1);
      if (is_flag) begin
        if (good) begin
          bytes_q[write_slot_q] <= at_q - ByteWidth'(4);
          write_slot_q          <= write_slot_q + SlotWidth'(1);
        end else if (whole) begin
          dropped_o <= dropped_o + 16'd1;
        end
        escaped_q <= 1'b0;
        broken_q  <= 1'b0;
        at_q      <= '0;
        crc_q     <= '1;
      end else if (valid_i && data_i == Escape) begin
        if (escaped_q) broken_q <= 1'b1;
        escaped_q <= 1'b1;
      end else if (is_data) begin
        escaped_q <= 1'b0;
        crc_q     <= crc32(crc_q, plain);
        at_q      <= at_q + ByteWidth'(1);
        // A full slot is marked and its place stays where it is: the bytes after it overwrite its last one.
        if (at_q == '1) begin
          broken_q <= 1'b1;
          at_q     <= at_q;
        end
      end
    end
  end

endmodule
