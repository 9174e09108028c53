// 2:4 product, dense tokens:  y[n, r] = bias[r] + sum_s w[r, s] * x[n, col_s], then relu, if `relu`
//
//   bf16, f16  on sparse tensor cores (gemm_mma.cuh, gemm_wgmma.cuh); float32 and float64 run on the CPU only
// ops/nm24/kernels.py has checked shapes, dtypes and codes.
#include "cuda/nm24/gemm_mma.cuh"
#include "cuda/nm24/gemm_wgmma.cuh"

namespace spx::cuda::nm24 {

template <class T>
Status nm24_gemm(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, void*, Stream stream) {
  if constexpr (sizeof(T) == sizeof(uint16_t)) {
    if (fits_wgmma(w.rows, w.cols, x.rows) && uses_sm_90a()) return nm24_gemm_wgmma<T>(y, w, x, bias, relu, stream);
    return nm24_gemm_mma(y, w, x, bias, relu, stream);
  } else {
    return cudaErrorNotSupported;
  }
}

template <class T>
int64_t nm24_gemm_workspace(Nm24View<const T>, DenseView<const T>, Stream) {
  return 0;
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, nm24_gemm)
SPX_INSTANTIATE(nm24_gemm, f16)
SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, nm24_gemm_workspace)
SPX_INSTANTIATE(nm24_gemm_workspace, f16)

}  // namespace spx::cuda::nm24
