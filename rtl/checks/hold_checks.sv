// SPDX-License-Identifier: Apache-2.0
// A handshake: valid and payload hold until they are taken. For simulation and for proofs.
// What it does not do: ask that anything is ever taken.

module hold_checks #(
  parameter int unsigned Width = 1
) (
  input logic             clk_i,
  input logic             rst_ni,
  input logic             valid_i,
  input logic             ready_i,
  input logic [Width-1:0] payload_i
);

  logic             waits_q;
  logic [Width-1:0] payload_q;

  always_ff @(posedge clk_i) begin : hold
    waits_q   <= rst_ni && valid_i && !ready_i;
    payload_q <= payload_i;
    if (rst_ni && waits_q) begin
      assert (valid_i) else $error("what was offered was withdrawn");
      assert (payload_i == payload_q) else $error("what was offered has changed");
    end
  end

endmodule
