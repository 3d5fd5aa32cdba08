// DRAM in the loop, compiled: equal to the cycle to its reference, which carries the contract and the reasons
// (`timing/memory.py`).
//
// Channels know nothing of each other, so a transfer goes line by line: as many neighbouring channels as a vector has numbers,
// from the transfer's first on. Times are of 64 bits, or of 32, twice as many to a vector: these are for steps of less than
// half a second on a memory whose timings are small. Where one does not fit, `fits` is false, and what it answered is void.
//
// What it does not do: anything the reference does not.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#if defined(__AVX512DQ__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using Cycle = int64_t;
constexpr Cycle NEVER = Cycle(1) << 62;

// Neither is negative; narrow division is several times as fast.
inline Cycle floor_div(Cycle a, Cycle b) {
  return ((a | b) >> 32) == 0 ? Cycle(uint32_t(a) / uint32_t(b)) : a / b;
}
inline Cycle ceil_div(Cycle a, Cycle b) { return floor_div(a + b - 1, b); }

struct Pipe {
  Cycle width = 0, free = 0;
  Cycle cycles(Cycle nbytes) const { return width ? ceil_div(nbytes, width) : 0; }
  Cycle take(Cycle cycles, Cycle at) { return cycles ? free = std::max(free, at) + cycles : at; }
  Cycle transport(Cycle nbytes, Cycle at) { return take(cycles(nbytes), at); }
};

// Division by a number that does not change, mostly a power of two.
struct Divisor {
  Cycle by;
  int shift;
  explicit Divisor(Cycle by) : by(by), shift(by & (by - 1) ? -1 : __builtin_ctzll(by)) {}
  Cycle up(Cycle a) const { return shift < 0 ? ceil_div(a, by) : (a + by - 1) >> shift; }
};

#ifdef __AVX512DQ__
constexpr int LINE_BYTES = 64;
#elif defined(__AVX2__)
constexpr int LINE_BYTES = 32;
#else
constexpr int LINE_BYTES = 16;
#endif

// One number of each of a line's channels; a comparison gives −1 where it holds.
template <typename Time>
struct Lines {
  static constexpr int COUNT = LINE_BYTES / sizeof(Time);
  typedef Time Line __attribute__((vector_size(LINE_BYTES)));
  typedef Time Anywhere __attribute__((vector_size(LINE_BYTES), aligned(sizeof(Time)), may_alias));

  static Line at(const Time* from) { return *reinterpret_cast<const Anywhere*>(from); }
  static void put(Time* to, Line of) { *reinterpret_cast<Anywhere*>(to) = of; }
  static Line all(Time of) { return Line{} + of; }
  static Line most(Line a, Line b) { return a > b ? a : b; }
  static Line numbers() {
    Line found;
    for (int i = 0; i < COUNT; ++i) found[i] = i;
    return found;
  }
  static unsigned which(Line of) {
#ifdef __AVX512DQ__
    if constexpr (sizeof(Time) == 8) return _mm512_movepi64_mask(reinterpret_cast<__m512i>(of));
    if constexpr (sizeof(Time) == 4) return _mm512_movepi32_mask(reinterpret_cast<__m512i>(of));
#elif defined(__AVX2__)
    if constexpr (sizeof(Time) == 8) return _mm256_movemask_pd(reinterpret_cast<__m256d>(of));
    if constexpr (sizeof(Time) == 4) return _mm256_movemask_ps(reinterpret_cast<__m256>(of));
#endif
    unsigned found = 0;
    for (int i = 0; i < COUNT; ++i) found |= unsigned(of[i] != 0) << i;
    return found;
  }
  static Time greatest(Line of) {
#ifdef __AVX512DQ__
    if constexpr (sizeof(Time) == 8) return _mm512_reduce_max_epi64(reinterpret_cast<__m512i>(of));
    if constexpr (sizeof(Time) == 4) return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(of));
#endif
    Time found = of[0];
    for (int i = 1; i < COUNT; ++i) found = std::max(found, of[i]);
    return found;
  }
};

// In the order of `DramConfig` as `timing/engine.py` flattens it.
struct DramConfig {
  Cycle pipe_bytes_per_cycle, channels, fine, groups, banks_per_group, row_requests, burst, cas, write_cas, row_to_column, precharge,
      row_active, row_cycle, activate_same_group, activate, four_activates, read_to_precharge, write_to_precharge, read_to_write,
      write_to_read, write_to_read_same_group, refresh_on, refresh_interval, refresh;
};

