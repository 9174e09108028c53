// How a convolution is cut into blocks of csr_conv2d_kernel and csr_conv2d_grad_weight_kernel, decided by the host.
//
//   source  the images that are read: x, or dy for the input gradient; target: those that are made. [images, channels, height,
//           width]
//   plane   source pixels that one tap can meet together: with stride 2, those of even columns, or of odd ones. So neighbouring
//           lanes read neighbouring words at every stride
//   phase   target pixels that meet the same taps: of the input gradient, one in `stride`; otherwise there is one phase
//   block   up to kPixels pixels of a phase, one after the other through a strip of images: `columns` of them wide, row by row,
//           image by image. A lane has kPerLane of them, 32 apart
//   halo    the source pixels that they meet, of one channel and all planes. Behind a row of pixels there is room, so that the
//           next one begins where the banks go on: 32 neighbouring lanes read 32 banks, at any width
//   part    as many channels as fit 24 KB, which a thread carries in 12 registers; stage: up to three parts
#pragma once
#include "common/conv.h"
#include "cuda/csr/rows.cuh"

namespace spx::cuda::csr {

constexpr int kHaloPixels = 1536;  // of one channel, at most

template <class T>
constexpr int kPixels = kPerLane<T> * kWarp;
template <class T>
constexpr int kPartElements = sizeof(T) == 8 ? 3072 : 6144;
constexpr int kMostConvParts = 3;

// Divides 0 <= n < 2^31 by a multiplication (Granlund and Montgomery 1994).
struct Divisor {
  int by = 1, shift = 0;
  uint32_t factor = 0;  // of n * 2^-(32 + shift); 0: by is 1

  Divisor() = default;
  explicit Divisor(int by) : by(by) {
    if (by == 1) return;
    while ((int64_t{1} << (shift + 1)) < by) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << (32 + shift)) + by - 1) / by);
  }
  SPX_HOST_DEVICE int of(int n) const {
    return factor ? static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * factor >> 32 >> shift) : n;
  }
};

SPX_HOST_DEVICE int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// One dimension of a convolution. Target index i of a phase is pixel i * target_step() + phase; for tap k it meets the pixel of
// plane(k) whose index is i + low() + offset(phase, k), and which is pixel index * source_step() + residue(plane).
struct ConvAxis {
  int taps, stride, dilation, pad, target, source;
  bool backwards;

  SPX_HOST_DEVICE int phases() const { return backwards ? stride : 1; }
  SPX_HOST_DEVICE int target_step() const { return phases(); }
  SPX_HOST_DEVICE int source_step() const { return backwards ? 1 : stride; }
  SPX_HOST_DEVICE int count() const {
    return target / phases() + (target % phases() > 0);
  }  // of a phase's indices; its last may be outside
  SPX_HOST_DEVICE int shift(int phase, int k) const { return backwards ? phase + pad - k * dilation : k * dilation - pad; }

  SPX_HOST_DEVICE bool meets(int phase, int k) const { return !backwards || (phase + pad - k * dilation) % stride == 0; }
  SPX_HOST_DEVICE bool plane_is_tap() const { return taps <= stride; }
  SPX_HOST_DEVICE int planes() const { return backwards ? 1 : plane_is_tap() ? taps : stride; }
  SPX_HOST_DEVICE int plane(int k) const { return backwards ? 0 : plane_is_tap() ? k : remainder(k); }
  SPX_HOST_DEVICE int residue(int plane) const { return backwards ? 0 : plane_is_tap() ? remainder(plane) : plane; }
  SPX_HOST_DEVICE int low() const { return floor_div(backwards ? pad - (taps - 1) * dilation : -pad, stride); }
  SPX_HOST_DEVICE int reach() const {  // the largest offset
    return floor_div(backwards ? stride - 1 + pad : (taps - 1) * dilation - pad, stride) - low();
  }
  SPX_HOST_DEVICE int offset(int phase, int k) const { return floor_div(shift(phase, k), stride) - low(); }

 private:
  SPX_HOST_DEVICE int remainder(int k) const { return shift(0, k) - floor_div(shift(0, k), stride) * stride; }
};

