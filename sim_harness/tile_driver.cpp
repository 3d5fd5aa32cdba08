// SPDX-License-Identifier: Apache-2.0
// Drives one Verilated tile at full speed: whole matrices in, accumulators and per-row cycles out, no per-cycle Python.
//
// A cycle here: ports are set, handshakes of this cycle are noted, the clock rises and falls. Operands are offered beat by
// beat, E elements at a time, straight from the caller's rows; results are copied straight into the caller's rows.
// The library is one translation unit with the generated model and is compiled for one geometry.

#include "tile_driver.h"

#include "driver_common.h"

namespace {

constexpr int64_t kLanes = DITTO_LANES;
constexpr int64_t kColumns = DITTO_COLUMNS;
constexpr int64_t kBeat = DITTO_ENCODE_WIDTH;
constexpr int64_t kMost = DITTO_K_MAX;  // elements of a row
constexpr int64_t kBlocks = DITTO_BLOCKS;

struct Feed {  // where a lane's operand stream stands
  const int8_t* current;
  const int8_t* reference;
  int64_t row;
  int64_t k;
  int64_t result_row = 0;  // the result expected next
  int64_t result_block = 0;
};

// Weights on their way into the tile, a row of C at a time; columns past N are zero.
struct Load {
  const int8_t* weights;
  int64_t stride, k_count, n_count;
  int64_t block = 0, k = 0;
  bool over() const { return block * kColumns >= n_count; }
  void advance() {
    if (++k == k_count) k = 0, ++block;
  }
};

class Tile : public Model {
 public:
  Tile(const char* trace_path, uint32_t state_seed) : Model(trace_path, state_seed) { reset(); }

  // Two cycles of reset, or one to three of an attacked one; the tile must then be silent (checked builds).
  void reset() {
    swap_next_ = false;
    guarded_reset([&] { return drive_reset(), 0; });
  }

  void drive_reset() {
    top_->clk_i = 0;
    ports_->rst_ni = 0;
    ports_->start_i = 0;
    ports_->weight_valid_i = 0;
    for (int64_t l = 0; l < kLanes; ++l) ports_->operand_valid_i[l] = 0, ports_->result_ready_i[l] = 0;
    top_->eval();
    const uint64_t cycles = dice_.attacks() ? 1 + dice_.below(3) : 2;
    for (uint64_t cycle = 0; cycle < cycles; ++cycle) {
      if (dice_.attacks()) {  // whatever is asked for in reset is not heard
        disturb();
        ports_->start_i = dice_.chance(2);
        for (int64_t l = 0; l < kLanes; ++l) ports_->operand_valid_i[l] = dice_.chance(2);
      }
      tick();
    }
    ports_->start_i = 0;
    for (int64_t l = 0; l < kLanes; ++l) ports_->operand_valid_i[l] = 0;
    if (kChecked) expect_silence("out of reset");
    if (kChecked && ports_->refused_o) throw RtlBroken{"out of reset a start is told as refused"};
    ports_->rst_ni = 1;
    const uint64_t quiet = kChecked ? 6 : 1;
    for (uint64_t cycle = 0; cycle < quiet; ++cycle) {
      if (dice_.attacks()) disturb();
      tick();
      if (kChecked) expect_silence("after a reset");
    }
  }

  // Returns the cycles taken, or a negative status.
  int64_t load(const int8_t* weights, int64_t stride, int64_t k, int64_t n) {
    return guarded([&] {
      expect_no_fault();
      Load load{weights, stride, k, n};
      int64_t cycles = 0;
      for (; !load.over(); ++cycles) {
        while (dice_.attacks() && dice_.chance(4)) {
          disturb();
          tick();
        }
        if (dice_.attacks()) disturb();
        present(load);
        if (kChecked && !ports_->weight_ready_o) throw RtlBroken{"weights are refused while no pass runs"};
        tick();
        load.advance();
      }
      if (dice_.attacks() && dice_.chance(2)) {  // a row that has no place stays out
        disturb();
        ports_->weight_valid_i = 1;
        ports_->weight_block_i = dice_.below(kBlocks);
        ports_->weight_k_i = kMost;
        if (dice_.chance(2) && kBlocks < 4095) ports_->weight_block_i = kBlocks, ports_->weight_k_i = 0;
        tick();
      }
      ports_->weight_valid_i = 0;
      swap_next_ = DITTO_WEIGHT_BANKS > 1;
      return cycles;
    });
  }

