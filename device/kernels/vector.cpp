// The vector unit's busiest commands, as `vector.py` has them in NumPy, for machines with a compiler: one pass each.
//
// Every line is one rounding of one operation, in the order of protocol/isa.py; the library is compiled without contraction
// of products and sums. NaN passes through wherever NumPy lets it.
// What it does not do: memory order, refusals (vector.py does).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

inline float exp32(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = std::rint(x * 1.44269504f);
  float r = x - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.98756915e-4f * r;
  p += 1.39819995e-3f, p *= r;
  p += 8.33345205e-3f, p *= r;
  p += 4.16657962e-2f, p *= r;
  p += 1.66666657e-1f, p *= r;
  p += 5.00000012e-1f;
  p *= r * r;
  p += r;
  p += 1.0f;
  const int32_t exponent = static_cast<int32_t>(n == n ? n : 0.0f);
  const int32_t bits = (exponent + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

}  // namespace

#define DITTO_API extern "C" __attribute__((visibility("default")))

DITTO_API void ditto_silu(const float* __restrict x, float* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    float e = exp32(-x[i]);
    e += 1.0f;
    out[i] = x[i] / e;
  }
}

DITTO_API void ditto_gelu_tanh(const float* __restrict x, float* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float u = x[i] * x[i] * x[i];
    const float v = (x[i] + 0.0447149985f * u) * 1.59576917f;
    out[i] = x[i] / (1.0f + exp32(-v));
  }
}

DITTO_API void ditto_gelu_erf(const float* __restrict x, float* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float a = std::fabs(x[i] * 0.707106769f);
    const float t = 1.0f / (1.0f + 0.327591091f * a);
    float p = 1.06140542f * t;
    p = (p + -1.45315206f) * t;
    p = (p + 1.42141378f) * t;
    p = (p + -0.284496725f) * t;
    p = (p + 0.254829586f) * t;
    float e = 1.0f - p * exp32(-(a * a));
    e = x[i] < 0.0f ? -e : e;
    out[i] = 0.5f * x[i] * (1.0f + e);
  }
}

// Rows of [rows, width]: rint(127 exp(x - the row's greatest)) as bytes, and its sum, at least 1; a row of -infinity draws
// nothing. Returns 0 if a row's greatest is NaN or +infinite.
DITTO_API int32_t ditto_softmax(const float* __restrict x, int8_t* __restrict out, int32_t* __restrict sums, int64_t rows,
                                int64_t width) {
  for (int64_t row = 0; row < rows; ++row, x += width, out += width) {
    float peak = x[0];
    bool nan = false;
    for (int64_t i = 0; i < width; ++i) {
      peak = x[i] > peak ? x[i] : peak;
      nan |= x[i] != x[i];
    }
    if (nan || peak > 3.40282347e38f) return 0;
    if (peak < -3.40282347e38f) {
      std::memset(out, 0, width);
      sums[row] = 1;
      continue;
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < width; ++i) {
      const int32_t e = static_cast<int32_t>(std::rint(127.0f * exp32(x[i] - peak)));
      out[i] = static_cast<int8_t>(e);
      sum += e;
    }
    sums[row] = sum;
  }
  return 1;
}

// The least and the greatest value; returns 0 if one is NaN or infinite.
DITTO_API int32_t ditto_extremes(const float* __restrict x, int64_t count, float* low, float* high) {
  constexpr int64_t kLanes = 32;  // so many running extremes side by side
  float least[kLanes], most[kLanes];
  int32_t bad[kLanes] = {};
  std::fill_n(least, kLanes, x[0]);
  std::fill_n(most, kLanes, x[0]);
  const auto see = [&](int64_t lane, float v) {
    least[lane] = v < least[lane] ? v : least[lane];
    most[lane] = v > most[lane] ? v : most[lane];
    bad[lane] |= !(std::fabs(v) <= 3.40282347e38f);
  };
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) see(lane, x[at + lane]);
  }
  for (; at < count; ++at) see(0, x[at]);
  *low = *std::min_element(least, least + kLanes);
  *high = *std::max_element(most, most + kLanes);
  return std::all_of(bad, bad + kLanes, [](int32_t b) { return b == 0; });
}

// Returns 0 if a value is NaN or infinite.
DITTO_API int32_t ditto_quantize(const float* __restrict x, int8_t* __restrict out, int64_t count, float reciprocal,
                                 float zero, float bottom) {
  int32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= !(std::fabs(x[i]) <= 3.40282347e38f);
  if (bad) return 0;
  for (int64_t i = 0; i < count; ++i) {
    float q = std::rint(x[i] * reciprocal);
    q += zero;
    q = q < bottom ? bottom : q;
    q = q > 127.0f ? 127.0f : q;
    out[i] = static_cast<int8_t>(q);
  }
  return 1;
}

DITTO_API void ditto_add(const float* __restrict a, const float* __restrict b, float* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
}

// [rows, width] plus one row.
DITTO_API void ditto_add_row(const float* __restrict x, const float* __restrict row, float* __restrict out, int64_t rows,
                             int64_t width) {
  for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
    for (int64_t i = 0; i < width; ++i) out[i] = x[i] + row[i];
  }
}

// Runs of bytes, neighbours in `from`, `stride` apart in `to`.
DITTO_API void ditto_copy_runs(const char* from, int64_t runs, int64_t length, char* to, int64_t stride) {
  for (int64_t r = 0; r < runs; ++r, from += length, to += stride) std::memcpy(to, from, length);
}

