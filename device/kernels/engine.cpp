// The engine of time, compiled: equal to the cycle to its reference, whose files carry the contract and the reasons
// (`timing/engine.py`: ranks; `flow.py`, `dma.py`, `lanes.py`, `vector_time.py`: units; `memory.py`: DRAM; `kernel.py`: credits).
//
// What it does not do: anything the reference does not.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

namespace {

using Cycle = int64_t;
constexpr Cycle NEVER = Cycle(1) << 62;
constexpr Cycle LONG_AGO = -(Cycle(1) << 40);

// Neither is negative; narrow division is several times as fast.
inline Cycle floor_div(Cycle a, Cycle b) {
  return ((a | b) >> 32) == 0 ? Cycle(uint32_t(a) / uint32_t(b)) : a / b;
}
inline Cycle ceil_div(Cycle a, Cycle b) { return floor_div(a + b - 1, b); }

// By value, as vectors want it.
inline Cycle most(Cycle a, Cycle b) { return a > b ? a : b; }

// `share` of `flow.py` for index 0, 1, …, without a division for each.
struct Shares {
  Cycle count = 1, least = 0, rest = 0, carried = 0;
  Shares() = default;
  Shares(Cycle whole, Cycle parts) : count(parts), least(floor_div(whole, parts)), rest(whole - least * parts) {}
  Cycle next() {
    carried += rest;
    if (carried < count) return least;
    carried -= count;
    return least + 1;
  }
};

// In the order of `GroupWork.row`.
struct Work {
  Cycle chunks, early_bytes, late_bytes, out_bytes, load_cycles, starved_cycles, busy_cycles, port_bytes, streamed_cycles,
      after_cycles, passes, needs, whole;

  Cycle first_pass() const { return ceil_div(chunks, passes); }
  Cycle needed_lane_chunk(Cycle part) const {
    return passes == 1 ? part : floor_div((passes - 1) * chunks + part, passes);
  }
  Cycle parts_after(Cycle chunk) const { return std::max<Cycle>(0, passes * (chunk + 1) - (passes - 1) * chunks); }
};

// In the order of `EngineConfig` as `timing/engine.py` flattens it.
struct Config {
  Cycle queue_depth, prefetch_layers, issue_cycles, link_bytes_per_cycle, early_room, late_room, out_room, port_bytes_per_cycle,
      accumulator_chunks, clock_mhz;
  Cycle pipe_bytes_per_cycle, channels, fine, groups, banks_per_group, row_requests, burst, cas, write_cas, row_to_column, precharge,
      row_active, row_cycle, activate_same_group, activate, four_activates, read_to_precharge, write_to_precharge, read_to_write,
      write_to_read, write_to_read_same_group, refresh_on, refresh_interval, refresh;
};

struct Pipe {
  Cycle width = 0, free = 0;
  Cycle transport(Cycle nbytes, Cycle at) {
    if (!width || !nbytes) return at;
    return free = std::max(free, at) + ceil_div(nbytes, width);
  }
};

// Numbers of channels, from a line of the cache on: what vectors load has been stored in the same pieces.
constexpr Cycle LINE = 8;
template <class T>
struct Aligned {
  using value_type = T;
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(LINE * sizeof(Cycle)))); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(LINE * sizeof(Cycle))); }
  bool operator==(const Aligned&) const = default;
};
using Column = std::vector<Cycle, Aligned<Cycle>>;

// What the channels remember, a column each, so that a burst in each of them is one pass.
struct Channels {
  Cycle stride = 0;                                                       // channels, filled up to whole lines
  Column row, activate_at, precharge_at;                                  // [banks][channels]
  Column activates[4], group, column, refresh_at, write, opens, columns;  // [channels]; the last two of one pass

  void resize(Cycle banks, Cycle channels, Cycle first_refresh) {
    stride = ceil_div(channels, LINE) * LINE;
    row.assign(banks * stride, -1), activate_at.assign(banks * stride, 0), precharge_at.assign(banks * stride, 0);
    for (auto& activate : activates) activate.assign(stride, LONG_AGO);
    group.assign(stride, -1), column.assign(stride, LONG_AGO), write.assign(stride, 0);
    refresh_at.assign(stride, first_refresh), opens.assign(stride, 0), columns.assign(stride, 0);
  }
};