// How a convolution is cut into blocks. Sizes in shared memory are counted in elements.
struct ConvTiles {
  ConvAxis y, x;
  int images, groups, source_channels, target_channels;  // channels of a group
  int columns = 1, column_blocks = 1;
  Divisor by_columns, by_image_rows, by_column_blocks, by_wide;
  int pitch = 0, image_gap = 0, plane_size = 0, channel_size = 0;
  int part_channels = 0;
  int pixels = 0, pixel_tiles = 0;  // of a block; and how many blocks a phase's pixels are

  // The target's channels count as rows. A part should have least_columns columns of the weight, or cells would have few
  // entries.
  ConvTiles(const Conv2d& shape, bool backwards, int most_pixels, int part_elements, int least_columns)
      : ConvTiles(flattened(shape), backwards) {
    if (!is_countable(shape)) return;
    // Fewer pixels only where the halo of all does not fit; rows without gaps where these would leave few channels to a part.
    for (int tried = most_pixels; tried >= 1 && !fits(); tried /= 2) {
      find_columns(tried, true, part_elements);
      if (part_channels >= source_channels || part_channels * y.taps * x.taps >= least_columns) continue;
      const ConvTiles with_gaps = *this;
      find_columns(tried, false, part_elements);
      if (part_channels <= with_gaps.part_channels) *this = with_gaps;
    }
    if (int64_t{pixel_tiles} * phases() * rows() > INT32_MAX) part_channels = 0;  // as many blocks, at most
  }

  bool fits() const { return part_channels > 0; }
  SPX_HOST_DEVICE int phases() const { return y.phases() * x.phases(); }
  SPX_HOST_DEVICE int image_rows() const { return y.count(); }
  SPX_HOST_DEVICE int64_t target_plane() const { return int64_t{y.target} * x.target; }
  SPX_HOST_DEVICE int64_t source_plane() const { return int64_t{y.source} * x.source; }
  SPX_HOST_DEVICE int64_t source_image() const { return groups * source_channels * source_plane(); }
  SPX_HOST_DEVICE int rows() const { return groups * target_channels; }

  // Of a block, at most: rows of pixels, strips, and pixels of a halo. Blocks begin at multiples of `pixels`.
  int most_rows() const {
    if (pixels % columns == 0) return pixels / columns;
    return columns % pixels == 0 ? 1 : (pixels + columns - 2) / columns + 1;
  }
  int most_strips() const { return (most_rows() + image_rows() - 2) / image_rows() + 1; }
  int most_halo() const {
    const int64_t rows = most_rows() + int64_t{most_strips()} * y.reach();
    const int64_t halo = rows * (columns + x.reach()) * y.planes() * x.planes();
    return halo < INT32_MAX ? static_cast<int>(halo) : INT32_MAX;
  }

 private:
  // Whether there is something to make, whose pixels a halo can reach, and 32 bits count it: its phases, its cells at most.
  bool is_countable(const Conv2d& c) const {
    constexpr int64_t kMost = 1 << 30, kMostPhases = 1 << 12;
    const int64_t reach_h = (c.kernel_h - 1) * c.dilation_h, reach_w = (c.kernel_w - 1) * c.dilation_w;
    for (int64_t size : {reach_h, reach_w, c.stride_h, c.stride_w, c.dilation_h, c.dilation_w, c.pad_top, c.pad_left, c.batch})
      if (size > kMost) return false;
    const int64_t all_phases = int64_t{y.phases()} * x.phases();
    const bool reaches = y.reach() < kHaloPixels && x.reach() < kHaloPixels;
    return reaches && y.count() > 0 && x.count() > 0 && all_phases <= kMostPhases &&
           rows() * all_phases * source_channels <= kMost;
  }

  ConvTiles(const Conv2d& c, bool backwards)
      : y{axis(c.kernel_h, c.stride_h, c.dilation_h, c.pad_top, c.height, c.out_height, backwards)},
        x{axis(c.kernel_w, c.stride_w, c.dilation_w, c.pad_left, c.width, c.out_width, backwards)},
        images(static_cast<int>(c.batch)),
        groups(static_cast<int>(c.groups)),
        source_channels(static_cast<int>(backwards ? c.rows_per_group() : c.channels)),
        target_channels(static_cast<int>(backwards ? c.channels : c.rows_per_group())) {}

