// The inner loops of csr_spmm_kernel and csr_conv2d_kernel: a warp keeps the sums of its rows in registers and adds to them.
//
//   stage    multiplied by all warps, each its cells, while the next one is loaded; one barrier for each
//   quarter  of a warp's rows: multiplying it hides the loads of one part of the next stage, and the last quarter hides those
//            of the next cells. So a thread holds no more than its share of one part
//   group    16 bytes of entries, 32 of them a line, which a warp loads at once; the next line is always under way
#pragma once
#include "cuda/csr/cells.cuh"

namespace spx::cuda::csr {

template <class T>
constexpr int kPerLane = sizeof(T) == 8 ? 2 : 4;  // tokens, or pixels, that a lane adds to at once

constexpr int kQuarters = 4;
constexpr int kMostCells = 16;  // of a warp in a stage

// Which part of a block's i-th split row a warp takes. It changes from row to row: parts of a cell with few groups are empty,
// and these would always be the same warps'.
__device__ inline int part_of_row(int warp, int i) { return (warp + i) % kMultiplyWarps; }

template <class A>
__device__ inline A maybe_relu(A sum, bool relu) {
  return relu && sum < 0 ? A{0} : sum;
}

// acc[i] = bias of lane i's row, or 0.
template <class T, int kRowsPerWarp>
__device__ __forceinline__ void start_rows(Acc<T> (&acc)[kRowsPerWarp][kPerLane<T>], const T* bias, int32_t row) {
  const Acc<T> start = row >= 0 && bias ? to_acc(bias[row]) : Acc<T>{0};
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const Acc<T> value = shfl_idx(start, i);
    for (int t = 0; t < kPerLane<T>; ++t) acc[i][t] = value;
  }
}

// Of a warp's i-th cell, or of the warp's part of it if kParts warps share the rows: its groups are shared out evenly.
template <class T, int kParts>
__device__ __forceinline__ Cell cell_at(Shared<Cell> cells, int i) {
  const Cell cell = cells[i];
  if constexpr (kParts == 1) return cell;
  const int part = part_of_row(static_cast<int>(threadIdx.x) / kWarp, i);
  const int groups = (cell.count + kGroupEntries<T> - 1) / kGroupEntries<T>;
  const int begin = groups * part / kParts, end = groups * (part + 1) / kParts;
  const int mine = (end - begin) * kGroupEntries<T>, left = cell.count - begin * kGroupEntries<T>;
  return {cell.first + begin, mine < left ? mine : left};
}

// acc[t] += the first `count` entries of a group x the lane's t-th token. All reads go out before the first is used.
template <class T, class Reader>
__device__ __forceinline__ void add_group(Acc<T> (&acc)[kPerLane<T>], Reader read, Group<T> group, int count) {
  Words<T, kPerLane<T>> x[kGroupEntries<T>];
#pragma unroll
  for (int e = 0; e < kGroupEntries<T>; ++e)
    if (e < count) x[e] = read(group[e].place);
#pragma unroll
  for (int e = 0; e < kGroupEntries<T>; ++e) {
    const Acc<T> value = to_acc(group[e].value);
#pragma unroll
    for (int t = 0; t < kPerLane<T>; ++t)
      if (e < count) acc[t] += value * to_acc(x[e][t]);
  }
}

// A warp's entries on their way from global memory through shared memory to all its lanes. One after the other would each take
// the time of L2. A line has groups of every row of a quarter, loaded by kLanes neighbouring lanes for each row; a quarter with
// longer cells takes several rounds of lines.
template <class T, int kRowsPerWarp>
struct Supply {
  static_assert(kRowsPerWarp % kQuarters == 0);
  static constexpr int kRows = kRowsPerWarp / kQuarters, kLanes = kWarp / kRows;
  static constexpr int kEntries = kLanes * kGroupEntries<T>;  // of a row in a line

  const Group<T>* groups;
  Shared<Group<T>> lines;  // the warp's two in shared memory: one is read while the other is on its way
  int line = 0;            // the one that is read

  // Which row of its quarter this lane loads for.
  static __device__ int my_row() {
    const int row = threadIdx.x % kWarp / kLanes;
    return row < kRows ? row : kRows - 1;
  }
  static __device__ int rounds(int count) { return (count + kEntries - 1) / kEntries; }

  // Begins to load a line; `cell` is that of my_row().
  __device__ void load(Cell cell, int round) {
    const int at = round * kLanes + static_cast<int>(threadIdx.x) % kWarp - my_row() * kLanes;
    if (at < (round + 1) * kLanes && at * kGroupEntries<T> < cell.count)
      cp_async(lines + (1 - line) * kWarp + threadIdx.x % kWarp, groups + cell.first + at);
  }
  // The line that was loaded becomes the one that is read.
  __device__ void take() {
    cp_async_wait();
    __syncwarp();  // it is there for all lanes, and all have read the other
    line = 1 - line;
  }
  // The groups of a quarter's i-th row.
  __device__ Shared<Group<T>> row(int i) const { return lines + line * kWarp + i * kLanes; }
};

