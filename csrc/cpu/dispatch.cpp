// Chooses the instruction set at run time: the widest one that both this binary and this CPU have, unless told otherwise.
#include <cstdlib>
#include <cstring>

#include "cpu/isa.h"
#include "kernels.h"

namespace spx::cpu {
namespace {

enum Isa { kBaseline, kV3, kV4, kV4Bf16, kIsas };
constexpr const char* kNames[] = {"baseline", "v3", "v4", "v4_bf16"};

#if defined(SPX_LOWERED)
constexpr bool kLowered = true;  // a binary for tests, its AVX-512 kernels in instructions of AVX2
#else
constexpr bool kLowered = false;
#endif

bool available(int isa) {
  switch (isa) {
    case kBaseline: return true;
#if defined(SPX_HAVE_v3)
    case kV3: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case kV4:
      return available(kV3) && (kLowered || (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                                             __builtin_cpu_supports("avx512vl")));
    case kV4Bf16: return available(kV4) && (kLowered || __builtin_cpu_supports("avx512bf16"));
#endif
    default: return false;
  }
}

Isa& chosen() {
  static Isa isa = [] {
    int best = kIsas - 1;
    while (!available(best)) --best;
    return static_cast<Isa>(best);
  }();
  return isa;
}

}  // namespace

const char* isa() { return kNames[chosen()]; }

bool use_isa(const char* name) {
  for (int i = kBaseline; i < kIsas; ++i) {
    if (strcmp(name, kNames[i]) == 0 && available(i)) {
      chosen() = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

#if defined(SPX_HAVE_v3)
#define SPX_DISPATCH(call)              \
  switch (chosen()) {                   \
    case kV4Bf16: return v4_bf16::call; \
    case kV4: return v4::call;          \
    case kV3: return v3::call;          \
    default: return baseline::call;     \
  }
#else
#define SPX_DISPATCH(call) return baseline::call
#endif

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                Where where) {
  SPX_DISPATCH(csr_spmm(y, w, x, bias, relu, workspace, where));
}
int64_t csr_spmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t acc_bytes, Where where) {
  SPX_DISPATCH(csr_spmm_workspace(rows, cols, capacity, tokens, acc_bytes, where));
}
template <class T, class Index>
Status csr_sddmm(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace, Where where) {
  SPX_DISPATCH(csr_sddmm(dw, pattern, dy, x, workspace, where));
}
int64_t csr_sddmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t acc_bytes, Where where) {
  SPX_DISPATCH(csr_sddmm_workspace(rows, cols, capacity, tokens, acc_bytes, where));
}

template <class T, class S>
Status nm24_pack(Nm24View<T> w, Nm24View<T> wt, DenseView<const S> dense, Nm24Choice choice, float scale, Where where) {
  SPX_DISPATCH(nm24_pack(w, wt, dense, choice, scale, where));
}
template <class T>
Status nm24_unpack(DenseView<T> dense, Nm24View<const T> w, Where where) {
  SPX_DISPATCH(nm24_unpack(dense, w, where));
}
template <class T>
Status nm24_gemm(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                 Where where) {
  SPX_DISPATCH(nm24_gemm(y, w, x, bias, relu, workspace, where));
}
int64_t nm24_gemm_workspace(int64_t rows, int64_t cols, int64_t tokens, int64_t acc_bytes, Where where) {
  SPX_DISPATCH(nm24_gemm_workspace(rows, cols, tokens, acc_bytes, where));
}
template <class T>
Status nm24_mvue(Nm24View<T> wt, DenseView<const T> dy, const int64_t* draw, Where where) {
  SPX_DISPATCH(nm24_mvue(wt, dy, draw, where));
}

#define SPX_INSTANTIATE(T, Index)                                                                              \
  template Status csr_spmm(DenseView<T>, CsrView<T, Index>, DenseView<const T>, const T*, bool, void*, Where); \
  template Status csr_sddmm(T*, CsrPattern<Index>, DenseView<const T>, DenseView<const T>, void*, Where);
SPX_FOR_EACH_TYPE(SPX_INSTANTIATE)
#undef SPX_INSTANTIATE

#define SPX_INSTANTIATE(T, S) template Status nm24_pack(Nm24View<T>, Nm24View<T>, DenseView<const S>, Nm24Choice, float, Where);
SPX_FOR_EACH_SOURCE(SPX_INSTANTIATE)
#undef SPX_INSTANTIATE

#define SPX_INSTANTIATE(T)                                                           \
  template Status nm24_unpack(DenseView<T>, Nm24View<const T>, Where);               \
  template Status nm24_mvue(Nm24View<T>, DenseView<const T>, const int64_t*, Where); \
  template Status nm24_gemm(DenseView<T>, Nm24View<const T>, DenseView<const T>, const T*, bool, void*, Where);
SPX_INSTANTIATE(float)
SPX_INSTANTIATE(double)
SPX_INSTANTIATE(bf16)

}  // namespace spx::cpu
