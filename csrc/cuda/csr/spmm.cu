// CSR weight x token-major activations:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p], then relu, if `relu`
//
//   w     CSR [rows, cols], columns ascending inside a row, any row may be empty; `slot` makes it the transposed view
//   x     [tokens, cols]    y  [tokens, rows], every element written once    bias  [rows] or null
//   sums in Acc<T>, in column order, no atomics: the same bits on every run, and for every tile and stage. A split row (see
//         spmm_cells.cuh) is summed in 16 parts, each in column order, which are then added in order. The parts depend on the
//         columns of a stage, and so on how much shared memory the device has
//   work: a block makes a tile of 16 * kRowsPerWarp rows x kTokens tokens of y, in registers: a warp owns kRowsPerWarp rows, a
//         lane its kTokensPerLane neighbouring tokens of each. x passes through shared memory in stages: one is multiplied
//         while the next is loaded, part by part, with one barrier for each. A stage has 3 parts of 64 columns of float
//         on sm_90, 2 on sm_80; 2 parts of 128 columns of 16 bits; and one part where there is less shared memory, as on sm_86.
//         Split rows have blocks of their own, 4 to a block, and each of the 16 warps owns a part of each
// Only entries of the pattern are multiplied: Inf and NaN in x reach y exactly where the weight has an entry.
//
// The limit is shared memory, at 128 bytes a clock: every multiplication reads its x from there.
//   an entry     for 128 tokens of float: 512 bytes, 4 clocks, while the 4 FMA instructions take 1. The entry itself comes by
//                the same pipe, 16 bytes for all lanes and for 2 entries: a broadcast that takes as long as 4 wavefronts, so 2
//                clocks. 4 / 6 = 67 %
//   a cell       (a row's entries in a stage) 1 clock to find it, and 1 for a last group that is half empty every other time
//   a part of x  256 clocks for 32 KB. Blocks are 256 rows high to pay this, and the reading of x from L2, rarely
// For 4096 x 4096 floats in stages of 192 columns, of the bound of shared memory: 64 % at 90 % zeros (a stage has 4915 entries,
// 19661 of 30771 clocks), 61 % at 95 %, 55 % at 98 %; less what warps wait for the slowest of them at the end of a stage, which
// has 1.09, 1.14 and 1.23 of the entries of the average. An H200 reached 53, 45 and 28 % (docs/gpu-kernels.md). Stages of one
// part would allow 62, 58 and 48 %: a cell would have 1.3 entries at 98 % zeros, and every fourth none. L2 would allow more: x
// is read rows / 256 times.
// As warps wait at every stage, a long row is not cut into runs of columns, which would make as many stages late: a warp's part
// of it is a sixteenth of each cell. Four full rows take 768 + 3456 clocks of a stage; where none is split, 128 blocks leave at
// once (docs/gpu-kernels.md has the balance of several patterns).
// Of 16-bit types an entry takes 3 clocks of shared memory, but 3.75 to issue 15 instructions: conversion to float limits.
#include "cuda/csr/spmm_cells.cuh"

namespace spx::cuda::csr {
namespace {

constexpr int kYLanes = 8;     // y is stored through the memory of the stages, this many lanes' tokens at a time
constexpr int kSplitRows = 4;  // of a block; with 8, its loop over such tiles takes more registers than there are
constexpr int kSumLanes = 8;   // their parts are added in shared memory, this many lanes' tokens at a time

template <class T>
using Sums = Words<Acc<T>, Tile<T>::kTokensPerLane>;

template <class T>
constexpr int kTokensPerSums = sizeof(Sums<T>) / sizeof(Tokens<T>);

// The i-th sums in memory declared for activations, which for 16-bit types are half as large.
template <class T>
__device__ void set_sums(Shared<Tokens<T>> slab, int i, Sums<T> sums) {
  Tokens<T> tokens[kTokensPerSums<T>];
  memcpy(tokens, &sums, sizeof sums);
  for (int k = 0; k < kTokensPerSums<T>; ++k) slab[i * kTokensPerSums<T> + k] = tokens[k];
}
template <class T>
__device__ Sums<T> get_sums(Shared<Tokens<T>> slab, int i) {
  Tokens<T> tokens[kTokensPerSums<T>];
  for (int k = 0; k < kTokensPerSums<T>; ++k) tokens[k] = slab[i * kTokensPerSums<T> + k];
  Sums<T> sums;
  memcpy(&sums, tokens, sizeof sums);
  return sums;
}

// y, from the registers of a warp's rows. Lane i holds row i, or -1: split rows are left to store_parts.
template <class T, int kRowsPerWarp>
__device__ void store_y(DenseView<T> y, Shared<Tokens<T>> slab, Acc<T> (&acc)[kRowsPerWarp][Tile<T>::kTokensPerLane],
                        Cells<T> w, int32_t row, int64_t token0, int64_t row0, bool relu) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  constexpr int kStride = kRows + 1;                 // odd: the lanes that write a row reach different banks
  constexpr int kAtOnce = kMultiplyThreads / kRows;  // so many lanes' tokens
  const int lane = threadIdx.x % kWarp;
  const int mine = threadIdx.x % kRows;  // neighbouring threads store neighbouring rows
  const bool stores = threadIdx.x < kAtOnce * kRows && row0 + mine < y.cols && !w.is_split(row0 + mine);
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i)  // in place: a copy would take as many registers
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) acc[i][t] = maybe_relu(acc[i][t], relu);
  for (int lane0 = 0; lane0 < kWarp; lane0 += kYLanes) {
    __syncthreads();  // everyone has read the slab before it is written again
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      const int32_t place = shfl_idx(row, i) - static_cast<int32_t>(row0);
      Tokens<T> tokens;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) tokens.set(t, from_acc<T>(acc[i][t]));
      if (place >= 0 && lane / kYLanes * kYLanes == lane0) slab[(lane - lane0) * kStride + place] = tokens;
    }
    __syncthreads();
    for (int from = threadIdx.x / kRows; stores && from < kYLanes; from += kAtOnce) {
      const Tokens<T> tokens = slab[from * kStride + mine];
      const int64_t token = token0 + (lane0 + from) * Tile<T>::kTokensPerLane;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
        if (token + t < y.rows) y.row(token + t)[row0 + mine] = tokens[t];
    }
  }
}

