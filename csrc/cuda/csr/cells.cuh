// A weight as the kernels that multiply rows (rows.cuh) read it, made anew by every call: rows cut into cells, and dealt to the
// warps of a block.
//
//   cell    the entries of one row in the columns of a stage, in order, packed as (place in the stage, value)
//   groups  16 bytes of entries, the width of one load; a cell begins a new group and may leave its last one part-filled
//   order   which row of its block a warp's i-th row is: the rows by falling length, dealt to the warps there and back again,
//           so that all warps have about the same number of entries. Ties go to the lower row: the same order on every run
// Values are fetched through `slot` once here, and not once for every tile.
#pragma once
#include "cuda/device/copy.cuh"
#include "cuda/device/words.cuh"

namespace spx::cuda::csr {

constexpr int kMultiplyThreads = 512;
constexpr int kMultiplyWarps = kMultiplyThreads / kWarp;
constexpr int kCellThreads = 256;  // of kernels that make cells: at least one for each row of a block, which deal_rows needs
constexpr int kCellLanes = 8;      // threads that make a cell together

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

// The first group of cell i, whose first entry is p, with cells and entries in the same order. It allows for every earlier cell
// to waste all but one entry of a group, so that no cell needs to know how full the others are.
template <class T>
SPX_HOST_DEVICE int64_t group_at(int64_t p, int64_t i) {
  return (p + i * (kGroupEntries<T> - 1)) / kGroupEntries<T>;
}

template <class T>
struct CellTable {
  int64_t rows, chunks;  // a chunk: the columns of a stage
  int parts;             // of a stage
  int missing;           // parts that the first stage lacks: an incomplete stage comes first, so that blocks begin early
  Group<T>* groups = nullptr;
  Cell* cells = nullptr;     // [chunks, rows]
  int32_t* order = nullptr;  // [blocks of rows, rows of a block]: the i-th row of warp w is element w * rows_per_warp + i

  CellTable(int64_t rows, int64_t all_parts, int parts)
      : rows(rows), chunks(ceil_div(all_parts, parts)), parts(parts), missing(static_cast<int>(chunks * parts - all_parts)) {}
};

// order, for a block of rows; length(row) of its rows, or -1 where there is none. By all threads of a block.
template <class F>
__device__ void deal_rows(int32_t* order, Shared<int32_t> lengths, int rows_per_block, F length) {
  const int row = threadIdx.x;
  const int32_t mine = length(row);
  lengths[row] = mine;
  __syncthreads();
  if (row < rows_per_block) {
    int rank = 0;
    for (int other = 0; other < rows_per_block; ++other) {
      const int32_t theirs = lengths[other];
      rank += theirs > mine || (theirs == mine && other < row);
    }
    const int round = rank / kMultiplyWarps, seat = rank % kMultiplyWarps;
    const int warp = round % 2 ? kMultiplyWarps - 1 - seat : seat;
    order[warp * (rows_per_block / kMultiplyWarps) + round] = row;
  }
  __syncthreads();  // lengths are read by all before the next block of rows writes them
}

}  // namespace spx::cuda::csr
