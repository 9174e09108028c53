// Four numbers estimated without bias by two of them, once for CPU and CUDA (Chmiel et al. 2022, "Minimum Variance Unbiased N:M
// Sparsity for the Neural Gradients": the approximate estimator of 2:4).
//
// With a_i = |x_i| and s their sum, the first is drawn with probability t_i = a_i / s, the second with a_j / (s - a_i). Then i
// is among the two with probability p_i = t_i + a_i * sum_{j != i} t_j / (s - a_j), and x_i / p_i is its estimate. a_i cancels:
//
//   |x_i / p_i| = s / (1 + sum_{j != i} odds_j),  odds_j = a_j / (s - a_j)
//
// Nothing is subtracted, s - a_j being the sum of the other three, and no product is added to anything: there is nothing that
// one compiler would contract to a fused multiply-add and another not. Sums are in the order of the elements. So CPU, CUDA and
// the twin compute the same bits.
#pragma once
#include "common/random.h"
#include "common/types.h"

namespace spx {

constexpr float kLeast = 0x1p-64f;  // of the largest: what is less is lost in any sum with it, and counts as 0

// The random numbers of two neighbouring groups, two for each: a pure function of draw = (key, count), row and pair.
SPX_HOST_DEVICE Philox4 mvue_numbers(const int64_t* draw, int64_t row, int64_t pair) {
  return philox4x32(static_cast<uint64_t>(draw[0]), static_cast<uint64_t>(row << 32 | pair), static_cast<uint64_t>(draw[1]));
}

// Of each of four the sum of the other three.
template <class A>
SPX_HOST_DEVICE void sum_others(A (&sum)[4], const A (&a)[4]) {
  const A first_two = a[0] + a[1];
  sum[0] = (a[1] + a[2]) + a[3];
  sum[1] = (a[0] + a[2]) + a[3];
  sum[2] = first_two + a[3];
  sum[3] = first_two + a[2];
}

// A, a number or a SIMD register of numbers, one for each of several groups.
template <class A>
struct Mvue {
  using Mask = decltype(A{} < A{});
  Mask as_they_are;    // fewer than three are not 0, or one is no finite number: the two largest are kept, unchanged. Else:
  Mask drawn[4];       // two of them, whose
  A largest, sum;      // magnitude is
  A one_plus_odds[4];  // estimate(one_plus_odds[i])

  // u, v: in [0, 1), uniform and independent.
  SPX_HOST_DEVICE Mvue(const A (&magnitude)[4], A u, A v) {
    largest = magnitude[0];
    for (int i = 1; i < 4; ++i) largest = magnitude[i] > largest ? magnitude[i] : largest;
    A a[4], others[4], odds[4];
    for (int i = 0; i < 4; ++i) {
      a[i] = magnitude[i] / largest;  // so that no sum overflows, and denormals have all their digits
      a[i] = a[i] < kLeast ? A{} : a[i];
    }
    Mask second[4];
    sum = draw(drawn, a, u);
    const Mask zero[4] = {!(a[0] > 0), !(a[1] > 0), !(a[2] > 0), !(a[3] > 0)};  // or NaN: of 0 / 0, of Inf / Inf
    as_they_are = (zero[0] & zero[1]) | (zero[2] & zero[3]) | ((zero[0] | zero[1]) & (zero[2] | zero[3])) | (sum != sum);
    sum_others(others, a);
    for (int i = 0; i < 4; ++i) odds[i] = a[i] / others[i];
    sum_others(one_plus_odds, odds);
    for (int i = 0; i < 4; ++i) one_plus_odds[i] = 1 + one_plus_odds[i];
    for (int i = 0; i < 4; ++i) a[i] = drawn[i] ? A{} : a[i];  // then their sum is that of the other three, to the bit
    draw(second, a, v);
    for (int i = 0; i < 4; ++i) drawn[i] = drawn[i] | second[i];
  }

  // Of what is drawn.
  SPX_HOST_DEVICE A estimate(A of_it) const { return largest * (sum / of_it); }

 private:
  // The one into whose part of [0, sum) u * sum falls; returns the sum. The product stays below it, whatever the rounding,
  // since neither is a denormal; and who is 0 has no part.
  static SPX_HOST_DEVICE A draw(Mask (&one)[4], const A (&a)[4], A u) {
    const A end0 = a[0], end1 = end0 + a[1], end2 = end1 + a[2], end3 = end2 + a[3], at = u * end3;
    one[0] = at < end0;
    one[1] = (at >= end0) & (at < end1);
    one[2] = (at >= end1) & (at < end2);
    one[3] = at >= end2;
    return end3;
  }
};

}  // namespace spx
