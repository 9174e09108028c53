// A dense matrix to 2:4 and back (common/nm24/groups.h), and the transpose in the same pass
//
//   a thread owns bands of whole eights of rows, so no two threads write the same byte of the transpose's ids
//   it takes four rows and kLanes groups at a time: a register holds one number of each group
// ops/nm24/kernels.py has checked shapes, dtypes and codes.
#include "common/nm24/groups.h"

#include "common/keys.h"
#include "common/views.h"
#include "cpu/simd/isa.h"
#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA::nm24 {
namespace {

// A band of rows is taken in blocks of columns, so that the cache lines of the transpose stay in a cache until they are full.
constexpr int64_t kBandRows = 128, kBlockGroups = 64;
constexpr int64_t kParallelFrom = 1 << 14;  // elements: fewer take no longer than waking a thread

// |v|, and Inf for NaN: it ranks first, and sums stay comparable.
template <class A>
inline A magnitude(A v) {
  return v != v ? static_cast<A>(__builtin_inf()) : v < 0 ? -v : v;
}

// Four rows and kLanes groups of the matrix; what lies outside is 0.
template <class S>
struct Block {
  static constexpr int n = kLanes<Acc<S>>;
  S at[4][4 * n];

  Block(DenseView<const S> dense, int64_t row, int64_t col) {
    memset(at, 0, sizeof at);
    const int64_t cols = min(4 * n, dense.cols - col);
    for (int64_t r = 0; r < min(4, dense.rows - row); ++r)
      memcpy(at[r], dense.row(row + r) + col, static_cast<size_t>(cols) * sizeof(S));
  }
};

template <class A>
struct Best {
  using Mask = decltype(Vec<A>{} > Vec<A>{});
  Vec<A> total = Vec<A>{} - 1;
  Mask mask{};

  inline __attribute__((always_inline)) void operator()(Vec<A> sum, uint32_t tile) {
    const Mask larger = sum > total;
    total = larger ? sum : total;
    mask = larger ? Mask{} + static_cast<int>(tile) : mask;
  }
};

// tiles[g]: the masks of the four rows of group g.
template <class S>
void best_tiles(uint32_t* tiles, const Block<S>& block) {
  using A = Acc<S>;
  constexpr int n = kLanes<A>;
  A lanes[16][n];
  for (int r = 0; r < 4; ++r)
    for (int g = 0; g < n; ++g)
      for (int c = 0; c < 4; ++c) lanes[4 * r + c][g] = magnitude(to_acc(block.at[r][4 * g + c]));
  Vec<A> magnitudes[16];
  memcpy(magnitudes, lanes, sizeof lanes);
  Best<A> best;
  offer_tiles(magnitudes, best);
  for (int g = 0; g < n; ++g) tiles[g] = static_cast<uint32_t>(best.mask[g]);
}

template <class S>
uint32_t largest(const S* four) {
  return nm24_largest(magnitude_key(four[0]), magnitude_key(four[1]), magnitude_key(four[2]), magnitude_key(four[3]));
}

template <class T, class S>
void choose(uint32_t* tiles, const Block<S>& block, const Nm24View<T>& w, int64_t row, int64_t group, Nm24Choice choice) {
  constexpr int n = Block<S>::n;
  const int64_t rows = min(4, w.rows - row), groups = min(n, w.groups() - group);
  for (int g = 0; g < n; ++g) tiles[g] = 0;
  if (choice == Nm24Choice::kTransposable) {
    best_tiles(tiles, block);
    for (int g = 0; g < n; ++g) tiles[g] &= (1u << 4 * rows) - 1;
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t mask = choice == Nm24Choice::kGiven
                                ? nm24_mask(w.ids_of_row(row + r)[(group + g) / 2] >> (group + g) % 2 * 4)
                                : largest(block.at[r] + 4 * g);
      tiles[g] |= mask << 4 * r;
    }
  }
}

// The third largest magnitude of four: the larger one of the two that are not kept.
template <class S>
Acc<S> threshold(const S* four, uint32_t mask) {
  Acc<S> third = 0;
  for (int i = 0; i < 4; ++i) {
    const Acc<S> m = magnitude(to_acc(four[i]));
    if (!(mask >> i & 1) && m > third) third = m;
  }
  return third;
}

// v as it is stored: moved towards 0, then scaled. Without a branch on the sign, which is random and would cost more than the
// rest.
template <class T, class S>
inline T stored(S v, float scale) {
  T out;
  from_acc(&out, static_cast<Acc<T>>(to_acc(v) * static_cast<Acc<S>>(scale)));
  return out;
}
template <class T, class S>
inline T stored(S v, Acc<S> towards_zero, float scale) {
  const Acc<S> a = to_acc(v);
  T out;
  from_acc(&out,
           static_cast<Acc<T>>((a - static_cast<Acc<S>>(__builtin_copysign(towards_zero, a))) * static_cast<Acc<S>>(scale)));
  return out;
}

