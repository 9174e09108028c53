// Drop and grow with exact counts: the new pattern and the slot map (contract: launchers.inc).
//
//   merge   one list of entries and candidates in linear order: an item's place is its own number and that of the others below
//   keep    radix select over |weight| (select.cuh): a histogram, then the bin of the k-th key finely
//   drop    keeps entries above the k-th key, and the first ones equal to it; a histogram of the scores of all others
//   grow    the bin of the k-th score finely
//   place   compacts the merged list (compact.cuh): the chosen items, in linear order, are the new pattern
//   rows    row_ptr, from where rows begin in the merged list
// Everything is as large as the pattern and the candidates, never rows * cols. nnz is known on the device only. Seven launches
// (float64: two passes of two more for each selection).
//
// Prediction for 4096 x 4096 float32 on an H200, 10 % entries, 3 % candidates: 60 MB, most of it in L2, 12 us; seven launches,
// 14 us; loads that wait for each other (searches, look-back, the last blocks) 5 us. Together about 30 us.
#include "common/keys.h"
#include "common/random.h"
#include "cuda/device/compact.cuh"
#include "cuda/device/scan.cuh"
#include "cuda/device/search.cuh"
#include "cuda/device/select.cuh"
#include "cuda/regrow/growth.cuh"

namespace spx::cuda::regrow {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;  // at least, on a multiprocessor: without this bound ptxas saves registers and spills
static_assert(kThreads == kSelectThreads && kThreads == kCompactThreads);
constexpr int kGroups = 1;  // a chunk has 1024 items: there are few
constexpr int64_t kChunk = kChunkItems<kGroups>;
constexpr int64_t kBatch = 256;  // neighbours that a warp merges: they share the search for where they begin

struct Workspace {
  Select keep, grow;  // they share the fine counters
  Counter *tickets, *drop_status, *place_status;
  Counter *clear, *clear_end;
  int64_t* row_begin;    // [rows + 1] in the merged list
  uint32_t* random_key;  // [capacity] of random growth, in place of at_entry
  int32_t* merged;       // [capacity + candidates] an entry p as p, a candidate i as ~i
  int32_t* rank;         // how many were chosen before every four of the merged list
  uint8_t* chosen;       // which of the four are
  uint8_t* kept;         // which of every four entries are
  int64_t bytes;

