// DRAM in the loop, compiled: equal to the cycle to its reference, which carries the contract and the reasons
// (`timing/memory.py`).
//
// Channels know nothing of each other, so a transfer goes line by line: as many channels as a vector has numbers, whose state
// stays in vectors while every row that the transfer has in them goes by.
//
// What it does not do: anything the reference does not.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#ifdef __AVX512DQ__
#include <immintrin.h>
#endif

namespace {

using Cycle = int64_t;
constexpr Cycle NEVER = Cycle(1) << 62;
constexpr Cycle LONG_AGO = -(Cycle(1) << 40);

// Neither is negative; narrow division is several times as fast.
inline Cycle floor_div(Cycle a, Cycle b) {
  return ((a | b) >> 32) == 0 ? Cycle(uint32_t(a) / uint32_t(b)) : a / b;
}
inline Cycle ceil_div(Cycle a, Cycle b) { return floor_div(a + b - 1, b); }

struct Pipe {
  Cycle width = 0, free = 0;
  Cycle transport(Cycle nbytes, Cycle at) {
    if (!width || !nbytes) return at;
    return free = std::max(free, at) + ceil_div(nbytes, width);
  }
};

// One number of each of eight channels; a comparison gives −1 where it holds.
constexpr Cycle LINE = 8;
typedef Cycle Line __attribute__((vector_size(LINE * sizeof(Cycle))));

inline Line all(Cycle of) { return Line{} + of; }
inline Line most(Line a, Line b) { return a > b ? a : b; }
inline bool any(Line of) {
#ifdef __AVX512DQ__
  return _mm512_movepi64_mask(reinterpret_cast<__m512i>(of)) != 0;
#else
  Cycle found = 0;
  for (int i = 0; i < LINE; ++i) found |= of[i];
  return found != 0;
#endif
}

// In the order of `DramConfig` as `timing/engine.py` flattens it.
struct DramConfig {
  Cycle pipe_bytes_per_cycle, channels, fine, groups, banks_per_group, row_requests, burst, cas, write_cas, row_to_column, precharge,
      row_active, row_cycle, activate_same_group, activate, four_activates, read_to_precharge, write_to_precharge, read_to_write,
      write_to_read, write_to_read_same_group, refresh_on, refresh_interval, refresh;
};

class Memory {
 public:
  // Where an address lies; whoever walks on from it need not divide again.
  struct Place {
    Cycle request = -1, channel = 0, group = 0, bank = 0, row = 0, column = 0;
  };

  Memory(const DramConfig& config, Cycle clock_mhz)
      : c(config), clock_mhz(clock_mhz), turn_requests(c.fine ? 1 : c.row_requests), banks_of_channel(c.groups * c.banks_per_group) {}

  void wake() {
    pipe = {c.pipe_bytes_per_cycle, 0};
    if (pipe.width) return;
    const Line long_ago = all(LONG_AGO), refresh_at = all(c.refresh_on ? c.refresh_interval / 2 : NEVER);
    const State rested{{long_ago, long_ago, long_ago, long_ago}, all(-1), long_ago, {}, refresh_at, {}, {}};
    lines.assign(ceil_div(c.channels, LINE), rested);
    banks.assign(lines.size() * banks_of_channel, Bank{{}, long_ago, long_ago});
  }

  // `place` is the transfer's own walk; it ends behind the transfer.
  Cycle transport(Place& place, Cycle address, Cycle nbytes, bool write, Cycle at) {
    if (pipe.width) return pipe.transport(nbytes, at);
    if (!nbytes) return at;
    const bool nanoseconds = clock_mhz == 1000;
    const Cycle since = nanoseconds ? at : ceil_div(at * 1000, clock_mhz);
    if (place.request != address / 64) place = find(address / 64);
    const Cycle column = serve(place, (address + nbytes + 63) / 64 - place.request, write, since);
    const Cycle done = std::max(since, column + c.burst + (write ? c.write_cas : c.cas + 1));
    return nanoseconds ? done : ceil_div(done * clock_mhz, 1000);
  }

 private:
  // What eight channels remember.
  struct State {
    Line activates[4], group, column, write, refresh_at;
    Line precharge_at;  // of the last of a channel's banks that may close
    Line refreshed;     // until when the last refresh blocks; what was opened before is closed
  };
  struct Bank {
    Line row, opened, precharge_at;
  };

