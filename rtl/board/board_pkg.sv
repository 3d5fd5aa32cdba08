// SPDX-License-Identifier: Apache-2.0
//
// Words of the board's byte stream, shared by framer, engine and top. The stream itself: rtl/board/README.md.

package board_pkg;

  // A frame on the line: flag, then kind, sequence number, payload and CRC-32, stuffed so that no flag is among them.
  localparam logic [7:0] Flag   = 8'h7e;
  localparam logic [7:0] Escape = 8'h7d;
  localparam logic [7:0] Flip   = 8'h20;

  localparam logic [7:0] KindHello   = 8'h01;  // nonce: begins a session, sequence numbers start anew
  localparam logic [7:0] KindWrite   = 8'h02;  // address, data
  localparam logic [7:0] KindRead    = 8'h03;  // address, count
  localparam logic [7:0] KindWelcome = 8'h81;  // nonce
  localparam logic [7:0] KindDone    = 8'h82;  // a write was carried out
  localparam logic [7:0] KindData    = 8'h83;  // bytes read
  localparam logic [7:0] KindStray   = 8'h8f;  // no session: the board was reset since its host said hello

  // Address: region in the top four bits, byte offset below.
  localparam logic [3:0] RegionRegister  = 4'h0;
  localparam logic [3:0] RegionWeight    = 4'h1;
  localparam logic [3:0] RegionCurrent   = 4'h2;
  localparam logic [3:0] RegionReference = 4'h3;
  localparam logic [3:0] RegionResult    = 4'h4;
  localparam logic [3:0] RegionReport    = 4'h5;
  localparam logic [3:0] RegionResult24  = 4'h6;  // results again; a read skips the top byte of every word
  localparam logic [3:0] RegionIdentity  = 4'hf;

  // One byte of CRC-32 (IEEE 802.3, reflected).
  function automatic logic [31:0] crc32(input logic [31:0] crc, input logic [7:0] data);
    automatic logic [31:0] c = crc ^ {24'd0, data};
    for (int unsigned i = 0; i < 8; i++) c = c[0] ? (c >> 1) ^ 32'hedb8_8320 : c >> 1;
    return c;
  endfunction

  localparam logic [31:0] CrcResidue = 32'hdebb_20e3;  // of a frame with its own CRC behind it, before the final flip

endpackage
