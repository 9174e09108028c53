// Drop and grow with exact counts (contract: launchers.inc), by radix select.
//
//   1  keep: the nnz - drop entries with the largest |weight|          select over entries
//   2  grow: the `grow` largest scores among positions not kept        select over the dense rows, kept entries taken out
//   3  count every row's kept and grown entries, prefix sums           row_ptr, and each row's share of the ties
//   4  merge kept and grown columns of every row                       col_idx, slot
// A select reads keys 16 bits at a time, most significant first: a histogram names the digit in which the last chosen key lies,
// until all digits are known. Keys equal to the threshold are ties and go to the lower index, by a running count.
#include <omp.h>

#include <cstring>

#include "common/random.h"
#include "common/select.h"
#include "kernels.h"

namespace spx::cpu {
namespace {

constexpr int kDigitBits = 16;
constexpr int64_t kBins = 1 << kDigitBits;
constexpr int64_t kWorthThreads = 1 << 16;  // positions; below, waking threads costs more than the scan

// Chosen are all keys above `key`, and the first `ties` of those equal to it.
template <class K>
struct Threshold {
  K key;
  int64_t ties;
};

// The threshold that chooses exactly `count` keys. add_keys(histogram, shift, prefix) counts digit (key >> shift) of every key whose
// bits above that digit equal prefix's.
template <class K, class AddKeys>
Threshold<K> select(int64_t count, int64_t* histogram, AddKeys add_keys) {
  K prefix = 0;
  if (count == 0) return {static_cast<K>(~K(0)), 0};
  for (int shift = 8 * sizeof(K) - kDigitBits; shift >= 0; shift -= kDigitBits) {
    memset(histogram, 0, kBins * sizeof(int64_t));
    add_keys(histogram, shift, prefix);
    int64_t digit = kBins - 1;
    while (digit > 0 && histogram[digit] < count) count -= histogram[digit--];
    prefix |= static_cast<K>(digit) << shift;
  }
  return {prefix, count};
}

// True where the bits above the digit at `shift` agree.
template <class K>
inline bool matches(K key, K prefix, int shift) {
  const int above = shift + kDigitBits;
  return above >= static_cast<int>(8 * sizeof(K)) || (key >> above) == (prefix >> above);
}
template <class K>
inline int64_t digit_of(K key, int shift) {
  return static_cast<int64_t>(key >> shift) & (kBins - 1);
}

// Keys of the growth scores, by position: a dense score, or the random stream.
template <class A>
struct DenseScore {
  using K = Key<A>;
  const A* score;
  K operator()(int64_t i) const { return magnitude_key(score[i]); }
};
struct RandomScore {
  using K = uint32_t;
  uint64_t seed;
  K operator()(int64_t i) const { return random_u32(seed, static_cast<uint64_t>(i)); }
};

struct Workspace {
  int64_t* histogram;  // [threads, kBins]
  int64_t* row_ties;   // [rows] growable ties before the row
  uint8_t* keep;       // [capacity]
};
int64_t bytes_for(int64_t rows, int64_t capacity, int threads, Workspace* w, char* memory) {
  const int64_t histogram = threads * kBins * static_cast<int64_t>(sizeof(int64_t));
  const int64_t ties = rows * static_cast<int64_t>(sizeof(int64_t));
  if (w)
    *w = {reinterpret_cast<int64_t*>(memory), reinterpret_cast<int64_t*>(memory + histogram),
          reinterpret_cast<uint8_t*>(memory + histogram + ties)};
  return histogram + ties + capacity;
}

template <class T>
void choose_kept(uint8_t* keep, const CsrView<T, int32_t>& old, int64_t count, int64_t* histogram) {
  using K = Key<T>;
  const int64_t nnz = old.pattern.row_ptr[old.pattern.rows];
  const Threshold<K> threshold = select<K>(count, histogram, [&](int64_t* bins, int shift, K prefix) {
    for (int64_t p = 0; p < nnz; ++p) {
      const K key = magnitude_key(old.values[p]);
      if (matches(key, prefix, shift)) ++bins[digit_of(key, shift)];
    }
  });
  int64_t ties = threshold.ties;
  for (int64_t p = 0; p < nnz; ++p) {
    const K key = magnitude_key(old.values[p]);
    keep[p] = key > threshold.key || (key == threshold.key && ties-- > 0);
  }
}

// Calls visit(column, entry or -1, key) for the positions of row r that are not kept, in order.
template <class Score, class Visit>
inline void visit_growable(const CsrPattern<int32_t>& old, const uint8_t* keep, int64_t r, Score score, Visit visit) {
  int64_t p = old.row_ptr[r];
  const int64_t end = old.row_ptr[r + 1];
  for (int64_t c = 0; c < old.cols; ++c) {
    int64_t entry = -1;
    if (p < end && old.col_idx[p] == c) {
      entry = p++;
      if (keep[entry]) continue;
    }
    visit(c, entry, score(r * old.cols + c));
  }
}

template <class Score>
Threshold<typename Score::K> choose_grown(const CsrPattern<int32_t>& old, const uint8_t* keep, Score score, int64_t count,
                                          int64_t* histograms, int threads) {
  using K = typename Score::K;
  return select<K>(count, histograms, [&](int64_t* bins, int shift, K prefix) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();
      int64_t* mine = bins + id * kBins;
      if (id > 0) memset(mine, 0, kBins * sizeof(int64_t));
      for (int64_t r = old.rows * id / team; r < old.rows * (id + 1) / team; ++r) {
        // Every position first, in a loop without branches on the pattern; then the kept ones are taken out again.
        for (int64_t i = r * old.cols; i < (r + 1) * old.cols; ++i) {
          const K key = score(i);
          if (matches(key, prefix, shift)) ++mine[digit_of(key, shift)];
        }
        for (int64_t p = old.row_ptr[r]; p < old.row_ptr[r + 1]; ++p) {
          const K key = score(r * old.cols + old.col_idx[p]);
          if (keep[p] && matches(key, prefix, shift)) --mine[digit_of(key, shift)];
        }
      }
#pragma omp barrier
#pragma omp for schedule(static)
      for (int64_t bin = 0; bin < kBins; ++bin)
        for (int64_t other = 1; other < team; ++other) bins[bin] += bins[other * kBins + bin];
    }
  });
}