  // Where every pixel meets the one in its own place, an image is a row: its pixels follow each other in memory.
  static Conv2d flattened(Conv2d c) {
    const bool one = c.taps() == 1 && c.pad_top == 0 && c.pad_left == 0;
    if (one && c.height == c.out_height && c.width == c.out_width)
      c.width *= c.height, c.out_width *= c.out_height, c.height = c.out_height = 1;
    return c;
  }

  static ConvAxis axis(int64_t taps, int64_t stride, int64_t dilation, int64_t pad, int64_t size, int64_t out, bool backwards) {
    return {static_cast<int>(taps),
            static_cast<int>(stride),
            static_cast<int>(dilation),
            static_cast<int>(pad),
            static_cast<int>(backwards ? size : out),
            static_cast<int>(backwards ? out : size),
            backwards};
  }

  // Those with the least to do: a block computes all of its pixels, and brings its halo, of which every line begins and ends
  // inside a sector of memory.
  void find_columns(int block_pixels, bool gaps, int part_elements) {
    constexpr int64_t kPixelCost = 4, kLineCost = 8;
    int64_t least = INT64_MAX;
    ConvTiles found = *this;
    const auto consider = [&](int64_t wide) {
      const ConvTiles tried = with_columns(static_cast<int>(wide), block_pixels, gaps, part_elements);
      if (!tried.fits()) return;
      const int64_t halo = tried.most_halo(), lines = halo / (tried.columns + x.reach());
      const int64_t cost = tried.pixel_tiles * (block_pixels * kPixelCost + halo + lines * kLineCost);
      if (cost < least) least = cost, found = tried;
    };
    for (int blocks = 1; blocks == 1 || (blocks <= 64 && x.count() / blocks >= 8); ++blocks)
      consider(ceil_div(x.count(), blocks));
    for (int wide = kWarp; wide <= 4 * kWarp; wide *= 2) consider(wide);
    *this = found;
  }

  ConvTiles with_columns(int wide, int block_pixels, bool gaps, int part_elements) const {
    ConvTiles made = *this;
    made.part_channels = 0;  // unless it fits
    made.pixels = block_pixels;
    made.columns = wide < 1 ? 1 : wide;
    made.column_blocks = static_cast<int>(ceil_div(x.count(), made.columns));
    const int needs = made.columns + x.reach();
    made.pitch = gaps ? made.columns + static_cast<int>(ceil_div(x.reach(), kWarp)) * kWarp : needs;
    made.image_gap = y.reach() * made.pitch;
    if (gaps) made.image_gap = static_cast<int>(ceil_div(made.image_gap, kWarp)) * kWarp;
    if (made.columns % kWarp == 0) made.pitch = needs;  // 32 lanes are in one row
    const int64_t plane = int64_t{made.most_rows()} * made.pitch + int64_t{made.most_strips()} * made.image_gap + x.reach();
    const int64_t channel = plane * y.planes() * x.planes();
    const int64_t count = int64_t{images} * made.column_blocks * y.count() * made.columns;
    const bool counts = count <= INT32_MAX - block_pixels && made.most_strips() * source_image() <= INT32_MAX;
    if (channel > part_elements || made.most_halo() > kHaloPixels || !counts) return made;
    made.part_channels = static_cast<int>(part_elements / channel);
    // A thread brings a pixel of so many channels (ConvFeed).
    const int carried = part_elements / kMultiplyThreads * (kMultiplyThreads / made.most_halo());
    if (made.most_halo() <= kMultiplyThreads && made.part_channels > carried) made.part_channels = carried;
    if (made.part_channels > source_channels && source_channels > 0) made.part_channels = source_channels;
    made.by_columns = Divisor(made.columns);
    made.by_image_rows = Divisor(made.image_rows());
    made.by_column_blocks = Divisor(made.column_blocks);
    made.by_wide = Divisor(made.columns + x.reach());
    made.plane_size = static_cast<int>(plane);
    made.channel_size = static_cast<int>(channel);
    made.pixel_tiles = static_cast<int>(ceil_div(count, block_pixels));
    return made;
  }
};

}  // namespace spx::cuda::csr