// Where an address lies; whoever walks on from it need not divide again.
struct Place {
  Cycle request = -1, channel = 0, group = 0, bank = 0, row = 0, column = 0;
};

struct Memory {
  static constexpr Cycle SCATTERED = 4;  // rows that are sooner done one by one
  const Config& c;
  Pipe pipe;
  Channels ch;

  explicit Memory(const Config& config) : c(config) {
    pipe.width = c.pipe_bytes_per_cycle;
    if (pipe.width) return;
    ch.resize(c.groups * c.banks_per_group, c.channels, c.refresh_interval / 2);
  }

  // `place` is the transfer's own walk; it ends behind the transfer.
  Cycle transport(Place& place, Cycle address, Cycle nbytes, bool write, Cycle at) {
    if (pipe.width) return pipe.transport(nbytes, at);
    if (!nbytes) return at;
    const bool nanoseconds = c.clock_mhz == 1000;
    const Cycle since = nanoseconds ? at : ceil_div(at * 1000, c.clock_mhz), last = (address + nbytes + 63) / 64;
    Cycle done = since;
    if (place.request != address / 64) place = find(address / 64);
    while (place.request < last) {
      const Cycle requests = c.fine ? 1 : std::min(last - place.request, (c.channels - place.channel) * c.row_requests - place.column);
      const Cycle rows = ceil_div(place.column + requests, c.row_requests);
      if (rows > SCATTERED) {
        done = std::max(done, sweep(place, rows, requests, write, since));
        walk(place, requests);
        continue;
      }
      const Cycle count = c.fine ? 1 : std::min(last - place.request, c.row_requests - place.column);
      done = std::max(done, burst(place, place.channel, count, write, since));
      walk(place, count);
    }
    return nanoseconds ? done : ceil_div(done * c.clock_mhz, 1000);
  }

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

  // Over requests of one row or of neighbouring channels, or in the fine mapping over one request.
  void walk(Place& p, Cycle count) const {
    p.request += count;
    if (c.fine) {
      if (++p.channel < c.channels) return;
      p.channel = 0;
      if (++p.group < c.groups) return;
      p.group = 0;
      if (++p.column < c.row_requests) return;
      p.column = 0;
      if (++p.bank < c.banks_per_group) return;
      p.bank = 0;
    } else {
      if ((p.column += count) < c.row_requests) return;
      const Cycle rows = floor_div(p.column, c.row_requests);
      p.column -= rows * c.row_requests;
      if ((p.channel += rows) < c.channels) return;
      p.channel = 0;
      if (++p.bank < c.banks_per_group) return;
      p.bank = 0;
      if (++p.group < c.groups) return;
      p.group = 0;
    }
    ++p.row;
  }

  // The lowest digit of a number to this base, and the number without it.
  static Cycle take(Cycle& rest, Cycle base) {
    const Cycle whole = floor_div(rest, base), digit = rest - whole * base;
    rest = whole;
    return digit;
  }

  // Requests of one row of one channel; the last one's data.
  Cycle burst(const Place& p, Cycle i, Cycle count, bool write, Cycle since) {
    const Cycle bank = (p.group * c.banks_per_group + p.bank) * ch.stride + i;
    const Cycle reach = write ? c.write_to_precharge : c.read_to_precharge;
    Cycle column = 0;
    while (count) {
      Cycle opened = -1;
      column = since;
      if (ch.row[bank] != p.row) {
        opened = std::max(since, ch.activate_at[bank]);
        if (ch.row[bank] >= 0) opened = std::max(opened, std::max(since, ch.precharge_at[bank]) + c.precharge);
        const Cycle gap = ch.group[i] == p.group ? c.activate_same_group : c.activate;
        opened = std::max({opened, ch.activates[3][i] + gap, ch.activates[0][i] + c.four_activates});
        column = opened + c.row_to_column;
      }
      column = std::max(column, ch.column[i] + turn(i, write, p.group));
      if (c.refresh_on && column >= ch.refresh_at[i]) {
        refresh(i);
        continue;
      }
      if (opened >= 0) {
        ch.row[bank] = p.row, ch.activate_at[bank] = opened + c.row_cycle, ch.precharge_at[bank] = opened + c.row_active;
        for (int k = 0; k < 3; ++k) ch.activates[k][i] = ch.activates[k + 1][i];
        ch.activates[3][i] = opened;
      }
      Cycle taken = count;
      if (c.refresh_on && column + (count - 1) * c.burst >= ch.refresh_at[i]) taken = ceil_div(ch.refresh_at[i] - column, c.burst);
      column += (taken - 1) * c.burst;
      ch.column[i] = column, ch.write[i] = write, ch.group[i] = p.group;
      ch.precharge_at[bank] = std::max(ch.precharge_at[bank], column + reach);
      count -= taken;
    }
    return data(column, write);
  }

