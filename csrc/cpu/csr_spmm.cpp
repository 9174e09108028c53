// CSR product, dense tokens:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p]
//
//   x [tokens, cols] and y [tokens, rows] token-major; w [rows, cols] CSR, or a transposed view (then this is the input gradient)
//   work: a block of tokens is packed feature-major; a panel of rows goes through the column tiles; a row adds its entries'
//   feature rows, kVecs registers of tokens at a time, to its sums
//   a thread owns whole (token block, row range) pieces and each y is summed by one thread in column order, in Acc<T>: the same
//   bits for any thread count
// ops/csr.py has checked shapes, dtypes and ranges.
#include "common/views.h"
#include "cpu/isa.h"
#include "cpu/tiles.h"
#include "cpu/tokens.h"
#include "cpu/work.h"

namespace spx::cpu::SPX_ISA {
namespace {

constexpr int kMaxVecs = 4;                 // registers of tokens a row sums at once: each weight is read once for so many
constexpr int64_t kPanelBytes = 128 << 10;  // a panel's sums, which stay in L2 while the tiles pass

constexpr int kRowsAhead = 6;  // rows between prefetching a segment and using it

// Layers that need no more than this take it from the stack: for them an allocation in Python would be the largest cost.
constexpr int64_t kStackBytes = 8 << 10;

// Workspace: the values in entry order (unless they are already), the cuts, then per thread the packed x block and a panel's sums.
struct Layout {
  int64_t cuts, threads, x_block, thread, panel_rows, total;
};
Layout layout(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t acc_bytes, int threads) {
  const int64_t block_bytes = vecs_for(tokens, acc_bytes, kMaxVecs) * kVecBytes;
  Layout l;
  l.panel_rows = min(rows, kPanelBytes / block_bytes);
  l.cuts = align64(capacity * acc_bytes);
  l.threads = l.cuts + align64((rows * max_tile_count(cols, block_bytes) + 1) * static_cast<int64_t>(sizeof(int32_t)));
  l.x_block = align64(cols * block_bytes);
  l.thread = l.x_block + align64(l.panel_rows * block_bytes);
  l.total = l.threads + l.thread * threads;
  return l;
}

template <class A, class T, class Index>
void values_in_order(A* out, const CsrView<T, Index>& w, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) out[p] = to_acc(w.values[w.pattern.value_at(p)]);
}

// sums[r - r0] = (kFirst: bias[r], otherwise what it was) + value * x_block[col] over the entries of row r in tile k.
template <int kVecs, bool kFirst, class A, class T, class Index>
void multiply_tile(A* sums, const Index* col_idx, Cuts cuts, int64_t k, const A* values, const A* x_block, const T* bias,
                   int64_t r0, int64_t r1) {
  constexpr int kStride = kVecs * kLanes<A>;
  for (int64_t r = r0; r < r1; ++r) {
    // Segments of one tile lie a row apart, which no hardware prefetcher follows.
    const int64_t ahead = cuts.at[min(r + kRowsAhead, r1 - 1) * cuts.tiles + k];
    __builtin_prefetch(values + ahead);
    __builtin_prefetch(values + ahead + 64 / sizeof(A));
    __builtin_prefetch(col_idx + ahead);
    Vec<A>* out = reinterpret_cast<Vec<A>*>(sums + (r - r0) * kStride);
    Vec<A> sum[kVecs];
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum[t] = kFirst ? Vec<A>{} + (bias ? to_acc(bias[r]) : A(0)) : out[t];
    const int64_t end = cuts.at[r * cuts.tiles + k + 1];
#pragma GCC unroll 4
    for (int64_t p = cuts.at[r * cuts.tiles + k]; p < end; ++p) {
      const Vec<A>* x = reinterpret_cast<const Vec<A>*>(x_block + static_cast<int64_t>(col_idx[p]) * kStride);
      const A value = values[p];
#pragma GCC unroll 8
      for (int t = 0; t < kVecs; ++t) sum[t] += value * x[t];
    }
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) out[t] = sum[t];
  }
}

