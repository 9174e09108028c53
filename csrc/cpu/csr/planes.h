// The products of a 1 x 1 kernel on planes that are whole registers: activations are multiplied where they lie.
//
// A stretch is the same few registers of pixels in every plane of an image: what a row of the weight sums at once. Planes lie
// too far apart for hardware prefetchers, so the next stretch is fetched while this one is multiplied; and a result that no
// cache would keep is written past the caches, which saves reading its lines first.
#pragma once
#include "common/views.h"
#include "cpu/simd/pixels.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::csr {

constexpr int kStretchVecs = 8;               // registers of a stretch in a plane, at most
constexpr int64_t kRowsNear = 2;              // rows whose dy is fetched once more before they come
constexpr int64_t kStretchBytes = 512 << 10;  // of a stretch in all planes: they stay in L2

// Whether planes of so many pixels are multiplied where they lie, by a weight of this pattern; otherwise they are packed first.
// Packed planes lie side by side and are read tile by tile from L1, which is faster where a plane that is read or written has
// many entries.
template <class T, class Index>
bool is_in_place(const CsrPattern<Index>& pattern, int64_t pixels) {
  constexpr int64_t kL1Bytes = 40 << 10, kEntriesPerPlane = 24;
  const int64_t bytes = pattern.cols * kStretchVecs * kVecBytes;
  const bool is_faster = bytes <= kL1Bytes || pattern.capacity <= kEntriesPerPlane * (pattern.rows + pattern.cols);
  const bool is_possible = sizeof(T) == sizeof(Acc<T>) && pixels > 0 && pixels % kLanes<Acc<T>> == 0;
  return is_possible && is_faster && bytes <= kStretchBytes && pattern.cols * pixels <= INT32_MAX;
}

// Images cut into stretches.
template <class A>
struct Stretches {
  int64_t images, vecs, per_image;

  explicit Stretches(int64_t images, int64_t pixels)
      : images(images), vecs(pixels / kLanes<A>), per_image(ceil_div(vecs, kStretchVecs)) {}
  int64_t count() const { return images * per_image; }
  int64_t begin(int64_t i) const { return vecs * (i % per_image) / per_image; }  // its first register in a plane
  int64_t size(int64_t i) const { return vecs * (i % per_image + 1) / per_image - begin(i); }
  template <class T>
  T* of(const Pixels<T>& x, int64_t i) const {
    return x.data + i / per_image * x.planes * x.pixels + begin(i) * kLanes<A>;
  }
};

// The entries of every row, rows with the most entries first: a CPU predicts the end of a loop that is as long as the last one.
// Row row[i] has the entries [first[i], first[i + 1]), each the offset of its plane, and its value.
template <class A>
struct SortedRows {
  int64_t rows;
  int32_t *row, *first, *at;
  A* values;

  int64_t cut(int64_t part, int64_t parts) const { return row_cut(first, rows, part, parts); }
};

struct SortedLayout {
  int64_t first, at, values, count, total;
};
inline SortedLayout sorted_layout(int64_t rows, int64_t cols, int64_t capacity, int64_t acc_bytes) {
  constexpr auto int_bytes = static_cast<int64_t>(sizeof(int32_t));
  SortedLayout l;
  l.first = align64(rows * int_bytes);
  l.at = l.first + align64((rows + 1) * int_bytes);
  l.values = l.at + align64(capacity * int_bytes);
  l.count = l.values + align64(capacity * acc_bytes);
  l.total = l.count + align64((cols + 2) * int_bytes);
  return l;
}
template <class A>
SortedRows<A> sorted_rows(int64_t rows, char* memory, const SortedLayout& l) {
  return {rows, reinterpret_cast<int32_t*>(memory), reinterpret_cast<int32_t*>(memory + l.first),
          reinterpret_cast<int32_t*>(memory + l.at), reinterpret_cast<A*>(memory + l.values)};
}

// Sorts the rows, by one thread; rows of the same length keep their order. count [cols + 2]: room to count in.
template <class A, class Index>
void sort_rows(const SortedRows<A>& to, const CsrPattern<Index>& pattern, int32_t* count) {
  fill_zero(count, pattern.cols + 2);
  const auto length = [&](int64_t r) { return pattern.row_ptr[r + 1] - pattern.row_ptr[r]; };
  for (int64_t r = 0; r < pattern.rows; ++r) ++count[pattern.cols - length(r) + 1];
  for (int64_t k = 0; k <= pattern.cols; ++k) count[k + 1] += count[k];
  for (int64_t r = 0; r < pattern.rows; ++r) to.row[count[pattern.cols - length(r)]++] = static_cast<int32_t>(r);
  to.first[0] = 0;
  for (int64_t i = 0; i < pattern.rows; ++i) to.first[i + 1] = to.first[i] + length(to.row[i]);
}

