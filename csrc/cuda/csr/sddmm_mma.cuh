// csr_sddmm of 16-bit types on tensor cores: every position of a tile is computed, and those of the pattern are written.
//
//   sums in float32, in a fixed order of tokens: the same bits on every run. Each element of dw is written by one block
//   work: a block makes a tile of 128 x 128 of the matrix in registers: a warp 64 x 32. Tokens pass through shared memory, 32
//         at a time: while a step is multiplied, the loads of the next are under way to registers (but not those of rows that
//         are unaligned for 128-bit loads: these are packed before). Blocks without entries leave.
//         If tiles are few, several blocks share the tokens of one, and their sums are added in order by a second kernel
//   Inf and NaN reach exactly the entries of their row or column: outside dy and x both are 0, and sums at positions outside
//   the pattern are not stored
//
// Both operands are token-major, but mma takes neighbouring tokens of one row in a register. So a thread loads 8 columns of 4
// tokens and transposes them into patches of 2 columns x 4 tokens. A patch has 16 bytes: all four registers of a, or two times
// b. For that the 16 tokens of an mma are permuted, in a and b alike. Its rows, and the columns of a pair of them, are permuted
// too, which store_sums undoes.
//
// Banks: 128-bit accesses are done by quarter warps, and 8 patches fill all banks. See place, kTileStride and kSlabStride.
//   reading a fragment   lanes read 2 neighbours of 4 quads of tokens: 0, 74, 148, 222 are 0, 2, 4, 6 modulo 8
//   storing a step       lanes write patches 0, 4, 8, 12, ... : place makes them 0, 4, 9, 13, ..., all different modulo 8
//   storing a slab       lanes write 4 neighbours of 2 rows: 0, 68 are 0, 4 modulo 8
//
// What limits it, in clocks of a multiprocessor for one step of one block:
//   tensor cores    256 mma of 2048 FMA: 512 on sm_80; on sm_90a 256 if mma.sync reached the peak, and about 410 as it is
//   shared memory   64 KB: a warp reads (64 + 32) x 32 elements, 48 KB in all, and 16 KB are stored: 512
//   L2              16 KB: 350 on sm_80 (5120 bytes a clock for 108), 690 on sm_90a (5.5 TB/s for 132 at 1.76 GHz)
// So at most the peak of the tensor cores on sm_80; on sm_90a 37 % of it, 60 % of what mma.sync reaches: 0.78 ms for 4096 x
// 4096 and 8192 tokens, at any density. 128 x 256 would read a quarter less from L2, but two steps of it exceed 48 KB.
#pragma once
#include "cuda/csr/sddmm_shares.cuh"
#include "cuda/device/words.cuh"

namespace spx::cuda::csr {

constexpr int kMmaThreads = 256;
constexpr int kMmaRows = 128;
constexpr int kMmaCols = 128;
constexpr int kMmaTokens = 32;  // of a step
constexpr int kWarpRows = 64;   // with 32 columns 64 registers of sums: two blocks fit a multiprocessor
constexpr int kWarpCols = 32;
constexpr int kColWarps = kMmaCols / kWarpCols;
static_assert(kMmaRows / kWarpRows * kColWarps * kWarp == kMmaThreads);

// Two columns of the matrix, four tokens. The words of dy: tokens 0 and 1 of both columns, then 2 and 3. Those of x: all tokens
// of the first column, then of the second.
using Patch = Words<uint32_t, 4>;

// A step of one operand in shared memory: [quad of tokens][place(pair of columns)], with an unused patch after every 8.
// place(i + j) is place(i) + place(j) if i is a multiple of 8.
constexpr int kTileStride = 74;
constexpr int kTile = kMmaTokens / 4 * kTileStride;
SPX_HOST_DEVICE constexpr int place(int pair) { return pair + pair / 8; }
static_assert(kMmaRows == kMmaCols && place(kMmaCols / 2 - 1) < kTileStride);

// A thread's share of a step, on its way from global to shared memory: 8 columns of 4 tokens. Half of the threads carry dy.
template <class T>
struct Carried {
  static constexpr int kPieces = kMmaCols / 8;
  static_assert(2 * kPieces * kMmaTokens / 4 == kMmaThreads);
  Words<T, 8> piece[4];

