// SIMD for the numeric kernels: GCC/Clang vector extensions, one register wide, compiled once per instruction set.
//
// Everything here lives in spx::cpu::<isa>, and no kernel calls an inline function of the standard library. Such a function
// would be a weak symbol of several objects, and the linker might take the AVX-512 one for every CPU
// (tests/csrc/test_symbols.py).
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/types.h"

#if defined(__AVX__)
#include <immintrin.h>  // the instructions that GCC's vector extensions do not reach
#endif

namespace spx::cpu::SPX_ISA {

#if defined(SPX_ISA_v4) || defined(SPX_ISA_v4_bf16)
constexpr int kVecBytes = 64;
#elif defined(SPX_ISA_v3)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

template <class A>
struct VecOf {
  typedef A type __attribute__((vector_size(kVecBytes), may_alias));
};
// Two bfloat16 of neighbouring tokens, the first in the low half; Acc<Pair> is float.
struct Pair {
  uint32_t bits;
};
template <>
struct VecOf<Pair> {
  typedef uint32_t type __attribute__((vector_size(kVecBytes), may_alias));
};
// One register of A, which is float, double or Pair.
template <class A>
using Vec = typename VecOf<A>::type;
template <class A>
constexpr int kLanes = kVecBytes / static_cast<int>(sizeof(A));

constexpr int64_t kLineBytes = 64;  // of a cache

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t align64(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

// f(a constant) for 1 <= n <= kMost.
template <int kMost, class F>
void with_constant(int64_t n, F f) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_constant<kMost - 1>(n, f);
  }
  f(std::integral_constant<int, kMost>{});
}

// ---- storage type <-> accumulator -------------------------------------------------------------------------------------

