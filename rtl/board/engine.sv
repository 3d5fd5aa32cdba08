// SPDX-License-Identifier: Apache-2.0
//
// Engine: carries out the frames of one host in order, each once, and answers every one.
//
//   hello   begins a session; the next frame must carry the next sequence number
//   write   bytes to one region, from an address upwards           -> done
//   read    bytes of one region, from an address upwards           -> data
// A frame that was carried out before (its answer was lost) is answered again, without writing again; one that is not the
// next one (its predecessor was lost) is dropped, and the host sends both again. Before a hello everything is a stray:
// a board that was reset has lost its weights, and says so instead of computing with what is left.
// Writes, and reads of results and reports, wait until the pass is over: nobody polls, nothing changes under a pass.
// What it does not do: check CRCs (deframer), know what an address means (board_tile).

module engine
  import board_pkg::*;
#(
  parameter int unsigned SlotBytes = 2048,
  localparam int unsigned ByteWidth = $clog2(SlotBytes)
) (
  input  logic clk_i,
  input  logic rst_ni,

  // Frames
  input  logic                 frame_valid_i,
  input  logic [ByteWidth-1:0] frame_bytes_i,
  output logic                 frame_done_o,
  output logic [ByteWidth-1:0] read_addr_o,
  input  logic [7:0]           read_data_i,

  // Answers
  output logic       answer_valid_o,
  input  logic       answer_ready_i,
  output logic [7:0] answer_o,
  output logic       answer_last_o,

  // Bytes of the tile and its registers
  input  logic        busy_i,
  output logic        write_valid_o,
  output logic [31:0] address_o,  // of the byte written, or of the byte to be read
  output logic [7:0]  write_data_o,
  input  logic [7:0]  data_i      // of the address two cycles before
);

  typedef enum logic [3:0] {
    StateIdle,
    StateHeader,
    StateDecide,
    StateWait,
    StateWrite,
    StateKind,
    StateSeq,
    StateNonce,
    StateData,
    StateDrop
  } state_e;

  localparam int unsigned HeaderBytes = 8;

  state_e               state_q;
  logic [ByteWidth-1:0] at_q;
  logic [7:0]           header_q [HeaderBytes];  // kind, sequence, address or nonce (4), count (2)
  logic [31:0]          address_q;
  logic [15:0]          count_q;
  logic [7:0]           expected_q;
  logic                 session_q;
  logic                 repeated_q;
  logic [7:0]           answer_kind_q;

  // Bytes that are read, on their way to the line: as many are asked for as there are places for them.
  localparam int unsigned ReadDepth = 4;
  localparam int unsigned ReadWidth = $clog2(ReadDepth);
  logic [7:0]           fifo_q [ReadDepth];
  logic [ReadWidth-1:0] put_q;
  logic [ReadWidth-1:0] get_q;
  logic [ReadWidth:0]   asked_q;   // for bytes that have not been answered yet
  logic [ReadWidth:0]   held_q;
  logic [15:0]          to_ask_q;
  logic [1:0]           arrives_q;
  logic                 asks;
  logic                 gives;     // a byte to the line

  logic [7:0]  kind;
  logic [7:0]  seq;
  logic [7:0]  behind;
  logic [31:0] word;
  logic        has_header;
  logic        reads;
  logic        registers;

  assign kind       = header_q[0];
  assign seq        = header_q[1];
  assign word       = {header_q[5], header_q[4], header_q[3], header_q[2]};
  assign behind     = expected_q - seq;
  assign reads      = kind == KindRead;
  assign has_header = reads ? frame_bytes_i == ByteWidth'(8) : frame_bytes_i >= ByteWidth'(6);
  assign registers  = reads && (word[31:28] == RegionRegister || word[31:28] == RegionIdentity);

  assign read_addr_o   = at_q;
  assign address_o     = address_q;
  assign write_valid_o = state_q == StateWrite;
  assign write_data_o  = read_data_i;
  assign frame_done_o  = state_q == StateDrop;
  assign asks          = state_q == StateData && to_ask_q != '0 && asked_q != (ReadWidth + 1)'(ReadDepth);
  assign gives       = state_q == StateData && held_q != '0 && answer_ready_i;

  always_comb begin : answer
    answer_valid_o = 1'b0;
    answer_o       = answer_kind_q;
    answer_last_o  = 1'b0;
    unique case (state_q)
      StateKind: answer_valid_o = 1'b1;
      StateSeq: begin
        answer_valid_o = 1'b1;
        answer_o       = seq;
        answer_last_o  = answer_kind_q == KindDone || answer_kind_q == KindStray
                         || (answer_kind_q == KindData && count_q == '0);
      end
      StateNonce: begin
        answer_valid_o = 1'b1;
        answer_o       = header_q[{1'b0, count_q[1:0]} + 3'd2];
        answer_last_o  = count_q[1:0] == 2'd3;
      end
      StateData: begin
        answer_valid_o = held_q != '0;
        answer_o       = fifo_q[get_q];
        answer_last_o  = count_q == 16'd1;
      end
      default: answer_valid_o = 1'b0;
    endcase
  end

  always_ff @(posedge clk_i) begin : reading
    if (!rst_ni || state_q == StateDecide) begin
      put_q     <= '0;
      get_q     <= '0;
      asked_q   <= '0;
      held_q    <= '0;
      arrives_q <= '0;
      to_ask_q  <= {header_q[7], header_q[6]};
    end else begin
      arrives_q <= {arrives_q[0], asks};
      asked_q   <= asked_q + (ReadWidth + 1)'(asks) - (ReadWidth + 1)'(gives);
      held_q    <= held_q + (ReadWidth + 1)'(arrives_q[1]) - (ReadWidth + 1)'(gives);
      if (asks) to_ask_q <= to_ask_q - 16'd1;
      if (gives) get_q <= get_q + ReadWidth'(1);
      if (arrives_q[1]) begin
        fifo_q[put_q] <= data_i;
        put_q         <= put_q + ReadWidth'(1);
      end
    end
  end

  always_ff @(posedge clk_i) begin : steps
    if (!rst_ni) begin
      state_q    <= StateIdle;
      session_q  <= 1'b0;
      expected_q <= '0;
      at_q       <= '0;
    end else begin
      unique case (state_q)
        StateIdle: begin
          if (frame_valid_i) begin  // its first byte is being read
            at_q    <= ByteWidth'(1);
            state_q <= StateHeader;
          end
        end

        // The byte at `at_q - 1` is there now.
        StateHeader: begin
          header_q[3'(at_q - ByteWidth'(1))] <= read_data_i;
          at_q <= at_q + ByteWidth'(1);
          if (at_q == ByteWidth'(HeaderBytes) || at_q == frame_bytes_i) state_q <= StateDecide;
        end

        StateDecide: begin
          address_q  <= word;
          count_q    <= {header_q[7], header_q[6]};
          repeated_q <= 1'b0;
          at_q       <= ByteWidth'(6);
          if (!has_header) begin
            state_q <= StateDrop;
          end else if (kind == KindHello) begin
            session_q     <= 1'b1;
            expected_q    <= seq + 8'd1;
            answer_kind_q <= KindWelcome;
            state_q       <= StateKind;
          end else if (!session_q) begin
            answer_kind_q <= KindStray;
            state_q       <= StateKind;
          end else if ((kind != KindWrite && !reads) || (behind != 8'd0 && behind > 8'd64)) begin
            state_q <= StateDrop;
          end else begin
            repeated_q    <= behind != 8'd0;
            answer_kind_q <= reads ? KindData : KindDone;
            if (behind == 8'd0) expected_q <= seq + 8'd1;
            state_q <= StateWait;
          end
        end

        StateWait: begin
          if (!busy_i || registers) begin
            state_q <= reads || repeated_q || frame_bytes_i == ByteWidth'(6) ? StateKind : StateWrite;
            if (!reads) at_q <= ByteWidth'(7);
          end
        end

        // The byte at `at_q - 1` is there now and is written with this cycle's edge.
        StateWrite: begin
          address_q <= address_q + 32'd1;
          at_q      <= at_q + ByteWidth'(1);
          if (at_q == frame_bytes_i) state_q <= StateKind;
        end

        StateKind: if (answer_ready_i) state_q <= StateSeq;

        StateSeq: begin
          if (answer_ready_i) begin
            state_q <= answer_last_o ? StateDrop : answer_kind_q == KindWelcome ? StateNonce : StateData;
            if (answer_kind_q == KindWelcome) count_q <= '0;
          end
        end

        StateNonce: begin
          if (answer_ready_i) begin
            count_q <= count_q + 16'd1;
            if (answer_last_o) state_q <= StateDrop;
          end
        end

        StateData: begin
          if (asks) begin
            address_q <= address_q + (address_q[31:28] == RegionResult24 && address_q[1:0] == 2'd2 ? 32'd2 : 32'd1);
          end
          if (gives) begin
            count_q <= count_q - 16'd1;
            if (answer_last_o) state_q <= StateDrop;
          end
        end

        StateDrop: begin
          at_q    <= '0;
          state_q <= StateIdle;
        end

        default: state_q <= StateIdle;
      endcase
    end
  end

endmodule
