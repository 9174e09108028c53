// The three products of a matrix with a mask, dense ones: what the mask leaves out is 0 where tiles are packed, or stored.
//
//   masked_spmm     rows of the tiles are rows of w, lanes are tokens, depth is cols
//   masked_spmm_t   rows of the tiles are columns of w, lanes are tokens, depth is rows
//   masked_sddmm    rows of the tiles are rows of w, lanes are its columns, depth is tokens
#include <type_traits>

#include "cpu/masked/mask.h"
#include "cpu/masked/tiles.h"
#include "cpu/simd/isa.h"
#include "cpu/simd/tokens.h"

namespace spx::cpu::SPX_ISA::masked {
namespace {

// Tiles of a block. Of rows: results lie in a row each, and one TLB should cover these. Of columns: each row that is read is
// another page.
constexpr int64_t kRowTiles = 8, kColumnTiles = 16;
constexpr int64_t kPrefetchRows = 4;  // what is read of a row lies a row apart, which no hardware prefetcher follows

// n tiles of rows of w at the mask, from row i on, and columns [k, k + d): by row.
template <class A, class T>
void pack_rows(A* to, DenseView<const T> w, const uint8_t* bits, int64_t i, int64_t n, int64_t k, int64_t d) {
  for (int64_t r = 0; r < n * kTileRows; ++r, to += kRowStride<true, A>) {
    if (i + r >= w.rows) {
      fill_zero(to, d);
    } else if constexpr (sizeof(T) == sizeof(A)) {
      select_row(to, w.row(i + r) + k, bits, (i + r) * w.cols + k, d);
    } else {
      T row[kDepth<true>];
      select_row(row, w.row(i + r) + k, bits, (i + r) * w.cols + k, d);
      for (int64_t c = 0; c < d; ++c) to[c] = to_acc(row[c]);
    }
  }
}

// Columns of a matrix, kWidth to a group, n groups from column i on and `stride` apart, of rows [k, k + d): to[row][column].
// row(r, count) is what row r has from column i on.
template <int kWidth, class A, class T, class Row>
inline void pack_columns(A* to, int64_t stride, DenseView<const T> from, int64_t i, int64_t n, int64_t k, int64_t d, Row row) {
  const int64_t count = min(n * kWidth, from.cols - i), whole = count / kWidth;
  for (int64_t r = k; r < k + d; ++r, to += kWidth) {
    const T* ahead = from.row(min(r + kPrefetchRows, from.rows - 1)) + i;
    for (int64_t c = 0; c < count; c += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(ahead + c);
    const T* in = row(r, count);
    for (int64_t g = 0; g < whole; ++g) {
      if constexpr (sizeof(T) == sizeof(A)) {
        memcpy(to + g * stride, in + g * kWidth, kWidth * sizeof(A));
      } else {
        for (int c = 0; c < kWidth; ++c) to[g * stride + c] = to_acc(in[g * kWidth + c]);
      }
    }
    for (int64_t c = whole * kWidth; c < n * kWidth; ++c)
      to[c / kWidth * stride + c % kWidth] = c < count ? to_acc(in[c]) : A(0);
  }
}

// The same of tokens.
template <int kWidth, class A, class T>
void pack_features(A* to, int64_t stride, DenseView<const T> x, int64_t i, int64_t n, int64_t k, int64_t d) {
  pack_columns<kWidth>(to, stride, x, i, n, k, d, [&](int64_t token, int64_t) { return x.row(token) + i; });
}

// f(registers of a strip of so many tokens, which are lanes), a constant.
template <class A, class F>
auto with_strips(int64_t tokens, F f) {
  return tokens <= kLanes<A> ? f(std::integral_constant<int, 1>{}) : f(std::integral_constant<int, kStripVecs>{});
}

// n strips of tokens from token j on: by feature.
template <int kVecs, class A, class T>
void pack_lanes(A* to, DenseView<const T> x, int64_t j, int64_t n) {
  constexpr int64_t kLanesOf = kStripLanes<A, kVecs>;
  for (int64_t s = 0; s < n; ++s, j += kLanesOf, to += x.cols * kLanesOf)
    pack_tokens<kStripLanes<A, kVecs>>(to, x.row(j), x.cols, min(kLanesOf, x.rows - j), 0, x.cols);
}

// y[n, r] = (bias[r] or 0) + sum of row r - i and token n - j, then relu.
template <class T, int kVecs>
void store_transposed(DenseView<T> y, Sums<Acc<T>, kVecs>& sums, const T* bias, bool relu, int64_t i, int64_t j) {
  using A = Acc<T>;
  const int rows = static_cast<int>(min(kTileRows, y.cols - i));
  for (int r = 0; r < rows; ++r) {
    for (Vec<A>& sum : sums.of[r]) {
      if (bias) sum += to_acc(bias[i + r]);
      if (relu) sum = sum < 0 ? Vec<A>{} : sum;
    }
  }
  const int tokens = static_cast<int>(min(kStripLanes<A, kVecs>, y.rows - j));
  if (rows == kTileRows) {
    for (int n = 0; n < tokens; ++n) {
      T* out = y.row(j + n) + i;
#pragma GCC unroll 12
      for (int r = 0; r < kTileRows; ++r) from_acc(out + r, sums.row(r)[n]);
    }
  } else {
    for (int n = 0; n < tokens; ++n)
      for (int r = 0; r < rows; ++r) from_acc(y.row(j + n) + i + r, sums.row(r)[n]);
  }
}

}  // namespace

template <class T>
Status masked_spmm(DenseView<T> y, DenseView<const T> w, const uint8_t* bits, DenseView<const T> x, const T* bias, bool relu,
                   void* workspace, Threads threads) {
  using A = Acc<T>;
  threads = useful_threads(threads, w.rows * w.cols * x.rows);
  with_strips<A>(x.rows, [&](auto vecs) {
    multiply<A, true, vecs>(
        w.rows, x.rows, w.cols, kRowTiles, workspace, threads,
        [&](A* to, int64_t i, int64_t n, int64_t k, int64_t d) { pack_rows(to, w, bits, i, n, k, d); },
        [&](A* to, int64_t j, int64_t n) { pack_lanes<vecs>(to, x, j, n); },
        [&](auto& sums, int64_t i, int64_t j) { store_transposed(y, sums, bias, relu, i, j); });
  });
  return kOk;
}

template <class T>
Status masked_spmm_t(DenseView<T> dx, DenseView<const T> w, const uint8_t* bits, DenseView<const T> dy, void* workspace,
                     Threads threads) {
  using A = Acc<T>;
  threads = useful_threads(threads, w.rows * w.cols * dy.rows);
  with_strips<A>(dy.rows, [&](auto vecs) {
    multiply<A, false, vecs>(
        w.cols, dy.rows, w.rows, kColumnTiles, workspace, threads,
        [&](A* to, int64_t i, int64_t n, int64_t k, int64_t d) {
          T row[kColumnTiles * kTileRows];
          pack_columns<kTileRows>(to, kTileStride<false, A>, w, i, n, k, d, [&](int64_t r, int64_t count) {
            select_row(row, w.row(r) + i, bits, r * w.cols + i, count);
            return row;
          });
        },
        [&](A* to, int64_t j, int64_t n) { pack_lanes<vecs>(to, dy, j, n); },
        [&](auto& sums, int64_t i, int64_t j) { store_transposed<T>(dx, sums, nullptr, false, i, j); });
  });
  return kOk;
}

template <class T>
Status masked_sddmm(DenseView<T> dw, const uint8_t* bits, DenseView<const T> dy, DenseView<const T> x, void* workspace,
                    Threads threads) {
  using A = Acc<T>;
  threads = useful_threads(threads, dw.rows * dw.cols * x.rows);
  multiply<A, false, kStripVecs>(
      dw.rows, dw.cols, x.rows, kRowTiles, workspace, threads,
      [&](A* to, int64_t i, int64_t n, int64_t k, int64_t d) {
        pack_features<kTileRows>(to, kTileStride<false, A>, dy, i, n, k, d);
      },
      [&](A* to, int64_t j, int64_t n) {
        constexpr int64_t kStreams = 4;  // strips may lie a power of two apart: more would evict each other
        const int64_t strip = x.rows * kStripLanes<A>;
        for (int64_t s = 0; s < n; s += kStreams)
          pack_features<kStripLanes<A>>(to + s * strip, strip, x, j + s * kStripLanes<A>, min(kStreams, n - s), 0, x.rows);
      },
      [&](auto& sums, int64_t i, int64_t j) {
        for (int64_t r = i; r < min(i + kTileRows, dw.rows); ++r) {
          T row[kStripLanes<A>];
          for (int v = 0; v < kStripVecs; ++v) store<A>(row + v * kLanes<A>, sums.of[r - i][v]);
          select_row(dw.row(r) + j, row, bits, r * dw.cols + j, min(kStripLanes<A>, dw.cols - j));
        }
      });
  return kOk;
}

template <class T>
int64_t masked_spmm_workspace(DenseView<const T> w, DenseView<const T> x, Threads threads) {
  return with_strips<Acc<T>>(
      x.rows, [&](auto vecs) { return layout<Acc<T>, true, vecs>(w.rows, x.rows, w.cols, kRowTiles, threads).total; });
}
template <class T>
int64_t masked_spmm_t_workspace(DenseView<const T> w, DenseView<const T> dy, Threads threads) {
  return with_strips<Acc<T>>(
      dy.rows, [&](auto vecs) { return layout<Acc<T>, false, vecs>(w.cols, dy.rows, w.rows, kColumnTiles, threads).total; });
}
template <class T>
int64_t masked_sddmm_workspace(DenseView<const T> dy, DenseView<const T> x, Threads threads) {
  return layout<Acc<T>, false, kStripVecs>(dy.cols, x.cols, x.rows, kRowTiles, threads).total;
}

SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, masked_spmm)
SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, masked_spmm_t)
SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, masked_sddmm)
SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, masked_spmm_workspace)
SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, masked_spmm_t_workspace)
SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, masked_sddmm_workspace)

}  // namespace spx::cpu::SPX_ISA::masked
