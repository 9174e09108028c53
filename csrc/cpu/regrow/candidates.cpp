// The best positions outside the pattern, from a score that passes by in tiles (contract: launchers.inc).
//
//   1  store the scores at the tile's entries
//   2  find the threshold of the best.candidates largest keys among the candidates so far and the tile's positions that are no
//      entries. Once the list is full, keys below its smallest are skipped, which are most of a later tile
//   3  shrink the list to what the threshold chooses, count the choices of the tile's rows, and append them row by row
// Candidates have lower positions than the tile's, so ties go to the list first.
#include <omp.h>

#include <algorithm>

#include "common/random.h"
#include "cpu/regrow/select.h"

namespace spx::cpu::SPX_ISA::regrow {
namespace {

// The keys of a tile, by position inside it: of a dense score, or of the random stream.
template <class A>
struct DenseKeys {
  const A* score;
  Key<A> operator()(int64_t i) const { return magnitude_key(score[i]); }
};
struct RandomKeys {
  const uint32_t* keys;
  uint32_t operator()(int64_t i) const { return keys[i]; }
};

// keys[i] = random_u32(seed, first + i); four neighbours share one Philox block.
void fill_random(uint32_t* keys, uint64_t seed, int64_t first, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = first >> 2; block <= (first + count - 1) >> 2; ++block) {
    const Philox4 four = philox4x32(seed, static_cast<uint64_t>(block));
    for (int64_t lane = 0; lane < 4; ++lane) {
      const int64_t i = 4 * block + lane - first;
      if (i >= 0 && i < count) keys[i] = four.x[lane];
    }
  }
}

// The state of a launch. The tile is the rows [first_row, first_row + tile_rows) of the pattern.
template <class A, class Keys>
struct Work {
  using K = Key<A>;
  Candidates<A> best;
  CsrPattern<int32_t> pattern;
  Keys keys;
  int64_t first_row, tile_rows;
  int64_t* histograms;  // [threads, kBins]
  int64_t* row_counts;  // [2, tile_rows]: a row's chosen keys, then where they go; its ties, then those before them
  K* listed;            // [best.candidates] the candidates' keys
  int threads;

  // visit(column, key) for the positions of the tile's row r that are no entries, in order.
  template <class Visit>
  void visit_free(int64_t r, Visit visit) const {
    const int64_t row = first_row + r, begin = r * pattern.cols;
    int64_t c = 0;
    for (int64_t p = pattern.row_ptr[row]; p <= pattern.row_ptr[row + 1]; ++p) {
      const int64_t end = p < pattern.row_ptr[row + 1] ? pattern.col_idx[p] : pattern.cols;
      for (; c < end; ++c) visit(c, keys(begin + c));
      c = end + 1;
    }
  }
};

template <class A, class Keys>
Threshold<Key<A>> choose(const Work<A, Keys>& work) {
  using K = Key<A>;
  const int64_t count = *work.best.count, candidates = work.best.candidates;
  // A key of the tile that is lower loses to the whole list.
  const K least = count == candidates && count > 0 ? *std::min_element(work.listed, work.listed + count) : 0;
  return select<K>(candidates, work.histograms, [&](Digit<K> digit) {
#pragma omp parallel num_threads(work.threads)
    {
      const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();
      Digit<K> mine = digit;
      mine.bins += id * kBins;
      if (id > 0) fill_zero(mine.bins, kBins);
      for (int64_t i = count * id / team; i < count * (id + 1) / team; ++i) mine.count(work.listed[i]);
      for (int64_t r = work.tile_rows * id / team; r < work.tile_rows * (id + 1) / team; ++r)
        work.visit_free(r, [&](int64_t, K key) {
          if (key >= least) mine.count(key);
        });
#pragma omp barrier
#pragma omp for schedule(static)
      for (int64_t bin = 0; bin < kBins; ++bin)
        for (int64_t other = 1; other < team; ++other) digit.bins[bin] += digit.bins[other * kBins + bin];
    }
  });
}

// Keeps the candidates that the threshold chooses; `ties` counts the ties among them.
template <class A, class Keys>
void shrink(const Work<A, Keys>& work, Threshold<Key<A>> threshold, int64_t& ties) {
  const Candidates<A>& best = work.best;
  int64_t kept = 0;
  for (int64_t i = 0; i < *best.count; ++i) {
    if (!threshold.takes(work.listed[i], ties)) continue;
    if (best.score) best.score[kept] = best.score[i];
    best.position[kept++] = best.position[i];
  }
  *best.count = kept;
}

template <class A, class Keys>
void append(const Work<A, Keys>& work, Threshold<Key<A>> threshold, int64_t ties, DenseView<const A> tile) {
  using K = Key<A>;
  const Candidates<A>& best = work.best;
  int64_t *chosen = work.row_counts, *tied = work.row_counts + work.tile_rows;
#pragma omp parallel for num_threads(work.threads) schedule(static)
  for (int64_t r = 0; r < work.tile_rows; ++r) {
    int64_t above = 0, equal = 0;
    work.visit_free(r, [&](int64_t, K key) {
      above += key > threshold.key;
      equal += key == threshold.key;
    });
    chosen[r] = above;
    tied[r] = equal;
  }
  int64_t at = *best.count;
  for (int64_t r = 0; r < work.tile_rows; ++r) {
    const int64_t left = std::max<int64_t>(threshold.ties - ties, 0), count = chosen[r] + std::min(tied[r], left);
    const int64_t before = ties;
    ties += tied[r];
    chosen[r] = at;
    tied[r] = before;
    at += count;
  }
  *best.count = at;
#pragma omp parallel for num_threads(work.threads) schedule(static)
  for (int64_t r = 0; r < work.tile_rows; ++r) {
    int64_t to = chosen[r], seen = tied[r];
    work.visit_free(r, [&](int64_t c, K key) {
      if (!threshold.takes(key, seen)) return;
      if (best.score) best.score[to] = tile.row(r)[c];
      best.position[to++] = (work.first_row + r) * work.pattern.cols + c;
    });
  }
}

template <class A, class Keys>
void take_tile(const Work<A, Keys>& work, DenseView<const A> tile, uint64_t seed) {
  using K = Key<A>;
  const CsrPattern<int32_t>& pattern = work.pattern;
  const int64_t entries = pattern.row_ptr[work.first_row + work.tile_rows] - pattern.row_ptr[work.first_row];
  const int64_t free = work.tile_rows * pattern.cols - entries, count = *work.best.count;
  if (count + free <= work.best.candidates) return append(work, Threshold<K>{0, free}, 0, tile);
#pragma omp parallel for num_threads(work.threads) schedule(static)
  for (int64_t i = 0; i < count; ++i)
    work.listed[i] =
        tile.data ? magnitude_key(work.best.score[i]) : K(random_u32(seed, static_cast<uint64_t>(work.best.position[i])));
  const Threshold<K> threshold = choose(work);
  int64_t ties = 0;
  shrink(work, threshold, ties);
  append(work, threshold, ties, tile);
}

}  // namespace

