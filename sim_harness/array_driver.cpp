// SPDX-License-Identifier: Apache-2.0
// Drives one of SQ-DM's Verilated arrays at full speed: it is the address generator that feeds an array only its channels.
//
// A cycle here: ports are set, what follows from them settles, the handshakes of this cycle are noted, the clock rises. A row is
// gathered once, element by element, into the beats of its segments; the dense array gets them once for every column block.
// The library is one translation unit with the generated model and is compiled for one geometry.
// What it does not do: choose channels (array.py), look at a value.

#include "array_driver.h"

#include "driver_common.h"

#ifdef __BMI2__
#include <immintrin.h>
#endif

namespace {

constexpr bool kSparse = DITTO_SPARSE;
constexpr int64_t kColumns = DITTO_COLUMNS;
constexpr int64_t kBeat = DITTO_BEAT;
constexpr int64_t kBlock = DITTO_BLOCK_SIZE;

class Array : public Model {
 public:
  Array(const char* trace_path, uint32_t state_seed) : Model(trace_path, state_seed) { reset(); }

  // Two cycles of reset, or one to three of an attacked one; the array must then be silent (checked builds).
  void reset() {
    guarded_reset([&] { return drive_reset(dice_.attacks() ? 1 + dice_.below(3) : 2), 0; });
  }

  int64_t load(const ArrayWeights& weights, const ArrayLayout& layout) {
    return guarded([&] {
      expect_no_fault();
      lay_out(layout);
      return load_all(weights);
    });
  }

  int32_t run(ArrayPass& pass) {
    lay_out(pass.layout);
    const int32_t status = run_laid_out(pass);
    count_met(pass.met);
    return status;
  }

  int32_t run_product(ArrayProduct& product) {
    const int64_t rows = product.whole.rows;
    std::vector<uint32_t> times(2 * rows);
    for (int64_t chunk = 0; chunk < product.chunk_count; ++chunk) {
      ArrayPass pass = product.whole;
      const int64_t first = product.chunks[chunk];
      pass.layout.segments = product.chunks[chunk + 1] - first;
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
        const int32_t status = run_laid_out(pass);
        if (status != kArrayOk) return status;
        product.cycles[chunk * product.range_count + i] = pass.cycles;
      }
      count_met(product.whole.met);
    }
    return kArrayOk;
  }

  // Every port that a driver reads, for comparing two models.
  uint64_t fingerprint() const {
    const uint64_t hash =
        hash_of(ports_->busy_o, ports_->cycle_o, ports_->weight_ready_o, ports_->operand_ready_o, ports_->result_valid_o,
                ports_->result_o, ports_->result_row_o, ports_->result_block_o, ports_->result_last_o, ports_->done_o,
                ports_->busy_cycles_o, ports_->starved_cycles_o, ports_->stalled_cycles_o);
#if DITTO_SPARSE
    return hash ^ hash_of(ports_->enc_done_o, ports_->nonzero_o);
#else
    return hash;
#endif
  }

