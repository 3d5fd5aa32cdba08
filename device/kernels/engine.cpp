// The engine of time, compiled: equal to the cycle to its reference, whose files carry the contract and the reasons
// (`timing/engine.py`: ranks; `flow.py`, `dma.py`, `lanes.py`, `vector_time.py`: units; `kernel.py`: credits).
//
// The calendar holds the DMA engines alone, which share link and memory. Lanes and vector unit share nothing: when they act
// follows from what they wait for, so they act as soon as that is known, ahead of the calendar; nobody can tell.
//
// What it does not do: anything the reference does not.

#include "memory.h"

#include <array>
#include <atomic>
#include <memory>
#include <thread>

namespace {

// `share` of `flow.py` for index 0, 1, …, without a division for each.
struct Shares {
  Cycle count = 1, least = 0, rest = 0, carried = 0;
  Shares() = default;
  Shares(Cycle whole, Cycle parts) : count(parts), least(floor_div(whole, parts)), rest(whole - least * parts) {}
  Cycle next() {
    carried += rest;
    const bool more = carried >= count;
    carried -= more ? count : 0;
    return least + more;
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
  DramConfig dram;
};

struct Credits {
  Cycle free = 0, since = 0;
  std::vector<std::pair<Cycle, Cycle>> given;
  size_t head = 0;
  void restart(Cycle capacity) { free = capacity, since = 0, given.clear(), head = 0; }
  Cycle when(Cycle nbytes) {
    while (free < nbytes && head < given.size()) {
      since = given[head].first;
      free += given[head++].second;
    }
    return free >= nbytes ? since : NEVER;
  }
};

enum Cause { COMPUTE, ENCODE, LOAD, VECTOR, DRAM, FILL, CAUSES };

template <typename Time>
struct Step {
  // At which cycles a chunk passed the units; which of it is known, the units' own places say.
  struct Chunk {
    Cycle early, late, lanes, streamed, result, written;
    bool early_queued, late_queued;  // other transfers were before it
  };
  struct Group : Work {
    Cycle first;  // of its chunks
    Cycle behind() const { return first + chunks; }
  };
  // Where a unit is: in a group, in its chunks, in all chunks.
  struct Position {
    Cycle group = 0, chunk = 0, at = 0;
    void next(Cycle chunks) {
      ++at;
      if (++chunk == chunks) ++group, chunk = 0;
    }
  };

  const Config c;
  Memory<Time> memory;
  Pipe link, port;
  Credits early_room, late_room, out_room;
  std::vector<Group> groups;
  std::vector<Chunk> chunks;
  bool closed = false;
  Cycle busy_until = 0, transactions = 0;

  explicit Step(const Config& config) : c(config), memory(c.dram, c.clock_mhz) { restart(); }

  void restart() {
    memory.wake();
    link = {c.link_bytes_per_cycle, 0}, port = {c.port_bytes_per_cycle, 0};
    early_room.restart(c.early_room), late_room.restart(c.late_room), out_room.restart(c.out_room);
    groups.clear(), chunks.clear();
    closed = false, busy_until = transactions = 0;
    for (auto& dma : engines) dma.restart(&dma - engines, c.queue_depth);
    lanes = {}, lane_free = until = 0;
    left.assign(c.accumulator_chunks, {0, 0}), oldest_left = 0;
    vector = {}, vector_free = streamed_at = result_at = 0, after = vector_begun = false;
    parts.clear(), cut = part = 0, cut_at = 0;
  }

  void push(const Work* works, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      groups.push_back({works[i], Cycle(chunks.size())});
      chunks.resize(chunks.size() + works[i].chunks);
    }
  }

  Cycle lanes_done(Cycle group) const {
    if (group < 0) return 0;
    return lanes.at >= groups[group].behind() ? chunks[groups[group].behind() - 1].lanes : NEVER;
  }
  Cycle end(Cycle group) const {
    if (group < 0) return 0;
    return engines[WRITE].place.at >= groups[group].behind() ? chunks[groups[group].behind() - 1].written : NEVER;
  }
  bool over(const Position& place) const { return place.group == Cycle(groups.size()); }

  // --- DMA ---

