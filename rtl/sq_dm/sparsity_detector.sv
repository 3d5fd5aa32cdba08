// SPDX-License-Identifier: Apache-2.0
// Sparsity detector: watches a layer's input while its producer writes it back, channel by channel, and tags a channel sparse if
// enough of its codes are zero. Tags are kept per layer; lists of channels come out of them, ascending.
//
//   tag = zero codes of the channel >= theta_count          theta_count = ceil(theta * pixels), loaded per layer: no divider
//
// One counter is enough because the layout is channel-last. Contract (device/timing/detector.py):
//   codes are never made to wait: a word of W a cycle; a channel of p codes takes ceil(p / W) cycles
//   a channel's tag is out (`tag_valid_o`) two cycles after its last word was taken
//   a list gives one channel a cycle, the first one in the second cycle after `scan_i`
// A scan may run while a layer is written back; with `update_i` low tags are counted and told, but the stored ones stay.
// What it does not do: fetch a channel (address generator), compare shares, know steps.

module sparsity_detector
#(
  parameter int unsigned Width    = 16,   // codes a word
  parameter int unsigned Channels = 512,  // a power of two
  parameter int unsigned Layers   = 64,   // a power of two
  parameter int unsigned CountWidth = 24,
  localparam int unsigned ChannelWidth = $clog2(Channels),
  localparam int unsigned LayerWidth   = $clog2(Layers)
) (
  input  logic clk_i,
  input  logic rst_ni,

  // A layer's input is about to be written back; taken when `busy_o` is low
  input  logic                  start_i,
  input  logic [LayerWidth-1:0] layer_i,
  input  logic [ChannelWidth:0] channels_i,     // 1 ... Channels
  input  logic [CountWidth-1:0] pixels_i,       // codes of a channel, at least 1
  input  logic [CountWidth-1:0] theta_count_i,
  input  logic                  update_i,       // the tags are stored
  output logic                  busy_o,

  // Its codes, one word of a channel a cycle; those past the channel's end are ignored
  input  logic       code_valid_i,
  output logic       code_ready_o,
  input  logic [3:0] code_i [Width],

  // One pulse a channel
  output logic                    tag_valid_o,
  output logic [ChannelWidth-1:0] tag_channel_o,
  output logic                    tag_sparse_o,
  output logic [CountWidth-1:0]   tag_zeros_o,

  // Lists of a layer's channels
  input  logic                    scan_i,          // taken when no scan runs
  input  logic [LayerWidth-1:0]   scan_layer_i,
  input  logic [ChannelWidth:0]   scan_channels_i,
  output logic                    list_valid_o,
  input  logic                    list_ready_i,
  output logic [ChannelWidth-1:0] list_channel_o,
  output logic                    list_sparse_o,   // it belongs to the sparse array's list
  output logic                    list_last_o
);

  localparam int unsigned ZerosWidth = $clog2(Width + 1);

  if (Width < 1 || Width > 64) begin : gen_width
    $error("sparsity_detector: Width = %0d is outside 1...64", Width);
  end
  if (Channels < 2 || (Channels & (Channels - 1)) != 0 || Layers < 2 || (Layers & (Layers - 1)) != 0) begin : gen_sizes
    $error("sparsity_detector: Channels = %0d and Layers = %0d are not powers of two from 2 on", Channels, Layers);
  end

  logic tags [Layers * Channels];

  ////////////////////////////////////////////////////
  // Words of the channel being written             //
  ////////////////////////////////////////////////////

  logic                  start;
  logic                  busy_q;
  logic                  taking_q;
  logic [LayerWidth-1:0] layer_q;
  logic [ChannelWidth:0] channels_q;
  logic [CountWidth-1:0] pixels_q;
  logic [CountWidth-1:0] theta_count_q;
  logic                  update_q;
  logic [ChannelWidth:0] channel_q;
  logic [CountWidth-1:0] left_q;  // codes of the channel that have not come

  logic                    word_valid_q;
  logic                    word_last_q;
  logic [ZerosWidth-1:0]   word_zeros_q;
  logic [ChannelWidth-1:0] word_channel_q;

  function automatic logic [ZerosWidth-1:0] zeros();
    automatic logic [ZerosWidth-1:0] count = '0;
    for (int unsigned w = 0; w < Width; w++) begin
      count = count + ZerosWidth'(code_i[w] == 4'd0 && CountWidth'(w) < left_q);
    end
    return count;
  endfunction

  assign start        = start_i && !busy_q;
  assign busy_o       = busy_q;
  assign code_ready_o = taking_q;

  always_ff @(posedge clk_i) begin : words
    if (!rst_ni) begin
      busy_q       <= 1'b0;
      taking_q     <= 1'b0;
      word_valid_q <= 1'b0;
    end else begin
      word_valid_q <= code_valid_i && taking_q;
      if (start) begin
        busy_q        <= 1'b1;
        taking_q      <= 1'b1;
        layer_q       <= layer_i;
        channels_q    <= channels_i;
        pixels_q      <= pixels_i;
        theta_count_q <= theta_count_i;
        update_q      <= update_i;
        channel_q     <= '0;
        left_q        <= pixels_i;
      end else if (code_valid_i && taking_q) begin
        word_zeros_q   <= zeros();
        word_channel_q <= channel_q[ChannelWidth-1:0];
        word_last_q    <= 1'b0;
        left_q         <= left_q - CountWidth'(Width);
        if (left_q <= CountWidth'(Width)) begin
          word_last_q <= 1'b1;
          left_q      <= pixels_q;
          channel_q   <= channel_q + (ChannelWidth + 1)'(1);
          if (channel_q + (ChannelWidth + 1)'(1) == channels_q) taking_q <= 1'b0;
        end
      end else if (!taking_q && !word_valid_q) begin
        busy_q <= 1'b0;
      end
    end
  end

  ////////////////////////////////////////////////////
  // Count and tag                                  //
  ////////////////////////////////////////////////////

  logic [CountWidth-1:0] count_q;
  logic [CountWidth-1:0] count;
  logic                  tag;

  assign count = count_q + CountWidth'(word_zeros_q);
  assign tag   = count >= theta_count_q;

  always_ff @(posedge clk_i) begin : tagging
    if (!rst_ni) begin
      count_q     <= '0;
      tag_valid_o <= 1'b0;
    end else begin
      tag_valid_o <= word_valid_q && word_last_q;
      if (word_valid_q) begin
        count_q <= count;
        if (word_last_q) begin
          count_q       <= '0;
          tag_channel_o <= word_channel_q;
          tag_sparse_o  <= tag;
          tag_zeros_o   <= count;
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin : tag_memory
    if (word_valid_q && word_last_q && update_q) tags[{layer_q, word_channel_q}] <= tag;
  end

  ////////////////////////////////////////////////////
  // Lists                                          //
  ////////////////////////////////////////////////////

  logic                  scanning_q;
  logic [LayerWidth-1:0] scan_layer_q;
  logic [ChannelWidth:0] scan_channels_q;
  logic [ChannelWidth:0] scan_channel_q;

  always_ff @(posedge clk_i) begin : lists
    if (!rst_ni) begin
      scanning_q   <= 1'b0;
      list_valid_o <= 1'b0;
    end else begin
      if (list_ready_i) list_valid_o <= 1'b0;
      if (scan_i && !scanning_q) begin
        scanning_q      <= 1'b1;
        scan_layer_q    <= scan_layer_i;
        scan_channels_q <= scan_channels_i;
        scan_channel_q  <= '0;
      end else if (scanning_q && (!list_valid_o || list_ready_i)) begin
        list_valid_o   <= 1'b1;
        list_channel_o <= scan_channel_q[ChannelWidth-1:0];
        list_sparse_o  <= tags[{scan_layer_q, scan_channel_q[ChannelWidth-1:0]}];
        list_last_o    <= 1'b0;
        scan_channel_q <= scan_channel_q + (ChannelWidth + 1)'(1);
        if (scan_channel_q + (ChannelWidth + 1)'(1) == scan_channels_q) begin
          list_last_o <= 1'b1;
          scanning_q  <= 1'b0;
        end
      end
    end
  end

endmodule
