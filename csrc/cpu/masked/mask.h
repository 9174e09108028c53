// The mask of a matrix [rows, cols], one bit for each position: i = r * cols + c is bit i % 8 of byte i / 8. Elements are
// selected bit by bit, whatever they are, eight at a time.
#pragma once
#include <cstring>

#include "cpu/simd/vec.h"

namespace spx::cpu::SPX_ISA::masked {

constexpr int64_t kByte = 8;

// The unsigned integer of a type's size.
template <int bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint64_t;
};
template <class T>
using Word = typename WordOf<sizeof(T)>::type;
template <class W>
struct EightOf {
  typedef W type __attribute__((vector_size(kByte * sizeof(W)), may_alias));
};
template <class W>
using Eight = typename EightOf<W>::type;

// Eight elements where their bits are 1, and 0 elsewhere.
template <class W>
inline Eight<W> select(Eight<W> v, unsigned byte) {
  const Eight<W> places = {1, 2, 4, 8, 16, 32, 64, 128};
  return v & (Eight<W>)(((Eight<W>{} + static_cast<W>(byte)) & places) != 0);
}

// out = what the `count` elements at positions `at` and behind hold at the mask; out may be in.
template <class T>
inline void select_row(T* out, const T* in, const uint8_t* bits, int64_t at, int64_t count) {
  using W = Word<T>;
  const uint8_t* byte = bits + (at >> 3);
  const int shift = at & 7;
  const int64_t whole = count & ~(kByte - 1);
  for (int64_t c = 0; c < whole; c += kByte, ++byte) {
    Eight<W> v;
    memcpy(&v, in + c, sizeof v);
    // The second byte exists only where it is needed.
    v = select<W>(v, shift ? (byte[0] >> shift | byte[1] << (kByte - shift)) & 0xFFu : byte[0]);
    memcpy(out + c, &v, sizeof v);
  }
  for (int64_t c = whole; c < count; ++c) {
    if (bits[(at + c) >> 3] >> ((at + c) & 7) & 1)
      out[c] = in[c];
    else
      memset(static_cast<void*>(out + c), 0, sizeof(T));
  }
}

}  // namespace spx::cpu::SPX_ISA::masked
