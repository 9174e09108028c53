// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// random_u32(seed, i) is a pure function, so any thread can draw element i in any order and CPU, CUDA and every rank get the
// same bits. ops/reference.py holds the same function in PyTorch; tests hold the Random123 known answers.
#pragma once
#include <cstdint>

#include "common/types.h"

namespace spx {

struct Philox4 {
  uint32_t x[4];
};

SPX_HOST_DEVICE Philox4 philox4x32(uint64_t seed, uint64_t counter) {
  Philox4 c = {{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0u, 0u}};
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

}  // namespace spx
