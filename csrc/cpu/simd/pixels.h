// Blocks of pixels: a token is a pixel, of images [images, planes, pixels] as PyTorch has them. Neighbouring tokens of a plane
// lie side by side, so that a block (simd/tokens.h) is made of copies; a block may end one image and begin the next.
#pragma once
#include "cpu/simd/tokens.h"

namespace spx::cpu::SPX_ISA {

template <class T>
struct Pixels {
  int64_t images, planes, pixels;
  T* data;
};
template <class T>
int64_t token_count(const Pixels<T>& x) {
  return x.images * x.pixels;
}

// f(where in the block, the pixel in plane 0, how many) for each stretch of a block inside an image.
template <class T, class F>
void for_each_stretch(const Pixels<T>& x, int64_t first, int64_t count, F f) {
  for (int64_t done = 0; done < count;) {
    const int64_t image = (first + done) / x.pixels, at = (first + done) % x.pixels, n = min(count - done, x.pixels - at);
    f(done, x.data + image * x.planes * x.pixels + at, n);
    done += n;
  }
}

template <int kElements, class E, class T>
void pack_block(E* block, const Pixels<const T>& x, int64_t first, int64_t count, int64_t f0, int64_t f1) {
  static_assert(kTokensPer<E> == 1);
  constexpr int n = kLanes<E>;
  if (count < kElements) fill_zero(block, (f1 - f0) * kElements);
  for_each_stretch(x, first, count, [&](int64_t at, const T* from, int64_t length) {
    for (int64_t f = f0; f < f1; ++f) {
      const T* plane = from + f * x.pixels;
      E* out = block + (f - f0) * kElements + at;
      int64_t i = 0;
      for (; i + n <= length; i += n) {
        const Vec<E> v = load<E>(plane + i);
        memcpy(out + i, &v, sizeof v);
      }
      for (; i < length; ++i) out[i] = to_acc(plane[i]);
    }
  });
}

template <int kTokens, class A, class T>
void unpack_block(const Pixels<T>& y, int64_t first, int64_t count, const A* block, int64_t f0, int64_t f1) {
  constexpr int n = kLanes<A>;
  for_each_stretch(y, first, count, [&](int64_t at, T* to, int64_t length) {
    for (int64_t f = f0; f < f1; ++f) {
      T* plane = to + f * y.pixels;
      const A* from = block + (f - f0) * kTokens + at;
      int64_t i = 0;
      for (; i + n <= length; i += n) {
        Vec<A> v;
        memcpy(&v, from + i, sizeof v);
        store<A>(plane + i, v);
      }
      for (; i < length; ++i) from_acc(plane + i, from[i]);
    }
  });
}

}  // namespace spx::cpu::SPX_ISA
