// A step of dy and x as csr_sddmm_kernel multiplies it: how it lies in shared memory, and how it gets there.
//
//   dy, x   token-major: loads of four neighbouring columns where rows are aligned for them, else one element at a time
//   step    feature-major, in Acc<T>: [columns of dy's tile, then those of x's][8 parts: 16 bytes of neighbouring tokens]
//   banks   neither transposing a step nor reading it has conflicts: see part_at
#pragma once
#include "cuda/device/words.cuh"

namespace spx::cuda::csr {

constexpr int kParts = 8;  // of a column: a quarter of a warp reads them, all banks once
constexpr int kColumnBytes = kParts * 16;
template <class T>
using Part = Words<Acc<T>, 16 / sizeof(Acc<T>)>;  // of one column: what a lane reads or writes at once
template <class T>
constexpr int kPartTokens = 16 / sizeof(Acc<T>);
template <class T>
constexpr int kStepTokens = kParts * kPartTokens<T>;

constexpr int kPieceCols = 4;  // of one token: what a lane loads at once (of doubles, twice)
constexpr int kStripCols = kParts * kPieceCols;
constexpr int kStripPatches = kParts * kParts;  // bring a strip: one part of a piece's columns each

// The element of a step that holds part `part` of column `column`. A quarter of a warp reads the parts of one column, which lie
// in all banks. It writes the same part of 8 neighbouring pieces, which the exclusive or spreads over all banks.
inline __device__ int part_at(int column, int part) { return column * kParts + (part ^ column / kPieceCols % kParts); }

// The source of a strip of a step: dy or x, from column `col` on. It is kept in shared memory and read again for each patch,
// because registers are needed for the sums.
struct Strip {
  int64_t col;
  bool is_dy;
};

// The sources of steps.
template <class T>
struct Operands {
  DenseView<const T> dy, x;
};

// A patch of a strip, on its way from global to shared memory: at most 16 registers.
template <class T>
struct StepPatch {
  Words<T, kPieceCols> piece[kPartTokens<T>];

  static __device__ int part(int patch) { return patch / kParts % kParts; }
  static __device__ int col(int patch) { return patch % kParts * kPieceCols; }  // neighbouring lanes load neighbouring pieces

  // Outside dy and x it is 0: no entry has a column there, and a token adds nothing.
  __device__ __forceinline__ void load(const Operands<T>& from, Shared<Strip> strips, int64_t token0, int patch) {
    const Strip strip = strips[patch / kStripPatches];
    const DenseView<const T> m = {from.x.rows, strip.is_dy ? from.dy.cols : from.x.cols,
                                  strip.is_dy ? from.dy.data : from.x.data};
    load_words(piece, m, token0 + part(patch) * kPartTokens<T>, strip.col + col(patch));
  }

  __device__ __forceinline__ void store(Shared<Part<T>> step, int patch) const {
    const int first = part_at(patch / kStripPatches * kStripCols + col(patch), part(patch));
#pragma unroll
    for (int c = 0; c < kPieceCols; ++c) {
      Part<T> tokens;
#pragma unroll
      for (int t = 0; t < kPartTokens<T>; ++t) tokens.set(t, to_acc(piece[t][c]));
      step[first + c * kParts] = tokens;
    }
  }
};

}  // namespace spx::cuda::csr
