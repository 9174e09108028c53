// The instructions of sm_90a, a function each: TMA, which copies boxes of a matrix to shared memory; barriers that count
// arrivals and bytes; clusters of blocks; and wgmma, matrix products by warpgroups. tests/emulation/hopper.h has the same names
// on the host. Code that uses them stands between #if SPX_SM_90A and #endif, and is empty for other architectures.
//
// Swizzle: a box is 128 or 64 bytes wide. TMA permutes the 16-byte pieces inside each row, so that the tensor cores read
// columns without bank conflicts. Boxes begin at multiples of 1024 bytes.
#pragma once
#include <cuda.h>  // types; the one function is found at run time, so that the driver's library need not be there

#include "cuda/device/launch.cuh"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPX_SM_90A 1
#else
#define SPX_SM_90A 0
#endif

namespace spx::cuda {

constexpr int kWarpgroup = 4 * kWarp;
constexpr int kBoxWidth = 128, kNarrowBoxWidth = 64;  // bytes

// An mbarrier in shared memory. A phase ends when as many threads have arrived as it was initialised for, and all bytes that
// they announced. Phases are told apart by their parity, which is 0 for the first.
using Barrier = uint64_t;

// The descriptor of a wgmma operand whose boxes begin at `address`, box_bytes apart. A row of a box is one step of the sum;
// along it lie the rows (of a) or columns (of b), kBoxWidth bytes in each box.
inline __device__ uint64_t operand_descriptor(uint32_t address, uint32_t box_bytes) {
  constexpr uint64_t kSwizzle128 = 1;
  constexpr uint32_t kEightRows = 8 * kBoxWidth;
  return (address & 0x3FFFF) >> 4 | uint64_t{box_bytes >> 4} << 16 | uint64_t{kEightRows >> 4} << 32 | kSwizzle128 << 62;
}
// The same for an operand stored the other way: a row of a box is one of its rows (of a) or columns (of b), and along it lie
// steps of the sum.
template <int kWidth = kBoxWidth>
inline __device__ uint64_t transposed_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle = kWidth == kBoxWidth ? 1 : 2, kUnused = 1;
  constexpr uint32_t kEightRows = 8 * kWidth;
  return (address & 0x3FFFF) >> 4 | kUnused << 16 | uint64_t{kEightRows >> 4} << 32 | kSwizzle << 62;
}
// Added to a descriptor, it moves the operand by so many bytes.
SPX_HOST_DEVICE constexpr uint64_t descriptor_offset(uint32_t bytes) { return bytes >> 4; }

// A thread's sums of a product of 64 x 256. Lane 4 * i + j of warp w of the warpgroup holds, for n = 0 .. 31:
//   4n, 4n + 1      row 16w + i      columns 8n + 2j, 8n + 2j + 1
//   4n + 2, 4n + 3  row 16w + i + 8  the same
using WarpgroupSums = float[128];

}  // namespace spx::cuda

#if defined(__CUDACC__)
namespace spx::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A barrier of all threads of the cluster, which also orders their memory accesses.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// After the last barrier_init. Then a cluster_sync makes the barriers visible to TMA and to the other blocks of the cluster.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Arrives, and announces `bytes` from TMA to the phase.
__device__ __forceinline__ void barrier_expect(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Arrives at the same barrier of block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive(Barrier* barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
// Waits until the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(Barrier* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Copies the box that begins at (row, col) to `to` in every block of `blocks` (bit r: rank r of the cluster), with zeros
// outside the matrix, and reports its bytes to the same barrier of each.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap& map, int row, int col, Barrier* barrier,
                                         uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
      "[%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(col), "r"(row), "r"(shared_address(barrier)), "h"(blocks)
      : "memory");
}
// Into this block alone.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap& map, int row, int col, Barrier* barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                   shared_address(to)),
               "l"(&map), "r"(col), "r"(row), "r"(shared_address(barrier))
               : "memory");
}

#define SPX_8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SPX_SUMS                                                                                                         \
  SPX_8(0), SPX_8(8), SPX_8(16), SPX_8(24), SPX_8(32), SPX_8(40), SPX_8(48), SPX_8(56), SPX_8(64), SPX_8(72), SPX_8(80), \
      SPX_8(88), SPX_8(96), SPX_8(104), SPX_8(112), SPX_8(120)