  // The same row of neighbouring channels, of the first and the last perhaps a part: `burst` for each, without branches. Where
  // one meets its refresh, each alone.
  Cycle sweep(const Place& p, Cycle rows, Cycle requests, bool write, Cycle since) {
    const Cycle first = p.channel, last = first + rows - 1, whole = c.row_requests;
    const Cycle head = whole - p.column, tail = requests - head - (rows - 2) * whole;
    const Cycle line = first / LINE * LINE, banks = (p.group * c.banks_per_group + p.bank) * ch.stride + line;
    const Cycle width = (last / LINE + 1) * LINE - line;
    Cycle *const row = &ch.row[banks], *const activate_at = &ch.activate_at[banks],
                 *const precharge_at = &ch.precharge_at[banks];
    Cycle *const a0 = &ch.activates[0][line], *const a1 = &ch.activates[1][line], *const a2 = &ch.activates[2][line],
                 *const a3 = &ch.activates[3][line];
    Cycle *const group = &ch.group[line], *const column = &ch.column[line], *const written = &ch.write[line],
                 *const opens = &ch.opens[line], *const columns = &ch.columns[line];
    const Cycle* const refresh_at = &ch.refresh_at[line];
    const Cycle precharge = c.precharge, same_group = c.activate_same_group, other_group = c.activate, four = c.four_activates,
                turned_near = write ? c.read_to_write : c.write_to_read_same_group,
                turned_far = write ? c.read_to_write : c.write_to_read, on = c.burst,
                to_column = c.row_to_column, cycle = c.row_cycle, active = c.row_active;
    const Cycle reach = write ? c.write_to_precharge : c.read_to_precharge;
    const Cycle asked_group = p.group, asked_row = p.row, asked_write = write, begins = first - line, ends = last - line;
    const Cycle of_head = (head - 1) * on, of_tail = (tail - 1) * on, of_whole = (whole - 1) * on;
    Cycle late = 0, done = 0;
#pragma GCC ivdep
    for (Cycle i = 0; i < width; ++i) {
      const Cycle near = group[i] == asked_group;
      const Cycle from_closed = most(since, activate_at[i]);
      const Cycle from_open = most(from_closed, most(since, precharge_at[i]) + precharge);
      const Cycle apart = most(a3[i] + (near ? same_group : other_group), a0[i] + four);
      const Cycle opened = most(row[i] < 0 ? from_closed : from_open, apart);
      const Cycle free = column[i] + (written[i] == asked_write ? on : near ? turned_near : turned_far);
      const Cycle at = most(row[i] == asked_row ? since : opened + to_column, free);
      const Cycle ended = at + (i == begins ? of_head : i == ends ? of_tail : of_whole);
      const Cycle asked = (i >= begins) & (i <= ends);
      opens[i] = opened;
      columns[i] = ended;
      late |= asked & (ended >= refresh_at[i]);
      done = most(done, asked ? ended : 0);
    }
    if (c.refresh_on && late) {
      done = burst(p, first, head, write, since);
      for (Cycle i = first + 1; i < last; ++i) done = std::max(done, burst(p, i, whole, write, since));
      return std::max(done, burst(p, last, tail, write, since));
    }
#pragma GCC ivdep
    for (Cycle i = 0; i < width; ++i) {
      const Cycle asked = (i >= begins) & (i <= ends), opening = asked & (row[i] != asked_row);
      const Cycle opened = opens[i], ended = columns[i];
      const Cycle may_close = most(opening ? opened + active : precharge_at[i], ended + reach);
      activate_at[i] = opening ? opened + cycle : activate_at[i];
      precharge_at[i] = asked ? may_close : precharge_at[i];
      a0[i] = opening ? a1[i] : a0[i];
      a1[i] = opening ? a2[i] : a1[i];
      a2[i] = opening ? a3[i] : a2[i];
      a3[i] = opening ? opened : a3[i];
      row[i] = asked ? asked_row : row[i];
      column[i] = asked ? ended : column[i];
      written[i] = asked ? asked_write : written[i];
      group[i] = asked ? asked_group : group[i];
    }
    return data(done, write);
  }

