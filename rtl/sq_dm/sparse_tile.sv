// SPDX-License-Identifier: Apache-2.0
// Sparse tile (SQ-DM's SPE array): only codes other than zero take a multiplier. Its first half is Ditto's lane with reference 0:
// encoder, the very slot buffer, replay for every column block; then PEs of 4b x 4b and a block accumulator.
//
// A pass is `rows_i` rows of `segments_i` segments against the loaded weights. Timing of row r, with T beats a row, w_j words
// of segment j (a quarter of its codes other than zero, rounded up) and B column blocks (the cycle contract; cycle 0 is the
// first after the start; device/timing/sparse_lane.py):
//   enc_done[r] = max(enc_done[r-1], done[r-2]) + T + 3
//   done[r]     = max(done[r-1], enc_done[r]) + B * max(1, sum of w_j)
//   pass        = the last done + 3
// What it does not do: choose channels or gather their codes (address generator), split K, add to what was before.

module sparse_tile
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter int unsigned Columns     = 128,
  parameter int unsigned EncodeWidth = 8,
  parameter int unsigned BlockSize   = 32,
  parameter int unsigned KMax        = 1024,
  parameter int unsigned NMax        = 512,
  localparam int unsigned Segments   = KMax / BlockSize,
  localparam int unsigned SegmentAddrWidth = $clog2(Segments)
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

  // Operands: one beat of E codes of one segment; places the segment does not fill carry code 0
  input  logic                 operand_valid_i,
  output logic                 operand_ready_o,
  input  logic [CodeWidth-1:0] code_i [EncodeWidth],
  input  logic                 last_i,   // the segment's last beat
  input  logic [7:0]           scale_i,  // its activation scale (E4M3), looked at with the last beat

  // Results: one column block of a row
  output logic                  result_valid_o,
  input  logic                  result_ready_i,
  output logic [AccWidth-1:0]   result_o [Columns],
  output logic [RowWidth-1:0]   result_row_o,
  output logic [BlockWidth-1:0] result_block_o,
  output logic                  result_last_o,  // last block of the row: the report below is the row's
  output logic [CycleWidth-1:0] enc_done_o,
  output logic [CycleWidth-1:0] done_o,
  output logic [KWidth-1:0]     nonzero_o,

  // Counters of the pass: busy + starved + stalled = done of the last row
  output logic [CycleWidth-1:0] busy_cycles_o,
  output logic [CycleWidth-1:0] starved_cycles_o,
  output logic [CycleWidth-1:0] stalled_cycles_o
);

  localparam int unsigned GroupWords     = 2 * EncodeWidth / SlotsPerWord;
  localparam int unsigned GroupAddrWidth = $clog2(KMax / (2 * EncodeWidth));
  localparam int unsigned PlaceWidth     = $clog2(BlockSize);
  localparam int unsigned ScaleAddrWidth = 2 + SegmentAddrWidth;

  if (Columns < 1 || Columns > 1024) begin : gen_columns
    $error("sparse_tile: Columns = %0d is outside 1...1024", Columns);
  end
  if (EncodeWidth != 4 && EncodeWidth != 8 && EncodeWidth != 16) begin : gen_encode_width
    $error("sparse_tile: EncodeWidth = %0d is none of 4, 8, 16", EncodeWidth);
  end
  if (BlockSize != 16 && BlockSize != 32 && BlockSize != 64) begin : gen_block_size
    $error("sparse_tile: BlockSize = %0d is none of 16, 32, 64", BlockSize);
  end
  if (KMax < 2 * BlockSize || KMax > 1024 || (KMax & (KMax - 1)) != 0) begin : gen_k_max
    $error("sparse_tile: KMax = %0d is not a power of two from 2 * BlockSize to 1024", KMax);
  end
  if (NMax < Columns || NMax > 4096 || NMax % Columns != 0) begin : gen_n_max
    $error("sparse_tile: NMax = %0d is not a multiple of Columns = %0d up to 4096", NMax, Columns);
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
  // Encoder and slot buffer                        //
  ////////////////////////////////////////////////////

  logic                      bank_free;
  logic                      scale_valid;
  logic [SegmentWidth-1:0]   scale_segment;
  scale_t                    scale;
  logic                      group_valid;
  logic [GroupAddrWidth-1:0] group_addr;
  slot_word_t                group [GroupWords];
  logic                      row_end;
  logic [CountWidth-1:0]     row_slots;
  logic [KWidth-1:0]         row_nonzero;
  logic [RowWidth-1:0]       encode_row_q;

  always_ff @(posedge clk_i) begin : rows
    if (!rst_ni) encode_row_q <= '1;
    else if (start) encode_row_q <= '0;
    else if (row_end) encode_row_q <= encode_row_q + RowWidth'(1);
  end

  sparse_encoder #(
    .EncodeWidth(EncodeWidth), .KMax(KMax), .BlockSize(BlockSize)
  ) u_encoder (
    .clk_i, .rst_ni, .signed_i(signed_q), .last_segment_i(last_segment_q),
    .open_i(bank_free && encode_row_q < rows_q),
    .valid_i(operand_valid_i), .ready_o(operand_ready_o), .code_i, .last_i, .scale_i,
    .scale_valid_o(scale_valid), .scale_segment_o(scale_segment), .scale_o(scale),
    .group_valid_o(group_valid), .group_addr_o(group_addr), .group_o(group),
    .row_end_o(row_end), .row_slots_o(row_slots), .row_nonzero_o(row_nonzero)
  );

  logic                  word_valid;
  logic                  word_ready;
  slot_word_t            word;
  logic                  word_first;
  logic                  word_last;
  logic [BlockWidth-1:0] word_block;
  logic [RowWidth-1:0]   word_row;
  logic [CycleWidth-1:0] enc_done;
  logic [CycleWidth-1:0] done;
  logic [KWidth-1:0]     nonzero;
  logic                  replaying;

  // Ditto's slot buffer for half as many elements: a code has one slot at most, an element two. Its count of full elements is
  // passed through, so it carries the codes that are not zero; zero and low elements mean nothing here.
  slot_buffer #(
    .EncodeWidth(EncodeWidth), .KMax(KMax / 2)
  ) u_slot_buffer (
    .clk_i, .rst_ni, .start_i(start), .rows_i(rows_q), .last_block_i(last_block_q), .k_i('0), .cycle_i(cycle_q),
    .free_o(bank_free), .group_valid_i(group_valid), .group_addr_i(group_addr), .group_i(group),
    .row_end_i(row_end), .row_slots_i(row_slots), .row_full_i(row_nonzero),
    .word_valid_o(word_valid), .word_ready_i(word_ready), .word_o(word),
    .word_first_o(word_first), .word_last_o(word_last), .word_block_o(word_block), .word_row_o(word_row),
    .row_done_o(), .enc_done_o(enc_done), .done_o(done), .zero_o(), .low_o(), .full_o(nonzero),
    .replaying_o(replaying), .busy_o(busy_cycles_o), .starved_o(starved_cycles_o), .stalled_o(stalled_cycles_o)
  );

  ////////////////////////////////////////////////////
  // Activation scales                              //
  ////////////////////////////////////////////////////

  // Four rows of them: the last word of one row may still wait at the PEs while the row two behind it is being encoded.
  scale_t scales [1 << ScaleAddrWidth];
  scale_t word_scale;

  assign word_scale = scales[{word_row[1:0], word[0].k[PlaceWidth+:SegmentAddrWidth]}];

  always_ff @(posedge clk_i) begin : scale_memory
    if (scale_valid) scales[{encode_row_q[1:0], scale_segment[SegmentAddrWidth-1:0]}] <= scale;
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
  logic [CycleWidth-1:0]   sum_enc_done;
  logic [CycleWidth-1:0]   sum_done;
  logic [KWidth-1:0]       sum_nonzero;

  sparse_pe_array #(
    .Columns(Columns), .KMax(KMax), .Blocks(NMax / Columns), .BlockSize(BlockSize)
  ) u_pe_array (
    .clk_i, .rst_ni,
    .weight_valid_i(weight_valid_i && weight_ready_o && !weight_scale_i), .weight_block_i, .weight_k_i, .weight_i,
    .word_valid_i(word_valid), .word_ready_o(word_ready), .word_i(word), .word_first_i(word_first),
    .word_last_i(word_last), .word_block_i(word_block), .word_scale_i(word_scale),
    .enc_done_i(enc_done), .done_i(done), .nonzero_i(nonzero),
    .sum_valid_o(sum_valid), .sum_ready_i(sum_ready), .sum_o(sum), .sum_segment_o(sum_segment),
    .sum_scale_o(sum_scale), .sum_first_o(sum_first), .sum_last_o(sum_last),
    .enc_done_o(sum_enc_done), .done_o(sum_done), .nonzero_o(sum_nonzero)
  );

  block_accumulator #(
    .Columns(Columns), .Segments(Segments), .Blocks(NMax / Columns)
  ) u_accumulator (
    .clk_i, .rst_ni, .start_i(start), .last_block_i(last_block_q),
    .scale_valid_i(weight_valid_i && weight_ready_o && weight_scale_i), .scale_block_i(weight_block_i),
    .scale_segment_i(SegmentWidth'(weight_k_i >> PlaceWidth)), .scale_i(weight_i),
    .sum_valid_i(sum_valid), .sum_ready_o(sum_ready), .sum_i(sum), .sum_segment_i(sum_segment),
    .sum_scale_i(sum_scale), .sum_first_i(sum_first), .sum_last_i(sum_last),
    .enc_done_i(sum_enc_done), .done_i(sum_done), .nonzero_i(sum_nonzero),
    .result_valid_o, .result_ready_i, .result_o, .result_row_o, .result_block_o, .result_last_o,
    .enc_done_o, .done_o, .nonzero_o
  );

  assign idle = !replaying && !word_valid && !sum_valid && !result_valid_o;

endmodule
