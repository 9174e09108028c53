// CSR weight x token-major activations:  y[n, r] = bias[r] + sum_p w[r, col_p] * x[n, col_p]
//
//   w     CSR [rows, cols], columns ascending inside a row, any row may be empty; `slot` makes it the transposed view
//   x     [tokens, cols]    y  [tokens, rows], every element written once    bias  [rows] or null
//   sums in Acc<T>, in column order, no atomics: the same bits on every run
//   work: a block makes a tile of kRows x kTokens of y; a warp owns kRowsPerWarp rows, a lane owns kTokensPerLane tokens.
//         x passes through shared memory, kCols columns at a time, turned so that lanes read neighbouring tokens
// Only entries of the pattern are multiplied: Inf and NaN in x reach y exactly where the weight has an entry.
#include "launch.cuh"

namespace spx::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokensPerLane = 2;
constexpr int kTokens = kTokensPerLane * kWarp;
constexpr int kRows = 64;  // per block: x is read rows / kRows times
constexpr int kRowsPerWarp = kRows / (kThreads / kWarp);
constexpr int kCols = 64;             // a tile of doubles stays under the 48 KB of static shared memory
constexpr int kStride = kTokens + 1;  // odd: neither turning the tile nor reading it has bank conflicts
static_assert(kRows <= kCols, "y leaves through the tile of x");

// tile[column, token] = x[token0 + token, col0 + column]; what lies outside of x becomes 0 and is never stored.
template <class T>
__device__ void load_tile(Shared<Acc<T>> tile, DenseView<const T> x, int64_t token0, int64_t col0) {
  for (int i = threadIdx.x; i < kTokens * kCols; i += kThreads) {
    const int token = i / kCols, col = i % kCols;  // neighbouring lanes read neighbouring columns
    const bool inside = token0 + token < x.rows && col0 + col < x.cols;
    tile[col * kStride + token] = inside ? to_acc(x.row(token0 + token)[col0 + col]) : Acc<T>{0};
  }
}

// y[token0 + token, row0 + row] = tile[row, token]
template <class T>
__device__ void store_tile(DenseView<T> y, Shared<Acc<T>> tile, int64_t token0, int64_t row0) {
  for (int i = threadIdx.x; i < kTokens * kRows; i += kThreads) {
    const int token = i / kRows, row = i % kRows;
    if (token0 + token < y.rows && row0 + row < y.cols)
      y.row(token0 + token)[row0 + row] = from_acc<T>(tile[row * kStride + token]);
  }
}

template <class T, class Index>
__global__ void __launch_bounds__(kThreads)
    csr_spmm_kernel(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, int64_t row_tiles) {
  SPX_SHARED(Acc<T>, tile, kCols * kStride);
  const CsrPattern<Index>& pattern = w.pattern;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t row0 = blockIdx.x % row_tiles * kRows;  // blocks that run together share their tokens
  const int64_t token0 = blockIdx.x / row_tiles * kTokens;
  const int64_t warp_row0 = row0 + warp * kRowsPerWarp;

  Acc<T> acc[kRowsPerWarp][kTokensPerLane];
  int32_t next[kRowsPerWarp], end[kRowsPerWarp];  // the entries of a row that are still to come
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const int64_t row = warp_row0 + i;
    const bool inside = row < pattern.rows;
    next[i] = inside ? pattern.row_ptr[row] : 0;
    end[i] = inside ? pattern.row_ptr[row + 1] : 0;
    for (int t = 0; t < kTokensPerLane; ++t) acc[i][t] = inside && bias ? to_acc(bias[row]) : Acc<T>{0};
  }

  for (int64_t col0 = 0; col0 < pattern.cols; col0 += kCols) {
    load_tile<T>(tile, x, token0, col0);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      for (; next[i] < end[i]; ++next[i]) {  // the same in all lanes: one broadcast load per entry
        const int64_t col = int64_t{pattern.col_idx[next[i]]} - col0;
        if (col >= kCols) break;
        const Acc<T> value = to_acc(w.values[pattern.value_at(next[i])]);
        for (int t = 0; t < kTokensPerLane; ++t) acc[i][t] += value * tile[col * kStride + t * kWarp + lane];
      }
    }
    __syncthreads();  // everyone has read the tile before it is written again
  }

#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i)
    for (int t = 0; t < kTokensPerLane; ++t) tile[(warp * kRowsPerWarp + i) * kStride + t * kWarp + lane] = acc[i][t];
  __syncthreads();
  store_tile<T>(y, tile, token0, row0);
}

}  // namespace

template <class T, class Index>
Status csr_spmm(DenseView<T> y, CsrView<T, Index> w, DenseView<const T> x, const T* bias, void*, Where where) {
  const int64_t row_tiles = ceil_div(y.cols, kRows);
  return launch("csr_spmm", csr_spmm_kernel<T, Index>, row_tiles * ceil_div(y.rows, kTokens), kThreads, where, y, w, x, bias,
                row_tiles);
}

int64_t csr_spmm_workspace(int64_t, int64_t, int64_t, int64_t, int64_t, Where) { return 0; }

#define INSTANTIATE(T, Index) \
  template Status csr_spmm(DenseView<T>, CsrView<T, Index>, DenseView<const T>, const T*, void*, Where);
INSTANTIATE(float, int32_t)
INSTANTIATE(float, uint16_t)
INSTANTIATE(double, int32_t)
INSTANTIATE(double, uint16_t)
INSTANTIATE(bf16, int32_t)
INSTANTIATE(bf16, uint16_t)
INSTANTIATE(f16, int32_t)
INSTANTIATE(f16, uint16_t)

}  // namespace spx::cuda