  int32_t run(DittoPass& pass) {
    return status_of([&] {
      expect_no_fault();
      return run_any(pass);
    });
  }

  int32_t run_product(DittoProduct& product) {
    const int64_t rows = product.whole.rows;
    std::vector<uint32_t> times(2 * rows);
    std::vector<uint16_t> classes(3 * rows);
    std::fill_n(product.classes, 3 * rows, 0);
    int64_t first = 0;
    for (int64_t chunk = 0; chunk < product.chunk_count; ++chunk) {
      DittoPass pass = product.whole;
      pass.k = product.chunks[chunk];
      pass.adds = chunk > 0;
      const int64_t loaded = load(product.weights + first * product.weights_stride, product.weights_stride, pass.k, pass.n);
      if (loaded < 0) return -loaded;
      product.loaded[chunk] = loaded;
      for (int64_t i = 0; i < product.range_count; ++i) {
        const int64_t at = product.edges[i];
        pass.rows = product.edges[i + 1] - at;
        pass.current = product.whole.current + at * pass.current_stride + first;
        pass.reference = product.whole.reference + at * pass.reference_stride + first;
        pass.accumulators = product.whole.accumulators + at * pass.accumulators_stride;
        pass.enc_done = times.data() + at;
        pass.done = pass.enc_done + rows;
        pass.zero = classes.data() + at;
        pass.low = pass.zero + rows;
        pass.full = pass.low + rows;
        const int32_t status = run(pass);
        if (status != kDittoOk) return status;
        product.cycles[chunk * product.range_count + i] = pass.cycles;
      }
      for (int64_t i = 0; i < 3 * rows; ++i) product.classes[i] += classes[i];
      first += pass.k;
    }
    return kDittoOk;
  }

  int32_t run_gemm(DittoGemm& gemm) {
    std::vector<int32_t> dropped(3 * gemm.rows);
    std::vector<uint32_t> counters(3 * kLanes);
    for (;;) {
      const int64_t taken = __atomic_fetch_add(gemm.next, 1, __ATOMIC_RELAXED);
      if (taken >= gemm.share_count) return kDittoOk;
      const DittoShare& share = gemm.shares[taken];
      DittoProduct product = {};
      DittoPass& whole = product.whole;
      whole.rows = share.rows, whole.n = share.n;
      whole.current_stride = gemm.current_row, whole.reference_stride = gemm.reference_row;
      whole.accumulators_stride = gemm.accumulators_row;
      whole.watchdog_idle_cycles = gemm.watchdog_idle_cycles;
      whole.mode = gemm.mode;
      whole.counters = counters.data();
      whole.current = gemm.current + share.group * gemm.current_group + share.row * gemm.current_row + share.k;
      whole.reference = gemm.reference + share.group * gemm.reference_group + share.row * gemm.reference_row + share.k;
      whole.accumulators = gemm.accumulators + share.part * gemm.accumulators_part +
                           share.group * gemm.accumulators_group + share.row * gemm.accumulators_row + share.column;
      product.weights = gemm.weights + share.group * gemm.weights_group + share.k * gemm.weights_row + share.column;
      product.weights_stride = gemm.weights_row;
      product.chunks = gemm.chunks + share.chunk;
      product.chunk_count = share.chunk_count;
      product.edges = gemm.edges + share.edge;
      product.range_count = share.range_count;
      product.classes = dropped.data();
      product.cycles = gemm.cycles + share.cycles;
      product.loaded = gemm.loaded + share.loaded;
      const int32_t status = run_product(product);
      if (status != kDittoOk) {
        __atomic_store_n(gemm.next, gemm.share_count, __ATOMIC_RELAXED);
        return status;
      }
      for (int64_t kind = 0; kind < 3 && share.column == 0; ++kind) {  // other columns meet the same operands
        int32_t* target = gemm.classes + ((share.part * 3 + kind) * gemm.groups + share.group) * gemm.rows + share.row;
        std::copy_n(dropped.data() + kind * share.rows, share.rows, target);
      }
    }
  }