#define SPX_PLACES                                                               \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "  \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "  \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "  \
  "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, "  \
  "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "  \
  "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, " \
  "%106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "     \
  "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "

// Starts d += a b, 64 x 16 elements of T times 16 x 256, by a warpgroup. wgmma_fence comes before the first product into these
// sums, wgmma_commit behind the last of a group, and until wgmma_wait nothing may touch the sums or the operands.
template <class T>
__device__ __forceinline__ void wgmma_64x256x16(WarpgroupSums& d, uint64_t a, uint64_t b) {
#define SPX_WGMMA(type) /* add to d, nothing negated, both operands with rows and columns contiguous */                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " " SPX_PLACES "%128, %129, 1, 1, 1, 1, 1;" \
               : SPX_SUMS                                                                                               \
               : "l"(a), "l"(b))
  if constexpr (std::is_same_v<T, bf16>)
    SPX_WGMMA("bf16");
  else
    SPX_WGMMA("f16");
#undef SPX_WGMMA
}

// Starts d += a b on the sparse tensor cores. a is 64 x 32 elements of T, of which 64 x 16 are stored; b is 32 x 256. Both are
// given by a transposed_descriptor. codes: see nm24_metadata; the instruction reads those of lanes with j / 2 = kSelector. This
// register is an operand, too: wgmma_fence comes between writing it and the product, and it stays unchanged until wgmma_wait.
template <class T, int kSelector>
__device__ __forceinline__ void wgmma_sp_64x256x32(WarpgroupSums& d, uint64_t a, uint64_t b, const uint32_t& codes) {
#define SPX_WGMMA(type) /* as above; both with their steps contiguous */                      \
  asm volatile("wgmma.mma_async.sp.sync.aligned.m64n256k32.f32." type "." type " " SPX_PLACES \
               "%128, %129, %130, %131, 1, 1, 1, 0, 0;"                                       \
               : SPX_SUMS                                                                     \
               : "l"(a), "l"(b), "r"(codes), "n"(kSelector))
  if constexpr (std::is_same_v<T, bf16>)
    SPX_WGMMA("bf16");
  else
    SPX_WGMMA("f16");
#undef SPX_WGMMA
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kGroups groups are under way.
template <int kGroups>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Waits until all are done. The sums are outputs, so the compiler does not read them earlier.
__device__ __forceinline__ void wgmma_finish(WarpgroupSums& d) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" : SPX_SUMS::"memory");
}
#undef SPX_PLACES
#undef SPX_SUMS
#undef SPX_8

// By all warps of a warpgroup: each thread has kRegisters, a multiple of 8, from here on. Others take what these give.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Stores four 8 x 8 matrices of 16-bit elements, transposed. Lane 4 * i + j holds elements 2j and 2j + 1 of row i of each; lane
// 8 m + c passes the address of column c of matrix m, 16 bytes.
__device__ __forceinline__ void stmatrix_x4_transposed(Shared<uint32_t> column, const uint32_t (&matrices)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(column)),
               "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
               : "memory");
}

}  // namespace spx::cuda
#else
#include "hopper.h"  // the same names on the host
#endif

namespace spx::cuda {

// Whether kernels for sm_90a are to be used: chosen (use_isa), in this binary, and for the current device.
bool uses_sm_90a();

// Describes `m`, in boxes of `rows` rows and kWidth bytes, to TMA. Its address and its rows are multiples of 16 bytes, and it
// is not empty.
template <int kWidth = kBoxWidth, class T>
Status make_tensor_map(CUtensorMap* map, DenseView<const T> m, int rows) {
  static_assert(sizeof(T) == sizeof(uint16_t) && (kWidth == kBoxWidth || kWidth == kNarrowBoxWidth));
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    ok(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  last_launch() = {"cuTensorMapEncodeTiled", dim3(0), dim3(0)};  // for describe_failure
  if (!encode) return cudaErrorNotSupported;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(m.cols), static_cast<cuuint64_t>(m.rows)},
                   stride[] = {size[0] * sizeof(T)};
  const cuuint32_t box[] = {kWidth / sizeof(T), static_cast<cuuint32_t>(rows)}, every[] = {1, 1};
  const CUresult result =
      encode(map, std::is_same_v<T, bf16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
             const_cast<T*>(m.data), size, stride, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
             kWidth == kBoxWidth ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return static_cast<Status>(result);  // the driver's codes are the runtime's
}

}  // namespace spx::cuda