  Workspace(void* base, int64_t rows, int64_t capacity, int64_t candidates) {
    const int64_t items = ceil_div(capacity + candidates, kFour) * kFour, entries = ceil_div(capacity, kFour) * kFour;
    merged = static_cast<int32_t*>(base);  // first: vectors need 16 bytes
    random_key = reinterpret_cast<uint32_t*>(merged + items);
    clear = reinterpret_cast<Counter*>(random_key + entries);
    keep.top = clear;
    grow.top = keep.top + kTopDigits;
    keep.coarse = grow.coarse = grow.top + kTopDigits;
    keep.fine = grow.fine = keep.coarse + kSegments;
    tickets = keep.fine + kFineDigits;
    keep.done = grow.done = reinterpret_cast<unsigned*>(tickets + 2);
    drop_status = tickets + 3;
    place_status = drop_status + ceil_div(capacity, kChunk);
    clear_end = place_status + ceil_div(items, kChunk);
    keep.selection = reinterpret_cast<Selection*>(clear_end);
    grow.selection = keep.selection + 1;
    row_begin = reinterpret_cast<int64_t*>(keep.selection + 2);
    rank = reinterpret_cast<int32_t*>(row_begin + rows + 1);
    chosen = reinterpret_cast<uint8_t*>(rank + items / kFour);
    kept = chosen + items / kFour;
    bytes = reinterpret_cast<char*>(kept + entries / kFour) - static_cast<char*>(base);
  }
};

template <class T>
constexpr int kWeightBits = 8 * sizeof(T) - 1;  // of a magnitude_key

// Entries [p0, p1) to their places, by one warp.
template <class A>
__device__ void merge_entries(const Workspace& work, const CsrPattern<int32_t>& old, const Candidates<A>& best, uint64_t seed,
                              int64_t p0, int64_t p1) {
  const int64_t count = *best.count;
  const auto begins_by = [&](int64_t p) { return [&, p](int64_t r) { return old.row_ptr[r] <= p; }; };
  const int64_t row0 = warp_search(0, old.rows, begins_by(p0)) - 1, row1 = warp_search(row0, old.rows, begins_by(p1 - 1));
  const int64_t low = row0 * old.cols + old.col_idx[p0], high = (row1 - 1) * old.cols + old.col_idx[p1 - 1];
  const int64_t i0 = warp_search(0, count, [&](int64_t i) { return best.position[i] < low; });
  const int64_t i1 = warp_search(i0, count, [&](int64_t i) { return best.position[i] < high; });
  for (int64_t p = p0 + threadIdx.x % kWarp; p < p1; p += kWarp) {
    const int64_t position = row_of(old.row_ptr, row0, row1, p) * old.cols + old.col_idx[p];
    work.merged[p + lower_bound(best.position, i0, i1, position)] = static_cast<int32_t>(p);
    if (!best.at_entry) work.random_key[p] = random_u32(seed, static_cast<uint64_t>(position));
  }
}

// By whole warps: batches of entries, batches of candidates, and the rows' begins.
template <class A>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_merge_kernel(Workspace work, CsrPattern<int32_t> old, Candidates<A> best, uint64_t seed, int64_t drop,
                        int64_t grow) {
  clear_counters(work.clear, work.clear_end);
  const int64_t nnz = old.row_ptr[old.rows], count = *best.count, lane = threadIdx.x % kWarp;
  if (global_thread() == 0) {
    const int64_t keep = nnz > drop ? nnz - drop : 0, rest = nnz - keep + count;
    *work.keep.selection = {0, keep, nnz, 0};
    *work.grow.selection = {0, grow < rest ? grow : rest, rest, 0};
  }
  const int64_t warps = global_threads() / kWarp, warp = global_thread() / kWarp;
  for (int64_t p = warp * kBatch; p < nnz; p += warps * kBatch)
    merge_entries(work, old, best, seed, p, p + kBatch < nnz ? p + kBatch : nnz);
  for (int64_t i = global_thread(); i < count; i += global_threads()) {
    const int64_t position = best.position[i], r = position / old.cols;
    const int32_t p = lower_bound(old.col_idx, old.row_ptr[r], old.row_ptr[r + 1], position - r * old.cols);
    work.merged[i + p] = ~static_cast<int32_t>(i);
  }
  for (int64_t r0 = warp * kWarp; r0 <= old.rows; r0 += warps * kWarp) {
    const int64_t low = r0 * old.cols, high = low + kWarp * old.cols, r = r0 + lane;
    const int64_t i0 = warp_search(0, count, [&](int64_t i) { return best.position[i] < low; });
    const int64_t i1 = warp_search(i0, count, [&](int64_t i) { return best.position[i] < high; });
    if (r <= old.rows) work.row_begin[r] = old.row_ptr[r] + lower_bound(best.position, i0, i1, r * old.cols);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) regrow_keep_kernel(Workspace work, CsrView<T, int32_t> old) {
  SPX_SHARED(unsigned, counts, kTopDigits);
  begin_top(counts);
  const int64_t nnz = old.pattern.row_ptr[old.pattern.rows];
  for (int64_t p0 = global_thread() * kFour; p0 < nnz; p0 += global_threads() * kFour) {
    T weight[kFour];
    const unsigned exist = load_four(weight, old.values, p0, nnz);
    for (int e = 0; e < kFour; ++e)
      if (exist >> e & 1) count_top(counts, magnitude_key(weight[e]), top_digit(kWeightBits<T>));
  }
  end_top(work.keep, counts, top_digit(kWeightBits<T>));
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_keep_fine_kernel(Workspace work, CsrView<T, int32_t> old, Digit digit) {
  const int64_t nnz = old.pattern.row_ptr[old.pattern.rows];
  const auto kth = static_cast<Key<T>>(work.keep.selection->key);
  for (int64_t chunk = blockIdx.x; chunk * kChunk < nnz; chunk += gridDim.x) {
    T weight[kFour];
    const unsigned exist = load_four(weight, old.values, first_item<kGroups>(chunk), nnz);
    Key<T> key[kFour];
    unsigned agree = 0;
    for (int e = 0; e < kFour; ++e) {
      key[e] = magnitude_key(weight[e]);
      agree |= (agrees(key[e], kth, digit) ? 1u : 0u) << e;
    }
    count_fine(work.keep, key, exist & agree, digit);
  }
  end_fine(work.keep, digit);
}

template <class T, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_drop_kernel(Workspace work, CsrView<T, int32_t> old, Growable<Acc<T>, kRandom> growable) {
  constexpr Digit kDigit = top_digit(kGrowthBits<Acc<T>, kRandom>);
  SPX_SHARED(unsigned, counts, kTopDigits);
  begin_top(counts);
  clear_fine(work.grow);
  const int64_t nnz = old.pattern.row_ptr[old.pattern.rows], count = *growable.best.count;
  const Selection s = *work.keep.selection;
  const auto kth = static_cast<Key<T>>(s.key);
  for (int64_t chunk = next_chunk(work.tickets); chunk * kChunk < nnz; chunk = next_chunk(work.tickets)) {
    const int64_t p = first_item<kGroups>(chunk);
    T weight[kFour];
    const unsigned exist = load_four(weight, old.values, p, nnz);
    unsigned sure[kGroups] = {}, equal[kGroups] = {}, kept = 0;
    for (int e = 0; e < kFour; ++e) {
      const Key<T> key = magnitude_key(weight[e]);
      sure[0] |= (exist >> e & 1 && key > kth ? 1u : 0u) << e;
      equal[0] |= (exist >> e & 1 && key == kth ? 1u : 0u) << e;
    }
    compact<kGroups>(work.drop_status, chunk, sure, equal, s.missing,
                     [&](int, int e, int64_t, bool taken) { kept |= (taken ? 1u : 0u) << e; });
    if (exist) work.kept[p / kFour] = static_cast<uint8_t>(kept);
    for (int e = 0; e < kFour; ++e)
      if ((exist & ~kept) >> e & 1) count_top(counts, growable.entry_key(p + e), kDigit);
  }
  for (int64_t i = global_thread(); i < count; i += global_threads()) count_top(counts, growable.candidate_key(i), kDigit);
  end_top(work.grow, counts, kDigit);
}

template <class A, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_grow_fine_kernel(Workspace work, Growable<A, kRandom> growable, const int32_t* nnz_at, Digit digit) {
  using Key = GrowthKey<A, kRandom>;
  const int64_t nnz = *nnz_at, count = *growable.best.count;
  const auto kth = static_cast<Key>(work.grow.selection->key);
  for (int64_t p0 = int64_t{blockIdx.x} * kThreads; p0 < nnz; p0 += global_threads()) {
    const int64_t p = p0 + threadIdx.x;
    const bool dropped = p < nnz && !growable.is_kept(p);
    const Key key[1] = {dropped ? growable.entry_key(p) : Key{0}};
    count_fine(work.grow, key, dropped && agrees(key[0], kth, digit), digit);
  }
  for (int64_t i0 = int64_t{blockIdx.x} * kThreads; i0 < count; i0 += global_threads()) {
    const int64_t i = i0 + threadIdx.x;
    const Key key[1] = {i < count ? growable.candidate_key(i) : Key{0}};
    count_fine(work.grow, key, i < count && agrees(key[0], kth, digit), digit);
  }
  end_fine(work.grow, digit);
}

template <class A, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_place_kernel(CsrPatternOut out, Workspace work, CsrPattern<int32_t> old, Growable<A, kRandom> growable) {
  const int64_t nnz = old.row_ptr[old.rows], total = nnz + *growable.best.count;
  const Selection s = *work.grow.selection, keep = *work.keep.selection;
  const auto kth = static_cast<GrowthKey<A, kRandom>>(s.key);
  for (int64_t chunk = next_chunk(work.tickets + 1); chunk * kChunk < total; chunk = next_chunk(work.tickets + 1)) {
    const int64_t m = first_item<kGroups>(chunk);
    int32_t item[kFour];
    const unsigned exist = load_four(item, work.merged, m, total);
    unsigned sure[kGroups] = {}, equal[kGroups] = {}, chosen = 0;
    for (int e = 0; e < kFour; ++e) {
      if (!(exist >> e & 1)) continue;
      const bool is_entry = item[e] >= 0, is_kept = is_entry && growable.is_kept(item[e]);
      const auto key = is_kept ? kth : is_entry ? growable.entry_key(item[e]) : growable.candidate_key(~item[e]);
      sure[0] |= (is_kept || key > kth ? 1u : 0u) << e;
      equal[0] |= (!is_kept && key == kth ? 1u : 0u) << e;
    }
    compact<kGroups>(work.place_status, chunk, sure, equal, s.missing, [&](int, int e, int64_t at, bool taken) {
      if (e == 0 && exist) work.rank[m / kFour] = static_cast<int32_t>(at);
      if (!taken) return;
      chosen |= 1u << e;
      out.slot[at] = item[e] >= 0 ? item[e] : -1;
      out.col_idx[at] = item[e] >= 0 ? old.col_idx[item[e]] : static_cast<int32_t>(growable.best.position[~item[e]] % old.cols);
    });
    if (exist) work.chosen[m / kFour] = static_cast<uint8_t>(chosen);
  }
  const int64_t new_nnz = keep.above + keep.missing + s.above + s.missing;
  for (int64_t q = new_nnz + global_thread(); q < out.capacity; q += global_threads()) {
    out.col_idx[q] = 0;
    out.slot[q] = -1;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_rows_kernel(CsrPatternOut out, Workspace work, const int32_t* nnz, Candidates<A> best) {
  const Selection grown = *work.grow.selection, keep = *work.keep.selection;
  const int64_t total = *nnz + *best.count, new_nnz = keep.above + keep.missing + grown.above + grown.missing;
  for (int64_t r = global_thread(); r <= out.rows; r += global_threads()) {
    const int64_t m = work.row_begin[r];
    const int64_t q = m < total ? work.rank[m / kFour] + popcount(work.chosen[m / kFour] & ((1u << m % kFour) - 1)) : new_nnz;
    out.row_ptr[r] = static_cast<int32_t>(q);
  }
}

int64_t count_blocks(int64_t items) {
  const int64_t blocks = blocks_for(items, kChunk);
  return blocks < kCountBlocks ? blocks : kCountBlocks;
}

template <class T, bool kRandom>
Status run(CsrPatternOut out, CsrView<T, int32_t> old, Candidates<Acc<T>> best, uint64_t seed, int64_t drop, int64_t grow,
           void* workspace, Stream stream) {
  using A = Acc<T>;
  const int64_t rows = out.rows, capacity = old.pattern.capacity, items = capacity + best.candidates;
  const int32_t* nnz = old.pattern.row_ptr + rows;
  const Workspace work(workspace, rows, capacity, best.candidates);
  const Growable<A, kRandom> growable = {work.random_key, work.kept, best, seed};
  const int64_t merge_blocks = blocks_for(items > rows ? items : rows, kThreads);
  SPX_TRY(launch("regrow_merge", regrow_merge_kernel<A>, merge_blocks > kClearBlocks ? merge_blocks : kClearBlocks, kThreads,
                 stream, work, old.pattern, best, seed, drop, grow));
  SPX_TRY(launch("regrow_keep", regrow_keep_kernel<T>, count_blocks(capacity), kThreads, stream, work, old));
  SPX_TRY(fine_passes(work.keep, top_digit(kWeightBits<T>), stream, [&](Digit digit, bool) {
    return launch("regrow_keep_fine", regrow_keep_fine_kernel<T>, count_blocks(capacity), kThreads, stream, work, old, digit);
  }));
  SPX_TRY(launch("regrow_drop", regrow_drop_kernel<T, kRandom>, count_blocks(items), kThreads, stream, work, old, growable));
  SPX_TRY(fine_passes(work.grow, top_digit(kGrowthBits<A, kRandom>), stream, [&](Digit digit, bool) {
    return launch("regrow_grow_fine", regrow_grow_fine_kernel<A, kRandom>, count_blocks(items), kThreads, stream, work,
                  growable, nnz, digit);
  }));
  SPX_TRY(launch("regrow_place", regrow_place_kernel<A, kRandom>, blocks_for(items, kChunk), kThreads, stream, out, work,
                 old.pattern, growable));
  return launch("regrow_rows", regrow_rows_kernel<A>, blocks_for(rows + 1, kThreads), kThreads, stream, out, work, nnz, best);
}

}  // namespace

template <class T>
Status regrow(CsrPatternOut out, CsrView<T, int32_t> old, Candidates<Acc<T>> best, uint64_t seed, int64_t drop, int64_t grow,
              void* workspace, Stream stream) {
  return best.at_entry ? run<T, false>(out, old, best, seed, drop, grow, workspace, stream)
                       : run<T, true>(out, old, best, seed, drop, grow, workspace, stream);
}

template <class T>
int64_t regrow_workspace(CsrView<T, int32_t> old, Candidates<Acc<T>> best, Stream) {
  return Workspace(nullptr, old.pattern.rows, old.pattern.capacity, best.candidates).bytes;
}

SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, regrow)
SPX_INSTANTIATE(regrow, f16)
SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, regrow_workspace)
SPX_INSTANTIATE(regrow_workspace, f16)

}  // namespace spx::cuda::regrow
