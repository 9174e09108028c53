// nm24_gemm of 16-bit types by wgmma.sp, sm_90a, where columns are multiples of 16
//
//   sums in float32, in a fixed order of columns: the same bits on every run. Each y is written by one block
//   work: a block makes y for 128 rows of w and 256 tokens, two warpgroups 64 x 256 each, in registers, and goes on to its next
//         tile. One thread has TMA bring x and the values of w, 64 columns a step, kStages steps ahead, also of the next tile.
//         Four blocks, a cluster, have tiles below each other: each loads a quarter of their common tokens for all.
//         The codes of w come from L2 straight to the registers that the tensor cores read, two steps ahead
//   Inf and NaN in x reach a row only through its stored positions; columns that do not exist are 0 in both operands
//
// What limits it, in clocks of a multiprocessor for one step of one block (128 x 256 x 64; the dense product takes 1024):
//   tensor cores    4 wgmma.sp of 64 x 256 x 32, 4096 FMA a clock: 512
//   shared memory   each reads 16 KB of x and 2 KB of the weight, and 40 KB are written, 128 bytes a clock: 896
//   L2              a quarter of 32 KB of x, and 9 KB of the weight, which no other block can share: 735 at the 5.5 TB/s (for
//                   132 at 1.76 GHz) that we assume
//   issue           105 instructions
// So about 910. A tile adds about 1500 clocks in which its sums become y. An H200 takes a sixth longer (docs/gpu-kernels.md).
//
// With the values of w from L2 straight to registers, shared memory would be asked for 768 clocks only; but an H200 took 1.3 to
// 1.6 times as long then. A lane needs 32 bits of a row at a time, 16 bytes apart: 64 loads of a warp a step, 8 rows each.
//
// Rows of 128, not 192, which would write less of x for each product: 512 threads start with 128 registers, and ptxas compiles
// no product that needs more; and blocks of 192 rows fill the multiprocessors no better for 4096 rows. Nor 256 rows and 128
// tokens: L2 would have to bring 22 KB for 640 clocks.
#pragma once
#include "common/nm24/groups.h"
#include "cuda/nm24/gemm_tiles.cuh"

namespace spx::cuda::nm24 {

constexpr int kCodeSteps = 3;  // one is multiplied, one is waiting or on its way, one is on its way

// A thread's share of the codes for one step: those of its two rows, and both as the tensor cores read them.
struct StepCodes {
  uint32_t of_row[2], both;
};
using CodeRing = StepCodes[kCodeSteps];

// The codes of two rows of the weight, eight apart, as a thread reads them: a quarter of those of a step. Rows that do not
// exist are read as the last one, and their sums are not stored.
template <class T>
class CodeRows {
 public:
  __device__ CodeRows(const Nm24View<const T>& w, int64_t row) : cols_(static_cast<unsigned>(w.cols)) {
    const int64_t last = w.rows - 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t there = row + 8 * i < last ? row + 8 * i : last;
      ids_[i] = reinterpret_cast<const uint16_t*>(w.ids_of_row(there)) + part();
    }
  }

  // All slots of the ring but the last.
  __device__ __forceinline__ void load_first(CodeRing& ring) const {
#pragma unroll
    for (int i = 0; i + 1 < kCodeSteps; ++i) load(ring[i], i * kWgmmaCols);
  }

  // Columns that do not exist are 0.
  __device__ __forceinline__ void load(StepCodes& step, unsigned col) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) step.of_row[i] = col + 16 * part() < cols_ ? ids_[i][col / 16] : 0x1111u * kNm24EmptyCode;
  }

 private:
  static __device__ unsigned part() { return threadIdx.x % 4; }

  unsigned cols_;
  const uint16_t* ids_[2];
};

// Starts sums += w x for a step, and waits for the one before, whose operands may then be overwritten.
template <class T>
__device__ __forceinline__ void multiply_step(WarpgroupSums& sums, StepCodes& codes, const Steps& stages, unsigned step,
                                              int warpgroup, bool first) {
  constexpr uint64_t kSecond = descriptor_offset(kBoxWidth / 2), kSecondStored = descriptor_offset(kNarrowBoxWidth / 2);
  stages.wait(step);
  codes.both = nm24_metadata(codes.of_row[0], codes.of_row[1]);  // late: using registers that are still being loaded stalls
  const uint64_t x = tokens_of(stages, step), stored = weight_of(stages, step, warpgroup);
  wgmma_fence();
  wgmma_sp_64x256x32<T, 0>(sums, stored, x, codes.both);
  wgmma_sp_64x256x32<T, 1>(sums, stored + kSecondStored, x + kSecond, codes.both);
  wgmma_commit();
  wgmma_wait<1>();
  if (!first) stages.release(step - 1);
}

// By a warpgroup: the sums of a tile, from `steps` steps of which the first is number `first`. All slots of the ring but the
// last are loaded.
template <class T>
__device__ __forceinline__ void multiply(WarpgroupSums& sums, CodeRing& ring, const CodeRows<T>& codes, const Steps& stages,
                                         unsigned first, unsigned steps, int warpgroup) {
#pragma unroll 1
  for (unsigned step = 0; step < steps; step += kCodeSteps) {
#pragma unroll
    for (int i = 0; i < kCodeSteps; ++i) {
      if (step + i >= steps) break;
      multiply_step<T>(sums, ring[i], stages, first + step + i, warpgroup, step + i == 0);
      codes.load(ring[(i + kCodeSteps - 1) % kCodeSteps], (step + i + kCodeSteps - 1) * kWgmmaCols);
    }
  }
  wgmma_finish(sums);
  stages.release(first + steps - 1);
}

