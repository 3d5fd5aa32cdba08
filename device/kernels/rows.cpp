// Rows and their counts, as `slots.py` has them in NumPy, for machines with a compiler: one pass instead of ten.
//
// d = current - reference; an element is zero, low or full. Operands are compared as unsigned bytes, offset by 128, which
// compilers do many at a time. A convolution's rows are windows of a padded picture: their counts are sums over pixels.
// What it does not do: cut K into chunks, or know what a row is for (slots.py does).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

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

// Elements that are not zero, and full ones above them: both fit 16 bits, because slots of a chunk do.
template <bool kMag4>
uint32_t packed(const uint8_t* current, const uint8_t* reference, int64_t k) {
  int32_t nonzero, full;
  count<kMag4>(current, reference, k, &nonzero, &full);
  return static_cast<uint32_t>(nonzero) | static_cast<uint32_t>(full) << 16;
}

}  // namespace

extern "C" {

// Pictures [batch][height][width][channels], already padded; row (b, i, j) is the window at (i * stride_h, j * stride_w), its
// elements (u, v, c).
struct DittoWindows {
  int64_t batch, height, width, channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, out_h, out_w;
};

// What a row is compared with: another picture's, one pixel everywhere, or the row before (the pixel before the first).
enum DittoReference : int32_t { kPicture = 0, kPixel = 1, kRowBefore = 2 };

// A chunk of K is made of whole segments of channels at kernel positions: those of pieces[ends[c - 1]] … pieces[ends[c] - 1].
struct DittoPiece {
  int64_t position, segment;
};

}

namespace {

template <bool kMag4>
bool count_windows(const uint8_t* current, const uint8_t* reference, DittoReference kind, const DittoWindows& w,
                   const int64_t* cuts, int64_t segments, const DittoPiece* pieces, const int64_t* ends, int64_t chunks,
                   uint16_t* slots, int64_t* totals) {
  const int64_t pixels = w.batch * w.height * w.width;
  const std::unique_ptr<uint32_t[]> of_pixel(new (std::nothrow) uint32_t[segments * pixels]());
  const std::unique_ptr<uint32_t[]> line(new (std::nothrow) uint32_t[w.out_w]);
  if (!of_pixel || !line) return false;
  for (int64_t p = 0; p < pixels; ++p) {
    const uint8_t* pixel = current + p * w.channels;
    const uint8_t* other = reference;
    if (kind == kPicture) other = reference + p * w.channels;
    if (kind == kRowBefore) {
      if (p % w.width < w.stride_w) continue;  // in first windows alone, which are not sums
      other = pixel - w.stride_w * w.channels;
    }
    for (int64_t s = 0; s < segments; ++s) {
      of_pixel[s * pixels + p] = packed<kMag4>(pixel + cuts[s], other + cuts[s], cuts[s + 1] - cuts[s]);
    }
  }

  auto at = [&](int64_t b, int64_t i, int64_t j, int64_t position) {
    return (b * w.height + i * w.stride_h + position / w.kernel_w * w.dilation_h) * w.width + j * w.stride_w +
           position % w.kernel_w * w.dilation_w;
  };
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const DittoPiece* first = pieces + (chunk ? ends[chunk - 1] : 0);
    const DittoPiece* last = pieces + ends[chunk];
    for (int64_t b = 0; b < w.batch; ++b) {
      for (int64_t i = 0; i < w.out_h; ++i) {
        std::fill_n(line.get(), w.out_w, 0);
        for (const DittoPiece* piece = first; piece < last; ++piece) {
          const uint32_t* from = &of_pixel[piece->segment * pixels + at(b, i, 0, piece->position)];
          for (int64_t j = 0; j < w.out_w; ++j) line[j] += from[j * w.stride_w];
        }
        if (kind == kRowBefore) {
          line[0] = 0;
          for (const DittoPiece* piece = first; piece < last; ++piece) {
            const int64_t low = cuts[piece->segment];
            const uint8_t* before = i ? current + at(b, i - 1, w.out_w - 1, piece->position) * w.channels : reference;
            const uint8_t* pixel = current + at(b, i, 0, piece->position) * w.channels;
            line[0] += packed<kMag4>(pixel + low, before + low, cuts[piece->segment + 1] - low);
          }
        }
        for (int64_t j = 0; j < w.out_w; ++j) {
          const uint32_t counts = line[j];
          const uint32_t nonzero = counts & 0xffff, full = counts >> 16;
          totals[0] += nonzero;
          totals[1] += full;
          *slots++ = nonzero + full;
        }
      }
    }
  }
  return true;
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

// Rows against up to three references at once, chunk by chunk of K. A reference is rows of its own, one value everywhere, or the
// row before within chains of `chain` rows (the value before the first).
struct DittoAgainst {
  const uint8_t* rows;  // null: none
  int64_t stride, chain, value;
};

// slots: uint16 [references][chunks][rows]; totals: int64 [references][zero | low | full]. Returns 0 if there is no memory.
extern "C" __attribute__((visibility("default"))) int32_t ditto_count_against(
    const uint8_t* current, int64_t current_stride, int64_t rows, const int64_t* lengths, int64_t chunks,
    const DittoAgainst* references, int64_t asked, int32_t mag4, uint16_t* slots, int64_t* totals) {
  int64_t k = 0;
  for (int64_t c = 0; c < chunks; ++c) k += lengths[c];
  const std::unique_ptr<uint8_t[]> constant(new (std::nothrow) uint8_t[k]);
  if (!constant) return 0;
  for (int64_t r = 0; r < asked; ++r, slots += chunks * rows, totals += 3) {
    const DittoAgainst& against = references[r];
    if (!against.rows) std::memset(constant.get(), static_cast<uint8_t>(against.value), k);
    int64_t some = 0, many = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* one = current + row * current_stride;
      const uint8_t* other = against.rows ? against.rows + row * against.stride : constant.get();
      if (against.chain && row % against.chain) other = one - current_stride;
      for (int64_t c = 0; c < chunks; one += lengths[c], other += lengths[c], ++c) {
        int32_t nonzero, full;
        (mag4 ? count<true> : count<false>)(one, other, lengths[c], &nonzero, &full);
        slots[c * rows + row] = static_cast<uint16_t>(nonzero + full);
        some += nonzero, many += full;
      }
    }
    totals[0] = k * rows - some, totals[1] = some - many, totals[2] = many;
  }
  return 1;
}

