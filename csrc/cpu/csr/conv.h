// What the convolutions of a CSR weight share: where pixels and taps lie in packed images, and lists of entries.
#pragma once
#include "common/conv.h"
#include "common/views.h"
#include "cpu/simd/images.h"
#include "cpu/simd/tiles.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::csr {

constexpr int kMaxPixels = 8;  // registers of sums: multiply-adds take 4 cycles, and two can begin in each

// f(a constant) for 1 <= n <= 8.
template <class F>
void with_constant(int64_t n, F f) {
  switch (n) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 7: return f(std::integral_constant<int, 7>{});
    default: return f(std::integral_constant<int, 8>{});
  }
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

// A convolution of packed images: the source's windows, the result's bands.
struct Geometry {
  Axis rows, cols;
  Bands bands;
  Window window;
};
template <class A>
Geometry geometry(const Axis& rows, const Axis& cols, int64_t images, int64_t height, int64_t width) {
  const Bands bands = bands_for<A>(images, height, rows.phases);
  const Window window = {rows.length(bands.rows), cols.length(width), rows.first, cols.first,
                         bands.rows / rows.phases * rows.step};
  return {rows, cols, bands, window};
}

template <class A>
Geometry forward_geometry(const Conv2d& c) {
  return geometry<A>(forward_axis(c.kernel_h, c.stride_h, c.pad_top, c.dilation_h),
                     forward_axis(c.kernel_w, c.stride_w, c.pad_left, c.dilation_w), c.batch, c.out_height, c.out_width);
}
template <class A>
Geometry gradient_geometry(const Conv2d& c) {
  return geometry<A>(gradient_axis(c.kernel_h, c.stride_h, c.pad_top, c.dilation_h),
                     gradient_axis(c.kernel_w, c.stride_w, c.pad_left, c.dilation_w), c.batch, c.height, c.width);
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

// Tiles of the source's planes that a pixel meets, such that a tile stays in the first cache levels.
inline int64_t plane_tiles(int64_t rows, int64_t planes, int64_t capacity, const Axis& tall, const Axis& wide) {
  const int64_t bytes = tall.taps * ((kMaxPixels - 1) * wide.step + wide.reach() + 1) * kVecBytes;
  return tile_count(rows, planes, capacity, bytes);
}

// The forward product's lists of rows [r0, r1), a row's in the order of its columns.
template <class A, class T, class Index>
void list_rows(const Entries<A>& to, const CsrPattern<Index>& pattern, const T* values, const Conv2d& c, const Geometry& g,
               const int32_t* offsets, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; ++r) {
    const int64_t group = r / c.rows_per_group() * c.channels * g.window.size(), end = pattern.row_ptr[r + 1];
    int64_t p = pattern.row_ptr[r];
    for (int64_t k = 0; k < to.tiles; ++k) {
      to.ptr[r * to.tiles + k] = static_cast<int32_t>(p);
      const int64_t bound = k + 1 < to.tiles ? c.channels * (k + 1) / to.tiles * c.taps() : pattern.cols;
      for (; p < end && pattern.col_idx[p] < bound; ++p) {
        to.at[p] = static_cast<int32_t>(group) + offsets[pattern.col_idx[p]];
        if (values) to.values[p] = to_acc(values[p]);
      }
    }
  }
  if (r0 < r1 && r1 == pattern.rows) to.ptr[r1 * to.tiles] = pattern.row_ptr[r1];
}

// The offsets of columns [c0, c1) of the weight in packed images.
inline void column_offsets(int32_t* offsets, const Conv2d& c, const Geometry& g, int64_t c0, int64_t c1) {
  for (int64_t column = c0; column < c1; ++column) {
    const int64_t tap = column % c.taps(), ky = tap / c.kernel_w, kx = tap % c.kernel_w;
    offsets[column] =
        static_cast<int32_t>(column / c.taps() * g.window.size() + g.rows.offset(ky) * g.window.cols + g.cols.offset(kx));
  }
}

// The first entry in [p, end) whose row is not above `bound`.
template <class Index>
inline int64_t first_from(const Index* row_idx, int64_t p, int64_t end, int64_t bound) {
  while (p < end) {
    const int64_t middle = (p + end) / 2;
    if (row_idx[middle] < bound)
      p = middle + 1;
    else
      end = middle;
  }
  return p;
}

// f(tap, begin, end): the entries of the transposed view that list (phase, plane) has of tile k, tap by tap.
template <class Index, class F>
void for_each_segment(const CsrPattern<Index>& view, const Conv2d& c, const Geometry& g, int64_t phase, int64_t plane,
                      int64_t k, int64_t tiles, F f) {
  const int64_t group = plane / c.channels * c.rows_per_group(), channel = plane % c.channels;
  const int64_t from = group + c.rows_per_group() * k / tiles, to = group + c.rows_per_group() * (k + 1) / tiles;
  for (int64_t ky = 0; ky < c.kernel_h; ++ky) {
    if (g.rows.tap_phase(ky) != phase / g.cols.phases) continue;
    for (int64_t kx = 0; kx < c.kernel_w; ++kx) {
      if (g.cols.tap_phase(kx) != phase % g.cols.phases) continue;
      const int64_t column = channel * c.taps() + ky * c.kernel_w + kx;
      int64_t begin = view.row_ptr[column], end = view.row_ptr[column + 1];
      if (from > 0) begin = first_from(view.col_idx, begin, end, from);
      if (to < c.rows) end = first_from(view.col_idx, begin, end, to);
      if (begin < end) f(ky * c.kernel_w + kx, begin, end);
    }
  }
}

// The input gradient's lists: where each begins, by one thread.
template <class A, class Index>
void count_planes(const Entries<A>& to, const CsrPattern<Index>& view, const Conv2d& c, const Geometry& g) {
  int64_t p = 0, list = 0;
  for (int64_t phase = 0; phase < g.rows.phases * g.cols.phases; ++phase)
    for (int64_t plane = 0; plane < to.rows; ++plane)
      for (int64_t k = 0; k < to.tiles; ++k) {
        to.ptr[list++] = static_cast<int32_t>(p);
        for_each_segment(view, c, g, phase, plane, k, to.tiles, [&](int64_t, int64_t begin, int64_t end) { p += end - begin; });
      }
  to.ptr[list] = static_cast<int32_t>(p);
}

// Then the lists of planes [p0, p1), in the order of taps and rows.
template <class A, class T, class Index>
void list_planes(const Entries<A>& to, const CsrView<T, Index>& w, const Conv2d& c, const Geometry& g, int64_t p0, int64_t p1) {
  const CsrPattern<Index>& view = w.pattern;
  for (int64_t phase = 0; phase < g.rows.phases * g.cols.phases; ++phase)
    for (int64_t plane = p0; plane < p1; ++plane)
      for (int64_t k = 0; k < to.tiles; ++k) {
        int64_t q = to.list(phase, plane)[k];
        for_each_segment(view, c, g, phase, plane, k, to.tiles, [&](int64_t tap, int64_t begin, int64_t end) {
          const int64_t offset = g.rows.offset(tap / c.kernel_w) * g.window.cols + g.cols.offset(tap % c.kernel_w);
          for (int64_t p = begin; p < end; ++p, ++q) {
            to.at[q] = static_cast<int32_t>(view.col_idx[p] * g.window.size() + offset);
            to.values[q] = to_acc(w.values[view.slot[p]]);
          }
        });
      }
}

}  // namespace spx::cpu::SPX_ISA::csr
