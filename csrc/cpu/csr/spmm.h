// The product of csr_spmm, for activations of any form:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p]; relu, if `relu`
//
//   w [rows, cols] CSR, or its transposed view for the input gradient
//   work: a block of tokens is packed feature-major; a panel of rows goes through the column tiles; a row adds its entries'
//   feature rows, kVecs registers of tokens at a time, to its sums
//   a thread owns whole (token block, row range) pieces and each y is summed by one thread in column order, in Acc<T>: the same
//   bits for any thread count
#pragma once
#include "common/views.h"
#include "cpu/simd/tiles.h"
#include "cpu/simd/tokens.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::csr {

// Registers of tokens that a row sums at once, where these lie token by token: each weight is read once for all of them. A
// multiply-add takes 4 cycles and two can begin in each, so 8 independent sums keep the CPU busy; with 512-bit registers one
// begins, and 4 do. Below one entry in 32, tiles are wider than L1, and smaller blocks, which need less of L2, are faster.
constexpr int kMaxVecs = kVecBytes == 64 ? 4 : 8;
inline int64_t most_vecs(int64_t rows, int64_t cols, int64_t capacity) { return capacity * 32 > rows * cols ? kMaxVecs : 4; }

constexpr int64_t kPanelBytes = 256 << 10;  // of a panel's sums, which stay in L2 while tiles pass

constexpr int kRowsAhead = 6;  // rows between prefetching a segment and using it

// Workspace: the values in entry order (unless they are already), the cuts, then per thread the packed x block and a panel's
// sums.
struct SpmmLayout {
  int64_t cuts, threads, x_block, thread, panel_rows, total;
};
inline SpmmLayout spmm_layout(int64_t rows, int64_t cols, int64_t capacity, int64_t vecs, int64_t acc_bytes, int threads) {
  const int64_t block_bytes = vecs * kVecBytes;
  SpmmLayout l;
  const int64_t sum_bytes = 2 * block_bytes;  // of a row, where elements are pairs; half of it otherwise
  l.panel_rows = min(rows, kPanelBytes / sum_bytes);
  l.cuts = align64(capacity * acc_bytes);
  l.threads = l.cuts + align64((rows * max_tile_count(cols, block_bytes) + 1) * static_cast<int64_t>(sizeof(int32_t)));
  l.x_block = align64(cols * block_bytes);
  l.thread = l.x_block + align64(l.panel_rows * sum_bytes);
  l.total = l.threads + l.thread * threads;
  return l;
}

// The type of a weight that multiplies elements of a block: T itself for pairs, otherwise Acc<T>.
template <class E, class T>
using Weight = std::conditional_t<std::is_same_v<E, Pair>, T, Acc<T>>;

// Copies the values of entries [p, end) in entry order, up to the first entry whose column is not left of `bound`; returns it.
template <class W, class T, class Index>
int64_t values_left_of(int64_t bound, W* out, const CsrView<T, Index>& w, int64_t p, int64_t end) {
  for (; p < end && w.pattern.col_idx[p] < bound; ++p) {
    const T value = w.values[w.pattern.value_at(p)];
    if constexpr (std::is_same_v<W, T>)
      out[p] = value;
    else
      out[p] = to_acc(value);
  }
  return p;
}

// Copies the values of rows [r0, r1). A row of a transposed view has its values scattered over a page or more for each column.
// Where these are more pages than the TLB holds, many rows take the values of a few columns, then of the next ones: only the
// first row misses their pages and cache lines.
template <class W, class T, class Index>
void values_in_order(W* out, const CsrView<T, Index>& w, int64_t r0, int64_t r1) {
  constexpr int64_t kRows = 128, kCols = 256, kTlbBytes = 2048 * 4096;  // covered by a second-level TLB
  const int64_t bytes = w.pattern.row_ptr[w.pattern.rows] * static_cast<int64_t>(sizeof(T));
  const int64_t cols = max(1, w.pattern.cols), step = bytes > kTlbBytes ? kCols : cols;
  int64_t next[kRows];
  for (int64_t first = r0; first < r1; first += kRows) {
    const int64_t last = min(r1, first + kRows);
    for (int64_t r = first; r < last; ++r) next[r - first] = w.pattern.row_ptr[r];
    for (int64_t bound = step; bound < cols + step; bound += step)
      for (int64_t r = first; r < last; ++r)
        next[r - first] = values_left_of(bound, out, w, next[r - first], w.pattern.row_ptr[r + 1]);
  }
}

