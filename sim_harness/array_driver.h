// SPDX-License-Identifier: Apache-2.0
// The harness's C interface to one of SQ-DM's Verilated arrays: what `sim_harness/array.py` calls. Version: DITTO_ABI.
// What it does not do: check arguments (array.py does, with names and limits), choose channels, split N.
#pragma once

#include <cstdint>

extern "C" {

enum ArrayStatus : int32_t { kArrayOk = 0, kArrayStuck = 1, kArrayAssertion = 2, kArrayProtocol = 3, kArrayReset = 4 };

// What of a row's K elements an array sees: the wanted ones of some of its blocks of G, each a segment.
struct ArrayLayout {
  int64_t segments;
  const uint8_t* wanted;  // [K]: 1 or 0
  const int32_t* blocks;  // [segments]: whose wanted elements they are, at least one each
};

// Weights and their scales; strides are in elements.
struct ArrayWeights {
  int64_t n, codes_stride, scales_stride;
  const int8_t* codes;    // [K][codes_stride]
  const uint8_t* scales;  // [blocks][scales_stride], E4M3
};

// One pass.
struct ArrayPass {
  ArrayLayout layout;
  int64_t rows, n;
  int64_t codes_stride, scales_stride, accumulators_stride;
  int64_t pattern_cycles;  // length of the stall patterns; 0: nobody stalls
  uint64_t watchdog_idle_cycles;
  uint64_t reset_cycle;  // checked builds: this many cycles into the pass a reset cuts it off; 0: none does
  const uint8_t* codes;   // [rows][codes_stride], the low nibble of each
  const uint8_t* scales;  // [rows][scales_stride], E4M3
  int64_t* accumulators;  // [rows][accumulators_stride]
  uint32_t* enc_done;     // per row; sparse array
  uint32_t* done;         // per row
  uint16_t* nonzero;      // per row; sparse array
  uint32_t* counters;     // busy, starved, stalled
  int64_t* met;           // [K]: codes other than 0 that were handed over are added to their element's
  const uint8_t* offer;   // [pattern_cycles], repeated: 1 = a waiting beat may be offered in this cycle
  const uint8_t* accept;  // [pattern_cycles], repeated: 1 = a result is accepted in this cycle
  uint64_t cycles;        // out
  int32_t is_signed;
  int32_t record;  // keep the port trace of this pass
  int32_t adds;    // results are added to the accumulators instead of replacing them
};

// A product of any K: segments chunks[i] ... chunks[i+1]-1 of the layout are loaded in turn, and rows edges[j] ... edges[j+1]-1
// run as a pass each, for every j. As if several tiles with the same weights took a share of the rows.
struct ArrayProduct {
  ArrayPass whole;  // layout, rows, n, strides, operands, accumulators, counters, met, is_signed, watchdog are used
  ArrayWeights weights;
  const int64_t* chunks;
  int64_t chunk_count;
  const int64_t* edges;
  int64_t range_count;
  uint16_t* nonzero;  // out: [chunk_count][rows]; sparse array
  int64_t* cycles;    // out: [chunk_count][range_count], each pass
  int64_t* loaded;    // out: [chunk_count]
};

int32_t array_abi();
// Registers start as `state_seed` draws them where the build asks for it.
void* array_open(const char* trace_path, uint32_t state_seed);
// 1 if this many cycles of random inputs leave two models equal, of which one is clocked with its documented eval().
int32_t ditto_self_test(int32_t cycles);
// Mutation builds: which mistake the models opened from now on make; 0 is none.
void array_mutant(int32_t number);
void array_close(void* array);
void array_reset(void* array);
// Checked builds: from now on every port without its valid carries garbage, and starts and weights are offered where they
// must not be heard. 0 ends it.
void array_attack(void* array, uint64_t seed);
// Returns the cycles taken, or a negative ArrayStatus.
int64_t array_load(void* array, const ArrayWeights* weights, const ArrayLayout* layout);
int32_t array_run(void* array, ArrayPass* pass);
// Stops at the first pass that fails.
int32_t array_run_product(void* array, ArrayProduct* product);
// Port trace of the last recorded pass: per cycle, bit 0 operand valid, bit 1 operand ready, bit 2 result valid,
// bit 3 result ready. Returns its length in cycles; copies at most `capacity` of them.
uint64_t array_trace(void* array, uint8_t* into, uint64_t capacity);
// Every scalar port, one `name value` per line. Returns the length; copies at most `capacity` bytes.
uint64_t array_state(void* array, char* into, uint64_t capacity);
// What a failed assertion or a broken protocol was; empty if neither.
const char* array_message(void* array);
void array_write_coverage(void* array, const char* path);

}
