// What the kernels of convolutions add up anew where a sum is NaN: perhaps because Inf met padding, which lies in shared memory
// as zeros; but nothing is there to be multiplied. Here only pixels that exist are, one after the other, and no more of them
// once the sum is NaN after all.
#pragma once
#include "cuda/csr/conv_cells.cuh"

namespace spx::cuda::csr {

template <class A>
__device__ inline bool is_nan(A v) {
  return v != v;
}

// Where a pixel of an image's first channel lies, of images of so many elements; -1: it does not exist.
__device__ inline int64_t pixel_at(int image, int64_t image_size, int row, int height, int col, int width) {
  const bool exists = row >= 0 && row < height && col >= 0 && col < width;
  return exists ? image * image_size + int64_t{row} * width + col : -1;
}
__device__ inline int64_t target_at(const ConvTiles& g, ConvPixel pixel) {
  return pixel_at(pixel.image, g.rows() * g.target_plane(), pixel.row, g.y.target, pixel.col, g.x.target);
}

// Where the entry with this place in a stage meets x for a pixel, from the group's first channel on. Undoes place_of.
template <class T>
__device__ int64_t source_at(const ConvTiles& g, int first_channel, int place, ConvPixel pixel) {
  const int at = place / static_cast<int>(sizeof(T)), in_part = at % kPartElements<T>, in_channel = in_part % g.channel_size;
  const int channel = first_channel + at / kPartElements<T> * g.part_channels + in_part / g.channel_size;
  const int plane = in_channel / g.plane_size, in_plane = in_channel % g.plane_size;
  const int row = pixel.row / g.y.target_step() + g.y.low() + in_plane / g.pitch;
  const int col = pixel.col / g.x.target_step() + g.x.low() + in_plane % g.pitch;
  const int64_t found = pixel_at(pixel.image, g.source_image(), row * g.y.source_step() + g.y.residue(plane / g.x.planes()),
                                 g.y.source, col * g.x.source_step() + g.x.residue(plane % g.x.planes()), g.x.source);
  return found < 0 ? found : found + channel * g.source_plane();
}

// sum + the entries of a row x what they meet for a pixel of this phase.
template <class T>
__device__ Acc<T> add_entries(Acc<T> sum, const ConvCells<T>& w, const ConvTiles& g, const T* x, int phase, int row,
                              ConvPixel pixel) {
  for (int chunk = 0; chunk < w.chunks; ++chunk) {
    const Cell cell = w.cells[(phase * w.chunks + chunk) * w.rows + row];
    const auto* entries = reinterpret_cast<const Entry<T>*>(w.groups + cell.first);
    for (int e = 0; e < cell.count && !is_nan(sum); ++e) {
      const int64_t at = source_at<T>(g, w.first_channel(g, chunk), static_cast<int>(entries[e].place), pixel);
      if (at >= 0) sum += to_acc(entries[e].value) * to_acc(x[at]);
    }
  }
  return sum;
}

// y of a warp's rows and a block's pixels, where it is NaN. Lane i holds row i, -1 if there is none.
template <class T, int kRowsPerWarp>
__device__ void remake_pixels(T* y, const ConvCells<T>& w, const ConvTiles& g, const T* x, const T* bias, bool relu,
                              PixelTile tile, int32_t row) {
  const int phase = tile.phase_y * g.x.phases() + tile.phase_x;
#pragma unroll 1
  for (int i = 0; i < kRowsPerWarp * kPerLane<T>; ++i) {
    const int32_t mine = shfl_idx(row, i / kPerLane<T>);
    const ConvPixel pixel = tile.pixel(g, i % kPerLane<T> * kWarp + static_cast<int>(threadIdx.x) % kWarp);
    const int64_t at = target_at(g, pixel);
    if (mine < 0 || at < 0) continue;
    T* to = y + mine * g.target_plane() + at;
    if (!is_nan(to_acc(*to))) continue;
    const T* source = x + int64_t{mine / g.target_channels} * g.source_channels * g.source_plane();
    const Acc<T> start = bias ? to_acc(bias[mine]) : Acc<T>{0};
    *to = from_acc<T>(maybe_relu(add_entries(start, w, g, source, phase, mine, pixel), relu));
  }
}

// The sum over pixels [begin, end) of dy x what a tap meets in x, of one row and one channel.
template <class T>
__device__ Acc<T> sum_of_pixels(const ConvTiles& g, const T* dy, const T* x, int tap, int begin, int end) {
  const int down = g.y.shift(0, tap / g.x.taps), right = g.x.shift(0, tap % g.x.taps);
  Acc<T> sum = 0;
  for (int number = begin; number < end && !is_nan(sum); ++number) {
    const ConvPixel pixel = PixelTile{number, 0, 0}.pixel(g, 0);
    const int64_t of_dy = target_at(g, pixel);
    if (of_dy < 0) continue;
    const int64_t of_x = pixel_at(pixel.image, g.source_image(), pixel.row * g.y.stride + down, g.y.source,
                                  pixel.col * g.x.stride + right, g.x.source);
    if (of_x >= 0) sum += to_acc(dy[of_dy]) * to_acc(x[of_x]);
  }
  return sum;
}

}  // namespace spx::cuda::csr
