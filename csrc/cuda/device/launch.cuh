// Shared by all kernel files: the launch function, shared memory, warp primitives, conversions.
//
// The same .cu files are compiled by nvcc and, for tests without a GPU, by the host compiler over tests/emulation. So:
//   * launch() stands for <<<>>>
//   * SPX_SHARED declares shared memory; a helper takes it as Shared<T>, and reads it into a named type, never `auto`.
//     SPX_DYNAMIC_SHARED, once in a kernel, declares the dynamic part, beyond 48 KB: aligned to 1024 bytes
//   * warp primitives are the ones below, always with all 32 lanes; blocks are whole warps; no thread leaves before a barrier
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "kernels.h"

namespace spx::cuda {

constexpr int kWarp = 32;

// What describe_failure reports: the last launch of this thread.
struct LaunchRecord {
  const char* kernel;
  dim3 grid, block;
};
LaunchRecord& last_launch();

constexpr int kDynamicAlignment = 1024;  // of dynamic shared memory; padding may take as many bytes

// Bytes of shared memory, static and dynamic, that a block may use on the current device: 227 KB on sm_90, 163 KB on sm_80, 99
// KB on sm_86 and sm_89.
int64_t shared_bytes_per_block();

__device__ inline float to_acc(float v) { return v; }
__device__ inline double to_acc(double v) { return v; }
__device__ inline float to_acc(bf16 v) {  // one instruction for the upper half of a word; __bfloat162float is two
  const uint32_t bits = uint32_t{v.bits} << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
__device__ inline float to_acc(f16 v) { return __half2float(__half(__half_raw{v.bits})); }

// from_acc<T>: rounds to nearest, ties to even.
template <class T>
__device__ inline T from_acc(Acc<T> v) {
  if constexpr (sizeof(T) == sizeof(Acc<T>))
    return v;
  else if constexpr (std::is_same_v<T, bf16>)
    return {static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(v)).x};
  else
    return {static_cast<__half_raw>(__float2half_rn(v)).x};
}

}  // namespace spx::cuda

#if defined(__CUDACC__)
#define SPX_SHARED(type, name, count) __shared__ type name[count]
#define SPX_DYNAMIC_SHARED(type, name)                                                    \
  extern __shared__ __align__(::spx::cuda::kDynamicAlignment) uint4 spx_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(spx_dynamic_shared)

namespace spx::cuda {

template <class T>
using Shared = T*;

// The element that lies `bytes` behind the first. Turning bytes into an index would take a mask or a shift.
template <class T>
__device__ __forceinline__ T& element_at(Shared<T> first, int bytes) {
  return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}

constexpr unsigned kFullMask = 0xFFFFFFFFu;

template <class T>
__device__ __forceinline__ T shfl_idx(T v, int lane) {
  return __shfl_sync(kFullMask, v, lane);
}
template <class T>
__device__ __forceinline__ T shfl_xor(T v, int mask) {
  return __shfl_xor_sync(kFullMask, v, mask);
}
template <class T>
__device__ __forceinline__ T shfl_up(T v, int delta) {
  return __shfl_up_sync(kFullMask, v, delta);
}
template <class T>
__device__ __forceinline__ T shfl_down(T v, int delta) {
  return __shfl_down_sync(kFullMask, v, delta);
}
__device__ __forceinline__ unsigned ballot(bool v) { return __ballot_sync(kFullMask, v); }
__device__ __forceinline__ int popcount(unsigned v) { return __popc(v); }

// d += a b on the tensor cores: 16 x 16 elements of T times 16 x 8, two to a word, sums in float32. Lane 4 * i + j holds:
//   a  rows i, i + 8, i, i + 8    columns 2j and 2j + 1; in the last two words 2j + 8 and 2j + 9
//   b  column i                   rows 2j and 2j + 1; in the last word 2j + 8 and 2j + 9
//   d  rows i, i, i + 8, i + 8    columns 2j, 2j + 1, 2j, 2j + 1
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#define SPX_MMA(type)                                                                 \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (std::is_same_v<T, bf16>)
    SPX_MMA("bf16");
  else
    SPX_MMA("f16");
#undef SPX_MMA
}

// d += a b on the sparse tensor cores. a is 16 x 32 elements of T; its 16 x 16 stored ones are given as in mma_16x8x16. b is 32
// x 8: lane 4 * i + j holds column i, rows 2j and 2j + 1, and the same 8, 16 and 24 rows further. codes: see nm24_metadata; the
// instruction ignores those of lanes with j > 1.
template <class T>
__device__ __forceinline__ void mma_sp_16x8x32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t codes) {
#define SPX_MMA(type)                                                                                     \
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." type "." type                \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0x0;" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(codes))
  if constexpr (std::is_same_v<T, bf16>)
    SPX_MMA("bf16");
  else
    SPX_MMA("f16");
#undef SPX_MMA
}

// Loads four 8 x 8 matrices of 16-bit elements; a row is 16 bytes. Lane 8 m + r passes the address of row r of matrix m; lane
// 4 * i + j receives elements 2j and 2j + 1 of row i of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&matrices)[4], Shared<uint32_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// Stores 16 aligned bytes in global memory. A plain copy may become four stores.
__device__ __forceinline__ void store_global_chunk(void* to, const uint32_t (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(words[0]), "r"(words[1]),
               "r"(words[2]), "r"(words[3])
               : "memory");
}

