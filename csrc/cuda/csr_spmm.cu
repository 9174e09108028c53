// CSR weight x token-major activations:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p], and its positive part where `relu`
//
//   w     CSR [rows, cols], columns ascending inside a row, any row may be empty; `slot` makes it the transposed view
//   x     [tokens, cols]    y  [tokens, rows], every element written once    bias  [rows] or null
//   sums in Acc<T>, in column order, no atomics: the same bits on every run, and for every tile size. A split row (see
//         csr_spmm_cells.cuh) is summed in 16 parts, each in column order, which are then added in their order
//   work: a block makes a tile of 16 * kRowsPerWarp rows x kTokens tokens of y, in registers: a warp owns kRowsPerWarp rows, a
//         lane its kTokensPerLane neighbouring tokens of each. x passes through shared memory, kCols columns at a time.
//         Split rows have blocks of their own, 4 to a block, and each of the 16 warps owns a part of each
// Only entries of the pattern are multiplied: Inf and NaN in x reach y exactly where the weight has an entry.
//
// What limits it is the feed of operands: shared memory gives 128 bytes a clock, and each multiply takes one of x from there.
//   an entry     for 128 tokens of float: 512 bytes, 4 clocks, while the 4 FMA instructions take 1. The entry itself comes by
//                the same pipe, 16 bytes for all lanes and for 2 entries: 1/2 clock if a broadcast is free. 4 / 4.5 = 89 %
//   a cell       (a row's entries in a tile) 1 clock to find it, and up to 1/2 for a last group that is half empty
//   a tile of x  256 clocks for 32 KB. Blocks are 256 rows high to pay this, and the reading of x from L2, rarely
// For 4096 x 4096 floats, of the bound of shared memory: 82 % at 90 % zeros (a tile has 1638 entries, 6554 of 7949 clocks),
// 77 % at 95 %, 61 % at 98 %, less what warps wait for each other. L2 would allow more: x is read rows / 256 times.
// Warps wait at every tile of x. So a long row is not cut into runs of columns, which would make as many tiles late: a warp's
// part of it is a sixteenth of each cell. Four full rows take 256 + 1152 clocks of a tile; where none is split, 128 blocks leave
// at once (docs/gpu-kernels.md has the balance of several patterns).
// Of 16-bit types an entry takes 2 clocks of shared memory, but 3.9 to issue 15.5 instructions: conversion to float limits.
#include "csr_spmm_cells.cuh"

namespace spx::cuda {
namespace {

constexpr int kYLanes = 8;     // y leaves through the tile of x, this many lanes' tokens at a time
constexpr int kSplitRows = 4;  // of a block; with 8, its loop over such tiles takes more registers than there are
constexpr int kSumLanes = 8;   // their parts meet in shared memory, this many lanes' tokens at a time

template <class T>
using Sums = Words<Acc<T>, Tile<T>::kTokensPerLane>;

// Which part of a block's i-th split row a warp has: another one of each row, for in a cell of few groups some parts are empty.
__device__ inline int part_of_row(int warp, int i) { return (warp + i) % kMultiplyWarps; }

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
template <class T>
__device__ __forceinline__ void add_group(Acc<T> (&acc)[Tile<T>::kTokensPerLane], Shared<Tokens<T>> tile, Group<T> group,
                                          int count) {
  const int lane_place = static_cast<int>(threadIdx.x % kWarp) * Tile<T>::kLaneBytes;
  Tokens<T> x[kGroupEntries<T>];
#pragma unroll
  for (int e = 0; e < kGroupEntries<T>; ++e)
    if (e < count) x[e] = tile[(group[e].place ^ lane_place) / Tile<T>::kLaneBytes];
#pragma unroll
  for (int e = 0; e < kGroupEntries<T>; ++e) {
    const Acc<T> value = to_acc(group[e].value);
#pragma unroll
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
      if (e < count) acc[t] += value * to_acc(x[e][t]);
  }
}

// acc[i] += cell i; `head` is the first group of cell 0. The group after this one is always under way; of an empty cell a group
// is read, but not used.
template <class T, int kRowsPerWarp>
__device__ __forceinline__ void multiply(Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane], Shared<Tokens<T>> tile,
                                         Shared<Cell> cells, const Group<T>* groups, Group<T> head) {
  Cell cell = cells[0];
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const Group<T>* at = groups + cell.first;
    int count = cell.count;
#pragma unroll 1  // the code of all rows stays in the instruction cache
    for (; count > kGroupEntries<T>; count -= kGroupEntries<T>) {
      const Group<T> group = head;
      head = *++at;
      add_group<T>(acc[i], tile, group, kGroupEntries<T>);
    }
    const Group<T> group = head;
    if (i + 1 < kRowsPerWarp) {
      cell = cells[i + 1];
      head = groups[cell.first];
    }
    add_group<T>(acc[i], tile, group, count);
  }
}

