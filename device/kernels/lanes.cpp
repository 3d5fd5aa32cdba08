// Passes of rows through lanes, as `timing/schedule.py` has them in NumPy, for machines with a compiler: the recurrence row by row.
//
// What it does not do: say which rows a tile takes, load weights, or know the constants of the contract (`timing/schedule.py` does).

#include <algorithm>
#include <cstdint>

namespace {

struct Lane {
  int64_t done, work;  // its last row's end, and its cycles on the PEs for one block
};

// The slowest lane of a tile's rows, the first of equals.
Lane slowest_lane(const uint16_t* slots, int64_t first, int64_t last, int64_t lanes, int64_t blocks, int64_t word,
                  int64_t encode) {
  Lane slowest = {-1, 0};
  for (int64_t l = 0; l < lanes; ++l) {
    int64_t enc = 0, before = 0, done = 0, work = 0;
    for (int64_t r = first + l; r < last; r += lanes) {
      const int64_t words = std::max<int64_t>(1, (slots[r] + word - 1) / word);
      enc = std::max(enc, before) + encode;
      before = done;
      done = std::max(done, enc) + words * blocks;
      work += words;
    }
    if (done > slowest.done) slowest = {done, work};
  }
  return slowest;
}

int64_t rows_of_a_lane(int64_t first, int64_t last, int64_t lanes) { return (last - first + lanes - 1) / lanes; }

}  // namespace

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
          const Lane slowest = slowest_lane(of_group, edges[t], edges[t + 1], lanes, blocks, word, encode[c]);
          *run++ = slowest.done;
          *busy++ = slowest.work;
          *encoded++ = rows_of_a_lane(edges[t], edges[t + 1], lanes) * encode[c];
        }
      }
    }
  }
}

// A work cut over a chip's tiles (`timing/schedule.py`): counts, then what they count, one after another.
struct DittoWork {
  int64_t groups, rows, chunks, parts, row_tiles, group_tiles, passes;
  int64_t lanes, banks, word, outside;  // `outside`: fill and drain of a pass
  // lengths [chunks], encode [chunks], part edges [parts + 1], row edges [row_tiles + 1], group edges [group_tiles + 1],
  // blocks [passes]
};

// slots: uint16 [chunks][groups * rows] of one step. cycles: total, PEs busy, weights loading and encoders of the slowest tile
// (the first of equals), and the sum of the totals of all tiles whose rows or chunks differ.
extern "C" __attribute__((visibility("default"))) void ditto_work_cycles(const DittoWork* of, const uint16_t* slots,
                                                                          int64_t* cycles) {
  const DittoWork& w = *of;
  const int64_t* lengths = reinterpret_cast<const int64_t*>(of + 1);
  const int64_t *encode = lengths + w.chunks, *part_edges = encode + w.chunks, *row_edges = part_edges + w.parts + 1;
  const int64_t *group_edges = row_edges + w.row_tiles + 1, *blocks = group_edges + w.group_tiles + 1;
  int64_t most[4] = {-1, 0, 0, 0}, sum = 0;
  for (int64_t part = 0; part < w.parts; ++part) {
    for (int64_t share = 0; share < w.group_tiles; ++share) {
      for (int64_t t = 0; t < w.row_tiles; ++t) {
        int64_t tile[4] = {};
        for (int64_t g = group_edges[share]; g < group_edges[share + 1]; ++g) {
          for (int64_t p = 0; p < w.passes; ++p) {
            int64_t before = 0;  // of the chunk that ran while this one's weights loaded
            for (int64_t c = part_edges[part]; c < part_edges[part + 1]; ++c) {
              const uint16_t* of_group = slots + (c * w.groups + g) * w.rows;
              const Lane slowest =
                  slowest_lane(of_group, row_edges[t], row_edges[t + 1], w.lanes, blocks[p], w.word, encode[c]);
              int64_t load = lengths[c] * blocks[p];
              if (w.banks == 2 && c > part_edges[part]) load = std::max<int64_t>(load - before, 0);
              before = slowest.done + w.outside;
              tile[0] += before + load;
              tile[1] += slowest.work * blocks[p];
              tile[2] += load;
              tile[3] += rows_of_a_lane(row_edges[t], row_edges[t + 1], w.lanes) * encode[c];
            }
          }
        }
        sum += tile[0];
        if (tile[0] > most[0]) std::copy_n(tile, 4, most);
      }
    }
  }
  std::copy_n(most, 4, cycles);
  cycles[4] = sum;
}