inline float to_acc(float v) { return v; }
inline double to_acc(double v) { return v; }
inline float to_acc(bf16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

inline void from_acc(float* out, float v) { *out = v; }
inline void from_acc(double* out, double v) { *out = v; }
// Rounds to nearest even, as PyTorch does; every NaN becomes the quiet one.
inline void from_acc(bf16* out, float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

// A register from kLanes<A> unaligned elements of T, and back.
template <class A, class T>
inline Vec<A> load(const T* p) {
  Vec<A> v;
  if constexpr (sizeof(T) == sizeof(A)) {
    memcpy(&v, p, sizeof v);
  } else {
    typedef uint16_t Half __attribute__((vector_size(kVecBytes / 2)));
    typedef uint32_t Word __attribute__((vector_size(kVecBytes)));
    Half half;
    memcpy(&half, p, sizeof half);
    const Word bits = __builtin_convertvector(half, Word) << 16;
    memcpy(&v, &bits, sizeof v);
  }
  return v;
}
template <class A, class T>
inline void store(T* p, Vec<A> v) {
  if constexpr (sizeof(T) == sizeof(A)) {
    memcpy(p, &v, sizeof v);
  } else {
    typedef uint16_t Half __attribute__((vector_size(kVecBytes / 2)));
    typedef uint32_t Word __attribute__((vector_size(kVecBytes)));
    Word bits;
    memcpy(&bits, &v, sizeof bits);
    const Word rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const Word nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    const Half half = __builtin_convertvector((rounded & ~nan) | (nan & 0x7FC0u), Half);
    memcpy(p, &half, sizeof half);
  }
}

// Stores kCount lanes, from lane kFirst on, at p.
template <int kFirst, int kCount, class A, class T>
inline void store_lanes(T* p, Vec<A> v) {
#if defined(__AVX512F__)
  constexpr auto kMask = ((1u << kCount) - 1) << kFirst;
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p - kFirst, kMask, (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_pd(p - kFirst, kMask, (__m512d)v);
#endif
  T part[kLanes<A>];
  store<A>(part, v);
  memcpy(p, part + kFirst, kCount * sizeof(T));
}

// Stores a register past the caches; `p` is aligned to it. Other threads see it behind stream_fence() and a barrier.
template <class A>
inline void stream(A* p, Vec<A> v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(reinterpret_cast<float*>(p), (__m512)v);
#elif defined(SPX_ISA_v3)
  _mm256_stream_ps(reinterpret_cast<float*>(p), (__m256)v);
#else
  store<A>(p, v);
#endif
}
inline void stream_fence() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}
// Whether a result is stored that way: it is so large that it would not stay in a thread's share of the last-level cache.
template <class T>
inline bool is_streamed(const T* y, int64_t elements) {
  constexpr int64_t kLeastBytes = 8 << 20;
  return reinterpret_cast<uintptr_t>(y) % kVecBytes == 0 && elements * static_cast<int64_t>(sizeof(T)) >= kLeastBytes;
}

// sum + a * b, lane by lane; of pairs both products are added.
template <class E>
inline Vec<Acc<E>> multiply_add(Vec<Acc<E>> sum, Vec<E> a, Vec<E> b) {
  if constexpr (std::is_same_v<E, Pair>) {
#if defined(__AVX512BF16__)
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else  // for tests on CPUs without it; the instruction takes denormals as 0, this does not
    sum += (Vec<float>)(a & 0xFFFF0000u) * (Vec<float>)(b & 0xFFFF0000u);
    return sum + (Vec<float>)(a << 16) * (Vec<float>)(b << 16);
#endif
  } else {
    return sum + a * b;
  }
}

// ---- shuffles ---------------------------------------------------------------------------------------------------------

// Lane l of the result: a[l] where bit h of l is 0, b[l - h] where it is 1 (kOdd: a[l + h], b[l]).
template <class A, int h, bool kOdd, int... l>
inline Vec<A> merge_halves(Vec<A> a, Vec<A> b, std::integer_sequence<int, l...>) {
  constexpr int n = kLanes<A>;
  return __builtin_shufflevector(a, b, (kOdd ? ((l & h) ? n + l : l + h) : ((l & h) ? n + l - h : l))...);
}
template <class A, int h, bool kOdd>
inline Vec<A> merge_halves(Vec<A> a, Vec<A> b) {
  return merge_halves<A, h, kOdd>(a, b, std::make_integer_sequence<int, kLanes<A>>());
}

// Takes the first half (kSecond: the second half) of every 16 bytes of a and b, and alternates 2 bytes of each.
template <bool kSecond, class V, int... i>
inline V interleave(V a, V b, std::integer_sequence<int, i...>) {
  typedef uint16_t Half __attribute__((vector_size(sizeof(V)), may_alias));
  constexpr int n = sizeof...(i), from = kSecond ? 4 : 0;
  return (V)__builtin_shufflevector((Half)a, (Half)b, (i / 8 * 8 + i % 8 / 2 + from + i % 2 * n)...);
}
template <bool kSecond, class V>
inline V interleave(V a, V b) {
  return interleave<kSecond>(a, b, std::make_integer_sequence<int, sizeof(V) / 2>());
}

// Transposes kLanes x kLanes elements held in kLanes registers, by swapping blocks of size h, h = lanes / 2 .. 1.
template <class A, int h = kLanes<A> / 2>
inline void transpose(Vec<A>* v) {
  if constexpr (h > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<A>; ++i) {
      if (i & h) continue;
      const Vec<A> a = v[i], b = v[i + h];
      v[i] = merge_halves<A, h, false>(a, b);
      v[i + h] = merge_halves<A, h, true>(a, b);
    }
    transpose<A, h / 2>(v);
  }
}

// One step of adding lanes up: afterwards lanes whose bit h is 0 hold half of a's sums, the others half of b's. Folding n =
// kLanes registers in pairs h apart, for h = n / 2 .. 1, leaves the sum of register i's lanes in lane i, always added in one
// order.
template <class A, int h>
inline Vec<A> fold(Vec<A> a, Vec<A> b) {
  return merge_halves<A, h, false>(a, b) + merge_halves<A, h, true>(a, b);
}

}  // namespace spx::cpu::SPX_ISA
