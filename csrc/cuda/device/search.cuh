// Binary search in the columns of a row, in the rows of a pattern, and by a whole warp.
#pragma once
#include "cuda/device/launch.cuh"

namespace spx::cuda {

// The first of the ascending columns, or positions, [p, end) that is not below `col`.
template <class Index, class Place>
__device__ inline Place lower_bound(const Index* col_idx, Place p, Place end, int64_t col) {
  while (p < end) {
    const Place middle = p + (end - p) / 2;
    if (int64_t{col_idx[middle]} < col)
      p = middle + 1;
    else
      end = middle;
  }
  return p;
}

// The last of the rows [row, end) that begins at or before entry p: its row.
__device__ inline int64_t row_of(const int32_t* row_ptr, int64_t row, int64_t end, int64_t p) {
  while (end - row > 1) {
    const int64_t middle = row + (end - row) / 2;
    if (row_ptr[middle] <= p)
      row = middle;
    else
      end = middle;
  }
  return row;
}

// The first i of [begin, end) for which below(i) is false; it is true before that. A whole warp searches together: among a
// million it takes four dependent loads, and binary search twenty.
template <class F>
__device__ inline int64_t warp_search(int64_t begin, int64_t end, F below) {
  while (begin < end) {
    const int64_t step = (end - begin) / kWarp + 1, i = begin + threadIdx.x % kWarp * step;
    const int64_t trues = popcount(ballot(i < end && below(i)));
    if (trues == 0) break;
    const int64_t next = begin + trues * step;
    begin = next - step + 1;
    if (next < end) end = next;
  }
  return begin;
}

}  // namespace spx::cuda
