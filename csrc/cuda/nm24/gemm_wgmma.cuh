// nm24_gemm of 16-bit types by wgmma.sp, sm_90a, where columns are multiples of 16
//
//   sums in float32, in a fixed order of columns: the same bits on every run. Each y is written by one block
//   work: a block makes y for 128 rows of w and 256 tokens, two warpgroups 64 x 256 each, in registers, and goes on to its next
//         tile. One thread has TMA bring x, 64 columns a step, kStages steps ahead, also of the next tile. Four blocks, a
//         cluster, have tiles below each other: each loads a quarter of their common tokens for all.
//         The weight is loaded as it is stored, from L2 straight to the registers that the tensor cores read, two steps ahead.
//         A second form, for comparison, loads its values through shared memory as x (sm_90a_shared); codes come to registers
//         in both
//   Inf and NaN in x reach a row only through its stored positions; columns that do not exist are 0 in both operands
//
// What limits it, in clocks of a multiprocessor for one step of one block (128 x 256 x 64; the dense product takes 1024):
//   tensor cores    4 wgmma.sp of 64 x 256 x 32, 4096 FMA a clock: 512
//   shared memory   each reads 16 KB of x, and 32 KB are written, 128 bytes a clock: 768. The weight, 8 KB read and 8 KB
//                   written, would make it 896
//   L1              8 KB of values and 1 KB of codes, by 80 loads of a warp that touch 8 rows each. L1 and shared memory are
//                   one memory: if they are one way in and out, too, 768 becomes about 920; or 1480, if a load takes a clock
//                   for each row
//   L2              a quarter of 32 KB of x, and 9 KB of the weight, which no other block can share: 735 at the 5.5 TB/s (for
//                   132 at 1.76 GHz) that we assume
//   issue           90 instructions of 8 warps: 180
// So 768 if loads cost nothing, and about 910 through shared memory; only a GPU can tell. A tile adds about 1500 clocks in
// which its sums become y.
//
// Rows of 128, not 192, which would write less of x for each product: 512 threads start with 128 registers, and ptxas compiles
// no product that needs more; and blocks of 192 rows fill the multiprocessors no better for 4096 rows. Nor 256 rows and 128
// tokens: L2 would have to bring 22 KB for 640 clocks.
// Loads of the weight are of 32 bits: what a lane needs of a row lies 16 bytes apart there, in whichever order columns are
// taken, for x can change places by pieces of 16 bytes only. Wider loads would need a weight that is stored in another order.
#pragma once
#include "common/nm24/groups.h"
#include "cuda/nm24/gemm_tiles.cuh"

namespace spx::cuda::nm24 {

constexpr int kWeightSteps = 3;  // one is multiplied, one is waiting or on its way, one is on its way

// A thread's share of the weight for one step: the values for two products of 32 columns each, and the codes of its two rows.
struct WeightStep {
  uint32_t values[2][4], row_codes[2], codes;
};
using WeightRing = WeightStep[kWeightSteps];

// Two rows of the weight, eight apart, as a thread reads them: of every 16 columns a group's values, and a quarter of the codes
// of a step. Rows that do not exist are read as the last one, and their sums are not stored. kShared: without the values.
template <class T, bool kShared>
class WeightRows {
 public:
  __device__ WeightRows(const Nm24View<const T>& w, int64_t row) : cols_(static_cast<unsigned>(w.cols)) {
    const int64_t last = w.rows - 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t there = row + 8 * i < last ? row + 8 * i : last;
      values_[i] = reinterpret_cast<const uint32_t*>(w.values_of_row(there)) + part();
      ids_[i] = reinterpret_cast<const uint16_t*>(w.ids_of_row(there)) + part();
    }
  }

  // All slots of the ring but the last.
  __device__ __forceinline__ void load_first(WeightRing& ring) const {
#pragma unroll
    for (int i = 0; i + 1 < kWeightSteps; ++i) load(ring[i], i * kWgmmaCols);
  }

  // Columns that do not exist are 0.
  __device__ __forceinline__ void load(WeightStep& step, unsigned col) const {
#pragma unroll
    for (int piece = 0; piece < 4 && !kShared; ++piece) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        step.values[piece / 2][piece % 2 * 2 + i] = col + 16 * piece < cols_ ? values_[i][col / 4 + 4 * piece] : 0;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) step.row_codes[i] = col + 16 * part() < cols_ ? ids_[i][col / 16] : 0x1111u * kNm24EmptyCode;
  }

 private:
  static __device__ unsigned part() { return threadIdx.x % 4; }

  unsigned cols_;
  const uint32_t* values_[2];
  const uint16_t* ids_[2];
};

// Starts sums += w x for a step, and waits for the one before, whose operands may then be overwritten.
template <class T, bool kShared>
__device__ __forceinline__ void multiply_step(WarpgroupSums& sums, WeightStep& w, const Steps<kShared>& stages, unsigned step,
                                              int warpgroup, bool first) {
  constexpr uint64_t kSecond = descriptor_offset(kBoxWidth / 2), kSecondStored = descriptor_offset(kNarrowBoxWidth / 2);
  stages.wait(step);
  w.codes = nm24_metadata(w.row_codes[0], w.row_codes[1]);  // late: using registers that are still being loaded stalls
  const uint64_t x = tokens_of<kShared>(stages, step);
  wgmma_fence();
  if constexpr (kShared) {
    const uint64_t stored = weight_of<kShared>(stages, step, warpgroup);
    wgmma_sp_64x256x32<T, 0>(sums, stored, x, w.codes);
    wgmma_sp_64x256x32<T, 1>(sums, stored + kSecondStored, x + kSecond, w.codes);
  } else {
    wgmma_sp_64x256x32<T, 0>(sums, w.values[0], x, w.codes);
    wgmma_sp_64x256x32<T, 1>(sums, w.values[1], x + kSecond, w.codes);
  }
  wgmma_commit();
  wgmma_wait<1>();
  if (!first) stages.release(step - 1);
}

