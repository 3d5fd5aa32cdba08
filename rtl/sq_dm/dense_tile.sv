// SPDX-License-Identifier: Apache-2.0
// Dense tile (SQ-DM's DPE array): D codes of a row a cycle against C columns, zeros like any other. No encoder, no slot buffer: a
// row streams in once for every column block, and the same block accumulator as the sparse tile's ends it.
//
// A pass is `rows_i` rows of `segments_i` segments against the loaded weights. Timing of row r, with T beats a row and B
// column blocks (the cycle contract; cycle 0 is the first after the start; device/timing/dense_lane.py):
//   done[r] = (r + 1) * B * T
//   pass    = the last done + 3
// What it does not do: look for zeros, choose channels or gather their codes (address generator), keep a row for its next column
// block, split K.

module dense_tile
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter int unsigned Columns    = 128,
  parameter int unsigned DenseWidth = 4,
  parameter int unsigned BlockSize  = 32,
  parameter int unsigned KMax       = 1024,
  parameter int unsigned NMax       = 512
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass
  input  logic                    start_i,   // taken when `busy_o` is low; the next cycle is the pass's cycle 0
  input  logic                    signed_i,  // codes are two's complement, otherwise 0 ... 15
  input  logic [RowWidth-1:0]     rows_i,
  input  logic [SegmentWidth-1:0] segments_i,
  input  logic [BlockWidth-1:0]   blocks_i,  // column blocks of C columns
  output logic                    busy_o,
  output logic [CycleWidth-1:0]   cycle_o,   // cycles since the pass began; stands still when it is over

  // Load: per cycle two rows of C weights, k (low nibbles) and k + 1, or one row of C weight scales (E4M3) of k's segment
  input  logic                  weight_valid_i,
  output logic                  weight_ready_o,
  input  logic                  weight_scale_i,  // a row of scales
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Operands: one beat of D codes of one segment; places the segment does not fill carry code 0
  input  logic                 operand_valid_i,
  output logic                 operand_ready_o,
  input  logic [CodeWidth-1:0] code_i [DenseWidth],
  input  logic                 last_i,   // the segment's last beat
  input  logic [7:0]           scale_i,  // its activation scale (E4M3), looked at with the last beat

  // Results: one column block of a row
  output logic                  result_valid_o,
  input  logic                  result_ready_i,
  output logic [AccWidth-1:0]   result_o [Columns],
  output logic [RowWidth-1:0]   result_row_o,
  output logic [BlockWidth-1:0] result_block_o,
  output logic                  result_last_o,  // last block of the row
  output logic [CycleWidth-1:0] done_o,         // of the row, valid with result_last_o

  // Counters of the pass: busy + starved + stalled = done of the last row
  output logic [CycleWidth-1:0] busy_cycles_o,
  output logic [CycleWidth-1:0] starved_cycles_o,
  output logic [CycleWidth-1:0] stalled_cycles_o
);

  localparam int unsigned PlaceWidth = $clog2(BlockSize);

  if (Columns < 1 || Columns > 1024) begin : gen_columns
    $error("dense_tile: Columns = %0d is outside 1...1024", Columns);
  end
  if (DenseWidth != 4 && DenseWidth != 8 && DenseWidth != 16) begin : gen_dense_width
    $error("dense_tile: DenseWidth = %0d is none of 4, 8, 16", DenseWidth);
  end
  if (BlockSize != 16 && BlockSize != 32 && BlockSize != 64) begin : gen_block_size
    $error("dense_tile: BlockSize = %0d is none of 16, 32, 64", BlockSize);
  end
  if (KMax < 2 * BlockSize || KMax > 1024 || (KMax & (KMax - 1)) != 0) begin : gen_k_max
    $error("dense_tile: KMax = %0d is not a power of two from 2 * BlockSize to 1024", KMax);
  end
  if (NMax < Columns || NMax > 4096 || NMax % Columns != 0) begin : gen_n_max
    $error("dense_tile: NMax = %0d is not a multiple of Columns = %0d up to 4096", NMax, Columns);
  end

  ////////////////////////////////////////////////////
  // Pass                                           //
  ////////////////////////////////////////////////////

  logic                    start;
  logic                    busy_q;
  logic                    signed_q;
  logic [RowWidth-1:0]     rows_q;
  logic [SegmentWidth-1:0] last_segment_q;
  logic [BlockWidth-1:0]   last_block_q;
  logic [CycleWidth-1:0]   cycle_q;
  logic                    idle;

  assign start          = start_i && !busy_q;
  assign busy_o         = busy_q;
  assign cycle_o        = cycle_q;
  assign weight_ready_o = !busy_q;

  always_ff @(posedge clk_i) begin : pass
    if (!rst_ni) begin
      busy_q <= 1'b0;
    end else if (start) begin
      busy_q         <= 1'b1;
      signed_q       <= signed_i;
      rows_q         <= rows_i;
      last_segment_q <= segments_i - SegmentWidth'(1);
      last_block_q   <= blocks_i - BlockWidth'(1);
      cycle_q        <= '0;
    end else if (busy_q) begin
      if (idle) busy_q <= 1'b0;
      else cycle_q <= cycle_q + CycleWidth'(1);
    end
  end

  ////////////////////////////////////////////////////
  // Beats, in order of rows, column blocks, segments //
  ////////////////////////////////////////////////////

  logic                    streaming;
  logic                    taken;
  logic                    beat_ready;
  logic [RowWidth-1:0]     row_q;
  logic [BlockWidth-1:0]   block_q;
  logic [SegmentWidth-1:0] segment_q;
  logic [PlaceWidth-1:0]   place_q;

  assign streaming       = row_q < rows_q;
  assign operand_ready_o = streaming && beat_ready;
  assign taken           = operand_valid_i && operand_ready_o;

  always_ff @(posedge clk_i) begin : order
    if (!rst_ni) begin
      row_q <= '1;
    end else if (start) begin
      row_q     <= '0;
      block_q   <= '0;
      segment_q <= '0;
      place_q   <= '0;
    end else if (taken) begin
      place_q <= place_q + PlaceWidth'(DenseWidth);
      if (last_i) begin
        place_q   <= '0;
        segment_q <= segment_q + SegmentWidth'(1);
        if (segment_q == last_segment_q) begin
          segment_q <= '0;
          block_q   <= block_q + BlockWidth'(1);
          if (block_q == last_block_q) begin
            block_q <= '0;
            row_q   <= row_q + RowWidth'(1);
          end
        end
      end
    end
  end

  // Every cycle from the pass's first to the one in which its last beat is taken is one of these.
  always_ff @(posedge clk_i) begin : counters
    if (start) begin
      busy_cycles_o    <= '0;
      starved_cycles_o <= '0;
      stalled_cycles_o <= '0;
    end else if (streaming) begin
      if (!beat_ready) stalled_cycles_o <= stalled_cycles_o + CycleWidth'(1);
      else if (operand_valid_i) busy_cycles_o <= busy_cycles_o + CycleWidth'(1);
      else starved_cycles_o <= starved_cycles_o + CycleWidth'(1);
    end
  end

  logic                  beat_valid_q;
  logic [CodeWidth-1:0]  beat_code_q [DenseWidth];
  logic [SlotKWidth-1:0] beat_k_q;
  logic [BlockWidth-1:0] beat_block_q;
  scale_t                beat_scale_q;
  logic                  beat_last_q;
  logic                  beat_first_segment_q;
  logic                  beat_last_segment_q;
  logic [CycleWidth-1:0] beat_done_q;

  always_ff @(posedge clk_i) begin : beat
    if (!rst_ni) begin
      beat_valid_q <= 1'b0;
    end else if (beat_ready) begin
      beat_valid_q <= taken;
      if (taken) begin
        beat_code_q          <= code_i;
        beat_k_q             <= SlotKWidth'({segment_q, place_q});
        beat_block_q         <= block_q;
        beat_scale_q         <= unpack_scale(scale_i);
        beat_last_q          <= last_i;
        beat_first_segment_q <= segment_q == '0;
        beat_last_segment_q  <= segment_q == last_segment_q;
        beat_done_q          <= cycle_q + CycleWidth'(1);
      end
    end
  end

  ////////////////////////////////////////////////////
  // PEs and accumulators                           //
  ////////////////////////////////////////////////////

  logic                    sum_valid;
  logic                    sum_ready;
  logic [SumWidth-1:0]     sum [Columns];
  logic [SegmentWidth-1:0] sum_segment;
  scale_t                  sum_scale;
  logic                    sum_first;
  logic                    sum_last;
  logic [CycleWidth-1:0]   sum_done;

  dense_pe_array #(
    .Columns(Columns), .DenseWidth(DenseWidth), .KMax(KMax), .Blocks(NMax / Columns), .BlockSize(BlockSize)
  ) u_pe_array (
    .clk_i, .rst_ni, .signed_i(signed_q),
    .weight_valid_i(weight_valid_i && weight_ready_o && !weight_scale_i), .weight_block_i, .weight_k_i, .weight_i,
    .beat_valid_i(beat_valid_q), .beat_ready_o(beat_ready), .beat_code_i(beat_code_q), .beat_k_i(beat_k_q),
    .beat_block_i(beat_block_q), .beat_scale_i(beat_scale_q), .beat_last_i(beat_last_q),
    .beat_first_segment_i(beat_first_segment_q), .beat_last_segment_i(beat_last_segment_q), .done_i(beat_done_q),
    .sum_valid_o(sum_valid), .sum_ready_i(sum_ready), .sum_o(sum), .sum_segment_o(sum_segment),
    .sum_scale_o(sum_scale), .sum_first_o(sum_first), .sum_last_o(sum_last), .done_o(sum_done)
  );

  block_accumulator #(
    .Columns(Columns), .Segments(KMax / BlockSize), .Blocks(NMax / Columns)
  ) u_accumulator (
    .clk_i, .rst_ni, .start_i(start), .last_block_i(last_block_q),
    .scale_valid_i(weight_valid_i && weight_ready_o && weight_scale_i), .scale_block_i(weight_block_i),
    .scale_segment_i(SegmentWidth'(weight_k_i >> PlaceWidth)), .scale_i(weight_i),
    .sum_valid_i(sum_valid), .sum_ready_o(sum_ready), .sum_i(sum), .sum_segment_i(sum_segment),
    .sum_scale_i(sum_scale), .sum_first_i(sum_first), .sum_last_i(sum_last),
    .enc_done_i('0), .done_i(sum_done), .nonzero_i('0),
    .result_valid_o, .result_ready_i, .result_o, .result_row_o, .result_block_o, .result_last_o,
    .enc_done_o(), .done_o, .nonzero_o()
  );

  assign idle = !streaming && !beat_valid_q && !sum_valid && !result_valid_o;

endmodule