// acc[i] = bias + the sum over all entries of row i, or over a part of each of its cells where kParts warps share the row. Lane i
// holds what belongs to row i: `row`, -1 if there is none, and which part of it. The bias belongs to the first part.
// One tile of x is in shared memory, and the next in registers while this one is multiplied. Two in shared memory would have
// half the columns, and so twice the cells, whose cost counts where it matters: at 98 % zeros a cell has 1.3 entries.
template <class T, int kRowsPerWarp, int kParts>
__device__ __forceinline__ void sum_rows(Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane], Shared<Tokens<T>> tile,
                                         Shared<Cell> cells, Cells<T> w, DenseView<const T> x, const T* bias, int64_t token0,
                                         int64_t row, int part) {
  const int lane = threadIdx.x % kWarp;
  const Acc<T> start = row >= 0 && part == 0 && bias ? to_acc(bias[row]) : Acc<T>{0};
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const Acc<T> value = shfl_idx(start, i);
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) acc[i][t] = value;
  }

  Share<T> share;
  Cell next = {0, 0};
  if (w.chunks > 0) {
    share.load(x, token0, 0);
    if (row >= 0) next = part_of<T, kParts>(w.cells[row], part);
  }
  for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
    const Group<T> head = w.groups[shfl_idx(next.first, 0)];  // on its way while the tile is stored
    __syncthreads();                                          // everyone has read the tile before it is written again
    share.store(tile);
    if (lane < kRowsPerWarp) cells[lane] = next;
    __syncthreads();
    if (chunk + 1 < w.chunks) {
      share.load(x, token0, (chunk + 1) * Tile<T>::kCols);
      if (row >= 0) next = part_of<T, kParts>(w.cells[(chunk + 1) * w.rows + row], part);
    }
    multiply<T, kRowsPerWarp>(acc, tile, cells, w.groups, head);
  }
}

// What is stored: where `relu`, 0 instead of what is negative.
template <class T>
__device__ __forceinline__ T output(T v, bool relu) {
  return relu && to_acc(v) < 0 ? T{} : v;
}

// y, from the registers of a warp's rows. Lane i holds the place of row i in the block. Split rows are left to store_parts.
template <class T, int kRowsPerWarp>
__device__ void store_y(DenseView<T> y, Shared<Tokens<T>> slab, Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane],
                        Cells<T> w, int place, int64_t token0, int64_t row0, bool relu) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  constexpr int kStride = kRows + 1;                 // odd: the lanes that write a row reach different banks
  constexpr int kAtOnce = kMultiplyThreads / kRows;  // so many lanes' tokens
  const int lane = threadIdx.x % kWarp;
  const int mine = threadIdx.x % kRows;  // neighbouring threads store neighbouring rows
  const bool stores = threadIdx.x < kAtOnce * kRows && row0 + mine < y.cols && !w.is_split(row0 + mine);
  for (int lane0 = 0; lane0 < kWarp; lane0 += kYLanes) {
    __syncthreads();  // everyone has read the slab before it is written again
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      const int row = shfl_idx(place, i);
      Tokens<T> tokens;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) tokens.set(t, from_acc<T>(acc[i][t]));
      if (lane / kYLanes * kYLanes == lane0) slab[(lane - lane0) * kStride + row] = tokens;
    }
    __syncthreads();
    for (int from = threadIdx.x / kRows; stores && from < kYLanes; from += kAtOnce) {
      const Tokens<T> tokens = slab[from * kStride + mine];
      const int64_t token = token0 + (lane0 + from) * Tile<T>::kTokensPerLane;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
        if (token + t < y.rows) y.row(token + t)[row0 + mine] = output(tokens[t], relu);
    }
  }
}

