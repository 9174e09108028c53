// Around the products of gemm_wgmma.cuh: the order of tiles, the loads of a step, and how sums become y.
#pragma once
#include "cuda/device/pipeline.cuh"
#include "cuda/device/words.cuh"

namespace spx::cuda::nm24 {

constexpr int kMultipliers = 2;                                 // warpgroups
constexpr int kWgmmaThreads = (1 + kMultipliers) * kWarpgroup;  // the first loads, the others multiply
constexpr int kWgmmaRows = kMultipliers * 64;
constexpr int kWgmmaTokens = 256;
constexpr int kWgmmaCols = 64;
constexpr int kClusterBlocks = 4;
constexpr int kStages = 4;

// A stage holds a box of x, a quarter of it loaded by each block, and a narrow box of the weight's values: 32 of 64 columns are
// stored.
constexpr int kQuarterTokens = kWgmmaTokens / kClusterBlocks;
constexpr int kQuarterBytes = kQuarterTokens * kBoxWidth;
constexpr int kTokenBytes = kWgmmaTokens * kBoxWidth;
constexpr int kWeightBytes = kWgmmaRows * kNarrowBoxWidth;
static_assert(kWgmmaCols * sizeof(uint16_t) == kBoxWidth && kWgmmaCols * sizeof(uint16_t) / 2 == kNarrowBoxWidth);
constexpr int kStageBytes = kTokenBytes + kWeightBytes;

// Behind the stages each multiplying warp has a slab for its part of y, [token][16 rows]: 16 bytes of either half of the rows,
// which are swapped every four tokens, so that any eight neighbours of one half lie in different banks.
constexpr int kSlabTokenWords = 8;
constexpr int kWarpSlabWords = kWgmmaTokens * kSlabTokenWords;
constexpr int kWgmmaSharedBytes = kStages * kStageBytes + kMultipliers * 4 * kWarpSlabWords * 4;
__device__ inline int slab_place(int token, int half) { return token * kSlabTokenWords + (half ^ (token / 4 % 2)) * 4; }

// Clusters take panels of this many clusters' rows from the first token to the last: the 32 that run at a time read 4096 rows
// of w, which stay in L2, and 1024 tokens, and x passes by once a panel.
constexpr int kPanel = 8;

struct WgmmaGrid {
  int row_clusters, token_tiles;  // whole clusters
  int tiles;                      // of clusters

  WgmmaGrid(int64_t rows, int64_t tokens)
      : row_clusters(static_cast<int>(ceil_div(rows, kWgmmaRows * kClusterBlocks))),
        token_tiles(static_cast<int>(ceil_div(tokens, kWgmmaTokens))),
        tiles(row_clusters * token_tiles) {}
};

// What a block makes as its cluster's i-th tile: y for the rows from row0 and the tokens from token0 on.
struct WgmmaTile {
  int64_t row0, token0;

  __device__ WgmmaTile(const WgmmaGrid& grid, int tile) {
    const PanelPlace place(tile, grid.row_clusters, grid.token_tiles, kPanel);
    row0 = (int64_t{place.across} * kClusterBlocks + blockIdx.x % kClusterBlocks) * kWgmmaRows;
    token0 = int64_t{place.along} * kWgmmaTokens;
  }
};

// Steps are numbered through all tiles of a cluster.
using Steps = Pipeline<uint32_t, kStages, kStageBytes, kClusterBlocks, kMultipliers * kWarpgroup / kWarp>;

// One thread: loads a step of a tile, and for all blocks this one's quarter of x. weight describes the values of w.
__device__ inline void load_step(const Steps& stages, const CUtensorMap& x, const CUtensorMap& weight, unsigned step,
                                 const WgmmaTile& tile, unsigned col) {
  const unsigned quarter = blockIdx.x % kClusterBlocks;
  const Shared<Barrier> loaded = stages.begin_load(step);
  tma_load(stages.at(step, quarter * kQuarterBytes), x, static_cast<int>(tile.token0 + quarter * kQuarterTokens),
           static_cast<int>(col), loaded, Steps::kAllBlocks);
  tma_load(stages.at(step, kTokenBytes), weight, static_cast<int>(tile.row0), static_cast<int>(col / 2), loaded);
}

// The operands of a step in shared memory: x, and 64 rows of the weight for each warpgroup.
__device__ inline uint64_t tokens_of(const Steps& stages, unsigned step) {
  return transposed_descriptor(shared_address(stages.memory)) + descriptor_offset(stages.offset(step));
}
__device__ inline uint64_t weight_of(const Steps& stages, unsigned step, int warpgroup) {
  return transposed_descriptor<kNarrowBoxWidth>(shared_address(stages.memory)) +
         descriptor_offset(stages.offset(step) + kTokenBytes + warpgroup * 64 * kNarrowBoxWidth);
}

// A warp's part of a tile: 16 rows from row0 on, through its slab. A lane has rows g and g + 8 of neighbouring tokens.
template <class T>
__device__ __forceinline__ void store_tile(DenseView<T> y, const WarpgroupSums& sums, Shared<uint32_t> slab, const T* bias,
                                           bool relu, int64_t row0, int64_t token0) {
  const int lane = threadIdx.x % kWarp;
  float add[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = row0 + 8 * half + lane / 4;
    if (bias && row < y.cols) add[half] = to_acc(bias[row]);
  }
  const auto two_tokens = [&](int n, int half) {
    const float first = sums[4 * n + 2 * half] + add[half], second = sums[4 * n + 2 * half + 1] + add[half];
    return two<T>(relu && first < 0 ? 0 : first, relu && second < 0 ? 0 : second);
  };
#pragma unroll
  for (int n = 0; n < kWgmmaTokens / 8; n += 2) {
    const uint32_t matrices[] = {two_tokens(n, 0), two_tokens(n, 1), two_tokens(n + 1, 0), two_tokens(n + 1, 1)};
    stmatrix_x4_transposed(slab + slab_place(8 * (n + lane / 16) + lane % 8, lane / 8 % 2), matrices);
  }
  __syncwarp();
#pragma unroll 4
  for (int token = lane / 2; token < kWgmmaTokens; token += kWarp / 2) {
    Words<T, 8> eight;
    load_chunk(eight.word, slab + slab_place(token, lane % 2));
    store_eight(y, token0 + token, row0 + lane % 2 * 8, eight);
  }
  __syncwarp();  // the slab is free, and the next instructions need the whole warp
}

}  // namespace spx::cuda::nm24
