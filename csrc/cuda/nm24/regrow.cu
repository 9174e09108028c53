// Growth in the groups of a 2:4 matrix (contract: launchers.inc)
//
//   work: a thread takes a byte of ids, two groups; neighbouring lanes have neighbouring bytes of a row
//   bytes: the score once, 4 an element, and 1 + 4 for each entry, half as many; 4096 x 4096 are 109 MB, 25 us at 4.3 TB/s
#include "common/keys.h"
#include "common/nm24/groups.h"
#include "common/random.h"
#include "cuda/device/words.cuh"

namespace spx::cuda::nm24 {
namespace {

constexpr int kThreads = 256;

// Of a group's four columns; anything for those that do not exist.
template <class A>
__device__ __forceinline__ void growth_keys(Key<A> (&key)[4], const DenseView<const A>& score, int64_t r, int64_t group,
                                            uint64_t seed) {
  if (score.data) {
    Words<A, 4> four[1];
    load_words(four, score, r, 4 * group);
#pragma unroll
    for (int c = 0; c < 4; ++c) key[c] = magnitude_key(four[0][c]);
  } else {
#pragma unroll
    for (int c = 0; c < 4; ++c) key[c] = random_u32(seed, static_cast<uint64_t>(r * score.cols + 4 * group + c));
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    nm24_regrow_kernel(Nm24View<int32_t> grown, Nm24View<const uint8_t> old, DenseView<const A> score, uint64_t seed) {
  const int64_t groups = grown.groups(), pairs = (groups + 1) / 2;
  for (int64_t i = global_thread(); i < grown.rows * pairs; i += global_threads()) {
    const int64_t r = i / pairs, pair = i % pairs;
    const uint32_t codes = old.ids_of_row(r)[pair];
    uint32_t regrown[2] = {kNm24EmptyCode, kNm24EmptyCode};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int64_t group = 2 * pair + k;
      if (group >= groups) continue;
      const uint8_t* two = old.values_of_row(r) + 2 * group;
      const bool stays[2] = {two[0] != 0, two[1] != 0};
      Key<A> key[4];
      growth_keys(key, score, r, group, seed);
      int32_t source[2];
      regrown[k] = nm24_regrown(source, codes >> 4 * k, stays, nm24_columns(group, grown.cols), key,
                                static_cast<int32_t>(2 * (r * groups + group)));
      Words<int32_t, 2> slots;
      slots.set(0, source[0]);
      slots.set(1, source[1]);
      *reinterpret_cast<Words<int32_t, 2>*>(grown.values_of_row(r) + 2 * group) = slots;
    }
    grown.ids_of_row(r)[pair] = static_cast<uint8_t>(regrown[0] | regrown[1] << 4);
  }
}

}  // namespace

template <class A>
Status nm24_regrow(Nm24View<int32_t> grown, Nm24View<const uint8_t> old, DenseView<const A> score, uint64_t seed,
                   Stream stream) {
  const int64_t pairs = grown.rows * ((grown.groups() + 1) / 2);
  return launch("nm24_regrow", nm24_regrow_kernel<A>, pairs ? blocks_for(pairs, kThreads) : 0, kThreads, stream, grown, old,
                score, seed);
}

SPX_INSTANTIATE(nm24_regrow, float)
SPX_INSTANTIATE(nm24_regrow, double)

}  // namespace spx::cuda::nm24
