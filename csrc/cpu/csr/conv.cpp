// Convolution with a CSR weight: y = conv(x, w) + bias, then relu, if `relu`; and its input gradient
//
//   x, y as torch.nn.functional.conv2d has them (common/conv.h), NCHW; w [rows, channels * taps], or its transposed view
//   work: a block of images is packed, with its padding, so that lanes are images; every entry is one offset into it. Up to
//   kMaxPixels neighbours of a row of the result are summed in registers over an entry list. No column matrix is ever made
//   the input gradient is the same of dy by the transposed view, with the taps mirrored; of stride s, pixels have s * s phases,
//   and a list for each: taps of other phases never meet them
//   a 1 x 1 kernel multiplies pixels where they lie (planes.h), or is csr_spmm's product, with pixels for tokens
//   threads share packing and pixels; each sum is one thread's, in the order of its list, in Acc<T>: the same bits for any
//   number of threads
// Entries that are Inf or NaN would make NaN of padding's zeros: rows that have some are made anew (conv_exact.h).
// ops/csr/conv.py has checked shapes, dtypes and ranges.
#include "cpu/csr/conv.h"
#include "cpu/csr/conv_exact.h"
#include "cpu/csr/planes.h"
#include "cpu/csr/spmm.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::csr {
namespace {

constexpr int64_t kPanelBytes = 64 << 10;  // of a panel's sums, which stay in the first cache levels while tiles pass

// sum[t] += value * the packed pixel `t * step` behind base + at, over the entries [p, end) of a list.
template <int kPixels, int kStep, class A>
inline void add_entries(Vec<A>* sum, const int32_t* at, const A* values, const Vec<A>* base, int64_t step, int64_t p,
                        int64_t end) {
  if (kStep) step = kStep;
#pragma GCC unroll 4
  for (; p < end; ++p) {
    const Vec<A>* x = base + at[p];
    const A value = values[p];
#pragma GCC unroll 16
    for (int t = 0; t < kPixels; ++t) sum[t] += value * x[t * step];
  }
}

// What is summed at a time: rows [r0, r1) of the result, at pixels of one phase, `interleave` apart in a tile of `width`.
template <class A>
struct Panel {
  A* sums;  // [r1 - r0][width][kLanes]
  int64_t r0, r1, width, interleave;
};

template <int kPixels, int kStep, class A>
void multiply_panel(const Panel<A>& panel, const Entries<A>& entries, int64_t phase, int64_t tile, const A* base, int64_t step,
                    const A* bias) {
  const Vec<A>* pixels = reinterpret_cast<const Vec<A>*>(base);
  for (int64_t r = panel.r0; r < panel.r1; ++r) {
    Vec<A>* out = reinterpret_cast<Vec<A>*>(panel.sums) + (r - panel.r0) * panel.width;
    const int32_t* list = entries.list(phase, r) + tile;
    Vec<A> sum[kPixels];
#pragma GCC unroll 16
    for (int t = 0; t < kPixels; ++t) sum[t] = tile ? out[t * panel.interleave] : Vec<A>{} + (bias ? bias[r] : A(0));
    add_entries<kPixels, kStep>(sum, entries.at, entries.values, pixels, step, list[0], list[1]);
#pragma GCC unroll 16
    for (int t = 0; t < kPixels; ++t) out[t * panel.interleave] = sum[t];
  }
}

// Out of line: the same for all types that are summed in A.
template <int kPixels, class A>
[[gnu::noinline]] void multiply_panel(const Panel<A>& panel, const Entries<A>& entries, int64_t phase, int64_t tile,
                                      const A* base, int64_t step, const A* bias) {
  if (step == 1) return multiply_panel<kPixels, 1>(panel, entries, phase, tile, base, step, bias);
  if (step == 2) return multiply_panel<kPixels, 2>(panel, entries, phase, tile, base, step, bias);
  multiply_panel<kPixels, 0>(panel, entries, phase, tile, base, step, bias);
}

// Neighbouring pixels of a row that are summed together: all phases of as many pixels as registers hold, and tiles of about
// the same width.
int64_t tile_width(int64_t width, int64_t phases) {
  const int64_t most = phases * max(1, kMaxPixels / phases), count = ceil_div(width, most);
  return ceil_div(ceil_div(width, max(1, count)), phases) * phases;
}

// How the rows of a result are cut into tiles. Those of a result that is streamed are its cache lines, whole but for a row's
// first and last ones.
template <class A>
struct Tiles {
  int64_t row, width, count;  // pixels of a row and of a tile, and tiles of a row, some of which may be empty
  bool streams;

