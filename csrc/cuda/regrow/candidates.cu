// The best growth candidates of a tile of the score, merged with those kept so far (contract: launchers.inc).
//
//   mark     a bitmap of the tile's entries, with the number of entries before every word; all counters to 0
//   count    reads the tile: at_entry, and a histogram of the keys that are no entries; its last block finds the k-th key's bin
//   gather   reads the tile again: lists the keys in that bin or above, and counts the bin finely, which gives the k-th key
//   choose   compacts the list
// Earlier candidates come before the tile in every pass: their positions are lower, so everything stays in linear order. Fewer
// than k keys lie above the bin, and a bin, 1/32 of a power of two, holds a few per cent of the tile, so the list's capacity is
// the candidates' and a 16th of the tile. If ties exceed it there is no list, and choose reads the tile a third time.
// So four launches (float64: two passes of two more, over the list).
//
// Prediction for 4096 x 4096 float32 on an H200, 10 % entries, 3 % candidates: the tile twice is 31 us at 4.3 TB/s; columns,
// bitmap and at_entry, 20 MB, 5 us; the list and the candidates, in L2, 4 us; counters of 528 blocks added up and two ends of a
// pass in one block, 4 us; four launches, 8 us. Together about 50 us. A sample of the tile in place of `count` would save 10.
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
template <class A>
constexpr int kGroupsOf = 16 / sizeof(A);  // 64 bytes for every thread on their way

// What one pass leaves for the next.
struct State {
  int64_t kept;    // candidates before this tile
  int64_t listed;  // length of the list
  bool whole;      // the list holds everything that can be chosen; otherwise it is a copy of the earlier candidates
};

struct Workspace {
  State* state;
  Select select;
  Counter *tickets, *gather_status, *choose_status;
  Counter *clear, *clear_end;
  int64_t* position;  // of the list, as score
  void* score;
  int32_t* rank;  // entries before the word
  unsigned* bits;
  int64_t list, bytes;

  Workspace(void* base, int64_t tile_rows, int64_t cols, int64_t candidates, int64_t acc_bytes) {
    const int64_t positions = tile_rows * cols + 3, words = ceil_div(positions, kBits);  // a random tile may have 3 more
    list = ceil_div(candidates + positions / 16 + 1024, kFour) * kFour;
    const int64_t most_chunks = ceil_div(list, kChunkItems<1>) + ceil_div(positions, kChunkItems<1>) + 2;
    position = static_cast<int64_t*>(base);  // lists first: vectors need 16 bytes
    score = position + list;
    clear = reinterpret_cast<Counter*>(static_cast<char*>(score) + list * acc_bytes);
    select.top = clear;
    select.coarse = select.top + kTopDigits;
    select.fine = select.coarse + kSegments;
    tickets = select.fine + kFineDigits;
    select.done = reinterpret_cast<unsigned*>(tickets + 2);
    gather_status = tickets + 3;
    choose_status = gather_status + most_chunks;
    clear_end = choose_status + most_chunks;
    select.selection = reinterpret_cast<Selection*>(clear_end);
    state = reinterpret_cast<State*>(select.selection + 1);
    rank = reinterpret_cast<int32_t*>(state + 1);
    bits = reinterpret_cast<unsigned*>(rank + words);
    bytes = reinterpret_cast<char*>(bits + words) - static_cast<char*>(base);
  }
};

// The first entry at or behind a position; col_idx is not read where a row begins.
__device__ int64_t entry_at(const CsrPattern<int32_t>& pattern, int64_t position) {
  const int64_t r = position / pattern.cols, c = position - r * pattern.cols;
  return c == 0 ? pattern.row_ptr[r] : lower_bound(pattern.col_idx, pattern.row_ptr[r], pattern.row_ptr[r + 1], c);
}

