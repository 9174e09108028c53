// Four numbers estimated without bias from two of them. Once for CPU and CUDA (Chmiel et al. 2022, "Minimum Variance Unbiased
// N:M Sparsity for the Neural Gradients": the approximate estimator of 2:4).
//
// Let a_i = |x_i| and s their sum. The first is i with probability t_i = a_i / s, the second is j with a_j / (s - a_i). So i is
// one of the two with probability p_i = t_i + a_i * sum_{j != i} t_j / (s - a_j), and x_i / p_i is its estimate. a_i cancels:
//
//   |x_i / p_i| = s / (1 + sum_{j != i} odds_j),  odds_j = a_j / (s - a_j)
//
// CPU, CUDA and the twin compute the same bits: sums are in the order of the elements, s - a_j is computed as the sum of the
// other three, and no product is added to anything, so no compiler contracts one to a fused multiply-add.
#pragma once
#include "common/random.h"
#include "common/types.h"

namespace spx {

// Less than this fraction of the largest is lost in any sum with it, and counts as 0.
constexpr float kLeast = 0x1p-64f;

// The random numbers of two neighbouring groups, two for each: a pure function of rng = (seed, offset), row and pair.
SPX_HOST_DEVICE Philox4 mvue_numbers(const int64_t* rng, int64_t row, int64_t pair) {
  return philox4x32(static_cast<uint64_t>(rng[0]), static_cast<uint64_t>(row << 32 | pair), static_cast<uint64_t>(rng[1]));
}

// sum[i] = the other three of a.
template <class A>
SPX_HOST_DEVICE void sum_others(A (&sum)[4], const A (&a)[4]) {
  const A first_two = a[0] + a[1];
  sum[0] = (a[1] + a[2]) + a[3];
  sum[1] = (a[0] + a[2]) + a[3];
  sum[2] = first_two + a[3];
  sum[3] = first_two + a[2];
}

// A is a number, or a SIMD register with a number for each of several groups.
template <class A>
struct Mvue {
  using Mask = decltype(A{} < A{});
  Mask as_they_are;  // fewer than three are not 0, or one is not finite: keep the two largest, unchanged. Otherwise:
  Mask chosen[4];    // keep these two, with magnitudes estimate(one_plus_odds[i])
  A largest, sum;
  A one_plus_odds[4];

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
    sum = choose(chosen, a, u);
    const Mask zero[4] = {!(a[0] > 0), !(a[1] > 0), !(a[2] > 0), !(a[3] > 0)};  // or NaN: of 0 / 0, of Inf / Inf
    as_they_are = (zero[0] & zero[1]) | (zero[2] & zero[3]) | ((zero[0] | zero[1]) & (zero[2] | zero[3])) | (sum != sum);
    sum_others(others, a);
    for (int i = 0; i < 4; ++i) odds[i] = a[i] / others[i];
    sum_others(one_plus_odds, odds);
    for (int i = 0; i < 4; ++i) one_plus_odds[i] = 1 + one_plus_odds[i];
    for (int i = 0; i < 4; ++i) a[i] = chosen[i] ? A{} : a[i];  // the sum is now that of the other three, bit for bit
    choose(second, a, v);
    for (int i = 0; i < 4; ++i) chosen[i] = chosen[i] | second[i];
  }

  SPX_HOST_DEVICE A estimate(A own_one_plus_odds) const { return largest * (sum / own_one_plus_odds); }

 private:
  // Splits [0, sum) into four parts of lengths a and chooses the one that holds u * sum; returns the sum. u * sum rounds to
  // less than the sum because neither is denormal, and a number that is 0 has an empty part.
  static SPX_HOST_DEVICE A choose(Mask (&one)[4], const A (&a)[4], A u) {
    const A end0 = a[0], end1 = end0 + a[1], end2 = end1 + a[2], end3 = end2 + a[3], at = u * end3;
    one[0] = at < end0;
    one[1] = (at >= end0) & (at < end1);
    one[2] = (at >= end1) & (at < end2);
    one[3] = at >= end2;
    return end3;
  }
};

}  // namespace spx
