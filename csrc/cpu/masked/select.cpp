// masked_select: bound by memory, and compiled for every instruction set because what it writes stays in the cache.
#include "cpu/masked/mask.h"

#include <omp.h>

#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::masked {

template <class T>
Status masked_select(DenseView<T> out, DenseView<const T> in, const uint8_t* bits, int64_t first_row, int64_t first_col,
                     Threads threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (out.rows * out.cols > 1 << 16)
  for (int64_t r = 0; r < out.rows; ++r) {
    const int64_t row = first_row + r;
    select_row(out.row(r), in.row(row) + first_col, bits, row * in.cols + first_col, out.cols);
  }
  return kOk;
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, masked_select)

}  // namespace spx::cpu::SPX_ISA::masked
