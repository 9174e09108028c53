// Where in a row the entries of a range of columns begin.
#pragma once
#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA::csr {

// The first of a row's entries [begin, end) that is not left of column `bound`. Not std::lower_bound: see cpu/simd/vec.h.
template <class Index>
inline int64_t entry_at(const Index* col_idx, int64_t begin, int64_t end, int64_t bound) {
  if (begin == end || col_idx[begin] >= bound) return begin;
  if (col_idx[end - 1] < bound) return end;
  while (begin < end) {
    const int64_t middle = (begin + end) / 2;
    if (col_idx[middle] < bound)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

}  // namespace spx::cpu::SPX_ISA::csr
