// The tile of x that a block of csr_spmm_kernel multiplies: how it lies in shared memory, and how it gets there.
//
//   x      [tokens, cols], token-major: 128-bit loads along the columns where rows are aligned, else one element at a time
//   tile   feature-major: kTokensPerLane neighbouring tokens of one column are what a lane reads at once, a warp reads a column
//   banks  neither turning the tile nor reading it has conflicts: see Share::store
#pragma once
#include "words.cuh"

namespace spx::cuda {

constexpr int kMultiplyThreads = 512;
constexpr int kMultiplyWarps = kMultiplyThreads / kWarp;

// The tile of x in shared memory: 32 KB, kCols columns of kTokens tokens.
template <class T>
struct Tile {
  static constexpr int kPieceCols = 16 / sizeof(T);  // columns in one 128-bit load of x
  static constexpr int kTokensPerLane = sizeof(T) == 8 ? 2 : 4;
  static constexpr int kTokens = kTokensPerLane * kWarp;
  static constexpr int kLaneBytes = kTokensPerLane * sizeof(T);
  static constexpr int kCols = 32768 / (kLaneBytes * kWarp);
  static constexpr int kPieces = kCols / kPieceCols;
  static_assert(kPieces <= kWarp, "a swizzle stays inside its column");

  // Where in the tile the first tokens of column `col` lie, in bytes; those of lane l lie at place ^ l * kLaneBytes.
  // Columns of different pieces are turned against each other: see Share::store.
  static __device__ int place(int col) { return (col * kWarp + col / kPieceCols) * kLaneBytes; }
};

template <class T>
using Tokens = Words<T, Tile<T>::kTokensPerLane>;  // of one column: what a lane reads or writes of a tile
template <class T>
using Piece = Words<T, Tile<T>::kPieceCols>;  // of one token: what a lane loads of x

// A thread's share of a tile of x, on its way from global to shared memory: 16 registers.
template <class T>
struct Share {
  using Tile = cuda::Tile<T>;
  static constexpr int kUnits = Tile::kPieces * kWarp / kMultiplyThreads;
  Piece<T> piece[kUnits][Tile::kTokensPerLane];

  static __device__ int unit(int u) { return static_cast<int>(threadIdx.x) + u * kMultiplyThreads; }
  static __device__ int piece_of(int u) { return unit(u) % Tile::kPieces; }  // neighbouring lanes load neighbouring pieces
  static __device__ int lane_of(int u) { return unit(u) / Tile::kPieces; }   // which lane's tokens

  // What lies outside of x becomes 0: no entry asks for a column there, no result for a token.
  __device__ void load(DenseView<const T> x, int64_t token0, int64_t col0) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      load_words(piece[u], x, token0 + lane_of(u) * Tile::kTokensPerLane, col0 + piece_of(u) * Tile::kPieceCols);
  }

  // Turns it: tile[column][lane ^ piece]. Without the swizzle, lanes that hold a column of 8 neighbouring pieces would write to
  // the same banks; with it they write to 8 different 16-byte parts, and a warp that reads a column still reads all of it.
  __device__ void store(Shared<Tokens<T>> tile) const {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int c = 0; c < Tile::kPieceCols; ++c) {
        Tokens<T> tokens;
#pragma unroll
        for (int t = 0; t < Tile::kTokensPerLane; ++t) tokens.set(t, piece[u][t][c]);
        tile[Tile::place(piece_of(u) * Tile::kPieceCols + c) / Tile::kLaneBytes ^ lane_of(u)] = tokens;
      }
    }
  }
};

}  // namespace spx::cuda
