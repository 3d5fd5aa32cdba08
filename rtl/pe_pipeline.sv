// SPDX-License-Identifier: Apache-2.0
// PE pipeline: what `pe_array` does in one cycle, in five, so that an FPGA can clock it. Same ports, same sums.
//
//   1 read        four weight rows leave their block memories
//   2 hold        and their output registers: a block memory alone takes a third of a cycle to answer
//   3 multiply    4b x 8b: the slot's nibble with its sign times the weight, 12 bits
//   4 add         behind the multipliers the shifter of slots 0 and 2, then the sum of the four
//   5 accumulate  into the partial sums; with a block's last word into the result register
//
// All stages move together. They stand still only while a block's last word is at the fifth and the result before it has not
// been taken: one rule with `pe_array`, whose only stage is its last.
//
// Weight memory: row {bank, block, k} of C bytes. With one bank nothing reads while weights load, so a memory of two ports
// serves two slots, and one of its ports loads: two copies. With two banks a port loads at any time: four copies.
// What it does not do: skip null slots, detect overflow (an assertion does), add partial sums of a split K.

module pe_pipeline
  import ditto_pkg::*;
#(
  parameter int unsigned Columns     = 8,
  parameter int unsigned KMax        = 256,
  parameter int unsigned Blocks      = 8,
  parameter int unsigned WeightBanks = 1,
  localparam int unsigned KAddrWidth = $clog2(KMax),
  localparam int unsigned BlockAddrWidth = $clog2(Blocks),
  localparam int unsigned AddrWidth = WeightBanks - 1 + BlockAddrWidth + KAddrWidth
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Weight load: one row of C weights per cycle into the bank that is not replayed from (or the only bank)
  input  logic                  weight_valid_i,
  input  logic                  weight_bank_i,
  input  logic [BlockWidth-1:0] weight_block_i,
  input  logic [KWidth-1:0]     weight_k_i,
  input  logic [7:0]            weight_i [Columns],

  // Slot words
  input  logic                  active_bank_i,
  input  logic                  word_valid_i,
  output logic                  word_ready_o,
  input  slot_word_t            word_i,
  input  logic                  word_first_i,
  input  logic                  word_last_i,
  input  logic [BlockWidth-1:0] word_block_i,
  input  logic [RowWidth-1:0]   word_row_i,
  input  logic                  row_done_i,
  input  logic [CycleWidth-1:0] enc_done_i,
  input  logic [CycleWidth-1:0] done_i,
  input  logic [KWidth-1:0]     zero_i,
  input  logic [KWidth-1:0]     low_i,
  input  logic [KWidth-1:0]     full_i,
  output logic                  in_flight_o,  // a word is between its port and the sums

  // Results: one column block of a row
  output logic                  result_valid_o,
  input  logic                  result_ready_i,
  output logic [31:0]           result_o [Columns],
  output logic [RowWidth-1:0]   result_row_o,
  output logic [BlockWidth-1:0] result_block_o,
  output logic                  result_last_o,   // last block of the row
  output logic [CycleWidth-1:0] enc_done_o,      // the row's report, valid with result_last_o
  output logic [CycleWidth-1:0] done_o,
  output logic [KWidth-1:0]     zero_o,
  output logic [KWidth-1:0]     low_o,
  output logic [KWidth-1:0]     full_o
);

  ////////////////////////////////////////////////////
  // What a word carries through the stages         //
  ////////////////////////////////////////////////////

  typedef struct packed {
    logic [RowWidth-1:0]   row;
    logic [BlockWidth-1:0] block;
    logic                  row_done;
    logic [CycleWidth-1:0] enc_done;
    logic [CycleWidth-1:0] done;
    logic [KWidth-1:0]     zero;
    logic [KWidth-1:0]     low;
    logic [KWidth-1:0]     full;
    logic                  first;
    logic                  last;
  } tag_t;

  localparam int unsigned Stages = 4;  // registers between the port and the sums

  logic [Stages:1] valid_q;
  tag_t            tag_q [Stages+1];
  logic            advance;

  assign advance      = !(valid_q[Stages] && tag_q[Stages].last && result_valid_o && !result_ready_i);
  assign word_ready_o = advance;
  assign in_flight_o  = valid_q != '0;

  assign tag_q[0] = '{
    row: word_row_i, block: word_block_i, row_done: row_done_i, enc_done: enc_done_i, done: done_i,
    zero: zero_i, low: low_i, full: full_i, first: word_first_i, last: word_last_i
  };

  always_ff @(posedge clk_i) begin : stages
    if (!rst_ni) valid_q <= '0;
    else if (advance) valid_q <= {valid_q[Stages-1:1], word_valid_i};
  end

  for (genvar s = 1; s <= Stages; s++) begin : gen_tag
    always_ff @(posedge clk_i) begin : tag
      if (advance) tag_q[s] <= tag_q[s-1];
    end
  end

  ////////////////////////////////////////////////////
  // 1, 2: weights                                  //
  ////////////////////////////////////////////////////

  function automatic logic [AddrWidth-1:0] weight_addr(logic bank, logic [BlockWidth-1:0] block,
                                                       logic [SlotKWidth-1:0] k);
    automatic logic [31:0] row = 32'(k & SlotKWidth'(KMax - 1));
    row |= 32'(block & BlockWidth'((1 << BlockAddrWidth) - 1)) << KAddrWidth;
    if (WeightBanks > 1) row |= 32'(bank) << (KAddrWidth + BlockAddrWidth);
    return AddrWidth'(row);
  endfunction

  logic [AddrWidth-1:0] load_addr;
  logic [AddrWidth-1:0] read_addr [SlotsPerWord];
  logic [8*Columns-1:0] load_row;
  logic [8*Columns-1:0] read_q    [SlotsPerWord];
  logic [8*Columns-1:0] hold_q    [SlotsPerWord];

  assign load_addr = weight_addr(weight_bank_i, weight_block_i, weight_k_i[SlotKWidth-1:0]);
  for (genvar s = 0; s < SlotsPerWord; s++) begin : gen_addr
    assign read_addr[s] = weight_addr(active_bank_i, word_block_i, word_i[s].k);
  end
  for (genvar c = 0; c < Columns; c++) begin : gen_load
    assign load_row[8*c+:8] = weight_i[c];
  end

  if (WeightBanks == 1) begin : gen_two_copies
    for (genvar p = 0; p < SlotsPerWord / 2; p++) begin : gen_copy
      logic [8*Columns-1:0] memory [1 << AddrWidth];
      logic [AddrWidth-1:0] addr;

      assign addr = weight_valid_i ? load_addr : read_addr[2*p];

      always_ff @(posedge clk_i) begin : first_port
        if (weight_valid_i) memory[addr] <= load_row;
        else if (advance) read_q[2*p] <= memory[addr];
      end

      always_ff @(posedge clk_i) begin : second_port
        if (advance && !weight_valid_i) read_q[2*p+1] <= memory[read_addr[2*p+1]];
      end
    end
  end else begin : gen_four_copies
    for (genvar s = 0; s < SlotsPerWord; s++) begin : gen_copy
      logic [8*Columns-1:0] memory [1 << AddrWidth];

      always_ff @(posedge clk_i) begin : ports
        if (weight_valid_i) memory[load_addr] <= load_row;
        if (advance) read_q[s] <= memory[read_addr[s]];
      end
    end
  end

  always_ff @(posedge clk_i) begin : hold
    if (advance) hold_q <= read_q;
  end

  ////////////////////////////////////////////////////
  // 3, 4, 5: products, their sum, partial sums     //
  ////////////////////////////////////////////////////

  localparam int unsigned ProductWidth = 12;  // |15 * 128| < 2^11
  localparam int unsigned SumWidth     = 18;  // |2 * 15 * 128 * (16 + 1)| < 2^17

  typedef logic signed [ProductWidth-1:0] product_t;
  typedef logic signed [SumWidth-1:0] sum_t;

  // The slots travel beside their weights to the multipliers, the shifters' settings a stage further.
  slot_word_t        word_q;
  logic signed [4:0] nibble_q [SlotsPerWord];
  logic [1:0]        high_q;
  logic [1:0]        shift_q;

  function automatic logic signed [4:0] signed_nibble(logic sign, logic [3:0] nibble);
    return sign ? -$signed({1'b0, nibble}) : $signed({1'b0, nibble});
  endfunction

  always_ff @(posedge clk_i) begin : slots
    if (advance) begin
      word_q  <= word_i;
      high_q  <= {word_q[2].hi, word_q[0].hi};
      shift_q <= high_q;
      for (int unsigned s = 0; s < SlotsPerWord; s++) nibble_q[s] <= signed_nibble(word_q[s].sign, word_q[s].nibble);
    end
  end

  for (genvar c = 0; c < Columns; c++) begin : gen_pe
    product_t    product_q [SlotsPerWord];
    sum_t        sum_q;
    logic [31:0] partial_q;
    logic [31:0] partial;

    always_ff @(posedge clk_i) begin : multiply
      if (advance) begin
        for (int unsigned s = 0; s < SlotsPerWord; s++) begin
          product_q[s] <= product_t'(nibble_q[s] * $signed(hold_q[s][8*c+:8]));
        end
      end
    end

    always_ff @(posedge clk_i) begin : add
      if (advance) begin
        sum_q <= (shift_q[0] ? sum_t'(product_q[0]) <<< 4 : sum_t'(product_q[0])) + sum_t'(product_q[1])
               + (shift_q[1] ? sum_t'(product_q[2]) <<< 4 : sum_t'(product_q[2])) + sum_t'(product_q[3]);
      end
    end

    assign partial = (tag_q[Stages].first ? 32'd0 : partial_q) + 32'(sum_q);

    always_ff @(posedge clk_i) begin : accumulate
      if (valid_q[Stages] && advance) begin
        partial_q <= partial;
        if (tag_q[Stages].last) result_o[c] <= partial;
      end
    end
  end

  always_ff @(posedge clk_i) begin : result
    if (!rst_ni) begin
      result_valid_o <= 1'b0;
    end else begin
      if (result_ready_i) result_valid_o <= 1'b0;
      if (valid_q[Stages] && advance && tag_q[Stages].last) begin
        result_valid_o <= 1'b1;
        result_row_o   <= tag_q[Stages].row;
        result_block_o <= tag_q[Stages].block;
        result_last_o  <= tag_q[Stages].row_done;
        enc_done_o     <= tag_q[Stages].enc_done;
        done_o         <= tag_q[Stages].done;
        zero_o         <= tag_q[Stages].zero;
        low_o          <= tag_q[Stages].low;
        full_o         <= tag_q[Stages].full;
      end
    end
  end

endmodule