  // One cycle of random inputs, small passes among them.
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
    clock(documented);
  }

  uint64_t trace(uint8_t* into, uint64_t capacity) const {
    return copy_out(port_trace_, into, capacity);
  }

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
  int32_t run_laid_out(ArrayPass& pass) {
    return status_of([&] {
      expect_no_fault();
      return pass.pattern_cycles || pass.record || kChecked ? run_as<true>(pass) : run_as<false>(pass);
    });
  }

  void drive_reset(uint64_t cycles) {
    top_->clk_i = 0;
    ports_->rst_ni = 0;
    ports_->start_i = 0;
    ports_->weight_valid_i = 0;
    ports_->operand_valid_i = 0;
    ports_->result_ready_i = 0;
    top_->eval();
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

  ////////////////////////////////////////////////////
  // Weights                                        //
  ////////////////////////////////////////////////////

  int64_t load_all(const ArrayWeights& weights) {
    int64_t cycles = 0;
    for (int64_t column = 0; column < weights.n; column += kColumns) {
      const int64_t width = std::min(kColumns, weights.n - column);
      for (uint64_t s = 0; s < segments_.size(); ++s) {
        const bool scales_first = s & 1;  // either order is as good
        if (scales_first) write_scales(weights, s, column, width);
        write_weights(weights, s, column, width);
        if (!scales_first) write_scales(weights, s, column, width);
        cycles += (segments_[s].count + 1) / 2 + 1;
      }
    }
    ports_->weight_valid_i = 0;
    return cycles;
  }

  void write_weights(const ArrayWeights& weights, int64_t s, int64_t column, int64_t width) {
    const Segment& segment = segments_[s];
    const int32_t* elements = source_.data() + segment.place;
    for (int64_t i = 0; i < segment.count; i += 2) {
      const int8_t* low = weights.codes + elements[i] * weights.codes_stride + column;
      const bool pair = i + 1 < segment.count;
      const int8_t* high = pair ? weights.codes + elements[i + 1] * weights.codes_stride + column : nullptr;
      wait_a_little();
      for (int64_t c = 0; c < width; ++c) ports_->weight_i[c] = (low[c] & 15) | (pair ? (high[c] & 15) << 4 : 0);
      write_row(column / kColumns, s * kBlock + i, width, false);
    }
  }

  void write_scales(const ArrayWeights& weights, int64_t s, int64_t column, int64_t width) {
    wait_a_little();
    std::memcpy(&ports_->weight_i[0], weights.scales + segments_[s].block * weights.scales_stride + column, width);
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

  // Where every place of every beat of a row comes from. Of eight neighbouring elements a segment keeps some; they become
  // neighbours, and what is written behind them is zero, as the end of a segment's last beat is.
  void lay_out(const ArrayLayout& layout) {
    words_.clear();
    source_.clear();
    segments_.clear();
    ends_.clear();
    for (int64_t s = 0; s < layout.segments; ++s) {
      const int32_t block = layout.blocks[s], place = source_.size();
      for (int32_t first = block * kBlock; first < (block + 1) * kBlock; first += 8) {
        uint64_t wanted;
        std::memcpy(&wanted, layout.wanted + first, sizeof wanted);
        if (!wanted) continue;
        words_.push_back({first, static_cast<int32_t>(source_.size()), wanted * 255});
        for (int32_t i = 0; i < 8; ++i) {
          if (layout.wanted[first + i]) source_.push_back(first + i);
        }
      }
      const int32_t count = source_.size() - place, beats = (count + kBeat - 1) / kBeat;
      segments_.push_back({block, place, count});
      source_.resize(place + beats * kBeat, 0);
      ends_.resize(ends_.size() + beats, -1);
      ends_.back() = block;
    }
    line_.assign(source_.size() + 8, 0);
    count_.assign(source_.size(), 0);
    beats_ = ends_.size();
    rows_counted_ = 0;
  }

  // The bytes of eight elements that `keep` names, side by side from the lowest on.
  static uint64_t compacted(uint64_t elements, uint64_t keep) {
#ifdef __BMI2__
    return _pext_u64(elements, keep);
#else
    uint64_t kept = 0;
    for (int64_t from = 0, to = 0; from < 64; from += 8) {
      if (keep >> from & 1) kept |= (elements >> from & 255) << to, to += 8;
    }
    return kept;
#endif
  }

  void gather(const ArrayPass& pass) {
    const uint8_t* row = pass.codes + row_ * pass.codes_stride;
    for (const Word& word : words_) {
      uint64_t elements;
      std::memcpy(&elements, row + word.first, sizeof elements);
      elements = compacted(elements, word.keep) & 0x0f0f0f0f0f0f0f0f;
      std::memcpy(line_.data() + word.place, &elements, sizeof elements);
    }
    if (rows_counted_ == 255) count_met(pass.met);
    ++rows_counted_;
    const int64_t places = source_.size();
    const uint8_t* __restrict line = line_.data();
    uint8_t* __restrict count = count_.data();
    for (int64_t i = 0; i < places; ++i) count[i] += line[i] != 0;
  }

  // Codes other than 0 since the last time, to their elements.
  void count_met(int64_t* met) {
    const int64_t places = source_.size();
    for (int64_t i = 0; i < places; ++i) met[source_[i]] += count_[i];
    std::fill(count_.begin(), count_.end(), 0);
    rows_counted_ = 0;
  }

  void put_beat(const ArrayPass& pass) {
    std::memcpy(&ports_->code_i[0], line_.data() + beat_ * kBeat, kBeat);
    const int32_t block = ends_[beat_];
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

  // The reset that cuts a pass off: one cycle, which must be enough whatever is on its way.
  int32_t cut(ArrayPass& pass) {
    drive_reset(1);
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
    pass.cycles = ports_->cycle_o;
    pass.counters[0] = ports_->busy_cycles_o;
    pass.counters[1] = ports_->starved_cycles_o;
    pass.counters[2] = ports_->stalled_cycles_o;
    return kArrayOk;
  }

  struct Segment {
    int32_t block;  // of the row's scales
    int32_t place;  // in the row's beats, of its first element
    int32_t count;
  };
  struct Word {
    int32_t first, place;  // of eight elements; where in the row's beats those that are kept begin
    uint64_t keep;         // a byte of ones for each
  };
  std::vector<Segment> segments_;
  std::vector<Word> words_;
  std::vector<int32_t> source_;  // element of each place of a row's beats; 0 where one is filled up, and nothing counted
  std::vector<int32_t> ends_;    // per beat: the row's scale, if the beat ends its segment; else -1
  std::vector<uint8_t> line_;    // the row in flight
  std::vector<uint8_t> count_;   // codes other than 0 of each place, in the rows last counted
  int64_t rows_counted_ = 0;
  int64_t beats_ = 0, column_blocks_ = 0;
  int64_t row_ = 0, beat_ = 0, column_block_ = 0;
  int64_t result_row_ = 0, result_block_ = 0;  // the result expected next
  std::vector<uint8_t> port_trace_;
};

Array* as_array(void* array) { return static_cast<Array*>(array); }

}  // namespace

extern "C" {

DITTO_API int32_t array_abi() { return DITTO_ABI; }
DITTO_API void* array_open(const char* trace_path, uint32_t state_seed) { return new Array(trace_path, state_seed); }
DITTO_API int32_t ditto_self_test(int32_t cycles) {
  return self_test<Array>(cycles);
}
DITTO_API void array_mutant(int32_t number) { Model::mutant = number; }
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
  return copy_out(as_array(array)->state(), into, capacity);
}
DITTO_API const char* array_message(void* array) { return as_array(array)->message(); }
DITTO_API void array_write_coverage(void* array, const char* path) { as_array(array)->write_coverage(path); }

}  // extern "C"
