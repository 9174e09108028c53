// Blocks of tokens, feature-major: what the CPU kernels compute on.
//
// PyTorch's activations are token-major [tokens, features]. A kernel packs a block of kTokens tokens into [features, kTokens], so
// that one weight meets kTokens neighbours in memory: tokens are the SIMD lanes. Missing tokens of the last block are 0.
#pragma once
#include "cpu/vec.h"

namespace spx::cpu::SPX_ISA {

// Registers of tokens in a block: a power of two, no more than the tokens need.
inline int64_t vecs_for(int64_t tokens, int64_t acc_bytes, int64_t most) {
  int64_t vecs = 1;
  while (vecs < most && vecs * kVecBytes < tokens * acc_bytes) vecs *= 2;
  return vecs;
}

// The transposed kLanes x kLanes tile of src (rows of stride ld, of which n_rows x n_cols exist; the rest reads as 0).
template <class A, class T>
inline void load_tile_transposed(Vec<A>* v, const T* src, int64_t ld, int64_t n_rows, int64_t n_cols) {
  constexpr int n = kLanes<A>;
  if (n_rows >= n && n_cols >= n) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) v[i] = load<A>(src + i * ld);
  } else {
    for (int i = 0; i < n; ++i) {
      T row[n];
      memset(row, 0, sizeof row);
      if (i < n_rows) memcpy(row, src + i * ld, static_cast<size_t>(min(n, n_cols)) * sizeof(T));
      v[i] = load<A>(row);
    }
  }
  transpose<A>(v);
}

// block[f - f0][t] = src[t][f] for features f0 <= f < f1 and the n_tokens (<= kTokens) tokens that begin at src. Features are the
// inner loop: few rows are read at a time, which prefetchers follow, and rows a power of two apart share cache sets.
template <int kTokens, class A, class T>
void pack_tokens(A* block, const T* src, int64_t ld, int64_t n_tokens, int64_t f0, int64_t f1) {
  constexpr int n = kLanes<A>;
  for (int t = 0; t < kTokens; t += n) {
    for (int64_t f = f0; f < f1; f += n) {
      const int64_t n_features = min(n, f1 - f);
      Vec<A> v[n];
      load_tile_transposed<A>(v, src + t * ld + f, ld, n_tokens - t, n_features);
      A* out = block + (f - f0) * kTokens + t;
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i)
        if (i < n_features) store<A>(out + i * kTokens, v[i]);
    }
  }
}

// The way back: dst[t][f] = block[f - f0][t].
template <int kTokens, class A, class T>
void unpack_tokens(T* dst, int64_t ld, int64_t n_tokens, const A* block, int64_t f0, int64_t f1) {
  constexpr int n = kLanes<A>;
  for (int t = 0; t < n_tokens; t += n) {
    for (int64_t f = f0; f < f1; f += n) {
      const int64_t n_features = min(n, f1 - f), n_rows = min(n, n_tokens - t);
      Vec<A> v[n];
      load_tile_transposed<A>(v, block + (f - f0) * kTokens + t, kTokens, n_features, n);
      T* out = dst + t * ld + f;
      if (n_features == n && n_rows == n) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store<A>(out + i * ld, v[i]);
      } else {
        for (int i = 0; i < n_rows; ++i) {
          T row[n];
          store<A>(row, v[i]);
          memcpy(out + i * ld, row, static_cast<size_t>(n_features) * sizeof(T));
        }
      }
    }
  }
}

}  // namespace spx::cpu::SPX_ISA
