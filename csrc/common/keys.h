// What "the largest" means, once for CPU and CUDA: keys that sort like |value|, and the tie order.
//
// key(v) is an unsigned integer that grows with |v|; the sign is dropped, so -0.0 equals 0.0, and NaN is above infinity.
// Among equal keys the lower linear index is larger ("lower index wins"), so a selection has exactly one answer.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/types.h"

namespace spx {

template <class T>
struct KeyOf {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
// uint32_t for every storage type but double, which needs uint64_t.
template <class T>
using Key = typename KeyOf<T>::type;

// Every NaN has the same key, the one after infinity's.
template <class K>
SPX_HOST_DEVICE K one_nan(K bits, K infinity) {
  return bits > infinity ? infinity + 1 : bits;
}

SPX_HOST_DEVICE uint32_t magnitude_key(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return one_nan(bits & 0x7FFFFFFFu, 0x7F800000u);
}
SPX_HOST_DEVICE uint64_t magnitude_key(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return one_nan<uint64_t>(bits & 0x7FFFFFFFFFFFFFFFull, 0x7FF0000000000000ull);
}
SPX_HOST_DEVICE uint32_t magnitude_key(bf16 v) { return one_nan(v.bits & 0x7FFFu, 0x7F80u); }
SPX_HOST_DEVICE uint32_t magnitude_key(f16 v) { return one_nan(v.bits & 0x7FFFu, 0x7C00u); }

}  // namespace spx
