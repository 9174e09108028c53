// 2:4 product, dense tokens:  y[n, r] = bias[r] + sum_s w[r, s] * x[n, col_s], and its positive part where `relu`
//
//   bf16, f16  on sparse tensor cores (nm24_gemm_mma.cuh, nm24_gemm_wgmma.cuh); float32 and float64 are the CPU's
// ops/nm24.py has checked shapes, dtypes and codes.
#include "nm24_gemm_mma.cuh"
#include "nm24_gemm_wgmma.cuh"

namespace spx::cuda {

template <class T>
Status nm24_gemm(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, void*, Where stream) {
  if constexpr (sizeof(T) == sizeof(uint16_t)) {
    if (fits_wgmma(w.rows, w.cols, x.rows) && uses_sm_90a())
      return weight_in_shared_memory() ? nm24_gemm_wgmma<T, true>(y, w, x, bias, relu, stream)
                                       : nm24_gemm_wgmma<T, false>(y, w, x, bias, relu, stream);
    return nm24_gemm_mma(y, w, x, bias, relu, stream);
  } else {
    return cudaErrorNotSupported;
  }
}

int64_t nm24_gemm_workspace(int64_t, int64_t, int64_t, int64_t, Where) { return 0; }

#define SPX_INSTANTIATE(T) \
  template Status nm24_gemm(DenseView<T>, Nm24View<const T>, DenseView<const T>, const T*, bool, void*, Where);
SPX_INSTANTIATE(float)
SPX_INSTANTIATE(double)
SPX_INSTANTIATE(bf16)
SPX_INSTANTIATE(f16)

}  // namespace spx::cuda
