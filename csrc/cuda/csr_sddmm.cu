// Dense x dense at the pattern's entries:  dw[p] = sum_n dy[n, row_p] * x[n, col_p],  0 behind nnz
//
//   dy   [tokens, rows]    x  [tokens, cols]    dw  [capacity], every element written once
//   sums in Acc<T>, in token order, no atomics: the same bits on every run
//   work: a block owns the entries of a tile of kRows x kCols of the matrix, a thread up to kPerThread of them, in registers.
//         dy and x pass through shared memory, kTokens tokens at a time, as they lie: rows and columns contiguous
//   bf16, f16  on tensor cores (csr_sddmm_mma.cuh, csr_sddmm_wgmma.cuh), unless the pattern is so sparse that most tiles are empty
#include "csr_sddmm_mma.cuh"
#include "csr_sddmm_wgmma.cuh"

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
  SPX_SHARED(int32_t, first, kRows);
  SPX_SHARED(int32_t, before, kRows);
  SPX_SHARED(int32_t, scratch, kThreads / kWarp);
  const int64_t row0 = blockIdx.x / col_tiles * kRows, col0 = blockIdx.x % col_tiles * kCols;

  clear_unused(dw, pattern);
  const TileEntries<kRows> entries{first, before};
  const int thread = threadIdx.x, count = entries.find(pattern, row0, col0, kCols, scratch);
  if (count == 0) return;  // the whole block

  int32_t entry[kPerThread];
  int where[kPerThread];  // row << 16, column in the tile
  Acc<T> acc[kPerThread];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int e = thread + k * kThreads;
    if (e >= count) continue;
    int row;
    entry[k] = entries.at(e, &row);
    where[k] = row << 16 | static_cast<int>(int64_t{pattern.col_idx[entry[k]]} - col0);
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

// What a kernel reads from L2 limits it, of a 16-bit type: the tiles above, a quarter in size, read twice as much as those of the
// tensor cores. They pay where half as many of them have an entry: at one entry for two tiles, 39 % and 86 % have.
constexpr int64_t kPlacesPerEntry = 2 * kRows * kCols;

bool takes_wgmma(int64_t rows, int64_t cols, int64_t tokens) { return fits_wgmma(rows, cols, tokens) && uses_sm_90a(); }

}  // namespace

template <class T, class Index>
Status csr_sddmm(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace, Where where) {
  if constexpr (sizeof(T) == sizeof(uint16_t))
    if (pattern.capacity * kPlacesPerEntry >= pattern.rows * pattern.cols)
      return takes_wgmma(pattern.rows, pattern.cols, x.rows) ? csr_sddmm_wgmma(dw, pattern, dy, x, workspace, where)
                                                             : csr_sddmm_mma(dw, pattern, dy, x, workspace, where);
  const int64_t col_tiles = tiles_along(pattern.cols, kCols), blocks = tiles_along(pattern.rows, kRows) * col_tiles;
  return launch("csr_sddmm", csr_sddmm_kernel<T, Index>, blocks, kThreads, where, dw, pattern, dy, x, col_tiles);
}

// Without knowing the type: float, which needs none, gets what 16-bit types need.
int64_t csr_sddmm_workspace(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t acc_bytes, Where) {
  if (acc_bytes == sizeof(double)) return 0;
  return takes_wgmma(rows, cols, tokens) ? csr_sddmm_wgmma_workspace(rows, cols, capacity, tokens)
                                         : csr_sddmm_mma_workspace(rows, cols, capacity, tokens);
}

#define INSTANTIATE(T, Index) \
  template Status csr_sddmm(T*, CsrPattern<Index>, DenseView<const T>, DenseView<const T>, void*, Where);
SPX_FOR_EACH_TYPE(INSTANTIATE)
INSTANTIATE(f16, int32_t)
INSTANTIATE(f16, uint16_t)

}  // namespace spx::cuda
