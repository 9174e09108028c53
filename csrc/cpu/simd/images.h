// Blocks of images: the form of activations that the CPU convolutions multiply.
//
// PyTorch's activations are [images, planes, height, width]. A kernel packs kLanes images into [planes, rows, cols, kLanes], so
// that one weight meets the same pixel of kLanes images: images are the SIMD lanes. Then neighbours of any stride are whole
// registers, aligned, and rows and columns outside of the plane are zeros. Where there are fewer images than lanes, an image is
// cut into bands of rows, and a lane is a band.
#pragma once
#include "cpu/simd/tokens.h"

namespace spx::cpu::SPX_ISA {

// How images are spread over lanes: lane i of all is band i % bands of image i / bands, and holds `rows` rows of the result.
struct Bands {
  int64_t images, bands, rows;

  int64_t lanes() const { return images * bands; }
};

// Bands of a result of so many rows, in multiples of `step`: as few as keep nine lanes in ten busy, or the busiest.
template <class A>
Bands bands_for(int64_t images, int64_t rows, int64_t step) {
  Bands best{images, 1, ceil_div(rows, step) * step};
  int64_t best_work = ceil_div(images, kLanes<A>) * best.rows;
  for (int64_t bands = 2; bands <= min(kLanes<A>, ceil_div(rows, step)); ++bands) {
    const int64_t band = ceil_div(ceil_div(rows, bands), step) * step, work = ceil_div(images * bands, kLanes<A>) * band;
    if (work * 10 < best_work * 9) best = {images, bands, band}, best_work = work;
  }
  return best;
}

// The part of every plane that a lane has packed: [rows, cols] from row band * row_step + first_row and column first_col on.
struct Window {
  int64_t rows, cols, first_row, first_col, row_step;

  int64_t size() const { return rows * cols; }
};

// kLanes elements of x from index q on, as they exist in [begin, end), and 0 elsewhere.
template <class A, class T>
inline Vec<A> load_part(const T* x, int64_t q, int64_t begin, int64_t end) {
  if (q >= begin && q + kLanes<A> <= end) return load<A>(x + q);
  T part[kLanes<A>];
  memset(part, 0, sizeof part);
  const int64_t from = max(q, begin), to = min(q + kLanes<A>, end);
  if (from < to) memcpy(part + (from - q), x + from, static_cast<size_t>(to - from) * sizeof(T));
  return load<A>(part);
}

// Stores kLanes neighbours of a plane, column `col` of a row and behind, at the row's packed registers.
template <class A>
inline void store_neighbours(A* row, const Vec<A>* v, int64_t col, int64_t width, int64_t cols) {
  constexpr int n = kLanes<A>;
  if (width >= n) {
    A* next = row + (cols - width) * n;  // what is behind the row's end goes on in the next one
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) store<A>((col + i < width ? row : next) + (col + i) * n, v[i]);
  } else {
    for (int i = 0; i < n; ++i) {
      store<A>(row + col * n, v[i]);
      if (++col == width) col = 0, row += cols * n;
    }
  }
}

