// SPDX-License-Identifier: Apache-2.0
// Dense PE array: C PEs of D 4b x 4b multipliers and an adder tree, and the weights they read. All PEs see the same beat of D
// neighbouring codes, zeros among them; PE c owns output column c of the block.
//
//   partial[c] = (the segment's first beat ? 0 : partial[c]) + sum over the beat's codes of code * weight[k][c]
//
// With a segment's last beat the partial sums move to the register at the output. Nothing moves while `sum_ready_i` is low.
//
// Weight memory: a row of C 4-bit weights for every k, stored offset by 8 (sign bit flipped); two neighbouring rows are written
// at once, a beat reads D neighbours (one wide port). Everything is modulo 2^16, which holds any sum of a segment.
// What it does not do: scale (block_accumulator), know which codes are zero.

module dense_pe_array
  import ditto_pkg::*;
  import sq_dm_pkg::*;
#(
  parameter int unsigned Columns    = 128,
  parameter int unsigned DenseWidth = 4,
  parameter int unsigned KMax       = 1024,
  parameter int unsigned Blocks     = 4,
  parameter int unsigned BlockSize  = 32,
  localparam int unsigned KAddrWidth     = $clog2(KMax),
  localparam int unsigned BlockAddrWidth = Blocks > 1 ? $clog2(Blocks) : 1,
  localparam int unsigned PlaceWidth     = $clog2(BlockSize)
) (
  input  logic clk_i,
  input  logic rst_ni,
  input  logic signed_i,  // codes are two's complement, otherwise 0 ... 15

  // Weight load: per cycle the weights of k (low nibbles) and k + 1 of C columns, k even
  input  logic                  weight_valid_i,
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Beats
  input  logic                  beat_valid_i,
  output logic                  beat_ready_o,
  input  logic [CodeWidth-1:0]  beat_code_i [DenseWidth],
  input  logic [SlotKWidth-1:0] beat_k_i,      // of its first code: segment * G + place
  input  logic [BlockWidth-1:0] beat_block_i,
  input  scale_t                beat_scale_i,
  input  logic                  beat_last_i,   // of its segment
  input  logic                  beat_first_segment_i,  // of a column block
  input  logic                  beat_last_segment_i,
  input  logic [CycleWidth-1:0] done_i,

  // Sums of a segment
  output logic                    sum_valid_o,
  input  logic                    sum_ready_i,
  output logic [SumWidth-1:0]     sum_o [Columns],
  output logic [SegmentWidth-1:0] sum_segment_o,
  output scale_t                  sum_scale_o,
  output logic                    sum_first_o,  // of a column block
  output logic                    sum_last_o,
  output logic [CycleWidth-1:0]   done_o        // of the row, valid with the last sums of its last column block
);

  localparam int unsigned AddrWidth = BlockAddrWidth + KAddrWidth;

  logic [3:0]          weights [1 << AddrWidth][Columns];
  logic [3:0]          even_row [Columns];
  logic [3:0]          odd_row [Columns];
  logic [SumWidth-1:0] value [DenseWidth];
  logic [SumWidth-1:0] partial_q [Columns];
  logic                begin_segment;

  assign beat_ready_o  = sum_ready_i;
  assign begin_segment = beat_k_i[PlaceWidth-1:0] == '0;

  function automatic logic [AddrWidth-1:0] weight_addr(logic [BlockWidth-1:0] block, logic [SlotKWidth-1:0] k);
    return AddrWidth'({block[BlockAddrWidth-1:0], k[KAddrWidth-1:0]});
  endfunction

  // Loops over columns and codes are functions: their variables are then locals of the simulator's code, not members.
  function automatic void offset_weights();
    for (int unsigned c = 0; c < Columns; c++) begin
      even_row[c] = weight_i[c][3:0] ^ 4'd8;
      odd_row[c]  = weight_i[c][7:4] ^ 4'd8;
    end
  endfunction

  function automatic void extend_codes();
    for (int unsigned d = 0; d < DenseWidth; d++) begin
      value[d] = {signed_i && beat_code_i[d][3] ? 12'hfff : 12'd0, beat_code_i[d]};
    end
  endfunction

  // Four codes at a time: what does not depend on c stands outside the loop over columns.
  function automatic void accumulate(logic [AddrWidth-1:0] row);
    automatic logic [15:0] keep = begin_segment ? '0 : '1;
    for (int unsigned d = 0; d < DenseWidth; d += 4) begin
      automatic logic [AddrWidth-1:0] row0 = row + AddrWidth'(d);
      automatic logic [AddrWidth-1:0] row1 = row + AddrWidth'(d + 1);
      automatic logic [AddrWidth-1:0] row2 = row + AddrWidth'(d + 2);
      automatic logic [AddrWidth-1:0] row3 = row + AddrWidth'(d + 3);
      automatic logic [15:0] x0 = value[d];
      automatic logic [15:0] x1 = value[d+1];
      automatic logic [15:0] x2 = value[d+2];
      automatic logic [15:0] x3 = value[d+3];
      automatic logic [15:0] bias = -((x0 + x1 + x2 + x3) << 3);  // 8 * x undoes the weights' offset
      for (int unsigned c = 0; c < Columns; c++) begin
        partial_q[c] = (partial_q[c] & keep) + bias + {12'd0, weights[row0][c]} * x0
                       + {12'd0, weights[row1][c]} * x1 + {12'd0, weights[row2][c]} * x2
                       + {12'd0, weights[row3][c]} * x3;
      end
      keep = '1;
    end
  endfunction

  always_ff @(posedge clk_i) begin : load
    if (weight_valid_i) begin
      offset_weights();
      weights[weight_addr(weight_block_i, {weight_k_i[SlotKWidth-1:1], 1'b0})] <= even_row;
      weights[weight_addr(weight_block_i, {weight_k_i[SlotKWidth-1:1], 1'b1})] <= odd_row;
    end
  end

  always_ff @(posedge clk_i) begin : multiply
    if (beat_valid_i && beat_ready_o) begin
      extend_codes();
      accumulate(weight_addr(beat_block_i, beat_k_i));
      if (beat_last_i) sum_o <= partial_q;
    end
  end

  always_ff @(posedge clk_i) begin : segments
    if (!rst_ni) begin
      sum_valid_o <= 1'b0;
    end else if (beat_ready_o) begin
      sum_valid_o <= beat_valid_i && beat_last_i;
      if (beat_valid_i && beat_last_i) begin
        sum_segment_o <= SegmentWidth'(beat_k_i >> PlaceWidth);
        sum_scale_o   <= beat_scale_i;
        sum_first_o   <= beat_first_segment_i;
        sum_last_o    <= beat_last_segment_i;
        done_o        <= done_i;
      end
    end
  end

endmodule
