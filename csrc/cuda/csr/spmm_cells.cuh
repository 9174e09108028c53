// The weight as csr_spmm_kernel reads it (cells.cuh).
//
//   split   a row much longer than most: all warps of a block multiply it together, each a part of every cell
//   order   a split row keeps its place, where it counts as empty
#pragma once
#include "cuda/csr/cells.cuh"
#include "cuda/csr/spmm_tile.cuh"
#include "cuda/device/scan.cuh"
#include "cuda/device/search.cuh"

namespace spx::cuda::csr {

// A row is long if it has more entries than this many average rows: its warp, with 16 rows, has 23 / 16 of the others' work.
// Splitting shorter rows gains less than the tiles of x cost that their own blocks load.
constexpr int64_t kLongMeans = 8;
// A long row also has more than one entry in this many columns. A cell of fewer than 48 of 192 floats takes a warp about 25
// clocks an entry, hardly more than the stage of x and 256 cells take their block.
constexpr int64_t kLongColumns = 4;
// If more than one row in so many is long, none is split: half of all warps or more have a long row anyway.
constexpr int64_t kSplitOneIn = 32;

// The cells in the workspace.
template <class T>
struct Cells : CellTable<T> {
  using CellTable<T>::rows, CellTable<T>::parts, CellTable<T>::missing, CellTable<T>::chunks, CellTable<T>::groups,
      CellTable<T>::cells, CellTable<T>::order;
  int64_t cols, bytes;
  int64_t most_split;  // no more rows are ever split
  const int32_t* row_ptr;
  int32_t* split_rows;   // [most_split], ascending
  int32_t* split_count;  // 0 if more than most_split rows are long

  Cells(void* base, const int32_t* row_ptr, int64_t rows, int64_t cols, int64_t capacity, int parts)
      : CellTable<T>(rows, ceil_div(cols, Tile<T>::kCols), parts), cols(cols), row_ptr(row_ptr) {
    const int64_t by_rows = rows / kSplitOneIn, by_columns = capacity / (cols / kLongColumns + 1);
    most_split = by_rows < by_columns ? by_rows : by_columns;
    const int64_t group_count = group_at<T>(capacity, rows * chunks);
    groups = static_cast<Group<T>*>(base);
    cells = reinterpret_cast<Cell*>(groups + group_count);
    order = reinterpret_cast<int32_t*>(cells + rows * chunks);
    split_rows = order + rows + kCellThreads;
    split_count = split_rows + most_split;
    bytes = group_count * int64_t{sizeof(Group<T>)} + rows * chunks * int64_t{sizeof(Cell)} +
            (rows + kCellThreads + most_split + 1) * int64_t{sizeof(int32_t)};
  }

  // The first column of a chunk; of the first one, as if the missing parts lay in front of the matrix.
  __device__ int64_t first_col(int64_t chunk) const { return (chunk * parts - missing) * Tile<T>::kCols; }

  __device__ int32_t length(int64_t row) const { return row_ptr[row + 1] - row_ptr[row]; }
  // By nnz, not by the capacity: unused slots change no bits.
  __device__ bool is_long(int64_t row) const {
    const int64_t entries = length(row);
    return entries * kLongColumns > cols && entries * rows > kLongMeans * row_ptr[rows];
  }
  __device__ bool is_split(int64_t row) const { return is_long(row) && *split_count > 0; }
};

// split_rows and their number, by one block: the others make the cells meanwhile, which takes longer.
template <class T>
__device__ void list_split_rows(Cells<T> out) {
  SPX_SHARED(int32_t, scratch, kCellThreads / kWarp);
  int32_t found = 0;
  for (int64_t row0 = 0; row0 < out.rows; row0 += kCellThreads * kScanItems) {
    const int64_t first = row0 + int64_t{threadIdx.x} * kScanItems;
    unsigned mine = 0;
#pragma unroll
    for (int i = 0; i < kScanItems; ++i)
      if (first + i < out.rows && out.is_long(first + i)) mine |= 1u << i;
    int32_t total;
    int32_t at = found + block_scan<int32_t>(popcount(mine), scratch, &total);
    for (int i = 0; i < kScanItems; ++i)
      if (mine >> i & 1 && at < out.most_split) out.split_rows[at++] = static_cast<int32_t>(first + i);
    found += total;
    __syncthreads();  // scratch is read by all before the next step writes it
  }
  if (threadIdx.x == 0) *out.split_count = found <= out.most_split ? found : 0;
}

template <class T, class Index>
__global__ void __launch_bounds__(kCellThreads) csr_spmm_cells_kernel(Cells<T> out, CsrView<T, Index> w, int rows_per_block) {
  SPX_SHARED(int32_t, length, kCellThreads);
  const CsrPattern<Index>& pattern = w.pattern;
  for (int64_t row0 = int64_t{blockIdx.x} * rows_per_block; row0 < out.rows; row0 += int64_t{gridDim.x} * rows_per_block)
    deal_rows(out.order + row0, length, rows_per_block,
              [&](int row) { return row0 + row < out.rows ? out.length(row0 + row) : -1; });
  const int64_t row_blocks = (out.rows + rows_per_block - 1) / rows_per_block;
  if (blockIdx.x == row_blocks % gridDim.x) list_split_rows(out);  // a block that has no rows to deal, if there is one

  const int lane = threadIdx.x % kCellLanes;
  for (int64_t i = global_thread() / kCellLanes; i < out.rows * out.chunks; i += global_threads() / kCellLanes) {
    const int64_t row = i / out.chunks, chunk = i % out.chunks, col0 = out.first_col(chunk);
    const int32_t row_end = pattern.row_ptr[row + 1];
    const int32_t begin = lower_bound(pattern.col_idx, pattern.row_ptr[row], row_end, col0);
    const int32_t end = lower_bound(pattern.col_idx, begin, row_end, out.first_col(chunk + 1));
    const int64_t first = group_at<T>(begin, i);
    if (lane == 0) out.cells[chunk * out.rows + row] = {static_cast<int32_t>(first), end - begin};
    auto* entries = reinterpret_cast<Entry<T>*>(out.groups + first);
    for (int32_t p = begin + lane; p < end; p += kCellLanes) {
      const int place = Tile<T>::place(static_cast<int>(int64_t{pattern.col_idx[p]} - col0));
      entries[p - begin] = {w.values[pattern.value_at(p)], static_cast<decltype(Entry<T>::place)>(place)};
    }
  }
}

template <class T, class Index>
Status make_cells(Cells<T> out, CsrView<T, Index> w, int rows_per_block, Stream stream) {
  const int64_t row_blocks = ceil_div(out.rows, rows_per_block);
  const int64_t cell_blocks = ceil_div(out.rows * out.chunks * kCellLanes, kCellThreads);
  const int64_t blocks = blocks_for(row_blocks > cell_blocks ? row_blocks : cell_blocks, 1);
  return launch("csr_spmm_cells", csr_spmm_cells_kernel<T, Index>, blocks, kCellThreads, stream, out, w, rows_per_block);
}

}  // namespace spx::cuda::csr
