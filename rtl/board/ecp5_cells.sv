// SPDX-License-Identifier: Apache-2.0
//
// Cells of the ECP5 that tops of boards name themselves; the device has them. Ports and parameters as Lattice has them.

(* blackbox *)
module EHXPLLL #(
  parameter int unsigned CLKI_DIV     = 1,
  parameter int unsigned CLKFB_DIV    = 1,
  parameter int unsigned CLKOP_DIV    = 1,
  parameter int unsigned CLKOP_CPHASE = 0,
  parameter int unsigned CLKOP_FPHASE = 0,
  parameter string       FEEDBK_PATH  = "CLKOP"
) (
  input  logic CLKI,
  input  logic CLKFB,
  input  logic RST,
  input  logic STDBY,
  input  logic PHASESEL0,
  input  logic PHASESEL1,
  input  logic PHASEDIR,
  input  logic PHASESTEP,
  input  logic PHASELOADREG,
  input  logic PLLWAKESYNC,
  input  logic ENCLKOP,
  output logic CLKOP,
  output logic LOCK
);
endmodule