// Fills row_ptr with the new counts and row_ties with the ties that go to earlier rows.
template <class Score, class K>
void count_rows(CsrPatternOut out, int64_t* row_ties, const CsrPattern<int32_t>& old, const uint8_t* keep, Score score,
                Threshold<K> threshold, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < old.rows; ++r) {
    int64_t chosen = 0, ties = 0;
    for (int64_t p = old.row_ptr[r]; p < old.row_ptr[r + 1]; ++p) chosen += keep[p];
    visit_growable(old, keep, r, score, [&](int64_t, int64_t, K key) {
      chosen += key > threshold.key;
      ties += key == threshold.key;
    });
    out.row_ptr[r + 1] = static_cast<int32_t>(chosen);
    row_ties[r] = ties;
  }
  int64_t left = threshold.ties, before = 0;
  out.row_ptr[0] = 0;
  for (int64_t r = 0; r < old.rows; ++r) {
    const int64_t ties = row_ties[r], taken = ties < left ? ties : left;
    row_ties[r] = before;
    before += ties;
    left -= taken;
    out.row_ptr[r + 1] += out.row_ptr[r] + static_cast<int32_t>(taken);
  }
}

template <class Score, class K>
void write_rows(CsrPatternOut out, const int64_t* row_ties, const CsrPattern<int32_t>& old, const uint8_t* keep, Score score,
                Threshold<K> threshold, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < old.rows; ++r) {
    int64_t q = out.row_ptr[r], kept = old.row_ptr[r], tie = row_ties[r];
    const int64_t kept_end = old.row_ptr[r + 1];
    const auto put_kept_before = [&](int64_t column) {
      for (; kept < kept_end && old.col_idx[kept] < column; ++kept) {
        if (!keep[kept]) continue;
        out.col_idx[q] = old.col_idx[kept];
        out.slot[q++] = static_cast<int32_t>(kept);
      }
    };
    visit_growable(old, keep, r, score, [&](int64_t c, int64_t entry, K key) {
      if (key < threshold.key || (key == threshold.key && tie++ >= threshold.ties)) return;
      put_kept_before(c);
      out.col_idx[q] = static_cast<int32_t>(c);
      out.slot[q++] = static_cast<int32_t>(entry);
    });
    put_kept_before(old.cols);
  }
  for (int64_t q = out.row_ptr[old.rows]; q < out.capacity; ++q) {
    out.col_idx[q] = 0;
    out.slot[q] = -1;
  }
}

template <class Score>
void grow_and_rebuild(CsrPatternOut out, const CsrPattern<int32_t>& old, const Workspace& w, Score score, int64_t grow,
                      int threads) {
  const auto threshold = choose_grown(old, w.keep, score, grow, w.histogram, threads);
  count_rows(out, w.row_ties, old, w.keep, score, threshold, threads);
  write_rows(out, w.row_ties, old, w.keep, score, threshold, threads);
}

}  // namespace

template <class T>
Status regrow(CsrPatternOut out, CsrView<T, int32_t> old, const Acc<T>* score, uint64_t seed, int64_t drop, int64_t grow,
              void* workspace, int threads) {
  if (old.pattern.rows * old.pattern.cols < kWorthThreads) threads = 1;
  Workspace w;
  bytes_for(old.pattern.rows, old.pattern.capacity, threads, &w, static_cast<char*>(workspace));
  choose_kept(w.keep, old, old.pattern.row_ptr[old.pattern.rows] - drop, w.histogram);
  if (score)
    grow_and_rebuild(out, old.pattern, w, DenseScore<Acc<T>>{score}, grow, threads);
  else
    grow_and_rebuild(out, old.pattern, w, RandomScore{seed}, grow, threads);
  return kOk;
}

int64_t regrow_workspace(int64_t rows, int64_t, int64_t capacity, int threads) {
  return bytes_for(rows, capacity, threads, nullptr, nullptr);
}

template Status regrow(CsrPatternOut, CsrView<float, int32_t>, const float*, uint64_t, int64_t, int64_t, void*, int);
template Status regrow(CsrPatternOut, CsrView<double, int32_t>, const double*, uint64_t, int64_t, int64_t, void*, int);
template Status regrow(CsrPatternOut, CsrView<bf16, int32_t>, const float*, uint64_t, int64_t, int64_t, void*, int);

}  // namespace spx::cpu
