// Dense x dense at the pattern's entries:  dw[p] = sum_n dy[n, row_p] * x[n, col_p],  0 behind nnz
//
//   dy   [tokens, rows]    x  [tokens, cols]    dw  [capacity], every element written once
//   sums in Acc<T>, in token order, no atomics: the same bits on every run
//   work: a block owns the entries of a tile of kRows x kCols of the matrix, a thread up to kPerThread of them, in registers.
//         dy and x pass through shared memory, kTokens tokens at a time, as they lie: rows and columns contiguous
#include "launch.cuh"
#include "scan.cuh"
#include "search.cuh"

namespace spx::cuda {
namespace {

constexpr int kThreads = 512;  // with 256, sixteen entries per thread spill
constexpr int kRows = 64;
constexpr int kCols = 64;
constexpr int kTokens = 32;                           // two tiles of doubles: 32 KB of the 48 KB of static shared memory
constexpr int kPerThread = kRows * kCols / kThreads;  // a full tile fits: any density, any distribution
static_assert(kRows <= kThreads);

// tile[token, i] = m[token0 + token, first + i] for what lies inside of m. The rest is left as it is: it is never read.
template <int kWidth, class T>
__device__ void load_tile(Shared<Acc<T>> tile, DenseView<const T> m, int64_t token0, int64_t first) {
  for (int i = threadIdx.x; i < kTokens * kWidth; i += kThreads) {
    const int64_t token = token0 + i / kWidth, col = first + i % kWidth;
    if (token < m.rows && col < m.cols) tile[i] = to_acc(m.row(token)[col]);
  }
}

template <class T, class Index>
__global__ void __launch_bounds__(kThreads)
    csr_sddmm_kernel(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, int64_t col_tiles) {
  SPX_SHARED(Acc<T>, dy_tile, kTokens * kRows);
  SPX_SHARED(Acc<T>, x_tile, kTokens * kCols);
  SPX_SHARED(int32_t, first, kRows);   // a row's first entry inside the tile
  SPX_SHARED(int32_t, before, kRows);  // how many entries of the tile lie in rows above
  SPX_SHARED(int32_t, scratch, kThreads / kWarp);
  const int64_t row0 = blockIdx.x / col_tiles * kRows, col0 = blockIdx.x % col_tiles * kCols;

  for (int64_t p = pattern.row_ptr[pattern.rows] + global_thread(); p < pattern.capacity; p += global_threads())
    dw[p] = from_acc<T>(0);

  const int thread = threadIdx.x, row = thread;
  int32_t begin = 0, end = 0, count = 0;
  if (row < kRows && row0 + row < pattern.rows) {
    begin = lower_bound(pattern.col_idx, pattern.row_ptr[row0 + row], pattern.row_ptr[row0 + row + 1], col0);
    end = lower_bound(pattern.col_idx, begin, pattern.row_ptr[row0 + row + 1], col0 + kCols);
  }
  const int32_t above = block_scan<int32_t>(end - begin, scratch, &count);
  if (count == 0) return;  // the whole block
  if (row < kRows) {
    first[row] = begin;
    before[row] = above;
  }
  __syncthreads();

  int32_t entry[kPerThread];
  int where[kPerThread];  // row << 16, column in the tile
  Acc<T> acc[kPerThread];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int e = thread + k * kThreads;
    if (e >= count) continue;
    int low = 0;  // the last row with before[row] <= e
    for (int step = kRows / 2; step > 0; step /= 2)
      if (before[low + step] <= e) low += step;
    entry[k] = first[low] + e - before[low];
    where[k] = low << 16 | static_cast<int>(int64_t{pattern.col_idx[entry[k]]} - col0);
    acc[k] = 0;
  }

  for (int64_t token0 = 0; token0 < x.rows; token0 += kTokens) {
    load_tile<kRows, T>(dy_tile, dy, token0, row0);
    load_tile<kCols, T>(x_tile, x, token0, col0);
    __syncthreads();
    const int tokens = x.rows - token0 < kTokens ? static_cast<int>(x.rows - token0) : kTokens;
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
      if (thread + k * kThreads >= count) continue;
      const int r = where[k] >> 16, c = where[k] & 0xFFFF;
#pragma unroll 4
      for (int n = 0; n < tokens; ++n) acc[k] += dy_tile[n * kRows + r] * x_tile[n * kCols + c];
    }
    __syncthreads();  // everyone has read the tiles before they are written again
  }
#pragma unroll
  for (int k = 0; k < kPerThread; ++k)
    if (thread + k * kThreads < count) dw[entry[k]] = from_acc<T>(acc[k]);
}

}  // namespace

template <class T, class Index>
Status csr_sddmm(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void*, Where where) {
  const int64_t col_tiles = ceil_div(pattern.cols, kCols) > 0 ? ceil_div(pattern.cols, kCols) : 1;
  const int64_t row_tiles = ceil_div(pattern.rows, kRows) > 0 ? ceil_div(pattern.rows, kRows) : 1;
  return launch("csr_sddmm", csr_sddmm_kernel<T, Index>, row_tiles * col_tiles, kThreads, where, dw, pattern, dy, x, col_tiles);
}

int64_t csr_sddmm_workspace(int64_t, int64_t, int64_t, int64_t, int64_t, Where) { return 0; }

#define INSTANTIATE(T, Index) \
  template Status csr_sddmm(T*, CsrPattern<Index>, DenseView<const T>, DenseView<const T>, void*, Where);
INSTANTIATE(float, int32_t)
INSTANTIATE(float, uint16_t)
INSTANTIATE(double, int32_t)
INSTANTIATE(double, uint16_t)
INSTANTIATE(bf16, int32_t)
INSTANTIATE(bf16, uint16_t)
INSTANTIATE(f16, int32_t)
INSTANTIATE(f16, uint16_t)

}  // namespace spx::cuda
