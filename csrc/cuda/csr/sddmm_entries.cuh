// The entries of a pattern inside one tile of the matrix, which a block of csr_sddmm writes. They are numbered row by row, so
// that threads share them evenly for any pattern.
#pragma once
#include "cuda/device/scan.cuh"
#include "cuda/device/search.cuh"

namespace spx::cuda::csr {

// How many tiles there are along a side; at least one, so that of an empty matrix the unused entries are still cleared.
inline int64_t tiles_along(int64_t size, int64_t tile) { return size > 0 ? ceil_div(size, tile) : 1; }

// dw behind nnz, by the whole grid, or by those of its threads that the caller numbers.
template <class T, class Index>
__device__ inline void clear_unused(T* dw, const CsrPattern<Index>& pattern, int64_t thread = global_thread(),
                                    int64_t threads = global_threads()) {
  for (int64_t p = pattern.row_ptr[pattern.rows] + thread; p < pattern.capacity; p += threads) dw[p] = from_acc<T>(0);
}

template <int kRows>
struct TileEntries {
  Shared<int32_t> first;   // [kRows] a row's first entry inside the tile
  Shared<int32_t> before;  // [kRows] how many entries of the tile lie in rows above

  // Finds them in a tile of `rows` <= kRows rows and returns how many there are. Every thread of the block calls it, at least
  // kRows; `scratch` has a slot per warp.
  template <class Index>
  __device__ int32_t find(const CsrPattern<Index>& pattern, int64_t row0, int rows, int64_t col0, int cols,
                          Shared<int32_t> scratch) const {
    const int row = threadIdx.x;
    int32_t begin = 0, count = 0;
    const int32_t mine = row < rows ? find_row(pattern, row0 + row, col0, cols, &begin) : 0;
    const int32_t above = block_scan<int32_t>(mine, scratch, &count);
    if (row < kRows) {
      first[row] = begin;
      before[row] = above;
    }
    __syncthreads();
    return count;
  }

  // The same in two steps, for a block whose other threads are busy. First, by the threads that the caller numbers: where the
  // entries of a tile of kRows rows are.
  template <class Index>
  __device__ void search(const CsrPattern<Index>& pattern, int64_t row0, int64_t col0, int cols, int thread,
                         int threads) const {
    for (int row = thread; row < kRows; row += threads) {
      int32_t begin = 0;
      before[row] = find_row(pattern, row0 + row, col0, cols, &begin);
      first[row] = begin;
    }
  }

  // Then, behind a barrier, by the whole block: how many there are before each row.
  __device__ int32_t number(Shared<int32_t> scratch) const {
    const int row = threadIdx.x;
    int32_t count = 0;
    const int32_t above = block_scan<int32_t>(row < kRows ? static_cast<int32_t>(before[row]) : 0, scratch, &count);
    if (row < kRows) before[row] = above;
    __syncthreads();
    return count;
  }

  // How many entries a row of the matrix has in the columns, and which is the first.
  template <class Index>
  static __device__ int32_t find_row(const CsrPattern<Index>& pattern, int64_t row, int64_t col0, int cols, int32_t* begin) {
    if (row >= pattern.rows) return 0;
    const int32_t row_end = pattern.row_ptr[row + 1];
    *begin = lower_bound(pattern.col_idx, pattern.row_ptr[row], row_end, col0);
    return lower_bound(pattern.col_idx, *begin, row_end, col0 + cols) - *begin;
  }

  // Which entry of the pattern the e-th of the tile is; its row in the tile goes to *row.
  __device__ int32_t at(int e, int* row) const {
    int low = 0;  // the last row with before[row] <= e
    for (int step = kRows / 2; step > 0; step /= 2)
      if (before[low + step] <= e) low += step;
    *row = low;
    return first[low] + e - before[low];
  }
};

}  // namespace spx::cuda::csr
