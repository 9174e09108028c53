// The weight as csr_conv2d_kernel reads it (cells.cuh): the entries of a target's channel in the source channels of a stage.
//
//   forward         a row of the weight is a channel of the target, and its columns ascend by channel, then tap
//   input gradient  by the transposed view: a channel of the target has a row for each tap, whose columns are channels of the
//                   source. A cell has the taps of one phase, one after the other
#pragma once
#include "cuda/csr/conv_feed.cuh"
#include "cuda/device/search.cuh"

namespace spx::cuda::csr {

template <class T>
struct ConvCells : CellTable<T> {
  using CellTable<T>::rows, CellTable<T>::parts, CellTable<T>::missing, CellTable<T>::chunks, CellTable<T>::groups,
      CellTable<T>::cells, CellTable<T>::order;
  int64_t bytes;

  // cells is [phases, chunks, rows]; order has room for any number of rows in a block, up to kCellThreads.
  ConvCells(void* base, const ConvTiles& g, int64_t capacity, int parts)
      : CellTable<T>(g.rows(), ceil_div(g.source_channels, g.part_channels), parts) {
    const int64_t count = rows * chunks * g.phases(), group_count = group_at<T>(capacity, count);
    const int64_t order_count = int64_t{g.groups} * (g.target_channels + kCellThreads);
    groups = static_cast<Group<T>*>(base);
    cells = reinterpret_cast<Cell*>(groups + group_count);
    order = reinterpret_cast<int32_t*>(cells + count);
    bytes = group_count * int64_t{sizeof(Group<T>)} + count * int64_t{sizeof(Cell)} + order_count * int64_t{sizeof(int32_t)};
  }

