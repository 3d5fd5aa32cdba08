// SPDX-License-Identifier: Apache-2.0
// Drives one of SQ-DM's Verilated arrays at full speed: it is the address generator that feeds an array only its channels.
//
// A cycle here: ports are set, what follows from them settles, the handshakes of this cycle are noted, the clock rises. A row is
// gathered once, element by element, into the beats of its segments; the dense array gets them once for every column block.
// The library is one translation unit with the generated model and is compiled for one geometry.
// What it does not do: choose channels (array.py), look at a value.

#include "array_driver.h"

#include "driver_common.h"

#if DITTO_DIRECT_EVAL
void Vtile___024root___eval_ico(Vtile___024root* root);
void Vtile___024root___eval_nba(Vtile___024root* root);
#endif

namespace {

constexpr bool kSparse = DITTO_SPARSE;
constexpr int64_t kColumns = DITTO_COLUMNS;
constexpr int64_t kBeat = DITTO_BEAT;
constexpr int64_t kBlock = DITTO_BLOCK_SIZE;

class Array {
 public:
  Array(const char* trace_path, uint32_t state_seed)
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
    reset();
  }

  ~Array() {
#if DITTO_TRACE_VCD || DITTO_TRACE_FST
    if (trace_file_) trace_file_->close();
#endif
    top_->final();
    Verilated::threadContextp(Verilated::defaultContextp());  // it pointed to ours
  }

