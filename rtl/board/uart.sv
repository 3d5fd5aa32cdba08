// SPDX-License-Identifier: Apache-2.0
//
// UART: 8 data bits, no parity, one stop bit, `ClocksPerBit` clocks a bit. A received byte is offered for one cycle; a byte to
// be sent is taken when `tx_ready_o` is high.
//
// What it does not do: wait for the other side (the board takes every byte; its host keeps to the window), judge framing
// (a byte without a stop bit is offered all the same; the frame's CRC finds it).

module uart #(
  parameter int unsigned ClocksPerBit = 25
) (
  input  logic clk_i,
  input  logic rst_ni,

  input  logic       line_i,
  output logic       line_o,

  output logic       rx_valid_o,
  output logic [7:0] rx_data_o,
  input  logic       tx_valid_i,
  output logic       tx_ready_o,
  input  logic [7:0] tx_data_i
);

  if (ClocksPerBit < 4) begin : gen_clocks
    $error("uart: ClocksPerBit = %0d is less than 4: too few to find the middle of a bit", ClocksPerBit);
  end

  localparam int unsigned CountWidth = $clog2(2 * ClocksPerBit);

  // The line, brought into this clock; idle is high.
  logic [2:0] line_q;

  always_ff @(posedge clk_i) begin : synchronise
    if (!rst_ni) line_q <= '1;
    else line_q <= {line_q[1:0], line_i};
  end

  logic [3:0]            rx_left_q;   // bits to come; 0: waits for a start bit
  logic [CountWidth-1:0] rx_count_q;

  always_ff @(posedge clk_i) begin : receive
    if (!rst_ni) begin
      rx_left_q  <= '0;
      rx_valid_o <= 1'b0;
    end else begin
      rx_valid_o <= 1'b0;
      if (rx_left_q == '0) begin
        if (!line_q[1] && line_q[2]) begin
          rx_left_q  <= 4'd9;
          rx_count_q <= CountWidth'(ClocksPerBit + ClocksPerBit / 2 - 2);  // the middle of the first data bit
        end
      end else if (rx_count_q != '0) begin
        rx_count_q <= rx_count_q - CountWidth'(1);
      end else begin
        rx_left_q  <= rx_left_q - 4'd1;
        rx_count_q <= CountWidth'(ClocksPerBit - 1);
        if (rx_left_q == 4'd1) rx_valid_o <= 1'b1;  // the stop bit
        else rx_data_o <= {line_q[1], rx_data_o[7:1]};
      end
    end
  end

  logic [3:0]            tx_left_q;
  logic [CountWidth-1:0] tx_count_q;
  logic [8:0]            tx_bits_q;

  assign tx_ready_o = tx_left_q == '0;

  always_ff @(posedge clk_i) begin : send
    if (!rst_ni) begin
      tx_left_q <= '0;
      line_o    <= 1'b1;
    end else if (tx_left_q == '0) begin
      if (tx_valid_i) begin
        tx_left_q  <= 4'd10;
        tx_count_q <= CountWidth'(ClocksPerBit - 1);
        tx_bits_q  <= {1'b1, tx_data_i};
        line_o     <= 1'b0;
      end
    end else if (tx_count_q != '0) begin
      tx_count_q <= tx_count_q - CountWidth'(1);
    end else begin
      tx_left_q  <= tx_left_q - 4'd1;
      tx_count_q <= CountWidth'(ClocksPerBit - 1);
      tx_bits_q  <= {1'b1, tx_bits_q[8:1]};
      line_o     <= tx_bits_q[0];
    end
  end

endmodule
