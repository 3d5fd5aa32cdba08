// Passes of rows through lanes, as `timing/schedule.py` has them in NumPy, for machines with a compiler: the recurrence row by row.
//
// What it does not do: say which rows a tile takes, load weights, or know the constants of the contract (`timing/schedule.py` does).

#include <algorithm>
#include <cstdint>

// slots: uint16 [steps][chunks][groups * rows]. Tile t takes rows edges[t] … edges[t + 1] - 1 of every group, its lane l each
// `lanes`-th of them. encode: cycles a row of each chunk takes to encode. `word`: slots a cycle.
// Out, int64 [groups][tiles][steps][chunks] each: the slowest lane's last row done, its rows' cycles on the PEs (of one
// block), and how long the encoder with the most rows worked.
extern "C" __attribute__((visibility("default"))) void ditto_lane_cycles(
    const uint16_t* slots, int64_t steps, int64_t chunks, int64_t groups, int64_t rows, const int64_t* edges, int64_t tiles,
    int64_t lanes, int64_t blocks, int64_t word, const int64_t* encode, int64_t* run, int64_t* busy, int64_t* encoded) {
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t t = 0; t < tiles; ++t) {
      for (int64_t s = 0; s < steps; ++s) {
        for (int64_t c = 0; c < chunks; ++c) {
          const uint16_t* of_group = slots + ((s * chunks + c) * groups + g) * rows;
          int64_t slowest = -1, slowest_busy = 0;
          for (int64_t l = 0; l < lanes; ++l) {
            int64_t enc = 0, before = 0, done = 0, work = 0;
            for (int64_t r = edges[t] + l; r < edges[t + 1]; r += lanes) {
              const int64_t words = std::max<int64_t>(1, (of_group[r] + word - 1) / word);
              enc = std::max(enc, before) + encode[c];
              before = done;
              done = std::max(done, enc) + words * blocks;
              work += words;
            }
            if (done > slowest) slowest = done, slowest_busy = work;
          }
          *run++ = slowest;
          *busy++ = slowest_busy;
          *encoded++ = (edges[t + 1] - edges[t] + lanes - 1) / lanes * encode[c];
        }
      }
    }
  }
}
