// CSR product, dense tokens:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p]
//
//   x [tokens, cols] and y [tokens, rows] token-major; w [rows, cols] CSR, or a transposed view (then this is the input gradient)
//   work: a block of tokens is packed feature-major, then each row adds its non-zeros' feature rows into registers
//   a thread owns whole (token block, row range) pieces and each y is summed by one thread in column order, in Acc<T>: the same
//   bits for any thread count
// ops/csr.py has checked shapes, dtypes and ranges.
#include <omp.h>

#include "common/views.h"
#include "cpu/isa.h"
#include "cpu/tokens.h"

namespace spx::cpu::SPX_ISA {
namespace {

// 32 float tokens: two AVX-512 registers a row. Measured on 1024 x 1024 at 80 to 98 %, 16 pays more for indices and 64 spills
// the packed block (cols * 256 B) out of the first levels of the TLB and cache; see bench/README.md.
constexpr int kBlockBytes = 128;
template <class A>
constexpr int kTokens = kBlockBytes / static_cast<int>(sizeof(A));

// Layers that need no more than this take it from the stack: for them an allocation in Python would be the largest cost.
constexpr int64_t kStackBytes = 8 << 10;

// Workspace: the values in entry order (unless they are already), then per thread the packed x and y blocks.
struct Layout {
  int64_t values, x_block, y_block, thread, total;
};
Layout layout(int64_t rows, int64_t cols, int64_t capacity, int64_t acc_bytes, int threads) {
  Layout l;
  l.values = align64(capacity * acc_bytes);
  l.x_block = align64(cols * kBlockBytes);
  l.y_block = align64(rows * kBlockBytes);
  l.thread = l.x_block + l.y_block;
  l.total = l.values + l.thread * threads;
  return l;
}

template <class A, class T, class Index>
void values_in_order(A* out, const CsrView<T, Index>& w, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) out[p] = to_acc(w.values[w.pattern.value_at(p)]);
}

// y_block[r - r0] = bias[r] + sum over the row's non-zeros of value * x_block[col], kVecs registers of tokens at a time.
template <int kVecs, class A, class T, class Index>
void multiply_rows(A* y_block, const CsrPattern<Index>& pattern, const A* values, const A* x_block, const T* bias, int64_t r0,
                   int64_t r1) {
  constexpr int kStride = kVecs * kLanes<A>;
  for (int64_t r = r0; r < r1; ++r) {
    Vec<A> sum[kVecs];
    const A start = bias ? to_acc(bias[r]) : A(0);
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum[t] = Vec<A>{} + start;
    const int64_t end = pattern.row_ptr[r + 1];
#pragma GCC unroll 4
    for (int64_t p = pattern.row_ptr[r]; p < end; ++p) {
      const Vec<A>* x = reinterpret_cast<const Vec<A>*>(x_block + static_cast<int64_t>(pattern.col_idx[p]) * kStride);
      const A value = values[p];
#pragma GCC unroll 8
      for (int t = 0; t < kVecs; ++t) sum[t] += value * x[t];
    }
    Vec<A>* y = reinterpret_cast<Vec<A>*>(y_block + (r - r0) * kStride);
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) y[t] = sum[t];
  }
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, void* workspace, int threads) {
  using A = Acc<T>;
  const CsrPattern<Index>& pattern = w.pattern;
  const int64_t nnz = pattern.row_ptr[pattern.rows], tokens = x.rows;
  constexpr int kBlock = kTokens<A>, kVecs = kBlock / kLanes<A>;
  if (tokens == 0 || pattern.rows == 0) return kOk;

  threads = useful_threads(threads, nnz * tokens + (pattern.rows + pattern.cols) * tokens);
  const Layout l = layout(pattern.rows, pattern.cols, pattern.capacity, sizeof(A), threads);
  alignas(64) char stack[kStackBytes];
  char* memory = workspace ? static_cast<char*>(workspace) : stack;
  const bool in_order = sizeof(T) == sizeof(A) && pattern.slot == nullptr;
  A* ordered = reinterpret_cast<A*>(memory);
  const A* values = in_order ? reinterpret_cast<const A*>(w.values) : ordered;

  // Threads form a grid: token groups first, and rows are cut too where there are fewer token blocks than threads.
  const int64_t blocks = ceil_div(tokens, kBlock);
  const int64_t token_groups = min(threads, blocks), row_groups = threads / token_groups;

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();
    if (!in_order) {
      values_in_order(ordered, w, nnz * id / team, nnz * (id + 1) / team);
#pragma omp barrier
    }
    A* x_block = reinterpret_cast<A*>(memory + l.values + id * l.thread);
    A* y_block = reinterpret_cast<A*>(memory + l.values + id * l.thread + l.x_block);
    for (int64_t piece = id; piece < token_groups * row_groups; piece += team) {
      const int64_t group = piece % token_groups, part = piece / token_groups;
      const int64_t r0 = row_cut(pattern, part, row_groups), r1 = row_cut(pattern, part + 1, row_groups);
      for (int64_t b = blocks * group / token_groups; b < blocks * (group + 1) / token_groups; ++b) {
        const int64_t first = b * kBlock, count = min(kBlock, tokens - first);
        pack_tokens<kBlock>(x_block, x.row(first), x.cols, count, 0, x.cols);
        multiply_rows<kVecs>(y_block, pattern, values, x_block, bias, r0, r1);
        unpack_tokens<kBlock>(y.row(first), y.cols, count, y_block, r0, r1);
      }
    }
  }
  return kOk;
}

int64_t csr_spmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t, int64_t acc_bytes, int threads) {
  const int64_t total = layout(rows, cols, capacity, acc_bytes, threads).total;
  return total <= kStackBytes ? 0 : total;
}

#define SPX_INSTANTIATE(T, Index) \
  template Status csr_spmm(DenseView<T>, CsrView<T, Index>, DenseView<const T>, const T*, void*, int);
SPX_INSTANTIATE(float, int32_t)
SPX_INSTANTIATE(float, uint16_t)
SPX_INSTANTIATE(double, int32_t)
SPX_INSTANTIATE(double, uint16_t)
SPX_INSTANTIATE(bf16, int32_t)
SPX_INSTANTIATE(bf16, uint16_t)

}  // namespace spx::cpu::SPX_ISA
