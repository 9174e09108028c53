// Storage types of the kernels, without any CUDA or torch header.
//
//   bf16, f16   two bytes as PyTorch stores them; arithmetic is done in float32
//   Acc<T>      the type in which sums over T are kept: float for bf16, f16 and float, double for double
//   Status      what a launcher returns: 0, or the cudaError_t of the failed launch
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SPX_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SPX_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace spx {

using Status = int;
constexpr Status kOk = 0;

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <class T>
using Acc = typename AccOf<T>::type;

// Explicit instantiations of a launcher; its declaration says the rest.
#define SPX_INSTANTIATE(launcher, ...) template decltype(launcher<__VA_ARGS__>) launcher<__VA_ARGS__>;
// M(launcher, T): for the storage types of both devices. CUDA kernels add f16.
#define SPX_FOR_EACH_TYPE(M, launcher) M(launcher, float) M(launcher, double) M(launcher, bf16)
// M(launcher, T, Index): the same with both widths of column indices.
#define SPX_FOR_EACH_INDEX(M, launcher, T) M(launcher, T, int32_t) M(launcher, T, uint16_t)
#define SPX_FOR_EACH_TYPE_AND_INDEX(M, launcher) \
  SPX_FOR_EACH_INDEX(M, launcher, float) SPX_FOR_EACH_INDEX(M, launcher, double) SPX_FOR_EACH_INDEX(M, launcher, bf16)

// Clears `count` elements; `to` may be null if there are none. Internal linkage: see cpu/simd/vec.h on weak symbols.
template <class T>
static inline void fill_zero(T* to, int64_t count) {
  if (count > 0) memset(static_cast<void*>(to), 0, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace spx
