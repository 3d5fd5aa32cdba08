// SPDX-License-Identifier: Apache-2.0
// Not ours: a dot product of N signed bytes a cycle, two cycles deep, to show that the harness drives any block.

module dot #(
  parameter int unsigned N = 8
) (
  input  logic        clk_i,
  input  logic        rst_ni,
  input  logic        valid_i,
  input  logic [7:0]  a_i [N],
  input  logic [7:0]  b_i [N],
  output logic        valid_o,
  output logic [31:0] sum_o
);

  logic        valid_q;
  logic [15:0] product_q [N];

  function automatic logic [31:0] total();
    automatic logic [31:0] sum = '0;
    for (int unsigned n = 0; n < N; n++) sum = sum + {{16{product_q[n][15]}}, product_q[n]};
    return sum;
  endfunction

  always_ff @(posedge clk_i) begin
    valid_q <= rst_ni && valid_i;
    valid_o <= rst_ni && valid_q;
    sum_o   <= total();
    for (int unsigned n = 0; n < N; n++) product_q[n] <= 16'($signed(a_i[n])) * 16'($signed(b_i[n]));
  end

endmodule