  template <class T>
  Tiles(const Images<T>& y, const Geometry& g) : row(y.width), width(tile_width(row, g.cols.phases)) {
    constexpr int64_t n = kLanes<A>;
    const bool is_even = row % (n / 2) == 0 && y.height * row % n == 0 && (g.bands.bands == 1 || g.bands.rows * row % n == 0);
    streams = kVecBytes == kLineBytes && sizeof(T) == sizeof(A) && is_even && g.cols.phases == 1 &&
              is_streamed(y.data, g.bands.images * y.planes * y.height * row);
    if (streams) width = n;
    count = ceil_div(row + (streams ? width - 1 : 0), width);
  }
  int64_t begin(int64_t r, int64_t k) const { return max(0, k * width - shift(r)); }
  int64_t end(int64_t r, int64_t k) const { return min(row, (k + 1) * width - shift(r)); }

 private:
  int64_t shift(int64_t r) const { return streams ? r * row % width : 0; }
};

struct Layout {
  int64_t offsets, at, values, bias, packed, threads, panel_rows, thread, total;
};
template <class A>
Layout layout(const Conv2d& c, const Geometry& g, int64_t capacity, int64_t rows, int64_t width, int64_t planes, int64_t tiles,
              int threads) {
  const int64_t lists = g.rows.phases * g.cols.phases * rows * tiles + 1, int_bytes = sizeof(int32_t), bytes = sizeof(A);
  const int64_t row_bytes = max(kLanes<A>, tile_width(width, g.cols.phases)) * kVecBytes;
  Layout l;
  l.offsets = align64(lists * int_bytes);
  l.at = l.offsets + align64(c.channels * c.taps() * int_bytes);
  l.values = l.at + align64(capacity * int_bytes);
  l.bias = l.values + align64(capacity * bytes);
  l.packed = l.bias + align64(c.rows * bytes);
  l.threads = l.packed + planes * g.window.size() * kVecBytes;
  l.panel_rows = max(1, min(rows, kPanelBytes / max(1, row_bytes)));
  l.thread = l.panel_rows * row_bytes;
  l.total = l.threads + l.thread * threads;
  return l;
}

// y of the lists, by a team: each thread calls it.
template <class A, class T>
[[gnu::noinline]] void convolve(Images<T> y, Images<const T> x, const Geometry& g, const Entries<A>& entries, const A* bias,
                                bool relu, char* memory, const Layout& l, int64_t id, int64_t team) {
  A* packed = reinterpret_cast<A*>(memory + l.packed);
  const Tiles<A> tiles(y, g);
  const int64_t chunks = ceil_div(g.bands.rows, g.chunk);
  for (int64_t part = 0; part < ceil_div(g.bands.lanes(), kLanes<A>) * chunks; ++part) {
    const int64_t lane0 = part / chunks * kLanes<A>, top = part % chunks * g.chunk, rows = min(g.chunk, g.bands.rows - top);
    pack_images(packed, x.data, x.planes, x.height, x.width, g.bands, g.from(top), lane0, x.planes * id / team,
                x.planes * (id + 1) / team);
#pragma omp barrier
    for (int64_t piece = rows * tiles.count * id / team; piece < rows * tiles.count * (id + 1) / team; ++piece) {
      const int64_t r = top + piece / tiles.count, col = tiles.begin(r, piece % tiles.count);
      const int64_t pixels = tiles.end(r, piece % tiles.count) - col;
      for (int64_t r0 = 0; r0 < y.planes; r0 += l.panel_rows) {
        const int64_t r1 = min(y.planes, r0 + l.panel_rows);
        A* sums = reinterpret_cast<A*>(memory + l.threads + id * l.thread);
        for (int64_t j = 0; j < min(g.cols.phases, pixels); ++j) {
          const Panel<A> panel = {sums + j * kLanes<A>, r0, r1, pixels, g.cols.phases};
          const int64_t phase = g.rows.phase(r) * g.cols.phases + g.cols.phase(col + j);
          const A* base = packed + ((g.rows.base(r) - g.rows.base(top)) * g.window.cols + g.cols.base(col + j)) * kLanes<A>;
          for (int64_t k = 0; k < entries.tiles; ++k)
            with_constant<kMaxPixels>(ceil_div(pixels - j, g.cols.phases), [&](auto count) {
              multiply_panel<count>(panel, entries, phase, k, base, g.cols.step, bias);
            });
        }
        for (int64_t p = 0; p < pixels; p += kMaxPixels)
          with_constant<kMaxPixels>(min(kMaxPixels, pixels - p), [&](auto count) {
            unpack_pixels<count>(y.data, y.planes, y.height, y.width, g.bands, lane0, r, col + p, sums + p * kLanes<A>, pixels,
                                 r0, r1, relu, tiles.streams);
          });
      }
    }
    if (tiles.streams) stream_fence();
#pragma omp barrier
  }
  remake_planes(y, x, g, entries, bias, relu, y.planes * id / team, y.planes * (id + 1) / team);
}

// A pixel meets one only, and every channel: rows of the weight multiply pixels as they lie. Blocks are as long as an image
// allows: the longer, the fewer places a block is copied from.
constexpr int kLongVecs = 8, kShortVecs = 4;
template <class A>
int pixel_vecs(const Conv2d& c) {
  return c.out_height * c.out_width >= kLongVecs * kLanes<A> ? kLongVecs : kShortVecs;
}

template <class T, class Index>
int64_t pixels_workspace(const CsrPattern<Index>& p, const Conv2d& c, Threads threads) {
  const int64_t packed = spmm_layout(p.rows, p.cols, p.capacity, pixel_vecs<Acc<T>>(c), sizeof(Acc<T>), threads).total;
  const bool in_place = !is_strided(c) && is_in_place<T>(p, c.height * c.width);
  return in_place ? sorted_layout(p.rows, p.cols, p.capacity, sizeof(Acc<T>)).total : packed;
}

template <class T, class Index, class Y, class X>
Status multiply_pixels(const Y& made, const CsrView<T, Index>& w, const X& met, const Conv2d& c, const T* bias, bool relu,
                       void* workspace, Threads threads) {
  const CsrPattern<Index>& p = w.pattern;
  const int64_t vecs = pixel_vecs<Acc<T>>(c);
  threads = useful_threads(threads, (p.row_ptr[p.rows] + p.rows + p.cols) * token_count(met));
  if constexpr (sizeof(T) == sizeof(Acc<T>) && std::is_same_v<X, Pixels<const T>> && std::is_same_v<Y, Pixels<T>>) {
    if (is_in_place<T>(p, met.pixels)) {
      multiply_planes(made, w, met, bias, relu, static_cast<char*>(workspace), threads);
      return kOk;
    }
  }
  const SpmmLayout l = spmm_layout(p.rows, p.cols, p.capacity, vecs, sizeof(Acc<T>), threads);
  char* memory = static_cast<char*>(workspace);
  if (vecs == kLongVecs)
    spmm_blocks<kLongVecs>(made, w, met, bias, relu, memory, l, threads);
  else
    spmm_blocks<kShortVecs>(made, w, met, bias, relu, memory, l, threads);
  return kOk;
}

}  // namespace