  const DramConfig& c;
  const Cycle clock_mhz;
  const Cycle turn_requests;  // that go to a channel before it is the next one's turn
  const Cycle banks_of_channel;
  Pipe pipe;
  std::vector<State> lines;
  std::vector<Bank> banks;  // [lines][banks]

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
    const Cycle head = c.fine ? 0 : p.column, turns = turn_requests == 1 ? count : ceil_div(head + count, turn_requests);
    const Cycle tail = head + count - (turns - 1) * turn_requests;  // the last turn ends there
    const Cycle first = p.channel, behind = first + turns, rounds = behind <= c.channels ? 1 : ceil_div(behind, c.channels);
    const Cycle last = behind - 1 - (rounds - 1) * c.channels;
    const Cycle from = rounds > 1 ? 0 : first / LINE, to = rounds > 1 ? Cycle(lines.size()) - 1 : last / LINE;
    const Line whole = all((turn_requests - 1) * c.burst);
    Line latest = all(LONG_AGO);
    Place at = p;
    for (Cycle line = from; line <= to; ++line) {
      at = p;
      const Line number = Line{0, 1, 2, 3, 4, 5, 6, 7} + line * LINE;
      const Line there = number < c.channels;
      Bank* const of_line = &banks[line * banks_of_channel];
      State& kept = lines[line];
      State here{{kept.activates[0], kept.activates[1], kept.activates[2], kept.activates[3]}, kept.group, kept.column, kept.write,
                 kept.refresh_at, kept.precharge_at, kept.refreshed};  // a copy by memmove would leave the registers
      for (Cycle round = 0;;) {
        Bank& bank = of_line[at.group * c.banks_per_group + at.bank];
        if (round > 1 && round < rounds - 1) {
          serve_row<false>(here, bank, at, there, whole, write, since, latest);
        } else {
          Line asked = there, span = whole;
          if (!round) asked &= number >= first, span -= (number == first) & head * c.burst;
          if (round == rounds - 1) asked &= number <= last, span -= (number == last) & (turn_requests - tail) * c.burst;
          serve_row<true>(here, bank, at, asked, span, write, since, latest);
        }
        if (++round == rounds) break;
        next_round(at);
      }
      for (int k = 0; k < 4; ++k) kept.activates[k] = here.activates[k];
      kept.group = here.group, kept.column = here.column, kept.write = here.write, kept.refresh_at = here.refresh_at;
      kept.precharge_at = here.precharge_at, kept.refreshed = here.refreshed;
    }
    p = at, p.request += count, p.channel = last;
    if (!c.fine) p.column = tail;
    if (c.fine || tail == turn_requests) {
      if (!c.fine) p.column = 0;
      if (++p.channel == c.channels) p.channel = 0, next_round(p);
    }
    Cycle column = LONG_AGO;
    for (int i = 0; i < LINE; ++i) column = std::max(column, latest[i]);
    return column;
  }

  // Requests of one row of each channel that is asked for any; `span` is from the first one's column command to the last one's.
  // Away from a transfer's edges everyone is asked, in the direction of the round before.
  template <bool EDGE>
  __attribute__((always_inline)) void serve_row(State& ch, Bank& b, const Place& p, Line asked, Line span, bool write, Cycle since,
                                                Line& latest) const {
    const Cycle turned_near = write ? c.read_to_write : c.write_to_read_same_group,
                turned_far = write ? c.read_to_write : c.write_to_read, reach = write ? c.write_to_precharge : c.read_to_precharge;
    for (;;) {
      const Line open = b.opened >= ch.refreshed, hit = open & (b.row == p.row), near = ch.group == p.group;
      const Line closed = most(most(all(since), ch.refreshed), b.opened + c.row_cycle);
      const Line cleared = most(b.precharge_at, all(since)) + c.precharge;
      const Line apart = most(ch.activates[3] + (near ? all(c.activate_same_group) : all(c.activate)), ch.activates[0] + c.four_activates);
      const Line opened = most(open ? most(closed, cleared) : closed, apart);
      Line gap = all(c.burst);
      if (EDGE) gap = ch.write == Cycle(write) ? gap : near ? all(turned_near) : all(turned_far);
      const Line at = most(hit ? all(since) : opened + c.row_to_column, ch.column + gap);
      Line ended = at + span, served = asked;
      const Line late = asked & (ended >= ch.refresh_at);
      const bool interrupted = any(late);
      if (interrupted) [[unlikely]] {
        served = asked & (at < ch.refresh_at);
        for (int i = 0; i < LINE; ++i)
          if (late[i] && served[i]) {
            const Cycle taken = ceil_div(ch.refresh_at[i] - at[i], c.burst) * c.burst;
            ended[i] = at[i] + taken - c.burst, span[i] -= taken;
          }
      }
      const Line opening = served & ~hit, may_close = most(opening ? opened + c.row_active : b.precharge_at, ended + reach);
      b.precharge_at = served ? may_close : b.precharge_at;
      b.opened = opening ? opened : b.opened;
      b.row = served ? all(p.row) : b.row;
      for (int k = 0; k < 3; ++k) ch.activates[k] = opening ? ch.activates[k + 1] : ch.activates[k];
      ch.activates[3] = opening ? opened : ch.activates[3];
      ch.precharge_at = served ? most(ch.precharge_at, may_close) : ch.precharge_at;
      ch.column = served ? ended : ch.column;
      if (EDGE) ch.write = served ? all(write) : ch.write;
      ch.group = served ? all(p.group) : ch.group;
      latest = served ? most(latest, ended) : latest;
      if (!interrupted) [[likely]]
        return;
      refresh(ch, asked & ~served);
      asked = late;
    }
  }

  void refresh(State& ch, Line due) const {
    const Line start = most(most(ch.refresh_at, ch.column + c.cas), ch.precharge_at) + c.precharge;
    ch.refreshed = due ? start + c.refresh : ch.refreshed;
    ch.refresh_at += due & c.refresh_interval;
  }
};

}  // namespace
