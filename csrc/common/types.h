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

// The storage types of both devices, with both widths of column indices: M(T, Index). CUDA kernels have f16, too.
#define SPX_FOR_EACH_TYPE(M) \
  M(float, int32_t)          \
  M(float, uint16_t)         \
  M(double, int32_t)         \
  M(double, uint16_t)        \
  M(bf16, int32_t)           \
  M(bf16, uint16_t)

// The storage types, each with what is converted to it: M(T, S).
#define SPX_FOR_EACH_SOURCE(M) \
  M(float, float)              \
  M(double, double)            \
  M(bf16, bf16)                \
  M(bf16, float)

// Internal linkage: see cpu/vec.h on weak symbols. memset(to, 0, ...) for `count` elements; nothing at a null pointer, which an empty tensor has, is fine here.
template <class T>
static inline void fill_zero(T* to, int64_t count) {
  if (count > 0) memset(static_cast<void*>(to), 0, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace spx