template <class A>
Status regrow_candidates(Candidates<A> best, CsrPattern<int32_t> pattern, DenseView<const A> tile, int64_t first_row,
                         uint64_t seed, void* workspace, Threads threads) {
  const int64_t positions = tile.rows * tile.cols;
  if (positions < kWorthThreads) threads = 1;
  int64_t* histograms = static_cast<int64_t*>(workspace);
  int64_t* row_counts = histograms + threads * kBins;
  Key<A>* listed = reinterpret_cast<Key<A>*>(row_counts + 2 * tile.rows);
  const auto take = [&](auto keys) {
    take_tile(Work<A, decltype(keys)>{best, pattern, keys, first_row, tile.rows, histograms, row_counts, listed, threads}, tile,
              seed);
  };
  if (!tile.data) {
    uint32_t* keys = reinterpret_cast<uint32_t*>(listed + best.candidates);
    fill_random(keys, seed, first_row * tile.cols, positions, threads);
    take(RandomKeys{keys});
    return kOk;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < tile.rows; ++r)
    for (int64_t p = pattern.row_ptr[first_row + r]; p < pattern.row_ptr[first_row + r + 1]; ++p)
      best.at_entry[p] = tile.row(r)[pattern.col_idx[p]];
  take(DenseKeys<A>{tile.data});
  return kOk;
}

template <class A>
int64_t regrow_candidates_workspace(Candidates<A> best, DenseView<const A> tile, Threads threads) {
  const int64_t row_counts = 2 * tile.rows * static_cast<int64_t>(sizeof(int64_t));
  const int64_t listed = best.candidates * static_cast<int64_t>(sizeof(Key<A>));
  const int64_t random_keys = tile.rows * tile.cols * static_cast<int64_t>(sizeof(uint32_t));
  return threads * kHistogramBytes + row_counts + listed + random_keys;
}

SPX_INSTANTIATE(regrow_candidates, float)
SPX_INSTANTIATE(regrow_candidates, double)
SPX_INSTANTIATE(regrow_candidates_workspace, float)
SPX_INSTANTIATE(regrow_candidates_workspace, double)

}  // namespace spx::cpu::SPX_ISA::regrow
