// SPDX-License-Identifier: Apache-2.0
// What the drivers of every Verilated tile share: the generated model's headers, where its assertions and their own complaints
// go, and the dice an attack is drawn with. Included once, by the driver that is compiled with the model.
// What it does not do: know a port.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "Vtile.h"
#include "Vtile___024root.h"
#include "verilated.h"
#if DITTO_TRACE_VCD
#include "verilated_vcd_c.h"
using TraceFile = VerilatedVcdC;
#elif DITTO_TRACE_FST
#include "verilated_fst_c.h"
using TraceFile = VerilatedFstC;
#endif
#if DITTO_COVERAGE
#include "verilated_cov.h"
#endif

#define DITTO_API __attribute__((visibility("default")))

double sc_time_stamp() { return 0; }

// The RTL's assertions, $stop and $fatal end the pass, not the process.
struct RtlStopped {
  std::string what;
};
// What a tile does at its ports that no tile may do.
struct RtlBroken {
  std::string what;
};
static std::string place(const char* file, int line, const char* scope) {
  std::string path(file);
  path = path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  return *scope ? path + " in " + scope : path;
}
void vl_finish(const char*, int, const char*) {}
void vl_stop(const char* file, int line, const char* scope) {
  throw RtlStopped{"an assertion failed at " + place(file, line, scope)};
}
void vl_fatal(const char* file, int line, const char* scope, const char* message) {
  throw RtlStopped{message + (" at " + place(file, line, scope))};
}

namespace {

constexpr bool kChecked = DITTO_CHECKED;

// What an attack draws from; xorshift, because a seed must give the same pass on every machine.
class Dice {
 public:
  void seed(uint64_t seed) { state_ = seed; }
  bool attacks() const { return kChecked && state_ != 0; }
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545F4914F6CDD1D >> 24;
  }
  uint64_t below(uint64_t limit) { return next() % limit; }
  bool chance(uint64_t in) { return below(in) == 0; }

 private:
  uint64_t state_ = 0;
};

}  // namespace
