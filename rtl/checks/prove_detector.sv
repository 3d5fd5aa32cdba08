// SPDX-License-Identifier: Apache-2.0
// Proof by induction, of whichever channel `pick_i` names in whichever layer's write-back: its tag is told once, two cycles after
// its last word was taken, and says whether its zero codes reach the threshold; codes never wait while channels are missing;
// channels are told in order; lists ascend, one channel a cycle.
// What is assumed: a reset first; a write-back of at least one channel of at least one code, and no more channels than there are.

module prove_detector #(
  parameter int unsigned Width    = 2,
  parameter int unsigned Channels = 4,
  parameter int unsigned Layers   = 2,
  parameter int unsigned CountWidth = 5,
  localparam int unsigned ChannelWidth = $clog2(Channels),
  localparam int unsigned LayerWidth   = $clog2(Layers)
) (
  input logic                  clk_i,
  input logic                  rst_ni,
  input logic                  start_i,
  input logic [LayerWidth-1:0] layer_i,
  input logic [ChannelWidth:0] channels_i,
  input logic [CountWidth-1:0] pixels_i,
  input logic [CountWidth-1:0] theta_count_i,
  input logic                  update_i,
  input logic                  code_valid_i,
  input logic [3:0]            code_i [Width],
  input logic                  scan_i,
  input logic [LayerWidth-1:0] scan_layer_i,
  input logic [ChannelWidth:0] scan_channels_i,
  input logic                  list_ready_i
);

  logic                    busy;
  logic                    code_ready;
  logic                    tag_valid;
  logic [ChannelWidth-1:0] tag_channel;
  logic                    tag_sparse;
  logic [CountWidth-1:0]   tag_zeros;
  logic                    list_valid;
  logic [ChannelWidth-1:0] list_channel;
  logic                    list_sparse;
  logic                    list_last;

  sparsity_detector #(
    .Width(Width), .Channels(Channels), .Layers(Layers), .CountWidth(CountWidth)
  ) u_detector (
    .clk_i, .rst_ni, .start_i, .layer_i, .channels_i, .pixels_i, .theta_count_i, .update_i, .busy_o(busy),
    .code_valid_i, .code_ready_o(code_ready), .code_i,
    .tag_valid_o(tag_valid), .tag_channel_o(tag_channel), .tag_sparse_o(tag_sparse), .tag_zeros_o(tag_zeros),
    .scan_i, .scan_layer_i, .scan_channels_i,
    .list_valid_o(list_valid), .list_ready_i, .list_channel_o(list_channel), .list_sparse_o(list_sparse),
    .list_last_o(list_last)
  );

  hold_checks #(
    .Width(ChannelWidth + 2)
  ) u_hold (
    .clk_i, .rst_ni, .valid_i(list_valid), .ready_i(list_ready_i), .payload_i({list_channel, list_sparse, list_last})
  );

  ////////////////////////////////////////////////////
  // A recount of the write-back                    //
  ////////////////////////////////////////////////////

  logic                  started_q = 1'b0;
  logic                  heard;
  logic [ChannelWidth:0] channels_q;
  logic [CountWidth-1:0] pixels_q;
  logic [CountWidth-1:0] theta_q;
  logic [ChannelWidth:0] channel_q;  // the one whose codes come
  logic [CountWidth-1:0] seen_q;     // its codes that have come
  logic [CountWidth-1:0] zeros_q;    // zeros among them
  logic                  due_q;      // a channel ended with the word before
  logic                  due2_q;
  logic [CountWidth-1:0] due_zeros_q;
  logic [CountWidth-1:0] due2_zeros_q;
  logic [ChannelWidth:0] due_channel_q;
  logic [ChannelWidth:0] due2_channel_q;

  logic [CountWidth-1:0] zeros;  // of the word that is offered

  always_comb begin : recount
    zeros = '0;
    for (int unsigned w = 0; w < Width; w++) begin
      if (CountWidth'(w) + seen_q < pixels_q && code_i[w] == 4'd0) zeros = zeros + CountWidth'(1);
    end
  end

  assign heard = start_i && !busy;

  always_ff @(posedge clk_i) begin : counts
    started_q <= 1'b1;
    assume (rst_ni == started_q);
    // Far enough below what the counters hold that a channel's last word does not run over.
    assume (pixels_i != '0 && pixels_i < CountWidth'((1 << CountWidth) - Width));
    assume (channels_i != '0 && channels_i <= (ChannelWidth + 1)'(Channels));
    assume (scan_channels_i != '0 && scan_channels_i <= (ChannelWidth + 1)'(Channels));
    if (!rst_ni) begin
      due_q      <= 1'b0;
      due2_q     <= 1'b0;
      channel_q  <= '0;
      channels_q <= '0;
      seen_q     <= '0;
      zeros_q    <= '0;
      pixels_q   <= CountWidth'(1);
    end else begin
      due_q          <= 1'b0;
      due2_q         <= due_q;
      due2_zeros_q   <= due_zeros_q;
      due2_channel_q <= due_channel_q;
      if (heard) begin
        channels_q <= channels_i;
        pixels_q   <= pixels_i;
        theta_q    <= theta_count_i;
        channel_q  <= '0;
        seen_q     <= '0;
        zeros_q    <= '0;
      end else if (code_valid_i && code_ready) begin
        seen_q  <= seen_q + CountWidth'(Width);
        zeros_q <= zeros_q + zeros;
        if (seen_q + CountWidth'(Width) >= pixels_q) begin
          due_q         <= 1'b1;
          due_zeros_q   <= zeros_q + zeros;
          due_channel_q <= channel_q;
          channel_q     <= channel_q + (ChannelWidth + 1)'(1);
          seen_q        <= '0;
          zeros_q       <= '0;
        end
      end
      assert (code_ready == (channel_q < channels_q));
      assert (tag_valid == due2_q);
      if (tag_valid) begin
        assert (tag_channel == due2_channel_q[ChannelWidth-1:0] && tag_zeros == due2_zeros_q);
        assert (tag_sparse == (due2_zeros_q >= theta_q));
      end
    end
  end

  ////////////////////////////////////////////////////
  // Lists                                          //
  ////////////////////////////////////////////////////

  logic                  listing_q;
  logic [ChannelWidth:0] next_q;  // the channel that is due
  logic [ChannelWidth:0] scan_channels_q;

  always_ff @(posedge clk_i) begin : lists
    if (!rst_ni) begin
      listing_q <= 1'b0;
      next_q    <= '0;
    end else begin
      assume (!scan_i || !listing_q);  // a list is asked for when the one before has been taken
      if (scan_i) begin
        listing_q       <= 1'b1;
        next_q          <= '0;
        scan_channels_q <= scan_channels_i;
      end else if (list_valid && list_ready_i) begin
        next_q <= next_q + (ChannelWidth + 1)'(1);
        if (list_last) listing_q <= 1'b0;
      end
      if (list_valid) begin
        assert (listing_q && {1'b0, list_channel} == next_q);
        assert (list_last == (next_q + (ChannelWidth + 1)'(1) == scan_channels_q));
      end
    end
  end

  ////////////////////////////////////////////////////
  // Invariants                                     //
  ////////////////////////////////////////////////////

  always_ff @(posedge clk_i) begin : invariants
    if (rst_ni) begin
      assert (u_detector.taking_q == (channel_q < channels_q) && channel_q <= channels_q);
      assert (channels_q <= (ChannelWidth + 1)'(Channels));
      assert (!u_detector.taking_q || busy);
      if (!u_detector.taking_q) assert (zeros_q == '0);
      if (!busy) assert (u_detector.count_q == '0);
      if (busy) begin
        assert (u_detector.channels_q == channels_q && u_detector.pixels_q == pixels_q);
        assert (u_detector.theta_count_q == theta_q && u_detector.channel_q == channel_q);
      end
      if (u_detector.taking_q) begin
        assert (seen_q < pixels_q && u_detector.left_q == pixels_q - seen_q);
        assert (pixels_q < CountWidth'((1 << CountWidth) - Width));
      end
      // The counter is a word behind the recount.
      assert (!u_detector.word_valid_q || busy);
      assert (!due2_q || busy);
      assert (due_q == (u_detector.word_valid_q && u_detector.word_last_q));
      if (due_q) begin
        assert (u_detector.count == due_zeros_q && {1'b0, u_detector.word_channel_q} == due_channel_q && zeros_q == '0);
      end else if (u_detector.word_valid_q) begin
        assert (u_detector.count == zeros_q);
      end else begin
        assert (u_detector.count_q == zeros_q);
      end
      assert (!u_detector.scanning_q || listing_q);
      if (u_detector.scanning_q) begin
        assert (u_detector.scan_channels_q == scan_channels_q && u_detector.scan_channel_q < scan_channels_q);
        assert (u_detector.scan_channel_q == next_q + (ChannelWidth + 1)'(list_valid));
        assert (scan_channels_q <= (ChannelWidth + 1)'(Channels));
      end else begin
        assert (listing_q == list_valid && (!list_valid || list_last));
      end
    end
  end

endmodule