  int32_t run_any(DittoPass& pass) {
    if (pass.next_weights) return run_as<true, true>(pass);
    if (pass.pattern_cycles || pass.record || kChecked) return run_as<true, false>(pass);
    return run_as<false, false>(pass);
  }

  // The same pass with the driver left out: ports as they stand, nothing copied. For rows whose beats are all alike the
  // tile does exactly what it does under `run`.
  uint64_t run_bare(const DittoPass& pass) {
    begin(pass);
    for (int64_t l = 0; l < kLanes; ++l) {
      put_beat(l, pass);
      ports_->operand_valid_i[l] = 1;
    }
    while (ports_->busy_o) tick();
    return ports_->cycle_o;
  }

  // Every port that a driver reads, for comparing two tiles.
  uint64_t fingerprint() const {
    return hash_of(ports_->busy_o, ports_->refused_o, ports_->cycle_o, ports_->weight_ready_o, ports_->operand_ready_o,
                   ports_->result_valid_o, ports_->result_o, ports_->result_row_o, ports_->result_block_o, ports_->result_last_o, ports_->enc_done_o,
                   ports_->done_o, ports_->zero_o, ports_->low_o, ports_->full_o, ports_->busy_cycles_o,
                   ports_->starved_cycles_o, ports_->stalled_cycles_o);
  }

  // One cycle of random inputs, small passes among them.
  void stir(uint64_t seed, bool documented) {
    Dice dice;
    dice.seed(seed);
    ports_->rst_ni = dice.below(100) != 0;
    ports_->start_i = dice.below(6) == 0;
    ports_->swap_i = dice.below(2);
    ports_->mode_i = dice.below(3);
    ports_->rows_i = 1 + dice.below(5);
    ports_->k_i = 1 + dice.below(2 * kBeat);
    ports_->blocks_i = 1;
    ports_->weight_valid_i = dice.below(3) == 0;
    ports_->weight_block_i = 0;
    ports_->weight_k_i = dice.below(2 * kBeat);
    for (int64_t c = 0; c < kColumns; ++c) ports_->weight_i[c] = dice.next();
    for (int64_t l = 0; l < kLanes; ++l) {
      ports_->operand_valid_i[l] = dice.below(4) != 0;
      ports_->result_ready_i[l] = dice.below(4) != 0;
    }
    for (int64_t e = 0; e < kLanes * kBeat; ++e) {
      ports_->current_i[e] = dice.below(2) ? dice.below(9) : dice.next();
      ports_->reference_i[e] = dice.below(2) ? dice.below(9) : dice.next();
    }
    clock(documented);
  }

  uint64_t trace(int64_t lane, uint8_t* into, uint64_t capacity) const {
    return copy_out(port_trace_[lane], into, capacity);
  }

  std::string state() const {
    std::string text;
    auto line = [&](const char* name, int64_t lane, uint64_t value) {
      char buffer[96];
      if (lane < 0) {
        std::snprintf(buffer, sizeof buffer, "%s %llu\n", name, static_cast<unsigned long long>(value));
      } else {
        std::snprintf(buffer, sizeof buffer, "%s[%lld] %llu\n", name, static_cast<long long>(lane),
                      static_cast<unsigned long long>(value));
      }
      text += buffer;
    };
    line("busy_o", -1, ports_->busy_o);
    line("refused_o", -1, ports_->refused_o);
    line("cycle_o", -1, ports_->cycle_o);
    line("mode_i", -1, ports_->mode_i);
    line("rows_i", -1, ports_->rows_i);
    line("k_i", -1, ports_->k_i);
    line("blocks_i", -1, ports_->blocks_i);
    line("weight_valid_i", -1, ports_->weight_valid_i);
    line("weight_ready_o", -1, ports_->weight_ready_o);
    for (int64_t l = 0; l < kLanes; ++l) {
      line("operand_row", l, feeds_[l].row);
      line("operand_k", l, feeds_[l].k);
      line("operand_valid_i", l, ports_->operand_valid_i[l]);
      line("operand_ready_o", l, ports_->operand_ready_o[l]);
      line("result_valid_o", l, ports_->result_valid_o[l]);
      line("result_ready_i", l, ports_->result_ready_i[l]);
      line("result_row_o", l, ports_->result_row_o[l]);
      line("result_block_o", l, ports_->result_block_o[l]);
      line("busy_cycles_o", l, ports_->busy_cycles_o[l]);
      line("starved_cycles_o", l, ports_->starved_cycles_o[l]);
      line("stalled_cycles_o", l, ports_->stalled_cycles_o[l]);
    }
    return text;
  }