template <typename Time>
class Memory {
 public:
  // Where an address lies; whoever walks on from it need not divide again.
  struct Place {
    Cycle request = -1, channel = 0, group = 0, bank = 0, row = 0, column = 0;
  };

  bool fits;

  Memory(const DramConfig& config, Cycle clock_mhz)
      : c(config),
        clock_mhz(clock_mhz),
        turn(c.fine ? 1 : c.row_requests),
        stride(c.channels + Of::COUNT),
        most_requests(MOST / 4 / all_timings(c)) {
    wake();
  }

  void wake() {
    fits = true;
    pipe = {c.pipe_bytes_per_cycle, 0};
    if (pipe.width) return;
    if (std::max({all_timings(c), c.refresh_interval, c.row_requests * c.burst}) > MOST / 8) fits = false;
    const Time rested[FIELDS] = {LONG_AGO, LONG_AGO, LONG_AGO, LONG_AGO, -1, LONG_AGO, 0, c.refresh_on ? Time(c.refresh_interval / 2) : MOST, 0, 0};
    fill(channels, rested, FIELDS, 1);
    const Time closed[OF_BANK] = {0, LONG_AGO, LONG_AGO};
    fill(banks, closed, OF_BANK, c.groups * c.banks_per_group);
  }

  // `place` is the transfer's own walk; it ends behind the transfer.
  Cycle transport(Place& place, Cycle address, Cycle nbytes, bool write, Cycle at) {
    if (pipe.width) return pipe.transport(nbytes, at);
    if (!nbytes) return at;
    const bool nanoseconds = clock_mhz == 1000;
    const Cycle since = nanoseconds ? at : ceil_div(at * 1000, clock_mhz);
    if (place.request != address / 64) place = find(address / 64);
    const Cycle count = (address + nbytes + 63) / 64 - place.request;
    // all that was said before is less than half; each request adds at most all timings twice, a refresh between
    if (since > MOST / 2 || count > most_requests) fits = false;
    if (!fits) return at;
    const Cycle column = serve(place, count, write, since);
    const Cycle done = std::max(since, column + c.burst + (write ? c.write_cas : c.cas + 1));
    if (done > MOST / 2) fits = false;
    return nanoseconds ? done : ceil_div(done * clock_mhz, 1000);
  }

 private:
  using Of = Lines<Time>;
  using Line = typename Of::Line;
  static constexpr Time MOST = std::numeric_limits<Time>::max() / 2;
  static constexpr Time LONG_AGO = -(MOST / 2);

  // What a channel remembers; `PRECHARGE` is of the last of its banks that may close, `REFRESHED` until when the last refresh
  // blocks: what was opened before is closed.
  enum { ACTIVATES, GROUP = 4, COLUMN, WRITE, REFRESH_AT, PRECHARGE, REFRESHED, FIELDS };
  // What a bank remembers.
  enum { ROW, OPENED, MAY_CLOSE, OF_BANK };

  // The same, of a line.
  struct State {
    Line activates[4], group, column, write, refresh_at, precharge_at, refreshed;
  };
  struct Bank {
    Line row, opened, precharge_at;
  };

  const DramConfig& c;
  const Cycle clock_mhz;
  const Divisor turn;         // requests that go to a channel before it is the next one's turn
  const Cycle stride;         // channels, and a line's room behind the last
  const Cycle most_requests;  // of a transfer, for times to fit
  Pipe pipe;
  std::vector<Time> channels;  // [fields][channels]
  std::vector<Time> banks;     // [banks][fields][channels]

  static Cycle all_timings(const DramConfig& c) {
    return c.burst + c.cas + c.write_cas + c.row_to_column + c.precharge + c.row_active + c.row_cycle + c.activate_same_group + c.activate +
           c.four_activates + c.read_to_precharge + c.write_to_precharge + c.read_to_write + c.write_to_read +
           c.write_to_read_same_group + c.refresh;
  }

  void fill(std::vector<Time>& of, const Time* with, int fields, Cycle times) const {
    of.clear();
    while (times--)
      for (int i = 0; i < fields; ++i) of.insert(of.end(), stride, with[i]);
  }

  // --- places ---

