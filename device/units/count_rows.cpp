// Counts of rows, as `slots.py` has them in NumPy, for machines with a compiler: one pass over the operands instead of ten.
//
// d = current - reference; an element is zero, low or full. Operands are compared as unsigned bytes, offset by 128, which
// compilers do many at a time.
// What it does not do: chunks of K and windows of pictures (slots.py does).

#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t kBlock = 224;  // elements whose count fits a byte, in whole vectors

// mag4: |d| > 15. twos4: d > 7 or d < -8. Sums saturate instead of wrapping; beyond the end no byte is larger anyway.
template <bool kMag4>
inline uint8_t is_full(uint8_t a, uint8_t b) {
  constexpr uint8_t kAbove = kMag4 ? 15 : 7, kBelow = kMag4 ? 15 : 8;
  const uint8_t highest_low = std::min<uint8_t>(b, 255 - kAbove) + kAbove;
  const uint8_t lowest_low = std::min<uint8_t>(a, 255 - kBelow) + kBelow;
  return (a > highest_low) + (b > lowest_low);
}

template <bool kMag4>
void count(const uint8_t* current, const uint8_t* reference, int64_t k, int32_t* nonzero, int32_t* full) {
  int32_t total_nonzero = 0, total_full = 0;
  for (int64_t at = 0; at < k; at += kBlock) {
    const int64_t end = std::min(k, at + kBlock);
    uint8_t nonzeros = 0, fulls = 0;
    for (int64_t i = at; i < end; ++i) {
      const uint8_t a = current[i] ^ 0x80, b = reference[i] ^ 0x80;
      nonzeros += a != b;
      fulls += is_full<kMag4>(a, b);
    }
    total_nonzero += nonzeros;
    total_full += fulls;
  }
  *nonzero = total_nonzero;
  *full = total_full;
}

}  // namespace

// counted: int32 [3, rows], the zero, low and full elements of each row. Strides are in bytes.
extern "C" __attribute__((visibility("default"))) void ditto_count_rows(
    const uint8_t* current, int64_t current_stride, const uint8_t* reference, int64_t reference_stride, int64_t rows,
    int64_t k, int32_t mag4, int32_t* counted) {
  for (int64_t row = 0; row < rows; ++row, current += current_stride, reference += reference_stride) {
    int32_t nonzero, full;
    (mag4 ? count<true> : count<false>)(current, reference, k, &nonzero, &full);
    counted[row] = static_cast<int32_t>(k) - nonzero;
    counted[rows + row] = nonzero - full;
    counted[2 * rows + row] = full;
  }
}
