// 2:4 matrices: the codes that are stored, and the choice of two of four. Once for CPU and CUDA.
//
// A group is four neighbours of a row. It stores two positions, ascending, as a code of four bits: first | second << 2, which
// is 4, 8, 9, 12, 13 or 14. Sparse tensor cores read the same codes; only their order in memory differs.
// For choosing, a group is a mask of four bits, and a tile of 4 x 4 a mask of sixteen, row by row.
//
// A *transposable* tile has two ones in every row and column, so that its transpose is 2:4 as well; there are 90 of them
// (Hu et al. 2024, "Accelerating Transformer Pre-training with 2:4 Sparsity", section 4.2).
#pragma once
#include <cstdint>
#include <utility>

#include "common/types.h"

namespace spx {

constexpr int kNm24EmptyCode = 4;  // of a group that does not exist: positions 0 and 1

SPX_HOST_DEVICE uint32_t nm24_mask(uint32_t code) { return 1u << (code & 3) | 1u << (code >> 2 & 3); }

// The codes of all sixteen masks, four bits each. A column of a tile whose last rows do not exist may have fewer than two ones;
// then the last free positions fill its code.
SPX_HOST_DEVICE constexpr uint64_t nm24_codes() {
  uint64_t codes = 0;
  for (int mask = 0; mask < 16; ++mask) {
    int place[2] = {0, 0}, ones = 0;
    for (int i = 0; i < 4; ++i)
      if (mask >> i & 1 && ones < 2) place[ones++] = i;
    if (ones == 0) place[0] = 2, place[1] = 3;
    if (ones == 1) place[1] = place[0] == 3 ? (place[0] = 2, 3) : 3;
    codes |= static_cast<uint64_t>(place[0] | place[1] << 2) << 4 * mask;
  }
  return codes;
}
SPX_HOST_DEVICE uint32_t nm24_code(uint32_t mask) {
  constexpr uint64_t codes = nm24_codes();
  return static_cast<uint32_t>(codes >> 4 * mask) & 15;
}

// What mma.sp m16n8k32 reads of lane 4 i + j, j < 2, with selector 0 (PTX ISA, "Matrix Fragments for sparse mma.m16n8k32 with
// .f16 and .bf16 types"): the codes of the 16 columns from 16 j on, of row i in the low half and of row i + 8 in the high one.
// Each warp of wgmma.sp m64n256k32 reads the same ("Sparse matrix storage"), with selector 1 of the lanes 2 and 3.
SPX_HOST_DEVICE uint32_t nm24_metadata(uint32_t row_codes, uint32_t row8_codes) { return row_codes | row8_codes << 16; }

// The two largest of four keys, the first among equals.
template <class K>
SPX_HOST_DEVICE uint32_t nm24_largest(K a, K b, K c, K d) {
  const int ab = a >= b, ac = a >= c, ad = a >= d, bc = b >= c, bd = b >= d, cd = c >= d;
  // How many keys rank before each one.
  const int before_a = 3 - ab - ac - ad, before_b = ab + 2 - bc - bd, before_c = ac + bc + 1 - cd, before_d = ad + bd + cd;
  return static_cast<uint32_t>((before_a < 2) | (before_b < 2) << 1 | (before_c < 2) << 2 | (before_d < 2) << 3);
}

// Column j of a tile, as the mask of a group of the transpose.
SPX_HOST_DEVICE uint32_t nm24_column(uint32_t tile, int j) {
  return (tile >> j & 1) | (tile >> (3 + j) & 2) | (tile >> (6 + j) & 4) | (tile >> (9 + j) & 8);
}

// The new code of a group: it keeps the entries that stay, then grows the largest keys among its other columns, the first among
// equals, until it has two. slot is that of its first entry; source receives the old slot of each new entry, or -1.
template <class K>
SPX_HOST_DEVICE uint32_t nm24_regrown(int32_t (&source)[2], uint32_t code, const bool (&stays)[2], uint32_t columns,
                                      const K (&key)[4], int32_t slot) {
  const uint32_t first = code & 3, second = code >> 2 & 3;
  const uint32_t kept = (stays[0] ? 1u << first : 0u) | (stays[1] ? 1u << second : 0u), others = columns & ~kept;
  uint32_t mask = kept;
  for (int i = 0; i < 4; ++i) {
    int before = stays[0] + stays[1];
    for (int j = 0; j < 4; ++j) before += (others >> j & 1) && (key[j] > key[i] || (key[j] == key[i] && j < i));
    if (before < 2) mask |= others & 1u << i;
  }
  const uint32_t regrown = nm24_code(mask);
  for (int k = 0; k < 2; ++k) {
    const uint32_t place = regrown >> 2 * k & 3;
    source[k] = place == first ? slot : place == second ? slot + 1 : -1;
  }
  return regrown;
}

// Which of the four columns of a group exist, as a mask.
SPX_HOST_DEVICE uint32_t nm24_columns(int64_t group, int64_t cols) {
  return 4 * group + 4 <= cols ? 15u : (1u << (cols - 4 * group)) - 1;
}

// ---- transposable tiles -------------------------------------------------------------------------------------------------

// The pairs of four positions in ascending order of (first, second).
constexpr int kPairs = 6, kTiles = 90;
struct Nm24Tables {
  int first[kPairs], second[kPairs];
  int pair[kTiles][4];  // of each row, tiles in ascending order of these
  uint32_t mask[kTiles];
};
SPX_HOST_DEVICE constexpr Nm24Tables nm24_tables() {
  Nm24Tables t{};
  int pairs = 0;
  for (int i = 0; i < 4; ++i) {
    for (int j = i + 1; j < 4; ++j) {
      t.first[pairs] = i;
      t.second[pairs++] = j;
    }
  }
  int tiles = 0;
  for (int index = 0; index < kPairs * kPairs * kPairs * kPairs; ++index) {
    const int pair[4] = {index / 216, index / 36 % 6, index / 6 % 6, index % 6};
    int ones[4] = {0, 0, 0, 0};
    uint32_t mask = 0;
    for (int r = 0; r < 4; ++r) {
      ++ones[t.first[pair[r]]];
      ++ones[t.second[pair[r]]];
      mask |= (1u << t.first[pair[r]] | 1u << t.second[pair[r]]) << 4 * r;
    }
    if (ones[0] != 2 || ones[1] != 2 || ones[2] != 2 || ones[3] != 2) continue;
    for (int r = 0; r < 4; ++r) t.pair[tiles][r] = pair[r];
    t.mask[tiles++] = mask;
  }
  return t;
}

// A is a number, or a SIMD register with a number for each of several tiles: magnitude[4 r + c].
template <class A>
struct TileSums {
  A upper[kPairs * kPairs], lower[kPairs * kPairs];  // of the pairs of rows 0 and 1, and of rows 2 and 3

