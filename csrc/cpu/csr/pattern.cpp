// The pattern itself: from a mask, transposed, and values moved between dense and CSR. Bound by memory, so plain loops.
// __restrict tells the compiler that 16-bit values and columns do not overlap.
#include <omp.h>

#include <cstring>

#include "cpu/csr/entries.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::csr {

template <class T, class Index>
Status csr_pack(T* values, CsrPattern<Index> pattern, DenseView<const T> dense, Threads threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (pattern.capacity > 1 << 16)
  for (int64_t r = 0; r < pattern.rows; ++r) {
    const T* __restrict row = dense.row(r);
    const Index* __restrict cols = pattern.col_idx;
    T* __restrict out = values;
    const int64_t end = pattern.row_ptr[r + 1];
#pragma GCC unroll 8
    for (int64_t p = pattern.row_ptr[r]; p < end; ++p) out[p] = row[cols[p]];
  }
  const int64_t nnz = pattern.row_ptr[pattern.rows];
  fill_zero(values + nnz, pattern.capacity - nnz);
  return kOk;
}

template <class T, class Index>
Status csr_unpack(DenseView<T> dense, CsrView<T, Index> w, int64_t first_col, Threads threads) {
  const CsrPattern<Index>& pattern = w.pattern;
#pragma omp parallel for num_threads(threads) schedule(static) if (dense.rows * dense.cols > 1 << 16)
  for (int64_t r = 0; r < pattern.rows; ++r) {
    T* __restrict row = dense.row(r);
    const Index* __restrict cols = pattern.col_idx;
    const T* __restrict in = w.values;
    const int64_t begin = entry_at(cols, pattern.row_ptr[r], pattern.row_ptr[r + 1], first_col);
    const int64_t end = entry_at(cols, begin, pattern.row_ptr[r + 1], first_col + dense.cols);
    fill_zero(row, dense.cols);
#pragma GCC unroll 8
    for (int64_t p = begin; p < end; ++p) row[cols[p] - first_col] = in[p];
  }
  return kOk;
}

Status csr_from_mask(CsrPatternOut out, DenseView<const uint8_t> mask, Threads threads) {
  out.row_ptr[0] = 0;
#pragma omp parallel for num_threads(threads) schedule(static) if (mask.rows * mask.cols > 1 << 16)
  for (int64_t r = 0; r < mask.rows; ++r) {
    int32_t count = 0;
    for (int64_t c = 0; c < mask.cols; ++c) count += mask.row(r)[c] != 0;
    out.row_ptr[r + 1] = count;
  }
  for (int64_t r = 0; r < mask.rows; ++r) out.row_ptr[r + 1] += out.row_ptr[r];
#pragma omp parallel for num_threads(threads) schedule(static) if (mask.rows * mask.cols > 1 << 16)
  for (int64_t r = 0; r < mask.rows; ++r) {
    int32_t p = out.row_ptr[r];
    for (int64_t c = 0; c < mask.cols; ++c)
      if (mask.row(r)[c] != 0) out.col_idx[p++] = static_cast<int32_t>(c);
  }
  const int64_t nnz = out.row_ptr[mask.rows];
  fill_zero(out.col_idx + nnz, out.capacity - nnz);
  return kOk;
}

// A counting sort by column; rows are visited in order, so entries of a column come out by row. out is [cols, rows].
Status csr_transpose(CsrPatternOut out, CsrPattern<int32_t> pattern, void* workspace, Threads) {
  const int64_t nnz = pattern.row_ptr[pattern.rows];
  int32_t* next = static_cast<int32_t*>(workspace);  // [cols] where the column's next entry goes
  fill_zero(out.row_ptr, out.rows + 1);
  for (int64_t p = 0; p < nnz; ++p) ++out.row_ptr[pattern.col_idx[p] + 1];
  for (int64_t c = 0; c < out.rows; ++c) {
    next[c] = out.row_ptr[c];
    out.row_ptr[c + 1] += out.row_ptr[c];
  }
  for (int64_t r = 0; r < pattern.rows; ++r) {
    for (int64_t p = pattern.row_ptr[r]; p < pattern.row_ptr[r + 1]; ++p) {
      const int32_t q = next[pattern.col_idx[p]]++;
      out.col_idx[q] = static_cast<int32_t>(r);
      out.slot[q] = static_cast<int32_t>(p);
    }
  }
  fill_zero(out.col_idx + nnz, out.capacity - nnz);
  fill_zero(out.slot + nnz, out.capacity - nnz);
  return kOk;
}

int64_t csr_transpose_workspace(CsrPattern<int32_t> pattern, Threads) {
  return pattern.cols * static_cast<int64_t>(sizeof(int32_t));
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_pack)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_unpack)

}  // namespace spx::cpu::SPX_ISA::csr
