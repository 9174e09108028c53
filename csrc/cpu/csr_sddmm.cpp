// Dense x dense, sampled at a CSR pattern:  dw[p] = sum_n dy[n, row_p] * x[n, col_p]
//
//   dy [tokens, rows] and x [tokens, cols] token-major; dw [capacity], 0 behind nnz
//   work: per token block x is packed by all threads together and dy by the owner of its rows; a row's dy stays in registers
//   while its non-zeros' feature rows stream past, and kLanes sums are reduced at once
//   a row belongs to one thread and token blocks are added in order, in Acc<T>: the same bits for any thread count
// ops/csr.py has checked shapes, dtypes and ranges.
#include <omp.h>

#include "common/views.h"
#include "cpu/isa.h"
#include "cpu/tokens.h"

namespace spx::cpu::SPX_ISA {
namespace {

// The packed x block [cols, block] should stay in a 1 MB L2, and a longer block shares the final reduction among more products.
constexpr int64_t kBlockBudget = 512 << 10;
constexpr int kLongBlockBytes = 256, kShortBlockBytes = 128;
int64_t block_bytes(int64_t cols) { return cols * kLongBlockBytes <= kBlockBudget ? kLongBlockBytes : kShortBlockBytes; }

// Workspace: two x blocks (one is packed while the other is still being read), the dy block, and sums where T is not Acc<T>.
struct Layout {
  int64_t x_block, dy_block, sums, total;
};
Layout layout(int64_t rows, int64_t cols, int64_t capacity, int64_t acc_bytes) {
  Layout l;
  l.x_block = align64(cols * block_bytes(cols));
  l.dy_block = align64(rows * block_bytes(cols));
  l.sums = align64(capacity * acc_bytes);
  l.total = 2 * l.x_block + l.dy_block + l.sums;
  return l;
}

// kCount products of one row's dy with the feature rows col_idx[0 .. kCount), each left as a register of partial sums.
template <int kVecs, int kCount, class A, class Index>
inline void products(Vec<A>* sum, const Vec<A>* dy, const A* x_block, const Index* col_idx) {
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    const Vec<A>* x = reinterpret_cast<const Vec<A>*>(x_block + static_cast<int64_t>(col_idx[i]) * (kVecs * kLanes<A>));
    sum[i] = dy[0] * x[0];
#pragma GCC unroll 8
    for (int t = 1; t < kVecs; ++t) sum[i] += dy[t] * x[t];
  }
}

// Adds (kFirst: writes) this token block's share of dw for rows [r0, r1).
template <int kVecs, bool kFirst, class A, class Index>
void sample_rows(A* dw, const CsrPattern<Index>& pattern, const A* dy_block, const A* x_block, int64_t r0, int64_t r1) {
  constexpr int n = kLanes<A>;
  for (int64_t r = r0; r < r1; ++r) {
    Vec<A> dy[kVecs], sum[n];
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) dy[t] = load<A>(dy_block + r * (kVecs * n) + t * n);
    int64_t p = pattern.row_ptr[r];
    const int64_t end = pattern.row_ptr[r + 1];
    for (; p + n <= end; p += n) {
      products<kVecs, n>(sum, dy, x_block, pattern.col_idx + p);
      const Vec<A> total = sum_each<A>(sum);
      store<A>(dw + p, kFirst ? total : total + load<A>(dw + p));
    }
    const int rest = static_cast<int>(end - p);
    if (rest == 0) continue;
    for (int i = 0; i < n; ++i) {
      if (i < rest)
        products<kVecs, 1>(sum + i, dy, x_block, pattern.col_idx + p + i);
      else
        sum[i] = Vec<A>{};
    }
    const Vec<A> total = sum_each<A>(sum);
    for (int i = 0; i < rest; ++i) dw[p + i] = kFirst ? total[i] : total[i] + dw[p + i];
  }
}

template <int kBlockBytes, class T, class Index>
void sddmm_blocks(T* dw, const CsrPattern<Index>& pattern, DenseView<const T> dy, DenseView<const T> x, char* memory,
                  const Layout& l, int threads) {
  using A = Acc<T>;
  constexpr int kBlock = kBlockBytes / static_cast<int>(sizeof(A)), kVecs = kBlock / kLanes<A>;
  const int64_t tokens = x.rows, blocks = ceil_div(tokens, kBlock), nnz = pattern.row_ptr[pattern.rows];
  A* sums = sizeof(T) == sizeof(A) ? reinterpret_cast<A*>(dw) : reinterpret_cast<A*>(memory + 2 * l.x_block + l.dy_block);
  A* dy_block = reinterpret_cast<A*>(memory + 2 * l.x_block);

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();
    const int64_t r0 = row_cut(pattern, id, team), r1 = row_cut(pattern, id + 1, team);
    const int64_t c0 = x.cols * id / team, c1 = x.cols * (id + 1) / team;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * kBlock, count = min(kBlock, tokens - first);
      A* x_block = reinterpret_cast<A*>(memory + (b & 1) * l.x_block);
      pack_tokens<kBlock>(x_block + c0 * kBlock, x.row(first), x.cols, count, c0, c1);
      pack_tokens<kBlock>(dy_block + r0 * kBlock, dy.row(first), dy.cols, count, r0, r1);
#pragma omp barrier
      if (b == 0)
        sample_rows<kVecs, true>(sums, pattern, dy_block, x_block, r0, r1);
      else
        sample_rows<kVecs, false>(sums, pattern, dy_block, x_block, r0, r1);
    }
    if (sizeof(T) != sizeof(A))
      for (int64_t p = pattern.row_ptr[r0]; p < pattern.row_ptr[r1]; ++p) from_acc(dw + p, static_cast<A>(sums[p]));
  }
  memset(dw + nnz, 0, static_cast<size_t>(pattern.capacity - nnz) * sizeof(T));
}

}  // namespace

template <class T, class Index>
Status csr_sddmm(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace, int threads) {
  const int64_t nnz = pattern.row_ptr[pattern.rows], tokens = x.rows;
  if (tokens == 0) {
    memset(dw, 0, static_cast<size_t>(pattern.capacity) * sizeof(T));
    return kOk;
  }
  threads = useful_threads(threads, nnz * tokens + (pattern.rows + pattern.cols) * tokens);
  const Layout l = layout(pattern.rows, pattern.cols, pattern.capacity, sizeof(Acc<T>));
  char* memory = static_cast<char*>(workspace);
  if (block_bytes(pattern.cols) == kLongBlockBytes)
    sddmm_blocks<kLongBlockBytes>(dw, pattern, dy, x, memory, l, threads);
  else
    sddmm_blocks<kShortBlockBytes>(dw, pattern, dy, x, memory, l, threads);
  return kOk;
}

int64_t csr_sddmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t, int64_t acc_bytes, int) {
  return layout(rows, cols, capacity, acc_bytes).total;
}

#define SPX_INSTANTIATE(T, Index) \
  template Status csr_sddmm(T*, CsrPattern<Index>, DenseView<const T>, DenseView<const T>, void*, int);
SPX_INSTANTIATE(float, int32_t)
SPX_INSTANTIATE(float, uint16_t)
SPX_INSTANTIATE(double, int32_t)
SPX_INSTANTIATE(double, uint16_t)
SPX_INSTANTIATE(bf16, int32_t)
SPX_INSTANTIATE(bf16, uint16_t)

}  // namespace spx::cpu::SPX_ISA