  enum { EARLY, LATE, WRITE };
  struct Engine {
    Position place;
    Cycle free, address, last_done, allowed;
    typename Memory<Time>::Place walk;
    std::vector<Cycle> under_way;
    size_t oldest;
    bool begun;  // what follows is of this group
    Shares shares;
    Cycle on_link[2];              // cycles of a chunk of the least bytes, and of one more
    Cycle moving, nbytes, needed;  // chunks that move at all; of this chunk: bytes, and which chunk it needs, −1: none of this step's

    void restart(Cycle number, Cycle depth) {
      place = {}, walk = {};
      address = number * ((Cycle(1) << 28) + 80 * 1024), free = last_done = 0;
      under_way.assign(depth, 0), oldest = 0;
      begun = false, allowed = NEVER;
    }
  } engines[3];

  void begin(int which) {
    Engine& dma = engines[which];
    const Group& group = groups[dma.place.group];
    dma.moving = which == LATE ? group.first_pass() : group.chunks;
    dma.shares = Shares(which == EARLY ? group.early_bytes : which == LATE ? group.late_bytes : group.out_bytes, dma.moving);
    for (int more : {0, 1}) dma.on_link[more] = link.cycles(dma.shares.least + more);
    dma.begun = true;
    look(which);
  }
  void look(int which) {
    Engine& dma = engines[which];
    dma.nbytes = dma.place.chunk < dma.moving ? dma.shares.next() : 0;
    if (which == LATE) dma.needed = needed(dma.place.group, dma.place.chunk);
  }
  // The chunk of its source that a late chunk needs.
  Cycle needed(Cycle at, Cycle chunk) const {
    const Group& group = groups[at];
    if (group.needs < 0) return -1;
    const Group& source = groups[group.needs];
    if (group.whole) return source.behind() - 1;
    const Cycle part = source.chunks == group.chunks ? chunk + 1 : ceil_div((chunk + 1) * source.chunks, group.chunks);
    return source.first + std::min(source.chunks - 1, part);
  }
  void next(int which) {
    Engine& dma = engines[which];
    dma.place.next(groups[dma.place.group].chunks);
    if (dma.place.chunk)
      look(which);
    else
      dma.begun = false, dma.allowed = NEVER;
  }

  Cycle transfer(Engine& dma, Cycle nbytes, bool write, Cycle at) {
    if (!nbytes) return dma.free = at;
    Cycle done = std::max(memory.transport(dma.walk, dma.address, nbytes, write, at), link.take(dma.on_link[nbytes > dma.shares.least], at));
    busy_until = std::max(busy_until, done);
    ++transactions;
    done = std::max(done, dma.last_done);
    dma.address += (nbytes + 63) / 64 * 64;
    dma.under_way[dma.oldest] = dma.last_done = done;
    if (++dma.oldest == dma.under_way.size()) dma.oldest = 0;
    dma.free = at + c.issue_cycles;
    return done;
  }

  Cycle allowed(Cycle group) const {
    return c.prefetch_layers ? lanes_done(group - 1 - c.prefetch_layers) : end(group - 1);
  }
  Cycle written(Cycle needed) const {
    if (needed < 0) return 0;
    return needed < engines[WRITE].place.at ? chunks[needed].written : NEVER;
  }
  Cycle reader_ready(int which) {
    Engine& dma = engines[which];
    if (dma.allowed >= NEVER) dma.allowed = allowed(dma.place.group);
    Cycle at = std::max(dma.free, dma.allowed);
    if (over(dma.place)) return closed ? NEVER : at;
    if (at >= NEVER) return NEVER;
    if (!dma.begun) begin(which);
    if (which == LATE) at = std::max(at, written(dma.needed));
    if (dma.nbytes) at = std::max({at, dma.under_way[dma.oldest], (which == LATE ? late_room : early_room).when(dma.nbytes)});
    return at;
  }
  bool read(int which, Cycle at) {
    Engine& dma = engines[which];
    if (over(dma.place)) return false;
    Chunk& chunk = chunks[dma.place.at];
    const bool queued = busy_until > may_read(which, dma.needed, dma.allowed);
    (which == LATE ? late_room : early_room).free -= dma.nbytes;
    const Cycle done = transfer(dma, dma.nbytes, false, at);
    if (which == LATE)
      chunk.late = done, chunk.late_queued = queued;
    else
      chunk.early = done, chunk.early_queued = queued;
    next(which);
    return true;
  }
  Cycle may_read(int which, Cycle needed, Cycle allowed) const {
    return which == LATE ? std::max(written(needed), allowed) : allowed;
  }