template <int kVecs, class T, class Index>
void spmm_blocks(DenseView<T> y, const CsrView<T, Index>& w, DenseView<const T> x, const T* bias, char* memory, const Layout& l,
                 int threads) {
  using A = Acc<T>;
  constexpr int kBlock = kVecs * kLanes<A>;
  const CsrPattern<Index>& pattern = w.pattern;
  const int64_t nnz = pattern.row_ptr[pattern.rows], tokens = x.rows, blocks = ceil_div(tokens, kBlock);
  const bool in_order = sizeof(T) == sizeof(A) && pattern.slot == nullptr;
  A* ordered = reinterpret_cast<A*>(memory);
  const A* values = in_order ? reinterpret_cast<const A*>(w.values) : ordered;
  // Finding the cuts costs about a quarter of a block's products.
  const int64_t tiles = blocks < 2 ? 1 : tile_count(pattern.rows, pattern.cols, nnz, kVecs * kVecBytes);
  int32_t* own_cuts = reinterpret_cast<int32_t*>(memory + l.cuts);
  const Cuts cuts{tiles == 1 ? pattern.row_ptr : own_cuts, tiles};

  // Threads form a grid: token groups first, and rows are cut too where there are fewer token blocks than threads.
  const int64_t token_groups = min(threads, blocks), row_groups = threads / token_groups;

  in_parallel(threads, [&](int64_t id, int64_t team) {
    if (!in_order) values_in_order(ordered, w, nnz * id / team, nnz * (id + 1) / team);
    if (tiles > 1) cut_rows(own_cuts, tiles, pattern, pattern.rows * id / team, pattern.rows * (id + 1) / team);
#pragma omp barrier
    A* x_block = reinterpret_cast<A*>(memory + l.threads + id * l.thread);
    A* sums = reinterpret_cast<A*>(memory + l.threads + id * l.thread + l.x_block);
    for (int64_t piece = id; piece < token_groups * row_groups; piece += team) {
      const int64_t group = piece % token_groups, part = piece / token_groups;
      const int64_t begin = row_cut(pattern, part, row_groups), end = row_cut(pattern, part + 1, row_groups);
      for (int64_t b = blocks * group / token_groups; b < blocks * (group + 1) / token_groups; ++b) {
        const int64_t first = b * kBlock, count = min(kBlock, tokens - first);
        pack_tokens<kBlock>(x_block, x.row(first), x.cols, count, 0, x.cols);
        for (int64_t r0 = begin; r0 < end; r0 += l.panel_rows) {
          const int64_t r1 = min(end, r0 + l.panel_rows);
          multiply_tile<kVecs, true>(sums, pattern.col_idx, cuts, 0, values, x_block, bias, r0, r1);
          for (int64_t k = 1; k < tiles; ++k)
            multiply_tile<kVecs, false>(sums, pattern.col_idx, cuts, k, values, x_block, bias, r0, r1);
          unpack_tokens<kBlock>(y.row(first), y.cols, count, sums, r0, r1);
        }
      }
    }
  });
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, void* workspace, int threads) {
  const CsrPattern<Index>& p = w.pattern;
  const int64_t tokens = x.rows;
  if (tokens == 0 || p.rows == 0) return kOk;
  threads = useful_threads(threads, (p.row_ptr[p.rows] + p.rows + p.cols) * tokens);
  const Layout l = layout(p.rows, p.cols, p.capacity, tokens, sizeof(Acc<T>), threads);
  alignas(64) char stack[kStackBytes];
  char* memory = workspace ? static_cast<char*>(workspace) : stack;
  switch (vecs_for(tokens, sizeof(Acc<T>), kMaxVecs)) {
    case 1: spmm_blocks<1>(y, w, x, bias, memory, l, threads); break;
    case 2: spmm_blocks<2>(y, w, x, bias, memory, l, threads); break;
    default: spmm_blocks<kMaxVecs>(y, w, x, bias, memory, l, threads);
  }
  return kOk;
}

int64_t csr_spmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t acc_bytes, int threads) {
  const int64_t total = layout(rows, cols, capacity, tokens, acc_bytes, threads).total;
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