// y, from the parts of split rows in the registers of all warps, added in their order. Lane i holds row i, or -1.
template <class T>
__device__ void store_parts(DenseView<T> y, Shared<Tokens<T>> slab, Acc<T> (&acc)[kSplitRows][Tile<T>::kTokensPerLane],
                            int32_t row, int64_t token0, bool relu) {
  static_assert(kSumLanes * kSplitRows <= kWarp, "one warp adds");
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int from = lane / kSplitRows, mine = lane % kSplitRows;
  const int32_t my_row = shfl_idx(row, mine);
  for (int lane0 = 0; lane0 < kWarp; lane0 += kSumLanes) {
    __syncthreads();  // the sums before are made, before the slab is written again
#pragma unroll
    for (int i = 0; i < kSplitRows; ++i) {
      Sums<T> sums;
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) sums.set(t, acc[i][t]);
      if (lane / kSumLanes * kSumLanes == lane0)
        set_sums<T>(slab, ((lane - lane0) * kMultiplyWarps + part_of_row(warp, i)) * kSplitRows + i, sums);
    }
    __syncthreads();
    if (warp > 0 || from >= kSumLanes || my_row < 0) continue;
    Acc<T> sum[Tile<T>::kTokensPerLane] = {};
#pragma unroll
    for (int part = 0; part < kMultiplyWarps; ++part) {
      const Sums<T> sums = get_sums<T>(slab, (from * kMultiplyWarps + part) * kSplitRows + mine);
#pragma unroll
      for (int t = 0; t < Tile<T>::kTokensPerLane; ++t) sum[t] += sums[t];
    }
    const int64_t token = token0 + (lane0 + from) * Tile<T>::kTokensPerLane;
#pragma unroll
    for (int t = 0; t < Tile<T>::kTokensPerLane; ++t)
      if (token + t < y.rows) y.row(token + t)[my_row] = from_acc<T>(maybe_relu(sum[t], relu));
  }
}

// The first split_blocks blocks take the split rows, one tile of kSplitRows after another, so that the longest work starts
// first. The host does not know how many split rows there are. Usually there are none, and these blocks return at once.
template <class T, int kRowsPerWarp>
__global__ void __launch_bounds__(kMultiplyThreads)
    csr_spmm_kernel(DenseView<T> y, Cells<T> w, DenseView<const T> x, const T* bias, bool relu, int64_t row_tiles,
                    int64_t split_blocks) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  static_assert(kYLanes * (kRows + 1) * Tile<T>::kLaneBytes <= 2 * Tile<T>::kPartBytes, "y is stored through it");
  static_assert(kSumLanes * kSplitRows * kMultiplyWarps * sizeof(Sums<T>) <= 2 * Tile<T>::kPartBytes,
                "and so are sums of parts");
  SPX_DYNAMIC_SHARED(Tokens<T>, stages);
  SPX_SHARED(Cell, all_cells, kMultiplyWarps * 2 * kMostCells);
  SPX_SHARED(Group<T>, all_lines, kMultiplyWarps * 2 * kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Shared<Cell> cells = all_cells + warp * 2 * kMostCells;
  const Shared<Group<T>> lines = all_lines + warp * 2 * kWarp;

  if (blockIdx.x >= split_blocks) {
    const int64_t block = blockIdx.x - split_blocks;
    const int64_t row0 = block % row_tiles * kRows;  // blocks that run together share their tokens
    const int64_t token0 = block / row_tiles * Tile<T>::kTokens;
    const int place = lane < kRowsPerWarp ? w.order[row0 + warp * kRowsPerWarp + lane] : kRows;
    const bool has_row = place < kRows && row0 + place < w.rows && !w.is_split(row0 + place);
    const int32_t row = has_row ? static_cast<int32_t>(row0) + place : -1;
    Acc<T> acc[kRowsPerWarp][Tile<T>::kTokensPerLane];
    Feed<T> feed = {x, token0};
    feed.first_stage(stages, w.missing, w.parts);
    start_rows<T, kRowsPerWarp>(acc, bias, row);
    add_rows<T, kRowsPerWarp, 1>(acc, stages, cells, lines, w, feed, row);
    store_y<T, kRowsPerWarp>(y, stages, acc, w, row, token0, row0, relu);
    return;
  }
  const int count = *w.split_count, split_tiles = (count + kSplitRows - 1) / kSplitRows;
  for (int item = blockIdx.x; split_tiles > 0; item += static_cast<int>(split_blocks)) {
    const int64_t token0 = int64_t{item / split_tiles} * Tile<T>::kTokens;
    if (token0 >= y.rows) break;
    const int i = item % split_tiles * kSplitRows + lane;
    const int32_t row = lane < kSplitRows && i < count ? w.split_rows[i] : -1;
    Acc<T> acc[kSplitRows][Tile<T>::kTokensPerLane];
    Feed<T> feed = {x, token0};
    feed.first_stage(stages, w.missing, w.parts);
    start_rows<T, kSplitRows>(acc, bias, part_of_row(warp, lane) == 0 ? row : -1);
    add_rows<T, kSplitRows, kMultiplyWarps>(acc, stages, cells, lines, w, feed, row);
    store_parts<T>(y, stages, acc, row, token0, relu);
    __syncthreads();  // the sums are read, before the stages are written again
  }
}