  // The first channel of a chunk, as if the missing parts lay in front of the group.
  __device__ int first_channel(const ConvTiles& g, int chunk) const { return (chunk * parts - missing) * g.part_channels; }
};

// Where the pixel lies in a stage that a tap meets in the stage's `channel`, in bytes.
template <class T>
__device__ int place_of(const ConvTiles& g, int channel, int ky, int kx, int phase_y, int phase_x) {
  const int part = channel / g.part_channels, in_part = channel - part * g.part_channels;
  const int at = part * kPartElements<T> + in_part * g.channel_size + place_of_tap(g, ky, kx, phase_y, phase_x);
  return at * static_cast<int>(sizeof(T));
}

// The phase of the target's pixels that a tap meets.
__device__ inline int phase_of(const ConvTiles& g, int tap) {
  const int ky = tap / g.x.taps, kx = tap % g.x.taps;
  int phase_y = 0, phase_x = 0;
  while (!g.y.meets(phase_y, ky)) ++phase_y;
  while (!g.x.meets(phase_x, kx)) ++phase_x;
  return phase_y * g.x.phases() + phase_x;
}

template <class T, class Index>
__device__ void make_forward_cell(const ConvCells<T>& out, const CsrView<T, Index>& w, const ConvTiles& g, int row, int chunk) {
  const CsrPattern<Index>& pattern = w.pattern;
  const int taps = g.y.taps * g.x.taps;
  const int channel0 = out.first_channel(g, chunk);
  const int32_t row_end = pattern.row_ptr[row + 1];
  const int32_t begin = lower_bound(pattern.col_idx, pattern.row_ptr[row], row_end, int64_t{channel0} * taps);
  const int32_t end = lower_bound(pattern.col_idx, begin, row_end, int64_t{out.first_channel(g, chunk + 1)} * taps);
  const int64_t first = group_at<T>(begin, row * out.chunks + chunk);
  const int lane = threadIdx.x % kCellLanes;
  if (lane == 0) out.cells[chunk * out.rows + row] = {static_cast<int32_t>(first), end - begin};
  auto* entries = reinterpret_cast<Entry<T>*>(out.groups + first);
  for (int32_t p = begin + lane; p < end; p += kCellLanes) {
    const int column = static_cast<int>(pattern.col_idx[p]), channel = column / taps, tap = column - channel * taps;
    const int place = place_of<T>(g, channel - channel0, tap / g.x.taps, tap % g.x.taps, 0, 0);
    entries[p - begin] = {w.values[pattern.value_at(p)], static_cast<decltype(Entry<T>::place)>(place)};
  }
}

template <class T, class Index>
__device__ void make_backward_cell(const ConvCells<T>& out, const CsrView<T, Index>& w, const ConvTiles& g, int row, int chunk,
                                   int phase) {
  const CsrPattern<Index>& pattern = w.pattern;
  const int taps = g.y.taps * g.x.taps, phase_y = phase / g.x.phases(), phase_x = phase % g.x.phases();
  const int group = row / g.target_channels, channel = row % g.target_channels, source0 = group * g.source_channels;
  const int channel0 = out.first_channel(g, chunk), channel1 = out.first_channel(g, chunk + 1);
  const int from = source0 + (channel0 > 0 ? channel0 : 0);
  const int to = source0 + (channel1 < g.source_channels ? channel1 : g.source_channels);
  // What lies before this cell: earlier groups and chunks of all taps, and of this chunk the earlier phases' taps.
  int32_t before = pattern.row_ptr[channel * taps], count = 0;
  for (int tap = 0; tap < taps; ++tap) {
    const int32_t run = pattern.row_ptr[channel * taps + tap], run_end = pattern.row_ptr[channel * taps + tap + 1];
    const int32_t begin = lower_bound(pattern.col_idx, run, run_end, from),
                  end = lower_bound(pattern.col_idx, begin, run_end, to);
    before += begin - run;
    const int theirs = phase_of(g, tap);
    if (theirs < phase) before += end - begin;
    if (theirs == phase) count += end - begin;
  }
  const int64_t number = ((int64_t{channel} * g.groups + group) * out.chunks + chunk) * g.phases() + phase;
  const int64_t first = group_at<T>(before, number);
  const int lane = threadIdx.x % kCellLanes;
  if (lane == 0) out.cells[(phase * out.chunks + chunk) * out.rows + row] = {static_cast<int32_t>(first), count};
  auto* entries = reinterpret_cast<Entry<T>*>(out.groups + first);
  for (int tap = 0; tap < taps && count > 0; ++tap) {
    if (phase_of(g, tap) != phase) continue;
    const int32_t run = pattern.row_ptr[channel * taps + tap], run_end = pattern.row_ptr[channel * taps + tap + 1];
    const int32_t begin = lower_bound(pattern.col_idx, run, run_end, from),
                  end = lower_bound(pattern.col_idx, begin, run_end, to);
    for (int32_t p = begin + lane; p < end; p += kCellLanes) {
      const int at = static_cast<int>(pattern.col_idx[p]) - source0 - channel0;
      const int place = place_of<T>(g, at, tap / g.x.taps, tap % g.x.taps, phase_y, phase_x);
      entries[p - begin] = {w.values[pattern.value_at(p)], static_cast<decltype(Entry<T>::place)>(place)};
    }
    entries += end - begin;
  }
}

template <class T, class Index, bool kBackwards>
__global__ void __launch_bounds__(kCellThreads, 2)
    csr_conv2d_cells_kernel(ConvCells<T> out, CsrView<T, Index> w, const __grid_constant__ ConvTiles g, int rows_per_block) {
  SPX_SHARED(int32_t, lengths, kCellThreads);
  const int32_t* row_ptr = w.pattern.row_ptr;
  const int taps = g.y.taps * g.x.taps, row_tiles = (g.target_channels + rows_per_block - 1) / rows_per_block;
  for (int tile = blockIdx.x; tile < row_tiles * g.groups; tile += gridDim.x) {
    const int group = tile / row_tiles, row0 = tile % row_tiles * rows_per_block;
    deal_rows(out.order + int64_t{tile} * rows_per_block, lengths, rows_per_block, [&](int i) {
      if (row0 + i >= g.target_channels) return -1;
      const int64_t row = kBackwards ? int64_t{row0 + i} * taps : int64_t{group} * g.target_channels + row0 + i;
      return row_ptr[row + (kBackwards ? taps : 1)] - row_ptr[row];
    });
  }
  const int phases = g.phases(), chunks = static_cast<int>(out.chunks), count = g.rows() * chunks * phases;
  for (int i = static_cast<int>(global_thread()) / kCellLanes; i < count;
       i += static_cast<int>(global_threads()) / kCellLanes) {
    if constexpr (kBackwards)
      make_backward_cell(out, w, g, i / phases / chunks, i / phases % chunks, i % phases);
    else
      make_forward_cell(out, w, g, i / chunks, i % chunks);
  }
}

template <bool kBackwards, class T, class Index>
Status make_cells(const ConvCells<T>& out, const CsrView<T, Index>& w, const ConvTiles& g, int rows_per_block, Stream stream) {
  const int64_t tiles = ceil_div(g.target_channels, rows_per_block) * g.groups;
  const int64_t cell_blocks = ceil_div(out.rows * out.chunks * g.phases() * kCellLanes, kCellThreads);
  const int64_t blocks = blocks_for(tiles > cell_blocks ? tiles : cell_blocks, 1);
  return launch("csr_conv2d_cells", csr_conv2d_cells_kernel<T, Index, kBackwards>, blocks, kCellThreads, stream, out, w, g,
                rows_per_block);
}

}  // namespace spx::cuda::csr
