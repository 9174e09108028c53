// Two of every four tokens of a gradient, chosen at random, as a 2:4 matrix of its transpose (common/nm24/mvue.h)
//
//   a register holds a number of each of kLanes rows, which are neighbours in memory
//   a thread owns blocks of rows and of whole pairs of groups, so no two threads write the same byte of the ids
// ops/nm24/training.py has checked shapes and dtypes.
#include "common/nm24/mvue.h"

#include "common/keys.h"
#include "common/nm24/groups.h"
#include "common/views.h"
#include "cpu/simd/isa.h"
#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA::nm24 {
namespace {

// A block is small enough that a first-level cache keeps its lines until all of their elements are used.
constexpr int64_t kBlockRows = 64, kBlockPairs = 16;
constexpr int64_t kParallelFrom = 1 << 12;  // elements: fewer take no longer than waking a thread

// Four tokens at kLanes rows; what lies outside is 0.
template <class T>
struct Tokens {
  static constexpr int n = kLanes<Acc<T>>;
  T at[4][n];

  Tokens(DenseView<const T> dy, int64_t token, int64_t row) {
    memset(at, 0, sizeof at);
    const int64_t rows = min(n, dy.cols - row);
    for (int64_t i = 0; i < min(4, dy.rows - token); ++i)
      memcpy(at[i], dy.row(token + i) + row, static_cast<size_t>(rows) * sizeof(T));
  }
};

// The random numbers of a pair of groups at kLanes rows, two for each group.
template <class A>
struct Numbers {
  static constexpr int n = kLanes<A>;
  Vec<A> number[4];

  Numbers(const int64_t* rng, int64_t row, int64_t pair) {
    A lanes[4][n];
    for (int lane = 0; lane < n; ++lane) {
      const Philox4 four = mvue_numbers(rng, row + lane, pair);
      for (int i = 0; i < 4; ++i) lanes[i][lane] = unit_interval<A>(four.x[i]);
    }
    memcpy(number, lanes, sizeof number);
  }
};

// Both values of each lane, and the code.
template <class T>
struct Kept {
  static constexpr int n = kLanes<Acc<T>>;
  T value[n][2];
  uint32_t code[n];

  Kept(const Tokens<T>& x, Vec<Acc<T>> u, Vec<Acc<T>> v) {
    using A = Acc<T>;
    Vec<A> magnitude[4], estimate[4];
    for (int i = 0; i < 4; ++i) {
      const Vec<A> numbers = load<A>(x.at[i]);
      magnitude[i] = numbers < 0 ? -numbers : numbers;
    }
    const Mvue group(magnitude, u, v);
    for (int i = 0; i < 4; ++i) estimate[i] = group.estimate(group.one_plus_odds[i]);
    for (int lane = 0; lane < n; ++lane) {
      uint32_t chosen = 0;
      for (int i = 0; i < 4; ++i) chosen |= (group.chosen[i][lane] & 1u) << i;
      const bool as_they_are = group.as_they_are[lane];
      code[lane] = nm24_code(as_they_are ? largest(x, lane) : chosen);
      for (int k = 0; k < 2; ++k) {
        const int place = code[lane] >> 2 * k & 3;
        const A size = estimate[place][lane];
        if (as_they_are)
          value[lane][k] = x.at[place][lane];
        else
          from_acc(&value[lane][k], to_acc(x.at[place][lane]) < 0 ? -size : size);
      }
    }
  }

  static uint32_t largest(const Tokens<T>& x, int lane) {
    return nm24_largest(magnitude_key(x.at[0][lane]), magnitude_key(x.at[1][lane]), magnitude_key(x.at[2][lane]),
                        magnitude_key(x.at[3][lane]));
  }
};

// The eight tokens of a pair of groups at kLanes rows.
template <class T>
void mvue_pair(const Nm24View<T>& wt, DenseView<const T> dy, const int64_t* rng, int64_t row, int64_t pair) {
  const Numbers<Acc<T>> random(rng, row, pair);
  const Kept<T> even(Tokens<T>(dy, 8 * pair, row), random.number[0], random.number[1]);
  const Kept<T> odd(Tokens<T>(dy, 8 * pair + 4, row), random.number[2], random.number[3]);
  const bool is_pair = 2 * pair + 1 < wt.groups();
  for (int64_t lane = 0; lane < min(Kept<T>::n, wt.rows - row); ++lane) {
    T* values = wt.values_of_row(row + lane) + 4 * pair;
    memcpy(values, even.value[lane], sizeof even.value[lane]);
    if (is_pair) memcpy(values + 2, odd.value[lane], sizeof odd.value[lane]);
    wt.ids_of_row(row + lane)[pair] = static_cast<uint8_t>(even.code[lane] | (is_pair ? odd.code[lane] : kNm24EmptyCode) << 4);
  }
}

}  // namespace

template <class T>
Status nm24_mvue(Nm24View<T> wt, DenseView<const T> dy, const int64_t* rng, Threads threads) {
  constexpr int n = kLanes<Acc<T>>;
  const int64_t pairs = (wt.groups() + 1) / 2;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static) if (dy.rows * dy.cols > kParallelFrom)
  for (int64_t first_row = 0; first_row < wt.rows; first_row += kBlockRows)
    for (int64_t first_pair = 0; first_pair < pairs; first_pair += kBlockPairs)
      for (int64_t row = first_row; row < min(first_row + kBlockRows, wt.rows); row += n)
        for (int64_t pair = first_pair; pair < min(first_pair + kBlockPairs, pairs); ++pair) mvue_pair(wt, dy, rng, row, pair);
  return kOk;
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, nm24_mvue)

}  // namespace spx::cpu::SPX_ISA::nm24
