// CSR product, dense tokens:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p], then relu, if `relu` (spmm.h)
//
//   x [tokens, cols] and y [tokens, rows] token-major
// ops/csr/kernels.py has checked shapes, dtypes and ranges.
#include "cpu/csr/spmm.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::csr {
namespace {

// Layers that need no more than this use the stack: an allocation in Python would be their largest cost.
constexpr int64_t kStackBytes = 8 << 10;

template <class T, class Index>
SpmmLayout layout(const CsrPattern<Index>& p, int64_t tokens, Threads threads) {
  const int64_t vecs = vecs_for(tokens, sizeof(Acc<T>), most_vecs(p.rows, p.cols, p.capacity));
  return spmm_layout(p.rows, p.cols, p.capacity, vecs, sizeof(Acc<T>), threads);
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                Threads threads) {
  const CsrPattern<Index>& p = w.pattern;
  const int64_t tokens = x.rows;
  if (tokens == 0 || p.rows == 0) return kOk;
  threads = useful_threads(threads, (p.row_ptr[p.rows] + p.rows + p.cols) * tokens);
  const SpmmLayout l = layout<T>(p, tokens, threads);
  alignas(64) char stack[kStackBytes];
  char* memory = workspace ? static_cast<char*>(workspace) : stack;
  using E = Element<T>;
  switch (vecs_for(tokens, sizeof(E) / kTokensPer<E>, most_vecs(p.rows, p.cols, p.capacity))) {
    case 1: spmm_blocks<1>(y, w, x, bias, relu, memory, l, threads); break;
    case 2: spmm_blocks<2>(y, w, x, bias, relu, memory, l, threads); break;
    case 4: spmm_blocks<4>(y, w, x, bias, relu, memory, l, threads); break;
    default: spmm_blocks<kMaxVecs>(y, w, x, bias, relu, memory, l, threads);
  }
  return kOk;
}

template <class T, class Index>
int64_t csr_spmm_workspace(CsrView<T, Index> w, DenseView<const T> x, Threads threads) {
  const int64_t total = layout<T>(w.pattern, x.rows, threads).total;
  return total <= kStackBytes ? 0 : total;
}

SPX_FOR_EACH_PRODUCT_AND_INDEX(SPX_INSTANTIATE, csr_spmm)
SPX_FOR_EACH_PRODUCT_AND_INDEX(SPX_INSTANTIATE, csr_spmm_workspace)

}  // namespace spx::cpu::SPX_ISA::csr
