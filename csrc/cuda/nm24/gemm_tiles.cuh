// The frame of gemm_wgmma.cuh: which tile a block makes when, what is on its way to it, and how its sums become y.
#pragma once
#include "cuda/device/hopper.cuh"
#include "cuda/device/words.cuh"

namespace spx::cuda::nm24 {

constexpr int kMultipliers = 2;                                 // warpgroups
constexpr int kWgmmaThreads = (1 + kMultipliers) * kWarpgroup;  // the first loads, the others multiply
constexpr int kWgmmaRows = kMultipliers * 64;
constexpr int kWgmmaTokens = 256;
constexpr int kWgmmaCols = 64;
constexpr int kClusterBlocks = 4;
constexpr int kStages = 4;

// A stage has a box of x, a quarter of it from each block. Stream the weight comes this way, too, it has a narrow box of that:
// of 64 columns 32 are stored.
constexpr int kQuarterTokens = kWgmmaTokens / kClusterBlocks;
constexpr int kQuarterBytes = kQuarterTokens * kBoxWidth;
constexpr int kTokenBytes = kWgmmaTokens * kBoxWidth;
constexpr int kWeightBytes = kWgmmaRows * kNarrowBoxWidth;
static_assert(kWgmmaCols * sizeof(uint16_t) == kBoxWidth && kWgmmaCols * sizeof(uint16_t) / 2 == kNarrowBoxWidth);
template <bool kShared>
constexpr int kStageBytes = kTokenBytes + (kShared ? kWeightBytes : 0);

// Behind the stages each multiplying warp has a slab for its part of y, [token][16 rows]: 16 bytes of either half of the rows,
// which change places every four tokens, so that any eight neighbours of one half have them in different banks.
constexpr int kSlabTokenWords = 8;
constexpr int kWarpSlabWords = kWgmmaTokens * kSlabTokenWords;
template <bool kShared>
constexpr int kWgmmaSharedBytes = kStages * kStageBytes<kShared> + kMultipliers * 4 * kWarpSlabWords * 4;
__device__ inline int slab_place(int token, int half) { return token * kSlabTokenWords + (half ^ (token / 4 % 2)) * 4; }

// Clusters take panels of this many clusters' rows from the first token to the last: the 32 that run at a time read 4096 rows
// of w, which stay in L2, and 1024 tokens, and x passes by once a panel.
constexpr int kPanel = 8;

struct GemmGrid {
  int row_clusters, token_tiles;  // whole clusters
  int tiles;                      // of clusters

  GemmGrid(int64_t rows, int64_t tokens)
      : row_clusters(static_cast<int>(ceil_div(rows, kWgmmaRows * kClusterBlocks))),
        token_tiles(static_cast<int>(ceil_div(tokens, kWgmmaTokens))),
        tiles(row_clusters * token_tiles) {}
};

// What a block makes as its cluster's i-th tile: y for the rows from row0 and the tokens from token0 on.
struct GemmTile {
  int64_t row0, token0;

  __device__ GemmTile(const GemmGrid& grid, int tile) {
    const int first = tile / (kPanel * grid.token_tiles) * kPanel, in_panel = tile - first * grid.token_tiles;
    const int left = grid.row_clusters - first, width = left < kPanel ? left : kPanel;
    row0 = (int64_t{first + in_panel % width} * kClusterBlocks + blockIdx.x % kClusterBlocks) * kWgmmaRows;
    token0 = int64_t{in_panel / width} * kWgmmaTokens;
  }
};

// Steps on their way from global memory to the tensor cores, numbered through all tiles of a cluster. The phase of `full` ends
// when a step has come, that of `empty` when all multiplying warps of the cluster are done with it: each block writes into all.
// kShared: the weight comes this way, too.
template <bool kShared>
struct GemmStages {
  Shared<uint32_t> memory;
  Shared<Barrier> full, empty;  // [kStages]

  // One thread. A cluster_sync follows.
  __device__ void init() const {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, kClusterBlocks * kMultipliers * kWarpgroup / kWarp);
    }
    fence_barrier_init();
  }

  // One thread. weight describes the values of w, if they come this way.
  __device__ void load(const CUtensorMap& x, const CUtensorMap& weight, unsigned step, const GemmTile& tile,
                       unsigned col) const {
    constexpr uint16_t kAll = (1 << kClusterBlocks) - 1;
    const unsigned stage = step % kStages, round = step / kStages, quarter = blockIdx.x % kClusterBlocks;
    const Shared<uint32_t> to = memory + stage * kStageBytes<kShared> / 4;
    if (round > 0) barrier_wait(empty + stage, (round - 1) % 2);
    barrier_expect(full + stage, kStageBytes<kShared>);
    tma_load(to + quarter * kQuarterBytes / 4, x, static_cast<int>(tile.token0 + quarter * kQuarterTokens),
             static_cast<int>(col), full + stage, kAll);
    if constexpr (kShared)
      tma_load(to + kTokenBytes / 4, weight, static_cast<int>(tile.row0), static_cast<int>(col / 2), full + stage);
  }

  __device__ void wait(unsigned step) const { barrier_wait(full + step % kStages, step / kStages % 2); }

  // What the tensor cores read of a step: x, and of the weight 64 rows for each warpgroup.
  __device__ uint64_t tokens(unsigned step) const {
    return transposed_descriptor(shared_address(memory)) + descriptor_offset(step % kStages * kStageBytes<kShared>);
  }
  __device__ uint64_t weight(unsigned step, int warpgroup) const {
    return transposed_descriptor<kNarrowBoxWidth>(shared_address(memory)) +
           descriptor_offset(step % kStages * kStageBytes<kShared> + kTokenBytes + warpgroup * 64 * kNarrowBoxWidth);
  }

  // A warp.
  __device__ void release(unsigned step) const {
    const int lane = threadIdx.x % kWarp;
    if (lane < kClusterBlocks) barrier_arrive(empty + step % kStages, lane);
  }
};

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
  __syncwarp();  // the slab is free, and what comes next wants the whole warp
}

}  // namespace spx::cuda::nm24