 private:
  // Everything that the tile must not look at: payloads without their valid, the pass's ports without a start that is heard.
  void disturb() {
    ports_->mode_i = dice_.below(4);
    ports_->rows_i = dice_.below(1 << 24);
    ports_->k_i = dice_.below(1 << 11);
    ports_->blocks_i = dice_.below(1 << 12);
    ports_->swap_i = dice_.chance(2);
    ports_->start_i = ports_->busy_o && dice_.chance(2);
    ports_->weight_valid_i = ports_->rst_ni && !ports_->weight_ready_o && dice_.chance(2);
    ports_->weight_block_i = dice_.below(dice_.chance(2) ? kBlocks : 1 << 12);
    ports_->weight_k_i = dice_.below(dice_.chance(2) ? kMost : 1 << 11);
    for (int64_t c = 0; c < kColumns; ++c) ports_->weight_i[c] = dice_.next();
    for (int64_t l = 0; l < kLanes; ++l) {
      if (!ports_->result_valid_o[l]) ports_->result_ready_i[l] = dice_.chance(2);
      if (ports_->operand_valid_i[l]) continue;
      for (int64_t e = 0; e < kBeat; ++e) {
        ports_->current_i[l * kBeat + e] = dice_.next();
        ports_->reference_i[l * kBeat + e] = dice_.next();
      }
    }
  }

  void expect_silence(const char* when) const {
    const char* loud = ports_->busy_o ? "busy_o" : !ports_->weight_ready_o ? "weight_ready_o" : nullptr;
    for (int64_t l = 0; l < kLanes; ++l) {
      if (ports_->result_valid_o[l]) loud = "result_valid_o";
      if (ports_->operand_ready_o[l]) loud = "operand_ready_o";
    }
    if (loud) throw RtlBroken{std::string(loud) + " is wrong " + when};
  }

  void expect_weight_ready() const {
    const bool expected = DITTO_WEIGHT_BANKS > 1 || !ports_->busy_o;
    if (ports_->weight_ready_o != expected) {
      throw RtlBroken{std::string("weight_ready_o is ") + (expected ? "low" : "high") + " in a pass"};
    }
  }

  void present(const Load& load) {
    const int64_t column = load.block * kColumns;
    const int64_t width = std::min(kColumns, load.n_count - column);
    std::memcpy(&ports_->weight_i[0], load.weights + load.k * load.stride + column, width);
    if (width < kColumns) std::memset(&ports_->weight_i[width], 0, kColumns - width);
    ports_->weight_valid_i = 1;
    ports_->weight_block_i = load.block;
    ports_->weight_k_i = load.k;
  }

  void put_beat(int64_t l, const DittoPass& pass) {
    const Feed& feed = feeds_[l];
    const int64_t left = pass.k - feed.k;
    if (left >= kBeat) {
      std::memcpy(&ports_->current_i[l * kBeat], feed.current + feed.k, kBeat);
      std::memcpy(&ports_->reference_i[l * kBeat], feed.reference + feed.k, kBeat);
    } else {
      std::memcpy(&ports_->current_i[l * kBeat], feed.current + feed.k, left);
      std::memcpy(&ports_->reference_i[l * kBeat], feed.reference + feed.k, left);
      for (int64_t e = left; dice_.attacks() && e < kBeat; ++e) {
        ports_->current_i[l * kBeat + e] = dice_.next();
        ports_->reference_i[l * kBeat + e] = dice_.next();
      }
    }
  }

