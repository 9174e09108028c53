// The items that growth chooses from: positions of a tile of the score, and lists of candidates; with scores or random keys.
#pragma once
#include "common/keys.h"
#include "common/random.h"
#include "cuda/device/compact.cuh"

namespace spx::cuda::regrow {

constexpr int kBits = 32;  // positions per word of a tile's bitmap of entries

template <class A, bool kRandom>
using GrowthKey = std::conditional_t<kRandom, uint32_t, Key<A>>;
template <class A, bool kRandom>
constexpr int kGrowthBits = kRandom ? 32 : 8 * sizeof(A) - 1;

// A lane's four neighbours.
template <class A, bool kRandom>
struct Four {
  A score[kFour];
  GrowthKey<A, kRandom> key[kFour];
  unsigned exist;
};

// Item j is position begin + j. Random growth begins at a multiple of 4, as Philox blocks do: `lead` items are before the tile.
template <class A, bool kRandom>
struct Tile {
  const A* score;
  int64_t begin, lead, n;
  uint64_t seed;
  const unsigned* bits;

  __device__ __forceinline__ void load(Four<A, kRandom>& to, int64_t j) const {
    if constexpr (kRandom) {
      const Philox4 four = philox4x32(seed, static_cast<uint64_t>(begin + j) >> 2);
      to.exist = 0;
      for (int e = 0; e < kFour; ++e) {
        to.key[e] = four.x[e];
        to.exist |= (lead <= j + e && j + e < n ? 1u : 0u) << e;
      }
    } else {
      to.exist = load_four(to.score, score, j, n);
      for (int e = 0; e < kFour; ++e) to.key[e] = magnitude_key(to.score[e]);
    }
  }
  // Which of the four at j < n are entries.
  __device__ unsigned entries(int64_t j) const { return bits[j / kBits] >> j % kBits & 15; }
};

// The items of a pass: candidates, then a tile. Both begin a chunk.
template <class A, bool kRandom>
struct Items {
  Tile<A, kRandom> tile;
  const A* score;
  const int64_t* position;
  int64_t listed;

  template <int kGroups>
  __device__ int64_t list_chunks() const {
    return (listed + kChunkItems<kGroups> - 1) / kChunkItems<kGroups>;
  }
  __device__ __forceinline__ void load_listed(Four<A, kRandom>& to, int64_t j) const {
    to.exist = 0;
    if constexpr (!kRandom) to.exist = load_four(to.score, score, j, listed);
    for (int e = 0; e < kFour; ++e) {
      if constexpr (kRandom) {
        to.key[e] = 0;
        if (j + e >= listed) continue;
        to.key[e] = random_u32(tile.seed, static_cast<uint64_t>(position[j + e]));
        to.exist |= 1u << e;
      } else {
        to.key[e] = magnitude_key(to.score[e]);
      }
    }
  }
  // The lane's groups of a chunk, entries left out. Returns its first item, in the list or in the tile.
  template <int kGroups>
  __device__ __forceinline__ int64_t load(Four<A, kRandom> (&to)[kGroups], int64_t chunk) const {
    const int64_t first_tile = list_chunks<kGroups>();
    const bool in_list = chunk < first_tile;
    const int64_t j = first_item<kGroups>(in_list ? chunk : chunk - first_tile);
    if (in_list) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) load_listed(to[g], j + g * kGroup);
    } else {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) tile.load(to[g], j + g * kGroup);
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
        if (j + g * kGroup < tile.n) to[g].exist &= ~tile.entries(j + g * kGroup);
    }
    return j;
  }
  __device__ int64_t position_of(bool in_list, int64_t j) const { return in_list ? position[j] : tile.begin + j; }
};

// The items that can be grown, by number: the entries, of which kept ones are skipped, then the candidates.
template <class A, bool kRandom>
struct Growable {
  const uint32_t* random_key;  // of the entries, where growth is random
  const uint8_t* kept;
  Candidates<A> best;
  uint64_t seed;

  __device__ GrowthKey<A, kRandom> entry_key(int64_t p) const {
    if constexpr (kRandom)
      return random_key[p];
    else
      return magnitude_key(best.at_entry[p]);
  }
  __device__ GrowthKey<A, kRandom> candidate_key(int64_t i) const {
    if constexpr (kRandom)
      return random_u32(seed, static_cast<uint64_t>(best.position[i]));
    else
      return magnitude_key(best.score[i]);
  }
  __device__ bool is_kept(int64_t p) const { return kept[p / kFour] >> p % kFour & 1; }
};

}  // namespace spx::cuda::regrow
