// SPDX-License-Identifier: Apache-2.0
//
// Framer: a frame's bytes in, its bytes on the line out: a flag, the bytes stuffed, their CRC-32, a flag.
//
// Valid never waits for ready, on either side; a byte and its valid hold until they are taken.
// What it does not do: number frames or keep them to send again (a host that misses an answer asks again).

module framer
  import board_pkg::*;
(
  input  logic clk_i,
  input  logic rst_ni,

  input  logic       valid_i,
  output logic       ready_o,
  input  logic [7:0] data_i,
  input  logic       last_i,  // the frame ends with this byte

  output logic       valid_o,
  input  logic       ready_i,
  output logic [7:0] data_o
);

  typedef enum logic [2:0] {
    StateOpen,    // a flag goes out as soon as a byte waits
    StateBody,
    StateCrc,
    StateClose
  } state_e;

  state_e      state_q;
  logic        escape_q;   // the escape went out, the flipped byte is next
  logic [1:0]  crc_at_q;
  logic [31:0] crc_q;
  logic [7:0]  plain;
  logic        special;
  logic        moves;

  assign plain   = state_q == StateCrc ? ~crc_q[7:0] : data_i;
  assign special = plain == Flag || plain == Escape;
  assign moves   = valid_o && ready_i;
  assign ready_o = state_q == StateBody && moves && (!special || escape_q);

  always_comb begin : line
    valid_o = 1'b0;
    data_o  = Flag;
    unique case (state_q)
      StateOpen: valid_o = valid_i;
      StateBody: begin
        valid_o = valid_i;
        data_o  = !special ? plain : escape_q ? plain ^ Flip : Escape;
      end
      StateCrc: begin
        valid_o = 1'b1;
        data_o  = !special ? plain : escape_q ? plain ^ Flip : Escape;
      end
      StateClose: valid_o = 1'b1;
      default: valid_o = 1'b0;
    endcase
  end

  always_ff @(posedge clk_i) begin : steps
    if (!rst_ni) begin
      state_q  <= StateOpen;
      escape_q <= 1'b0;
      crc_at_q <= '0;
      crc_q    <= '1;
    end else if (moves) begin
      unique case (state_q)
        StateOpen: begin
          state_q <= StateBody;
          crc_q   <= '1;
        end
        StateBody: begin
          escape_q <= special && !escape_q;
          if (ready_o) begin
            crc_q <= crc32(crc_q, data_i);
            if (last_i) state_q <= StateCrc;
          end
        end
        StateCrc: begin
          escape_q <= special && !escape_q;
          if (!special || escape_q) begin
            crc_q    <= crc_q >> 8;
            crc_at_q <= crc_at_q + 2'd1;
            if (crc_at_q == 2'd3) state_q <= StateClose;
          end
        end
        StateClose: state_q <= StateOpen;
        default: state_q <= StateOpen;
      endcase
    end
  end

endmodule