  Cycle writer_ready() {
    Engine& dma = engines[WRITE];
    if (dma.place.at >= result_at) return NEVER;
    if (!dma.begun) begin(WRITE);
    const Cycle at = std::max(dma.free, chunks[dma.place.at].result);
    return dma.nbytes ? std::max(at, dma.under_way[dma.oldest]) : at;
  }
  void write(Cycle at) {
    Engine& dma = engines[WRITE];
    const Cycle nbytes = dma.nbytes, number = dma.place.at;
    Cycle done = transfer(dma, nbytes, true, at);
    if (number) done = std::max(done, chunks[number - 1].written);
    out_room.given.push_back({done, nbytes});
    chunks[number].written = done;
    next(WRITE);
  }

  // --- the lanes and their line of causes ---

  Position lanes;
  Cycle lane_free, lane_late, until;
  Shares of_load, of_starved, of_busy, of_port, of_early, of_late;
  std::vector<std::pair<Cycle, Cycle>> left;  // group, and how many of its parts
  size_t oldest_left;
  std::vector<std::pair<Cycle, Cause>> parts;
  size_t cut, part;
  Cycle cut_at;

  void add(Cycle to, Cause cause) {
    if (to > until) parts.push_back({to, cause}), until = to;
  }
  Cycle taken() const {
    const auto [group, count] = left[oldest_left];
    if (!count) return 0;
    const Cycle last = groups[group].first + count - 1;
    return last < streamed_at ? chunks[last].streamed : NEVER;
  }
  bool compute() {
    if (lanes.at >= engines[EARLY].place.at || lanes.at >= engines[LATE].place.at) return false;
    const Cycle took = taken();
    if (took >= NEVER) return false;
    const Group& group = groups[lanes.group];
    Chunk& chunk = chunks[lanes.at];
    const Cycle at = std::max({lane_free, chunk.early, chunk.late, took});
    if (!lanes.chunk) {
      of_load = Shares(group.load_cycles, group.chunks), of_starved = Shares(group.starved_cycles, group.chunks);
      of_busy = Shares(group.busy_cycles, group.chunks), of_port = Shares(group.port_bytes, group.chunks);
      lane_late = group.first_pass();
      of_early = Shares(group.early_bytes, group.chunks), of_late = Shares(group.late_bytes, lane_late);
    }
    if (at > until) waited(at, took);
    add(until + of_load.next(), LOAD);
    add(until + of_starved.next(), ENCODE);
    add(until + of_busy.next(), COMPUTE);
    add(port.transport(of_port.next(), at), ENCODE);
    chunk.lanes = lane_free = until;
    early_room.given.push_back({lane_free, of_early.next()});
    late_room.given.push_back({lane_free, lanes.chunk < lane_late ? of_late.next() : 0});
    left[oldest_left] = {lanes.group, group.parts_after(lanes.chunk)};
    if (++oldest_left == left.size()) oldest_left = 0;
    lanes.next(group.chunks);
    return true;
  }
  void waited(Cycle at, Cycle took) {
    if (took == at) return add(at, VECTOR);
    const Chunk& chunk = chunks[lanes.at];
    const bool early = chunk.early > chunk.late;
    const Cycle from = early ? -1 : needed(lanes.group, lanes.chunk), may = may_read(early ? EARLY : LATE, from, allowed(lanes.group));
    if (from >= 0) add(std::min(chunks[from].result, at), VECTOR);
    add(std::min(may, at), FILL);
    add(at, (early ? chunk.early_queued : chunk.late_queued) ? DRAM : FILL);
  }

  // --- the vector unit ---

  Position vector;
  Cycle vector_free, vector_bytes, streamed_at, result_at;  // how many chunks are through
  Shares of_vector, of_out;
  bool after, vector_begun;

  bool stream() {
    if (over(vector)) return false;
    const Group& group = groups[vector.group];
    Cycle at = vector_free;
    if (!after) {
      const Cycle needed = group.first + group.needed_lane_chunk(vector.chunk);
      if (needed >= lanes.at) return false;
      at = std::max(at, chunks[needed].lanes);
    }
    if (!vector_begun) {
      of_vector = Shares(after ? group.after_cycles : group.streamed_cycles, group.chunks);
      of_out = Shares(group.out_bytes, group.chunks), vector_bytes = of_out.next();
      vector_begun = true;
    }
    const bool last = after || !group.after_cycles;
    if (last) at = std::max(at, out_room.when(vector_bytes));
    if (at >= NEVER) return false;
    Chunk& chunk = chunks[group.first + vector.chunk];
    vector_free = at + of_vector.next();
    if (!after) chunk.streamed = vector_free, ++streamed_at;
    if (last) out_room.free -= vector_bytes, chunk.result = vector_free, ++result_at;
    vector_bytes = of_out.next();
    if (++vector.chunk == group.chunks) {
      after = !last;
      vector.group += last, vector.chunk = 0, vector_begun = false;
    }
    return true;
  }