// [rows, width] int32 times a factor, over a divisor a row.
DITTO_API void ditto_dequantize_attention(const int32_t* __restrict acc, float* __restrict out, int64_t rows,
                                          int64_t width, float factor, const float* __restrict divisors) {
  for (int64_t row = 0; row < rows; ++row, acc += width, out += width) {
    for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(acc[i]) * factor / divisors[row];
  }
}

// [rows, width] int32 times scale · a factor a column, or scale alone, plus a bias a column if there is one.
DITTO_API void ditto_dequantize(const int32_t* __restrict acc, float* __restrict out, int64_t rows, int64_t width,
                                float scale, const float* __restrict factor, const float* __restrict bias) {
  for (int64_t row = 0; row < rows; ++row, acc += width, out += width) {
    if (!factor) {
      for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(acc[i]) * scale;
    } else {
      for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(acc[i]) * (scale * factor[i]);
    }
    if (bias) {
      for (int64_t i = 0; i < width; ++i) out[i] += bias[i];
    }
  }
}

// Rows of [rows, width]: ((x - mean) * rstd) * gamma + beta, as the groups below; gamma and beta may be missing. Returns 0 if a
// value is NaN or infinite.
DITTO_API int32_t ditto_layer_norm(const float* __restrict x, float* __restrict out, int64_t rows, int64_t width,
                                   const float* __restrict gamma, const float* __restrict beta, double eps) {
  for (int64_t row = 0; row < rows; ++row, x += width, out += width) {
    uint32_t largest = 0;  // magnitudes are in the order of their bits
    for (int64_t i = 0; i < width; ++i) {
      uint32_t bits;
      std::memcpy(&bits, x + i, sizeof bits);
      bits &= 0x7fffffffu;
      largest = bits > largest ? bits : largest;
    }
    if (largest >= 0x7f800000u) return 0;
    float peak;
    std::memcpy(&peak, &largest, sizeof peak);
    int e;
    std::frexp(peak, &e);
    const double scale = std::ldexp(1.0, 15 - e), unit = std::ldexp(1.0, e - 15);
    int64_t s1 = 0, s2 = 0;
    for (int64_t i = 0; i < width; ++i) {
      const int32_t q = static_cast<int32_t>(std::rint(static_cast<double>(x[i]) * scale));
      s1 += q;
      s2 += q * q;
    }
    const double n = static_cast<double>(width), mu = static_cast<double>(s1) / n;
    const double var = std::max(static_cast<double>(s2) / n - mu * mu, 0.0) * (unit * unit);
    const float mean = static_cast<float>(mu * unit), rstd = static_cast<float>(1.0 / std::sqrt(var + eps));
    for (int64_t i = 0; i < width; ++i) out[i] = (x[i] - mean) * rstd;
    if (gamma) {
      for (int64_t i = 0; i < width; ++i) out[i] *= gamma[i];
    }
    if (beta) {
      for (int64_t i = 0; i < width; ++i) out[i] += beta[i];
    }
  }
  return 1;
}

// [pixels, channels] in groups of neighbouring channels: ((x - mean) * rstd) * gamma + beta; gamma and beta may be missing.
// Moments come from integers: q = rint(x * 2^(15 - e)), 2^e above the group's largest magnitude; sums of q and q * q stay
// below 2^53. Returns 0 if a value is NaN or infinite, -1 if there is no memory.
DITTO_API int32_t ditto_group_norm(const float* __restrict x, float* __restrict out, int64_t pixels, int64_t channels,
                                   int64_t groups, const float* __restrict gamma, const float* __restrict beta,
                                   double eps) {
  const int64_t inner = channels / groups;
  const std::unique_ptr<float[]> of_channel(new (std::nothrow) float[3 * channels]());
  const std::unique_ptr<double[]> sums(new (std::nothrow) double[3 * channels]());
  if (!of_channel || !sums) return -1;
  float *largest = of_channel.get(), *mean = largest + channels, *rstd = mean + channels;
  double *scale = sums.get(), *s1 = scale + channels, *s2 = s1 + channels;

  int32_t bad = 0;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const float m = std::fabs(x[p * channels + c]);
      largest[c] = m > largest[c] ? m : largest[c];
      bad |= !(m <= 3.40282347e38f);
    }
  }
  if (bad) return 0;

  for (int64_t g = 0; g < groups; ++g) {
    int e;
    std::frexp(*std::max_element(largest + g * inner, largest + (g + 1) * inner), &e);
    std::fill_n(scale + g * inner, inner, std::ldexp(1.0, 15 - e));
  }
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const double q = std::rint(static_cast<double>(x[p * channels + c]) * scale[c]);
      s1[c] += q;
      s2[c] += q * q;
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    const double n = static_cast<double>(inner * pixels), unit = 1.0 / scale[g * inner];
    double sum1 = 0, sum2 = 0;
    for (int64_t c = g * inner; c < (g + 1) * inner; ++c) sum1 += s1[c], sum2 += s2[c];
    const double mu = sum1 / n, d = sum2 / n - mu * mu;
    const double var = std::max(d, 0.0) * (unit * unit);
    std::fill_n(mean + g * inner, inner, static_cast<float>(mu * unit));
    std::fill_n(rstd + g * inner, inner, static_cast<float>(1.0 / std::sqrt(var + eps)));
  }

  for (int64_t p = 0; p < pixels; ++p, x += channels, out += channels) {
    for (int64_t c = 0; c < channels; ++c) out[c] = (x[c] - mean[c]) * rstd[c];
    if (gamma) {
      for (int64_t c = 0; c < channels; ++c) out[c] *= gamma[c];
    }
    if (beta) {
      for (int64_t c = 0; c < channels; ++c) out[c] += beta[c];
    }
  }
  return 1;
}
