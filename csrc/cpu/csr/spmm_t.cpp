// CSR product, transposed:  dx[n, c] = sum_p w[row_p, c] * dy[n, row_p], by the matrix and not by its transposed view
//
//   dy [tokens, rows] and dx [tokens, cols] token-major; w [rows, cols] CSR
//   work: a block of tokens is packed feature-major; the rows of w pass, and each entry adds its row's features, which stay
//   in registers, to its column's sums. The values are read in order, where csr_spmm of the transposed view would gather
//   them: that takes as long as the products of some 30 tokens. For more, storing the sums at each entry takes longer
//   a thread owns whole (token block, column range) pieces and each dx is summed by one thread in row order, in Acc<T>: the
//   same bits for any thread count
// ops/csr/kernels.py has checked shapes, dtypes and ranges.
#include "common/views.h"
#include "cpu/csr/entries.h"
#include "cpu/simd/isa.h"
#include "cpu/simd/tokens.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::csr {
namespace {

constexpr int kMaxVecs = kVecBytes == 64 ? 2 : 4;  // registers of tokens in a block: 32 of float
constexpr int64_t kSumBytes = 128 << 10;           // of a piece's sums, which are in L2
constexpr int64_t kRowEntries = 64;                // in a piece, at least: finding them costs as much as some entries

// Workspace, per thread: the packed block of dy, and a piece's sums.
struct Pieces {
  int64_t block_bytes, cols, ranges, dy_block, thread, total;
};
template <class Index>
Pieces pieces(const CsrPattern<Index>& pattern, int64_t tokens, int64_t acc_bytes, int threads) {
  const int64_t rows = pattern.rows, cols = pattern.cols, row_entries = pattern.capacity / max(1, rows);
  Pieces p;
  p.block_bytes = vecs_for(tokens, acc_bytes, kMaxVecs) * kVecBytes;
  const int64_t blocks = max(1, ceil_div(tokens * acc_bytes, p.block_bytes));
  const int64_t for_cache = min(ceil_div(cols * p.block_bytes, kSumBytes), max(1, row_entries / kRowEntries));
  p.cols = max(1, ceil_div(cols, max(for_cache, ceil_div(threads, blocks))));
  p.ranges = ceil_div(cols, p.cols);
  p.dy_block = align64(rows * p.block_bytes);
  p.thread = p.dy_block + align64(p.cols * p.block_bytes);
  p.total = p.thread * threads;
  return p;
}

// sums[c - c0] = the sum over rows of w[r, c] * block[r], c0 <= c < c1.
template <int kVecs, class A, class T, class Index>
void scatter(A* sums, const CsrView<T, Index>& w, const A* block, int64_t c0, int64_t c1) {
  constexpr int kStride = kVecs * kLanes<A>;
  const Index* cols = w.pattern.col_idx;
  const bool whole = c0 == 0 && c1 == w.pattern.cols;
  fill_zero(sums, (c1 - c0) * kStride);
  for (int64_t r = 0; r < w.pattern.rows; ++r) {
    int64_t p = w.pattern.row_ptr[r], end = w.pattern.row_ptr[r + 1];
    if (!whole) {
      p = entry_at(cols, p, end, c0);
      end = entry_at(cols, p, end, c1);
    }
    Vec<A> x[kVecs];
#pragma GCC unroll 4
    for (int t = 0; t < kVecs; ++t) x[t] = load<A>(block + r * kStride + t * kLanes<A>);
#pragma GCC unroll 2
    for (; p < end; ++p) {
      Vec<A>* sum = reinterpret_cast<Vec<A>*>(sums + (static_cast<int64_t>(cols[p]) - c0) * kStride);
      const A value = to_acc(w.values[p]);
#pragma GCC unroll 4
      for (int t = 0; t < kVecs; ++t) sum[t] += value * x[t];
    }
  }
}

template <int kVecs, class T, class Index>
void scatter_pieces(DenseView<T> dx, const CsrView<T, Index>& w, DenseView<const T> dy, char* memory, const Pieces& p,
                    int threads) {
  using A = Acc<T>;
  constexpr int kTokens = kVecs * kLanes<A>;
  const int64_t blocks = ceil_div(dy.rows, kTokens);
  in_parallel(threads, [&](int64_t id, int64_t team) {
    A* block = reinterpret_cast<A*>(memory + id * p.thread);
    A* sums = reinterpret_cast<A*>(memory + id * p.thread + p.dy_block);
    int64_t packed = -1;
    for (int64_t piece = blocks * p.ranges * id / team; piece < blocks * p.ranges * (id + 1) / team; ++piece) {
      const int64_t b = piece / p.ranges, first = b * kTokens, count = min(kTokens, dy.rows - first);
      const int64_t c0 = piece % p.ranges * p.cols, c1 = min(dx.cols, c0 + p.cols);
      if (b != packed) pack_tokens<kTokens>(block, dy.row(first), dy.cols, count, 0, dy.cols);
      packed = b;
      scatter<kVecs>(sums, w, block, c0, c1);
      unpack_tokens<kTokens>(dx.row(first), dx.cols, count, sums, c0, c1);
    }
  });
}

}  // namespace

template <class T, class Index>
Status csr_spmm_t(DenseView<T> dx, CsrView<T, Index> w, DenseView<const T> dy, void* workspace, Threads threads) {
  if (dx.rows == 0 || dx.cols == 0) return kOk;
  const CsrPattern<Index>& pattern = w.pattern;
  threads = useful_threads(threads, (pattern.row_ptr[pattern.rows] + pattern.rows + pattern.cols) * dy.rows);
  const Pieces p = pieces(pattern, dy.rows, sizeof(Acc<T>), threads);
  char* memory = static_cast<char*>(workspace);
  switch (p.block_bytes / kVecBytes) {
    case 1: scatter_pieces<1>(dx, w, dy, memory, p, threads); break;
    case 2: scatter_pieces<2>(dx, w, dy, memory, p, threads); break;
    default: scatter_pieces<kMaxVecs>(dx, w, dy, memory, p, threads);
  }
  return kOk;
}

template <class T, class Index>
int64_t csr_spmm_t_workspace(CsrView<T, Index> w, DenseView<const T> dy, Threads threads) {
  int64_t most = 0;
  for (int used = 1; used <= threads; ++used) most = max(most, pieces(w.pattern, dy.rows, sizeof(Acc<T>), used).total);
  return most;
}

SPX_FOR_EACH_PRODUCT_AND_INDEX(SPX_INSTANTIATE, csr_spmm_t)
SPX_FOR_EACH_PRODUCT_AND_INDEX(SPX_INSTANTIATE, csr_spmm_t_workspace)

}  // namespace spx::cpu::SPX_ISA::csr