// A block marks the entries of 32 * kThreads positions at a time. `first`, `end`: positions of the tile.
template <class A>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_mark_kernel(Workspace work, Candidates<A> best, CsrPattern<int32_t> pattern, int64_t begin, int64_t first,
                       int64_t end) {
  SPX_SHARED(unsigned, bits, kThreads);
  SPX_SHARED(int32_t, scratch, kThreads / kWarp);
  clear_counters(work.clear, work.clear_end);
  if (global_thread() == 0) {
    const int64_t kept = *best.count;
    const int64_t items = kept + end - first - (pattern.row_ptr[end / pattern.cols] - pattern.row_ptr[first / pattern.cols]);
    *work.select.selection = {0, items < best.candidates ? items : best.candidates, items, 0};
    *work.state = {kept, 0, false};
  }
  for (int64_t i = begin + int64_t{blockIdx.x} * kThreads * kBits; i < end; i += int64_t{gridDim.x} * kThreads * kBits) {
    const int64_t low = i < first ? first : i, high = i + kThreads * kBits < end ? i + kThreads * kBits : end;
    const int64_t p0 = entry_at(pattern, low), p1 = entry_at(pattern, high);
    const int64_t row0 = low / pattern.cols, row1 = (high - 1) / pattern.cols + 1;
    bits[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t p = p0 + threadIdx.x; p < p1; p += kThreads) {
      const int64_t j = row_of(pattern.row_ptr, row0, row1, p) * pattern.cols + pattern.col_idx[p] - i;
      atomicOr(&bits[j / kBits], 1u << j % kBits);
    }
    __syncthreads();
    const unsigned mine = bits[threadIdx.x];
    int32_t total;
    const int32_t rank = block_scan<int32_t>(popcount(mine), scratch, &total);
    const int64_t word = (i - begin) / kBits + threadIdx.x;
    if (begin + word * kBits < end) {
      work.bits[word] = mine;
      work.rank[word] = static_cast<int32_t>(p0) + rank;
    }
    __syncthreads();
  }
}

template <class A, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_count_kernel(Workspace work, Candidates<A> best, Tile<A, kRandom> tile) {
  constexpr int kGroups = kGroupsOf<A>;
  constexpr Digit kDigit = top_digit(kGrowthBits<A, kRandom>);
  SPX_SHARED(unsigned, counts, kTopDigits);
  begin_top(counts);
  const int64_t kept = work.state->kept;
  for (int64_t i = global_thread(); i < kept; i += global_threads())
    if constexpr (kRandom)
      count_top(counts, random_u32(tile.seed, static_cast<uint64_t>(best.position[i])), kDigit);
    else
      count_top(counts, magnitude_key(best.score[i]), kDigit);
  for (int64_t chunk = blockIdx.x; chunk * kChunkItems<kGroups> < tile.n; chunk += gridDim.x) {
    const int64_t j0 = first_item<kGroups>(chunk);
    Four<A, kRandom> four[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) tile.load(four[g], j0 + g * kGroup);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t j = j0 + g * kGroup;
      const unsigned entries = j < tile.n ? tile.entries(j) : 0;
      for (int e = 0; e < kFour; ++e)
        if ((four[g].exist & ~entries) >> e & 1) count_top(counts, four[g].key[e], kDigit);
      if constexpr (!kRandom) {
        if (entries == 0) continue;
        int64_t p = work.rank[j / kBits] + popcount(work.bits[j / kBits] & ((1u << j % kBits) - 1));
        for (int e = 0; e < kFour; ++e)
          if (entries >> e & 1) best.at_entry[p++] = four[g].score[e];
      }
    }
  }
  if (end_top(work.select, counts, kDigit) && threadIdx.x == 0) {
    const Selection s = *work.select.selection;
    const bool whole = s.above + s.equal <= work.list;
    *work.state = {kept, whole ? s.above + s.equal : kept, whole};
  }
}

