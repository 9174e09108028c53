// csr_sddmm of 16-bit types on the tensor cores of sm_90a (wgmma, TMA), where rows and columns are multiples of 8: every
// position of a tile is computed, and those of the pattern are written.
//
//   sums in float32, in a fixed order of tokens: the same bits on every run. Each element of dw is written by one block
//   work: a block makes a tile of 128 x 256 of the matrix, two warpgroups 64 x 256 each, in registers. One thread has TMA bring
//         dy and x, 64 tokens a step, kStages steps ahead; three warps find the tile's entries meanwhile. Two blocks, a
//         cluster, make tiles below each other: each loads half of their common columns of x for both.
//         If tiles are few, several blocks share the tokens of one, and their sums are added in order by a second kernel
//   Inf and NaN reach exactly the entries of their row or column: outside dy and x both are 0 (TMA fills in), and sums at
//   positions outside the pattern are not stored
//
// Both operands are token-major, and wgmma takes them so: dy with its rows contiguous, x with its columns. A box of 64 columns
// and 64 tokens is 64 swizzled rows of 128 bytes; an operand is one box of dy or four of x, and 16 tokens further is 2 KB
// further.
//
// What limits it, in clocks of a multiprocessor for one step of one block:
//   tensor cores    8 wgmma of 64 x 256 x 16, 2048 FMA a clock: 1024
//   shared memory   8 x (2 + 8) KB are read and 48 KB written, 128 bytes a clock: 1024
//   L2              16 KB of dy and half of 32 KB of x: 1380 at the 5.5 TB/s (for 132 at 1.76 GHz) that we assume, 2070 without
//                   the cluster. cuBLAS takes 1190 for so much, with the same tile and cluster as the names of its kernels say
//                   (128x256, 2x1): L2 gives at least 6.4 TB/s then
// So the dense product's rate in the main loop. Once per tile, 4 times for 4096 x 4096 on 132 multiprocessors, come about 3000
// clocks of launch and first loads, 1100 of moving the sums to shared memory and 3000 of writing entries (at 80 % zeros): 5 %
// for 8192 tokens. Registers: 128 sums and 30 more; one block fits a multiprocessor, 168 for each thread, so setmaxnreg gains
// nothing. Entries are searched while others multiply, so a tile without entries is computed, too. csr_sddmm chooses this
// kernel only for tiles of 128 entries or more on average.
#pragma once
#include "cuda/csr/sddmm_shares.cuh"
#include "cuda/device/pipeline.cuh"
#include "cuda/device/words.cuh"

namespace spx::cuda::csr {

constexpr int kWgmmaThreads = 3 * kWarpgroup;  // the first loads and finds entries, the others multiply
constexpr int kWgmmaRows = 128;
constexpr int kWgmmaCols = 256;
constexpr int kClusterBlocks = 2;
constexpr int kWgmmaTokens = 64;
constexpr int kStages = 4;  // 192 KB

// Boxes of a step: dy's, then x's.
constexpr int kBoxCols = kBoxWidth / static_cast<int>(sizeof(uint16_t));
constexpr int kBoxBytes = kWgmmaTokens * kBoxWidth;
constexpr int kDyBoxes = kWgmmaRows / kBoxCols;
constexpr int kXBoxes = kWgmmaCols / kBoxCols;
constexpr int kStageBoxes = kDyBoxes + kXBoxes;
constexpr int kStageBytes = kStageBoxes * kBoxBytes;

// Shared memory holds stages, then the sums of the tile: pairs of neighbouring columns, rows kPairStride apart. Half a warp
// stores 4 neighbours of 4 rows at once; 0, 132, 264, 396 are 0, 4, 8, 12 modulo 16: all banks.
using Pair = Words<float, 2>;
constexpr int kPairStride = kWgmmaCols / 2 + 4;
constexpr int kWgmmaSharedBytes = kStages * kStageBytes;
static_assert(kWgmmaRows * kPairStride * sizeof(Pair) <= kWgmmaSharedBytes);

// Fewer blocks than this leave multiprocessors idle: one block fills each.
constexpr int64_t kEnoughWgmmaBlocks = 132;

// Clusters take panels of this many columns of tiles from top to bottom: the 66 that run at a time read 2048 columns of x and
// about as many of dy, the least there can be, and find each other's in L2.
constexpr int kPanel = 8;

struct WgmmaGrid {
  int64_t col_tiles, row_tiles, tiles;  // whole clusters
  TokenShares shares;

