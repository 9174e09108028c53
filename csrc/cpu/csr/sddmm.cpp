// Dense x dense, sampled at a CSR pattern:  dw[p] = sum_n dy[n, row_p] * x[n, col_p] (sddmm.h)
//
//   dy [tokens, rows] and x [tokens, cols] token-major; dw [capacity], 0 behind nnz
// ops/csr/kernels.py has checked shapes, dtypes and ranges.
#include "cpu/csr/sddmm.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::csr {

template <class T, class Index>
Status csr_sddmm(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace,
                 Threads threads) {
  const int64_t tokens = x.rows;
  if (tokens == 0) {
    fill_zero(dw, pattern.capacity);
    return kOk;
  }
  threads = useful_threads(threads, (pattern.row_ptr[pattern.rows] + pattern.rows + pattern.cols) * tokens);
  const SddmmLayout l = sddmm_layout(pattern.rows, pattern.cols, pattern.capacity, tokens, sizeof(Acc<T>));
  char* memory = static_cast<char*>(workspace);
  using E = Element<T>;
  switch (vecs_for(tokens, sizeof(E) / kTokensPer<E>, kSddmmVecs)) {
    case 1: sddmm_blocks<1>(dw, pattern, dy, x, memory, l, threads); break;
    case 2: sddmm_blocks<2>(dw, pattern, dy, x, memory, l, threads); break;
    case 4: sddmm_blocks<4>(dw, pattern, dy, x, memory, l, threads); break;
    default: sddmm_blocks<kSddmmVecs>(dw, pattern, dy, x, memory, l, threads);
  }
  return kOk;
}

template <class T, class Index>
int64_t csr_sddmm_workspace(CsrPattern<Index> pattern, DenseView<const T> x, Threads) {
  return sddmm_layout(pattern.rows, pattern.cols, pattern.capacity, x.rows, sizeof(Acc<T>)).total;
}

SPX_FOR_EACH_PRODUCT_AND_INDEX(SPX_INSTANTIATE, csr_sddmm)
SPX_FOR_EACH_PRODUCT_AND_INDEX(SPX_INSTANTIATE, csr_sddmm_workspace)

}  // namespace spx::cpu::SPX_ISA::csr
