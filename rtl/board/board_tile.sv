// SPDX-License-Identifier: Apache-2.0
//
// Board tile: the tile with memories around it, as bytes at addresses. A pass runs from the operand memories into the
// result memories without a stall, so its cycles are the written contract's.
//
//   weights    byte ((block * KMax) + k) * C + c; a row of C bytes is loaded when its last byte is written
//   current    byte (lane * OperandBeats + beat) * E + e; a lane's rows one behind another, each ceil(K/E) beats
//   reference  the same place for every element, read when the REFERENCE register says so
//   result     byte ((lane * ResultDepth) + entry) * 4C + 4c; a lane's rows one behind another, each `blocks` entries
//   result24   the same places, for sums that fit 24 bits: a read leaves out every fourth byte
//   report     byte ((lane * ResultDepth) + row) * 8: zero, low, full, 0 as 16-bit words
//
// Registers (32 bit, little endian; a write takes effect with its last byte):
//   0x00 MODE  0x04 ROWS  0x08 K  0x0c BLOCKS  0x10 REFERENCE: bit 8 memory, bits 7:0 constant  0x14 RUN (any write)
//   0x18 STATUS: bit 0 a pass runs, bit 1 the last RUN was refused   0x1c CYCLES of the last pass   0x20 PASSES run
//   0x24 DROPPED frames   0x40 + 16 * lane: BUSY, STARVED, STALLED of the last pass
// A RUN that does not fit (more rows than the memories hold, or what the tile refuses) starts nothing.
// What it does not do: know frames (engine), split K, add partial sums.

module board_tile
  import ditto_pkg::*;
  import board_pkg::*;
