// SPDX-License-Identifier: Apache-2.0
// Tile: R lanes with a common pass, one weight load for all, and row dispatch. Whole images run through this top.
//
// A pass is `rows_i` rows of `k_i` elements against the loaded weights. Row r belongs to lane r mod R; each lane has its
// own operand stream and its own result stream, and a result is tagged with its row and column block.
// Weights: with one bank they load while no pass runs; with two they load at any time into the bank the running pass
// does not read, and `swap_i` at the start of a pass makes that bank the active one.
// A start that no tile can take (mode 3, K or blocks beyond what it holds or none, rows that would wrap) starts nothing and
// is told by `refused_o` until the next start; a weight row that has no place is dropped.
// What it does not do: choose references, gather operands from memory, add partial sums of a split K.

module tile
  import ditto_pkg::*;
#(
  parameter int unsigned Lanes       = 1,
  parameter int unsigned Columns     = 128,
  parameter int unsigned EncodeWidth = 8,
  parameter int unsigned KMax        = 1024,
  parameter int unsigned NMax        = 512,
  parameter int unsigned LowRule     = 0,  // 0 = twos4 (-8 ... 7), 1 = mag4 (|d| <= 15)
  parameter int unsigned WeightBanks = 1,
  parameter int unsigned PeStages    = 1,  // 5: what an FPGA can clock
  localparam int unsigned Operands   = Lanes * EncodeWidth,
  localparam int unsigned Results    = Lanes * Columns
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass
  input  logic                  start_i,   // taken when `busy_o` is low; the next cycle is the pass's cycle 0
  input  logic                  swap_i,    // two banks only: this pass reads the bank loaded last
  input  logic [1:0]            mode_i,    // ditto_pkg::mode_e
  input  logic [RowWidth-1:0]   rows_i,
  input  logic [KWidth-1:0]     k_i,
  input  logic [BlockWidth-1:0] blocks_i,  // column blocks of C columns
  output logic                  busy_o,
  output logic                  refused_o, // the last start was none: mode 3, K, blocks or rows that no tile can take
  output logic [CycleWidth-1:0] cycle_o,   // cycles since the pass began; stands still when it is over

  // Weight load: one row of C weights per cycle, to every lane
  input  logic                  weight_valid_i,
  output logic                  weight_ready_o,
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Operands, per lane
  input  logic                     operand_valid_i [Lanes],
  output logic                     operand_ready_o [Lanes],
  input  logic [7:0]               current_i       [Operands],  // element e of lane l at [l*EncodeWidth+e]
  input  logic [7:0]               reference_i     [Operands],

  // Results, per lane: one column block of a row
  output logic                  result_valid_o [Lanes],
  input  logic                  result_ready_i [Lanes],
  output logic [31:0]           result_o       [Results],  // column c of lane l at [l*Columns+c]
  output logic [RowWidth-1:0]   result_row_o   [Lanes],
  output logic [BlockWidth-1:0] result_block_o [Lanes],
  output logic                  result_last_o  [Lanes],  // last block of the row: the report below is the row's
  output logic [CycleWidth-1:0] enc_done_o     [Lanes],
  output logic [CycleWidth-1:0] done_o         [Lanes],
  output logic [KWidth-1:0]     zero_o         [Lanes],
  output logic [KWidth-1:0]     low_o          [Lanes],
  output logic [KWidth-1:0]     full_o         [Lanes],

  // Counters of the pass, per lane: busy + starved + stalled = done of the lane's last row
  output logic [CycleWidth-1:0] busy_cycles_o    [Lanes],
  output logic [CycleWidth-1:0] starved_cycles_o [Lanes],
  output logic [CycleWidth-1:0] stalled_cycles_o [Lanes]
);

  ////////////////////////////////////////////////////
  // Parameters                                     //
  ////////////////////////////////////////////////////

  if (Lanes < 1 || Lanes > 64) begin : gen_lanes
    $error("tile: Lanes = %0d is outside 1...64", Lanes);
  end
  if (Columns < 1 || Columns > 1024) begin : gen_columns
    $error("tile: Columns = %0d is outside 1...1024", Columns);
  end
  if (EncodeWidth != 4 && EncodeWidth != 8 && EncodeWidth != 16) begin : gen_encode_width
    $error("tile: EncodeWidth = %0d is none of 4, 8, 16", EncodeWidth);
  end
  if (KMax < 2 * EncodeWidth || KMax > 1024 || (KMax & (KMax - 1)) != 0) begin : gen_k_max
    $error("tile: KMax = %0d is not a power of two from 2 * EncodeWidth to 1024", KMax);
  end
  if (NMax < Columns || NMax > 4096 || NMax % Columns != 0) begin : gen_n_max
    $error("tile: NMax = %0d is not a multiple of Columns = %0d up to 4096", NMax, Columns);
  end
  if (LowRule > 1) begin : gen_low_rule
    $error("tile: LowRule = %0d is neither 0 (twos4) nor 1 (mag4)", LowRule);
  end
  if (WeightBanks < 1 || WeightBanks > 2) begin : gen_weight_banks
    $error("tile: WeightBanks = %0d is neither 1 nor 2", WeightBanks);
  end
  if (PeStages != 1 && PeStages != 5) begin : gen_pe_stages
    $error("tile: PeStages = %0d is neither 1 nor 5", PeStages);
  end

  ////////////////////////////////////////////////////
  // Pass                                           //
  ////////////////////////////////////////////////////

  localparam int unsigned Blocks = NMax / Columns;

  logic                  heard;
  logic                  legal;
  logic [RowWidth:0]     rows_end;
  logic                  start;
  logic                  busy_q;
  logic                  bank_q;
  mode_e                 mode_q;
  logic [RowWidth-1:0]   rows_q;
  logic [KWidth-1:0]     k_q;
  logic [BlockWidth-1:0] last_block_q;
  logic [CycleWidth-1:0] cycle_q;
  logic [Lanes-1:0]      idle;

  assign rows_end = {1'b0, rows_i} + (RowWidth + 1)'(Lanes - 1);  // a lane's row counter goes so far
  assign legal   = mode_i != 2'd3 && k_i != '0 && 32'(k_i) <= KMax && blocks_i != '0 && 32'(blocks_i) <= Blocks
                   && !rows_end[RowWidth];
  assign heard   = start_i && !busy_q;
  assign start   = heard && legal;
  assign busy_o  = busy_q;
  assign cycle_o = cycle_q;

  always_ff @(posedge clk_i) begin : pass
    if (!rst_ni) begin
      busy_q    <= 1'b0;
      bank_q    <= 1'b0;
      refused_o <= 1'b0;
    end else if (start) begin
      refused_o    <= 1'b0;
      busy_q       <= 1'b1;
      bank_q       <= bank_q ^ (swap_i && (WeightBanks > 1));
      mode_q       <= mode_e'(mode_i);
      rows_q       <= rows_i;
      k_q          <= k_i;
      last_block_q <= blocks_i - BlockWidth'(1);
      cycle_q      <= '0;
    end else if (busy_q) begin
      if (&idle) busy_q <= 1'b0;
      else cycle_q <= cycle_q + CycleWidth'(1);
    end else if (heard) begin
      refused_o <= 1'b1;
    end
  end

  ////////////////////////////////////////////////////
  // Weights                                        //
  ////////////////////////////////////////////////////

  logic load_bank;
  logic load;

  assign load = weight_valid_i && weight_ready_o && 32'(weight_k_i) < KMax && 32'(weight_block_i) < Blocks;

  assign weight_ready_o = (WeightBanks > 1) || !busy_q;
  assign load_bank = (WeightBanks > 1) && !bank_q;

  ////////////////////////////////////////////////////
  // Lanes                                          //
  ////////////////////////////////////////////////////

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    lane #(
      .Columns(Columns), .EncodeWidth(EncodeWidth), .KMax(KMax), .Blocks(Blocks), .Mag4(LowRule == 1),
      .WeightBanks(WeightBanks), .PeStages(PeStages), .FirstRow(l), .RowStride(Lanes)
    ) u_lane (
      .clk_i, .rst_ni,
      .start_i(start), .mode_i(mode_q), .rows_i(rows_q), .k_i(k_q), .last_block_i(last_block_q),
      .active_bank_i(bank_q), .cycle_i(cycle_q), .idle_o(idle[l]),
      .weight_valid_i(load), .weight_bank_i(load_bank),
      .weight_block_i, .weight_k_i, .weight_i,
      .operand_valid_i(operand_valid_i[l]), .operand_ready_o(operand_ready_o[l]),
      .current_i(current_i[l*EncodeWidth+:EncodeWidth]), .reference_i(reference_i[l*EncodeWidth+:EncodeWidth]),
      .result_valid_o(result_valid_o[l]), .result_ready_i(result_ready_i[l]), .result_o(result_o[l*Columns+:Columns]),
      .result_row_o(result_row_o[l]), .result_block_o(result_block_o[l]), .result_last_o(result_last_o[l]),
      .enc_done_o(enc_done_o[l]), .done_o(done_o[l]), .zero_o(zero_o[l]), .low_o(low_o[l]), .full_o(full_o[l]),
      .busy_o(busy_cycles_o[l]), .starved_o(starved_cycles_o[l]), .stalled_o(stalled_cycles_o[l])
    );
  end

endmodule