  static inline int32_t mutant = 0;  // which of a mutation build's mistakes the models opened from now on make

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
    const char* arguments[] = {"array", chosen.c_str()};
    context->commandArgs(2, arguments);
#endif
    return context;
  }

  void attack(uint64_t seed) { dice_.seed(seed); }

  // Two cycles of reset, or one to three of an attacked one; the array must then be silent (checked builds).
  void reset() {
    message_.clear();
    fault_.clear();
    try {
      drive_reset();
    } catch (const RtlStopped& stopped) {
      fault_ = stopped.what;
    } catch (const RtlBroken& broken) {
      fault_ = broken.what;
    }
  }

  int64_t load(const ArrayWeights& weights, const ArrayLayout& layout) {
    try {
      if (!fault_.empty()) throw RtlBroken{fault_};
      return load_all(weights, layout);
    } catch (const RtlStopped& stopped) {
      message_ = stopped.what;
      return -kArrayAssertion;
    } catch (const RtlBroken& broken) {
      message_ = broken.what;
      return -kArrayProtocol;
    }
  }

  int32_t run(ArrayPass& pass) {
    try {
      if (kChecked && !fault_.empty()) throw RtlBroken{fault_};
      lay_out(pass.layout);
      return pass.pattern_cycles || pass.record || kChecked ? run_as<true>(pass) : run_as<false>(pass);
    } catch (const RtlStopped& stopped) {
      message_ = stopped.what;
      return kArrayAssertion;
    } catch (const RtlBroken& broken) {
      message_ = broken.what;
      return kArrayProtocol;
    }
  }

  int32_t run_product(ArrayProduct& product) {
    const int64_t rows = product.whole.rows;
    std::vector<uint32_t> times(2 * rows);
    for (int64_t chunk = 0; chunk < product.chunk_count; ++chunk) {
      ArrayPass pass = product.whole;
      const int64_t first = product.chunks[chunk];
      pass.layout.segments = product.chunks[chunk + 1] - first;
      pass.layout.counts += first;
      pass.layout.places += first * kBlock;
      pass.layout.blocks += first;
      pass.adds = product.whole.adds || chunk > 0;
      const int64_t loaded = load(product.weights, pass.layout);
      if (loaded < 0) return -loaded;
      product.loaded[chunk] = loaded;
      for (int64_t i = 0; i < product.range_count; ++i) {
        const int64_t at = product.edges[i];
        pass.rows = product.edges[i + 1] - at;
        pass.codes = product.whole.codes + at * pass.codes_stride;
        pass.scales = product.whole.scales + at * pass.scales_stride;
        pass.accumulators = product.whole.accumulators + at * pass.accumulators_stride;
        pass.enc_done = times.data() + at;
        pass.done = times.data() + rows + at;
        pass.nonzero = product.nonzero + chunk * rows + at;
        const int32_t status = run(pass);
        if (status != kArrayOk) return status;
        product.cycles[chunk * product.range_count + i] = pass.cycles;
      }
    }
    return kArrayOk;
  }

  // Every port that a driver reads, for comparing two models.
  uint64_t fingerprint() const {
    uint64_t hash = 1469598103934665603u;
    auto port = [&](const auto& value) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
      for (uint64_t i = 0; i < sizeof value; ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
    };
    port(ports_->busy_o), port(ports_->cycle_o), port(ports_->weight_ready_o), port(ports_->operand_ready_o);
    port(ports_->result_valid_o), port(ports_->result_o), port(ports_->result_row_o), port(ports_->result_block_o);
    port(ports_->result_last_o), port(ports_->done_o), port(ports_->busy_cycles_o), port(ports_->starved_cycles_o);
    port(ports_->stalled_cycles_o);
#if DITTO_SPARSE
    port(ports_->enc_done_o), port(ports_->nonzero_o);
#endif
    return hash;
  }

  // One cycle of random inputs, small passes among them; as `eval()` has it or as `rise()` has it.
  void stir(uint64_t seed, bool documented) {
    Dice dice;
    dice.seed(seed);
    ports_->rst_ni = dice.below(100) != 0;
    ports_->start_i = dice.below(6) == 0;
    ports_->signed_i = dice.below(2);
    ports_->rows_i = 1 + dice.below(5);
    ports_->segments_i = 1 + dice.below(2);
    ports_->blocks_i = 1;
    ports_->weight_valid_i = dice.below(3) == 0;
    ports_->weight_scale_i = dice.below(3) == 0;
    ports_->weight_block_i = 0;
    ports_->weight_k_i = dice.below(2 * kBlock);
    for (int64_t c = 0; c < kColumns; ++c) ports_->weight_i[c] = dice.next();
    ports_->operand_valid_i = dice.below(4) != 0;
    ports_->result_ready_i = dice.below(4) != 0;
    for (int64_t e = 0; e < kBeat; ++e) ports_->code_i[e] = dice.below(2) ? 0 : dice.below(16);
    ports_->last_i = dice.below(2);
    ports_->scale_i = dice.below(127);
    if (documented) {
      top_->clk_i = 0;
      top_->eval();
      top_->clk_i = 1;
      top_->eval();
    } else if (ports_->rst_ni && !ports_->start_i && !ports_->weight_valid_i) {
      settle();
      rise<true>();
    } else {
      settle();
      rise<false>();
    }
  }

  uint64_t trace(uint8_t* into, uint64_t capacity) const {
    std::copy_n(port_trace_.begin(), std::min<uint64_t>(capacity, port_trace_.size()), into);
    return port_trace_.size();
  }

  void write_coverage(const char* path) {
#if DITTO_COVERAGE
    context_->coveragep()->write(path);
#else
    (void)path;
#endif
  }

  const char* message() const { return message_.c_str(); }

  std::string state() const {
    std::string text;
    auto line = [&](const char* name, uint64_t value) { text += std::string(name) + " " + std::to_string(value) + "\n"; };
    line("busy_o", ports_->busy_o);
    line("cycle_o", ports_->cycle_o);
    line("rows_i", ports_->rows_i);
    line("segments_i", ports_->segments_i);
    line("blocks_i", ports_->blocks_i);
    line("weight_valid_i", ports_->weight_valid_i);
    line("weight_ready_o", ports_->weight_ready_o);
    line("operand_row", row_);
    line("operand_beat", beat_);
    line("operand_valid_i", ports_->operand_valid_i);
    line("operand_ready_o", ports_->operand_ready_o);
    line("result_valid_o", ports_->result_valid_o);
    line("result_ready_i", ports_->result_ready_i);
    line("result_row_o", ports_->result_row_o);
    line("result_block_o", ports_->result_block_o);
    line("busy_cycles_o", ports_->busy_cycles_o);
    line("starved_cycles_o", ports_->starved_cycles_o);
    line("stalled_cycles_o", ports_->stalled_cycles_o);
    return text;
  }

 private:
  void drive_reset() {
    top_->clk_i = 0;
    ports_->rst_ni = 0;
    ports_->start_i = 0;
    ports_->weight_valid_i = 0;
    ports_->operand_valid_i = 0;
    ports_->result_ready_i = 0;
    top_->eval();
    const uint64_t cycles = dice_.attacks() ? 1 + dice_.below(3) : 2;
    for (uint64_t cycle = 0; cycle < cycles; ++cycle) {
      if (dice_.attacks()) {  // whatever is asked for in reset is not heard
        disturb();
        ports_->start_i = dice_.chance(2);
        ports_->operand_valid_i = dice_.chance(2);
      }
      tick();
    }
    ports_->start_i = 0;
    ports_->operand_valid_i = 0;
    if (kChecked) expect_silence("out of reset");
    ports_->rst_ni = 1;
    // An attacked array may be asked to start in the very first cycle out of a reset.
    const uint64_t quiet = !kChecked ? 1 : dice_.attacks() ? dice_.below(7) : 6;
    for (uint64_t cycle = 0; cycle < quiet; ++cycle) {
      if (dice_.attacks()) disturb();
      tick();
      if (kChecked) expect_silence("after a reset");
    }
  }

  // Everything that the array must not look at: payloads without their valid, the pass's ports without a start that is heard.
  void disturb() {
    ports_->signed_i = dice_.chance(2);
    ports_->rows_i = dice_.below(1 << 24);
    ports_->segments_i = dice_.below(1 << 7);
    ports_->blocks_i = dice_.below(1 << 12);
    ports_->start_i = ports_->busy_o && dice_.chance(2);
    ports_->weight_valid_i = ports_->rst_ni && !ports_->weight_ready_o && dice_.chance(2);
    ports_->weight_scale_i = dice_.chance(2);
    ports_->weight_block_i = dice_.below(1 << 12);
    ports_->weight_k_i = dice_.below(1 << 11);
    for (int64_t c = 0; c < kColumns; ++c) ports_->weight_i[c] = dice_.next();
    if (!ports_->result_valid_o) ports_->result_ready_i = dice_.chance(2);
    if (ports_->operand_valid_i) return;
    for (int64_t e = 0; e < kBeat; ++e) ports_->code_i[e] = dice_.below(16);
    ports_->last_i = dice_.chance(2);
    ports_->scale_i = dice_.below(1 << 8);
  }

  void expect_silence(const char* when) const {
    const char* loud = ports_->busy_o            ? "busy_o"
                       : !ports_->weight_ready_o ? "weight_ready_o"
                       : ports_->result_valid_o  ? "result_valid_o"
                       : ports_->operand_ready_o ? "operand_ready_o"
                                                 : nullptr;
    if (loud) throw RtlBroken{std::string(loud) + " is wrong " + when};
  }

  void dump() {
#if DITTO_TRACE_VCD || DITTO_TRACE_FST
    if (trace_file_) trace_file_->dump(time_);
    time_ += 5;
#endif
  }

  [[gnu::noinline]] void tick() {
    settle();
    rise<false>();
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

  // The edge. `kSteady` promises the compiler one in the middle of a pass: no reset, no start, no weights.
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

  ////////////////////////////////////////////////////
  // Weights                                        //
  ////////////////////////////////////////////////////

  int64_t load_all(const ArrayWeights& weights, const ArrayLayout& layout) {
    int64_t cycles = 0;
    for (int64_t column = 0; column < weights.n; column += kColumns) {
      const int64_t width = std::min(kColumns, weights.n - column);
      for (int64_t s = 0; s < layout.segments; ++s) {
        const bool scales_first = s & 1;  // either order is as good
        if (scales_first) write_scales(weights, layout, s, column, width);
        write_weights(weights, layout, s, column, width);
        if (!scales_first) write_scales(weights, layout, s, column, width);
        cycles += (layout.counts[s] + 1) / 2 + 1;
      }
    }
    ports_->weight_valid_i = 0;
    return cycles;
  }

  void write_weights(const ArrayWeights& weights, const ArrayLayout& layout, int64_t s, int64_t column, int64_t width) {
    const int32_t* places = layout.places + s * kBlock;
    for (int64_t i = 0; i < layout.counts[s]; i += 2) {
      const int8_t* low = weights.codes + places[i] * weights.codes_stride + column;
      const bool pair = i + 1 < layout.counts[s];
      const int8_t* high = pair ? weights.codes + places[i + 1] * weights.codes_stride + column : nullptr;
      wait_a_little();
      for (int64_t c = 0; c < width; ++c) ports_->weight_i[c] = (low[c] & 15) | (pair ? (high[c] & 15) << 4 : 0);
      write_row(column / kColumns, s * kBlock + i, width, false);
    }
  }

  void write_scales(const ArrayWeights& weights, const ArrayLayout& layout, int64_t s, int64_t column, int64_t width) {
    wait_a_little();
    std::memcpy(&ports_->weight_i[0], weights.scales + layout.blocks[s] * weights.scales_stride + column, width);
    write_row(column / kColumns, s * kBlock, width, true);
  }

  void wait_a_little() {
    while (dice_.attacks() && dice_.chance(4)) {
      disturb();
      tick();
    }
    if (dice_.attacks()) disturb();
  }

  void write_row(int64_t block, int64_t k, int64_t width, bool scales) {
    for (int64_t c = width; c < kColumns; ++c) ports_->weight_i[c] = 0;
    ports_->weight_valid_i = 1;
    ports_->weight_scale_i = scales;
    ports_->weight_block_i = block;
    ports_->weight_k_i = k;
    if (kChecked && !ports_->weight_ready_o) throw RtlBroken{"weights are refused while no pass runs"};
    tick();
    ports_->weight_valid_i = 0;
  }

  ////////////////////////////////////////////////////
  // Operands                                       //
  ////////////////////////////////////////////////////

  // Where every place of every beat of a row comes from.
  void lay_out(const ArrayLayout& layout) {
    source_.clear();
    keep_.clear();
    block_.clear();
    for (int64_t s = 0; s < layout.segments; ++s) {
      const int64_t beats = (layout.counts[s] + kBeat - 1) / kBeat;
      for (int64_t i = 0; i < beats * kBeat; ++i) {
        const bool filled = i < layout.counts[s];
        source_.push_back(filled ? layout.places[s * kBlock + i] : 0);
        keep_.push_back(filled ? 15 : 0);
      }
      for (int64_t b = 0; b < beats; ++b) block_.push_back(b + 1 == beats ? layout.blocks[s] : -1);
    }
    line_.resize(source_.size());
    count_.assign(source_.size(), 0);
    beats_ = block_.size();
  }

  void gather(const ArrayPass& pass) {
    const uint8_t* row = pass.codes + row_ * pass.codes_stride;
    const int64_t places = source_.size();
    for (int64_t i = 0; i < places; ++i) line_[i] = row[source_[i]] & keep_[i];
    for (int64_t i = 0; i < places; ++i) count_[i] += line_[i] != 0;
  }

  void put_beat(const ArrayPass& pass) {
    std::memcpy(&ports_->code_i[0], line_.data() + beat_ * kBeat, kBeat);
    const int32_t block = block_[beat_];
    ports_->last_i = block >= 0;
    ports_->scale_i = block >= 0 ? pass.scales[row_ * pass.scales_stride + block] : dice_.attacks() ? dice_.below(256) : 0;
  }

  // The beat was taken: moves to the next one; false when the rows are over.
  bool next_beat(const ArrayPass& pass) {
    if (++beat_ < beats_) return true;
    beat_ = 0;
    if (!kSparse && ++column_block_ < column_blocks_) return true;
    column_block_ = 0;
    if (++row_ == pass.rows) return false;
    gather(pass);
    return true;
  }

  void take_result(const ArrayPass& pass) {
    const int64_t row = ports_->result_row_o, block = ports_->result_block_o;
    const bool last = result_block_ + 1 == column_blocks_;
    if (row != result_row_ || row >= pass.rows || block != result_block_ || ports_->result_last_o != last) {
      throw RtlBroken{"row " + std::to_string(row) + ", block " + std::to_string(block) + " came where row " +
                      std::to_string(result_row_) + ", block " + std::to_string(result_block_) + " was due"};
    }
    const int64_t column = block * kColumns;
    const int64_t width = std::min(kColumns, pass.n - column);
    int64_t* target = pass.accumulators + row * pass.accumulators_stride + column;
    const auto* result = reinterpret_cast<const uint64_t*>(&ports_->result_o[0]);
    const int64_t before = pass.adds ? -1 : 0;
    for (int64_t c = 0; c < width; ++c) {
      target[c] = (target[c] & before) + (static_cast<int64_t>(result[c] << 8) >> 8);  // 56 bits with a sign
    }
    if (last) {
      pass.done[row] = ports_->done_o;
#if DITTO_SPARSE
      pass.enc_done[row] = ports_->enc_done_o;
      pass.nonzero[row] = ports_->nonzero_o;
#endif
    }
    result_block_ = last ? 0 : result_block_ + 1;
    result_row_ += last;
  }

  ////////////////////////////////////////////////////
  // Pass                                           //
  ////////////////////////////////////////////////////

  void begin(const ArrayPass& pass) {
    if (dice_.attacks()) {
      for (uint64_t cycle = dice_.below(4); cycle > 0; --cycle) {
        disturb();
        tick();
        expect_silence("between passes");
      }
      if (dice_.chance(3)) {  // a pass of no rows is over after one cycle
        disturb();
        ports_->start_i = 1;
        ports_->rows_i = 0;
        tick();
        ports_->start_i = 0;
        if (!ports_->busy_o || ports_->cycle_o != 0) throw RtlBroken{"a start without rows was not heard"};
        disturb();
        ports_->start_i = 0;
        tick();
        expect_silence("after a pass of no rows");
      }
      disturb();
      ports_->weight_valid_i = 0;
    }
    ports_->start_i = 1;
    ports_->signed_i = pass.is_signed;
    ports_->rows_i = pass.rows;
    ports_->segments_i = pass.layout.segments;
    ports_->blocks_i = column_blocks_ = (pass.n + kColumns - 1) / kColumns;
    ports_->operand_valid_i = 0;
    ports_->result_ready_i = 1;
    row_ = beat_ = column_block_ = result_row_ = result_block_ = 0;
    tick();
    ports_->start_i = 0;
    if (kChecked && (!ports_->busy_o || ports_->cycle_o != 0)) throw RtlBroken{"a start was not heard, or cycle_o is not 0"};
  }

  // The reset that cuts a pass off.
  int32_t cut(ArrayPass& pass) {
    drive_reset();
    pass.cycles = 0;
    return kArrayReset;
  }

  template <bool kPatterns>
  int32_t run_as(ArrayPass& pass) {
    const bool patterns = kPatterns && pass.pattern_cycles;
    begin(pass);
    if (kPatterns) port_trace_.clear();
    bool more = pass.rows > 0;
    gather(pass);
    put_beat(pass);
    ports_->operand_valid_i = !patterns;
    uint64_t idle = 0;
    for (uint64_t cycle = 0; ports_->busy_o; ++cycle) {
      if (kPatterns && kChecked) {
        if (pass.reset_cycle && cycle + 1 == pass.reset_cycle) return cut(pass);
        if (ports_->cycle_o != cycle) {
          throw RtlBroken{"cycle_o is " + std::to_string(ports_->cycle_o) + " in cycle " + std::to_string(cycle)};
        }
        if (ports_->weight_ready_o) throw RtlBroken{"weight_ready_o is high in a pass"};
        if (dice_.attacks()) disturb();
        if (ports_->result_valid_o && !patterns) ports_->result_ready_i = 1;
      }
      if (patterns) {
        const int64_t at = cycle % pass.pattern_cycles;
        if (more && pass.offer[at] && !ports_->operand_valid_i) {
          put_beat(pass);  // where garbage may have stood
          ports_->operand_valid_i = 1;  // and stays, until taken
        }
        ports_->result_ready_i = pass.accept[at];
      }
      if (kPatterns) settle();
      if (kPatterns && !more && ports_->operand_ready_o) throw RtlBroken{"a row is asked for after the last one"};
      const bool taken = ports_->operand_valid_i && ports_->operand_ready_o;
      const bool given = ports_->result_valid_o && ports_->result_ready_i;
      if (given) take_result(pass);
      if (kPatterns && pass.record) {
        port_trace_.push_back(ports_->operand_valid_i | ports_->operand_ready_o << 1 | ports_->result_valid_o << 2 |
                              ports_->result_ready_i << 3);
      }
      if (!kPatterns) settle();
      rise<true>();
      if (taken) {
        more = next_beat(pass);
        if (more) put_beat(pass);
        ports_->operand_valid_i = more && !patterns;
      }
      idle = taken || given ? 0 : idle + 1;
      if (idle > pass.watchdog_idle_cycles) return kArrayStuck;
    }
    if (kChecked) ports_->start_i = ports_->weight_valid_i = 0;
    if (kPatterns && kChecked && pass.reset_cycle) return cut(pass);
    if (result_row_ < pass.rows) throw RtlBroken{"the pass ended before row " + std::to_string(result_row_) + " was given"};
    const int64_t places = source_.size();
    for (int64_t i = 0; i < places; ++i) pass.met[source_[i]] += count_[i];
    pass.cycles = ports_->cycle_o;
    pass.counters[0] = ports_->busy_cycles_o;
    pass.counters[1] = ports_->starved_cycles_o;
    pass.counters[2] = ports_->stalled_cycles_o;
    return kArrayOk;
  }

  std::unique_ptr<VerilatedContext> context_;
  std::unique_ptr<Vtile> top_;
  Vtile___024root* ports_;  // the same ports without a reference in between
#if DITTO_TRACE_VCD || DITTO_TRACE_FST
  std::unique_ptr<TraceFile> trace_file_;
  uint64_t time_ = 0;
#endif
  std::vector<int32_t> source_;  // element of each place of a row's beats
  std::vector<uint8_t> keep_;    // 15 where there is one, 0 where a beat is filled up
  std::vector<int32_t> block_;   // per beat: the row's scale, if the beat ends its segment; else -1
  std::vector<uint8_t> line_;    // the row in flight
  std::vector<int64_t> count_;   // codes other than 0 of each place, over the pass
  int64_t beats_ = 0, column_blocks_ = 0;
  int64_t row_ = 0, beat_ = 0, column_block_ = 0;
  int64_t result_row_ = 0, result_block_ = 0;  // the result expected next
  std::vector<uint8_t> port_trace_;
  std::string message_;
  std::string fault_;  // what was wrong with the last reset
  Dice dice_;
};