  // --- the calendar ---

  // When an engine may act does not change once it is known, until it has acted.
  void run() {
    Cycle write_at = NEVER, late_at = NEVER, early_at = NEVER;
    for (;;) {
      for (bool acted = true; acted;) {
        acted = false;
        while (compute()) acted = true;
        while (stream()) acted = true;
      }
      if (write_at >= NEVER) write_at = writer_ready();
      if (late_at >= NEVER) late_at = reader_ready(LATE);
      if (early_at >= NEVER) early_at = reader_ready(EARLY);
      const Cycle at = std::min({write_at, late_at, early_at});
      if (at >= NEVER) return;
      if (write_at == at) {
        write(at);
        write_at = NEVER;
      } else if (late_at == at) {
        if (!read(LATE, at)) return;
        late_at = NEVER;
      } else {
        if (!read(EARLY, at)) return;
        early_at = NEVER;
      }
    }
  }

  bool close() {
    closed = true;
    run();
    if (!over(engines[WRITE].place)) return false;
    if (!chunks.empty()) {
      add(chunks.back().result, VECTOR);
      add(chunks.back().written, FILL);
    }
    return true;
  }

  Cycle settle(Cycle* out) {
    run();
    Cycle ended = 0;
    for (Cycle at; cut < groups.size() && (at = end(cut)) <= until; ++cut, ++ended, out += CAUSES) {
      std::fill(out, out + CAUSES, 0);
      while (cut_at < at) {
        const Cycle to = std::min(parts[part].first, at);
        out[parts[part].second] += to - cut_at;
        cut_at = to;
        part += parts[part].first <= at;
      }
    }
    return ended;
  }
};

}  // namespace

#define DITTO extern "C" __attribute__((visibility("default")))

// A step that is told group by group: its times have all bits, because what was said cannot be taken back.
using Told = Step<Cycle>;

DITTO void* ditto_engine_new(const int64_t* config) { return new Told(*reinterpret_cast<const Config*>(config)); }
DITTO void ditto_engine_free(void* step) { delete static_cast<Told*>(step); }

// Groups in the order of `GroupWork.row`.
DITTO void ditto_engine_push(void* step, const int64_t* groups, int64_t count) {
  static_cast<Told*>(step)->push(reinterpret_cast<const Work*>(groups), count);
}
DITTO int32_t ditto_engine_close(void* step) { return static_cast<Told*>(step)->close(); }

// Causes of the groups that ended since; room for all that were pushed.
DITTO int64_t ditto_engine_settle(void* step, int64_t* causes) { return static_cast<Told*>(step)->settle(causes); }
DITTO int64_t ditto_engine_transactions(void* step) { return static_cast<Told*>(step)->transactions; }

// Many steps of as many groups each, apart from one another: causes [steps][groups][6], and transactions [steps].
DITTO int32_t ditto_engine_steps(const int64_t* config, const int64_t* groups, int64_t steps, int64_t count, int64_t* causes,
                                 int64_t* transactions, int64_t threads) {
  std::atomic<int64_t> waiting{0};
  std::atomic<bool> ended{true};
  const auto& of_all = *reinterpret_cast<const Config*>(config);
  const auto take = [&](auto& step, int64_t s) {
    step.restart();
    step.push(reinterpret_cast<const Work*>(groups) + s * count, count);
    if ((!step.close() || step.settle(causes + s * count * CAUSES) != count) && step.memory.fits) ended = false;
    transactions[s] = step.transactions;
    return step.memory.fits;
  };
  const auto work = [&] {
    Step<int32_t> step(of_all);
    std::unique_ptr<Step<Cycle>> wide;
    for (int64_t s; (s = waiting++) < steps;)
      if (!take(step, s)) {
        if (!wide) wide = std::make_unique<Step<Cycle>>(of_all);
        take(*wide, s);
      }
  };
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < std::min(threads, steps); ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
  return ended;
}
