// SPDX-License-Identifier: Apache-2.0
// Words of SQ-DM's two arrays, beside those of ditto_pkg: the scale of a segment, and the widths that no parameter changes.
//
// A segment is what an array sees of one scale block of a row: those of its G neighbouring input channels that are the array's.
// Codes of one segment meet one activation scale, and in every output column one weight scale.
// What is not here: sizes (columns, G, ...), which are parameters of the tiles and come from protocol/hardware.py.

package sq_dm_pkg;

  // A non-negative E4M3 number in units of 2^-9, unpacked: mantissa << exponent, at most 14 << 14 = 229,376.
  typedef struct packed {
    logic [3:0] exponent;
    logic [3:0] mantissa;
  } scale_t;

  localparam int unsigned CodeWidth    = 4;
  localparam int unsigned SumWidth     = 16;  // products of a segment: 64 * 15 * 7 = 6,720 at most
  localparam int unsigned AccWidth     = 56;  // 144 segments of 32 at the largest scales stay below 2^55
  localparam int unsigned SegmentWidth = 7;   // counts segments of a row, 1 ... 64

  function automatic scale_t unpack_scale(logic [7:0] e4m3);
    automatic logic normal = e4m3[6:3] != 4'd0;
    return {e4m3[6:3] - {3'd0, normal}, normal, e4m3[2:0]};
  endfunction

endpackage
