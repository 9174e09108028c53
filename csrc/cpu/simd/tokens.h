// Blocks of tokens, feature-major: the form of activations that the CPU kernels multiply.
//
// PyTorch's activations are token-major [tokens, features]. A kernel packs a block of kTokens tokens into [features, kTokens],
// so that one weight meets kTokens neighbours in memory: tokens are the SIMD lanes. Missing tokens of the last block are 0.
// An element of a block is one token's value as Acc<T>, or a Pair: two tokens' bfloat16, where an instruction multiplies those.
#pragma once
#include "common/views.h"
#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA {

// The element of a block of activations of type T. Where the CPU multiplies pairs of bfloat16, it is a pair: twice as many
// products for each register.
template <class T>
struct ElementOf {
  using type = Acc<T>;
};
#if defined(SPX_ISA_v4_bf16)
template <>
struct ElementOf<bf16> {
  using type = Pair;
};
#endif
template <class T>
using Element = typename ElementOf<T>::type;

// Tokens in one element of a block.
template <class E>
constexpr int kTokensPer = std::is_same_v<E, Pair> ? 2 : 1;

// The (first) token of element e of a register. Hardware interleaves two registers within every 16 bytes; the order of pairs is
// such that interleaving the low halves gives the first half of the tokens in order, and the high halves the second
// (csr/spmm.cpp).
template <class E>
constexpr int token_of(int e) {
  if constexpr (std::is_same_v<E, Pair>)
    return e / 4 * 4 + e % 2 * 2 + (e & 2) / 2 * kLanes<Pair>;
  else
    return e;
}

// Registers of tokens in a block: a power of two, no more than the tokens need.
inline int64_t vecs_for(int64_t tokens, int64_t token_bytes, int64_t most) {
  int64_t vecs = 1;
  while (vecs < most && vecs * kVecBytes < tokens * token_bytes) vecs *= 2;
  return vecs;
}

// A register of kLanes neighbouring features of one token, or of both tokens of a pair.
template <class E, class T>
inline Vec<E> load_token(const T* src, int64_t ld) {
  if constexpr (std::is_same_v<E, Pair>) {
    typedef uint16_t Half __attribute__((vector_size(kVecBytes / 2)));
    Half first, second;
    memcpy(&first, src, sizeof first);
    memcpy(&second, src + ld, sizeof second);
    return __builtin_convertvector(first, Vec<Pair>) | __builtin_convertvector(second, Vec<Pair>) << 16;
  } else {
    return load<E>(src);
  }
}

// The transposed kLanes x kLanes tile of elements (tokens of stride ld, of which n_tokens x n_cols exist; the rest reads as 0).
template <class E, class T>
inline void load_tile_transposed(Vec<E>* v, const T* src, int64_t ld, int64_t n_tokens, int64_t n_cols) {
  constexpr int n = kLanes<E>, k = kTokensPer<E>;
  if (n_tokens >= n * k && n_cols >= n) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) v[i] = load_token<E>(src + token_of<E>(i) * ld, ld);
  } else {
    for (int i = 0; i < n; ++i) {
      T rows[k][n];
      memset(rows, 0, sizeof rows);
      for (int j = 0; j < k; ++j)
        if (token_of<E>(i) + j < n_tokens)
          memcpy(rows[j], src + (token_of<E>(i) + j) * ld, static_cast<size_t>(min(n, n_cols)) * sizeof(T));
      v[i] = load_token<E>(rows[0], n);
    }
  }
  transpose<E>(v);
}

// block[f - f0][e] = element e of feature f, f0 <= f < f1, of the n_tokens (at most kElements elements' worth) that begin at
// src. Features are the inner loop, so few rows are read at a time: prefetchers follow those, and rows a power of two apart do
// not evict each other.
template <int kElements, class E, class T>
void pack_tokens(E* block, const T* src, int64_t ld, int64_t n_tokens, int64_t f0, int64_t f1) {
  constexpr int n = kLanes<E>;
  for (int e = 0; e < kElements; e += n) {
    const int64_t t = e * kTokensPer<E>;
    for (int64_t f = f0; f < f1; f += n) {
      const int64_t n_features = min(n, f1 - f);
      Vec<E> v[n];
      load_tile_transposed<E>(v, src + t * ld + f, ld, n_tokens - t, n_features);
      E* out = block + (f - f0) * kElements + e;
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i)
        if (i < n_features) memcpy(out + i * kElements, &v[i], sizeof v[i]);
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

// What products ask of activations: how many tokens there are; a block of `count` of them, from number `first` on, packed; and
// the way back.
template <class T>
int64_t token_count(const DenseView<T>& x) {
  return x.rows;
}
template <int kElements, class E, class T>
void pack_block(E* block, const DenseView<const T>& x, int64_t first, int64_t count, int64_t f0, int64_t f1) {
  pack_tokens<kElements>(block, x.row(first), x.cols, count, f0, f1);
}
template <int kTokens, class A, class T>
void unpack_block(const DenseView<T>& y, int64_t first, int64_t count, const A* block, int64_t f0, int64_t f1) {
  unpack_tokens<kTokens>(y.row(first), y.cols, count, block, f0, f1);
}

}  // namespace spx::cpu::SPX_ISA
