// The entries of a quarter of a warp, in registers from the first token to the last: of csr_sddmm_kernel.
//
// Each of the 8 lanes has a slot for every entry: where it finds its tokens of dy's row and of x's column in a step, and the
// sum of its products. Entries are in the pattern's order, so a row of dy stays in registers while its entries pass.
#pragma once
#include "cuda/csr/sddmm_tile.cuh"

namespace spx::cuda::csr {

constexpr int kGroup = kParts;  // slots whose sums are added over the lanes together: a lane gets one of each

// Registers decide: with two for a slot, of double three, 168 for each of 384 threads are full.
template <class T>
constexpr int kSlots = sizeof(Acc<T>) == 8 ? 24 : 48;

// A place says where lane 0 finds an entry's dy and x; another lane's parts follow by an exclusive or with its number.
constexpr int kRowShift = 21;
constexpr uint32_t kNewRow = 1u << 20;  // another row of dy than for the entry before

inline __device__ uint32_t place_of(int row, int column, bool new_row) {
  return static_cast<uint32_t>(part_at(row, 0)) << kRowShift | (new_row ? kNewRow : 0u) | part_at(column, 0);
}

template <class T>
struct Slots {
  Acc<T> sum[kSlots<T>];
  uint32_t place[kSlots<T>];

  __device__ __forceinline__ void start(Shared<uint32_t> places, int first) {
    const uint32_t part = threadIdx.x % kParts;
#pragma unroll
    for (int s = 0; s < kSlots<T>; ++s) {
      sum[s] = 0;
      place[s] = places[first + s] ^ (part << kRowShift | part);
    }
  }

  // Adds the products of one step in the slots of a group.
  __device__ __forceinline__ void multiply(Acc<T> (&dy)[kPartTokens<T>], Shared<Part<T>> step, int from) {
#pragma unroll
    for (int s = from; s < from + kGroup; ++s) {
      if (place[s] & kNewRow) {
        const Part<T> row = step[place[s] >> kRowShift];
#pragma unroll
        for (int t = 0; t < kPartTokens<T>; ++t) dy[t] = row[t];
      }
      const Part<T> x = step[place[s] & (kNewRow - 1)];
#pragma unroll
      for (int t = 0; t < kPartTokens<T>; ++t) sum[s] += dy[t] * x[t];
    }
  }

  // Adds the sums of a group over the lanes of the quarter, pairs first: lane i gets that of slot from + i.
  __device__ __forceinline__ Acc<T> total(int from) const {
    Acc<T> v[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) v[i] = sum[from + i];
#pragma unroll
    for (int half = kGroup / 2; half > 0; half /= 2) {
      const bool upper = threadIdx.x & half;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const Acc<T> kept = upper ? v[i + half] : v[i], given = upper ? v[i] : v[i + half];
        v[i] = kept + shfl_xor(given, half);
      }
    }
    return v[0];
  }
};

}  // namespace spx::cuda::csr
