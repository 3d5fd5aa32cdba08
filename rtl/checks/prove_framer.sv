// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of the board's two ends of the line. Framer: what a reader of the line decodes is what went in, each byte
// once and in order, then four bytes that are its CRC, between flags; a byte on the line holds until it is taken. Deframer: it
// never holds fewer frames than none nor more than its slots, and takes the only byte it is offered without being asked.
// What is assumed: a reset first; a frame's byte waits until it is taken, and frames are given back only if there is one.

module prove_framer
  import board_pkg::*;
(
  input logic       clk_i,
  input logic       rst_ni,
  input logic       valid_i,
  input logic [7:0] data_i,
  input logic       last_i,
  input logic       ready_i,
  input logic       line_valid_i,
  input logic [7:0] line_data_i,
  input logic       frame_done_i,
  input logic [3:0] read_addr_i
);

  logic       ready;
  logic       valid;
  logic [7:0] data;

  framer u_framer (
    .clk_i, .rst_ni, .valid_i, .ready_o(ready), .data_i, .last_i, .valid_o(valid), .ready_i, .data_o(data)
  );

  hold_checks #(
    .Width(8)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(valid), .ready_i, .payload_i(data)
  );

  // The framer's states, in its order.
  localparam logic [2:0] StateOpen  = 3'd0;
  localparam logic [2:0] StateBody  = 3'd1;
  localparam logic [2:0] StateCrc   = 3'd2;
  localparam logic [2:0] StateClose = 3'd3;

  // A reader of the line.
  typedef enum logic [1:0] {
    Outside,
    Body,
    Crc
  } place_e;

  logic        started_q = 1'b0;
  logic        waits_q;
  logic [8:0]  waiting_q;
  place_e      place_q;
  logic        escaped_q;
  logic [1:0]  count_q;   // bytes of the CRC that were read
  logic [31:0] crc_q;     // of what went in
  logic        moves;
  logic        plain;     // a decoded byte is there
  logic [7:0]  decoded;

  assign moves   = valid && ready_i;
  assign plain   = moves && data != Flag && data != Escape;
  assign decoded = escaped_q ? data ^ Flip : data;

  always_ff @(posedge clk_i) begin : reader
    started_q <= 1'b1;
    waits_q   <= rst_ni && valid_i && !ready;
    waiting_q <= {last_i, data_i};
    assume (rst_ni == started_q);
    if (waits_q) assume (valid_i && {last_i, data_i} == waiting_q);
    if (!rst_ni) begin
      place_q   <= Outside;
      escaped_q <= 1'b0;
      count_q   <= '0;
      crc_q     <= '1;
    end else begin
      if (moves && data == Escape) escaped_q <= 1'b1;
      if (plain) escaped_q <= 1'b0;
      if (valid_i && ready) crc_q <= crc32(crc_q, data_i);
      unique case (place_q)
        Outside: begin
          assert (!ready);
          if (moves) begin
            assert (data == Flag);
            place_q <= Body;
            crc_q   <= '1;
          end
        end
        Body: begin
          assert (!moves || data != Flag);
          assert (ready == plain);                          // a byte goes in when, and only when, it has been read
          if (plain) assert (valid_i && decoded == data_i);
          if (plain && last_i) place_q <= Crc;
        end
        Crc: begin
          assert (!ready);
          if (plain) begin
            assert (count_q != 2'd0 || decoded == ~crc_q[7:0]);
            assert (count_q != 2'd1 || decoded == ~crc_q[15:8]);
            assert (count_q != 2'd2 || decoded == ~crc_q[23:16]);
            assert (count_q != 2'd3 || decoded == ~crc_q[31:24]);
            count_q <= count_q + 2'd1;
          end
          if (moves && data == Flag) begin
            assert (!escaped_q && count_q == 2'd0 && 3'(u_framer.state_q) == StateClose);
            place_q <= Outside;
          end
        end
        default: assert (1'b0);
      endcase
      // Where the framer is when its reader is here.
      assert ((place_q == Outside) == (3'(u_framer.state_q) == StateOpen));
      assert ((place_q == Body) == (3'(u_framer.state_q) == StateBody));
      assert (3'(u_framer.state_q) != StateCrc || count_q == u_framer.crc_at_q);
      assert (3'(u_framer.state_q) != StateClose || (count_q == 2'd0 && !escaped_q && u_framer.crc_at_q == 2'd0));
      assert (place_q == Crc || (count_q == 2'd0 && u_framer.crc_at_q == 2'd0));
      assert (escaped_q == u_framer.escape_q);
      assert (!escaped_q || place_q != Outside);
      assert (place_q != Body || crc_q == u_framer.crc_q);
      assert (3'(u_framer.state_q) != StateCrc || u_framer.crc_q == crc_q >> (5'd8 * 5'(count_q)));
      if (escaped_q && place_q == Body) assert (valid_i && (data_i == Flag || data_i == Escape));
      if (escaped_q && 3'(u_framer.state_q) == StateCrc) begin
        assert (~u_framer.crc_q[7:0] == Flag || ~u_framer.crc_q[7:0] == Escape);
      end
    end
  end

  ////////////////////////////////////////////////////
  // The other end                                  //
  ////////////////////////////////////////////////////

  logic        frame_valid;
  logic [3:0]  frame_bytes;
  logic [7:0]  read_data;
  logic [15:0] dropped;

  deframer #(
    .Slots(4), .SlotBytes(16)
  ) u_deframer (
    .clk_i, .rst_ni, .valid_i(line_valid_i), .data_i(line_data_i), .frame_valid_o(frame_valid),
    .frame_bytes_o(frame_bytes), .frame_done_i, .read_addr_i, .read_data_o(read_data), .dropped_o(dropped)
  );

  always_ff @(posedge clk_i) begin : credits
    assume (!frame_done_i || frame_valid);
    if (rst_ni) begin
      assert (u_deframer.held_q <= 3'd4);
      assert (frame_valid == (u_deframer.held_q != '0));
      assert (u_deframer.held_q[1:0] == u_deframer.write_slot_q - u_deframer.read_slot_q);
    end
  end

endmodule