// 64 registers of sums; fewer for other types, whose conversions (16 bits) or addresses (double) need more registers.
template <class T>
constexpr int kMostRowsPerWarp = sizeof(T) == 4 ? 16 : 12;

// Fewer large tiles than this leave multiprocessors idle; then smaller tiles lose less.
constexpr int64_t kEnoughBlocks = 128;

template <class T>
constexpr int stages_bytes(int parts) {
  return 2 * parts * Tile<T>::kPartBytes;
}

// The parts of a stage that fit the device's shared memory.
template <class T>
int parts_that_fit() {
  constexpr int kCellBytes = kMultiplyWarps * 2 * kMostCells * sizeof(Cell),
                kLineBytes = kMultiplyThreads * 2 * sizeof(Group<T>);
  const int64_t available = shared_bytes_per_block() - kCellBytes - kLineBytes - kDynamicAlignment;
  int parts = Tile<T>::kMostParts;
  while (parts > 1 && stages_bytes<T>(parts) > available) --parts;
  return parts;
}

template <class T, class Index, int kRowsPerWarp>
Status run(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, Cells<T> cells, Block block,
           Stream stream) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  const int64_t row_tiles = ceil_div(y.cols, kRows), token_tiles = ceil_div(y.rows, Tile<T>::kTokens);
  const int64_t split_tiles = ceil_div(cells.most_split, kSplitRows) * token_tiles;
  const int64_t split_blocks = split_tiles < kEnoughBlocks ? split_tiles : kEnoughBlocks;
  static_assert(kRows <= kCellThreads);
  SPX_TRY(make_cells(cells, w, kRows, stream));
  return launch("csr_spmm", csr_spmm_kernel<T, kRowsPerWarp>, split_blocks + row_tiles * token_tiles, block, stream, y, cells,
                x, bias, relu, row_tiles, split_blocks);
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                Stream stream) {
  if (y.rows == 0 || y.cols == 0) return kOk;
  const int fit = parts_that_fit<T>();
  int parts = fit;  // and no more than x has columns for
  while (parts > 1 && (parts - 1) * Tile<T>::kCols >= w.pattern.cols) --parts;
  const Block block = Block(kMultiplyThreads, stages_bytes<T>(parts)).allow(stages_bytes<T>(fit));
  const Cells<T> cells(workspace, w.pattern.row_ptr, w.pattern.rows, w.pattern.cols, w.pattern.capacity, parts);
  constexpr int kMost = kMostRowsPerWarp<T>, kFewer = 4;
  const int64_t blocks = ceil_div(y.cols, kMost * kMultiplyWarps) * ceil_div(y.rows, Tile<T>::kTokens);
  return blocks >= kEnoughBlocks ? run<T, Index, kMost>(y, w, x, bias, relu, cells, block, stream)
                                 : run<T, Index, kFewer>(y, w, x, bias, relu, cells, block, stream);
}

// For stages of one part, which make the most cells: enough on every device.
template <class T, class Index>
int64_t csr_spmm_workspace(CsrView<T, Index> w, DenseView<const T>, Stream) {
  return Cells<T>(nullptr, nullptr, w.pattern.rows, w.pattern.cols, w.pattern.capacity, 1).bytes;
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_spmm)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_spmm, f16)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_spmm_workspace)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_spmm_workspace, f16)

}  // namespace spx::cuda::csr
