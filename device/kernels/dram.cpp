// A first-ready DRAM controller, compiled: equal in every figure to its reference, which carries the contract and the reasons
// (`timing/first_ready.py`).
//
// What it does not do: anything the reference does not.

#include <algorithm>
#include <array>
#include <cstdint>
#include <queue>
#include <vector>

namespace {

using Cycle = int64_t;
constexpr Cycle NEVER = Cycle(1) << 62;
constexpr Cycle LONG_AGO = -(Cycle(1) << 40);

// In the order of `DramConfig`'s fields behind `bytes_per_cycle`.
struct Config {
  Cycle groups, banks_per_group, row_requests, burst, cas, write_cas, row_to_column, precharge, row_active, row_cycle,
      activate_same_group, activate, four_activates, read_to_precharge, write_to_precharge, read_to_write, write_to_read,
      write_to_read_same_group, refresh_on, refresh_interval, refresh, read_queue, write_buffer, bank_queue, hits_before_close,
      drain_when_idle, window;
};

struct Request {
  Cycle bank, row, since;
  bool write;
};

struct Bank {
  Cycle group = 0, row = -1, hits = 0, activate_at = 0, column_at = 0, precharge_at = 0;
  std::vector<Request> queue;
};

struct Channel {
  const Config& c;
  std::vector<Bank> banks;
  std::vector<Request> reads, writes;
  std::vector<Cycle> read_at;
  Cycle write_at = LONG_AGO, draining = 0, turn = 0, queued = 0, activated_group = -1, refresh_at = NEVER, unissued = 0;
  std::array<Cycle, 4> activated{LONG_AGO, LONG_AGO, LONG_AGO, LONG_AGO};
  std::priority_queue<Cycle, std::vector<Cycle>, std::greater<>> outstanding;
  Cycle end = 0, row_hits = 0, waited = 0;

  explicit Channel(const Config& config) : c(config), banks(c.groups * c.banks_per_group), read_at(c.groups, LONG_AGO) {
    for (size_t i = 0; i < banks.size(); ++i) banks[i].group = Cycle(i) / c.banks_per_group;
    if (c.refresh_on) refresh_at = c.refresh_interval;
  }

  void run(const int64_t* bank, const int64_t* row, const uint8_t* write, int64_t count) {
    int64_t next = 0;
    for (Cycle now = 0; next < count || !reads.empty() || !writes.empty() || queued;) {
      next = accept(bank, row, write, next, count, now);
      bool acted = command(now);
      acted |= forward(next == count);
      now = acted ? now + 1 : next_bound(now);
    }
  }

  // --- queues ---

  int64_t accept(const int64_t* bank, const int64_t* row, const uint8_t* write, int64_t next, int64_t count, Cycle now) {
    for (; next < count; ++next) {
      auto& queue = write[next] ? writes : reads;
      if (Cycle(queue.size()) >= (write[next] ? c.write_buffer : c.read_queue)) break;
      if (c.window >= 0) {
        while (!outstanding.empty() && outstanding.top() < now) outstanding.pop();
        if (unissued + Cycle(outstanding.size()) >= c.window) break;
        unissued += !write[next];
      }
      queue.push_back({bank[next], row[next], now, bool(write[next])});
    }
    return next;
  }
  bool forward(bool last) {
    if (!draining && !writes.empty()) {
      const Cycle waiting = writes.size();
      const bool flush = last && reads.empty();
      if (waiting >= c.write_buffer || (!queued && (waiting > c.drain_when_idle || flush))) draining = waiting;
    }
    auto& queue = draining ? writes : reads;
    for (auto request = queue.begin(); request != queue.end(); ++request) {
      auto& waiting = banks[request->bank].queue;
      if (Cycle(waiting.size()) >= c.bank_queue) continue;
      waiting.push_back(*request);
      queue.erase(request);
      ++queued;
      draining -= draining > 0;
      return true;
    }
    return false;
  }

  // --- commands ---

  struct Ready {
    Bank* bank;
    Cycle index;
  };