// y, from the parts of split rows in the registers of all warps, added in their order. Lane i holds row i, or -1.
template <class T>
__device__ void store_parts(DenseView<T> y, Shared<Sums<T>> slab, Acc<T> (&acc)[kSplitRows][Tile<T>::kTokensPerLane],
                            int64_t row, int64_t token0, bool relu) {
  static_assert(kSumLanes * kSplitRows <= kWarp, "one warp adds");
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int from = lane / kSplitRows, mine = lane % kSplitRows;
  const int64_t my_row = shfl_idx(row, mine);
  for (int lane0 = 0; lane0 < kWarp; lane0 += kSumLanes) {
    __syncthreads();  // the sums before are made, before the slab is written again
#pragma unroll
    for (int i = 0; i < kSplitRows; ++i) {
      Sums<T> sums;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) sums.set(t, acc[i][t]);
      if (lane / kSumLanes * kSumLanes == lane0)
        slab[((lane - lane0) * kMultiplyWarps + part_of_row(warp, i)) * kSplitRows + i] = sums;
    }
    __syncthreads();
    if (warp > 0 || from >= kSumLanes || my_row < 0) continue;
    Acc<T> sum[Tile<T>::kTokensPerLane] = {};
#pragma unroll
    for (int part = 0; part < kMultiplyWarps; ++part) {
      const Sums<T> sums = slab[(from * kMultiplyWarps + part) * kSplitRows + mine];
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) sum[t] += sums[t];
    }
    const int64_t token = token0 + (lane0 + from) * Tile<T>::kTokensPerLane;
#pragma unroll
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
      if (token + t < y.rows) y.row(token + t)[my_row] = output(from_acc<T>(sum[t]), relu);
  }
}

// The first split_blocks blocks take the split rows, one tile of kSplitRows after another, so that what lasts longest begins
// first. The host does not know how many there are: mostly none, and these blocks leave at once.
template <class T, int kRowsPerWarp>
__global__ void __launch_bounds__(kMultiplyThreads)
    csr_spmm_kernel(DenseView<T> y, Cells<T> w, DenseView<const T> x, const T* bias, bool relu, int64_t row_tiles,
                    int64_t split_blocks) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  constexpr int kTile = Tile<T>::kCols * kWarp, kSlab = kYLanes * (kRows + 1);
  SPX_SHARED(Tokens<T>, tile, kTile > kSlab ? kTile : kSlab);
  SPX_SHARED(Sums<T>, sums, kSumLanes * kSplitRows * kMultiplyWarps);
  SPX_SHARED(Cell, cells, kMultiplyWarps * (kRowsPerWarp > kSplitRows ? kRowsPerWarp : kSplitRows));
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  if (blockIdx.x >= split_blocks) {
    const int64_t block = blockIdx.x - split_blocks;
    const int64_t row0 = block % row_tiles * kRows;  // blocks that run together share their tokens
    const int64_t token0 = block / row_tiles * Tile<T>::kTokens;
    const int place = lane < kRowsPerWarp ? w.order[row0 + warp * kRowsPerWarp + lane] : kRows;
    const bool has_row = place < kRows && row0 + place < w.rows && !w.is_split(row0 + place);
    Acc<T> acc[kRowsPerWarp][Tile<T>::kTokensPerLane];
    sum_rows<T, kRowsPerWarp, 1>(acc, tile, cells + warp * kRowsPerWarp, w, x, bias, token0, has_row ? row0 + place : -1, 0);
    store_y<T, kRowsPerWarp>(y, tile, acc, w, place, token0, row0, relu);
    return;
  }
  const int count = *w.split_count, split_tiles = (count + kSplitRows - 1) / kSplitRows;
  for (int item = blockIdx.x; split_tiles > 0; item += static_cast<int>(split_blocks)) {
    const int64_t token0 = int64_t{item / split_tiles} * Tile<T>::kTokens;
    if (token0 >= y.rows) break;
    const int i = item % split_tiles * kSplitRows + lane;
    const int64_t row = lane < kSplitRows && i < count ? w.split_rows[i] : -1;
    Acc<T> acc[kSplitRows][Tile<T>::kTokensPerLane];
    sum_rows<T, kSplitRows, kMultiplyWarps>(acc, tile, cells + warp * kSplitRows, w, x, bias, token0, row,
                                            part_of_row(warp, lane));
    store_parts<T>(y, sums, acc, row, token0, relu);
  }
}