// The code of a group into its half of a byte; an even one comes first.
inline void put(uint8_t* ids, int64_t group, uint32_t code) {
  *ids = static_cast<uint8_t>(group % 2 ? (*ids & 15) | code << 4 : code | kNm24EmptyCode << 4);
}

template <class T, class S>
void write_rows(const Nm24View<T>& w, const Block<S>& block, const uint32_t* tiles, int64_t row, int64_t group,
                Nm24Choice choice, float scale) {
  const int64_t rows = min(4, w.rows - row), groups = min(Block<S>::n, w.groups() - group);
  for (int64_t r = 0; r < rows; ++r) {
    T* values = w.values_of_row(row + r) + 2 * group;
    uint8_t* ids = w.ids_of_row(row + r) + group / 2;
    for (int64_t g = 0; g < groups; ++g) {
      const S* four = block.at[r] + 4 * g;
      const uint32_t mask = tiles[g] >> 4 * r & 15, code = nm24_code(mask);
      const S first = four[code & 3], second = four[code >> 2];
      if (choice == Nm24Choice::kSoft) {
        const Acc<S> third = threshold(four, mask);
        values[2 * g] = stored<T>(first, third, scale);
        values[2 * g + 1] = stored<T>(second, third, scale);
      } else {
        values[2 * g] = stored<T>(first, scale);
        values[2 * g + 1] = stored<T>(second, scale);
      }
      if (choice != Nm24Choice::kGiven) put(ids + g / 2, g, code);
    }
  }
}

// The same tiles as rows of the transpose.
template <class T, class S>
void write_columns(const Nm24View<T>& wt, const Block<S>& block, const uint32_t* tiles, int64_t row, int64_t first_col,
                   float scale) {
  const int64_t cols = min(4 * Block<S>::n, wt.rows - first_col), group = row / 4;
  for (int64_t c = 0; c < cols; ++c) {
    const uint32_t code = nm24_code(nm24_column(tiles[c / 4], static_cast<int>(c % 4)));
    T* values = wt.values_of_row(first_col + c) + 2 * group;
    values[0] = stored<T>(block.at[code & 3][c], scale);
    values[1] = stored<T>(block.at[code >> 2][c], scale);
    put(wt.ids_of_row(first_col + c) + group / 2, group, code);
  }
}

}  // namespace

template <class T, class S>
Status nm24_pack(Nm24View<T> w, Nm24View<T> wt, DenseView<const S> dense, Nm24Choice choice, float scale, Threads threads) {
  constexpr int n = Block<S>::n;
  // Whole bytes of the transpose's ids in a band, and work for every thread.
  const int64_t band = max(8, min(kBandRows, dense.rows / threads / 8 * 8));
#pragma omp parallel for num_threads(threads) schedule(static) if (dense.rows * dense.cols > kParallelFrom)
  for (int64_t begin = 0; begin < dense.rows; begin += band) {
    for (int64_t first = 0; first < w.groups(); first += kBlockGroups) {
      for (int64_t row = begin; row < min(begin + band, dense.rows); row += 4) {
        for (int64_t group = first; group < min(first + kBlockGroups, w.groups()); group += n) {
          const Block<S> block(dense, row, 4 * group);
          uint32_t tiles[n];
          choose(tiles, block, w, row, group, choice);
          write_rows(w, block, tiles, row, group, choice, scale);
          if (wt.values) write_columns(wt, block, tiles, row, 4 * group, scale);
        }
      }
    }
  }
  return kOk;
}

template <class T>
Status nm24_unpack(DenseView<T> dense, Nm24View<const T> w, Threads threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (dense.rows * dense.cols > kParallelFrom)
  for (int64_t r = 0; r < w.rows; ++r) {
    T* row = dense.row(r);
    fill_zero(row, w.cols);
    for (int64_t g = 0; g < w.groups(); ++g) {
      const uint32_t code = w.ids_of_row(r)[g / 2] >> g % 2 * 4;
      const T* values = w.values_of_row(r) + 2 * g;
      const int64_t first = 4 * g + (code & 3), second = 4 * g + (code >> 2 & 3);
      if (first < w.cols) row[first] = values[0];
      if (second < w.cols) row[second] = values[1];
    }
  }
  return kOk;
}

SPX_INSTANTIATE(nm24_pack, float, float)
SPX_INSTANTIATE(nm24_pack, double, double)
SPX_INSTANTIATE(nm24_pack, bf16, bf16)
SPX_INSTANTIATE(nm24_pack, bf16, float)
SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, nm24_unpack)

}  // namespace spx::cpu::SPX_ISA::nm24
