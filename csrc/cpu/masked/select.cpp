// masked_select: bound by memory, and compiled for every instruction set because what it writes stays in the cache.
#include "cpu/masked/mask.h"

#include <omp.h>

#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::masked {
namespace {

constexpr int64_t kPiece = 1 << 14;  // elements

}  // namespace

template <class T>
Status masked_select(DenseView<T> out, DenseView<const T> in, const uint8_t* bits, int64_t first_row, int64_t first_col,
                     Threads threads) {
  // Rows in pieces: a whole matrix may come as one row.
  const int64_t pieces = ceil_div(out.cols, kPiece);
#pragma omp parallel for num_threads(threads) schedule(static) if (out.rows * out.cols > 1 << 16)
  for (int64_t i = 0; i < out.rows * pieces; ++i) {
    const int64_t r = i / pieces, row = first_row + r, from = i % pieces * kPiece, col = first_col + from;
    select_row(out.row(r) + from, in.row(row) + col, bits, row * in.cols + col, min(kPiece, out.cols - from));
  }
  return kOk;
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, masked_select)

}  // namespace spx::cpu::SPX_ISA::masked