  WgmmaGrid(int64_t rows, int64_t cols, int64_t tokens)
      : col_tiles(tiles_along(cols, kWgmmaCols)),
        row_tiles(tiles_along(rows, kWgmmaRows * kClusterBlocks) * kClusterBlocks),
        tiles(row_tiles * col_tiles),
        shares(kEnoughWgmmaBlocks / tiles, tokens, kWgmmaTokens) {}
};

// What a block of the grid makes: the tile that begins at (row0, col0), from `steps` steps of tokens.
struct WgmmaTile {
  int share, rank, row0, col0, token0, steps;

  __device__ explicit WgmmaTile(const WgmmaGrid& grid) {
    // Numbers of blocks fit an int, as the grid does.
    const int block = blockIdx.x, tiles = static_cast<int>(grid.tiles);
    const int row_clusters = static_cast<int>(grid.row_tiles) / kClusterBlocks;
    const PanelPlace place(block % tiles / kClusterBlocks, static_cast<int>(grid.col_tiles), row_clusters, kPanel);
    share = block / tiles;
    rank = block % kClusterBlocks;
    row0 = (place.along * kClusterBlocks + rank) * kWgmmaRows;
    col0 = place.across * kWgmmaCols;
    token0 = static_cast<int>(grid.shares.begin(share));
    const int64_t tokens = grid.shares.end(share) - token0;
    steps = tokens > 0 ? static_cast<int>((tokens + kWgmmaTokens - 1) / kWgmmaTokens) : 0;
  }
};

using Steps = Pipeline<Pair, kStages, kStageBytes, kClusterBlocks, (kWgmmaThreads - kWarpgroup) / kWarp>;

// One thread: all steps of a tile, and for both blocks this one's half of x.
inline __device__ void load_steps(const Steps& stages, const CUtensorMap& dy, const CUtensorMap& x, const WgmmaTile& tile) {
  constexpr int kShare = kXBoxes / kClusterBlocks;
  for (int step = 0; step < tile.steps; ++step) {
    const int token = tile.token0 + step * kWgmmaTokens;
    const Shared<Barrier> loaded = stages.begin_load(step);
    for (int i = 0; i < kDyBoxes; ++i) tma_load(stages.at(step, i * kBoxBytes), dy, token, tile.row0 + i * kBoxCols, loaded);
    for (int i = tile.rank * kShare; i < (tile.rank + 1) * kShare; ++i)
      tma_load(stages.at(step, (kDyBoxes + i) * kBoxBytes), x, token, tile.col0 + i * kBoxCols, loaded, Steps::kAllBlocks);
  }
}

// A warpgroup. One step is multiplied while the next is issued; then the one before may be overwritten.
template <class T>
__device__ void multiply_steps(WarpgroupSums& sums, const Steps& stages, int steps) {
  // A shuffle tells the compiler that all lanes have the same value: it keeps descriptors in uniform registers.
  const int warpgroup = shfl_idx(static_cast<int>(threadIdx.x / kWarpgroup), 0) - 1;
  const uint64_t dy = operand_descriptor(shared_address(stages.at(0, warpgroup * kBoxBytes)), kBoxBytes);
  const uint64_t x = operand_descriptor(shared_address(stages.at(0, kDyBoxes * kBoxBytes)), kBoxBytes);
  for (int step = 0; step < steps; ++step) {
    stages.wait(step);
    wgmma_fence();
#pragma unroll
    for (int token = 0; token < kWgmmaTokens; token += 16) {
      const uint64_t offset = descriptor_offset(Steps::offset(step) + token * kBoxWidth);
      wgmma_64x256x16<T>(sums, dy + offset, x + offset);
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (step > 0) stages.release(step - 1);
  }
  wgmma_finish(sums);
}

inline __device__ void store_sums(Shared<Pair> slab, const WarpgroupSums& sums) {
  const int lane = threadIdx.x % kWarp, warp = (threadIdx.x - kWarpgroup) / kWarp;
  const Shared<Pair> upper = slab + (warp * 16 + lane / 4) * kPairStride + lane % 4, lower = upper + 8 * kPairStride;
#pragma unroll
  for (int n = 0; n < kWgmmaCols / 8; ++n) {
    Pair pair;
    pair.set(0, sums[4 * n]), pair.set(1, sums[4 * n + 1]);
    upper[4 * n] = pair;
    pair.set(0, sums[4 * n + 2]), pair.set(1, sums[4 * n + 3]);
    lower[4 * n] = pair;
  }
}

// dw at the tile's entries, eight to a thread at a time: the loads of eight columns wait for memory together.
template <class Sum, class Index>
__device__ __forceinline__ void write_entries(Sum* dw, const CsrPattern<Index>& pattern, const TileEntries<kWgmmaRows>& entries,
                                              int count, int col0, Shared<Pair> slab) {
  constexpr int kBatch = 8;
  for (int begin = threadIdx.x; begin < count; begin += kBatch * kWgmmaThreads) {
    int32_t entry[kBatch];
    int row[kBatch], col[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (begin + k * kWgmmaThreads >= count) continue;
      entry[k] = entries.at(begin + k * kWgmmaThreads, &row[k]);
      col[k] = static_cast<int>(pattern.col_idx[entry[k]]) - col0;
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (begin + k * kWgmmaThreads >= count) continue;
      const Pair pair = slab[row[k] * kPairStride + col[k] / 2];
      dw[entry[k]] = from_acc<Sum>(col[k] % 2 ? pair[1] : pair[0]);
    }
  }
}

// Sum is T where a tile has one block. Else it is float, and dw is [shares, capacity].
template <class T, class Sum, class Index>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    csr_sddmm_wgmma_kernel(Sum* dw, CsrPattern<Index> pattern, const __grid_constant__ CUtensorMap dy,
                           const __grid_constant__ CUtensorMap x, WgmmaGrid grid) {
#if SPX_SM_90A
  SPX_DYNAMIC_SHARED(Pair, memory);
  SPX_SHARED(Barrier, full, kStages);
  SPX_SHARED(Barrier, empty, kStages);
  SPX_SHARED(int32_t, first, kWgmmaRows);
  SPX_SHARED(int32_t, before, kWgmmaRows);
  SPX_SHARED(int32_t, scratch, kWgmmaThreads / kWarp);
  const WgmmaTile tile(grid);
  const Steps stages{memory, full, empty};
  const TileEntries<kWgmmaRows> entries{first, before};
  if (threadIdx.x == 0) stages.init();
  cluster_sync();

  const int warp = threadIdx.x / kWarp;
  WarpgroupSums sums = {};
  if (warp == 0) {
    if (threadIdx.x == 0) load_steps(stages, dy, x, tile);
    __syncwarp();
  } else if (warp < kWarpgroup / kWarp) {
    const int thread = threadIdx.x - kWarp, threads = kWarpgroup - kWarp;
    if constexpr (std::is_same_v<T, Sum>)
      clear_unused(dw, pattern, int64_t{blockIdx.x} * threads + thread, int64_t{gridDim.x} * threads);
    entries.search(pattern, tile.row0, tile.col0, kWgmmaCols, thread, threads);
  } else {
    multiply_steps<T>(sums, stages, tile.steps);
  }
  cluster_sync();  // the stages are free, the entries found, and no block arrives at barriers of one that has left

  const int32_t count = entries.number(scratch);
  if (warp >= kWarpgroup / kWarp) store_sums(memory, sums);
  __syncthreads();
  write_entries(dw + tile.share * pattern.capacity, pattern, entries, count, tile.col0, memory);
#elif defined(__CUDA_ARCH__)
  __trap();  // reached only if the driver compiled this for another architecture than sm_90a
#endif
}

// TMA needs rows of whole 16 bytes, a matrix that is not empty, and coordinates, also those of a last step, that fit an int.
inline bool fits_wgmma(int64_t rows, int64_t cols, int64_t tokens) {
  return rows > 0 && cols > 0 && tokens > 0 && rows % 8 == 0 && cols % 8 == 0 && tokens <= INT32_MAX - kWgmmaTokens;
}

template <class T, class Index>
Status csr_sddmm_wgmma(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace,
                       Stream stream) {
  CUtensorMap dy_map, x_map;
  SPX_TRY(make_tensor_map(&dy_map, dy, kWgmmaTokens));
  SPX_TRY(make_tensor_map(&x_map, x, kWgmmaTokens));
  const WgmmaGrid grid(pattern.rows, pattern.cols, x.rows);
  const int64_t blocks = grid.tiles * grid.shares.count;
  const Block block(kWgmmaThreads, kWgmmaSharedBytes, kClusterBlocks);
  if (grid.shares.count == 1)
    return launch("csr_sddmm_wgmma", csr_sddmm_wgmma_kernel<T, T, Index>, blocks, block, stream, dw, pattern, dy_map, x_map,
                  grid);
  auto* sums = static_cast<float*>(workspace);
  SPX_TRY(launch("csr_sddmm_wgmma", csr_sddmm_wgmma_kernel<T, float, Index>, blocks, block, stream, sums, pattern, dy_map,
                 x_map, grid));
  return add_shares(dw, sums, pattern, grid.shares, stream);
}

}  // namespace spx::cuda::csr