template <class A, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_gather_kernel(Workspace work, Candidates<A> best, Tile<A, kRandom> tile, Digit fine) {
  constexpr int kGroups = kGroupsOf<A>;
  constexpr Digit kDigit = top_digit(kGrowthBits<A, kRandom>);
  const State state = *work.state;
  const auto kth = static_cast<GrowthKey<A, kRandom>>(work.select.selection->key);
  const bool none = work.select.selection->missing <= 0;
  const Items<A, kRandom> items = {tile, best.score, best.position, state.kept};
  A* score = static_cast<A*>(work.score);
  if (!state.whole)
    for (int64_t i = global_thread(); i < state.kept; i += global_threads()) {
      work.position[i] = best.position[i];
      if constexpr (!kRandom) score[i] = best.score[i];
    }
  const int64_t lists = items.template list_chunks<kGroups>();
  const int64_t chunks = lists + (tile.n + kChunkItems<kGroups> - 1) / kChunkItems<kGroups>;
  for (int64_t chunk = next_chunk(work.tickets); chunk < chunks && !none; chunk = next_chunk(work.tickets)) {
    Four<A, kRandom> four[kGroups];
    const int64_t j = items.load(four, chunk);
    unsigned sure[kGroups], equal[kGroups] = {};
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      unsigned in_bin = 0, below = 0;
      for (int e = 0; e < kFour; ++e) {
        in_bin |= (four[g].key[e] >> kDigit.shift == kth >> kDigit.shift ? 1u : 0u) << e;
        below |= (four[g].key[e] >> kDigit.shift < kth >> kDigit.shift ? 1u : 0u) << e;
      }
      count_fine(work.select, four[g].key, four[g].exist & in_bin, fine);
      sure[g] = four[g].exist & ~below;
    }
    if (!state.whole) continue;
    compact<kGroups>(work.gather_status, chunk, sure, equal, 0, [&](int g, int e, int64_t at, bool taken) {
      if (!taken) return;
      work.position[at] = items.position_of(chunk < lists, j + g * kGroup + e);
      if constexpr (!kRandom) score[at] = four[g].score[e];
    });
  }
  end_fine(work.select, fine);
}

// Float64: the further digits.
template <class A, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks) regrow_refine_kernel(Workspace work, Tile<A, kRandom> tile, Digit fine) {
  constexpr int kGroups = kGroupsOf<A>;
  const State state = *work.state;
  const auto kth = static_cast<GrowthKey<A, kRandom>>(work.select.selection->key);
  const Items<A, kRandom> items = {tile, static_cast<const A*>(work.score), work.position, state.listed};
  const int64_t lists = items.template list_chunks<kGroups>();
  const int64_t tiles = state.whole ? 0 : (tile.n + kChunkItems<kGroups> - 1) / kChunkItems<kGroups>;
  for (int64_t chunk = blockIdx.x; chunk < lists + tiles; chunk += gridDim.x) {
    Four<A, kRandom> four[kGroups];
    items.load(four, chunk);
    for (int g = 0; g < kGroups; ++g) {
      unsigned agree = 0;
      for (int e = 0; e < kFour; ++e) agree |= (agrees(four[g].key[e], kth, fine) ? 1u : 0u) << e;
      count_fine(work.select, four[g].key, four[g].exist & agree, fine);
    }
  }
  end_fine(work.select, fine);
}

