// SPDX-License-Identifier: Apache-2.0
// Block accumulator, the end of both arrays: takes a segment's sums, multiplies them by the segment's activation scale and each
// column's weight scale, and adds them up over the segments of a row.
//
//   acc[c] = (the first segment ? 0 : acc[c]) + (sum[c] * mantissa_a * mantissa_w[c]) << (exponent_a + exponent_w[c])
//
// Scales are integers in units of 2^-9, so this is exact and needs no order: 56 bits hold any row (sq_dm_pkg). One multiply of
// 4b x 4b mantissas, one by the sum, one shift-add a column and segment.
// With the last segment of a column block the accumulators move to the result register and wait there for the receiver. Results
// come in order of rows, column blocks within; they are counted here.
// The last sums of a column block wait, and everything before them with them, while the result before is not taken.
//
// Scale memory: row {column block, segment} of C scales, unpacked when they are loaded.
// What it does not do: multiply codes (the PE arrays), add partial sums of a split K, round.

module block_accumulator
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter int unsigned Columns  = 128,
  parameter int unsigned Segments = 32,
  parameter int unsigned Blocks   = 4,
  localparam int unsigned SegmentAddrWidth = $clog2(Segments),
  localparam int unsigned BlockAddrWidth   = Blocks > 1 ? $clog2(Blocks) : 1
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Pass
  input  logic                  start_i,
  input  logic [BlockWidth-1:0] last_block_i,

  // Scale load: per cycle the weight scales (E4M3) of one segment of C columns
  input  logic                    scale_valid_i,
  input  logic [BlockWidth-1:0]   scale_block_i,
  input  logic [SegmentWidth-1:0] scale_segment_i,
  input  logic [7:0]              scale_i [Columns],

  // Sums of a segment
  input  logic                    sum_valid_i,
  output logic                    sum_ready_o,
  input  logic [SumWidth-1:0]     sum_i [Columns],
  input  logic [SegmentWidth-1:0] sum_segment_i,
  input  scale_t                  sum_scale_i,
  input  logic                    sum_first_i,  // of a column block
  input  logic                    sum_last_i,
  input  logic [CycleWidth-1:0]   enc_done_i,
  input  logic [CycleWidth-1:0]   done_i,
  input  logic [KWidth-1:0]       nonzero_i,

  // Results: one column block of a row
  output logic                  result_valid_o,
  input  logic                  result_ready_i,
  output logic [AccWidth-1:0]   result_o [Columns],
  output logic [RowWidth-1:0]   result_row_o,
  output logic [BlockWidth-1:0] result_block_o,
  output logic                  result_last_o,   // last block of the row
  output logic [CycleWidth-1:0] enc_done_o,      // the row's report, valid with result_last_o
  output logic [CycleWidth-1:0] done_o,
  output logic [KWidth-1:0]     nonzero_o
);

  localparam int unsigned AddrWidth = BlockAddrWidth + SegmentAddrWidth;

  logic [7:0]            scales [1 << AddrWidth][Columns];  // scale_t, as a byte for the simulator's sake
  logic [7:0]            unpacked [Columns];
  logic [AccWidth-1:0]   acc_q [Columns];
  logic [RowWidth-1:0]   row_q;
  logic [BlockWidth-1:0] block_q;

  assign sum_ready_o = !(sum_valid_i && sum_last_i && result_valid_o && !result_ready_i);

  function automatic logic [AddrWidth-1:0] scale_addr(logic [BlockWidth-1:0] block, logic [SegmentWidth-1:0] segment);
    return AddrWidth'({block[BlockAddrWidth-1:0], segment[SegmentAddrWidth-1:0]});
  endfunction

  // Loops over columns are functions: their variables are then locals of the simulator's code, not members.
  function automatic void unpack_scales();
    for (int unsigned c = 0; c < Columns; c++) unpacked[c] = unpack_scale(scale_i[c]);
  endfunction

  function automatic void accumulate(logic [AddrWidth-1:0] row);
    automatic logic [63:0] keep = sum_first_i ? '0 : '1;
    for (int unsigned c = 0; c < Columns; c++) begin
      // 2^15 makes the sum non-negative, so that widening it needs no sign; it is taken out behind the multiplier. 64 bits, of
      // which the register keeps its own, spare the simulator a mask at every step.
      automatic logic [15:0] mantissa = {12'd0, sum_scale_i.mantissa} * {12'd0, scales[row][c][3:0]};
      automatic logic [31:0] product = {16'd0, sum_i[c] ^ 16'h8000} * {16'd0, mantissa};
      automatic logic [63:0] exact = {32'd0, product} - {33'd0, mantissa, 15'd0};
      automatic logic [4:0] exponent = {1'b0, sum_scale_i.exponent} + {1'b0, scales[row][c][7:4]};
      acc_q[c] = AccWidth'(({8'd0, acc_q[c]} & keep) + (exact << exponent));
    end
  endfunction

  always_ff @(posedge clk_i) begin : load
    if (scale_valid_i) begin
      unpack_scales();
      scales[scale_addr(scale_block_i, scale_segment_i)] <= unpacked;
    end
  end

  always_ff @(posedge clk_i) begin : add
    if (sum_valid_i && sum_ready_o) begin
      accumulate(scale_addr(block_q, sum_segment_i));
      if (sum_last_i) result_o <= acc_q;
    end
  end

  always_ff @(posedge clk_i) begin : result
    if (!rst_ni) begin
      result_valid_o <= 1'b0;
    end else begin
      if (result_ready_i) result_valid_o <= 1'b0;
      if (start_i) begin
        row_q   <= '0;
        block_q <= '0;
      end else if (sum_valid_i && sum_ready_o && sum_last_i) begin
        result_valid_o <= 1'b1;
        result_row_o   <= row_q;
        result_block_o <= block_q;
        result_last_o  <= 1'b0;
        enc_done_o     <= enc_done_i;
        done_o         <= done_i;
        nonzero_o      <= nonzero_i;
        block_q        <= block_q + BlockWidth'(1);
        if (block_q == last_block_i) begin
          result_last_o <= 1'b1;
          block_q       <= '0;
          row_q         <= row_q + RowWidth'(1);
        end
      end
    end
  end

endmodule
