// What the convolutions of a CSR weight share: where pixels and taps lie in packed images, and lists of entries.
#pragma once
#include "common/conv.h"
#include "common/views.h"
#include "cpu/csr/entries.h"
#include "cpu/simd/images.h"
#include "cpu/simd/pixels.h"
#include "cpu/simd/tiles.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::csr {

constexpr int64_t kMaxTaps = 64;  // of kernels whose planes are cut into tiles: larger ones see few planes
// Registers of sums: multiply-adds take 4 cycles, and two can begin in each. The CPUs of 512 bits have 32 registers.
constexpr int kMaxPixels = kVecBytes == 64 ? 16 : 8;

// Whether a pixel of the result meets one pixel only, in every channel: as a product with a token for each pixel.
inline bool is_pointwise(const Conv2d& c) { return c.taps() * c.groups == 1 && c.pad_top == 0 && c.pad_left == 0; }
// Whether it meets only some of them.
inline bool is_strided(const Conv2d& c) { return c.height != c.out_height || c.width != c.out_width; }

// The pixels of x that a 1 x 1 kernel meets, and those of y.
template <class T>
Sampled<T> sampled_x(const Conv2d& c, T* x) {
  return {c.batch, c.channels, c.height, c.width, c.out_height, c.out_width, c.stride_h, c.stride_w, x};
}
template <class T>
Pixels<T> pixels_of_x(const Conv2d& c, T* x) {
  return {c.batch, c.channels, c.height * c.width, x};
}
template <class T>
Pixels<T> pixels_of_y(const Conv2d& c, T* y) {
  return {c.batch, c.rows, c.out_height * c.out_width, y};
}

// One dimension of a convolution, seen from its result: pixel i meets packed pixels from base(i) on, tap k the one offset(k)
// behind. Only taps of the pixel's phase meet it: of the input gradient one in `phases`, the stride; otherwise all.
struct Axis {
  int64_t taps, dilation, phases, shift, step, first;  // first: the index in the source of packed pixel 0
  bool backwards;

  int64_t base(int64_t i) const { return ((i + shift) / phases - shift / phases) * step; }
  int64_t phase(int64_t i) const { return (i + shift) % phases; }
  int64_t tap_phase(int64_t k) const { return k * dilation % phases; }
  int64_t reach() const { return (taps - 1) * dilation / phases; }  // the largest offset
  int64_t offset(int64_t k) const { return backwards ? reach() - k * dilation / phases : k * dilation; }
  int64_t length(int64_t pixels) const { return pixels > 0 ? base(pixels - 1) + reach() + 1 : 0; }  // packed, for so many
};
inline Axis forward_axis(int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  return {taps, dilation, 1, 0, stride, -pad, false};
}
inline Axis gradient_axis(int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
  return {taps, dilation, stride, pad, 1, pad / stride - (taps - 1) * dilation / stride, true};
}

// Images of one size, in memory as PyTorch has them.
template <class T>
struct Images {
  T* data;
  int64_t planes, height, width;
};

// A convolution of packed images: the result's bands, of which `chunk` rows are computed at a time, and the source's window for
// these.
struct Geometry {
  Axis rows, cols;
  Bands bands;
  int64_t chunk;
  Window window;

  // The window of the chunk that begins at row r of every band.
  Window from(int64_t r) const {
    Window moved = window;
    moved.first_row += rows.base(r);
    return moved;
  }
};

// A chunk's window should stay in the last-level cache, but the rows that chunks share are packed again by each.
constexpr int64_t kChunkBytes = 2 << 20;
template <class A>
Geometry geometry(const Axis& rows, const Axis& cols, int64_t images, int64_t planes, int64_t height, int64_t width) {
  const Bands bands = bands_for<A>(images, height, rows.phases);
  const int64_t line = planes * cols.length(width) * kVecBytes, step = rows.phases;
  int64_t chunk = ceil_div(max(1, 2 * rows.reach() / rows.step), step) * step;
  while (chunk + step <= bands.rows && rows.length(chunk + step) * line <= kChunkBytes) chunk += step;
  chunk = min(chunk, bands.rows);
  return {rows,
          cols,
          bands,
          chunk,
          {rows.length(chunk), cols.length(width), rows.first, cols.first, bands.rows / rows.phases * rows.step}};
}
template <class A>
Geometry forward_geometry(const Conv2d& c) {
  return geometry<A>(forward_axis(c.kernel_h, c.stride_h, c.pad_top, c.dilation_h),
                     forward_axis(c.kernel_w, c.stride_w, c.pad_left, c.dilation_w), c.batch, c.planes(), c.out_height,
                     c.out_width);
}
template <class A>
Geometry gradient_geometry(const Conv2d& c) {
  return geometry<A>(gradient_axis(c.kernel_h, c.stride_h, c.pad_top, c.dilation_h),
                     gradient_axis(c.kernel_w, c.stride_w, c.pad_left, c.dilation_w), c.batch, c.rows, c.height, c.width);
}

// Lists of entries, one for each phase and row of the result, cut into tiles of the source's planes: list (phase, row) has
// in tile k the entries ptr[(phase * rows + row) * tiles + k] to the next. at: packed registers from a pixel's base to its own.
template <class A>
struct Entries {
  int64_t rows, tiles;
  int32_t* ptr;
  int32_t* at;
  A* values;

  const int32_t* list(int64_t phase, int64_t row) const { return ptr + (phase * rows + row) * tiles; }
};