  bool command(Cycle now) {
    if (now >= refresh_at) return refresh(now);
    const Ready first = next_ready(now);
    if (!first.bank) return false;
    const bool column = issue(first, now);
    const Ready second = next_ready(now);
    if (second.bank && is_column(second) != column) issue(second, now);
    return true;
  }
  Ready next_ready(Cycle now) {
    for (size_t i = 0; i < banks.size(); ++i) {
      if (++turn == Cycle(banks.size())) turn = 0;
      Bank& bank = banks[turn];
      if (bank.queue.empty()) continue;
      const Cycle index = first_ready(bank, now);
      if (index >= 0) return {&bank, index};
    }
    return {nullptr, -1};
  }
  Cycle first_ready(const Bank& bank, Cycle now) const {
    const auto& queue = bank.queue;
    if (bank.row < 0) return now >= std::max(bank.activate_at, activate_at(bank.group)) ? 0 : -1;
    if (queue[0].row != bank.row && now >= bank.precharge_at) {
      const bool hit = std::any_of(queue.begin(), queue.end(), [&](const Request& r) { return r.row == bank.row; });
      if (!hit || bank.hits >= c.hits_before_close) return 0;
    }
    if (now >= bank.column_at)
      for (size_t i = 0; i < queue.size(); ++i)
        if (queue[i].row == bank.row && now >= (queue[i].write ? write_at : read_at[bank.group])) return i;
    return -1;
  }
  Cycle activate_at(Cycle group) const {
    const Cycle gap = group == activated_group ? c.activate_same_group : c.activate;
    return std::max(activated[3] + gap, activated[0] + c.four_activates);
  }
  static bool is_column(const Ready& ready) { return ready.bank->queue[ready.index].row == ready.bank->row; }

  bool issue(const Ready& ready, Cycle now) {
    Bank& bank = *ready.bank;
    const Request request = bank.queue[ready.index];
    if (bank.row < 0) {
      bank.row = request.row, bank.hits = 0;
      bank.activate_at = now + c.row_cycle, bank.precharge_at = now + c.row_active, bank.column_at = now + c.row_to_column;
      activated = {activated[1], activated[2], activated[3], now};
      activated_group = bank.group;
      return false;
    }
    if (request.row != bank.row) {
      close(bank, now);
      return false;
    }
    bank.queue.erase(bank.queue.begin() + ready.index);
    --queued;
    row_hits += bank.hits++ > 0;
    Cycle done;
    if (request.write) {
      write_at = now + c.burst;
      std::fill(read_at.begin(), read_at.end(), now + c.write_to_read);
      read_at[bank.group] = now + c.write_to_read_same_group;
      bank.precharge_at = std::max(bank.precharge_at, now + c.write_to_precharge);
      done = now + c.write_cas + c.burst;
    } else {
      write_at = now + c.read_to_write;
      std::fill(read_at.begin(), read_at.end(), now + c.burst);
      bank.precharge_at = std::max(bank.precharge_at, now + c.read_to_precharge);
      done = now + c.cas + c.burst;
      waited += done - request.since;
      if (c.window >= 0) outstanding.push(done), --unissued;
    }
    end = std::max(end, done);
    return true;
  }
  void close(Bank& bank, Cycle now) {
    bank.row = -1;
    bank.activate_at = std::max(bank.activate_at, now + c.precharge);
  }
  bool refresh(Cycle now) {
    for (Bank& bank : banks)
      if (bank.row >= 0 && now >= bank.precharge_at) {
        close(bank, now);
        return true;
      }
    for (const Bank& bank : banks)
      if (bank.row >= 0 || now < bank.activate_at) return false;
    for (Bank& bank : banks) bank.activate_at = now + c.refresh;
    refresh_at += c.refresh_interval;
    return true;
  }

  Cycle next_bound(Cycle now) const {
    Cycle bound = NEVER;
    const auto consider = [&](Cycle at) {
      if (at > now) bound = std::min(bound, at);
    };
    consider(refresh_at), consider(write_at);
    for (Cycle at : read_at) consider(at);
    consider(activated[3] + c.activate), consider(activated[3] + c.activate_same_group);
    consider(activated[0] + c.four_activates);
    if (!outstanding.empty()) consider(outstanding.top() + 1);
    for (const Bank& bank : banks) consider(bank.activate_at), consider(bank.column_at), consider(bank.precharge_at);
    return bound < NEVER ? bound : now + 1;
  }
};

}  // namespace

#define DITTO extern "C" __attribute__((visibility("default")))

// A trace through one channel from rest: last data's cycle, row hits, the reads' latencies added up.
DITTO void ditto_dram_channel(const int64_t* config, const int64_t* bank, const int64_t* row, const uint8_t* write, int64_t count,
                              int64_t* found) {
  Channel channel(*reinterpret_cast<const Config*>(config));
  channel.run(bank, row, write, count);
  found[0] = channel.end, found[1] = channel.row_hits, found[2] = channel.waited;
}
