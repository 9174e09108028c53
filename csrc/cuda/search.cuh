// Binary search in the columns of a row.
#pragma once
#include "launch.cuh"

namespace spx::cuda {

// The first of the ascending columns [p, end) that is not below `col`.
template <class Index>
__device__ inline int32_t lower_bound(const Index* col_idx, int32_t p, int32_t end, int64_t col) {
  while (p < end) {
    const int32_t middle = p + (end - p) / 2;
    if (int64_t{col_idx[middle]} < col)
      p = middle + 1;
    else
      end = middle;
  }
  return p;
}

}  // namespace spx::cuda
