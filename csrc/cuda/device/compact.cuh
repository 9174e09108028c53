// Ordered compaction in one pass: blocks take chunks of items in order, and look back at earlier chunks to find where their own
// output begins (Merrill and Garland 2016, "Single-pass parallel prefix scan with decoupled look-back").
//
//   an item is sure, equal (taken while fewer than `missing` equals came before it) or neither
//   a lane takes four neighbouring items of a group, a warp kGroups groups, one after another
//   chunks are handed out by a ticket, so a block waits only for chunks that are already running
//   tickets and status words start at 0
#pragma once
#include "cuda/device/launch.cuh"
#include "cuda/device/words.cuh"

namespace spx::cuda {

constexpr int kFour = 4;               // a lane's items of a group
constexpr int kGroup = kFour * kWarp;  // a warp's
constexpr int kCompactThreads = 256;   // of a block
constexpr int kCompactWarps = kCompactThreads / kWarp;
template <int kGroups>
constexpr int64_t kChunkItems = int64_t{kGroups} * kGroup * kCompactWarps;

// The lane's first item of group 0 in `chunk`; group g follows at g * kGroup.
template <int kGroups>
__device__ inline int64_t first_item(int64_t chunk) {
  return chunk * kChunkItems<kGroups> + threadIdx.x / kWarp * (kGroups * kGroup) + threadIdx.x % kWarp * kFour;
}

// to = from[j .. j + 3], where these are below n; j is a multiple of 4. Returns a mask of those that are.
template <class T>
__device__ __forceinline__ unsigned load_four(T (&to)[kFour], const T* from, int64_t j, int64_t n) {
  constexpr int kWide = sizeof(T) > 4 ? 16 / sizeof(T) : 4;
  if (j + kFour <= n) {
#pragma unroll
    for (int e = 0; e < kFour; e += kWide) {
      const auto words = *reinterpret_cast<const Words<T, kWide>*>(from + j + e);
#pragma unroll
      for (int i = 0; i < kWide; ++i) to[e + i] = words[i];
    }
    return 15;
  }
  unsigned exist = 0;
#pragma unroll
  for (int e = 0; e < kFour; ++e) {
    to[e] = T{};
    if (j + e >= n) continue;
    to[e] = from[j + e];
    exist |= 1u << e;
  }
  return exist;
}

// The next chunk for this block.
__device__ inline int64_t next_chunk(unsigned long long* ticket) {
  SPX_SHARED(int64_t, chunk, 1);
  __syncthreads();  // all have read the last one
  if (threadIdx.x == 0) chunk[0] = static_cast<int64_t>(atomicAdd(ticket, 1ull));
  __syncthreads();
  const int64_t mine = chunk[0];
  return mine;
}

struct Counts {
  int64_t sure, equal;
};
// A status word: 2 bits of state, then the two counts. `equal` stops at its largest value: no more are ever missing.
constexpr uint64_t kOwn = 1, kPrefix = 2;  // the chunk's counts; those of all chunks up to it
constexpr int64_t kMostEqual = 0x7FFFFFFF;
__device__ inline uint64_t pack(Counts counts, uint64_t state) {
  const int64_t equal = counts.equal < kMostEqual ? counts.equal : kMostEqual;
  return state << 62 | static_cast<uint64_t>(counts.sure) << 31 | static_cast<uint64_t>(equal);
}

// The counts of all chunks before `chunk`, whose own are `own`.
__device__ inline Counts look_back(unsigned long long* status, int64_t chunk, Counts own) {
  SPX_SHARED(int64_t, before, 2);
  volatile unsigned long long* words = status;  // others write them meanwhile
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x < kWarp) {
    if (lane == 0) words[chunk] = pack(own, chunk ? kOwn : kPrefix);
    Counts sum = {0, 0};
    for (int64_t last = chunk - 1; last >= 0; last -= kWarp) {
      uint64_t word;
      do word = last >= lane ? words[last - lane] : kPrefix << 62;
      while (ballot(word >> 62 == 0));
      const unsigned prefixes = ballot(word >> 62 == kPrefix);
      const bool counts = !((prefixes & lanes_below()));  // no prefix is nearer than this word
      sum.sure += reduce_add(counts ? static_cast<int64_t>(word >> 31 & 0x7FFFFFFF) : 0);
      sum.equal += reduce_add(counts ? static_cast<int64_t>(word & 0x7FFFFFFF) : 0);
      if (prefixes) break;
    }
    if (lane == 0) {
      words[chunk] = pack({sum.sure + own.sure, sum.equal + own.equal}, kPrefix);
      before[0] = sum.sure;
      before[1] = sum.equal;
    }
  }
  __syncthreads();
  return {before[0], before[1]};
}

// place(group, element, at, taken) for every item of the chunk: `at` items before it were taken. Bit e of sure[g] and equal[g]
// is the lane's e-th item of group g. The whole block calls it.
template <int kGroups, class F>
__device__ __forceinline__ void compact(unsigned long long* status, int64_t chunk, const unsigned (&sure)[kGroups],
                                        const unsigned (&equal)[kGroups], int64_t missing, F place) {
  SPX_SHARED(unsigned, of_warp, kCompactWarps);
  constexpr int kHalf = 16;  // two counts in a word: a chunk has fewer items
  static_assert(kChunkItems<kGroups> < 1 << kHalf);
  unsigned ranks[kGroups], running = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const unsigned own = static_cast<unsigned>(popcount(sure[g])) | static_cast<unsigned>(popcount(equal[g])) << kHalf;
    const unsigned inclusive = scan_add(own);
    ranks[g] = running + inclusive - own;
    running += shfl_idx(inclusive, kWarp - 1);
  }
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = running;
  __syncthreads();
  unsigned above = 0, all = 0;
  for (int w = 0; w < kCompactWarps; ++w) {
    const unsigned sum = of_warp[w];
    if (w < static_cast<int>(threadIdx.x / kWarp)) above += sum;
    all += sum;
  }
  const Counts before = look_back(status, chunk, {all & 0xFFFF, all >> kHalf});
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int e = 0; e < kFour; ++e) {
      const unsigned rank = ranks[g] + above, below = (1u << e) - 1;
      const int64_t equals = before.equal + (rank >> kHalf) + popcount(equal[g] & below);
      const int64_t sures = before.sure + (rank & 0xFFFF) + popcount(sure[g] & below);
      const bool taken = sure[g] >> e & 1 || (equal[g] >> e & 1 && equals < missing);
      place(g, e, sures + (equals < missing ? equals : missing), taken);
    }
  }
}

}  // namespace spx::cuda
