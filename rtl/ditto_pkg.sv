// SPDX-License-Identifier: Apache-2.0
// Words shared by every block of the tile: the slot, the mode, the widths that no parameter changes.
// What is not here: sizes (lanes, columns, ...), which are parameters of `tile` and come from protocol/hardware.py.

package ditto_pkg;

  // How a layer runs in a step. `ModeTemporal` and `ModeSpatial` differ only in what the driver sends as reference.
  typedef enum logic [1:0] {
    ModeOriginal = 2'd0,
    ModeTemporal = 2'd1,
    ModeSpatial  = 2'd2
  } mode_e;

  // One 4-bit multiplier operand.
  //
  //   15            6 5        2   1    0
  //  +---------------+----------+----+----+
  //  |       k       |  nibble  |sign| hi |    value = (sign ? -1 : 1) * nibble * (hi ? 16 : 1), for element k
  //  +---------------+----------+----+----+
  localparam int unsigned SlotKWidth = 10;
  typedef struct packed {
    logic [SlotKWidth-1:0] k;
    logic [3:0]            nibble;
    logic                  sign;
    logic                  hi;
  } slot_t;

  // Slots leave a lane's buffer four at a time; slot 0 in the lowest bits. High nibbles sit in slots 0 and 2 only.
  localparam int unsigned SlotsPerWord = 4;
  typedef slot_t [SlotsPerWord-1:0] slot_word_t;

  localparam int unsigned KWidth = SlotKWidth + 1;  // counts elements of a row, 0 ... 1024
  localparam int unsigned CountWidth = KWidth + 1;  // counts slots of a row, 0 ... 2048
  localparam int unsigned RowWidth = 24;            // counts rows of a pass
  localparam int unsigned BlockWidth = 12;          // counts column blocks
  localparam int unsigned CycleWidth = 32;

endpackage