  // The beat was taken: moves to the next one; false when the lane's rows are over.
  bool next_beat(int64_t l, const DittoPass& pass) {
    Feed& feed = feeds_[l];
    feed.k += kBeat;
    if (feed.k < pass.k) return true;
    feed.k = 0;
    feed.row += kLanes;
    feed.current += kLanes * pass.current_stride;
    feed.reference += kLanes * pass.reference_stride;
    return feed.row < pass.rows;
  }

  void take_result(int64_t l, const DittoPass& pass) {
    const int64_t row = ports_->result_row_o[l];
    Feed& feed = feeds_[l];
    const bool last = (feed.result_block + 1) * kColumns >= pass.n;
    if (row != feed.result_row || row >= pass.rows || ports_->result_block_o[l] != feed.result_block ||
        ports_->result_last_o[l] != last) {
      throw RtlBroken{"lane " + std::to_string(l) + " gave row " + std::to_string(row) + ", block " +
                      std::to_string(ports_->result_block_o[l]) + " where row " + std::to_string(feed.result_row) +
                      ", block " + std::to_string(feed.result_block) + " was due"};
    }
    feed.result_block = last ? 0 : feed.result_block + 1;
    if (last) feed.result_row += kLanes;
    const int64_t column = int64_t{ports_->result_block_o[l]} * kColumns;
    const int64_t width = std::min(kColumns, pass.n - column);
    int32_t* target = pass.accumulators + row * pass.accumulators_stride + column;
    const auto* result = reinterpret_cast<const int32_t*>(&ports_->result_o[l * kColumns]);
    if (pass.adds) {
      for (int64_t c = 0; c < width; ++c) target[c] += result[c];
    } else {
      std::memcpy(target, result, width * sizeof(int32_t));
    }
    if (last) {
      pass.enc_done[row] = ports_->enc_done_o[l];
      pass.done[row] = ports_->done_o[l];
      pass.zero[row] = ports_->zero_o[l];
      pass.low[row] = ports_->low_o[l];
      pass.full[row] = ports_->full_o[l];
    }
  }

  // A start of so many rows that any tile can take.
  void ask(int64_t rows) {
    ports_->start_i = 1;
    ports_->mode_i = dice_.below(3);
    ports_->rows_i = rows;
    ports_->k_i = 1 + dice_.below(kMost);
    ports_->blocks_i = 1 + dice_.below(kBlocks);
  }

  // Makes it one that none can.
  void spoil() {
    switch (dice_.below(5)) {
      case 0: ports_->mode_i = 3; break;
      case 1: ports_->k_i = dice_.chance(2) ? 0 : kMost + 1 + dice_.below((1 << 11) - kMost - 1); break;
      case 2: ports_->k_i = kMost + 1; break;
      case 3: ports_->blocks_i = dice_.chance(2) || kBlocks > 4094 ? 0 : kBlocks + 1; break;
      default:
        if (kLanes == 1) ports_->mode_i = 3;  // one lane counts as far as its port
        else ports_->rows_i = (1 << 24) - 1 - dice_.below(kLanes - 1);
    }
  }