// The same for shared memory.
__device__ __forceinline__ void store_chunk(Shared<uint32_t> to, const uint32_t (&words)[4]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ __forceinline__ void load_chunk(uint32_t (&words)[4], Shared<uint32_t> from) {
  const uint4 four = *reinterpret_cast<const uint4*>(from);
  words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
}

}  // namespace spx::cuda
#else
#include "emulator.h"  // the same names on the host
#endif

namespace spx::cuda {

// The sum over the warp, in every lane.
template <class T>
__device__ inline T reduce_add(T v) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) v += shfl_xor(v, mask);
  return v;
}

// The sum over the lanes below and this one.
template <class T>
__device__ inline T scan_add(T v) {
  const int lane = threadIdx.x % kWarp;
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const T below = shfl_up(v, delta);
    if (lane >= delta) v += below;
  }
  return v;
}

// The lanes below this one, as a mask.
__device__ inline unsigned lanes_below() { return (1u << (threadIdx.x % kWarp)) - 1u; }

// This thread's number in the grid and the number of threads: the grid-stride loops. Blocks and grids are one-dimensional.
__device__ inline int64_t global_thread() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline int64_t global_threads() { return int64_t{gridDim.x} * blockDim.x; }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The number of blocks for a grid-stride loop over `items`. At least one, so that a kernel without items still clears the
// entries behind nnz; at most a few waves of the largest card.
constexpr int64_t kMaxBlocks = 2048;
inline int64_t blocks_for(int64_t items, int64_t items_per_block) {
  const int64_t blocks = ceil_div(items, items_per_block);
  return blocks < 1 ? 1 : (blocks > kMaxBlocks ? kMaxBlocks : blocks);
}

// The blocks of a launch: threads, bytes of dynamic shared memory and, for sm_90, blocks in a cluster. most_shared_bytes is the
// kernel's limit on dynamic shared memory. It has to be the same for all launches of a kernel on a device: raising or lowering
// it would affect another thread's launches, and a captured graph.
struct Block {
  unsigned threads, shared_bytes, cluster, most_shared_bytes;

  Block(int threads, int shared_bytes = 0, int cluster = 1)  // implicit: most launches pass only the threads
      : threads(threads), shared_bytes(shared_bytes), cluster(cluster), most_shared_bytes(shared_bytes) {}

  Block allow(int64_t bytes) const {
    Block block = *this;
    block.most_shared_bytes = static_cast<unsigned>(bytes);
    return block;
  }
};

#if defined(__CUDACC__)
// The runtime's description of a launch; it points to `cluster`.
inline cudaLaunchConfig_t launch_config(dim3 grid, Block block, Stream stream, cudaLaunchAttribute* cluster) {
  cluster->id = cudaLaunchAttributeClusterDimension;
  cluster->val.clusterDim = {block.cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(block.threads);
  config.dynamicSmemBytes = block.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = cluster;
  config.numAttrs = block.cluster > 1;
  return config;
}

// A kernel must opt in to more than 48 KB of shared memory.
template <class... Params>
Status allow_shared_bytes(void (*kernel)(Params...), Block block) {
  if (block.shared_bytes == 0) return kOk;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(block.most_shared_bytes));
}
#endif

// Whether the call went well. The error of one that failed is cleared, or the next call would report it again; a pending error
// of somebody else's call stays for them.
inline bool ok(Status status) {
  if (status != kOk) cudaGetLastError();
  return status == kOk;
}

// The number of clusters of `kernel` that the current device runs at a time, INT64_MAX if unknown. A persistent kernel needs no
// more; its clusters do not wait for each other, so more do no harm.
template <class... Params>
int64_t resident_clusters(void (*kernel)(Params...), Block block) {
  int clusters = 0;
#if defined(__CUDACC__)
  cudaLaunchAttribute cluster = {};
  const cudaLaunchConfig_t config = launch_config(dim3(block.cluster), block, nullptr, &cluster);
  const bool known = ok(allow_shared_bytes(kernel, block)) && ok(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  if (!known) clusters = 0;
#else
  static_cast<void>(kernel), static_cast<void>(block);
  clusters = emulator::kResidentClusters;
#endif
  return clusters > 0 ? clusters : INT64_MAX;
}

// Starts `kernel` on `stream` and returns the runtime's status; never synchronises. An empty grid, which CUDA rejects, is no
// work.
template <class... Params, class... Args>
Status launch(const char* name, void (*kernel)(Params...), int64_t blocks, Block block, Stream stream, Args... args) {
  if (blocks == 0) return kOk;
  const dim3 grid(static_cast<unsigned>(blocks));
  last_launch() = {name, grid, dim3(block.threads)};
  if (blocks > 0x7FFFFFFF) return cudaErrorInvalidConfiguration;
#if defined(__CUDACC__)
  cudaLaunchAttribute cluster = {};
  const cudaLaunchConfig_t config = launch_config(grid, block, stream, &cluster);
  Status status = allow_shared_bytes(kernel, block);
  if (status == kOk) status = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
#else
  static_cast<void>(stream);
  const Status status = emulator::launch(name, grid.x, {block.threads, block.shared_bytes, block.cluster},
                                         [&] { kernel(static_cast<Params>(args)...); });
#endif
  ok(status);
  return status;
}

// In launchers of several kernels: stops at the first that fails.
#define SPX_TRY(...)                                                                        \
  do {                                                                                      \
    if (const ::spx::Status status_ = (__VA_ARGS__); status_ != ::spx::kOk) return status_; \
  } while (0)

}  // namespace spx::cuda