template <class A, bool kRandom>
__global__ void __launch_bounds__(kThreads, kBlocks)
    regrow_choose_kernel(Candidates<A> best, Workspace work, Tile<A, kRandom> tile) {
  constexpr int kGroups = 1;  // the list is short: more blocks
  const State state = *work.state;
  const Selection s = *work.select.selection;
  const auto kth = static_cast<GrowthKey<A, kRandom>>(s.key);
  const Items<A, kRandom> items = {tile, static_cast<const A*>(work.score), work.position, state.listed};
  const int64_t lists = items.template list_chunks<kGroups>();
  const int64_t tiles = state.whole ? 0 : (tile.n + kChunkItems<kGroups> - 1) / kChunkItems<kGroups>;
  for (int64_t chunk = next_chunk(work.tickets + 1); chunk < lists + tiles; chunk = next_chunk(work.tickets + 1)) {
    Four<A, kRandom> four[kGroups];
    const int64_t j = items.load(four, chunk);
    unsigned sure[kGroups] = {}, equal[kGroups] = {};
    for (int e = 0; e < kFour; ++e) {
      const bool exists = four[0].exist >> e & 1;
      sure[0] |= (exists && four[0].key[e] > kth ? 1u : 0u) << e;
      equal[0] |= (exists && four[0].key[e] == kth ? 1u : 0u) << e;
    }
    compact<kGroups>(work.choose_status, chunk, sure, equal, s.missing, [&](int, int e, int64_t at, bool taken) {
      if (!taken) return;
      best.position[at] = items.position_of(chunk < lists, j + e);
      if constexpr (!kRandom) best.score[at] = four[0].score[e];
    });
  }
  if (global_thread() == 0) *best.count = s.above + s.missing;
}

template <class A, bool kRandom>
Status run(Candidates<A> best, CsrPattern<int32_t> pattern, DenseView<const A> view, int64_t first_row, uint64_t seed,
           void* workspace, Stream stream) {
  constexpr Digit kDigit = top_digit(kGrowthBits<A, kRandom>);
  const Workspace work(workspace, view.rows, view.cols, best.candidates, sizeof(A));
  const int64_t first = first_row * view.cols, end = first + view.rows * view.cols, lead = kRandom ? first % kFour : 0;
  const Tile<A, kRandom> tile = {view.data, first - lead, lead, lead + end - first, seed, work.bits};
  const int64_t chunks = ceil_div(tile.n, kChunkItems<kGroupsOf<A>>) + 1;
  const int64_t count_blocks = chunks < kCountBlocks ? chunks : kCountBlocks;
  const int64_t mark_blocks = blocks_for(tile.n, kThreads * kBits);
  SPX_TRY(launch("regrow_mark", regrow_mark_kernel<A>, mark_blocks > kClearBlocks ? mark_blocks : kClearBlocks, kThreads,
                 stream, work, best, pattern, first - lead, first, end));
  SPX_TRY(launch("regrow_count", regrow_count_kernel<A, kRandom>, count_blocks, kThreads, stream, work, best, tile));
  SPX_TRY(fine_passes(work.select, kDigit, stream, [&](Digit fine, bool is_first) {
    if (is_first)
      return launch("regrow_gather", regrow_gather_kernel<A, kRandom>, blocks_for(chunks, 1), kThreads, stream, work, best,
                    tile, fine);
    return launch("regrow_refine", regrow_refine_kernel<A, kRandom>, count_blocks, kThreads, stream, work, tile, fine);
  }));
  return launch("regrow_choose", regrow_choose_kernel<A, kRandom>, blocks_for(work.list, kChunkItems<1>), kThreads, stream,
                best, work, tile);
}

}  // namespace

template <class A>
Status regrow_candidates(Candidates<A> best, CsrPattern<int32_t> pattern, DenseView<const A> tile, int64_t first_row,
                         uint64_t seed, void* workspace, Stream stream) {
  if (tile.rows * tile.cols == 0) return kOk;
  return tile.data ? run<A, false>(best, pattern, tile, first_row, seed, workspace, stream)
                   : run<A, true>(best, pattern, tile, first_row, seed, workspace, stream);
}

template <class A>
int64_t regrow_candidates_workspace(Candidates<A> best, DenseView<const A> tile, Stream) {
  return Workspace(nullptr, tile.rows, tile.cols, best.candidates, sizeof(A)).bytes;
}

SPX_INSTANTIATE(regrow_candidates, float)
SPX_INSTANTIATE(regrow_candidates, double)
SPX_INSTANTIATE(regrow_candidates_workspace, float)
SPX_INSTANTIATE(regrow_candidates_workspace, double)

}  // namespace spx::cuda::regrow