// sum[..] += value * x_block[col] over the entries [p, end) of a row.
template <int kVecs, class A, class Index>
inline void add_entries(Vec<A>* sum, const A* values, const Index* col_idx, const A* x_block, int64_t p, int64_t end) {
#pragma GCC unroll 4
  for (; p < end; ++p) {
    const Vec<A>* x = reinterpret_cast<const Vec<A>*>(x_block + static_cast<int64_t>(col_idx[p]) * (kVecs * kLanes<A>));
    const A value = values[p];
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum[t] += value * x[t];
  }
}

#if defined(SPX_ISA_v4_bf16)
// The same, two entries at a time: their feature rows are interleaved, so that a 32-bit lane holds one token's values in both
// columns. A single last entry is paired with zeros, never with another column's Inf.
inline void add_pair(Vec<float>* sum, Vec<Pair> weights, Vec<Pair> first, Vec<Pair> second) {
  sum[0] = multiply_add<Pair>(sum[0], interleave<false>(first, second), weights);
  sum[1] = multiply_add<Pair>(sum[1], interleave<true>(first, second), weights);
}
template <int kVecs, class Index>
inline void add_entries(Vec<float>* sum, const bf16* values, const Index* col_idx, const Pair* x_block, int64_t p,
                        int64_t end) {
  constexpr int kStride = kVecs * kLanes<Pair>;
#pragma GCC unroll 2
  for (; p + 2 <= end; p += 2) {
    uint32_t both;
    memcpy(&both, values + p, sizeof both);
    const Vec<Pair>* first = reinterpret_cast<const Vec<Pair>*>(x_block + static_cast<int64_t>(col_idx[p]) * kStride);
    const Vec<Pair>* second = reinterpret_cast<const Vec<Pair>*>(x_block + static_cast<int64_t>(col_idx[p + 1]) * kStride);
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) add_pair(sum + 2 * t, Vec<Pair>{} + both, first[t], second[t]);
  }
  if (p < end) {
    const Vec<Pair>* first = reinterpret_cast<const Vec<Pair>*>(x_block + static_cast<int64_t>(col_idx[p]) * kStride);
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) add_pair(sum + 2 * t, Vec<Pair>{} + values[p].bits, first[t], Vec<Pair>{});
  }
}
#endif

// sums[r - r0] = (kFirst: bias[r], otherwise itself) + the sum of value * x_block[col] over the entries of row r in tile k,
// then relu, if `relu`.
template <int kVecs, bool kFirst, class E, class W, class T, class Index>
void multiply_tile(Acc<E>* sums, const Index* col_idx, Cuts cuts, int64_t k, const W* values, const E* x_block, const T* bias,
                   bool relu, int64_t r0, int64_t r1) {
  using A = Acc<E>;
  constexpr int kSums = kVecs * kTokensPer<E>;
  for (int64_t r = r0; r < r1; ++r) {
    // Segments of one tile lie a row apart, which no hardware prefetcher follows.
    const int64_t ahead = cuts.at[min(r + kRowsAhead, r1 - 1) * cuts.tiles + k];
    __builtin_prefetch(values + ahead);
    __builtin_prefetch(values + ahead + 64 / sizeof(W));
    __builtin_prefetch(col_idx + ahead);
    Vec<A>* out = reinterpret_cast<Vec<A>*>(sums + (r - r0) * (kSums * kLanes<A>));
    Vec<A> sum[kSums];
#pragma GCC unroll 8
    for (int t = 0; t < kSums; ++t) sum[t] = kFirst ? Vec<A>{} + (bias ? to_acc(bias[r]) : A(0)) : out[t];
    add_entries<kVecs>(sum, values, col_idx, x_block, cuts.at[r * cuts.tiles + k], cuts.at[r * cuts.tiles + k + 1]);
#pragma GCC unroll 8
    for (int t = 0; t < kSums; ++t) out[t] = relu && sum[t] < 0 ? Vec<A>{} : sum[t];
  }
}

