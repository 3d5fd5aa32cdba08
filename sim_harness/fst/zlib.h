// SPDX-License-Identifier: Apache-2.0
// Stands in for zlib where Verilator's FST writer includes it: a valid zlib stream of stored blocks, nothing more, so that
// waveforms need no system library. What it does not do: compress.
#pragma once

#include <cstdint>
#include <cstring>

using uLong = unsigned long;
using uLongf = unsigned long;
using Bytef = unsigned char;
constexpr int Z_OK = 0;

inline uLong compressBound(uLong size) { return size + (size / 65535 + 1) * 5 + 6; }

inline int compress2(Bytef* into, uLongf* into_size, const Bytef* from, uLong size, int) {
  Bytef* at = into;
  *at++ = 0x78;
  *at++ = 0x01;
  uint32_t low = 1, high = 0;
  for (uLong i = 0; i < size; ++i) low = (low + from[i]) % 65521, high = (high + low) % 65521;
  do {
    const uLong part = size < 65535 ? size : 65535;
    *at++ = part == size;
    *at++ = part & 0xff, *at++ = part >> 8, *at++ = ~part & 0xff, *at++ = ~part >> 8 & 0xff;
    std::memcpy(at, from, part);
    at += part, from += part, size -= part;
  } while (size);
  *at++ = high >> 8, *at++ = high & 0xff, *at++ = low >> 8, *at++ = low & 0xff;
  *into_size = static_cast<uLongf>(at - into);
  return Z_OK;
}