// Lists the entries of sorted rows [begin, end), of planes with so many pixels.
template <class A, class T, class Index>
void list_sorted(const SortedRows<A>& to, const CsrPattern<Index>& pattern, const T* values, int64_t pixels, int64_t begin,
                 int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    int32_t q = to.first[i];
    for (int64_t p = pattern.row_ptr[to.row[i]]; p < pattern.row_ptr[to.row[i] + 1]; ++p, ++q) {
      to.at[q] = static_cast<int32_t>(pattern.col_idx[p] * pixels);
      if (values) to.values[q] = to_acc(values[pattern.value_at(p)]);
    }
  }
}

// Fetches a plane's part of a stretch.
template <int kVecs, class A>
inline void fetch_plane(const A* part) {
#pragma GCC unroll 8
  for (int64_t byte = 0; byte < kVecs * kVecBytes; byte += kLineBytes)
    __builtin_prefetch(reinterpret_cast<const char*>(part) + byte);
}
// Fetches a stretch's parts of the planes [*next, *next + planes), up to plane `all`.
template <int kVecs, class A>
inline void fetch_planes(const A* stretch, int64_t pixels, int64_t all, int64_t planes, int64_t* next) {
  for (const int64_t end = min(all, *next + planes); *next < end; ++*next) fetch_plane<kVecs>(stretch + *next * pixels);
}

// A stretch of y from one of x, for sorted rows [begin, end); ahead: the stretch of x that comes next.
template <int kVecs, bool kStream, class A>
void multiply_stretch(const Pixels<A>& y, A* to, const SortedRows<A>& w, const Pixels<const A>& x, const A* from,
                      const A* ahead, const A* bias, bool relu, int64_t begin, int64_t end) {
  const int64_t per_row = ceil_div(x.planes, max(1, end - begin));
  int64_t fetched = 0;
  for (int64_t i = begin; i < end; ++i) {
    fetch_planes<kVecs>(ahead, x.pixels, x.planes, per_row, &fetched);
    const int64_t r = w.row[i];
    Vec<A> sum[kVecs];
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum[t] = Vec<A>{} + (bias ? bias[r] : A(0));
#pragma GCC unroll 4
    for (int64_t p = w.first[i]; p < w.first[i + 1]; ++p) {
      const A value = w.values[p], *plane = from + w.at[p];
#pragma GCC unroll 8
      for (int t = 0; t < kVecs; ++t) sum[t] += value * load<A>(plane + t * kLanes<A>);
    }
    A* out = to + r * y.pixels;
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) {
      const Vec<A> v = relu && sum[t] < 0 ? Vec<A>{} : sum[t];
      if (kStream)
        stream<A>(out + t * kLanes<A>, v);
      else
        store<A>(out + t * kLanes<A>, v);
    }
  }
}

// y of x by the weight, or its transposed view.
template <class A, class Index>
void multiply_planes(const Pixels<A>& y, const CsrView<A, Index>& w, const Pixels<const A>& x, const A* bias, bool relu,
                     char* memory, int threads) {
  const SortedLayout l = sorted_layout(w.pattern.rows, w.pattern.cols, w.pattern.capacity, sizeof(A));
  const SortedRows<A> rows = sorted_rows<A>(w.pattern.rows, memory, l);
  const Stretches<A> stretches(x.images, x.pixels);
  const bool streams = is_streamed(y.data, y.images * y.planes * y.pixels);
  const int64_t parts = max(1, threads / stretches.count());  // of the rows, where there are more threads than stretches
  in_parallel(threads, [&](int64_t id, int64_t team) {
    if (id == 0) sort_rows(rows, w.pattern, reinterpret_cast<int32_t*>(memory + l.count));
#pragma omp barrier
    list_sorted(rows, w.pattern, w.values, x.pixels, rows.cut(id, team), rows.cut(id + 1, team));
#pragma omp barrier
    const int64_t pieces = stretches.count() * parts, last = pieces * (id + 1) / team;
    for (int64_t piece = pieces * id / team; piece < last; ++piece) {
      const int64_t i = piece / parts, part = piece % parts, next = min(piece + 1, last - 1) / parts;
      const int64_t begin = rows.cut(part, parts), end = rows.cut(part + 1, parts);
      with_constant<kStretchVecs>(stretches.size(i), [&](auto vecs) {
        A* to = stretches.of(y, i);
        const A *from = stretches.of(x, i), *ahead = stretches.of(x, next);
        if (streams)
          multiply_stretch<vecs, true>(y, to, rows, x, from, ahead, bias, relu, begin, end);
        else
          multiply_stretch<vecs, false>(y, to, rows, x, from, ahead, bias, relu, begin, end);
      });
    }
    if (streams) stream_fence();
  });
}

// ---- the weight gradient -------------------------------------------------------------------------------------------------