template <class T, class Index>
Status csr_conv2d(T* y, CsrView<T, Index> w, const T* x, Conv2d c, const T* bias, bool relu, void* workspace, Threads threads) {
  using A = Acc<T>;
  if (c.batch * c.rows * c.out_height * c.out_width == 0) return kOk;
  if (is_pointwise(c)) {
    if (is_strided(c)) return multiply_pixels(pixels_of_y(c, y), w, sampled_x(c, x), c, bias, relu, workspace, threads);
    return multiply_pixels(pixels_of_y(c, y), w, pixels_of_x(c, x), c, bias, relu, workspace, threads);
  }
  const CsrPattern<Index>& p = w.pattern;
  const Geometry g = forward_geometry<A>(c);
  const int64_t tiles = plane_tiles(p, c.channels, c.out_width, g.rows, g.cols);
  threads = useful_threads(threads, c.batch * c.out_height * c.out_width * (p.row_ptr[p.rows] + p.rows + c.channels));
  const Layout l = layout<A>(c, g, p.capacity, c.rows, c.out_width, c.planes(), tiles, threads);
  char* memory = static_cast<char*>(workspace);
  constexpr bool kInPlace = sizeof(T) == sizeof(A);
  const auto* own = reinterpret_cast<const A*>(kInPlace ? static_cast<const void*>(w.values) : memory + l.values);
  const Entries<A> entries = {c.rows, tiles, reinterpret_cast<int32_t*>(memory), reinterpret_cast<int32_t*>(memory + l.at),
                              const_cast<A*>(own)};
  int32_t* offsets = reinterpret_cast<int32_t*>(memory + l.offsets);
  A* wide_bias = reinterpret_cast<A*>(memory + l.bias);
  in_parallel(threads, [&](int64_t id, int64_t team) {
    column_offsets(offsets, c, g, p.cols * id / team, p.cols * (id + 1) / team);
#pragma omp barrier
    for (int64_t r = c.rows * id / team; bias && r < c.rows * (id + 1) / team; ++r) wide_bias[r] = to_acc(bias[r]);
    list_rows(entries, p, kInPlace ? nullptr : w.values, c, g, offsets, row_cut(p, id, team), row_cut(p, id + 1, team));
    convolve<A, T>({y, c.rows, c.out_height, c.out_width}, {x, c.planes(), c.height, c.width}, g, entries,
                   bias ? wide_bias : nullptr, relu, memory, l, id, team);  // its first barrier comes after the lists
  });
  return kOk;
}

