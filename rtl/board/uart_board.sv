// SPDX-License-Identifier: Apache-2.0
//
// What tops of boards share: a board behind a UART, reset for a while after power-up and while a button is held.
//
// What it does not do: know pins or make a clock.

module uart_board #(
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
  parameter int unsigned ClocksPerBit = 25,
  parameter logic [63:0] Digest       = 64'd0
) (
  input  logic clk_i,
  input  logic button_ni,
  input  logic line_i,
  output logic line_o,
  output logic busy_o
);

  // There is no reset before this one: configuration leaves the counter at 0.
  /* verilator lint_off PROCASSINIT */
  logic [7:0] awake_q = '0;
  /* verilator lint_on PROCASSINIT */
  logic [1:0] button_q;
  logic       rst_n;

  assign rst_n = &awake_q;

  always_ff @(posedge clk_i) begin : wake
    button_q <= {button_q[0], button_ni};
    if (!button_q[1]) awake_q <= '0;
    else if (!rst_n) awake_q <= awake_q + 8'd1;
  end

  logic       rx_valid;
  logic [7:0] rx_data;
  logic       tx_valid;
  logic       tx_ready;
  logic [7:0] tx_data;

  uart #(.ClocksPerBit(ClocksPerBit)) u_uart (
    .clk_i, .rst_ni(rst_n), .line_i, .line_o,
    .rx_valid_o(rx_valid), .rx_data_o(rx_data), .tx_valid_i(tx_valid), .tx_ready_o(tx_ready), .tx_data_i(tx_data)
  );

  board #(
    .Lanes(Lanes), .Columns(Columns), .EncodeWidth(EncodeWidth), .KMax(KMax), .NMax(NMax), .LowRule(LowRule),
    .WeightBanks(WeightBanks), .PeStages(PeStages), .OperandBeats(OperandBeats), .ResultDepth(ResultDepth), .Digest(Digest)
  ) u_board (
    .clk_i, .rst_ni(rst_n), .rx_valid_i(rx_valid), .rx_data_i(rx_data),
    .tx_valid_o(tx_valid), .tx_ready_i(tx_ready), .tx_data_o(tx_data), .busy_o
  );

endmodule
