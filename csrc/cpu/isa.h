// The numeric kernels of one instruction set, and how the public launchers find them: dispatch.cpp picks a namespace at run time.
#pragma once
#include "common/nm24.h"
#include "common/types.h"
#include "common/views.h"

#define SPX_DECLARE_KERNELS(isa)                                                                       \
  namespace spx::cpu::isa {                                                                            \
  using Where = int;                                                                                   \
  template <class T, class Index>                                                                      \
  Status csr_spmm(DenseView<T>, CsrView<T, Index>, DenseView<const T>, const T*, bool, void*, Where);  \
  int64_t csr_spmm_workspace(int64_t, int64_t, int64_t, int64_t, int64_t, Where);                      \
  template <class T, class Index>                                                                      \
  Status csr_sddmm(T*, CsrPattern<Index>, DenseView<const T>, DenseView<const T>, void*, Where);       \
  int64_t csr_sddmm_workspace(int64_t, int64_t, int64_t, int64_t, int64_t, Where);                     \
  template <class T, class S>                                                                          \
  Status nm24_pack(Nm24View<T>, Nm24View<T>, DenseView<const S>, Nm24Choice, float, Where);            \
  template <class T>                                                                                   \
  Status nm24_unpack(DenseView<T>, Nm24View<const T>, Where);                                          \
  template <class T>                                                                                   \
  Status nm24_gemm(DenseView<T>, Nm24View<const T>, DenseView<const T>, const T*, bool, void*, Where); \
  int64_t nm24_gemm_workspace(int64_t, int64_t, int64_t, int64_t, Where);                              \
  template <class T>                                                                                   \
  Status nm24_mvue(Nm24View<T>, DenseView<const T>, const int64_t*, Where);                            \
  }
SPX_DECLARE_KERNELS(baseline)
SPX_DECLARE_KERNELS(v3)
SPX_DECLARE_KERNELS(v4)
SPX_DECLARE_KERNELS(v4_bf16)
#undef SPX_DECLARE_KERNELS