  void begin(const DittoPass& pass) {
    if (dice_.attacks()) {
      for (uint64_t cycle = dice_.below(4); cycle > 0; --cycle) {
        disturb();
        tick();
        expect_silence("between passes");
      }
      if (dice_.chance(3)) {  // a pass of no rows is over after one cycle
        disturb();
        ask(0);
        ports_->swap_i = 0;
        tick();
        ports_->start_i = 0;
        if (!ports_->busy_o || ports_->cycle_o != 0) throw RtlBroken{"a start without rows was not heard"};
        disturb();
        ports_->start_i = 0;
        tick();
        expect_silence("after a pass of no rows");
      }
      while (dice_.chance(2)) {  // what no tile can take starts nothing, and is told
        disturb();
        ask(1 + dice_.below(100));
        spoil();
        tick();
        ports_->start_i = 0;
        expect_silence("after a start that no tile can take");
        if (!ports_->refused_o) throw RtlBroken{"a start that no tile can take was not refused"};
      }
      disturb();
      ports_->weight_valid_i = 0;
    }
    ports_->start_i = 1;
    ports_->swap_i = swap_next_;
    ports_->mode_i = pass.mode;
    ports_->rows_i = pass.rows;
    ports_->k_i = pass.k;
    ports_->blocks_i = (pass.n + kColumns - 1) / kColumns;
    for (int64_t l = 0; l < kLanes; ++l) {
      feeds_[l] = {pass.current + l * pass.current_stride, pass.reference + l * pass.reference_stride, l, 0, l, 0};
      ports_->operand_valid_i[l] = 0;
      ports_->result_ready_i[l] = 1;
    }
    tick();
    ports_->start_i = 0;
    swap_next_ = false;
    if (kChecked && (!ports_->busy_o || ports_->refused_o || ports_->cycle_o != 0)) throw RtlBroken{"a start was not heard, or cycle_o is not 0"};
  }

  // The reset that cuts a pass off.
  int32_t cut(DittoPass& pass) {
    drive_reset();
    swap_next_ = false;
    pass.cycles = 0;
    return kDittoReset;
  }

  template <bool kPatterns, bool kNext>
  int32_t run_as(DittoPass& pass) {
    Load next{pass.next_weights, pass.next_stride, pass.next_k, pass.next_n};
    bool more[kLanes];
    begin(pass);
    for (int64_t l = 0; l < kLanes; ++l) {
      more[l] = l < pass.rows;
      if (kPatterns) port_trace_[l].clear();
      if (more[l]) put_beat(l, pass);
      ports_->operand_valid_i[l] = more[l] && !(kPatterns && pass.pattern_cycles);
    }

    uint64_t idle = 0;
    uint64_t cycle = 0;
    pass.next_cycles = 0;
    for (; ports_->busy_o; ++cycle) {
      bool taken[kLanes];
      bool moved = false;
      if (kPatterns && kChecked) {
        if (pass.reset_cycle && cycle + 1 == pass.reset_cycle) return cut(pass);
        if (ports_->cycle_o != cycle) throw RtlBroken{"cycle_o is " + std::to_string(ports_->cycle_o) + " in cycle " + std::to_string(cycle)};
        if (dice_.attacks()) disturb();
        for (int64_t l = 0; l < kLanes; ++l) {
          if (ports_->result_valid_o[l] && !pass.pattern_cycles) ports_->result_ready_i[l] = 1;
        }
        expect_weight_ready();
      }
      for (int64_t l = 0; l < kLanes; ++l) {
        if (kPatterns && pass.pattern_cycles) {
          const int64_t at = l * pass.pattern_cycles + cycle % pass.pattern_cycles;
          if (more[l] && pass.offer[at]) {
            if (dice_.attacks() && !ports_->operand_valid_i[l]) put_beat(l, pass);  // where garbage stood
            ports_->operand_valid_i[l] = 1;  // and stays, until taken
          }
          ports_->result_ready_i[l] = pass.accept[at];
        }
        if (kPatterns && !more[l] && ports_->operand_ready_o[l]) {
          throw RtlBroken{"lane " + std::to_string(l) + " asks for a row after the last one"};
        }
        taken[l] = ports_->operand_valid_i[l] && ports_->operand_ready_o[l];
        const bool given = ports_->result_valid_o[l] && ports_->result_ready_i[l];
        if (given) take_result(l, pass);
        moved |= taken[l] | given;
        if (kPatterns && pass.record) {
          port_trace_[l].push_back(ports_->operand_valid_i[l] | ports_->operand_ready_o[l] << 1 |
                                   ports_->result_valid_o[l] << 2 | ports_->result_ready_i[l] << 3);
        }
      }
      if (kNext && !next.over()) {
        present(next);
        next.advance();
        pass.next_cycles = cycle + 1;
      } else if (kNext) {
        ports_->weight_valid_i = 0;
      }
      if constexpr (kNext) {
        tick();
      } else {
        edge<true>();
      }
      for (int64_t l = 0; l < kLanes; ++l) {
        if (!taken[l]) continue;
        more[l] = next_beat(l, pass);
        if (more[l]) put_beat(l, pass);
        ports_->operand_valid_i[l] = more[l] && !(kPatterns && pass.pattern_cycles);
      }
      idle = moved ? 0 : idle + 1;
      if (idle > pass.watchdog_idle_cycles) return kDittoStuck;
    }
    if (kChecked) ports_->start_i = ports_->weight_valid_i = 0;
    if (kPatterns && kChecked && pass.reset_cycle) return cut(pass);
    if (kNext) {
      for (; !next.over(); next.advance(), ++cycle) {
        present(next);
        tick();
        pass.next_cycles = cycle + 1;
      }
      ports_->weight_valid_i = 0;
      swap_next_ = true;
    }
    for (int64_t l = 0; l < kLanes; ++l) {
      if (feeds_[l].result_row < pass.rows) {
        throw RtlBroken{"the pass ended before lane " + std::to_string(l) + " gave row " +
                        std::to_string(feeds_[l].result_row)};
      }
    }
    pass.cycles = ports_->cycle_o;
    for (int64_t l = 0; l < kLanes; ++l) {
      pass.counters[3 * l] = ports_->busy_cycles_o[l];
      pass.counters[3 * l + 1] = ports_->starved_cycles_o[l];
      pass.counters[3 * l + 2] = ports_->stalled_cycles_o[l];
    }
    return kDittoOk;
  }