  Cycle data(Cycle column, bool write) const { return column + c.burst + (write ? c.write_cas : c.cas + 1); }

  Cycle turn(Cycle i, bool write, Cycle group) const {
    if (write == bool(ch.write[i])) return c.burst;
    if (write) return c.read_to_write;
    return group == ch.group[i] ? c.write_to_read_same_group : c.write_to_read;
  }

  void refresh(Cycle i) {
    Cycle start = std::max(ch.refresh_at[i], ch.column[i] + c.cas);
    const Cycle behind = c.groups * c.banks_per_group * ch.stride;
    for (Cycle bank = i; bank < behind; bank += ch.stride) start = std::max(start, ch.precharge_at[bank]);
    start += c.precharge;
    for (Cycle bank = i; bank < behind; bank += ch.stride)
      ch.row[bank] = -1, ch.activate_at[bank] = std::max(ch.activate_at[bank], start + c.refresh);
    ch.refresh_at[i] += c.refresh_interval;
  }
};

struct Credits {
  Cycle free = 0, since = 0;
  std::vector<std::pair<Cycle, Cycle>> given;
  size_t head = 0;
  Cycle when(Cycle nbytes) {
    while (free < nbytes && head < given.size()) {
      since = given[head].first;
      free += given[head++].second;
    }
    return free >= nbytes ? since : NEVER;
  }
};

struct Wait {
  Cycle made, allowed;
  bool queued;
};

struct Passed {
  std::vector<Cycle> early, late, lanes, streamed, result, written;
  std::vector<Wait> early_wait, late_wait;
};

enum Cause { COMPUTE, ENCODE, LOAD, VECTOR, DRAM, FILL, CAUSES };

struct Step {
  Config c;
  Memory memory;
  Pipe link, port;
  Credits room[3];  // early, late, out
  std::vector<Work> works;
  std::vector<Passed> passed;
  std::vector<Cycle> ends;
  bool closed = false;
  Cycle busy_until = 0, transactions = 0;

  explicit Step(const Config& config) : c(config), memory(c) {
    link.width = c.link_bytes_per_cycle;
    port.width = c.port_bytes_per_cycle;
    room[0].free = c.early_room, room[1].free = c.late_room, room[2].free = c.out_room;
    for (auto& engine : engines) engine.under_way.assign(c.queue_depth, 0);
    for (int i = 0; i < 3; ++i) engines[i].address = i * ((Cycle(1) << 28) + 80 * 1024);
    left.assign(c.accumulator_chunks, {0, 0});
  }

  Cycle lanes_done(Cycle group) const {
    if (group < 0) return 0;
    if (group >= Cycle(works.size()) || Cycle(passed[group].lanes.size()) < works[group].chunks) return NEVER;
    return passed[group].lanes.back();
  }
  Cycle end(Cycle group) const { return group < 0 ? 0 : group < Cycle(ends.size()) ? ends[group] : NEVER; }

  // The part of its source that a late chunk needs; −1: nothing made in this step.
  Cycle needed_part(Cycle group, Cycle chunk) const {
    const Work& work = works[group];
    if (work.needs < 0) return -1;
    const Cycle chunks = works[work.needs].chunks;
    if (work.whole) return chunks - 1;
    return std::min(chunks - 1, chunks == work.chunks ? chunk + 1 : ceil_div((chunk + 1) * chunks, work.chunks));
  }
  std::pair<Cycle, Cycle> made(Cycle group, Cycle part) const {
    if (part < 0) return {0, 0};
    const Passed& source = passed[works[group].needs];
    if (part >= Cycle(source.written.size())) return {NEVER, NEVER};
    return {source.result[part], source.written[part]};
  }

  // --- DMA: engines 0 early, 1 late, 2 write ---

