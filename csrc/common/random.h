// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// random_u32(seed, i) is a pure function, so any thread can compute element i in any order, and CPU, CUDA and every rank get
// the same bits. ops/regrow/random.py holds the same function in PyTorch; tests hold the Random123 known answers.
#pragma once
#include <cstdint>

#include "common/types.h"

namespace spx {

struct Philox4 {
  uint32_t x[4];
};

// The block of a counter of 128 bits: two halves, of which most need only the low one.
SPX_HOST_DEVICE Philox4 philox4x32(uint64_t seed, uint64_t counter, uint64_t high = 0) {
  Philox4 c = {{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), static_cast<uint32_t>(high),
                static_cast<uint32_t>(high >> 32)}};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * c.x[0], b = 0xCD9E8D57ull * c.x[2];
    c = {{static_cast<uint32_t>(b >> 32) ^ c.x[1] ^ k0, static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ c.x[3] ^ k1,
          static_cast<uint32_t>(a)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// The i-th 32-bit number of the stream `seed`: four neighbours share one Philox block.
SPX_HOST_DEVICE uint32_t random_u32(uint64_t seed, uint64_t i) {
  const Philox4 four = philox4x32(seed, i >> 2);
  return i & 2 ? (i & 1 ? four.x[3] : four.x[2]) : (i & 1 ? four.x[1] : four.x[0]);  // an index would put them on the stack
}

// A number in [0, 1), of as many bits as are exact: 24 of them in float.
template <class A>
SPX_HOST_DEVICE A unit_interval(uint32_t bits) {
  if constexpr (sizeof(A) == sizeof(float))
    return static_cast<A>(bits >> 8) * 0x1p-24f;
  else
    return static_cast<A>(bits) * 0x1p-32;
}

}  // namespace spx
