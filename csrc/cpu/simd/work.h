// How work is shared among threads.
#pragma once
#include <omp.h>

#include "common/views.h"
#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA {

// Rows [begin, end) of part `part` of `parts`: cut so that every part has about the same number of non-zeros.
inline int64_t row_cut(const int32_t* row_ptr, int64_t rows, int64_t part, int64_t parts) {
  if (part >= parts) return rows;
  const int64_t target = row_ptr[rows] * part / parts + rows * part / parts;
  int64_t lo = 0, hi = rows;  // first row r with row_ptr[r] + r >= target: empty rows cost something too
  while (lo < hi) {
    const int64_t mid = (lo + hi) / 2;
    if (row_ptr[mid] + mid < target)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}
template <class Index>
inline int64_t row_cut(const CsrPattern<Index>& pattern, int64_t part, int64_t parts) {
  return row_cut(pattern.row_ptr, pattern.rows, part, parts);
}

// Threads worth waking for `work` multiply-adds: a parallel region costs a few microseconds, about this many of them.
inline int useful_threads(int threads, int64_t work) {
  constexpr int64_t kWorkPerThread = 1 << 17;
  return static_cast<int>(max(1, min(threads, work / kWorkPerThread)));
}

// Runs work(id, team size) on every thread of a team. For one thread that is a plain call: a parallel region costs more than a
// tiny layer.
template <class Work>
inline void in_parallel(int threads, Work work) {
  if (threads == 1) return work(0, 1);
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num(), omp_get_num_threads());
}

}  // namespace spx::cpu::SPX_ISA
