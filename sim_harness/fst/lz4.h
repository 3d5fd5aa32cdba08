// SPDX-License-Identifier: Apache-2.0
// Stands in for liblz4 where Verilator's FST writer includes it: a valid LZ4 block of one literal run, nothing more, so
// that waveforms need no system library. What it does not do: compress.
#pragma once

#include <cstring>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

inline int LZ4_compress_default(const char* from, char* into, int size, int) {
  char* at = into;
  if (size < 15) {
    *at++ = static_cast<char>(size << 4);
  } else {
    *at++ = static_cast<char>(0xf0);
    int rest = size - 15;
    for (; rest >= 255; rest -= 255) *at++ = static_cast<char>(255);
    *at++ = static_cast<char>(rest);
  }
  std::memcpy(at, from, size);
  return static_cast<int>(at - into) + size;
}
