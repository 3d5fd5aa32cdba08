// SPDX-License-Identifier: Apache-2.0
// The harness's C interface to a Verilated tile: what `sim_harness/tile.py` calls. Version: DITTO_ABI.
// What it does not do: check arguments (tile.py does, with names and limits), allocate results, know about layers.
#pragma once

#include <cstdint>

extern "C" {

enum DittoStatus : int32_t { kDittoOk = 0, kDittoStuck = 1, kDittoAssertion = 2, kDittoProtocol = 3, kDittoReset = 4 };

// One pass. Strides are in elements; a reference stride of 0 repeats one row.
struct DittoPass {
  int64_t rows, k, n;
  int64_t current_stride, reference_stride, accumulators_stride;
  int64_t pattern_cycles;  // length of the stall patterns; 0: nobody stalls
  int64_t next_k, next_n, next_stride;
  uint64_t watchdog_idle_cycles;
  uint64_t reset_cycle;  // checked builds: this many cycles into the pass a reset cuts it off; 0: none does
  const int8_t* current;
  const int8_t* reference;
  int32_t* accumulators;
  uint32_t* enc_done;  // per row
  uint32_t* done;
  uint16_t* zero;
  uint16_t* low;
  uint16_t* full;
  uint32_t* counters;      // per lane: busy, starved, stalled
  const uint8_t* offer;    // [lanes][pattern_cycles], repeated: 1 = a waiting beat may be offered in this cycle
  const uint8_t* accept;   // [lanes][pattern_cycles], repeated: 1 = a result is accepted in this cycle
  const int8_t* next_weights;  // load these meanwhile (two weight banks), or null
  uint64_t cycles;             // out: the pass
  uint64_t next_cycles;        // out: until the next weights were loaded
  int32_t mode;
  int32_t record;  // keep the port trace of this pass
  int32_t adds;    // results are added to the accumulators instead of replacing them
};

// A product of any K: for each chunk of K in turn its weights are loaded, and rows edges[i] … edges[i+1]−1 run as a pass
// each, for every i. As if several tiles with the same weights took a share of the rows.
struct DittoProduct {
  DittoPass whole;  // k is the whole row's; rows, n, strides, operands, accumulators, counters, mode, watchdog are used
  const int8_t* weights;  // [k][weights_stride]
  int64_t weights_stride;
  const int64_t* chunks;  // their sum is k
  int64_t chunk_count;
  const int64_t* edges;  // range_count + 1 of them
  int64_t range_count;
  int32_t* classes;  // out: [zero, low, full][rows], over all chunks
  int64_t* cycles;   // out: [chunk_count][range_count], each pass
  int64_t* loaded;   // out: [chunk_count], loading weights
};

// One share of `DittoGemm`: some rows and columns of a group over neighbouring chunks of K, as `DittoProduct` runs them.
struct DittoShare {
  int64_t group, part;           // `part`: which of the sums of parts of K it belongs to
  int64_t k, chunk, chunk_count; // its first element of K, its first chunk
  int64_t column, n;
  int64_t row, rows;
  int64_t edge, range_count;     // where its edges begin, counted from its first row
  int64_t cycles, loaded;        // where its times go
};

// Products of many groups, cut into shares; threads with a tile each take the next one until none is left. Strides are in
// elements, from group to group and from row to row; those of the accumulators also from part to part.
struct DittoGemm {
  const int8_t* current;
  const int8_t* reference;  // strides of 0: one row for all
  const int8_t* weights;
  int32_t* accumulators;
  int64_t current_group, current_row, reference_group, reference_row, weights_group, weights_row;
  int64_t accumulators_part, accumulators_group, accumulators_row;
  int64_t groups, rows;
  const DittoShare* shares;
  int64_t share_count;
  const int64_t* chunks;
  const int64_t* edges;
  int32_t* classes;  // out: [parts][zero, low, full][groups][rows]
  int64_t* cycles;   // out: per share [chunk_count][range_count]
  int64_t* loaded;   // out: per share [chunk_count]
  int64_t* next;     // the share that is taken next, by whichever thread
  uint64_t watchdog_idle_cycles;
  int32_t mode;
};

int32_t ditto_abi();
// Registers start as `state_seed` draws them where the build asks for it.
void* ditto_open(const char* trace_path, uint32_t state_seed);
// 1 if this many cycles of random inputs leave two tiles equal, of which one is clocked with its documented eval().
int32_t ditto_self_test(int32_t cycles);
// Mutation builds: which mistake the tiles opened from now on make; 0 is none.
void ditto_mutant(int32_t number);
void ditto_close(void* tile);
void ditto_reset(void* tile);
// Checked builds: from now on every port without its valid carries garbage, and starts and weights are offered where they
// must not be heard. 0 ends it.
void ditto_attack(void* tile, uint64_t seed);
// Returns the cycles taken, or a negative DittoStatus.
int64_t ditto_load_weights(void* tile, const int8_t* weights, int64_t stride, int64_t k, int64_t n);
int32_t ditto_run(void* tile, DittoPass* pass);
// Counters are the last pass's. Stops at the first pass that fails.
int32_t ditto_run_product(void* tile, DittoProduct* product);
// Stops at the first pass that fails, and has the other threads stop after their share.
int32_t ditto_run_gemm(void* tile, DittoGemm* gemm);
// The pass without a driver: the first beat stays on every operand port, results are dropped. Returns its cycles.
uint64_t ditto_run_bare(void* tile, const DittoPass* pass);
// Port trace of the last recorded pass: per cycle, bit 0 operand valid, bit 1 operand ready, bit 2 result valid,
// bit 3 result ready. Returns its length in cycles; copies at most `capacity` of them.
uint64_t ditto_trace(void* tile, int64_t lane, uint8_t* into, uint64_t capacity);
// Every scalar port, one `name value` per line. Returns the length; copies at most `capacity` bytes.
uint64_t ditto_state(void* tile, char* into, uint64_t capacity);
// What a failed assertion or a broken protocol was; empty if neither.
const char* ditto_message(void* tile);
void ditto_write_coverage(void* tile, const char* path);

}