  struct Engine {
    Cycle group = 0, chunk = 0, free = 0, address = 0, last_done = 0;
    Place place;
    std::vector<Cycle> under_way;
    size_t oldest = 0;
    Cycle begun = -1;  // the group that what follows is of
    Shares shares;
    Cycle moving = 0, nbytes = 0, part = -1;  // chunks that move at all; of this chunk
  } engines[3];

  void begin(int which) {
    Engine& engine = engines[which];
    if (engine.begun == engine.group) return;
    const Work& work = works[engine.begun = engine.group];
    engine.moving = which == 1 ? work.first_pass() : work.chunks;
    engine.shares = Shares(which == 0 ? work.early_bytes : which == 1 ? work.late_bytes : work.out_bytes, engine.moving);
    look(which);
  }
  void look(int which) {
    Engine& engine = engines[which];
    engine.nbytes = engine.chunk < engine.moving ? engine.shares.next() : 0;
    if (which == 1) engine.part = needed_part(engine.group, engine.chunk);
  }

  Cycle transfer(Engine& engine, Cycle nbytes, bool write, Cycle at) {
    if (!nbytes) {
      engine.free = at;
      return at;
    }
    Cycle done = std::max(memory.transport(engine.place, engine.address, nbytes, write, at), link.transport(nbytes, at));
    busy_until = std::max(busy_until, done);
    ++transactions;
    done = std::max(done, engine.last_done);
    engine.address += (nbytes + 63) / 64 * 64;
    engine.under_way[engine.oldest] = engine.last_done = done;
    if (++engine.oldest == engine.under_way.size()) engine.oldest = 0;
    engine.free = at + c.issue_cycles;
    return done;
  }
  void next(int which) {
    Engine& engine = engines[which];
    if (++engine.chunk == works[engine.group].chunks)
      ++engine.group, engine.chunk = 0;
    else
      look(which);
  }
  Cycle allowed(Cycle group) const {
    return c.prefetch_layers ? lanes_done(group - 1 - c.prefetch_layers) : end(group - 1);
  }
  Cycle reader_ready(int late) {
    const Engine& engine = engines[late];
    Cycle at = std::max(engine.free, allowed(engine.group));
    if (at >= NEVER || engine.group == Cycle(works.size())) return closed ? NEVER : at;
    begin(late);
    if (late) at = std::max(at, made(engine.group, engine.part).second);
    if (engine.nbytes) at = std::max({at, engine.under_way[engine.oldest], room[late].when(engine.nbytes)});
    return at;
  }
  bool read(int late, Cycle at) {
    Engine& engine = engines[late];
    if (engine.group == Cycle(works.size())) return false;
    Passed& of_group = passed[engine.group];
    const Cycle nbytes = engine.nbytes;
    const auto [result, written] = late ? made(engine.group, engine.part) : std::pair<Cycle, Cycle>{0, 0};
    const Cycle may = std::max(written, allowed(engine.group));
    const Wait wait{result, may, busy_until > may};
    room[late].free -= nbytes;
    const Cycle done = transfer(engine, nbytes, false, at);
    (late ? of_group.late : of_group.early).push_back(done);
    (late ? of_group.late_wait : of_group.early_wait).push_back(wait);
    next(late);
    return true;
  }
  Cycle writer_ready() {
    const Engine& engine = engines[2];
    if (engine.group == Cycle(works.size())) return NEVER;
    const auto& result = passed[engine.group].result;
    if (engine.chunk == Cycle(result.size())) return NEVER;
    begin(2);
    const Cycle at = std::max(engine.free, result[engine.chunk]);
    return engine.nbytes ? std::max(at, engine.under_way[engine.oldest]) : at;
  }
  void write(Cycle at) {
    Engine& engine = engines[2];
    auto& written = passed[engine.group].written;
    const Cycle nbytes = engine.nbytes;
    Cycle done = transfer(engine, nbytes, true, at);
    done = std::max(done, written.empty() ? end(engine.group - 1) : written.back());
    room[2].given.push_back({done, nbytes});
    written.push_back(done);
    if (engine.chunk + 1 == works[engine.group].chunks) ends.push_back(done);
    next(2);
  }

  // --- the lanes and their line of causes ---

  Cycle lane_group = 0, lane_chunk = 0, lane_free = 0, lane_late = 0, until = 0;
  Shares of_load, of_starved, of_busy, of_port, of_early, of_late;
  std::vector<std::pair<Cycle, Cycle>> left;
  size_t oldest_left = 0;
  std::vector<std::pair<Cycle, Cause>> parts;
  size_t cut = 0, part = 0;
  Cycle cut_at = 0;