// Sums of products, a register for each entry, which are folded when there are kMost.
template <class A>
struct Pending {
  static constexpr int kMost = 2 * kLanes<A>;
  Vec<A> sums[kMost];
  int64_t held = 0;

  // Lane i of the result is the sum of the lanes of register i.
  template <int h = 1>
  static Vec<A> total(const Vec<A>* v) {
    if constexpr (h < kLanes<A>)
      return fold<A, h>(total<2 * h>(v), total<2 * h>(v + h));
    else
      return *v;
  }
  // Adds them to the entries before `end`.
  void fold_into(A* end) {
    A* to = end - held;
    int64_t i = 0;
    for (; i + kLanes<A> <= held; i += kLanes<A>) store<A>(to + i, total(sums + i) + load<A>(to + i));
    if (i < held) {
      for (int64_t k = held; k < i + kLanes<A>; ++k) sums[k] = Vec<A>{};
      const Vec<A> rest = total(sums + i);
      for (int64_t k = i; k < held; ++k) to[k] += rest[k - i];
    }
    held = 0;
  }
};

// Adds a stretch's share to dw, which has the order of the lists, at the entries of sorted rows [begin, end).
template <int kVecs, class A>
void sample_stretch(A* dw, const SortedRows<A>& w, const Pixels<const A>& dy, const A* own, const Pixels<const A>& x,
                    const A* from, const A* dy_ahead, const A* x_ahead, int64_t begin, int64_t end, Pending<A>* pending) {
  const int64_t per_row = ceil_div(x.planes, max(1, end - begin));
  int64_t fetched = 0;
  for (int64_t i = begin; i < end; ++i) {
    fetch_planes<kVecs>(x_ahead, x.pixels, x.planes, per_row, &fetched);
    const int64_t row = w.row[i];
    Vec<A> dy_own[kVecs];
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) dy_own[t] = load<A>(own + row * dy.pixels + t * kLanes<A>);
    fetch_plane<kVecs>(dy_ahead + row * dy.pixels);
    fetch_plane<kVecs>(own + w.row[min(i + kRowsNear, end - 1)] * dy.pixels);  // from L2: a row waits for nothing else
    for (int64_t p = w.first[i]; p < w.first[i + 1];) {
      const int64_t count = min(w.first[i + 1] - p, Pending<A>::kMost - pending->held);
      Vec<A>* sums = pending->sums + pending->held;
      for (int64_t k = 0; k < count; ++k) {
        const A* plane = from + w.at[p + k];
        Vec<A> sum{};
#pragma GCC unroll 8
        for (int t = 0; t < kVecs; ++t) sum += dy_own[t] * load<A>(plane + t * kLanes<A>);
        sums[k] = sum;
      }
      pending->held += count, p += count;
      if (pending->held == Pending<A>::kMost) pending->fold_into(dw + p);
    }
  }
  pending->fold_into(dw + w.first[end]);
}

// dw of dy and x at the pattern's entries. A row belongs to one thread, and stretches are added in order.
template <class A, class Index>
void sample_planes(A* dw, const CsrPattern<Index>& pattern, const Pixels<const A>& dy, const Pixels<const A>& x, char* memory,
                   int threads) {
  const SortedLayout l = sorted_layout(pattern.rows, pattern.cols, pattern.capacity, sizeof(A));
  const SortedRows<A> rows = sorted_rows<A>(pattern.rows, memory, l);
  const Stretches<A> stretches(x.images, x.pixels);
  in_parallel(threads, [&](int64_t id, int64_t team) {
    if (id == 0) sort_rows(rows, pattern, reinterpret_cast<int32_t*>(memory + l.count));
#pragma omp barrier
    const int64_t begin = rows.cut(id, team), end = rows.cut(id + 1, team);
    list_sorted(rows, pattern, static_cast<const A*>(nullptr), x.pixels, begin, end);
    A* sums = rows.values;
    fill_zero(sums + rows.first[begin], rows.first[end] - rows.first[begin]);
    Pending<A> pending;
    for (int64_t i = 0; i < stretches.count(); ++i) {
      const int64_t next = min(i + 1, stretches.count() - 1);
      with_constant<kStretchVecs>(stretches.size(i), [&](auto vecs) {
        sample_stretch<vecs>(sums, rows, dy, stretches.of(dy, i), x, stretches.of(x, i), stretches.of(dy, next),
                             stretches.of(x, next), begin, end, &pending);
      });
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t length = rows.first[i + 1] - rows.first[i];
      if (length) memcpy(dw + pattern.row_ptr[rows.row[i]], sums + rows.first[i], static_cast<size_t>(length) * sizeof(A));
    }
  });
  fill_zero(dw + pattern.row_ptr[pattern.rows], pattern.capacity - pattern.row_ptr[pattern.rows]);
}

}  // namespace spx::cpu::SPX_ISA::csr
