// Chooses the instruction set at run time: the widest one that both this binary and this CPU have, unless told otherwise.
#include <cstring>

#include "cpu/simd/isa.h"

namespace spx::cpu {
namespace {

enum Isa { kBaseline, kV3, kV4, kV4Bf16, kIsas };
constexpr const char* kNames[] = {"baseline", "v3", "v4", "v4_bf16"};
constexpr int kRegisterBytes[] = {16, 32, 64, 64};  // kVecBytes (vec.h) of each

#if defined(SPX_LOWERED)
constexpr bool kLowered = true;  // a binary for tests, its AVX-512 kernels in instructions of AVX2
#else
constexpr bool kLowered = false;
#endif

bool available(int isa) {
  switch (isa) {
    case kBaseline: return true;
#if defined(SPX_HAVE_v3)
    case kV3: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case kV4:
      return available(kV3) && (kLowered || (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                                             __builtin_cpu_supports("avx512vl")));
    case kV4Bf16: return available(kV4) && (kLowered || __builtin_cpu_supports("avx512bf16"));
#endif
    default: return false;
  }
}

int& chosen() {
  static int isa = [] {
    int best = kIsas - 1;
    while (!available(best)) --best;
    return best;
  }();
  return isa;
}

}  // namespace

int isa_index() { return chosen(); }

int register_bytes() { return kRegisterBytes[chosen()]; }

const char* isa() { return kNames[chosen()]; }

bool use_isa(const char* name) {
  for (int isa = kBaseline; isa < kIsas; ++isa) {
    if (strcmp(name, kNames[isa]) == 0 && available(isa)) {
      chosen() = isa;
      return true;
    }
  }
  return false;
}

}  // namespace spx::cpu