  void add(Cycle to, Cause cause) {
    if (to > until) parts.push_back({to, cause}), until = to;
  }
  Cycle taken() const {
    const auto [group, count] = left[oldest_left];
    if (!count) return 0;
    const auto& streamed = passed[group].streamed;
    return count <= Cycle(streamed.size()) ? streamed[count - 1] : NEVER;
  }
  Cycle lanes_ready() const {
    if (lane_group == Cycle(works.size())) return NEVER;
    const Passed& of_group = passed[lane_group];
    if (lane_chunk >= Cycle(of_group.early.size()) || lane_chunk >= Cycle(of_group.late.size())) return NEVER;
    return std::max({lane_free, of_group.early[lane_chunk], of_group.late[lane_chunk], taken()});
  }
  void waited(Cycle at) {
    if (at == until) return;
    if (taken() == at) return add(at, VECTOR);
    const Passed& of_group = passed[lane_group];
    const bool early = of_group.early[lane_chunk] > of_group.late[lane_chunk];
    const Wait wait = (early ? of_group.early_wait : of_group.late_wait)[lane_chunk];
    add(std::min(wait.made, at), VECTOR);
    add(std::min(wait.allowed, at), FILL);
    add(at, wait.queued ? DRAM : FILL);
  }
  void compute(Cycle at) {
    const Work& work = works[lane_group];
    if (!lane_chunk) {
      of_load = Shares(work.load_cycles, work.chunks), of_starved = Shares(work.starved_cycles, work.chunks);
      of_busy = Shares(work.busy_cycles, work.chunks), of_port = Shares(work.port_bytes, work.chunks);
      lane_late = work.first_pass();
      of_early = Shares(work.early_bytes, work.chunks), of_late = Shares(work.late_bytes, lane_late);
    }
    waited(at);
    add(until + of_load.next(), LOAD);
    add(until + of_starved.next(), ENCODE);
    add(until + of_busy.next(), COMPUTE);
    add(port.transport(of_port.next(), at), ENCODE);
    lane_free = until;
    passed[lane_group].lanes.push_back(lane_free);
    room[0].given.push_back({lane_free, of_early.next()});
    room[1].given.push_back({lane_free, lane_chunk < lane_late ? of_late.next() : 0});
    left[oldest_left] = {lane_group, work.parts_after(lane_chunk)};
    if (++oldest_left == left.size()) oldest_left = 0;
    if (++lane_chunk == work.chunks) ++lane_group, lane_chunk = 0;
  }

  // --- the vector unit ---

  Cycle vector_group = 0, vector_part = 0, vector_free = 0, vector_bytes = 0;
  Shares of_vector, of_out;
  bool after = false, vector_begun = false;

  Cycle vector_ready() {
    if (vector_group == Cycle(works.size())) return NEVER;
    const Work& work = works[vector_group];
    Cycle at = vector_free;
    if (!after) {
      const auto& lanes = passed[vector_group].lanes;
      const Cycle needed = work.needed_lane_chunk(vector_part);
      if (needed >= Cycle(lanes.size())) return NEVER;
      at = std::max(at, lanes[needed]);
    }
    if (!vector_begun) {
      of_vector = Shares(after ? work.after_cycles : work.streamed_cycles, work.chunks);
      of_out = Shares(work.out_bytes, work.chunks), vector_bytes = of_out.next();
      vector_begun = true;
    }
    if (after || !work.after_cycles) at = std::max(at, room[2].when(vector_bytes));
    return at;
  }
  void vector(Cycle at) {
    const Work& work = works[vector_group];
    Passed& of_group = passed[vector_group];
    vector_free = at + of_vector.next();
    if (!after) of_group.streamed.push_back(vector_free);
    if (after || !work.after_cycles) {
      room[2].free -= vector_bytes;
      of_group.result.push_back(vector_free);
    }
    vector_bytes = of_out.next();
    if (++vector_part == work.chunks) {
      after = !after && work.after_cycles > 0;
      vector_group += !after;
      vector_part = 0;
      vector_begun = false;
    }
  }

  // --- the calendar ---