  Place find(Cycle request) const {
    Place p{request};
    Cycle rest = request;
    if (c.fine) {
      p.channel = take(rest, c.channels), p.group = take(rest, c.groups), p.column = take(rest, c.row_requests);
      p.bank = take(rest, c.banks_per_group);
    } else {
      p.column = take(rest, c.row_requests), p.channel = take(rest, c.channels), p.bank = take(rest, c.banks_per_group);
      p.group = take(rest, c.groups);
    }
    p.row = rest;
    return p;
  }

  // The lowest digit of a number to this base, and the number without it.
  static Cycle take(Cycle& rest, Cycle base) {
    const Cycle whole = floor_div(rest, base), digit = rest - whole * base;
    rest = whole;
    return digit;
  }

  // To the turn of the first channel again.
  void next_round(Place& p) const {
    if (c.fine) {
      if (++p.group < c.groups) return;
      p.group = 0;
      if (++p.column < c.row_requests) return;
      p.column = 0;
      if (++p.bank < c.banks_per_group) return;
      p.bank = 0;
    } else {
      if (++p.bank < c.banks_per_group) return;
      p.bank = 0;
      if (++p.group < c.groups) return;
      p.group = 0;
    }
    ++p.row;
  }

  // --- requests ---

  // All of a transfer's, from a place to the one behind them: the last one's column command.
  Cycle serve(Place& p, Cycle count, bool write, Cycle since) {
    const Cycle head = c.fine ? 0 : p.column, turns = turn.up(head + count);
    const Cycle tail = head + count - (turns - 1) * turn.by;  // the last turn ends there
    Cycle left = turns;
    Line latest = Of::all(LONG_AGO);
    for (bool first = true;; first = false) {
      const Cycle of_round = std::min(left, c.channels - p.channel);
      left -= of_round;
      edge(p, of_round, first ? head * c.burst : 0, left ? 0 : (turn.by - tail) * c.burst, write, since, latest);
      p.channel += of_round;
      if (!left) break;
      p.channel = 0, next_round(p);
      if (left > c.channels) {
        const Cycle rounds = (left - 1) / c.channels;
        whole(p, rounds, write, since, latest);
        left -= rounds * c.channels;
      }
    }
    p.request += count;
    if (c.fine || tail == turn.by) {
      p.column = c.fine ? p.column : 0;
      if (p.channel == c.channels) p.channel = 0, next_round(p);
    } else {
      --p.channel, p.column = tail;
    }
    return Of::greatest(latest);
  }

  // A round's turns from the place's channel on; the first begins, and the last ends, so much inside its row.
  void edge(const Place& p, Cycle turns, Cycle begins, Cycle ends, bool write, Cycle since, Line& latest) {
    for (Cycle at = 0; at < turns; at += Of::COUNT) {
      const Line number = Of::numbers() + Time(at), asked = number < Time(turns);
      Line span = Of::all((turn.by - 1) * c.burst);
      span -= (number == Time(0)) & Time(begins), span -= (number == Time(turns - 1)) & Time(ends);
      State here = load(p.channel + at);
      serve_row<true>(here, bank_of(p) + p.channel + at, p, asked, span, write, since, latest);
      store(p.channel + at, here);
    }
  }

  // Whole rounds behind the first, from the place to the one behind them.
  void whole(Place& p, Cycle rounds, bool write, Cycle since, Line& latest) {
    const Line span = Of::all((turn.by - 1) * c.burst);
    const Place begun = p;
    for (Cycle at = 0; at < c.channels; at += Of::COUNT) {
      const Line asked = Of::numbers() + Time(at) < Time(c.channels);
      State here = load(at);
      p = begun;
      serve_row<true>(here, bank_of(p) + at, p, asked, span, write, since, latest);
      next_round(p);
      for (Cycle round = 1; round < rounds; ++round, next_round(p))
        serve_row<false>(here, bank_of(p) + at, p, asked, span, write, since, latest);
      store(at, here);
    }
  }

  Time* bank_of(const Place& p) { return &banks[(p.group * c.banks_per_group + p.bank) * OF_BANK * stride]; }

