// SPDX-License-Identifier: Apache-2.0
// What the drivers of every Verilated tile share: the generated model with its clock, its waveform, its coverage and its faults,
// and the dice an attack is drawn with. Included once, by the driver that is compiled with the model.
// What it does not do: know a port but the clock, or, where the compiler is promised a steady pass, the three that begin one.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
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

#if DITTO_DIRECT_EVAL
void Vtile___024root___eval_ico(Vtile___024root* root);
void Vtile___024root___eval_nba(Vtile___024root* root);
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
constexpr int32_t kModelAssertion = 2, kModelProtocol = 3;  // of DittoStatus and of ArrayStatus

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

// A Verilated tile and what every driver does with it; a driver descends from it and knows its ports.
class Model {
 public:
  static inline int32_t mutant = 0;  // which of a mutation build's mistakes the models opened from now on make

  void attack(uint64_t seed) { dice_.seed(seed); }
  const char* message() const { return message_.c_str(); }

  void write_coverage(const char* path) {
#if DITTO_COVERAGE
    context_->coveragep()->write(path);
#else
    (void)path;
#endif
  }

 protected:
  Model(const char* trace_path, uint32_t state_seed)
      : context_(make_context(state_seed)), top_(new Vtile(context_.get())), ports_(top_->rootp) {
#if DITTO_TRACE_VCD || DITTO_TRACE_FST
    if (trace_path) {
      context_->traceEverOn(true);
      trace_file_ = std::make_unique<TraceFile>();
      top_->trace(trace_file_.get(), 99);
      trace_file_->open(trace_path);
    }
#else
    (void)trace_path;
#endif
  }

  ~Model() {
#if DITTO_TRACE_VCD || DITTO_TRACE_FST
    if (trace_file_) trace_file_->close();
#endif
    top_->final();
    Verilated::threadContextp(Verilated::defaultContextp());  // it pointed to ours
  }

  // What `act` returns, or, negative, the status of what ended it; `message()` tells more.
  template <typename Act>
  int64_t guarded(Act act) {
    try {
      return act();
    } catch (const RtlStopped& stopped) {
      message_ = stopped.what;
      return -kModelAssertion;
    } catch (const RtlBroken& broken) {
      message_ = broken.what;
      return -kModelProtocol;
    }
  }

  // The same of what itself returns a status.
  template <typename Act>
  int32_t status_of(Act act) {
    return std::abs(guarded(act));
  }

  // A reset: what it finds wrong is told by whatever is asked for next.
  template <typename Act>
  void guarded_reset(Act act) {
    fault_.clear();
    message_.clear();
    if (guarded(act) < 0) fault_ = message_, message_.clear();
  }

  void expect_no_fault() const {
    if (!fault_.empty()) throw RtlBroken{fault_};
  }

  // What follows from the inputs; a waveform shows them from here on, half a cycle before the edge that sees them.
  void settle() {
#if DITTO_DIRECT_EVAL
    ports_->__VicoTriggered[0] = 1;
    Vtile___024root___eval_ico(ports_);
#else
    top_->clk_i = 0;
    top_->eval();
    dump();
#endif
  }

  // The rising edge, the one event these designs know, as the model's eval() has it: the registers and what follows from them.
  // Around this and `settle` eval() looks for events in loops, a sixth of a cycle's cost. `kSteady` promises the compiler an
  // edge in the middle of a pass: no reset, no start, no weights.
  template <bool kSteady>
  void rise() {
#if DITTO_DIRECT_EVAL
    if (kSteady && (!ports_->rst_ni || ports_->start_i || ports_->weight_valid_i)) __builtin_unreachable();
    ports_->__VnbaTriggered[0] = 1;
    Vtile___024root___eval_nba(ports_);
    ports_->__VnbaTriggered[0] = 0;
#else
    top_->clk_i = 1;
    top_->eval();
    dump();
#endif
  }

  // A clock cycle.
  template <bool kSteady>
  void edge() {
    settle();
    rise<kSteady>();
  }

  [[gnu::noinline]] void tick() { edge<false>(); }

  // A cycle whose inputs `stir` has set: as `eval()` has it, or as `edge` has it.
  void clock(bool documented) {
    if (documented) {
      top_->clk_i = 0;
      top_->eval();
      top_->clk_i = 1;
      top_->eval();
    } else if (ports_->rst_ni && !ports_->start_i && !ports_->weight_valid_i) {
      edge<true>();
    } else {
      edge<false>();
    }
  }

  // A hash of ports, for comparing two models.
  template <typename... Port>
  static uint64_t hash_of(const Port&... ports) {
    uint64_t hash = 1469598103934665603u;
    auto mix = [&](const void* data, uint64_t bytes) {
      for (uint64_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 1099511628211u;
    };
    (mix(&ports, sizeof ports), ...);
    return hash;
  }

  std::unique_ptr<VerilatedContext> context_;
  std::unique_ptr<Vtile> top_;
  Vtile___024root* ports_;  // the same ports without a reference in between
  std::string message_;
  std::string fault_;  // what was wrong with the last reset
  Dice dice_;

 private:
  static VerilatedContext* make_context(uint32_t state_seed) {
    auto* context = new VerilatedContext;
#if DITTO_RANDOM_STATE
    context->randReset(2);
    context->randSeed(static_cast<int>(state_seed & 0x7fffffff) | 1);
#else
    (void)state_seed;
#endif
#if DITTO_MUTANTS
    const std::string chosen = "+mutant=" + std::to_string(mutant);
    const char* arguments[] = {"tile", chosen.c_str()};
    context->commandArgs(2, arguments);
#endif
    return context;
  }

  void dump() {
#if DITTO_TRACE_VCD || DITTO_TRACE_FST
    if (trace_file_) trace_file_->dump(time_);
    time_ += 5;
#endif
  }

#if DITTO_TRACE_VCD || DITTO_TRACE_FST
  std::unique_ptr<TraceFile> trace_file_;
  uint64_t time_ = 0;
#endif
};

// 1 if so many cycles of random inputs leave two models equal, of which one is clocked with its documented eval().
template <typename Driver>
int32_t self_test(int32_t cycles) {
  Driver documented(nullptr, 1), direct(nullptr, 1);
  for (int32_t cycle = 0; cycle < cycles; ++cycle) {
    documented.stir(0x9E3779B97F4A7C15u * (cycle + 1), true);
    direct.stir(0x9E3779B97F4A7C15u * (cycle + 1), false);
    if (documented.fingerprint() != direct.fingerprint()) return 0;
  }
  return 1;
}

// Copies at most `capacity` of what there is, and says how much that would be.
template <typename Source, typename Target>
uint64_t copy_out(const Source& source, Target* into, uint64_t capacity) {
  std::copy_n(source.begin(), std::min<uint64_t>(capacity, source.size()), into);
  return source.size();
}

}  // namespace
