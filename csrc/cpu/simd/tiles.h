// Column tiles keep a kernel's activations in the first-level cache.
//
// A packed block of activations is larger than L1, and a row's columns are spread over all of it. Cutting the columns into
// tiles and taking all rows of a panel through one tile after the other lets a tile's features be read many times from L1. The
// price is one partial result per (row, tile), so tiles get wider as rows get sparser.
#pragma once
#include "common/views.h"
#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA {

// Measured on 1024 x 1024 and 1024 x 4096 at 80 to 98 %: below 24 KB or 16 entries a tile's overhead shows, above 256 KB its
// misses.
constexpr int64_t kMinTileBytes = 24 << 10, kMaxTileBytes = 256 << 10, kEntriesPerSegment = 16;

// Number of tiles for features of `feature_bytes` each.
inline int64_t tile_count(int64_t rows, int64_t cols, int64_t nnz, int64_t feature_bytes) {
  const int64_t for_density = kEntriesPerSegment * rows * cols / max(1, nnz);
  const int64_t width = max(kMinTileBytes / feature_bytes, min(kMaxTileBytes / feature_bytes, for_density));
  return max(1, ceil_div(cols, width));
}
inline int64_t max_tile_count(int64_t cols, int64_t feature_bytes) {
  return max(1, ceil_div(cols, kMinTileBytes / feature_bytes));
}

// Entries [begin, end) of row r in tile k are cuts[r * tiles + k] and cuts[r * tiles + k + 1]: a finer row_ptr, and row_ptr
// itself where there is one tile.
struct Cuts {
  const int32_t* at;
  int64_t tiles;
};

// Segments are multiples of so many entries, except a row's last: a kernel takes that many at once, and a remainder costs it an
// unpredictable branch. This moves a few columns into the neighbouring tile.
constexpr int64_t kSegmentMultiple = kLanes<float>;

// Writes the cuts of rows [r0, r1). The call with the last row also writes the very last cut.
template <class Index>
void cut_rows(int32_t* cuts, int64_t tiles, const CsrPattern<Index>& pattern, int64_t r0, int64_t r1) {
  constexpr int kStep = 16;
  for (int64_t r = r0; r < r1; ++r) {
    const int64_t begin = pattern.row_ptr[r], end = pattern.row_ptr[r + 1];
    int64_t p = begin;
    cuts[r * tiles] = static_cast<int32_t>(begin);
    for (int64_t k = 1; k < tiles; ++k) {
      const int64_t bound = pattern.cols * k / tiles;
      while (p + kStep <= end && pattern.col_idx[p + kStep - 1] < bound) p += kStep;
      int below = 0;  // columns ascend, so counting finds the cut without a branch per entry
      const int64_t last = min(p + kStep, end);
      for (int64_t q = p; q < last; ++q) below += pattern.col_idx[q] < bound;
      p += below;
      const int64_t whole = (p - begin + kSegmentMultiple / 2) / kSegmentMultiple * kSegmentMultiple;
      cuts[r * tiles + k] = static_cast<int32_t>(min(begin + whole, end));
    }
  }
  if (r0 < r1 && r1 == pattern.rows) cuts[pattern.rows * tiles] = pattern.row_ptr[pattern.rows];
}

}  // namespace spx::cpu::SPX_ISA