// Tiles of the source's planes: what a tile of pixels, at most `width` wide, meets of one stays in the first cache levels. A
// tile costs every row of the result that its sums are read and written, so tiles are larger where rows have fewer entries.
template <class Index>
int64_t plane_tiles(const CsrPattern<Index>& pattern, int64_t planes, int64_t width, const Axis& tall, const Axis& wide) {
  constexpr int64_t kLeastBytes = 64 << 10, kMostBytes = 256 << 10, kSegmentBytes = 6 << 10;
  if (tall.taps * wide.taps > kMaxTaps) return 1;
  const int64_t bytes = tall.taps * ((min(width, kMaxPixels) - 1) * wide.step + wide.reach() + 1) * kVecBytes;
  const int64_t for_density = kSegmentBytes * pattern.rows * pattern.cols / max(1, pattern.capacity);
  return max(1, ceil_div(planes * bytes, max(kLeastBytes, min(kMostBytes, for_density))));
}

// The forward product's lists of rows [r0, r1), a row's in the order of its columns.
template <class A, class T, class Index>
void list_rows(const Entries<A>& to, const CsrPattern<Index>& pattern, const T* values, const Conv2d& c, const Geometry& g,
               const int32_t* offsets, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; ++r) {
    const auto group = static_cast<int32_t>(r / c.rows_per_group() * c.channels * g.window.size());
    for (int64_t p = pattern.row_ptr[r]; p < pattern.row_ptr[r + 1]; ++p) {
      to.at[p] = group + offsets[pattern.col_idx[p]];
      if (values) to.values[p] = to_acc(values[p]);
    }
  }
  cut_rows(to.ptr, to.tiles, pattern, r0, r1);
}

// The offsets of columns [c0, c1) of the weight in packed images.
inline void column_offsets(int32_t* offsets, const Conv2d& c, const Geometry& g, int64_t c0, int64_t c1) {
  for (int64_t column = c0; column < c1; ++column) {
    const int64_t tap = column % c.taps(), ky = tap / c.kernel_w, kx = tap % c.kernel_w;
    offsets[column] =
        static_cast<int32_t>(column / c.taps() * g.window.size() + g.rows.offset(ky) * g.window.cols + g.cols.offset(kx));
  }
}

// f(tap, begin, end): the entries of the transposed view that list (phase, plane) has, tap by tap.
template <class Index, class F>
void for_each_tap(const CsrPattern<Index>& view, const Conv2d& c, const Geometry& g, int64_t phase, int64_t plane, F f) {
  const int64_t first = plane / c.channels * c.rows_per_group(), last = first + c.rows_per_group();
  for (int64_t ky = 0; ky < c.kernel_h; ++ky) {
    if (g.rows.tap_phase(ky) != phase / g.cols.phases) continue;
    for (int64_t kx = 0; kx < c.kernel_w; ++kx) {
      if (g.cols.tap_phase(kx) != phase % g.cols.phases) continue;
      const int64_t tap = ky * c.kernel_w + kx, column = plane % c.channels * c.taps() + tap;
      int64_t begin = view.row_ptr[column], end = view.row_ptr[column + 1];
      if (first > 0) begin = entry_at(view.col_idx, begin, end, first);
      if (last < c.rows) end = entry_at(view.col_idx, begin, end, last);
      if (begin < end) f(tap, begin, end);
    }
  }
}

// The input gradient's lists: where each begins, by one thread.
template <class A, class Index>
void count_planes(const Entries<A>& to, const CsrPattern<Index>& view, const Conv2d& c, const Geometry& g) {
  const int64_t phases = g.rows.phases * g.cols.phases;
  int64_t p = 0;
  for (int64_t phase = 0; phase < phases; ++phase)
    for (int64_t plane = 0; plane < to.rows; ++plane) {
      to.ptr[(phase * to.rows + plane) * to.tiles] = static_cast<int32_t>(p);
      for_each_tap(view, c, g, phase, plane, [&](int64_t, int64_t begin, int64_t end) { p += end - begin; });
    }
  to.ptr[phases * to.rows * to.tiles] = static_cast<int32_t>(p);
}

// Then the lists of planes [p0, p1), in the order of tiles, taps and rows.
template <class A, class T, class Index>
void list_planes(const Entries<A>& to, const CsrView<T, Index>& w, const Conv2d& c, const Geometry& g, int64_t p0, int64_t p1) {
  struct Segment {  // of a tap: what no tile has taken
    int64_t next, end, offset;
  };
  const CsrPattern<Index>& view = w.pattern;
  for (int64_t phase = 0; phase < g.rows.phases * g.cols.phases; ++phase)
    for (int64_t plane = p0; plane < p1; ++plane) {
      Segment segments[kMaxTaps];
      int64_t count = 0, q = *to.list(phase, plane);
      const auto take = [&](Segment& segment, int64_t bound) {
        for (; segment.next < segment.end && view.col_idx[segment.next] < bound; ++segment.next, ++q) {
          to.at[q] = static_cast<int32_t>(view.col_idx[segment.next] * g.window.size() + segment.offset);
          to.values[q] = to_acc(w.values[view.slot[segment.next]]);
        }
      };
      for_each_tap(view, c, g, phase, plane, [&](int64_t tap, int64_t begin, int64_t end) {
        Segment segment = {begin, end, g.rows.offset(tap / c.kernel_w) * g.window.cols + g.cols.offset(tap % c.kernel_w)};
        if (to.tiles == 1)
          take(segment, c.rows);
        else
          segments[count++] = segment;
      });
      for (int64_t k = 0; to.tiles > 1 && k < to.tiles; ++k) {
        to.ptr[(phase * to.rows + plane) * to.tiles + k] = static_cast<int32_t>(q);
        const int64_t group = plane / c.channels * c.rows_per_group();
        for (int64_t s = 0; s < count; ++s) take(segments[s], group + c.rows_per_group() * (k + 1) / to.tiles);
      }
    }
}

}  // namespace spx::cpu::SPX_ISA::csr