Array* as_array(void* array) { return static_cast<Array*>(array); }

}  // namespace

extern "C" {

DITTO_API int32_t array_abi() { return DITTO_ABI; }
DITTO_API void* array_open(const char* trace_path, uint32_t state_seed) { return new Array(trace_path, state_seed); }
DITTO_API int32_t ditto_self_test(int32_t cycles) {
  Array documented(nullptr, 1), direct(nullptr, 1);
  for (int32_t cycle = 0; cycle < cycles; ++cycle) {
    documented.stir(0x9E3779B97F4A7C15u * (cycle + 1), true);
    direct.stir(0x9E3779B97F4A7C15u * (cycle + 1), false);
    if (documented.fingerprint() != direct.fingerprint()) return 0;
  }
  return 1;
}
DITTO_API void array_mutant(int32_t number) { Array::mutant = number; }
DITTO_API void array_close(void* array) { delete as_array(array); }
DITTO_API void array_reset(void* array) { as_array(array)->reset(); }
DITTO_API void array_attack(void* array, uint64_t seed) { as_array(array)->attack(seed); }
DITTO_API int64_t array_load(void* array, const ArrayWeights* weights, const ArrayLayout* layout) {
  return as_array(array)->load(*weights, *layout);
}
DITTO_API int32_t array_run(void* array, ArrayPass* pass) { return as_array(array)->run(*pass); }
DITTO_API int32_t array_run_product(void* array, ArrayProduct* product) { return as_array(array)->run_product(*product); }
DITTO_API uint64_t array_trace(void* array, uint8_t* into, uint64_t capacity) {
  return as_array(array)->trace(into, capacity);
}
DITTO_API uint64_t array_state(void* array, char* into, uint64_t capacity) {
  const std::string text = as_array(array)->state();
  std::copy_n(text.begin(), std::min<uint64_t>(capacity, text.size()), into);
  return text.size();
}
DITTO_API const char* array_message(void* array) { return as_array(array)->message(); }
DITTO_API void array_write_coverage(void* array, const char* path) { as_array(array)->write_coverage(path); }

}  // extern "C"
