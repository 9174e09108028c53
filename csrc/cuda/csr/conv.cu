// Convolutions with a CSR weight: y of x, and by the transposed view the input gradient dx of dy. Neither makes a matrix of
// columns: an entry meets a pixel at a fixed distance from the output's own.
//
//   sums in Acc<T>, by stages of source channels, of a stage's entries in the order of the weight, of the input gradient tap by
//         tap; no atomics: the same bits on every run. The stages depend on how much shared memory the device has
//   work: a block makes 16 * kRowsPerWarp channels of kPixels pixels of the target, in registers, as csr_spmm_kernel makes
//         tokens (rows.cuh): a warp owns kRowsPerWarp channels, a lane kPerLane pixels of each. The source passes through
//         shared memory, halo and all (conv_feed.cuh)
// Only entries of the pattern are multiplied. Those that are Inf make NaN of padding's zeros: what is NaN is made anew
// (conv_exact.cuh).
//
// The limit is shared memory, as of csr_spmm_kernel: an entry reads 128 pixels of 4 bytes, at 128 bytes a clock. They come
// by 4 loads in place of one, which take as long. But an entry also takes 4 additions of addresses: 12 instructions, of 16
// in 4 clocks.
#include <cmath>

#include "cuda/csr/conv_exact.cuh"

namespace spx::cuda::csr {
namespace {

template <class T, int kRowsPerWarp>
__global__ void __launch_bounds__(kMultiplyThreads, 1)
    csr_conv2d_kernel(T* y, ConvCells<T> w, const __grid_constant__ ConvTiles g, const T* x, const T* bias, bool relu) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  SPX_DYNAMIC_SHARED(T, stages);
  SPX_SHARED(Cell, all_cells, kMultiplyWarps * 2 * kMostCells);
  SPX_SHARED(Group<T>, all_lines, kMultiplyWarps * 2 * kWarp);
  SPX_SHARED(HaloPixel, halo, kHaloPixels);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  // Blocks that run together share their pixels.
  const int row_tiles = (g.target_channels + kRows - 1) / kRows, block = static_cast<int>(blockIdx.x);
  const int row0 = block % row_tiles * kRows, row_tile = block / row_tiles % g.groups * row_tiles + block % row_tiles;
  const int group = block / row_tiles % g.groups, rest = block / row_tiles / g.groups, phase = rest / g.pixel_tiles;
  const PixelTile tile = {rest % g.pixel_tiles * g.pixels, phase / g.x.phases(), phase % g.x.phases()};

  const T* source = x + tile.pixel(g, 0).image * g.source_image() + int64_t{group} * g.source_channels * g.source_plane();
  const Halo listed(g, tile);
  for (int i = threadIdx.x; i < listed.count; i += kMultiplyThreads) halo[i] = listed.pixel(g, i);
  ConvFeed<T> feed = {g, source, halo, listed.count, {}};
#pragma unroll
  for (int t = 0; t < kPerLane<T>; ++t) feed.at[t] = tile.pixel(g, t * kWarp + lane).place;
  __syncthreads();  // the halo is listed

  const int place = lane < kRowsPerWarp ? w.order[int64_t{row_tile} * kRows + warp * kRowsPerWarp + lane] : kRows;
  const int32_t row = place < kRows && row0 + place < g.target_channels ? group * g.target_channels + row0 + place : -1;
  CellTable<T> table = w;
  table.cells += phase * w.chunks * w.rows;
  Acc<T> acc[kRowsPerWarp][kPerLane<T>];
  feed.first_stage(stages, w.missing, w.parts);
  start_rows<T, kRowsPerWarp>(acc, bias, row);
  add_rows<T, kRowsPerWarp, 1>(acc, stages, all_cells + warp * 2 * kMostCells, all_lines + warp * 2 * kWarp, table, feed, row);

  bool any_nan = false;
#pragma unroll
  for (int t = 0; t < kPerLane<T>; ++t) {
    const ConvPixel pixel = tile.pixel(g, t * kWarp + lane);
    const bool inside = pixel.row < g.y.target && pixel.col < g.x.target;
    T* to = y + int64_t{pixel.image} * g.rows() * g.target_plane() + int64_t{pixel.row} * g.x.target + pixel.col;
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      const int32_t mine = shfl_idx(row, i);
      if (inside && mine >= 0) to[mine * g.target_plane()] = from_acc<T>(maybe_relu(acc[i][t], relu));
      any_nan = any_nan || is_nan(acc[i][t]);
    }
  }
  if (ballot(any_nan)) remake_pixels<T, kRowsPerWarp>(y, w, g, x, bias, relu, tile, row);
}

// The rows of a warp with which an H200 would be done first: blocks run in waves of one for each multiprocessor, and a block
// takes the clocks of its entries, and of bringing what they meet.
template <class T>
int rows_per_warp(const ConvTiles& g, int64_t capacity) {
  constexpr double kEntryClocks = 5, kPixelClocks = 0.15, kMultiprocessors = 132;
  const double entries = static_cast<double>(capacity) / g.rows() / g.phases() * kEntryClocks;  // of a row
  const double pixels = static_cast<double>(g.source_channels) * g.most_halo() * kPixelClocks;
  int best = 4;
  double least = 0;
  for (int rows : {8, 4}) {
    const int64_t in_block = rows * kMultiplyWarps, tiles = ceil_div(g.target_channels, in_block);
    const double waves = ceil(static_cast<double>(tiles) * g.groups * g.pixel_tiles * g.phases() / kMultiprocessors);
    const double clocks = waves * (static_cast<double>(g.target_channels) / tiles * entries + pixels);
    if (least == 0 || clocks < least) least = clocks, best = rows;
  }
  return best;
}

