// The tile of x that a block of csr_spmm_kernel multiplies: how it lies in shared memory, and how it gets there.
//
//   x      [tokens, cols], token-major: 128-bit loads along the columns where rows are aligned, else one element at a time
//   part   32 KB of x, feature-major: a lane reads kTokensPerLane neighbouring tokens of one column at once, a warp a column.
//          It is transposed in registers, because TMA and cp.async only copy
//   stage  as many parts as fit the device's shared memory twice: one stage is multiplied while the next is loaded, part by
//          part
//   banks  neither transposing a part nor reading it has conflicts: see Share::store
#pragma once
#include "cuda/csr/rows.cuh"

namespace spx::cuda::csr {

// Two stages of x in shared memory, and a part of them: kCols columns of kTokens tokens, 32 KB and a gap behind every piece.
template <class T>
struct Tile {
  static constexpr int kPieceCols = 16 / sizeof(T);  // columns in one 128-bit load of x
  static constexpr int kTokensPerLane = kPerLane<T>;
  static constexpr int kTokens = kTokensPerLane * kWarp;
  static constexpr int kLaneBytes = kTokensPerLane * sizeof(T);
  static constexpr int kCols = 32768 / (kLaneBytes * kWarp);
  static constexpr int kPieces = kCols / kPieceCols;
  static constexpr int kPartTokens = kCols * kWarp + kPieces, kPartBytes = kPartTokens * kLaneBytes;  // elements are Tokens<T>
  static constexpr int kMostParts = sizeof(T) == 2 ? 2 : 3;  // of a stage: they fit sm_90, and a place of 16 bits
  static_assert(sizeof(T) != 2 || kMostParts * kPartBytes - (kWarp + 1) * kLaneBytes < 1 << 16, "the place of the last column");

  // The offset of column `col` in its stage, in bytes: the first lane's tokens; the other lanes' follow.
  static __device__ int place(int col) { return (col * kWarp + col / kPieceCols) * kLaneBytes; }
};

template <class T>
using Tokens = Words<T, Tile<T>::kTokensPerLane>;  // of one column: what a lane reads or writes at once
template <class T>
using Piece = Words<T, Tile<T>::kPieceCols>;  // of one token: what a lane loads of x

// A thread's share of a part of x, on its way from global to shared memory: 16 registers.
template <class T>
struct Share {
  using Tile = csr::Tile<T>;
  static constexpr int kUnits = Tile::kPieces * kWarp / kMultiplyThreads;
  Piece<T> piece[kUnits][Tile::kTokensPerLane];

  static __device__ int unit(int u) { return static_cast<int>(threadIdx.x) + u * kMultiplyThreads; }
  static __device__ int piece_of(int u) { return unit(u) % Tile::kPieces; }  // neighbouring lanes load neighbouring pieces
  static __device__ int lane_of(int u) { return unit(u) / Tile::kPieces; }   // which lane's tokens

  // Outside x it is 0: no entry has a column there, and no token there is stored.
  __device__ void load(DenseView<const T> x, int64_t token0, int64_t col0) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      load_words(piece[u], x, token0 + lane_of(u) * Tile::kTokensPerLane, col0 + piece_of(u) * Tile::kPieceCols);
  }

  // Transposes it. The gaps spread threads that hold a column of neighbouring pieces over the banks: threads that write 128
  // bytes together use all of them, and so do those that read a column.
  __device__ void store(Shared<Tokens<T>> part) const {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int first = Tile::place(piece_of(u) * Tile::kPieceCols) / Tile::kLaneBytes + lane_of(u);
#pragma unroll
      for (int c = 0; c < Tile::kPieceCols; ++c) {
        Tokens<T> tokens;
#pragma unroll
        for (int t = 0; t < Tile::kTokensPerLane; ++t) tokens.set(t, piece[u][t][c]);
        part[first + c * kWarp] = tokens;
      }
    }
  }
};

// What a lane reads of a stage.
template <class T>
struct LaneTokens {
  Shared<Tokens<T>> first;  // its tokens of the stage's first column

  __device__ Tokens<T> operator()(int place) const { return element_at<Tokens<T>>(first, place); }
};

// x on its way to the stages of a block, part by part.
template <class T>
struct Feed {
  using Element = Tokens<T>;
  DenseView<const T> x;
  int64_t token0;
  int32_t part = 0;  // the next one, counted over all stages
  Share<T> share = {};

  static __device__ int stage_elements(int parts) { return parts * Tile<T>::kPartTokens; }
  __device__ LaneTokens<T> reader(Shared<Tokens<T>> stage) const { return {stage + threadIdx.x % kWarp}; }

  __device__ bool has_part() const { return int64_t{part} * Tile<T>::kCols < x.cols; }
  __device__ void load() { share.load(x, token0, int64_t{part} * Tile<T>::kCols); }
  // As the i-th part of a stage.
  __device__ void store(Shared<Tokens<T>> stage, int i) {
    share.store(stage + i * Tile<T>::kPartTokens);
    ++part;
  }
  // All of it, without its `missing` parts.
  __device__ void first_stage(Shared<Tokens<T>> stage, int missing, int parts) {
    for (int i = missing; i < parts && has_part(); ++i) {
      load();
      store(stage, i);
    }
  }
};

}  // namespace spx::cuda::csr
