// 2:4 product, dense tokens:  y[n, r] = bias[r] + sum_s w[r, s] * x[n, col_s], and its positive part where `relu`
//
//   tensor cores multiply 2:4 matrices of 16-bit types; float32 and float64 are the CPU's
// ops/nm24.py has checked shapes, dtypes and codes.
#include "nm24_gemm_mma.cuh"

namespace spx::cuda {

template <class T>
Status nm24_gemm(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, void*, Where stream) {
  if constexpr (sizeof(T) == sizeof(uint16_t))
    return nm24_gemm_mma(y, w, x, bias, relu, stream);
  else
    return cudaErrorNotSupported;
}

int64_t nm24_gemm_workspace(int64_t, int64_t, int64_t, int64_t, Where) { return 0; }

#define SPX_INSTANTIATE(T) \
  template Status nm24_gemm(DenseView<T>, Nm24View<const T>, DenseView<const T>, const T*, bool, void*, Where);
SPX_INSTANTIATE(float)
SPX_INSTANTIATE(double)
SPX_INSTANTIATE(bf16)
SPX_INSTANTIATE(f16)

}  // namespace spx::cuda
