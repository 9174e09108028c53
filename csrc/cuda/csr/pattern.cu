// Between dense matrices, masks and patterns: csr_pack, csr_unpack, csr_from_mask, csr_transpose.
//
//   all of them read and write a pattern in order, so the result has one answer; integer atomics only count
//   behind nnz: values 0, col_idx 0, slot 0. nnz is known on the device only, so grids come from rows, cols and capacity
//   csr_transpose: rows are cut into bands. Count every band's entries per column; running sums down the bands and along the
//   columns say where a band's entries of a column begin; a band then places its rows one after another
#include "cuda/device/launch.cuh"
#include "cuda/device/scan.cuh"

namespace spx::cuda::csr {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBandRows = 32;   // at least: a band of few rows costs more counters than entries
constexpr int kMaxBands = 512;  // enough blocks for the largest card; one thread walks a column's bands

// This warp's number in the grid, and the number of warps.
__device__ int64_t global_warp() { return global_thread() / kWarp; }
__device__ int64_t global_warps() { return global_threads() / kWarp; }

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) csr_pack_kernel(T* values, CsrPattern<Index> pattern, DenseView<const T> dense) {
  for (int64_t r = global_warp(); r < pattern.rows; r += global_warps())
    for (int32_t p = pattern.row_ptr[r] + threadIdx.x % kWarp; p < pattern.row_ptr[r + 1]; p += kWarp)
      values[p] = dense.row(r)[pattern.col_idx[p]];
  for (int64_t p = pattern.row_ptr[pattern.rows] + global_thread(); p < pattern.capacity; p += global_threads())
    values[p] = from_acc<T>(0);
}

// A block per row: zeros first, then the entries over them.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads) csr_unpack_kernel(DenseView<T> dense, CsrView<T, Index> w, int64_t first_col) {
  const CsrPattern<Index>& pattern = w.pattern;
  const int64_t r = blockIdx.x;
  for (int64_t c = threadIdx.x; c < dense.cols; c += kThreads) dense.row(r)[c] = from_acc<T>(0);
  __syncthreads();
  for (int64_t p = pattern.row_ptr[r] + threadIdx.x; p < pattern.row_ptr[r + 1]; p += kThreads) {
    const int64_t c = pattern.col_idx[p] - first_col;
    if (0 <= c && c < dense.cols) dense.row(r)[c] = w.values[pattern.value_at(p)];
  }
}

__global__ void __launch_bounds__(kThreads) mask_count_kernel(int32_t* row_ptr, DenseView<const uint8_t> mask) {
  for (int64_t r = global_warp(); r < mask.rows; r += global_warps()) {
    int32_t count = 0;
    for (int64_t c = threadIdx.x % kWarp; c < mask.cols; c += kWarp) count += mask.row(r)[c] != 0;
    count = reduce_add(count);
    if (threadIdx.x % kWarp == 0) row_ptr[r + 1] = count;
  }
}

__global__ void __launch_bounds__(kThreads) mask_place_kernel(CsrPatternOut out, DenseView<const uint8_t> mask) {
  for (int64_t r = global_warp(); r < mask.rows; r += global_warps()) {
    int64_t q = out.row_ptr[r];
    for (int64_t c0 = 0; c0 < mask.cols; c0 += kWarp) {
      const int64_t c = c0 + threadIdx.x % kWarp;
      const bool one = c < mask.cols && mask.row(r)[c] != 0;
      const unsigned ones = ballot(one);
      if (one) out.col_idx[q + popcount(ones & lanes_below())] = static_cast<int32_t>(c);
      q += popcount(ones);
    }
  }
  for (int64_t q = out.row_ptr[out.rows] + global_thread(); q < out.capacity; q += global_threads()) out.col_idx[q] = 0;
}

// counts[band, c] = entries of column c in the band
__global__ void __launch_bounds__(kThreads) band_count_kernel(int32_t* counts, CsrPattern<int32_t> pattern, int64_t band_rows) {
  int32_t* count = counts + blockIdx.x * pattern.cols;
  for (int64_t c = threadIdx.x; c < pattern.cols; c += kThreads) count[c] = 0;
  __syncthreads();
  const int64_t row0 = blockIdx.x * band_rows, row1 = row0 + band_rows < pattern.rows ? row0 + band_rows : pattern.rows;
  for (int64_t p = pattern.row_ptr[row0] + threadIdx.x; p < pattern.row_ptr[row1]; p += kThreads)
    atomicAdd(&count[pattern.col_idx[p]], 1);
}

