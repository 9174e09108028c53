// Neighbouring elements of a matrix that are loaded, kept and stored at once.
#pragma once
#include "cuda/device/launch.cuh"

namespace spx::cuda {

// They stay packed in words until they are used: 16-bit elements would take a register each.
template <class T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Words {  // 16 bytes are the widest load
  uint32_t word[kCount * sizeof(T) / sizeof(uint32_t)];

  __device__ T operator[](int i) const {
    T v;
    if constexpr (sizeof(T) == sizeof(uint16_t)) {  // by a shift, which to_acc(bf16) then undoes: one instruction
      const auto half = static_cast<uint16_t>(word[i / 2] >> i % 2 * 16);
      memcpy(&v, &half, sizeof v);
    } else {
      memcpy(&v, reinterpret_cast<const char*>(word) + i * sizeof v, sizeof v);
    }
    return v;
  }
  __device__ void set(int i, T v) { memcpy(reinterpret_cast<char*>(word) + i * sizeof(T), &v, sizeof(T)); }
};

// Element i of four. Selections, because an index known only at run time would put the four into local memory.
template <class Four>
__device__ __forceinline__ auto element_of(const Four& four, int i) {
  return i & 2 ? (i & 1 ? four[3] : four[2]) : (i & 1 ? four[1] : four[0]);
}

// Two neighbours, rounded to T.
template <class T>
__device__ uint32_t two(float first, float second) {
  Words<T, 2> pair;
  pair.set(0, from_acc<T>(first));
  pair.set(1, from_acc<T>(second));
  return pair.word[0];
}

// Stores m[row, col] and its seven neighbours, as far as they lie inside m; col is a multiple of 8. One 128-bit store if the
// rows of m are aligned for it, otherwise one element at a time.
template <class T>
__device__ __forceinline__ void store_eight(DenseView<T> m, int64_t row, int64_t col, const Words<T, 8>& eight) {
  if (row >= m.rows || col >= m.cols) return;
  if (m.cols % 8 == 0) {
    store_global_chunk(m.row(row) + col, eight.word);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (col + i < m.cols) m.row(row)[col + i] = eight[i];
  }
}

// to[r] = m[row + r, col] and its neighbours, 0 outside m; col is a multiple of kCount. Wide loads if the rows of m are aligned
// for them, otherwise one element at a time.
template <class T, int kCount, int kRows>
__device__ __forceinline__ void load_words(Words<T, kCount> (&to)[kRows], DenseView<const T> m, int64_t row, int64_t col) {
  const T* from = m.row(row) + col;
  const int64_t rows_left = m.rows - row;
  if (m.cols % kCount == 0) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      to[r] = {};
      if (r < rows_left && col < m.cols) to[r] = *reinterpret_cast<const Words<T, kCount>*>(from + r * m.cols);
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) to[r].set(i, r < rows_left && col + i < m.cols ? from[r * m.cols + i] : T{});
    }
  }
}

}  // namespace spx::cuda