  static __device__ bool is_dy() { return threadIdx.x < kMmaThreads / 2; }
  static __device__ int col() { return threadIdx.x % kPieces * 8; }  // neighbouring lanes load neighbouring columns
  static __device__ int quad() { return threadIdx.x / kPieces % (kMmaTokens / 4); }

  __device__ void load(DenseView<const T> m, int64_t token0, int64_t col0) {
    load_words(piece, m, token0 + quad() * 4, col0 + col());
  }

  __device__ void store(Shared<Patch> tile) const {
#pragma unroll
    for (int c = 0; c < 8; c += 2) {
      const uint32_t first[2] = {two_tokens(0, c), two_tokens(2, c)}, second[2] = {two_tokens(0, c + 1), two_tokens(2, c + 1)};
      tile[quad() * kTileStride + place(col() / 2) + c / 2] =
          is_dy() ? Patch{first[0], second[0], first[1], second[1]} : Patch{first[0], first[1], second[0], second[1]};
    }
  }

 private:
  __device__ uint32_t two_tokens(int t, int c) const {
    return uint32_t{piece[t][c].bits} | uint32_t{piece[t + 1][c].bits} << 16;
  }
};

// The sums of a warp: [16 rows][8 columns][of a lane].
using WarpSums = float[kWarpRows / 16][kWarpCols / 8][4];

// sums += dy x for one step; row and col are the warp's.
template <class T>
__device__ __forceinline__ void multiply(WarpSums& sums, Shared<Patch> dy, Shared<Patch> x, int row, int col) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int token = 0; token < kMmaTokens; token += 16) {
    const int from = (token / 4 + lane % 4) * kTileStride + lane / 4;
    Patch b[kWarpCols / 16];
#pragma unroll
    for (int j = 0; j < kWarpCols / 16; ++j) b[j] = x[from + place(col / 2) + place(j * 8)];
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; ++i) {
      const Patch a = dy[from + place(row / 2) + place(i * 8)];
#pragma unroll
      for (int j = 0; j < kWarpCols / 16; ++j) {
        mma_16x8x16<T>(sums[i][2 * j], a.word, {b[j].word[0], b[j].word[1]});
        mma_16x8x16<T>(sums[i][2 * j + 1], a.word, {b[j].word[2], b[j].word[3]});
      }
    }
  }
}

// The sums are stored through the memory of the tiles, the rows of one row of warps at a time: [row][four columns].
constexpr int kSlabStride = kMmaCols / 4 + 2;
static_assert(kWarpRows * kSlabStride <= 4 * kTile);

// Rows g and g + 8 of an mma are rows 2g and 2g + 1 of the matrix; column n of a pair of them is columns 2n and 2n + 1.
inline __device__ void store_sums(Shared<Patch> slab, const WarpSums& sums, int col) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
    for (int j = 0; j < kWarpCols / 8; j += 2)
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const float *even = &sums[i][j][second * 2], *odd = &sums[i][j + 1][second * 2];
        const float four[4] = {even[0], odd[0], even[1], odd[1]};
        Patch patch;
        memcpy(patch.word, four, sizeof four);
        slab[(i * 16 + lane / 4 * 2 + second) * kSlabStride + col / 4 + j * 2 + lane % 4] = patch;
      }
}

inline __device__ float sum_at(Shared<Patch> slab, int row, int col) {
  const Patch patch = slab[row * kSlabStride + col / 4];
  const uint32_t two[2] = {col % 2 ? patch.word[1] : patch.word[0], col % 2 ? patch.word[3] : patch.word[2]};
  const uint32_t bits = col % 4 < 2 ? two[0] : two[1];
  float sum;
  memcpy(&sum, &bits, sizeof sum);
  return sum;
}

// Fewer blocks than this leave multiprocessors idle.
constexpr int64_t kEnoughMmaBlocks = 256;

// Block b makes tile b % tiles, from share b / tiles of the tokens.
struct MmaGrid {
  int64_t col_tiles, tiles;
  TokenShares shares;