// 64 registers of sums. Of 16-bit types fewer, for x and w take more on their way to float.
template <class T>
constexpr int kMostRowsPerWarp = sizeof(T) == 2 ? 12 : 16;

// Fewer large tiles than this leave multiprocessors idle; then smaller ones are the better loss.
constexpr int64_t kEnoughBlocks = 128;

template <class T, class Index, int kRowsPerWarp>
Status run(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, Cells<T> cells, Where where) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  const int64_t row_tiles = ceil_div(y.cols, kRows), token_tiles = ceil_div(y.rows, Tile<T>::kTokens);
  const int64_t split_tiles = ceil_div(cells.most_split, kSplitRows) * token_tiles;
  const int64_t split_blocks = split_tiles < kEnoughBlocks ? split_tiles : kEnoughBlocks;
  static_assert(kRows <= kCellThreads);
  SPX_TRY(make_cells(cells, w, kRows, where));
  return launch("csr_spmm", csr_spmm_kernel<T, kRowsPerWarp>, split_blocks + row_tiles * token_tiles, kMultiplyThreads, where,
                y, cells, x, bias, relu, row_tiles, split_blocks);
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                Where where) {
  if (y.rows == 0 || y.cols == 0) return kOk;
  const Cells<T> cells(workspace, w.pattern.row_ptr, w.pattern.rows, w.pattern.cols, w.pattern.capacity);
  constexpr int kMost = kMostRowsPerWarp<T>, kFewer = 4;
  const int64_t blocks = ceil_div(y.cols, kMost * kMultiplyWarps) * ceil_div(y.rows, Tile<T>::kTokens);
  return blocks >= kEnoughBlocks ? run<T, Index, kMost>(y, w, x, bias, relu, cells, where)
                                 : run<T, Index, kFewer>(y, w, x, bias, relu, cells, where);
}

int64_t csr_spmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t, int64_t acc_bytes, Where) {
  if (acc_bytes == sizeof(double)) return Cells<double>(nullptr, nullptr, rows, cols, capacity).bytes;
  const int64_t whole = Cells<float>(nullptr, nullptr, rows, cols, capacity).bytes,
                half = Cells<bf16>(nullptr, nullptr, rows, cols, capacity).bytes;
  return whole > half ? whole : half;
}

#define INSTANTIATE(T, Index) \
  template Status csr_spmm(DenseView<T>, CsrView<T, Index>, DenseView<const T>, const T*, bool, void*, Where);
SPX_FOR_EACH_TYPE(INSTANTIATE)
INSTANTIATE(f16, int32_t)
INSTANTIATE(f16, uint16_t)

}  // namespace spx::cuda
