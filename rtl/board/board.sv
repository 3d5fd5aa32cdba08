// SPDX-License-Identifier: Apache-2.0
//
// Board: a tile behind a stream of bytes, whatever carries them: a UART, an FT245, a pseudo-terminal of the simulation.
//
// A byte of the line is taken in every cycle in which it is offered; answers wait until the line takes them.
// What it does not do: make clocks or resets, know pins (tops of boards do).

module board #(
  parameter int unsigned Lanes        = 2,
  parameter int unsigned Columns      = 8,
  parameter int unsigned EncodeWidth  = 4,
  parameter int unsigned KMax         = 256,
  parameter int unsigned NMax         = 64,
  parameter int unsigned LowRule      = 0,
  parameter int unsigned WeightBanks  = 1,
  parameter int unsigned PeStages     = 1,
  parameter int unsigned OperandBeats = 2048,
  parameter int unsigned ResultDepth  = 1024,
  parameter logic [63:0] Digest       = 64'd0
) (
  input  logic clk_i,
  input  logic rst_ni,

  input  logic       rx_valid_i,
  input  logic [7:0] rx_data_i,
  output logic       tx_valid_o,
  input  logic       tx_ready_i,
  output logic [7:0] tx_data_o,

  output logic       busy_o   // a frame or a pass is under way
);

  localparam int unsigned Window    = 4;  // frames a host may have without an answer
  localparam int unsigned SlotBytes = 2048;
  localparam int unsigned ByteWidth = $clog2(SlotBytes);

  logic                 frame_valid;
  logic [ByteWidth-1:0] frame_bytes;
  logic                 frame_done;
  logic [ByteWidth-1:0] read_addr;
  logic [7:0]           read_data;
  logic [15:0]          dropped;

  logic       answer_valid;
  logic       answer_ready;
  logic [7:0] answer;
  logic       answer_last;

  logic        tile_busy;
  logic        write_valid;
  logic [31:0] address;
  logic [7:0]  write_data;
  logic [7:0]  tile_data;

  assign busy_o = frame_valid || tile_busy || tx_valid_o;

  deframer #(.Slots(Window), .SlotBytes(SlotBytes)) u_deframer (
    .clk_i, .rst_ni, .valid_i(rx_valid_i), .data_i(rx_data_i),
    .frame_valid_o(frame_valid), .frame_bytes_o(frame_bytes), .frame_done_i(frame_done),
    .read_addr_i(read_addr), .read_data_o(read_data), .dropped_o(dropped)
  );

  engine #(.SlotBytes(SlotBytes)) u_engine (
    .clk_i, .rst_ni,
    .frame_valid_i(frame_valid), .frame_bytes_i(frame_bytes), .frame_done_o(frame_done),
    .read_addr_o(read_addr), .read_data_i(read_data),
    .answer_valid_o(answer_valid), .answer_ready_i(answer_ready), .answer_o(answer), .answer_last_o(answer_last),
    .busy_i(tile_busy), .write_valid_o(write_valid), .address_o(address), .write_data_o(write_data), .data_i(tile_data)
  );

  board_tile #(
    .Lanes(Lanes), .Columns(Columns), .EncodeWidth(EncodeWidth), .KMax(KMax), .NMax(NMax), .LowRule(LowRule),
    .WeightBanks(WeightBanks), .PeStages(PeStages), .OperandBeats(OperandBeats), .ResultDepth(ResultDepth), .Window(Window), .Digest(Digest)
  ) u_board_tile (
    .clk_i, .rst_ni, .busy_o(tile_busy), .write_valid_i(write_valid), .address_i(address), .write_data_i(write_data),
    .read_data_o(tile_data), .dropped_i(dropped)
  );

  framer u_framer (
    .clk_i, .rst_ni, .valid_i(answer_valid), .ready_o(answer_ready), .data_i(answer), .last_i(answer_last),
    .valid_o(tx_valid_o), .ready_i(tx_ready_i), .data_o(tx_data_o)
  );

endmodule
