// Counts to offsets, in place: offsets[0] = 0, offsets[i] = the sum of counts 0 .. i - 1.
//
//   offsets  [n + 1]; the caller has put count i into offsets[i + 1]
//   one block walks the array: n is a number of rows or of chunks, not of elements
#pragma once
#include "cuda/device/launch.cuh"

namespace spx::cuda {

constexpr int kScanThreads = 256;
constexpr int kScanItems = 8;  // consecutive counts per thread and step

// The sum of `v` over the threads before this one; the sum over all of them goes to *total. `scratch` has a slot per warp.
// Every thread of the block calls it; `scratch` may be used again after the next barrier.
template <class T>
__device__ inline T block_scan(T v, Shared<T> scratch, T* total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const T inclusive = scan_add(v);
  if (lane == kWarp - 1) scratch[warp] = inclusive;
  __syncthreads();
  T before = 0, all = 0;
  for (int w = 0; w < warps; ++w) {
    const T sum = scratch[w];
    if (w < warp) before += sum;
    all += sum;
  }
  *total = all;
  return before + inclusive - v;
}

template <class T>
__global__ void __launch_bounds__(kScanThreads) counts_to_offsets_kernel(T* offsets, int64_t n) {
  SPX_SHARED(T, scratch, kScanThreads / kWarp);
  T carry = 0;
  for (int64_t begin = 0; begin < n; begin += kScanThreads * kScanItems) {
    const int64_t first = begin + int64_t{threadIdx.x} * kScanItems;
    T item[kScanItems], sum = 0;
    for (int i = 0; i < kScanItems; ++i) sum += item[i] = first + i < n ? offsets[first + i + 1] : T{0};
    T total;
    T running = carry + block_scan<T>(sum, scratch, &total);
    for (int i = 0; i < kScanItems; ++i) {
      running += item[i];
      if (first + i < n) offsets[first + i + 1] = running;
    }
    carry += total;
    __syncthreads();  // scratch is read by all before the next step writes it
  }
  if (threadIdx.x == 0) offsets[0] = 0;
}

template <class T>
Status counts_to_offsets(T* offsets, int64_t n, Stream stream) {
  return launch("counts_to_offsets", counts_to_offsets_kernel<T>, 1, kScanThreads, stream, offsets, n);
}

}  // namespace spx::cuda
