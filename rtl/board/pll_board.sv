// SPDX-License-Identifier: Apache-2.0
//
// `uart_board` for boards whose oscillator is slower than their tile: an ECP5's PLL makes the clock, `Multiply` times as fast.
// The board stays in reset until the PLL has locked.
// What it does not do: fit another family, or simulate (the PLL is the device's; all behind it is `uart_board`).

module pll_board #(
  parameter int unsigned Multiply     = 2,
  parameter int unsigned Divide       = 12,  // oscillator * Multiply * Divide is the PLL's own frequency, 400 ... 800 MHz
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

  logic clk;
  logic locked;

  EHXPLLL #(
    .CLKI_DIV(1), .CLKFB_DIV(Multiply), .CLKOP_DIV(Divide), .CLKOP_CPHASE(Divide / 2 - 1), .CLKOP_FPHASE(0)
  ) u_pll (
    .CLKI(clk_i), .CLKFB(clk), .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0), .PHASESEL1(1'b0), .PHASEDIR(1'b0),
    .PHASESTEP(1'b0), .PHASELOADREG(1'b0), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0), .CLKOP(clk), .LOCK(locked)
  );

  uart_board #(
    .Lanes(Lanes), .Columns(Columns), .EncodeWidth(EncodeWidth), .KMax(KMax), .NMax(NMax), .LowRule(LowRule),
    .WeightBanks(WeightBanks), .PeStages(PeStages), .OperandBeats(OperandBeats), .ResultDepth(ResultDepth),
    .ClocksPerBit(ClocksPerBit), .Digest(Digest)
  ) u_board (
    .clk_i(clk), .button_ni(button_ni && locked), .line_i, .line_o, .busy_o
  );

endmodule
