// Two of every four tokens of a gradient, chosen at random, as a 2:4 matrix of its transpose (common/nm24/mvue.h)
//
//   work: a block takes 32 rows x 256 tokens; a thread eight tokens of a row at a time, a pair of groups: one Philox block,
//   one byte of ids. Neighbouring lanes have neighbouring rows, so a token is read in runs of 64 bytes of 16-bit types;
//   through shared memory a warp then writes a row, in runs of 256 bytes of values and 32 of ids
//   bytes, 16 bits: 2 read and 1 + 1/8 written per element; 4096 x 4096 are 52 MB, 12 us at 4.3 TB/s
//   instructions: about 400 a group, ten divisions among them; 60 us of 4096 x 4096, if all issue slots are used: they are the
//   limit
// Divisions round to nearest, and denormals are kept: nvcc's default, and the CPU's only mode.
// ops/nm24/training.py has checked shapes and dtypes.
#include "common/nm24/mvue.h"

#include "common/keys.h"
#include "common/nm24/groups.h"
#include "cuda/device/words.cuh"

namespace spx::cuda::nm24 {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 32, kPairs = 32;  // of a block
static_assert(kRows == kWarp && kPairs == kWarp, "a lane has a row, and then a pair of groups");
// Shared memory is [row][pair], padded so that neighbouring rows begin in different banks.
constexpr int kStride = kPairs + 1;

// Both values of a group; returns its code.
template <class T>
__device__ __forceinline__ uint32_t keep_two(T (&kept)[2], const T (&x)[4], uint32_t u, uint32_t v) {
  using A = Acc<T>;
  A magnitude[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) magnitude[i] = to_acc(x[i]) < 0 ? -to_acc(x[i]) : to_acc(x[i]);
  const Mvue group(magnitude, unit_interval<A>(u), unit_interval<A>(v));
  uint32_t mask = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) mask |= static_cast<uint32_t>(group.chosen[i]) << i;
  if (group.as_they_are)
    mask = nm24_largest(magnitude_key(x[0]), magnitude_key(x[1]), magnitude_key(x[2]), magnitude_key(x[3]));
  const uint32_t code = nm24_code(mask);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int place = static_cast<int>(code >> 2 * k & 3);
    const T own = element_of(x, place);
    const A size = group.estimate(element_of(group.one_plus_odds, place));
    kept[k] = group.as_they_are ? own : from_acc<T>(to_acc(own) < 0 ? -size : size);
  }
  return code;
}

// Eight tokens of a row, 0 outside dy.
template <class T>
__device__ __forceinline__ void load_tokens(T (&even)[4], T (&odd)[4], DenseView<const T> dy, int64_t token, int64_t row) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    even[i] = row < dy.cols && token + i < dy.rows ? dy.row(token + i)[row] : T{};
    odd[i] = row < dy.cols && token + 4 + i < dy.rows ? dy.row(token + 4 + i)[row] : T{};
  }
}

// A warp writes a row at a time, a lane a pair of groups: at once where rows are aligned for it (kWhole), else a group at a
// time.
template <bool kWhole, class T>
__device__ __forceinline__ void write_rows(const Nm24View<T>& wt, Shared<Words<T, 4>> values, Shared<uint8_t> codes,
                                           int64_t row0, int64_t pair0) {
  using Pair = Words<T, 2>;
  const int lane = threadIdx.x % kWarp;
  const int64_t pair = pair0 + lane;
  if (2 * pair >= wt.groups()) return;
  for (int r = threadIdx.x / kWarp; r < kRows && row0 + r < wt.rows; r += kWarps) {
    const Words<T, 4> four = values[r * kStride + lane];
    T* to = wt.values_of_row(row0 + r) + 4 * pair;
    if constexpr (kWhole) {
      *reinterpret_cast<Words<T, 4>*>(to) = four;
    } else {
      Pair two[2];
      memcpy(two, &four, sizeof two);
      reinterpret_cast<Pair*>(to)[0] = two[0];
      if (2 * pair + 1 < wt.groups()) reinterpret_cast<Pair*>(to)[1] = two[1];
    }
    wt.ids_of_row(row0 + r)[pair] = codes[r * kStride + lane];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    nm24_mvue_kernel(Nm24View<T> wt, DenseView<const T> dy, const int64_t* __restrict__ rng) {
  using Values = Words<T, 4>;
  SPX_SHARED(Values, values, kRows * kStride);
  SPX_SHARED(uint8_t, codes, kRows* kStride);
  const int64_t across = (wt.groups() + 2 * kPairs - 1) / (2 * kPairs);
  const int64_t row0 = blockIdx.x / across * kRows, pair0 = blockIdx.x % across * kPairs;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll 1
  for (int p = warp; p < kPairs && 2 * (pair0 + p) < wt.groups(); p += kWarps) {
    const int64_t pair = pair0 + p, row = row0 + lane;
    T even[4], odd[4], kept[2];
    load_tokens(even, odd, dy, 8 * pair, row);
    const Philox4 numbers = mvue_numbers(rng, row, pair);
    Values four;
    const uint32_t first = keep_two(kept, even, numbers.x[0], numbers.x[1]);
    four.set(0, kept[0]);
    four.set(1, kept[1]);
    const uint32_t second = keep_two(kept, odd, numbers.x[2], numbers.x[3]);
    four.set(2, kept[0]);
    four.set(3, kept[1]);
    values[lane * kStride + p] = four;
    codes[lane * kStride + p] = static_cast<uint8_t>(first | (2 * pair + 1 < wt.groups() ? second : kNm24EmptyCode) << 4);
  }
  __syncthreads();
  if (wt.groups() % 2 == 0)
    write_rows<true>(wt, values, codes, row0, pair0);
  else
    write_rows<false>(wt, values, codes, row0, pair0);
}

}  // namespace

template <class T>
Status nm24_mvue(Nm24View<T> wt, DenseView<const T> dy, const int64_t* rng, Stream stream) {
  const int64_t blocks = ceil_div(wt.rows, kRows) * ceil_div(wt.groups(), 2 * kPairs);
  return launch("nm24_mvue", nm24_mvue_kernel<T>, blocks, kThreads, stream, wt, dy, rng);
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, nm24_mvue)
SPX_INSTANTIATE(nm24_mvue, f16)

}  // namespace spx::cuda::nm24
