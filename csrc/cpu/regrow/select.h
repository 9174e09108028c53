// The exact threshold of the k largest keys, by radix select. regrow and regrow_candidates choose with it.
//
// A select reads the keys once for each digit of 16 bits, the most significant first: a histogram finds the digit of the last
// chosen key. Keys equal to the threshold are ties; a running count gives them to the lower indices.
#pragma once
#include <cstdint>

#include "common/keys.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::regrow {

constexpr int kDigitBits = 16;
constexpr int64_t kBins = 1 << kDigitBits;
constexpr int64_t kHistogramBytes = kBins * static_cast<int64_t>(sizeof(int64_t));
constexpr int64_t kWorthThreads = 1 << 16;  // keys; below, waking threads costs more than the scan

// Chosen are all keys above `key`, and the first `ties` of those equal to it.
template <class K>
struct Threshold {
  K key;
  int64_t ties;

  // Whether a key is chosen; `seen` counts the ties before it.
  bool takes(K k, int64_t& seen) const { return k > key || (k == key && seen++ < ties); }
};

// One digit of the keys that agree with the threshold in all higher ones.
template <class K>
struct Digit {
  int64_t* bins;
  int shift;
  K prefix;

  void count(K key, int64_t times = 1) const {
    const int above = shift + kDigitBits;
    const bool agrees = above >= static_cast<int>(8 * sizeof(K)) || (key >> above) == (prefix >> above);
    if (agrees) bins[static_cast<int64_t>(key >> shift) & (kBins - 1)] += times;
  }
};

// The threshold that chooses exactly `count` of the keys (all, if they are fewer); add_keys(Digit) counts every key once.
template <class K, class AddKeys>
Threshold<K> select(int64_t count, int64_t* histogram, AddKeys add_keys) {
  K prefix = 0;
  if (count == 0) return {static_cast<K>(~K(0)), 0};
  for (int shift = 8 * sizeof(K) - kDigitBits; shift >= 0; shift -= kDigitBits) {
    fill_zero(histogram, kBins);
    add_keys(Digit<K>{histogram, shift, prefix});
    int64_t digit = kBins - 1;
    while (digit > 0 && histogram[digit] < count) count -= histogram[digit--];
    prefix |= static_cast<K>(digit) << shift;
  }
  return {prefix, count};
}

}  // namespace spx::cpu::SPX_ISA::regrow
