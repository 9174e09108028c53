// The inner loops of csr_spmm_kernel: a warp keeps the sums of its rows in registers and adds to them.
//
//   stage    multiplied by all warps, each its cells, while the next one is loaded; one barrier for each
//   quarter  of a warp's rows: multiplying it hides the loads of one part of the next stage, and the last quarter hides those
//            of the next cells. So a thread holds no more than its share of one part
//   group    16 bytes of entries; the next one is always under way
#pragma once
#include "cuda/csr/spmm_cells.cuh"

namespace spx::cuda::csr {

constexpr int kQuarters = 4;
constexpr int kMostCells = 16;  // of a warp in a stage

// acc[i] = bias of lane i's row, or 0.
template <class T, int kRowsPerWarp>
__device__ __forceinline__ void start_rows(Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane], const T* bias, int32_t row) {
  const Acc<T> start = row >= 0 && bias ? to_acc(bias[row]) : Acc<T>{0};
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const Acc<T> value = shfl_idx(start, i);
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) acc[i][t] = value;
  }
}

// One of the kParts parts of a cell: its groups, shared out evenly.
template <class T, int kParts>
__device__ __forceinline__ Cell part_of(Cell cell, int part) {
  if constexpr (kParts == 1) return cell;
  const int groups = (cell.count + kGroupEntries<T> - 1) / kGroupEntries<T>;
  const int begin = groups * part / kParts, end = groups * (part + 1) / kParts;
  const int mine = (end - begin) * kGroupEntries<T>, left = cell.count - begin * kGroupEntries<T>;
  return {cell.first + begin, mine < left ? mine : left};
}

// acc[t] += the first `count` entries of a group x the lane's t-th token. All reads go out before the first is used.
// `mine` is where the lane's tokens begin.
template <class T>
__device__ __forceinline__ void add_group(Acc<T> (&acc)[Tile<T>::kTokensPerLane], Shared<Tokens<T>> mine, Group<T> group,
                                          int count) {
  Tokens<T> x[kGroupEntries<T>];
#pragma unroll
  for (int e = 0; e < kGroupEntries<T>; ++e)
    if (e < count) x[e] = element_at<Tokens<T>>(mine, group[e].place);
#pragma unroll
  for (int e = 0; e < kGroupEntries<T>; ++e) {
    const Acc<T> value = to_acc(group[e].value);
#pragma unroll
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
      if (e < count) acc[t] += value * to_acc(x[e][t]);
  }
}

// acc[i] += cell i, for a quarter of the rows; `head` is the first group of `cell`, that of the quarter's first row, and then
// of the next one's. The group after this one is always under way; of an empty cell a group is read, but not used.
template <class T, int kRowsPerWarp>
__device__ __forceinline__ void multiply(Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane], int quarter,
                                         Shared<Tokens<T>> mine, Shared<Cell> cells, const Group<T>* groups, Cell& cell,
                                         Group<T>& head) {
  static_assert(kRowsPerWarp % kQuarters == 0);
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    if (i / (kRowsPerWarp / kQuarters) != quarter) continue;
    const Group<T>* at = groups + cell.first;
    int count = cell.count;
#pragma unroll 1  // the code of all rows stays in the instruction cache
    for (; count > kGroupEntries<T>; count -= kGroupEntries<T>) {
      const Group<T> group = head;
      head = *++at;
      add_group<T>(acc[i], mine, group, kGroupEntries<T>);
    }
    const Group<T> group = head;
    if (i + 1 < kRowsPerWarp) {
      cell = cells[i + 1];
      head = groups[cell.first];
    }
    add_group<T>(acc[i], mine, group, count);
  }
}

// acc[i] += all entries of row i, or a part of each of its cells if kParts warps share the row. Lane i holds the values for
// row i: `row`, -1 if there is none, and which part of it. The first stage is on its way to shared memory.
template <class T, int kRowsPerWarp, int kParts>
__device__ __forceinline__ void add_rows(Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane], Shared<Tokens<T>> stages,
                                         Shared<Cell> cells, Cells<T> w, Feed<T>& feed, int32_t row, int part) {
  static_assert(Tile<T>::kMostParts < kQuarters, "one quarter is for the cells");
  const int lane = threadIdx.x % kWarp, stage_tokens = w.parts * Tile<T>::kPartTokens;
  Cell next = {0, 0};
  if (row >= 0 && w.chunks > 0) next = part_of<T, kParts>(w.cells[row], part);
  for (int chunk = 0; chunk < w.chunks; ++chunk) {
    Group<T> head = w.groups[shfl_idx(next.first, 0)];  // on its way while warps wait for each other
    if (lane < kRowsPerWarp) cells[lane] = next;
    __syncthreads();  // this stage is there, and everyone has read the other one
    const Shared<Tokens<T>> stage = stages + chunk % 2 * stage_tokens, idle = stages + (1 - chunk % 2) * stage_tokens;
    Cell cell = cells[0];
#pragma unroll 1  // one copy of the code that loads and transposes
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
      const bool feeds = quarter < w.parts && feed.has_part();
      if (feeds) feed.load();
      if (quarter == kQuarters - 1 && row >= 0 && chunk + 1 < w.chunks)
        next = part_of<T, kParts>(w.cells[(chunk + 1) * w.rows + row], part);
      multiply<T, kRowsPerWarp>(acc, quarter, stage + lane, cells, w.groups, cell, head);
      if (feeds) feed.store(idle, quarter);
    }
    __syncwarp();  // the cells are read, before the next ones are written
  }
}

}  // namespace spx::cuda::csr