// By a warpgroup: the sums of a tile, from `steps` steps of which the first is number `first`. All slots of the ring but the
// last are loaded.
template <class T, bool kShared>
__device__ __forceinline__ void multiply(WarpgroupSums& sums, WeightRing& ring, const WeightRows<T, kShared>& w,
                                         const Steps<kShared>& stages, unsigned first, unsigned steps, int warpgroup) {
#pragma unroll 1
  for (unsigned step = 0; step < steps; step += kWeightSteps) {
#pragma unroll
    for (int i = 0; i < kWeightSteps; ++i) {
      if (step + i >= steps) break;
      multiply_step<T, kShared>(sums, ring[i], stages, first + step + i, warpgroup, step + i == 0);
      w.load(ring[(i + kWeightSteps - 1) % kWeightSteps], (step + i + kWeightSteps - 1) * kWgmmaCols);
    }
  }
  wgmma_finish(sums);
  stages.release(first + steps - 1);
}

// By one thread: all tiles of its cluster.
template <bool kShared>
__device__ void load_tiles(const Steps<kShared>& stages, const CUtensorMap& x, const CUtensorMap& weight, const WgmmaGrid& grid,
                           unsigned steps) {
  unsigned done = 0;
  for (int i = blockIdx.x / kClusterBlocks; i < grid.tiles; i += gridDim.x / kClusterBlocks, done += steps) {
    const WgmmaTile tile(grid, i);
    for (unsigned step = 0; step < steps; ++step) load_step<kShared>(stages, x, weight, done + step, tile, step * kWgmmaCols);
  }
}

// By a warpgroup: its part of every tile of its cluster. The weight of the next tile is loaded while sums become y.
template <class T, bool kShared>
__device__ __forceinline__ void multiply_tiles(DenseView<T> y, const Nm24View<const T>& w, Shared<uint32_t> slab,
                                               const Steps<kShared>& stages, const T* bias, bool relu, const WgmmaGrid& grid,
                                               unsigned steps, int warp) {
  const int clusters = gridDim.x / kClusterBlocks, group = threadIdx.x % kWarp / 4;
  int next = blockIdx.x / kClusterBlocks;
  WgmmaTile tile(grid, next);
  WeightRows<T, kShared> rows(w, tile.row0 + warp * 16 + group);
  WeightRing ring;
  rows.load_first(ring);
  for (unsigned done = 0; next < grid.tiles; done += steps) {
    WarpgroupSums sums = {};
    multiply<T, kShared>(sums, ring, rows, stages, done, steps, warp / 4);
    const WgmmaTile made = tile;
    next += clusters;
    if (next < grid.tiles) {
      tile = WgmmaTile(grid, next);
      rows = WeightRows<T, kShared>(w, tile.row0 + warp * 16 + group);
      rows.load_first(ring);
    }
    store_tile<T>(y, sums, slab, bias, relu, made.row0 + warp * 16, made.token0);
  }
}

template <class T, bool kShared>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    nm24_gemm_wgmma_kernel(DenseView<T> y, Nm24View<const T> w, const __grid_constant__ CUtensorMap x,
                           const __grid_constant__ CUtensorMap weight, const T* bias, bool relu, WgmmaGrid grid) {
#if SPX_SM_90A
  SPX_DYNAMIC_SHARED(uint32_t, memory);
  SPX_SHARED(Barrier, full, kStages);
  SPX_SHARED(Barrier, empty, kStages);
  const Steps<kShared> stages{memory, full, empty};
  if (threadIdx.x == 0) stages.init();
  cluster_sync();

  const unsigned steps = (static_cast<unsigned>(w.cols) + kWgmmaCols - 1) / kWgmmaCols;
  // A shuffle tells the compiler that all lanes have the same value.
  const int warp = shfl_idx(static_cast<int>(threadIdx.x / kWarp), 0) - kWarpgroup / kWarp;
  if (warp < 0) {
    give_registers<40>();
    if (threadIdx.x == 0) load_tiles<kShared>(stages, x, weight, grid, steps);
    __syncwarp();
  } else {
    take_registers<232>();
    const Shared<uint32_t> slab = memory + (kStages * kStageBytes<kShared> / 4 + warp * kWarpSlabWords);
    multiply_tiles<T, kShared>(y, w, slab, stages, bias, relu, grid, steps, warp);
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

template <class T, bool kShared>
Status nm24_gemm_wgmma(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, Stream stream) {
  CUtensorMap x_map, weight_map = {};
  SPX_TRY(make_tensor_map(&x_map, x, kQuarterTokens));
  if constexpr (kShared) {
    const DenseView<const T> values = {w.rows, 2 * w.groups(), w.values};
    SPX_TRY(make_tensor_map<kNarrowBoxWidth>(&weight_map, values, kWgmmaRows));
  }
  const WgmmaGrid grid(w.rows, x.rows);
  const Block block(kWgmmaThreads, kWgmmaSharedBytes<kShared>, kClusterBlocks);
  const int64_t resident = resident_clusters(nm24_gemm_wgmma_kernel<T, kShared>, block);
  const int64_t blocks = (grid.tiles < resident ? grid.tiles : resident) * kClusterBlocks;
  return launch("nm24_gemm_wgmma", nm24_gemm_wgmma_kernel<T, kShared>, blocks, block, stream, y, w, x_map, weight_map, bias,
                relu, grid);
}

}  // namespace spx::cuda::nm24