  State load(Cycle from) const {
    const Time* const at = &channels[from];
    return {{Of::at(at), Of::at(at + stride), Of::at(at + 2 * stride), Of::at(at + 3 * stride)},
            Of::at(at + GROUP * stride),
            Of::at(at + COLUMN * stride),
            Of::at(at + WRITE * stride),
            Of::at(at + REFRESH_AT * stride),
            Of::at(at + PRECHARGE * stride),
            Of::at(at + REFRESHED * stride)};
  }
  void store(Cycle from, const State& of) {
    Time* const at = &channels[from];
    for (int k = 0; k < 4; ++k) Of::put(at + k * stride, of.activates[k]);
    Of::put(at + GROUP * stride, of.group), Of::put(at + COLUMN * stride, of.column), Of::put(at + WRITE * stride, of.write);
    Of::put(at + REFRESH_AT * stride, of.refresh_at), Of::put(at + PRECHARGE * stride, of.precharge_at);
    Of::put(at + REFRESHED * stride, of.refreshed);
  }

  // Requests of one row of each channel that is asked for any; `span` is from the first one's column command to the last one's.
  // Away from a transfer's edges the direction is that of the round before.
  template <bool EDGE>
  __attribute__((always_inline)) void serve_row(State& ch, Time* bank, const Place& p, Line asked, Line span, bool write, Time since,
                                                Line& latest) const {
    const Line now = Of::all(since), row = Of::all(p.row);
    const Time burst = c.burst, cas = c.cas, row_cycle = c.row_cycle, precharge = c.precharge, row_to_column = c.row_to_column,
               row_active = c.row_active, four_activates = c.four_activates;
    const Line same = Of::all(c.activate_same_group), other = Of::all(c.activate), steady = Of::all(c.burst);
    const Line turned_near = Of::all(write ? c.read_to_write : c.write_to_read_same_group),
               turned_far = Of::all(write ? c.read_to_write : c.write_to_read);
    const Time reach = write ? c.write_to_precharge : c.read_to_precharge;
    Bank b{Of::at(bank), Of::at(bank + stride), Of::at(bank + 2 * stride)};
    for (;;) {
      const Line open = b.opened >= ch.refreshed, hit = open & (b.row == row), near = ch.group == Time(p.group);
      const Line closed = Of::most(Of::most(now, ch.refreshed), b.opened + row_cycle);
      const Line cleared = Of::most(b.precharge_at, now) + precharge;
      const Line apart = Of::most(ch.activates[3] + (near ? same : other), ch.activates[0] + four_activates);
      const Line opened = Of::most(open ? Of::most(closed, cleared) : closed, apart);
      Line gap = steady;
      if (EDGE) gap = ch.write == Time(write) ? gap : near ? turned_near : turned_far;
      const Line at = Of::most(hit ? now : opened + row_to_column, ch.column + gap);
      Line ended = at + span, served = asked;
      const Line late = asked & (ended >= ch.refresh_at);
      const bool interrupted = Of::which(late) != 0;
      if (interrupted) [[unlikely]] {
        served = asked & (at < ch.refresh_at);
        for (unsigned of = Of::which(late & served); of; of &= of - 1) {
          const int i = __builtin_ctz(of);
          const Time taken = (ch.refresh_at[i] - at[i] + burst - 1) / burst * burst;
          ended[i] = at[i] + taken - burst, span[i] -= taken;
        }
      }
      const Line opening = served & ~hit, may_close = Of::most(opening ? opened + row_active : b.precharge_at, ended + reach);
      b.precharge_at = served ? may_close : b.precharge_at;
      b.opened = opening ? opened : b.opened;
      b.row = served ? row : b.row;
      for (int k = 0; k < 3; ++k) ch.activates[k] = opening ? ch.activates[k + 1] : ch.activates[k];
      ch.activates[3] = opening ? opened : ch.activates[3];
      ch.precharge_at = served ? Of::most(ch.precharge_at, may_close) : ch.precharge_at;
      ch.column = served ? ended : ch.column;
      if (EDGE) ch.write = served ? Of::all(write) : ch.write;
      ch.group = served ? Of::all(p.group) : ch.group;
      latest = served ? Of::most(latest, ended) : latest;
      if (!interrupted) [[likely]]
        break;
      const Line due = asked & ~served;
      const Line start = Of::most(Of::most(ch.refresh_at, ch.column + cas), ch.precharge_at) + precharge;
      ch.refreshed = due ? start + Time(c.refresh) : ch.refreshed;
      ch.refresh_at += due & Time(c.refresh_interval);
      asked = late;
    }
    Of::put(bank, b.row), Of::put(bank + stride, b.opened), Of::put(bank + 2 * stride, b.precharge_at);
  }
};

}  // namespace
