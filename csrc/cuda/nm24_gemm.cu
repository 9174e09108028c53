// 2:4 product, dense tokens:  y[n, r] = bias[r] + sum_s w[r, s] * x[n, col_s], and its positive part where `relu`
//
//   tensor cores multiply 2:4 matrices of 16-bit types; float32 and float64 are the CPU's
// ops/nm24.py has checked shapes, dtypes and codes.
#include "nm24_gemm_mma.cuh"

namespace spx::cuda {

template <class T>
Status nm24_gemm(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, void*, Where stream) {
  if constexpr (sizeof(T) != sizeof(uint16_t)) {
    return cudaErrorNotSupported;
  } else {
    const int64_t blocks = ceil_div(w.rows, kSpRows) * ceil_div(x.rows, kSpTokens);
    if (w.cols > 0x7FFFFFFF - 2 * kSpCols) return cudaErrorInvalidValue;  // columns are 32-bit numbers
    const Block block(kSpThreads, kSpSharedBytes);
    if (w.cols % 32 == 0)
      return launch("nm24_gemm_mma", nm24_gemm_mma_kernel<T, true>, blocks, block, stream, y, w, x, bias, relu);
    return launch("nm24_gemm_mma", nm24_gemm_mma_kernel<T, false>, blocks, block, stream, y, w, x, bias, relu);
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
