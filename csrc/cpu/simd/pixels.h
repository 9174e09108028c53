// Blocks of pixels: a token is a pixel, of images [images, planes, pixels] as PyTorch has them. Neighbouring tokens of a plane
// lie side by side, so that a block (simd/tokens.h) is made of copies; a block may end one image and begin the next. Of Sampled
// pixels only every stride-th in a row, of every stride-th row, is a token: those that a strided 1 x 1 kernel meets.
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

// Neighbouring elements as Acc<T>, and back.
template <class E, class T>
inline void copy_row(E* to, const T* from, int64_t length) {
  constexpr int n = kLanes<E>;
  int64_t i = 0;
  for (; i + n <= length; i += n) {
    const Vec<E> v = load<E>(from + i);
    memcpy(to + i, &v, sizeof v);
  }
  for (; i < length; ++i) to[i] = to_acc(from[i]);
}
template <class A, class T>
inline void copy_row_back(T* to, const A* from, int64_t length) {
  constexpr int n = kLanes<A>;
  int64_t i = 0;
  for (; i + n <= length; i += n) {
    Vec<A> v;
    memcpy(&v, from + i, sizeof v);
    store<A>(to + i, v);
  }
  for (; i < length; ++i) from_acc(to + i, from[i]);
}

template <int kElements, class E, class T>
void pack_block(E* block, const Pixels<const T>& x, int64_t first, int64_t count, int64_t f0, int64_t f1) {
  static_assert(kTokensPer<E> == 1);
  if (count < kElements) fill_zero(block, (f1 - f0) * kElements);
  for_each_stretch(x, first, count, [&](int64_t at, const T* from, int64_t length) {
    for (int64_t f = f0; f < f1; ++f) copy_row(block + (f - f0) * kElements + at, from + f * x.pixels, length);
  });
}

template <int kTokens, class A, class T>
void unpack_block(const Pixels<T>& y, int64_t first, int64_t count, const A* block, int64_t f0, int64_t f1) {
  for_each_stretch(y, first, count, [&](int64_t at, T* to, int64_t length) {
    for (int64_t f = f0; f < f1; ++f) copy_row_back(to + f * y.pixels, block + (f - f0) * kTokens + at, length);
  });
}

template <class T>
struct Sampled {
  int64_t images, planes, height, width;       // of all pixels
  int64_t rows, cols, row_stride, col_stride;  // of the tokens
  T* data;
};
template <class T>
int64_t token_count(const Sampled<T>& x) {
  return x.images * x.rows * x.cols;
}

// f(where in the block, image, row and column of the first token, how many) for each stretch of a block inside a row.
template <class T, class F>
void for_each_stretch(const Sampled<T>& x, int64_t first, int64_t count, F f) {
  for (int64_t done = 0; done < count;) {
    const int64_t row = (first + done) / x.cols, col = (first + done) % x.cols, n = min(count - done, x.cols - col);
    f(done, row / x.rows, row % x.rows, col, n);
    done += n;
  }
}

template <int kElements, class E, class T>
void pack_block(E* block, const Sampled<const T>& x, int64_t first, int64_t count, int64_t f0, int64_t f1) {
  static_assert(kTokensPer<E> == 1);
  if (count < kElements) fill_zero(block, (f1 - f0) * kElements);
  const int64_t plane = x.height * x.width, stride = x.col_stride;
  for_each_stretch(x, first, count, [&](int64_t at, int64_t image, int64_t row, int64_t col, int64_t length) {
    const T* from = x.data + image * x.planes * plane + row * x.row_stride * x.width + col * stride;
    for (int64_t f = f0; f < f1; ++f) {
      E* to = block + (f - f0) * kElements + at;
      const T* line = from + f * plane;
      if (stride == 2)
        for (int64_t i = 0; i < length; ++i) to[i] = to_acc(line[2 * i]);
      else
        for (int64_t i = 0; i < length; ++i) to[i] = to_acc(line[i * stride]);
    }
  });
}

// A token's pixel, and zeros in those up to the next token's, in its row and in the rows below.
template <int kTokens, class A, class T>
void unpack_block(const Sampled<T>& y, int64_t first, int64_t count, const A* block, int64_t f0, int64_t f1) {
  const int64_t plane = y.height * y.width;
  for_each_stretch(y, first, count, [&](int64_t at, int64_t image, int64_t row, int64_t col, int64_t length) {
    const int64_t top = row * y.row_stride, bottom = row + 1 < y.rows ? top + y.row_stride : y.height;
    const int64_t left = col * y.col_stride, right = col + length < y.cols ? left + length * y.col_stride : y.width;
    for (int64_t f = f0; f < f1; ++f) {
      T* to = y.data + (image * y.planes + f) * plane;
      const A* from = block + (f - f0) * kTokens + at;
      for (int64_t r = top; r < bottom; ++r) fill_zero(to + r * y.width + left, right - left);
      for (int64_t i = 0; i < length; ++i) from_acc(to + top * y.width + left + i * y.col_stride, from[i]);
    }
  });
}

}  // namespace spx::cpu::SPX_ISA