  template <int... p>
  SPX_HOST_DEVICE TileSums(const A* magnitude, std::integer_sequence<int, p...>) {
    constexpr Nm24Tables t = nm24_tables();
    const A row[4][kPairs] = {{(magnitude[t.first[p]] + magnitude[t.second[p]])...},
                              {(magnitude[4 + t.first[p]] + magnitude[4 + t.second[p]])...},
                              {(magnitude[8 + t.first[p]] + magnitude[8 + t.second[p]])...},
                              {(magnitude[12 + t.first[p]] + magnitude[12 + t.second[p]])...}};
    for (int i = 0; i < kPairs; ++i) {
      for (int j = 0; j < kPairs; ++j) {
        upper[kPairs * i + j] = row[0][i] + row[1][j];
        lower[kPairs * i + j] = row[2][i] + row[3][j];
      }
    }
  }
  SPX_HOST_DEVICE explicit TileSums(const A* magnitude) : TileSums(magnitude, std::make_integer_sequence<int, kPairs>()) {}
};

template <int tile, class A, class Offer>
SPX_HOST_DEVICE void offer_tile(const TileSums<A>& sums, Offer& offer) {
  constexpr Nm24Tables t = nm24_tables();
  constexpr int upper = kPairs * t.pair[tile][0] + t.pair[tile][1], lower = kPairs * t.pair[tile][2] + t.pair[tile][3];
  constexpr uint32_t mask = t.mask[tile];
  offer(sums.upper[upper] + sums.lower[lower], mask);
}
template <class A, class Offer, int... tile>
SPX_HOST_DEVICE void offer_tiles(const TileSums<A>& sums, Offer& offer, std::integer_sequence<int, tile...>) {
  (offer_tile<tile>(sums, offer), ...);
}
// Calls offer(total magnitude, mask) for each of the 90 tiles, in order; the best tile is the first with the largest total.
// The total is (row 0 + row 1) + (row 2 + row 3), where a row is first + second.
template <class A, class Offer>
SPX_HOST_DEVICE void offer_tiles(const A* magnitude, Offer& offer) {
  const TileSums<A> sums(magnitude);
  offer_tiles(sums, offer, std::make_integer_sequence<int, kTiles>());
}

}  // namespace spx
