// The weight as csr_spmm_kernel reads it, made anew by every call: rows cut into cells, and dealt to the warps of a block.
//
//   cell    the entries of one row in kCols neighbouring columns, in column order, packed as (place in the tile of x, value)
//   groups  16 bytes of entries, what one load brings; a cell begins a new group and may leave its last one part-filled
//   order   which row of its block a warp's i-th row is: the rows by falling length, dealt to the warps there and back again,
//           so that all warps have about the same number of entries. Ties go to the lower row: the same order on every run
// Values are fetched through `slot` once here, and not once per tile of tokens.
#pragma once
#include "csr_spmm_tile.cuh"
#include "search.cuh"

namespace spx::cuda {

constexpr int kCellThreads = 256;  // at least one for each row of a block, which deal_rows needs

template <class T>
struct Entry {
  std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t> place;
  T value;
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
  int64_t rows, chunks, bytes;
  Group<T>* groups;
  Cell* cells;     // [chunks, rows]
  int32_t* order;  // [blocks of rows, rows of a block]: the i-th row of warp w is element w * rows_per_warp + i

  Cells(void* base, int64_t rows, int64_t cols, int64_t capacity) : rows(rows), chunks(ceil_div(cols, Tile<T>::kCols)) {
    const int64_t group_count = group_at(capacity, rows * chunks) + 1;  // one more: empty cells read their group, too
    groups = static_cast<Group<T>*>(base);
    cells = reinterpret_cast<Cell*>(groups + group_count);
    order = reinterpret_cast<int32_t*>(cells + rows * chunks);
    bytes = group_count * int64_t{sizeof(Group<T>)} + rows * chunks * int64_t{sizeof(Cell)} +
            (rows + kCellThreads) * int64_t{sizeof(int32_t)};
  }

  // The first group of cell i (counted row by row), whose first entry is p. Each cell before may waste all but one entry of a
  // group: with that much room, none has to know how full the others are.
  static SPX_HOST_DEVICE int64_t group_at(int64_t p, int64_t i) { return (p + i * (kGroupEntries<T> - 1)) / kGroupEntries<T>; }
};

// order, for the rows [row0, row0 + rows_per_block). Rows behind the last one count as the shortest.
inline __device__ void deal_rows(int32_t* order, Shared<int32_t> length, const int32_t* row_ptr, int64_t rows, int64_t row0,
                                 int rows_per_block) {
  const int row = threadIdx.x;
  const int32_t mine = row0 + row < rows ? row_ptr[row0 + row + 1] - row_ptr[row0 + row] : -1;
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
    order[row0 + warp * (rows_per_block / kMultiplyWarps) + round] = row;
  }
  __syncthreads();  // length is read by all before the next block of rows writes it
}

template <class T, class Index>
__global__ void __launch_bounds__(kCellThreads) csr_spmm_cells_kernel(Cells<T> out, CsrView<T, Index> w, int rows_per_block) {
  SPX_SHARED(int32_t, length, kCellThreads);
  const CsrPattern<Index>& pattern = w.pattern;
  for (int64_t row0 = int64_t{blockIdx.x} * rows_per_block; row0 < out.rows; row0 += int64_t{gridDim.x} * rows_per_block)
    deal_rows(out.order, length, pattern.row_ptr, out.rows, row0, rows_per_block);

  for (int64_t i = global_thread(); i < out.rows * out.chunks; i += global_threads()) {
    const int64_t row = i / out.chunks, chunk = i % out.chunks, col0 = chunk * Tile<T>::kCols;
    const int32_t row_end = pattern.row_ptr[row + 1];
    const int32_t begin = lower_bound(pattern.col_idx, pattern.row_ptr[row], row_end, col0);
    const int32_t end = lower_bound(pattern.col_idx, begin, row_end, col0 + Tile<T>::kCols);
    const int64_t first = Cells<T>::group_at(begin, i);
    out.cells[chunk * out.rows + row] = {static_cast<int32_t>(first), end - begin};
    auto* entries = reinterpret_cast<Entry<T>*>(out.groups + first);
    for (int32_t p = begin; p < end; ++p) {
      const int place = Tile<T>::place(static_cast<int>(int64_t{pattern.col_idx[p]} - col0));
      entries[p - begin] = {static_cast<decltype(Entry<T>::place)>(place), w.values[pattern.value_at(p)]};
    }
  }
}

template <class T, class Index>
Status make_cells(Cells<T> out, CsrView<T, Index> w, int rows_per_block, Where where) {
  const int64_t row_blocks = ceil_div(out.rows, rows_per_block), cell_blocks = ceil_div(out.rows * out.chunks, kCellThreads);
  const int64_t blocks = blocks_for(row_blocks > cell_blocks ? row_blocks : cell_blocks, 1);
  return launch("csr_spmm_cells", csr_spmm_cells_kernel<T, Index>, blocks, kCellThreads, where, out, w, rows_per_block);
}

}  // namespace spx::cuda
