// The weight gradient of a convolution at a CSR pattern:  dw[p] = sum of dy[n, row_p, pixel] * x[n, channel and place of p]
//
//   x and dy NCHW (common/conv.h); dw [capacity], 0 behind nnz
//   work: blocks of images are packed by all threads together, lanes are images; up to kMaxPixels neighbours of dy's row stay
//   in registers while its entries pass, and kLanes sums are folded
//   a 1 x 1 kernel multiplies pixels where they lie (planes.h), or is csr_sddmm's product, with pixels for tokens
//   a row of the weight belongs to one thread, and pixels are added in order, in Acc<T>: the same bits for any thread count
// Gradients that are Inf or NaN make NaN of padding's zeros: what is NaN is made anew (conv_exact.h).
// ops/csr/conv.py has checked shapes, dtypes and ranges.
#include "cpu/csr/conv.h"
#include "cpu/csr/conv_exact.h"
#include "cpu/csr/planes.h"
#include "cpu/csr/sddmm.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::csr {
namespace {

// Lane i of the result is these pixels' share of the entry at[i] for i < count, and 0 behind: as `sample` in sddmm.cpp.
template <class A, int kPixels, int kStep, int h>
[[gnu::always_inline]] inline Vec<A> sample(const Vec<A>* dy, const Vec<A>* base, int64_t step, const int32_t* at, int count) {
  Vec<A> sum{};
  if (count <= 0) return sum;
  if constexpr (h < kLanes<A>) {
    sum = sample<A, kPixels, kStep, 2 * h>(dy, base, step, at, count);
    return fold<A, h>(sum, sample<A, kPixels, kStep, 2 * h>(dy, base, step, at + h, count - h));
  } else {
    const Vec<A>* x = base + *at;
    if (kStep) step = kStep;
#pragma GCC unroll 16
    for (int t = 0; t < kPixels; ++t) sum += dy[t] * x[t * step];
    return sum;
  }
}

// Adds the share of these pixels to dw at the entries of rows [r0, r1) in tile k.
template <int kPixels, int kStep, class A>
void sample_rows(A* dw, const Entries<A>& entries, int64_t k, const Vec<A>* dy, int64_t dy_plane, const Vec<A>* base,
                 int64_t step, int64_t r0, int64_t r1) {
  constexpr int n = kLanes<A>;
  for (int64_t r = r0; r < r1; ++r) {
    Vec<A> own[kPixels];
#pragma GCC unroll 16
    for (int t = 0; t < kPixels; ++t) own[t] = dy[r * dy_plane + t];
    const int32_t* list = entries.list(0, r) + k;
    int64_t p = list[0];
    for (; p + n <= list[1]; p += n) {
      const Vec<A> total = sample<A, kPixels, kStep, 1>(own, base, step, entries.at + p, n);
      store<A>(dw + p, total + load<A>(dw + p));
    }
    const int count = static_cast<int>(list[1] - p);
    if (count == 0) continue;
    const Vec<A> total = sample<A, kPixels, kStep, 1>(own, base, step, entries.at + p, count);
    for (int i = 0; i < count; ++i) dw[p + i] += total[i];
  }
}

template <int kPixels, class A>
[[gnu::noinline]] void sample_rows(A* dw, const Entries<A>& entries, int64_t k, const Vec<A>* dy, int64_t dy_plane,
                                   const Vec<A>* base, int64_t step, int64_t r0, int64_t r1) {
  if (step == 1) return sample_rows<kPixels, 1, A>(dw, entries, k, dy, dy_plane, base, step, r0, r1);
  if (step == 2) return sample_rows<kPixels, 2, A>(dw, entries, k, dy, dy_plane, base, step, r0, r1);
  sample_rows<kPixels, 0, A>(dw, entries, k, dy, dy_plane, base, step, r0, r1);
}

struct Layout {
  int64_t offsets, at, sums, x, dy, total;
};
template <class A>
Layout layout(const Conv2d& c, const Geometry& g, int64_t capacity, int64_t tiles) {
  Layout l;
  l.offsets = align64((c.rows * tiles + 1) * static_cast<int64_t>(sizeof(int32_t)));
  l.at = l.offsets + align64(c.channels * c.taps() * static_cast<int64_t>(sizeof(int32_t)));
  l.sums = l.at + align64(capacity * static_cast<int64_t>(sizeof(int32_t)));
  l.x = l.sums + align64(capacity * static_cast<int64_t>(sizeof(A)));
  l.dy = l.x + c.planes() * g.window.size() * kVecBytes;
  l.total = l.dy + c.rows * g.chunk * c.out_width * kVecBytes;
  return l;
}

// Of a 1 x 1 kernel: for a block at least.
template <class A, class Index>
SddmmLayout pixels_layout(const CsrPattern<Index>& pattern, const Conv2d& c) {
  const int64_t tokens = max(c.batch * c.out_height * c.out_width, kSddmmVecs * kLanes<A>);
  return sddmm_layout(pattern.rows, pattern.cols, pattern.capacity, tokens, sizeof(A));
}

}  // namespace

