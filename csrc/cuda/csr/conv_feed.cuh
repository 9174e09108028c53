// What a block of a convolution reads of the source (conv_tiles.cuh): where it lies in shared memory, and how it gets there.
#pragma once
#include "cuda/csr/conv_tiles.cuh"

namespace spx::cuda::csr {

// A pixel of a block: where it is made, and where what it meets begins in shared memory.
struct ConvPixel {
  int image, row, col;  // of the target; outside of it where there is no such pixel
  int place;
};

// A block's pixels: those of a phase from number `first` on.
struct PixelTile {
  int first, phase_y, phase_x;

  __device__ ConvPixel pixel(const ConvTiles& g, int i) const {
    const int number = first + i, row = g.by_columns.of(number), strip = g.by_image_rows.of(row);
    const int row0 = g.by_columns.of(first), strip0 = g.by_image_rows.of(row0);
    const int image = g.by_column_blocks.of(strip), block = strip - image * g.column_blocks, col = number - row * g.columns;
    if (i >= g.pixels || image >= g.images) return {image, g.y.target, g.x.target, 0};
    return {image, (row - strip * g.image_rows()) * g.y.target_step() + phase_y,
            (block * g.columns + col) * g.x.target_step() + phase_x,
            (row - row0) * g.pitch + (strip - strip0) * g.image_gap + col};
  }
};

// Where the pixel lies, from what a target's pixel meets first, that it meets by the tap (ky, kx) in the same channel.
__device__ inline int place_of_tap(const ConvTiles& g, int ky, int kx, int phase_y, int phase_x) {
  const int plane = g.y.plane(ky) * g.x.planes() + g.x.plane(kx);
  return plane * g.plane_size + g.y.offset(phase_y, ky) * g.pitch + g.x.offset(phase_x, kx);
}

// A pixel of the halo: where it comes from, seen from the first image's channel, or -1: 0; and its place in shared memory.
struct HaloPixel {
  int32_t source, place;
};

// The halo of a block.
struct Halo {
  int row0, strip0, strip1, rows, wide, count;  // pixels [planes, rows, wide]

  __device__ Halo(const ConvTiles& g, PixelTile tile)
      : row0(g.by_columns.of(tile.first)), strip0(g.by_image_rows.of(row0)), wide(g.columns + g.x.reach()) {
    const int last = g.by_columns.of(tile.first + g.pixels - 1), end = g.images * g.column_blocks * g.image_rows() - 1;
    const int row1 = last < end ? last : end;
    strip1 = g.by_image_rows.of(row1);
    rows = row1 - row0 + 1 + (strip1 - strip0 + 1) * g.y.reach();
    count = rows * wide * g.y.planes() * g.x.planes();
  }

  __device__ HaloPixel pixel(const ConvTiles& g, int i) const {
    const int line = g.by_wide.of(i), col = i - line * wide, plane = line < rows ? 0 : line / rows, row = line - plane * rows;
    const int reach = g.y.reach();
    // Strip j's rows of the halo begin j * reach behind its rows of pixels.
    int strip = strip1;
    while (strip > strip0 && strip * g.image_rows() - row0 + (strip - strip0) * reach > row) --strip;
    const int below = row - (strip - strip0) * reach;  // rows of pixels from the block's first one on
    const int plane_y = plane == 0 ? 0 : plane / g.x.planes(), plane_x = plane - plane_y * g.x.planes();
    const int sy = (row0 + below - strip * g.image_rows() + g.y.low()) * g.y.source_step() + g.y.residue(plane_y);
    const int image = g.by_column_blocks.of(strip), block = strip - image * g.column_blocks;
    const int sx = (block * g.columns + col + g.x.low()) * g.x.source_step() + g.x.residue(plane_x);
    const bool inside = sy >= 0 && sy < g.y.source && sx >= 0 && sx < g.x.source;
    const int64_t from = (image - g.by_column_blocks.of(strip0)) * g.source_image() + int64_t{sy} * g.x.source + sx;
    return {inside ? static_cast<int32_t>(from) : -1,
            plane * g.plane_size + below * g.pitch + (strip - strip0) * g.image_gap + col};
  }
};

// What a lane reads of a stage.
template <class T>
struct LanePixels {
  Shared<T> stage;
  const int (&at)[kPerLane<T>];  // elements

  __device__ Words<T, kPerLane<T>> operator()(int place) const {
    Words<T, kPerLane<T>> pixels;
#pragma unroll
    for (int t = 0; t < kPerLane<T>; ++t) pixels.set(t, element_at<T>(stage + at[t], place));
    return pixels;
  }
};

// The source on its way to the stages of a block, part by part: an element at a time, for rows of pixels are not aligned. A
// thread brings one pixel of several channels; where the halo has more pixels than the block threads, several pixels of one.
template <class T>
struct ConvFeed {
  using Element = T;
  static constexpr int kUnits = kPartElements<T> / kMultiplyThreads;

  const ConvTiles& g;
  const T* source;  // of the first image and the group's first channel
  Shared<HaloPixel> halo;
  int count;            // of the halo's pixels
  int at[kPerLane<T>];  // from a stage's beginning to what the lane's pixels meet first
  int part = 0;         // the next one, counted over all stages
  Words<T, kUnits> units = {};

  static __device__ int stage_elements(int parts) { return parts * kPartElements<T>; }
  __device__ LanePixels<T> reader(Shared<T> stage) const { return {stage, at}; }
  __device__ bool has_part() const { return part * g.part_channels < g.source_channels; }

  // f(unit, channel, pixel of the halo) for each element of this thread.
  template <class F>
  __device__ __forceinline__ void for_each(F f) const {
    const int thread = static_cast<int>(threadIdx.x), left = g.source_channels - part * g.part_channels;
    const int channels = left < g.part_channels ? left : g.part_channels;
    if (count <= kMultiplyThreads) {
      const int together = kMultiplyThreads / count, first = thread / count;  // channels
      if (first >= together) return;
      const HaloPixel pixel = halo[thread - first * count];
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        if (first + u * together < channels) f(u, first + u * together, pixel);
      return;
    }
    int channel = 0, pixel = thread;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (channel < channels) f(u, channel, HaloPixel(halo[pixel]));
      pixel += kMultiplyThreads;
      if (pixel >= count) pixel -= count, ++channel;
    }
  }
  __device__ __forceinline__ void load() {
    const int64_t plane = g.source_plane();
    const T* from = source + part * g.part_channels * plane;
    for_each([&](int u, int channel, HaloPixel pixel) {
      units.set(u, pixel.source >= 0 ? from[channel * plane + pixel.source] : T{});
    });
  }
  // As the i-th part of a stage.
  __device__ __forceinline__ void store(Shared<T> stage, int i) {
    const Shared<T> to = stage + i * kPartElements<T>;
    for_each([&](int u, int channel, HaloPixel pixel) { to[channel * g.channel_size + pixel.place] = units[u]; });
    ++part;
  }
  // All of it, without its `missing` parts.
  __device__ void first_stage(Shared<T> stage, int missing, int parts) {
    for (int i = missing; i < parts && has_part(); ++i) {
      load();
      store(stage, i);
    }
  }
};

}  // namespace spx::cuda::csr