// to[p][row][col][lane] for planes [p0, p1) of the lanes [lane0, lane0 + kLanes); x [images, planes, height, width].
template <class A, class T>
[[gnu::noinline]] void pack_images(A* to, const T* x, int64_t planes, int64_t height, int64_t width, const Bands& bands,
                                   const Window& window, int64_t lane0, int64_t p0, int64_t p1) {
  constexpr int n = kLanes<A>;
  int64_t lane_at[n];                             // of each lane: where row 0 of its window would be in plane 0
  int64_t begin[n], end[n];                       // and what exists of the window, by index q
  int64_t first = 0, last = window.rows * width;  // what exists in all lanes
  for (int i = 0; i < n; ++i) {
    const int64_t lane = lane0 + i, row = lane % bands.bands * window.row_step + window.first_row;
    const bool exists = lane < bands.lanes();
    lane_at[i] = ((exists ? lane / bands.bands : 0) * planes * height + row) * width;
    begin[i] = max(0, -row) * width;
    end[i] = exists ? min(window.rows, height - row) * width : 0;
    first = max(first, begin[i]), last = min(last, end[i]);
  }
  const int64_t inside = min(window.cols, max(0, width - window.first_col)), before = max(0, -window.first_col);
  const bool has_all = window.first_col <= 0 && inside == width - window.first_col;  // of a plane's columns
  for (int64_t p = p0; p < p1; ++p) {
    A* out = to + p * window.size() * n;
    for (int64_t r = 0; r < window.rows; ++r) {  // columns that no plane has
      fill_zero(out + r * window.cols * n, min(before, window.cols) * n);
      fill_zero(out + (r * window.cols + inside) * n, (window.cols - inside) * n);
    }
    int64_t row = 0, col = 0;  // of the next element in the plane's rows
    for (int64_t q = 0; q < window.rows * width; q += n) {
      Vec<A> v[n];
      if (q >= first && q + n <= last) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) v[i] = load<A>(x + lane_at[i] + p * height * width + q);
      } else {
        for (int i = 0; i < n; ++i) {
          const int64_t at = lane_at[i] + p * height * width;
          v[i] = load_part<A>(x, at + q, at + begin[i], at + end[i]);
        }
      }
      transpose<A>(v);
      if (has_all && q + n <= window.rows * width) {
        store_neighbours(out + (row * window.cols - window.first_col) * n, v, col, width, window.cols);
        for (col += n; col >= width; col -= width) ++row;
        continue;
      }
      for (int i = 0; i < n && row < window.rows; ++i) {
        const int64_t at = col - window.first_col;
        if (at >= 0 && at < window.cols) store<A>(out + (row * window.cols + at) * n, v[i]);
        if (++col == width) col = 0, ++row;
      }
    }
  }
}

// Stores `pixels` lanes of each of kPlanes planes, which lie kPart lanes apart in a register and `plane` elements apart at p.
template <int kPart, int kPixels, class A, class T, int... kPlane>
inline void store_planes(T* p, int64_t plane, int count, Vec<A> v, std::integer_sequence<int, kPlane...>) {
  ((kPlane < count ? store_lanes<kPlane * kPart, kPixels, A>(p + kPlane * plane, v) : void()), ...);
}

// The way back, of kWidth neighbouring pixels of the planes [p0, p1), whose sums lie `stride` pixels apart: sums[plane][pixel]
// [lane] to row r of each lane's band, column `col` and behind, of y [images, planes, height, width]; relu, if `relu`. Streams
// whole registers, if `streams`.
template <int kWidth, class A, class T>
[[gnu::noinline]] void unpack_pixels(T* y, int64_t planes, int64_t height, int64_t width, const Bands& bands, int64_t lane0,
                                     int64_t r, int64_t col, const A* sums, int64_t stride, int64_t p0, int64_t p1, bool relu,
                                     bool streams) {
  constexpr int n = kLanes<A>, kPart = kWidth < n ? kWidth : n, kPlanes = n / kPart;  // one transpose serves kPlanes planes
  constexpr int kRest = kWidth % kPart ? kWidth % kPart : kPart;
  constexpr auto kAllPlanes = std::make_integer_sequence<int, kPlanes>();
  T* lane_y[n];  // of the pixel in an image's plane 0, null where it does not exist
  for (int i = 0; i < n; ++i) {
    const int64_t lane = lane0 + i, row = lane % bands.bands * bands.rows + r;
    const bool exists = lane < bands.lanes() && row < height;
    lane_y[i] = exists ? y + (lane / bands.bands * planes * height + row) * width + col : nullptr;
  }
  for (int64_t p = p0; p < p1; p += kPlanes) {
    const int n_planes = static_cast<int>(min(kPlanes, p1 - p));
    for (int part = 0; part < kWidth; part += kPart) {
      Vec<A> v[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        const int plane = i / kPart;
        const auto pixel = min(part + i % kPart, kWidth - 1);
        v[i] = plane < n_planes ? load<A>(sums + ((p - p0 + plane) * stride + pixel) * n) : Vec<A>{};
        if (relu) v[i] = v[i] < 0 ? Vec<A>{} : v[i];
      }
      transpose<A>(v);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (!lane_y[i]) continue;
        T* out = lane_y[i] + p * height * width + part;
        if constexpr (kWidth == n && sizeof(T) == sizeof(A)) {
          if (streams) {
            stream<A>(out, v[i]);
            continue;
          }
        }
        if (part + kPart <= kWidth)
          store_planes<kPart, kPart, A>(out, height * width, n_planes, v[i], kAllPlanes);
        else
          store_planes<kPart, kRest, A>(out, height * width, n_planes, v[i], kAllPlanes);
      }
    }
  }
}

}  // namespace spx::cpu::SPX_ISA