  MmaGrid(int64_t rows, int64_t cols, int64_t tokens)
      : col_tiles(tiles_along(cols, kMmaCols)),
        tiles(tiles_along(rows, kMmaRows) * col_tiles),
        shares(kEnoughMmaBlocks / tiles, tokens, kMmaTokens) {}
};

// Sum is T where a tile has one block. Else it is float, and dw is [shares, capacity].
template <class T, class Sum, class Index>
__global__ void __launch_bounds__(kMmaThreads, 2)
    csr_sddmm_mma_kernel(Sum* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, MmaGrid grid) {
  SPX_SHARED(Patch, tiles, 4 * kTile);  // two of each operand: one barrier a step
  SPX_SHARED(int32_t, first, kMmaRows);
  SPX_SHARED(int32_t, before, kMmaRows);
  SPX_SHARED(int32_t, scratch, kMmaThreads / kWarp);
  const int64_t tile = blockIdx.x % grid.tiles, share = blockIdx.x / grid.tiles;
  const int64_t row0 = tile / grid.col_tiles * kMmaRows, col0 = tile % grid.col_tiles * kMmaCols;
  if constexpr (std::is_same_v<T, Sum>) clear_unused(dw, pattern);
  const TileEntries<kMmaRows> entries{first, before};
  const int32_t count = entries.find(pattern, row0, kMmaRows, col0, kMmaCols, scratch);
  if (count == 0) return;  // the whole block

  const int warp = threadIdx.x / kWarp, row = warp / kColWarps * kWarpRows, col = warp % kColWarps * kWarpCols;
  const bool is_dy = Carried<T>::is_dy();
  const DenseView<const T> mine = {x.rows, is_dy ? dy.cols : x.cols, is_dy ? dy.data : x.data};
  const int64_t mine0 = is_dy ? row0 : col0;
  WarpSums sums = {};
  Carried<T> next;
  const int64_t begin = grid.shares.begin(share), end = grid.shares.end(share);
  next.load(mine, begin, mine0);
  for (int64_t token0 = begin; token0 < end; token0 += kMmaTokens) {
    const Shared<Patch> dy_tile = tiles + token0 / kMmaTokens % 2 * 2 * kTile, x_tile = dy_tile + kTile;
    next.store(is_dy ? dy_tile : x_tile);
    __syncthreads();  // all have also read the other two tiles, which the next step writes
    if (token0 + kMmaTokens < end) next.load(mine, token0 + kMmaTokens, mine0);
    multiply<T>(sums, dy_tile, x_tile, row, col);
  }

#pragma unroll 1
  for (int slab_row = 0; slab_row < kMmaRows; slab_row += kWarpRows) {
    __syncthreads();  // everyone has read the tiles, and the slab before
    if (row == slab_row) store_sums(tiles, sums, col);
    __syncthreads();
    const int last = slab_row + kWarpRows < kMmaRows ? static_cast<int32_t>(before[slab_row + kWarpRows]) : count;
    for (int e = before[slab_row] + static_cast<int>(threadIdx.x); e < last; e += kMmaThreads) {
      int entry_row;
      const int32_t p = entries.at(e, &entry_row);
      const float sum = sum_at(tiles, entry_row - slab_row, static_cast<int>(int64_t{pattern.col_idx[p]} - col0));
      dw[share * pattern.capacity + p] = from_acc<Sum>(sum);
    }
  }
}

template <class T, class Index>
Status csr_sddmm_mma(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace,
                     Stream stream) {
  const MmaGrid grid(pattern.rows, pattern.cols, x.rows);
  const int64_t blocks = grid.tiles * grid.shares.count;
  if (grid.shares.count == 1)
    return launch("csr_sddmm_mma", csr_sddmm_mma_kernel<T, T, Index>, blocks, kMmaThreads, stream, dw, pattern, dy, x, grid);
  auto* sums = static_cast<float*>(workspace);
  SPX_TRY(
      launch("csr_sddmm_mma", csr_sddmm_mma_kernel<T, float, Index>, blocks, kMmaThreads, stream, sums, pattern, dy, x, grid));
  return add_shares(dw, sums, pattern, grid.shares, stream);
}

}  // namespace spx::cuda::csr