// By one thread: all tiles of its cluster.
__device__ inline void load_tiles(const Steps& stages, const CUtensorMap& x, const CUtensorMap& weight, const WgmmaGrid& grid,
                                  unsigned steps) {
  unsigned done = 0;
  for (int i = blockIdx.x / kClusterBlocks; i < grid.tiles; i += gridDim.x / kClusterBlocks, done += steps) {
    const WgmmaTile tile(grid, i);
    for (unsigned step = 0; step < steps; ++step) load_step(stages, x, weight, done + step, tile, step * kWgmmaCols);
  }
}

// By a warpgroup: its part of every tile of its cluster. The first codes of the next tile are loaded while sums become y.
template <class T>
__device__ __forceinline__ void multiply_tiles(DenseView<T> y, const Nm24View<const T>& w, Shared<uint32_t> slab,
                                               const Steps& stages, const T* bias, bool relu, const WgmmaGrid& grid,
                                               unsigned steps, int warp) {
  const int clusters = gridDim.x / kClusterBlocks, group = threadIdx.x % kWarp / 4;
  int next = blockIdx.x / kClusterBlocks;
  WgmmaTile tile(grid, next);
  CodeRows<T> rows(w, tile.row0 + warp * 16 + group);
  CodeRing ring;
  rows.load_first(ring);
  for (unsigned done = 0; next < grid.tiles; done += steps) {
    WarpgroupSums sums = {};
    multiply<T>(sums, ring, rows, stages, done, steps, warp / 4);
    const WgmmaTile made = tile;
    next += clusters;
    if (next < grid.tiles) {
      tile = WgmmaTile(grid, next);
      rows = CodeRows<T>(w, tile.row0 + warp * 16 + group);
      rows.load_first(ring);
    }
    store_tile<T>(y, sums, slab, bias, relu, made.row0 + warp * 16, made.token0);
  }
}

template <class T>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    nm24_gemm_wgmma_kernel(DenseView<T> y, Nm24View<const T> w, const __grid_constant__ CUtensorMap x,
                           const __grid_constant__ CUtensorMap weight, const T* bias, bool relu, WgmmaGrid grid) {
#if SPX_SM_90A
  SPX_DYNAMIC_SHARED(uint32_t, memory);
  SPX_SHARED(Barrier, full, kStages);
  SPX_SHARED(Barrier, empty, kStages);
  const Steps stages{memory, full, empty};
  if (threadIdx.x == 0) stages.init();
  cluster_sync();

  const unsigned steps = (static_cast<unsigned>(w.cols) + kWgmmaCols - 1) / kWgmmaCols;
  // A shuffle tells the compiler that all lanes have the same value.
  const int warp = shfl_idx(static_cast<int>(threadIdx.x / kWarp), 0) - kWarpgroup / kWarp;
  if (warp < 0) {
    give_registers<40>();
    if (threadIdx.x == 0) load_tiles(stages, x, weight, grid, steps);
    __syncwarp();
  } else {
    take_registers<232>();
    const Shared<uint32_t> slab = memory + (kStages * kStageBytes / 4 + warp * kWarpSlabWords);
    multiply_tiles<T>(y, w, slab, stages, bias, relu, grid, steps, warp);
  }
  cluster_sync();  // no block arrives at barriers of one that has left
#elif defined(__CUDA_ARCH__)
  __trap();  // reached only if the driver compiled this for another architecture than sm_90a
#endif
}

// TMA and the loads of the weight need rows of whole 16 bytes, a matrix that is not empty, and coordinates that fit an int.
inline bool fits_wgmma(int64_t rows, int64_t cols, int64_t tokens) {
  return rows > 0 && cols > 0 && tokens > 0 && cols % 16 == 0 && cols <= INT32_MAX - 4 * kWgmmaCols &&
         rows <= INT32_MAX - kClusterBlocks * kWgmmaRows && tokens <= INT32_MAX - kWgmmaTokens &&
         ceil_div(rows, kWgmmaRows * kClusterBlocks) * ceil_div(tokens, kWgmmaTokens) <= INT32_MAX / 2;
}

template <class T>
Status nm24_gemm_wgmma(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, Stream stream) {
  CUtensorMap x_map, weight_map;
  const DenseView<const T> values = {w.rows, 2 * w.groups(), w.values};
  SPX_TRY(make_tensor_map(&x_map, x, kQuarterTokens));
  SPX_TRY(make_tensor_map<kNarrowBoxWidth>(&weight_map, values, kWgmmaRows));
  const WgmmaGrid grid(w.rows, x.rows);
  const Block block(kWgmmaThreads, kWgmmaSharedBytes, kClusterBlocks);
  const int64_t resident = resident_clusters(nm24_gemm_wgmma_kernel<T>, block);
  const int64_t blocks = (grid.tiles < resident ? grid.tiles : resident) * kClusterBlocks;
  return launch("nm24_gemm_wgmma", nm24_gemm_wgmma_kernel<T>, blocks, block, stream, y, w, x_map, weight_map, bias, relu, grid);
}

}  // namespace spx::cuda::nm24
