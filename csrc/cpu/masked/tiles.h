// The dense product of two packed operands, the core of the masked products: sums[i, j] = sum_k a[k, i] * b[k, j]
//
//   "rows" i are packed in tiles, "lanes" j in strips [depth][kStripLanes]: a tile and a strip meet in registers, kDepth terms
//   at a time, always in the order of k. A tile is [kDepth][kTileRows] or, ByRow, [kTileRows][kRowStride]: as its source lies
//   strips are packed once, by all threads. A thread owns whole tiles; it packs kDepth terms of some of them, which stay in its
//   cache while all strips pass. So every sum is one thread's, and has the same bits for any number of threads
#pragma once
#include "cpu/simd/vec.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::masked {

// 12 sums, two loads and a broadcast fit 16 registers; AVX-512 has 32. Of few lanes a strip has one register.
constexpr int kTileRows = kVecBytes == 64 ? 12 : 6, kStripVecs = 2;
// Terms at a time, measured: a tile by row takes more of them, as its rows need not be interleaved.
template <bool kByRow>
constexpr int64_t kDepth = kByRow ? 1024 : 512;
constexpr int64_t kBlockBytes = 256 << 10, kGroupBytes = 64 << 10;  // of packed tiles and strips that are in L2 at a time

// A line more than they need: tiles, and rows of a tile, would otherwise share the sets of a cache.
template <bool kByRow, class A>
constexpr int64_t kRowStride = kDepth<kByRow> + 64 / sizeof(A);
template <bool kByRow, class A>
constexpr int64_t kTileStride = kTileRows * kRowStride<kByRow, A>;

template <class A, int kVecs = kStripVecs>
constexpr int kStripLanes = kVecs * kLanes<A>;

// A tile's sums, row by row.
template <class A, int kVecs>
struct Sums {
  Vec<A> of[kTileRows][kVecs];

  const A* row(int i) const { return reinterpret_cast<const A*>(of[i]); }
};

// sums (kFirst: 0) += the products of so many terms.
template <bool kByRow, bool kFirst, int kVecs, class A>
inline void multiply_tile(Sums<A, kVecs>& sums, const A* tile, const A* strip, int64_t depth) {
  // Unrolled, and never addressed as a whole: otherwise the compiler keeps the sums in memory.
  Vec<A> sum[kTileRows][kVecs];
#pragma GCC unroll 12
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sum[i][v] = kFirst ? Vec<A>{} : sums.of[i][v];
  }
  constexpr int64_t kStep = kByRow ? 1 : kTileRows, kNext = kByRow ? kRowStride<true, A> : 1;
  for (int64_t k = 0; k < depth; ++k, tile += kStep, strip += kStripLanes<A, kVecs>) {
    const Vec<A> b0 = load<A>(strip), b1 = load<A>(strip + (kVecs - 1) * kLanes<A>);
#pragma GCC unroll 12
    for (int i = 0; i < kTileRows; ++i) {
      sum[i][0] += tile[i * kNext] * b0;
      if constexpr (kVecs == 2) sum[i][1] += tile[i * kNext] * b1;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) sums.of[i][v] = sum[i][v];
  }
}

// Workspace: all strips, then for each thread a block of tiles and, where it goes through several depths, its sums.
struct Layout {
  int64_t strips, group, block_tiles, block, sums, thread, total;
};
template <class A, bool kByRow, int kVecs>
Layout layout(int64_t rows, int64_t lanes, int64_t depth, int64_t most_tiles, int threads) {
  // More threads need more of it, never less: a launcher may wake fewer than it was given.
  const int64_t bytes = sizeof(A), tile = kTileStride<kByRow, A> * bytes, strips = ceil_div(lanes, kStripLanes<A, kVecs>);
  Layout l;
  l.strips = align64(strips * depth * kStripLanes<A, kVecs> * bytes);
  l.group = max(1, kGroupBytes / max(1, min(depth, kDepth<kByRow>) * kStripLanes<A, kVecs> * bytes));
  l.block_tiles = max(1, min(min(most_tiles, kBlockBytes / tile), ceil_div(rows, kTileRows)));
  l.block = align64(l.block_tiles * tile);
  l.sums = l.block_tiles * (depth > kDepth<kByRow> ? strips : 1) * static_cast<int64_t>(sizeof(Sums<A, kVecs>));
  l.thread = l.block + l.sums;
  l.total = l.strips + l.thread * threads;
  return l;
}

// f(tile, strip) for all of them, a group of strips after the other: it stays in L2 while the tiles pass.
template <class F>
inline void for_each_pair(int64_t tiles, int64_t strips, int64_t group, F f) {
  for (int64_t first = 0; first < strips; first += group)
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t s = first; s < min(strips, first + group); ++s) f(t, s);
}

// pack_tiles(to, i, n, k, d): terms [k, k + d) of n tiles from row i on, kTileStride apart; at most most_tiles
// pack_strips(to, j, n): n whole strips from lane j on, one after the other. What does not exist is 0
// store(sums, i, j): takes the sums of row i and lane j and behind
template <class A, bool kByRow, int kVecs, class PackTiles, class PackStrips, class Store>
void multiply(int64_t rows, int64_t lanes, int64_t depth, int64_t most_tiles, void* memory, int threads, PackTiles pack_tiles,
              PackStrips pack_strips, Store store) {
  constexpr int64_t kTerms = kDepth<kByRow>;
  const Layout l = layout<A, kByRow, kVecs>(rows, lanes, depth, most_tiles, threads);
  const int64_t strips = ceil_div(lanes, kStripLanes<A, kVecs>), tiles = ceil_div(rows, kTileRows);
  A* packed = static_cast<A*>(memory);
  in_parallel(threads, [&](int64_t id, int64_t team) {
    const int64_t from = strips * id / team, to = strips * (id + 1) / team;
    pack_strips(packed + from * depth * kStripLanes<A, kVecs>, from * kStripLanes<A, kVecs>, to - from);
#pragma omp barrier
    char* own = static_cast<char*>(memory) + l.strips + id * l.thread;
    A* block = reinterpret_cast<A*>(own);
    Sums<A, kVecs>* all_sums = reinterpret_cast<Sums<A, kVecs>*>(own + l.block);
    const int64_t last = tiles * (id + 1) / team;
    for (int64_t first = tiles * id / team; first < last; first += l.block_tiles) {
      const int64_t count = min(l.block_tiles, last - first);
      for (int64_t k = 0; k == 0 || k < depth; k += kTerms) {
        const int64_t terms = min(kTerms, depth - k);
        pack_tiles(block, first * kTileRows, count, k, terms);
        for_each_pair(count, strips, l.group, [&](int64_t t, int64_t s) {
          Sums<A, kVecs>& sums = all_sums[(depth > kTerms ? s * count : 0) + t];
          const A *tile = block + t * kTileStride<kByRow, A>, *strip = packed + (s * depth + k) * kStripLanes<A, kVecs>;
          if (k == 0)
            multiply_tile<kByRow, true>(sums, tile, strip, terms);
          else
            multiply_tile<kByRow, false>(sums, tile, strip, terms);
          if (k + terms == depth) store(sums, (first + t) * kTileRows, s * kStripLanes<A, kVecs>);
        });
      }
    }
  });
}

}  // namespace spx::cpu::SPX_ISA::masked