#(
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
  parameter int unsigned Window       = 4,
  parameter logic [63:0] Digest       = 64'd0
) (
  input  logic clk_i,
  input  logic rst_ni,

  output logic        busy_o,
  input  logic        write_valid_i,
  input  logic [31:0] address_i,
  input  logic [7:0]  write_data_i,
  output logic [7:0]  read_data_o,   // of the address two cycles before
  input  logic [15:0] dropped_i
);

  localparam int unsigned ColumnWidth = $clog2(Columns);
  localparam int unsigned ElementWidth = $clog2(EncodeWidth);
  localparam int unsigned KIndexWidth = $clog2(KMax);
  localparam int unsigned BeatWidth = $clog2(OperandBeats);
  localparam int unsigned EntryWidth = $clog2(ResultDepth);
  localparam int unsigned LaneShift = $clog2(Lanes);
  localparam int unsigned LaneWidth = Lanes > 1 ? LaneShift : 1;
  localparam logic [31:0] Magic = 32'h4f54_5444;  // "DTTO"
  localparam logic [31:0] StreamVersion = 32'd2;

  if ((1 << ColumnWidth) != Columns || (1 << LaneShift) != Lanes || Columns < 2) begin : gen_powers
    $error("board_tile: Lanes = %0d and Columns = %0d must be powers of two (Columns at least 2)", Lanes, Columns);
  end
  if ((1 << BeatWidth) != OperandBeats || (1 << EntryWidth) != ResultDepth) begin : gen_depths
    $error("board_tile: OperandBeats = %0d and ResultDepth = %0d must be powers of two", OperandBeats, ResultDepth);
  end

  logic [3:0]  region;
  logic [27:0] offset;

  assign region = address_i[31:28];
  assign offset = address_i[27:0];

  ////////////////////////////////////////////////////
  // Registers                                      //
  ////////////////////////////////////////////////////

  logic [31:0] mode_q;
  logic [31:0] rows_q;
  logic [31:0] k_q;
  logic [31:0] blocks_q;
  logic [31:0] reference_q;
  logic        refused_q;  // by this module; what else the tile cannot take it refuses itself
  logic        tile_refused;
  logic        was_busy_q;
  logic [31:0] passes_q;

  // Registers are written long before RUN, a byte at a time, so what follows from them may take some cycles.
  logic        run;
  logic        start;
  logic        start_q;  // the tile's: operands are on their way a cycle before
  logic        tile_busy;
  logic        narrow_q;
  logic [27:0] beats_due_q;
  logic [27:0] entries_due_q;
  logic        fits_q;
  logic [KWidth-1:0] beats_q;  // of a row
  logic [15:0] most_rows_q;  // of a lane

  assign run   = write_valid_i && region == RegionRegister && offset == 28'h17;
  assign start = run && fits_q && !busy_o;
  assign busy_o = start_q || tile_busy;

  always_ff @(posedge clk_i) begin : begins
    start_q <= rst_ni && start;
  end

  always_ff @(posedge clk_i) begin : check
    beats_q       <= KWidth'((k_q + 32'(EncodeWidth - 1)) >> ElementWidth);
    most_rows_q   <= 16'((rows_q + 32'(Lanes - 1)) >> LaneShift);
    narrow_q      <= mode_q[31:2] == '0 && k_q[31:KWidth] == '0 && blocks_q[31:BlockWidth] == '0
                     && rows_q != '0 && rows_q[31:15] == '0;
    beats_due_q   <= most_rows_q * 28'(beats_q);
    entries_due_q <= most_rows_q * 28'(blocks_q[BlockWidth-1:0]);
    fits_q        <= narrow_q && beats_due_q <= 28'(OperandBeats) && entries_due_q <= 28'(ResultDepth);
  end

  always_ff @(posedge clk_i) begin : registers
    if (!rst_ni) begin
      refused_q  <= 1'b0;
      was_busy_q <= 1'b0;
      passes_q   <= '0;
      mode_q     <= '0;
      rows_q     <= '0;
      k_q        <= '0;
      blocks_q   <= '0;
      reference_q <= '0;
    end else begin
      was_busy_q <= tile_busy;
      if (tile_busy && !was_busy_q) passes_q <= passes_q + 32'd1;
      if (run) refused_q <= !start;
      if (write_valid_i && region == RegionRegister && offset < 28'h18) begin
        unique case (offset[4:2])
          3'd0: mode_q[8*offset[1:0]+:8]      <= write_data_i;
          3'd1: rows_q[8*offset[1:0]+:8]      <= write_data_i;
          3'd2: k_q[8*offset[1:0]+:8]         <= write_data_i;
          3'd3: blocks_q[8*offset[1:0]+:8]    <= write_data_i;
          3'd4: reference_q[8*offset[1:0]+:8] <= write_data_i;
          default: ;
        endcase
      end
    end
  end

  ////////////////////////////////////////////////////
  // Weights: a row is put together, then loaded    //
  ////////////////////////////////////////////////////

  logic [7:0] weight_row_q [Columns];
  logic       weight_valid_q;
  logic [KIndexWidth-1:0] weight_k_q;
  logic [BlockWidth-1:0]  weight_block_q;

  always_ff @(posedge clk_i) begin : weights
    if (!rst_ni) begin
      weight_valid_q <= 1'b0;
    end else begin
      weight_valid_q <= 1'b0;
      if (write_valid_i && region == RegionWeight) begin
        weight_row_q[offset[ColumnWidth-1:0]] <= write_data_i;
        if (&offset[ColumnWidth-1:0]) begin
          weight_valid_q <= 1'b1;
          weight_k_q     <= offset[ColumnWidth+:KIndexWidth];
          weight_block_q <= BlockWidth'(offset[27:ColumnWidth+KIndexWidth]);
        end
      end
    end
  end

  ////////////////////////////////////////////////////
  // The tile                                       //
  ////////////////////////////////////////////////////

  logic                  operand_valid [Lanes];
  logic                  operand_ready [Lanes];
  logic [7:0]            current       [Lanes*EncodeWidth];
  logic [7:0]            reference     [Lanes*EncodeWidth];
  logic                  result_valid  [Lanes];
  logic                  result_ready  [Lanes];
  logic [31:0]           result        [Lanes*Columns];
  logic                  result_last   [Lanes];
  logic [KWidth-1:0]     zero          [Lanes];
  logic [KWidth-1:0]     low           [Lanes];
  logic [KWidth-1:0]     full          [Lanes];
  logic [CycleWidth-1:0] busy_cycles   [Lanes];
  logic [CycleWidth-1:0] starved       [Lanes];
  logic [CycleWidth-1:0] stalled       [Lanes];
  logic [CycleWidth-1:0] cycles;

  /* verilator lint_off PINCONNECTEMPTY */  // results come in order, and weights only between passes
  tile #(
    .Lanes(Lanes), .Columns(Columns), .EncodeWidth(EncodeWidth), .KMax(KMax), .NMax(NMax), .LowRule(LowRule),
    .WeightBanks(WeightBanks), .PeStages(PeStages)
  ) u_tile (
    .clk_i, .rst_ni,
    .start_i(start_q), .swap_i(1'b1), .mode_i(mode_q[1:0]), .rows_i(rows_q[RowWidth-1:0]), .k_i(k_q[KWidth-1:0]),
    .blocks_i(blocks_q[BlockWidth-1:0]), .busy_o(tile_busy), .refused_o(tile_refused), .cycle_o(cycles),
    .weight_valid_i(weight_valid_q), .weight_ready_o(), .weight_block_i(weight_block_q),
    .weight_k_i(KWidth'(weight_k_q)), .weight_i(weight_row_q),
    .operand_valid_i(operand_valid), .operand_ready_o(operand_ready), .current_i(current), .reference_i(reference),
    .result_valid_o(result_valid), .result_ready_i(result_ready), .result_o(result),
    .result_row_o(), .result_block_o(), .result_last_o(result_last),
    .enc_done_o(), .done_o(), .zero_o(zero), .low_o(low), .full_o(full),
    .busy_cycles_o(busy_cycles), .starved_cycles_o(starved), .stalled_cycles_o(stalled)
  );
  /* verilator lint_on PINCONNECTEMPTY */

  ////////////////////////////////////////////////////
  // Lanes: operands out of memory, results into it //
  ////////////////////////////////////////////////////

  logic [ColumnWidth+1:0] byte_q;  // of an entry

  always_ff @(posedge clk_i) begin : read_byte
    byte_q <= offset[ColumnWidth+1:0];
  end

  logic [7:0] result_byte [Lanes];
  logic [7:0] report_byte [Lanes];

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic [32*Columns-1:0]    result_memory    [ResultDepth];
    logic [63:0]              report_memory    [ResultDepth];

    // Operands are written byte by byte, between passes, so every element of a beat has memories of its own: one memory
    // with enables for its bytes would be built of memories a bit wide.
    logic                    mine;
    logic [BeatWidth-1:0]    write_beat;
    logic [ElementWidth-1:0] write_element;

    assign write_element = offset[ElementWidth-1:0];
    assign write_beat    = offset[ElementWidth+:BeatWidth];
    assign mine = write_valid_i && !busy_o && 28'(offset >> (ElementWidth + BeatWidth)) == 28'(l);

    // A beat waits in a register for the encoder, the next one at the memories' outputs. Between passes the first one goes both
    // steps again and again, so that it is there when the tile starts.
    logic [15:0]              lane_rows_q;
    logic [27:0]              lane_beats_q;
    logic [27:0]              beats_left_q;
    logic [BeatWidth-1:0]     fetch_q;
    logic                     beat_valid_q;
    logic                     moves;

    assign moves = !beat_valid_q || operand_ready[l];

    always_ff @(posedge clk_i) begin : count_beats
      lane_rows_q  <= 16'((rows_q + 32'(Lanes - 1 - l)) >> LaneShift);
      lane_beats_q <= lane_rows_q * 28'(beats_q);
    end

    always_ff @(posedge clk_i) begin : fetch
      if (!rst_ni) begin
        beat_valid_q <= 1'b0;
      end else if (start) begin
        beats_left_q <= lane_beats_q;
        fetch_q      <= BeatWidth'(1);
      end else if (!busy_o) begin
        fetch_q      <= '0;
        beat_valid_q <= 1'b0;
      end else if (moves) begin
        fetch_q      <= fetch_q + BeatWidth'(1);
        beat_valid_q <= beats_left_q != '0;
        if (beats_left_q != '0) beats_left_q <= beats_left_q - 28'd1;
      end
    end

    assign operand_valid[l] = beat_valid_q;
    for (genvar e = 0; e < EncodeWidth; e++) begin : gen_element
      logic [7:0] current_memory   [OperandBeats];
      logic [7:0] reference_memory [OperandBeats];
      logic [7:0] next_current_q;
      logic [7:0] next_reference_q;
      logic [7:0] current_q;
      logic [7:0] reference_byte_q;
      logic       written;

      assign written = mine && write_element == ElementWidth'(e);

      always_ff @(posedge clk_i) begin : operands
        if (written && region == RegionCurrent) current_memory[write_beat] <= write_data_i;
        if (written && region == RegionReference) reference_memory[write_beat] <= write_data_i;
        if (moves) begin
          next_current_q   <= current_memory[fetch_q];
          next_reference_q <= reference_memory[fetch_q];
          current_q        <= next_current_q;
          reference_byte_q <= reference_q[8] ? next_reference_q : reference_q[7:0];
        end
      end

      assign current[l*EncodeWidth+e]   = current_q;
      assign reference[l*EncodeWidth+e] = reference_byte_q;
    end

    // Every result is taken in the cycle in which it is offered.
    logic [EntryWidth-1:0] entry_q;
    logic [EntryWidth-1:0] row_q;
    logic [32*Columns-1:0] entry;

    assign result_ready[l] = 1'b1;
    for (genvar c = 0; c < Columns; c++) begin : gen_column
      assign entry[32*c+:32] = result[l*Columns+c];
    end

    always_ff @(posedge clk_i) begin : collect
      if (start) begin
        entry_q <= '0;
        row_q   <= '0;
      end else if (result_valid[l]) begin
        result_memory[entry_q] <= entry;
        entry_q                <= entry_q + EntryWidth'(1);
        if (result_last[l]) begin
          report_memory[row_q] <= {16'd0, 16'(full[l]), 16'(low[l]), 16'(zero[l])};
          row_q                <= row_q + EntryWidth'(1);
        end
      end
    end

    // Whole entries are read, so that the memories are blocks; which byte of one follows a cycle later.
    logic [32*Columns-1:0] result_word_q;
    logic [63:0]           report_word_q;

    always_ff @(posedge clk_i) begin : read
      result_word_q <= result_memory[offset[ColumnWidth+2+:EntryWidth]];
      report_word_q <= report_memory[offset[3+:EntryWidth]];
    end

    assign result_byte[l] = result_word_q[8*byte_q+:8];
    assign report_byte[l] = report_word_q[8*byte_q[2:0]+:8];
  end

  ////////////////////////////////////////////////////
  // Reads: a word in one cycle, its byte in the next //
  ////////////////////////////////////////////////////

  logic [3:0]           read_region_q;
  logic [LaneWidth-1:0] result_lane_q;
  logic [LaneWidth-1:0] report_lane_q;
  logic [7:0]           register_q;
  logic [31:0]          register_word;
  logic [31:0]          identity_word;
  logic [LaneWidth-1:0] counter_lane;

  assign counter_lane = LaneWidth'(32'(offset[27:4]) - 32'd4);

  always_comb begin : register_file
    unique case (offset[27:2])
      26'd0: register_word = mode_q;
      26'd1: register_word = rows_q;
      26'd2: register_word = k_q;
      26'd3: register_word = blocks_q;
      26'd4: register_word = reference_q;
      26'd6: register_word = {30'd0, refused_q || tile_refused, busy_o};
      26'd7: register_word = cycles;
      26'd8: register_word = passes_q;
      26'd9: register_word = {16'd0, dropped_i};
      default: begin
        unique case (offset[3:2])
          2'd0: register_word = busy_cycles[counter_lane];
          2'd1: register_word = starved[counter_lane];
          2'd2: register_word = stalled[counter_lane];
          default: register_word = '0;
        endcase
        if (offset[27:4] < 24'd4 || 32'(offset[27:4]) >= 32'(4 + Lanes)) register_word = '0;
      end
    endcase
  end

  always_comb begin : identity
    unique case (offset[27:2])
      26'd0: identity_word = Magic;
      26'd1: identity_word = StreamVersion;
      26'd2: identity_word = 32'(Lanes);
      26'd3: identity_word = 32'(Columns);
      26'd4: identity_word = 32'(EncodeWidth);
      26'd5: identity_word = 32'(KMax);
      26'd6: identity_word = 32'(NMax);
      26'd7: identity_word = 32'(LowRule);
      26'd8: identity_word = 32'(WeightBanks);
      26'd9: identity_word = 32'(OperandBeats);
      26'd10: identity_word = 32'(ResultDepth);
      26'd11: identity_word = 32'(Window);
      26'd12: identity_word = Digest[31:0];
      26'd13: identity_word = Digest[63:32];
      26'd14: identity_word = 32'(PeStages);
      default: identity_word = '0;
    endcase
  end

  always_ff @(posedge clk_i) begin : read
    read_region_q <= region;
    result_lane_q <= LaneWidth'(offset >> (ColumnWidth + 2 + EntryWidth));
    report_lane_q <= LaneWidth'(offset >> (3 + EntryWidth));
    register_q    <= region == RegionIdentity ? identity_word[8*offset[1:0]+:8] : register_word[8*offset[1:0]+:8];
  end

  always_ff @(posedge clk_i) begin : select
    unique case (read_region_q)
      RegionRegister, RegionIdentity: read_data_o <= register_q;
      RegionResult, RegionResult24: read_data_o <= result_byte[result_lane_q];
      RegionReport: read_data_o <= report_byte[report_lane_q];
      default: read_data_o <= '0;
    endcase
  end

endmodule
