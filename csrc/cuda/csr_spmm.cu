// CSR weight x token-major activations:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p]
//
//   w     CSR [rows, cols], columns ascending inside a row, any row may be empty; `slot` makes it the transposed view
//   x     [tokens, cols]    y  [tokens, rows], every element written once    bias  [rows] or null
//   sums in Acc<T>, in column order, no atomics: the same bits on every run, and for every tile size
//   work: a block makes a tile of 16 * kRowsPerWarp rows x kTokens tokens of y, in registers: a warp owns kRowsPerWarp rows, a
//         lane its kTokensPerLane neighbouring tokens of each. x passes through shared memory, kCols columns at a time
// Only entries of the pattern are multiplied: Inf and NaN in x reach y exactly where the weight has an entry.
//
// What limits it is the feed of operands: shared memory gives 128 bytes a clock, and each multiply takes one of x from there.
//   an entry     for 128 tokens of float: 512 bytes, 4 clocks, while the 4 FMA instructions take 1. The entry itself comes by
//                the same pipe, 16 bytes for all lanes and for 2 entries: 1/2 clock if a broadcast is free. 4 / 4.5 = 89 %
//   a cell       (a row's entries in a tile) 1 clock to find it, and up to 1/2 for a last group that is half empty
//   a tile of x  256 clocks for 32 KB. Blocks are 256 rows high to pay this, and the reading of x from L2, rarely
// For 4096 x 4096 floats, of the bound of shared memory: 82 % at 90 % zeros (a tile has 1638 entries, 6554 of 7949 clocks),
// 77 % at 95 %, 61 % at 98 %, less what warps wait for each other. L2 would allow more: x is read rows / 256 times.
// Of 16-bit types an entry takes 2 clocks of shared memory, but 3.9 to issue 15.5 instructions: conversion to float limits.
#include "csr_spmm_cells.cuh"

namespace spx::cuda {
namespace {

constexpr int kYLanes = 8;  // y leaves through the tile of x, this many lanes' tokens at a time

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

// y, from the registers of a warp's rows; where `relu`, 0 instead of what is negative. Lane i holds the place of row i in the block.
template <class T, int kRowsPerWarp>
__device__ void store_y(DenseView<T> y, Shared<Tokens<T>> slab, Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane], int place,
                        int64_t token0, int64_t row0, bool relu) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  constexpr int kStride = kRows + 1;  // odd: the lanes that write a row reach different banks
  const int lane = threadIdx.x % kWarp;
  for (int lane0 = 0; lane0 < kWarp; lane0 += kYLanes) {
    __syncthreads();  // everyone has read the slab before it is written again
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      const int row = shfl_idx(place, i);
      Tokens<T> tokens;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
        tokens.set(t, from_acc<T>(relu && acc[i][t] < 0 ? Acc<T>{0} : acc[i][t]));
      if (lane / kYLanes * kYLanes == lane0) slab[(lane - lane0) * kStride + row] = tokens;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kYLanes * kRows; i += kMultiplyThreads) {
      const int from = i / kRows, row = i % kRows;  // neighbouring lanes store neighbouring rows
      const Tokens<T> tokens = slab[from * kStride + row];
      const int64_t token = token0 + (lane0 + from) * Tile<T>::kTokensPerLane;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
        if (token + t < y.rows && row0 + row < y.cols) y.row(token + t)[row0 + row] = tokens[t];
    }
  }
}

