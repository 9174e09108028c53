// What the convolutions of a CSR weight make anew where Inf or NaN may have met padding. Packed images have zeros there, and
// Inf times zero is NaN; but nothing is there to be multiplied. Here only pixels that exist are, in plain loops, and no more of
// them once a sum is NaN after all. So training that has failed, with NaN everywhere, does not take much longer.
#pragma once
#include "cpu/csr/conv.h"

namespace spx::cpu::SPX_ISA::csr {

constexpr int64_t kLinePixels = 64;  // of a row of the result, whose sums are kept at a time

// Plane r of the result of an image, in this row from column `col` on. The entries are those of `convolve`, in the same order.
template <class A, class T>
void remake_pixels(const Images<T>& y, const Images<const T>& x, const Geometry& g, const Entries<A>& entries, A bias,
                   bool relu, int64_t image, int64_t r, int64_t row, int64_t col) {
  const int64_t pixels = min(kLinePixels, y.width - col);
  A sums[kLinePixels];
  for (int64_t t = 0; t < pixels; ++t) sums[t] = bias;
  for (int64_t j = 0; j < min(g.cols.phases, pixels); ++j) {
    const int32_t* list = entries.list(g.rows.phase(row) * g.cols.phases + g.cols.phase(col + j), r);
    bool open = true;  // whether a sum is not NaN yet
    for (int64_t p = list[0]; p < list[entries.tiles] && open; ++p) {
      const int64_t plane = entries.at[p] / g.window.size(), in_plane = entries.at[p] % g.window.size();
      const int64_t from_row = g.rows.first + g.rows.base(row) + in_plane / g.window.cols;
      if (from_row < 0 || from_row >= x.height) continue;
      const T* line = x.data + ((image * x.planes + plane) * x.height + from_row) * x.width;
      int64_t from_col = g.cols.first + g.cols.base(col + j) + in_plane % g.window.cols;
      open = false;
      for (int64_t t = j; t < pixels; t += g.cols.phases, from_col += g.cols.step) {
        if (from_col >= 0 && from_col < x.width) sums[t] += entries.values[p] * to_acc(line[from_col]);
        open = open || sums[t] == sums[t];
      }
    }
  }
  T* out = y.data + ((image * y.planes + r) * y.height + row) * y.width + col;
  for (int64_t t = 0; t < pixels; ++t) from_acc(out + t, relu && sums[t] < 0 ? A(0) : sums[t]);
}

// Whether all entries of a plane of the result are finite.
template <class A>
bool is_finite(const Entries<A>& entries, int64_t phases, int64_t r) {
  bool finite = true;
  for (int64_t phase = 0; phase < phases; ++phase) {
    const int32_t* list = entries.list(phase, r);
    for (int64_t p = list[0]; p < list[entries.tiles]; ++p) finite &= entries.values[p] - entries.values[p] == 0;
  }
  return finite;
}

// Of planes [r0, r1) of y those with entries that are Inf or NaN: all of their pixels.
template <class A, class T>
void remake_planes(const Images<T>& y, const Images<const T>& x, const Geometry& g, const Entries<A>& entries, const A* bias,
                   bool relu, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; ++r) {
    if (is_finite(entries, g.rows.phases * g.cols.phases, r)) continue;
    for (int64_t image = 0; image < g.bands.images; ++image)
      for (int64_t row = 0; row < y.height; ++row)
        for (int64_t col = 0; col < y.width; col += kLinePixels)
          remake_pixels(y, x, g, entries, bias ? bias[r] : A(0), relu, image, r, row, col);
  }
}

// The weight gradient at an entry; as soon as it is NaN it stays that.
template <class A, class T>
A sum_of_pixels(const T* dy, const T* x, const Conv2d& c, int64_t row, int64_t column) {
  const int64_t plane = row / c.rows_per_group() * c.channels + column / c.taps(), tap = column % c.taps();
  const int64_t down = tap / c.kernel_w * c.dilation_h - c.pad_top, right = tap % c.kernel_w * c.dilation_w - c.pad_left;
  A sum = 0;
  for (int64_t image = 0; image < c.batch; ++image)
    for (int64_t oy = 0; oy < c.out_height && sum == sum; ++oy) {
      const int64_t y = oy * c.stride_h + down;
      if (y < 0 || y >= c.height) continue;
      const T* dy_line = dy + ((image * c.rows + row) * c.out_height + oy) * c.out_width;
      const T* line = x + ((image * c.planes() + plane) * c.height + y) * c.width;
      for (int64_t ox = 0; ox < c.out_width; ++ox) {
        const int64_t at = ox * c.stride_w + right;
        if (at >= 0 && at < c.width) sum += to_acc(dy_line[ox]) * to_acc(line[at]);
      }
    }
  return sum;
}

// Of the entries of rows [r0, r1) those whose gradient is NaN, as Inf in dy makes it of padding, and Inf in x of the zeros that
// stand for pixels of dy where a band ends below the image.
template <class A, class T, class Index>
void remake_entries(A* dw, const CsrPattern<Index>& pattern, const T* dy, const T* x, const Conv2d& c, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; ++r)
    for (int64_t p = pattern.row_ptr[r]; p < pattern.row_ptr[r + 1]; ++p)
      if (dw[p] != dw[p]) dw[p] = sum_of_pixels<A>(dy, x, c, r, pattern.col_idx[p]);
}

}  // namespace spx::cpu::SPX_ISA::csr
