// masked_select: a thread for each element. Neighbours read the same byte of the mask, which their warp loads once.
#include "cuda/device/launch.cuh"

namespace spx::cuda::masked {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_select_kernel(DenseView<T> out, DenseView<const T> in, const uint8_t* bits, int64_t first_row, int64_t first_col) {
  for (int64_t i = global_thread(); i < out.rows * out.cols; i += global_threads()) {
    const int64_t at = (first_row + i / out.cols) * in.cols + first_col + i % out.cols;
    out.data[i] = bits[at / 8] >> at % 8 & 1 ? in.data[at] : from_acc<T>(0);
  }
}

}  // namespace

template <class T>
Status masked_select(DenseView<T> out, DenseView<const T> in, const uint8_t* bits, int64_t first_row, int64_t first_col,
                     Stream stream) {
  const int64_t blocks = blocks_for(out.rows * out.cols, kThreads);
  return launch("masked_select", masked_select_kernel<T>, blocks, kThreads, stream, out, in, bits, first_row, first_col);
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, masked_select)
SPX_INSTANTIATE(masked_select, f16)

}  // namespace spx::cuda::masked