// One tile of x in shared memory, and the next in registers while this one is multiplied. Two in shared memory would have half
// the columns, and so twice the cells, whose cost counts where it matters: at 98 % zeros a cell has 1.3 entries.
template <class T, int kRowsPerWarp>
__global__ void __launch_bounds__(kMultiplyThreads)
    csr_spmm_kernel(DenseView<T> y, Cells<T> w, DenseView<const T> x, const T* bias, bool relu, int64_t row_tiles) {
  using Tile = cuda::Tile<T>;
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  constexpr int kTile = Tile::kCols * kWarp, kSlab = kYLanes * (kRows + 1);
  SPX_SHARED(Tokens<T>, tile, kTile > kSlab ? kTile : kSlab);
  SPX_SHARED(Cell, cells, kRows);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t row0 = blockIdx.x % row_tiles * kRows;  // blocks that run together share their tokens
  const int64_t token0 = blockIdx.x / row_tiles * Tile::kTokens;

  // Lane i holds what belongs to the warp's i-th row.
  const int place = lane < kRowsPerWarp ? w.order[row0 + warp * kRowsPerWarp + lane] : kRows;
  const int64_t row = row0 + place;
  const bool has_row = lane < kRowsPerWarp && row < w.rows;
  const Acc<T> start = has_row && bias ? to_acc(bias[row]) : Acc<T>{0};
  Acc<T> acc[kRowsPerWarp][Tile::kTokensPerLane];
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const Acc<T> value = shfl_idx(start, i);
    for (int t = 0; t < Tile::kTokensPerLane; ++t) acc[i][t] = value;
  }

  Share<T> share;
  Cell next = {0, 0};
  if (w.chunks > 0) {
    share.load(x, token0, 0);
    if (has_row) next = w.cells[row];
  }
  for (int64_t chunk = 0; chunk < w.chunks; ++chunk) {
    const Group<T> head = w.groups[shfl_idx(next.first, 0)];  // on its way while the tile is stored
    __syncthreads();                                          // everyone has read the tile before it is written again
    share.store(tile);
    if (lane < kRowsPerWarp) cells[warp * kRowsPerWarp + lane] = next;
    __syncthreads();
    if (chunk + 1 < w.chunks) {
      share.load(x, token0, (chunk + 1) * Tile::kCols);
      if (has_row) next = w.cells[(chunk + 1) * w.rows + row];
    }
    multiply<T, kRowsPerWarp>(acc, tile, cells + warp * kRowsPerWarp, w.groups, head);
  }
  store_y<T, kRowsPerWarp>(y, tile, acc, place, token0, row0, relu);
}

// 64 registers of sums. Of 16-bit types fewer, for x and w take more on their way to float.
template <class T>
constexpr int kMostRowsPerWarp = sizeof(T) == 2 ? 12 : 16;

// Fewer large tiles than this leave multiprocessors idle; then smaller ones are the better loss.
constexpr int64_t kEnoughBlocks = 128;

template <class T, class Index, int kRowsPerWarp>
Status run(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, Cells<T> cells, Where where) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  const int64_t row_tiles = ceil_div(y.cols, kRows);
  static_assert(kRows <= kCellThreads);
  SPX_TRY(make_cells(cells, w, kRows, where));
  return launch("csr_spmm", csr_spmm_kernel<T, kRowsPerWarp>, row_tiles * ceil_div(y.rows, Tile<T>::kTokens), kMultiplyThreads,
                where, y, cells, x, bias, relu, row_tiles);
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                Where where) {
  if (y.rows == 0 || y.cols == 0) return kOk;
  const Cells<T> cells(workspace, w.pattern.rows, w.pattern.cols, w.pattern.capacity);
  constexpr int kMost = kMostRowsPerWarp<T>, kFewer = 4;
  const int64_t blocks = ceil_div(y.cols, kMost * kMultiplyWarps) * ceil_div(y.rows, Tile<T>::kTokens);
  return blocks >= kEnoughBlocks ? run<T, Index, kMost>(y, w, x, bias, relu, cells, where)
                                 : run<T, Index, kFewer>(y, w, x, bias, relu, cells, where);
}

int64_t csr_spmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t, int64_t acc_bytes, Where) {
  if (acc_bytes == sizeof(double)) return Cells<double>(nullptr, rows, cols, capacity).bytes;
  const int64_t whole = Cells<float>(nullptr, rows, cols, capacity).bytes,
                half = Cells<bf16>(nullptr, rows, cols, capacity).bytes;
  return whole > half ? whole : half;
}

#define INSTANTIATE(T, Index) \
  template Status csr_spmm(DenseView<T>, CsrView<T, Index>, DenseView<const T>, const T*, bool, void*, Where);
SPX_FOR_EACH_TYPE(INSTANTIATE)
INSTANTIATE(f16, int32_t)
INSTANTIATE(f16, uint16_t)

}  // namespace spx::cuda