// X and Y: activations, token by token or plane by plane (simd/tokens.h, simd/pixels.h).
template <int kVecs, class Y, class X, class T, class Index>
void spmm_blocks(Y y, const CsrView<T, Index>& w, X x, const T* bias, bool relu, char* memory, const SpmmLayout& l,
                 int threads) {
  using A = Acc<T>;
  using E = Element<T>;
  using W = Weight<E, T>;
  constexpr int kElements = kVecs * kLanes<E>, kBlock = kElements * kTokensPer<E>;
  const CsrPattern<Index>& pattern = w.pattern;
  const int64_t nnz = pattern.row_ptr[pattern.rows], tokens = token_count(x), blocks = ceil_div(tokens, kBlock);
  const bool in_order = sizeof(T) == sizeof(W) && pattern.slot == nullptr;
  W* ordered = reinterpret_cast<W*>(memory);
  const W* values = in_order ? reinterpret_cast<const W*>(w.values) : ordered;
  // Finding the cuts costs about a quarter of a block's products.
  const int64_t tiles = blocks < 2 ? 1 : tile_count(pattern.rows, pattern.cols, nnz, kVecs * kVecBytes);
  int32_t* own_cuts = reinterpret_cast<int32_t*>(memory + l.cuts);
  const Cuts cuts{tiles == 1 ? pattern.row_ptr : own_cuts, tiles};

  // Threads form a grid: token groups first, and rows are cut too where there are fewer token blocks than threads.
  const int64_t token_groups = min(threads, blocks), row_groups = threads / token_groups;

  in_parallel(threads, [&](int64_t id, int64_t team) {
    const int64_t own = row_cut(pattern, id, team), next = row_cut(pattern, id + 1, team);
    if (!in_order) values_in_order(ordered, w, own, next);
    if (tiles > 1) cut_rows(own_cuts, tiles, pattern, own, next);
#pragma omp barrier
    E* x_block = reinterpret_cast<E*>(memory + l.threads + id * l.thread);
    A* sums = reinterpret_cast<A*>(memory + l.threads + id * l.thread + l.x_block);
    for (int64_t piece = id; piece < token_groups * row_groups; piece += team) {
      const int64_t group = piece % token_groups, part = piece / token_groups;
      const int64_t begin = row_cut(pattern, part, row_groups), end = row_cut(pattern, part + 1, row_groups);
      for (int64_t b = blocks * group / token_groups; b < blocks * (group + 1) / token_groups; ++b) {
        const int64_t first = b * kBlock, count = min(kBlock, tokens - first);
        pack_block<kElements>(x_block, x, first, count, 0, pattern.cols);
        for (int64_t r0 = begin; r0 < end; r0 += l.panel_rows) {
          const int64_t r1 = min(end, r0 + l.panel_rows);
          multiply_tile<kVecs, true>(sums, pattern.col_idx, cuts, 0, values, x_block, bias, relu && tiles == 1, r0, r1);
          for (int64_t k = 1; k < tiles; ++k)
            multiply_tile<kVecs, false>(sums, pattern.col_idx, cuts, k, values, x_block, bias, relu && k == tiles - 1, r0, r1);
          unpack_block<kBlock>(y, first, count, sums, r0, r1);
        }
      }
    }
  });
}

}  // namespace spx::cpu::SPX_ISA::csr