// counts[band, c] = entries of column c in the bands above; col_ptr[c + 1] = in all of them
__global__ void __launch_bounds__(kThreads) band_sum_kernel(int32_t* counts, int32_t* col_ptr, int64_t cols, int64_t bands) {
  for (int64_t c = global_thread(); c < cols; c += global_threads()) {
    int32_t sum = 0;
    for (int64_t band = 0; band < bands; ++band) {
      const int32_t count = counts[band * cols + c];
      counts[band * cols + c] = sum;
      sum += count;
    }
    col_ptr[c + 1] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    band_place_kernel(CsrPatternOut out, int32_t* counts, CsrPattern<int32_t> pattern, int64_t band_rows) {
  int32_t* placed = counts + blockIdx.x * pattern.cols;
  const int64_t row0 = blockIdx.x * band_rows, row1 = row0 + band_rows < pattern.rows ? row0 + band_rows : pattern.rows;
  for (int64_t r = row0; r < row1; ++r) {
    for (int32_t p = pattern.row_ptr[r] + threadIdx.x; p < pattern.row_ptr[r + 1]; p += kThreads) {
      const int32_t c = pattern.col_idx[p];  // a row has a column once: no two threads meet here
      const int64_t q = int64_t{out.row_ptr[c]} + placed[c]++;
      out.col_idx[q] = static_cast<int32_t>(r);
      out.slot[q] = p;
    }
    __syncthreads();  // the next row's entries come after this one's
  }
}

__global__ void __launch_bounds__(kThreads) clear_tail_kernel(CsrPatternOut out) {
  for (int64_t q = out.row_ptr[out.rows] + global_thread(); q < out.capacity; q += global_threads())
    out.col_idx[q] = out.slot[q] = 0;
}

// How csr_transpose cuts the rows; with few entries per column, fewer bands, so that counters never outgrow the pattern.
struct Bands {
  int64_t rows, count;
};
Bands bands_for(int64_t rows, int64_t cols, int64_t capacity) {
  int64_t count = ceil_div(rows, kBandRows);
  if (count > kMaxBands) count = kMaxBands;
  const int64_t most = cols ? 4 * capacity / cols : 1;
  if (count > most) count = most;
  if (count < 1) count = 1;
  const int64_t band_rows = ceil_div(rows, count);
  return {band_rows, band_rows ? ceil_div(rows, band_rows) : 0};
}

}  // namespace

template <class T, class Index>
Status csr_pack(T* values, CsrPattern<Index> pattern, DenseView<const T> dense, Stream stream) {
  const int64_t blocks = blocks_for(pattern.rows > pattern.capacity / kWarp ? pattern.rows : pattern.capacity / kWarp, kWarps);
  return launch("csr_pack", csr_pack_kernel<T, Index>, blocks, kThreads, stream, values, pattern, dense);
}

template <class T, class Index>
Status csr_unpack(DenseView<T> dense, CsrView<T, Index> w, int64_t first_col, Stream stream) {
  return launch("csr_unpack", csr_unpack_kernel<T, Index>, dense.rows, kThreads, stream, dense, w, first_col);
}

Status csr_from_mask(CsrPatternOut out, DenseView<const uint8_t> mask, Stream stream) {
  SPX_TRY(launch("mask_count", mask_count_kernel, blocks_for(mask.rows, kWarps), kThreads, stream, out.row_ptr, mask));
  SPX_TRY(counts_to_offsets(out.row_ptr, mask.rows, stream));
  return launch("mask_place", mask_place_kernel, blocks_for(mask.rows, kWarps), kThreads, stream, out, mask);
}

Status csr_transpose(CsrPatternOut out, CsrPattern<int32_t> pattern, void* workspace, Stream stream) {
  const Bands bands = bands_for(pattern.rows, pattern.cols, pattern.capacity);
  const int64_t column_blocks = blocks_for(pattern.cols, kThreads);
  auto* counts = static_cast<int32_t*>(workspace);
  SPX_TRY(launch("band_count", band_count_kernel, bands.count, kThreads, stream, counts, pattern, bands.rows));
  SPX_TRY(launch("band_sum", band_sum_kernel, column_blocks, kThreads, stream, counts, out.row_ptr, pattern.cols, bands.count));
  SPX_TRY(counts_to_offsets(out.row_ptr, pattern.cols, stream));
  SPX_TRY(launch("band_place", band_place_kernel, bands.count, kThreads, stream, out, counts, pattern, bands.rows));
  return launch("clear_tail", clear_tail_kernel, blocks_for(out.capacity, 16 * kThreads), kThreads, stream, out);
}

int64_t csr_transpose_workspace(CsrPattern<int32_t> pattern, Stream) {
  const Bands bands = bands_for(pattern.rows, pattern.cols, pattern.capacity);
  return bands.count * pattern.cols * static_cast<int64_t>(sizeof(int32_t));
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_pack)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_pack, f16)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_unpack)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_unpack, f16)

}  // namespace spx::cuda::csr
