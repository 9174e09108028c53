// The weight as csr_spmm_kernel reads it, made anew by every call: rows cut into cells, and dealt to the warps of a block.
//
//   split   a row much longer than most: all warps of a block multiply it together, each a part of every cell
//   cell    the entries of one row in the columns of a stage of x, in column order, packed as (place in the stage, value)
//   groups  16 bytes of entries, the width of one load; a cell begins a new group and may leave its last one part-filled
//   order   which row of its block a warp's i-th row is: the rows by falling length, dealt to the warps there and back again,
//           so that all warps have about the same number of entries. Ties go to the lower row: the same order on every run.
//           A split row keeps its place, where it counts as empty
// Values are fetched through `slot` once here, and not once per tile of tokens.
#pragma once
#include "cuda/csr/spmm_tile.cuh"
#include "cuda/device/scan.cuh"
#include "cuda/device/search.cuh"

namespace spx::cuda::csr {

constexpr int kCellThreads = 256;  // at least one for each row of a block, which deal_rows needs

// A row is long if it has more entries than this many average rows: its warp, with 16 rows, has 23 / 16 of the others' work.
// Splitting shorter rows gains less than the tiles of x cost that their own blocks load.
constexpr int64_t kLongMeans = 8;
// A long row also has more than one entry in this many columns. A cell of fewer than 48 of 192 floats takes a warp about 25
// clocks an entry, hardly more than the stage of x and 256 cells take their block.
constexpr int64_t kLongColumns = 4;
// If more than one row in so many is long, none is split: half of all warps or more have a long row anyway.
constexpr int64_t kSplitOneIn = 32;

template <class T>
struct Entry {  // in this order, one instruction turns each half of a 32-bit word into an operand
  T value;
  std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t> place;
};
template <class T>
constexpr int kGroupEntries = 16 / sizeof(Entry<T>);
template <class T>
using Group = Words<Entry<T>, kGroupEntries<T>>;

struct alignas(8) Cell {
  int32_t first, count;  // its first group, and how many entries
};

// The cells in the workspace.
template <class T>
struct Cells {
  int64_t rows, cols, chunks, bytes;  // a chunk: the columns of a stage
  int64_t most_split;                 // no more rows are ever split
  int parts;                          // of a stage
  int missing;  // parts that the first stage lacks: an incomplete stage comes first, so that blocks begin early
  const int32_t* row_ptr;
  Group<T>* groups;
  Cell* cells;           // [chunks, rows]
  int32_t* order;        // [blocks of rows, rows of a block]: the i-th row of warp w is element w * rows_per_warp + i
  int32_t* split_rows;   // [most_split], ascending
  int32_t* split_count;  // 0 if more than most_split rows are long

  Cells(void* base, const int32_t* row_ptr, int64_t rows, int64_t cols, int64_t capacity, int parts)
      : rows(rows), cols(cols), parts(parts), row_ptr(row_ptr) {
    const int64_t all_parts = ceil_div(cols, Tile<T>::kCols);
    chunks = ceil_div(all_parts, parts);
    missing = static_cast<int>(chunks * parts - all_parts);
    const int64_t by_rows = rows / kSplitOneIn, by_columns = capacity / (cols / kLongColumns + 1);
    most_split = by_rows < by_columns ? by_rows : by_columns;
    const int64_t group_count = group_at(capacity, rows * chunks) + 1;  // one more, for empty cells read a group, too
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

  // The first group of cell i (counted row by row), whose first entry is p. It allows for every earlier cell to waste all but
  // one entry of a group, so that no cell needs to know how full the others are.
  static SPX_HOST_DEVICE int64_t group_at(int64_t p, int64_t i) { return (p + i * (kGroupEntries<T> - 1)) / kGroupEntries<T>; }
};

// order, for the rows [row0, row0 + rows_per_block). Rows behind the last one count as the shortest.
template <class T>
__device__ void deal_rows(Cells<T> out, Shared<int32_t> length, int64_t row0, int rows_per_block) {
  const int row = threadIdx.x;
  const int32_t mine = row0 + row < out.rows ? out.length(row0 + row) : -1;
  length[row] = mine;
  __syncthreads();
  if (row < rows_per_block) {
    int rank = 0;
    for (int other = 0; other < rows_per_block; ++other) {
      const int32_t theirs = length[other];
      rank += theirs > mine || (theirs == mine && other < row);
    }
    const int round = rank / kMultiplyWarps, seat = rank % kMultiplyWarps;
    const int warp = round % 2 ? kMultiplyWarps - 1 - seat : seat;
    out.order[row0 + warp * (rows_per_block / kMultiplyWarps) + round] = row;
  }
  __syncthreads();  // length is read by all before the next block of rows writes it
}

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
    deal_rows(out, length, row0, rows_per_block);
  const int64_t row_blocks = (out.rows + rows_per_block - 1) / rows_per_block;
  if (blockIdx.x == row_blocks % gridDim.x) list_split_rows(out);  // a block that has no rows to deal, if there is one

  for (int64_t i = global_thread(); i < out.rows * out.chunks; i += global_threads()) {
    const int64_t row = i / out.chunks, chunk = i % out.chunks, col0 = out.first_col(chunk);
    const int32_t row_end = pattern.row_ptr[row + 1];
    const int32_t begin = lower_bound(pattern.col_idx, pattern.row_ptr[row], row_end, col0);
    const int32_t end = lower_bound(pattern.col_idx, begin, row_end, out.first_col(chunk + 1));
    const int64_t first = Cells<T>::group_at(begin, i);
    out.cells[chunk * out.rows + row] = {static_cast<int32_t>(first), end - begin};
    auto* entries = reinterpret_cast<Entry<T>*>(out.groups + first);
    for (int32_t p = begin; p < end; ++p) {
      const int place = Tile<T>::place(static_cast<int>(int64_t{pattern.col_idx[p]} - col0));
      entries[p - begin] = {w.values[pattern.value_at(p)], static_cast<decltype(Entry<T>::place)>(place)};
    }
  }
}

template <class T, class Index>
Status make_cells(Cells<T> out, CsrView<T, Index> w, int rows_per_block, Stream stream) {
  const int64_t row_blocks = ceil_div(out.rows, rows_per_block), cell_blocks = ceil_div(out.rows * out.chunks, kCellThreads);
  const int64_t blocks = blocks_for(row_blocks > cell_blocks ? row_blocks : cell_blocks, 1);
  return launch("csr_spmm_cells", csr_spmm_cells_kernel<T, Index>, blocks, kCellThreads, stream, out, w, rows_per_block);
}

}  // namespace spx::cuda::csr