template <class T, class Index>
Status csr_conv2d_grad_weight(DenseView<T> result, CsrPattern<Index> pattern, const T* dy, const T* x, Conv2d c,
                              void* workspace, Threads threads) {
  using A = Acc<T>;
  T* dw = result.data;
  if (c.batch * c.out_height * c.out_width == 0) {
    fill_zero(dw, pattern.capacity);
    return kOk;
  }
  if (is_pointwise(c)) {
    const SddmmLayout l = pixels_layout<A>(pattern, c);
    threads =
        useful_threads(threads, (pattern.row_ptr[pattern.rows] + c.rows + c.channels) * c.batch * c.out_height * c.out_width);
    char* memory = static_cast<char*>(workspace);
    if constexpr (sizeof(T) == sizeof(A)) {
      if (!is_strided(c) && is_in_place<T>(pattern, c.height * c.width)) {
        sample_planes(dw, pattern, pixels_of_y(c, dy), pixels_of_x(c, x), memory, threads);
        return kOk;
      }
    }
    if (is_strided(c))
      sddmm_blocks<kSddmmVecs>(dw, pattern, pixels_of_y(c, dy), sampled_x(c, x), memory, l, threads);
    else
      sddmm_blocks<kSddmmVecs>(dw, pattern, pixels_of_y(c, dy), pixels_of_x(c, x), memory, l, threads);
    return kOk;
  }
  const int64_t nnz = pattern.row_ptr[pattern.rows];
  const Geometry g = forward_geometry<A>(c);
  const int64_t tiles = plane_tiles(pattern, c.channels, c.out_width, g.rows, g.cols);
  const Layout l = layout<A>(c, g, pattern.capacity, tiles);
  threads = useful_threads(threads, c.batch * c.out_height * c.out_width * (nnz + c.rows + c.channels));
  char* memory = static_cast<char*>(workspace);
  const Entries<A> entries = {c.rows, tiles, reinterpret_cast<int32_t*>(memory), reinterpret_cast<int32_t*>(memory + l.at),
                              nullptr};
  int32_t* offsets = reinterpret_cast<int32_t*>(memory + l.offsets);
  A* sums = sizeof(T) == sizeof(A) ? reinterpret_cast<A*>(dw) : reinterpret_cast<A*>(memory + l.sums);
  A *packed_x = reinterpret_cast<A*>(memory + l.x), *packed_dy = reinterpret_cast<A*>(memory + l.dy);
  const Window rows = {g.chunk, c.out_width, 0, 0, g.bands.rows};  // of dy
  const int64_t chunks = ceil_div(g.bands.rows, g.chunk);
  const int64_t width = ceil_div(c.out_width, ceil_div(c.out_width, kMaxPixels));
  in_parallel(threads, [&](int64_t id, int64_t team) {
    const int64_t r0 = row_cut(pattern, id, team), r1 = row_cut(pattern, id + 1, team);
    column_offsets(offsets, c, g, pattern.cols * id / team, pattern.cols * (id + 1) / team);
#pragma omp barrier
    list_rows(entries, pattern, static_cast<const T*>(nullptr), c, g, offsets, r0, r1);
    fill_zero(sums + pattern.row_ptr[r0], pattern.row_ptr[r1] - pattern.row_ptr[r0]);
    for (int64_t part = 0; part < ceil_div(g.bands.lanes(), kLanes<A>) * chunks; ++part) {
      const int64_t lane0 = part / chunks * kLanes<A>, top = part % chunks * g.chunk;
      Window own_rows = rows;
      own_rows.first_row = top;
      pack_images(packed_x, x, c.planes(), c.height, c.width, g.bands, g.from(top), lane0, c.planes() * id / team,
                  c.planes() * (id + 1) / team);
      pack_images(packed_dy, dy, c.rows, c.out_height, c.out_width, g.bands, own_rows, lane0, c.rows * id / team,
                  c.rows * (id + 1) / team);
#pragma omp barrier
      for (int64_t row = 0; row < min(g.chunk, g.bands.rows - top); ++row)
        for (int64_t col = 0; col < c.out_width; col += width)
          for (int64_t k = 0; k < tiles; ++k)
            with_constant<kMaxPixels>(min(width, c.out_width - col), [&](auto count) {
              const auto* own = reinterpret_cast<const Vec<A>*>(packed_dy) + row * c.out_width + col;
              const auto* base =
                  reinterpret_cast<const Vec<A>*>(packed_x) + g.rows.base(row) * g.window.cols + g.cols.base(col);
              sample_rows<count, A>(sums, entries, k, own, rows.size(), base, g.cols.step, r0, r1);
            });
#pragma omp barrier
    }
    remake_entries(sums, pattern, dy, x, c, r0, r1);
    if (sizeof(T) != sizeof(A))
      for (int64_t p = pattern.row_ptr[r0]; p < pattern.row_ptr[r1]; ++p) from_acc(dw + p, static_cast<A>(sums[p]));
  });
  fill_zero(dw + nnz, pattern.capacity - nnz);
  return kOk;
}

template <class T, class Index>
int64_t csr_conv2d_grad_weight_workspace(DenseView<T>, CsrPattern<Index> pattern, Conv2d c, Threads) {
  if (is_pointwise(c) && !is_strided(c) && is_in_place<T>(pattern, c.height * c.width))
    return sorted_layout(pattern.rows, pattern.cols, pattern.capacity, sizeof(Acc<T>)).total;
  if (is_pointwise(c)) return pixels_layout<Acc<T>>(pattern, c).total;
  const Geometry g = forward_geometry<Acc<T>>(c);
  return layout<Acc<T>>(c, g, pattern.capacity, plane_tiles(pattern, c.channels, c.out_width, g.rows, g.cols)).total;
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_grad_weight)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_grad_weight_workspace)

}  // namespace spx::cpu::SPX_ISA::csr