// slots: uint16 [chunks][rows]. totals: elements that are not zero, and full ones; added to what is there. `reference` is a
// picture or a pixel. Returns 0 if there is no memory.
extern "C" __attribute__((visibility("default"))) int32_t ditto_count_windows(
    const uint8_t* current, const uint8_t* reference, int32_t kind, const DittoWindows* windows, const int64_t* cuts,
    int64_t segments, const DittoPiece* pieces, const int64_t* ends, int64_t chunks, int32_t mag4, uint16_t* slots,
    int64_t* totals) {
  return (mag4 ? count_windows<true> : count_windows<false>)(current, reference, static_cast<DittoReference>(kind), *windows,
                                                             cuts, segments, pieces, ends, chunks, slots, totals);
}

// [pictures][height][width] of `pixel` bytes with a border of one value around every picture.
extern "C" __attribute__((visibility("default"))) void ditto_pad(const uint8_t* pictures, int64_t count, int64_t height,
                                                                  int64_t width, int64_t pixel, int64_t above, int64_t beside,
                                                                  int32_t value, uint8_t* padded) {
  const int64_t line = width * pixel, side = beside * pixel, edge = above * (line + 2 * side);
  for (int64_t p = 0; p < count; ++p) {
    std::memset(padded, value, edge), padded += edge;
    for (int64_t y = 0; y < height; ++y, pictures += line) {
      std::memset(padded, value, side), padded += side;
      std::memcpy(padded, pictures, line), padded += line;
      std::memset(padded, value, side), padded += side;
    }
    std::memset(padded, value, edge), padded += edge;
  }
}

// The rows themselves, [batch * out_h * out_w][kernel_h * kernel_w * channels].
extern "C" __attribute__((visibility("default"))) void ditto_unroll(const uint8_t* padded, const DittoWindows* windows,
                                                                     uint8_t* rows) {
  const DittoWindows& w = *windows;
  const bool beside = w.dilation_w == 1;  // whether a line of the kernel is one run of the picture's
  const int64_t runs = beside ? 1 : w.kernel_w, run = (beside ? w.kernel_w : 1) * w.channels;
  for (int64_t b = 0; b < w.batch; ++b) {
    for (int64_t i = 0; i < w.out_h; ++i) {
      for (int64_t j = 0; j < w.out_w; ++j) {
        const uint8_t* line = padded + ((b * w.height + i * w.stride_h) * w.width + j * w.stride_w) * w.channels;
        for (int64_t u = 0; u < w.kernel_h; ++u, line += w.dilation_h * w.width * w.channels) {
          for (int64_t v = 0; v < runs; ++v, rows += run) std::memcpy(rows, line + v * w.dilation_w * w.channels, run);
        }
      }
    }
  }
}