  Feed feeds_[kLanes] = {};
  std::vector<uint8_t> port_trace_[kLanes];
  bool swap_next_ = false;
};

Tile* as_tile(void* tile) { return static_cast<Tile*>(tile); }

}  // namespace

extern "C" {

DITTO_API int32_t ditto_abi() { return DITTO_ABI; }
DITTO_API void* ditto_open(const char* trace_path, uint32_t state_seed) { return new Tile(trace_path, state_seed); }
DITTO_API int32_t ditto_self_test(int32_t cycles) {
  return self_test<Tile>(cycles);
}
DITTO_API void ditto_mutant(int32_t number) { Model::mutant = number; }
DITTO_API void ditto_close(void* tile) { delete as_tile(tile); }
DITTO_API void ditto_reset(void* tile) { as_tile(tile)->reset(); }
DITTO_API void ditto_attack(void* tile, uint64_t seed) { as_tile(tile)->attack(seed); }
DITTO_API int64_t ditto_load_weights(void* tile, const int8_t* weights, int64_t stride, int64_t k, int64_t n) {
  return as_tile(tile)->load(weights, stride, k, n);
}
DITTO_API int32_t ditto_run(void* tile, DittoPass* pass) { return as_tile(tile)->run(*pass); }
DITTO_API int32_t ditto_run_product(void* tile, DittoProduct* product) {
  return as_tile(tile)->run_product(*product);
}
DITTO_API int32_t ditto_run_gemm(void* tile, DittoGemm* gemm) { return as_tile(tile)->run_gemm(*gemm); }
DITTO_API uint64_t ditto_run_bare(void* tile, const DittoPass* pass) { return as_tile(tile)->run_bare(*pass); }
DITTO_API uint64_t ditto_trace(void* tile, int64_t lane, uint8_t* into, uint64_t capacity) {
  return as_tile(tile)->trace(lane, into, capacity);
}
DITTO_API uint64_t ditto_state(void* tile, char* into, uint64_t capacity) {
  return copy_out(as_tile(tile)->state(), into, capacity);
}
DITTO_API const char* ditto_message(void* tile) { return as_tile(tile)->message(); }
DITTO_API void ditto_write_coverage(void* tile, const char* path) { as_tile(tile)->write_coverage(path); }

}  // extern "C"
