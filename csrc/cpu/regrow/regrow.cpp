// Drop and grow with exact counts, from the candidates of all rows (contract: launchers.inc).
//
//   1  keep: the nnz - drop entries with the largest |weight|
//   2  grow: the `grow` largest scores among the dropped entries and the candidates
//   3  count every row's entries, prefix sums              row_ptr, and each row's share of the ties
//   4  merge the entries and candidates of every row       col_idx, slot
#include <algorithm>

#include "common/random.h"
#include "cpu/regrow/select.h"

namespace spx::cpu::SPX_ISA::regrow {
namespace {

template <class T>
void choose_kept(uint8_t* keep, const CsrView<T, int32_t>& old, int64_t count, int64_t* histogram) {
  using K = Key<T>;
  const int64_t nnz = old.pattern.row_ptr[old.pattern.rows];
  const Threshold<K> threshold = select<K>(count, histogram, [&](Digit<K> digit) {
    for (int64_t p = 0; p < nnz; ++p) digit.count(magnitude_key(old.values[p]));
  });
  int64_t ties = 0;
  for (int64_t p = 0; p < nnz; ++p) keep[p] = threshold.takes(magnitude_key(old.values[p]), ties);
}

// What may be grown: the dropped entries and the candidates, by position.
template <class K>
struct Growable {
  const CsrPattern<int32_t>& old;
  const uint8_t* keep;      // [entries]
  const int64_t* position;  // [count] of the candidates
  int64_t count;
  K* entry_key;      // [entries], of the dropped ones
  K* candidate_key;  // [count]

  int64_t first_of_row(int64_t r) const { return std::lower_bound(position, position + count, r * old.cols) - position; }

  // visit(column, entry or -1, key) for all entries and candidates of row r, by column; the key of a kept entry is undefined.
  template <class Visit>
  void visit_row(int64_t r, Visit visit) const {
    const int64_t begin = r * old.cols, end = old.row_ptr[r + 1], last = first_of_row(r + 1);
    int64_t p = old.row_ptr[r], i = first_of_row(r);
    while (p < end || i < last) {
      if (i == last || (p < end && old.col_idx[p] < position[i] - begin)) {
        visit(old.col_idx[p], p, entry_key[p]);
        ++p;
      } else {
        visit(static_cast<int32_t>(position[i] - begin), int64_t{-1}, candidate_key[i]);
        ++i;
      }
    }
  }
};

template <class K, class A>
void fill_keys(const Growable<K>& growable, const Candidates<A>& best, uint64_t seed, int threads) {
  const CsrPattern<int32_t>& old = growable.old;
  const auto random_key = [&](int64_t position) { return K(random_u32(seed, static_cast<uint64_t>(position))); };
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < old.rows; ++r)
    for (int64_t p = old.row_ptr[r]; p < old.row_ptr[r + 1]; ++p)
      if (!growable.keep[p])
        growable.entry_key[p] = best.at_entry ? magnitude_key(best.at_entry[p]) : random_key(r * old.cols + old.col_idx[p]);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < growable.count; ++i)
    growable.candidate_key[i] = best.score ? magnitude_key(best.score[i]) : random_key(best.position[i]);
}

template <class K>
Threshold<K> choose_grown(const Growable<K>& growable, int64_t grow, int64_t* histogram) {
  const int64_t nnz = growable.old.row_ptr[growable.old.rows];
  return select<K>(grow, histogram, [&](Digit<K> digit) {
    for (int64_t p = 0; p < nnz; ++p)
      if (!growable.keep[p]) digit.count(growable.entry_key[p]);
    for (int64_t i = 0; i < growable.count; ++i) digit.count(growable.candidate_key[i]);
  });
}

// Fills row_ptr with the new counts and row_ties with the ties in earlier rows.
template <class K>
void count_rows(CsrPatternOut out, int64_t* row_ties, const Growable<K>& growable, Threshold<K> threshold, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < out.rows; ++r) {
    int64_t chosen = 0, ties = 0;
    growable.visit_row(r, [&](int32_t, int64_t entry, K key) {
      const bool kept = entry >= 0 && growable.keep[entry];
      chosen += kept || key > threshold.key;
      ties += !kept && key == threshold.key;
    });
    out.row_ptr[r + 1] = static_cast<int32_t>(chosen);
    row_ties[r] = ties;
  }
  int64_t before = 0;
  out.row_ptr[0] = 0;
  for (int64_t r = 0; r < out.rows; ++r) {
    const int64_t ties = row_ties[r], left = std::max<int64_t>(threshold.ties - before, 0);
    out.row_ptr[r + 1] += out.row_ptr[r] + static_cast<int32_t>(std::min(ties, left));
    row_ties[r] = before;
    before += ties;
  }
}

template <class K>
void write_rows(CsrPatternOut out, const int64_t* row_ties, const Growable<K>& growable, Threshold<K> threshold, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < out.rows; ++r) {
    int64_t q = out.row_ptr[r], ties = row_ties[r];
    growable.visit_row(r, [&](int32_t c, int64_t entry, K key) {
      if (!(entry >= 0 && growable.keep[entry]) && !threshold.takes(key, ties)) return;
      out.col_idx[q] = c;
      out.slot[q++] = static_cast<int32_t>(entry);
    });
  }
  for (int64_t q = out.row_ptr[out.rows]; q < out.capacity; ++q) {
    out.col_idx[q] = 0;
    out.slot[q] = -1;
  }
}

}  // namespace

template <class T>
Status regrow(CsrPatternOut out, CsrView<T, int32_t> old, Candidates<Acc<T>> best, uint64_t seed, int64_t drop, int64_t grow,
              void* workspace, Threads threads) {
  using K = Key<Acc<T>>;
  const int64_t nnz = old.pattern.row_ptr[old.pattern.rows];
  if (nnz + *best.count < kWorthThreads) threads = 1;
  int64_t* histogram = static_cast<int64_t*>(workspace);
  int64_t* row_ties = histogram + kBins;
  K* entry_key = reinterpret_cast<K*>(row_ties + out.rows);
  K* candidate_key = entry_key + old.pattern.capacity;
  uint8_t* keep = reinterpret_cast<uint8_t*>(candidate_key + best.candidates);

  choose_kept(keep, old, nnz - drop, histogram);
  const Growable<K> growable{old.pattern, keep, best.position, *best.count, entry_key, candidate_key};
  fill_keys(growable, best, seed, threads);
  const Threshold<K> threshold = choose_grown(growable, grow, histogram);
  count_rows(out, row_ties, growable, threshold, threads);
  write_rows(out, row_ties, growable, threshold, threads);
  return kOk;
}

template <class T>
int64_t regrow_workspace(CsrView<T, int32_t> old, Candidates<Acc<T>> best, Threads) {
  const int64_t keys = old.pattern.capacity + best.candidates;
  return kHistogramBytes + static_cast<int64_t>(sizeof(int64_t)) * (old.pattern.rows + keys) + old.pattern.capacity;
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, regrow)
SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, regrow_workspace)

}  // namespace spx::cpu::SPX_ISA::regrow