template <class T>
constexpr int stages_bytes(int parts) {
  return 2 * parts * kPartElements<T> * static_cast<int>(sizeof(T));
}

template <class T>
int parts_that_fit() {
  constexpr int kFixed =
      kMultiplyWarps * 2 * (kMostCells * sizeof(Cell) + kWarp * sizeof(Group<T>)) + kHaloPixels * sizeof(HaloPixel);
  const int64_t available = shared_bytes_per_block() - kFixed - kDynamicAlignment;
  int parts = kMostConvParts;
  while (parts > 1 && stages_bytes<T>(parts) > available) --parts;
  return parts;
}

constexpr int kLeastColumns = 33;  // three parts with 10 entries of 100, at 90 % zeros

template <class T>
ConvTiles tiles_of(const Conv2d& shape, bool backwards) {
  return {shape, backwards, kPixels<T>, kPartElements<T>, kLeastColumns};
}

template <class T, class Index, bool kBackwards, int kRowsPerWarp>
Status run(T* y, CsrView<T, Index> w, const T* x, const ConvTiles& g, const T* bias, bool relu, ConvCells<T> cells, Block block,
           Stream stream) {
  constexpr int kRows = kRowsPerWarp * kMultiplyWarps;
  static_assert(kRows <= kCellThreads && kRowsPerWarp <= kMostCells);
  const int64_t tiles = ceil_div(g.target_channels, kRows) * g.groups;
  SPX_TRY(make_cells<kBackwards>(cells, w, g, kRows, stream));
  return launch("csr_conv2d", csr_conv2d_kernel<T, kRowsPerWarp>, tiles * g.pixel_tiles * g.phases(), block, stream, y, cells,
                g, x, bias, relu);
}

template <class T, class Index, bool kBackwards>
Status convolve(T* y, CsrView<T, Index> w, const T* x, const Conv2d& shape, const T* bias, bool relu, void* workspace,
                Stream stream) {
  const ConvTiles g = tiles_of<T>(shape, kBackwards);
  if (shape.batch * g.rows() * g.target_plane() == 0) return kOk;
  const int fit = parts_that_fit<T>();
  int parts = fit;  // and no more than there are channels for
  while (parts > 1 && (parts - 1) * g.part_channels >= g.source_channels) --parts;
  const Block block = Block(kMultiplyThreads, stages_bytes<T>(parts)).allow(stages_bytes<T>(fit));
  const ConvCells<T> cells(workspace, g, w.pattern.capacity, parts);
  const int rows = rows_per_warp<T>(g, w.pattern.capacity);
  if (rows == 8) return run<T, Index, kBackwards, 8>(y, w, x, g, bias, relu, cells, block, stream);
  return run<T, Index, kBackwards, 4>(y, w, x, g, bias, relu, cells, block, stream);
}

// For stages of one part, which make the most cells: enough on every device. -1: a block's halo does not fit shared memory.
template <class T>
int64_t workspace_bytes(const Conv2d& shape, int64_t capacity, bool backwards) {
  const ConvTiles g = tiles_of<T>(shape, backwards);
  return g.fits() ? ConvCells<T>(nullptr, g, capacity, 1).bytes : -1;
}

}  // namespace

template <class T, class Index>
Status csr_conv2d(T* y, CsrView<T, Index> w, const T* x, Conv2d shape, const T* bias, bool relu, void* workspace,
                  Stream stream) {
  return convolve<T, Index, false>(y, w, x, shape, bias, relu, workspace, stream);
}
template <class T, class Index>
int64_t csr_conv2d_workspace(CsrView<T, Index> w, Conv2d shape, Stream) {
  return workspace_bytes<T>(shape, w.pattern.capacity, false);
}

template <class T, class Index>
Status csr_conv2d_t(T* dx, CsrView<T, Index> w, const T* dy, Conv2d shape, void* workspace, Stream stream) {
  return convolve<T, Index, true>(dx, w, dy, shape, static_cast<const T*>(nullptr), false, workspace, stream);
}
template <class T, class Index>
int64_t csr_conv2d_t_workspace(CsrView<T, Index> w, Conv2d shape, Stream) {
  return workspace_bytes<T>(shape, w.pattern.capacity, true);
}

#define SPX_CONVOLUTIONS(M) M(csr_conv2d) M(csr_conv2d_workspace) M(csr_conv2d_t) M(csr_conv2d_t_workspace)
#define SPX_FOR_ALL_TYPES(launcher)                      \
  SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, launcher) \
  SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, launcher, f16)
SPX_CONVOLUTIONS(SPX_FOR_ALL_TYPES)

}  // namespace spx::cuda::csr