// acc[i] += cell i, for a quarter of the rows, whose first line is loaded; begins to load the first line of the next quarter,
// or of the next stage's cells.
template <class T, int kRowsPerWarp, int kParts, class Reader>
__device__ __forceinline__ void multiply(Acc<T> (&acc)[kRowsPerWarp][kPerLane<T>], int quarter, Reader read,
                                         Supply<T, kRowsPerWarp>& supply, Shared<Cell> cells, Shared<Cell> next) {
  using Supply = csr::Supply<T, kRowsPerWarp>;
  const int row0 = quarter * Supply::kRows, my_row = Supply::my_row();
  int rounds = 1;
#pragma unroll
  for (int i = 0; i < Supply::kRows; ++i) {
    const int needs = Supply::rounds(cell_at<T, kParts>(cells, row0 + i).count);
    rounds = needs > rounds ? needs : rounds;
  }
#pragma unroll 1  // the code of all rows stays in the instruction cache
  for (int round = 0; round < rounds; ++round) {
    supply.take();
    if (round + 1 < rounds)
      supply.load(cell_at<T, kParts>(cells, row0 + my_row), round + 1);
    else if (quarter + 1 < kQuarters)
      supply.load(cell_at<T, kParts>(cells, row0 + Supply::kRows + my_row), 0);
    else
      supply.load(cell_at<T, kParts>(next, my_row), 0);
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      if (i / Supply::kRows != quarter) continue;
      const int left = cell_at<T, kParts>(cells, i).count - round * Supply::kEntries;
      int count = left < Supply::kEntries ? left : Supply::kEntries;
      Shared<Group<T>> at = supply.row(i % Supply::kRows);
#pragma unroll 1
      for (; count > kGroupEntries<T>; count -= kGroupEntries<T>, at = at + 1)
        add_group<T>(acc[i], read, Group<T>(*at), kGroupEntries<T>);
      if (count > 0) add_group<T>(acc[i], read, Group<T>(*at), count);
    }
  }
}

// Begins to bring the cells of a stage, lane i that of row `row`, to shared memory; none where there is no row or no stage.
template <class T, int kRowsPerWarp>
__device__ __forceinline__ void fetch_cells(Shared<Cell> to, const CellTable<T>& w, int32_t row, int chunk) {
  const int lane = threadIdx.x % kWarp;
  if (lane >= kRowsPerWarp) return;
  if (row >= 0 && chunk < w.chunks)
    cp_async(to + lane, w.cells + chunk * w.rows + row);
  else
    to[lane] = Cell{0, 0};
}

// acc[i] += all entries of row i, or a part of each of its cells if kParts warps share the row. Lane i holds row i, -1 if there
// is none. The first stage is on its way to shared memory. cells, lines: two of this warp.
template <class T, int kRowsPerWarp, int kParts, class Feed>
__device__ __forceinline__ void add_rows(Acc<T> (&acc)[kRowsPerWarp][kPerLane<T>], Shared<typename Feed::Element> stages,
                                         Shared<Cell> cells, Shared<Group<T>> lines, const CellTable<T>& w, Feed& feed,
                                         int32_t row) {
  using Stage = Shared<typename Feed::Element>;
  const int stage_elements = feed.stage_elements(w.parts);
  Supply<T, kRowsPerWarp> supply = {w.groups, lines};
  fetch_cells<T, kRowsPerWarp>(cells, w, row, 0);
  cp_async_wait();
  __syncwarp();
  supply.load(cell_at<T, kParts>(cells, supply.my_row()), 0);
  for (int chunk = 0; chunk < w.chunks; ++chunk) {
    __syncthreads();  // this stage is there, and everyone has read the other one
    const Stage stage = stages + chunk % 2 * stage_elements, idle = stages + (1 - chunk % 2) * stage_elements;
    const Shared<Cell> here = cells + chunk % 2 * kMostCells, next = cells + (1 - chunk % 2) * kMostCells;
    fetch_cells<T, kRowsPerWarp>(next, w, row, chunk + 1);
#pragma unroll 1  // one copy of the code that loads and transposes
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
      const bool feeds = quarter < w.parts && feed.has_part();
      if (feeds) feed.load();
      multiply<T, kRowsPerWarp, kParts>(acc, quarter, feed.reader(stage), supply, here, next);
      if (feeds) feed.store(idle, quarter);
    }
  }
}

}  // namespace spx::cuda::csr