template <class T, class Index>
int64_t csr_conv2d_workspace(CsrView<T, Index> w, Conv2d c, Threads threads) {
  if (is_pointwise(c)) return pixels_workspace<T>(w.pattern, c, threads);
  const Geometry g = forward_geometry<Acc<T>>(c);
  const int64_t tiles = plane_tiles(w.pattern, c.channels, c.out_width, g.rows, g.cols);
  return layout<Acc<T>>(c, g, w.pattern.capacity, c.rows, c.out_width, c.planes(), tiles, threads).total;
}

template <class T, class Index>
Status csr_conv2d_t(T* dx, CsrView<T, Index> w, const T* dy, Conv2d c, void* workspace, Threads threads) {
  using A = Acc<T>;
  if (c.batch * c.planes() * c.height * c.width == 0) return kOk;
  if (is_pointwise(c)) {
    const T* none = nullptr;
    if (is_strided(c)) return multiply_pixels(sampled_x(c, dx), w, pixels_of_y(c, dy), c, none, false, workspace, threads);
    return multiply_pixels(pixels_of_x(c, dx), w, pixels_of_y(c, dy), c, none, false, workspace, threads);
  }
  const CsrPattern<Index>& p = w.pattern;
  const Geometry g = gradient_geometry<A>(c);
  const int64_t tiles = plane_tiles(p, c.rows_per_group(), c.width, g.rows, g.cols);
  threads = useful_threads(threads, c.batch * c.out_height * c.out_width * (p.row_ptr[p.rows] + c.planes() + c.rows));
  const Layout l = layout<A>(c, g, p.capacity, c.planes(), c.width, c.rows, tiles, threads);
  char* memory = static_cast<char*>(workspace);
  const Entries<A> entries = {c.planes(), tiles, reinterpret_cast<int32_t*>(memory), reinterpret_cast<int32_t*>(memory + l.at),
                              reinterpret_cast<A*>(memory + l.values)};
  in_parallel(threads, [&](int64_t id, int64_t team) {
    if (id == 0) count_planes(entries, p, c, g);
#pragma omp barrier
    list_planes(entries, w, c, g, c.planes() * id / team, c.planes() * (id + 1) / team);
    convolve<A, T>({dx, c.planes(), c.height, c.width}, {dy, c.rows, c.out_height, c.out_width}, g, entries,
                   static_cast<const A*>(nullptr), false, memory, l, id, team);
  });
  return kOk;
}

template <class T, class Index>
int64_t csr_conv2d_t_workspace(CsrView<T, Index> w, Conv2d c, Threads threads) {
  if (is_pointwise(c)) return pixels_workspace<T>(w.pattern, c, threads);
  const Geometry g = gradient_geometry<Acc<T>>(c);
  const int64_t tiles = plane_tiles(w.pattern, c.rows_per_group(), c.width, g.rows, g.cols);
  return layout<Acc<T>>(c, g, w.pattern.capacity, c.planes(), c.width, c.rows, tiles, threads).total;
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_workspace)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_t)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_t_workspace)

}  // namespace spx::cpu::SPX_ISA::csr
