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

SPX_HOST_DEVICE uint32_t magnitude_key(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits & 0x7FFFFFFFu;
}
SPX_HOST_DEVICE uint64_t magnitude_key(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits & 0x7FFFFFFFFFFFFFFFull;
}
SPX_HOST_DEVICE uint32_t magnitude_key(bf16 v) { return v.bits & 0x7FFFu; }
SPX_HOST_DEVICE uint32_t magnitude_key(f16 v) { return v.bits & 0x7FFFu; }

}  // namespace spx