  // What an act may have changed of the others' readiness; one's own always.
  enum : unsigned { WRITER = 1, UNIT = 2, LANES = 4, LATE = 8, EARLY = 16, ALL = 31 };

  void run() {
    Cycle ready[5] = {};
    unsigned stale = ALL;
    for (;;) {
      if (stale & WRITER) ready[0] = writer_ready();
      if (stale & UNIT) ready[1] = vector_ready();
      if (stale & LANES) ready[2] = lanes_ready();
      if (stale & LATE) ready[3] = reader_ready(1);
      if (stale & EARLY) ready[4] = reader_ready(0);
      int first = 0;
      for (int i = 1; i < 5; ++i)
        if (ready[i] < ready[first]) first = i;
      const Cycle at = ready[first];
      if (at >= NEVER) return;
      if (first == 0) write(at), stale = WRITER | UNIT | LATE | EARLY;
      if (first == 1) vector(at), stale = UNIT | WRITER | LANES;
      if (first == 2) compute(at), stale = LANES | UNIT | LATE | EARLY;
      if (first == 3) {
        if (!read(1, at)) return;
        stale = LATE | LANES;
      }
      if (first == 4) {
        if (!read(0, at)) return;
        stale = EARLY | LANES;
      }
    }
  }

  bool close() {
    closed = true;
    run();
    if (ends.size() != works.size()) return false;
    if (!passed.empty()) {
      add(passed.back().result.back(), VECTOR);
      add(ends.back(), FILL);
    }
    return true;
  }

  Cycle settle(Cycle* out) {
    run();
    Cycle groups = 0;
    for (; cut < ends.size() && ends[cut] <= until; ++cut, ++groups, out += CAUSES) {
      std::fill(out, out + CAUSES, 0);
      while (cut_at < ends[cut]) {
        const Cycle to = std::min(parts[part].first, ends[cut]);
        out[parts[part].second] += to - cut_at;
        cut_at = to;
        part += parts[part].first <= ends[cut];
      }
    }
    return groups;
  }
};

}  // namespace

#define DITTO extern "C" __attribute__((visibility("default")))

DITTO void* ditto_engine_new(const int64_t* config) { return new Step(*reinterpret_cast<const Config*>(config)); }
DITTO void ditto_engine_free(void* step) { delete static_cast<Step*>(step); }

// Groups in the order of `GroupWork.row`.
DITTO void ditto_engine_push(void* step, const int64_t* groups, int64_t count) {
  auto* of_step = static_cast<Step*>(step);
  const auto* first = reinterpret_cast<const Work*>(groups);
  of_step->works.insert(of_step->works.end(), first, first + count);
  of_step->passed.resize(of_step->works.size());
  for (int64_t i = 0; i < count; ++i) {
    auto& passed = of_step->passed[of_step->works.size() - count + i];
    for (auto* times : {&passed.early, &passed.late, &passed.lanes, &passed.streamed, &passed.result, &passed.written})
      times->reserve(first[i].chunks);
    passed.early_wait.reserve(first[i].chunks);
    passed.late_wait.reserve(first[i].chunks);
  }
}
DITTO int32_t ditto_engine_close(void* step) { return static_cast<Step*>(step)->close(); }

// Causes of the groups that ended since; room for all that were pushed.
DITTO int64_t ditto_engine_settle(void* step, int64_t* causes) { return static_cast<Step*>(step)->settle(causes); }
DITTO int64_t ditto_engine_transactions(void* step) { return static_cast<Step*>(step)->transactions; }

// Many steps of as many groups each, apart from one another: causes [steps][groups][6], and transactions [steps].
DITTO int32_t ditto_engine_steps(const int64_t* config, const int64_t* groups, int64_t steps, int64_t count, int64_t* causes,
                                 int64_t* transactions, int64_t threads) {
  std::atomic<int64_t> waiting{0};
  std::atomic<bool> ended{true};
  const auto work = [&] {
    for (int64_t s; (s = waiting++) < steps;) {
      Step step(*reinterpret_cast<const Config*>(config));
      ditto_engine_push(&step, groups + s * count * 13, count);
      if (!step.close() || step.settle(causes + s * count * CAUSES) != count) ended = false;
      transactions[s] = step.transactions;
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < std::min(threads, steps); ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
  return ended;
}
