// The CPU's launchers: one set of declarations for each instruction set, and the choice among them at run time.
//
// Kernels that compute are compiled for every instruction set. AVX512-BF16 multiplies bfloat16 and does nothing else: it has
// matrix products of bfloat16 alone, and for everything else runs AVX-512's code. Kernels that move or select are compiled
// once, in `baseline`: on them a wider instruction set gains nothing.
#pragma once
#include "common/conv.h"
#include "common/types.h"
#include "common/views.h"

namespace spx::cpu {

using Threads = int;
using Stream = Threads;  // what the declarations call it

#define SPX_ON_CPU
namespace baseline {
#include "launchers.inc"
}
namespace v3 {  // AVX2
#include "launchers.inc"
}
namespace v4 {  // AVX-512
#include "launchers.inc"
}
namespace v4_bf16 {  // and AVX512-BF16; of these the products of bfloat16
#include "launchers.inc"
}

#undef SPX_ON_CPU

// As SPX_FOR_EACH_TYPE and SPX_FOR_EACH_TYPE_AND_INDEX, for products.
#if defined(SPX_ISA_v4_bf16)
#define SPX_FOR_EACH_PRODUCT(M, launcher) M(launcher, bf16)
#define SPX_FOR_EACH_PRODUCT_AND_INDEX(M, launcher) SPX_FOR_EACH_INDEX(M, launcher, bf16)
#else
#define SPX_FOR_EACH_PRODUCT SPX_FOR_EACH_TYPE
#define SPX_FOR_EACH_PRODUCT_AND_INDEX SPX_FOR_EACH_TYPE_AND_INDEX
#endif

// By name: "baseline", "v3", "v4", "v4_bf16". All of them give the same shapes of result, not the same bits.
const char* isa();               // the one in use: the widest that both this binary and this CPU have, unless told otherwise
bool use_isa(const char* name);  // false: this CPU or this binary does not have it
int isa_index();                 // of isa() in that order
int register_bytes();            // of a register of isa()

// The launcher of the instruction set in use: SPX_OF_ISA(nm24::nm24_mvue<float>)(wt, dy, ...); of a product of bfloat16
// SPX_OF_ISA_WITH_BF16(nm24::nm24_gemm<bf16>)(y, w, x, ...).
#if defined(SPX_HAVE_v3)
template <class Launcher>
Launcher of_isa(Launcher baseline, Launcher v3, Launcher v4, Launcher v4_bf16) {
  const Launcher launchers[] = {baseline, v3, v4, v4_bf16};
  return launchers[isa_index()];
}
#define SPX_OF_ISA(launcher)                                                                                \
  ::spx::cpu::of_isa(&::spx::cpu::baseline::launcher, &::spx::cpu::v3::launcher, &::spx::cpu::v4::launcher, \
                     &::spx::cpu::v4::launcher)
#define SPX_OF_ISA_WITH_BF16(launcher)                                                                      \
  ::spx::cpu::of_isa(&::spx::cpu::baseline::launcher, &::spx::cpu::v3::launcher, &::spx::cpu::v4::launcher, \
                     &::spx::cpu::v4_bf16::launcher)
#else
#define SPX_OF_ISA(launcher) (&::spx::cpu::baseline::launcher)
#define SPX_OF_ISA_WITH_BF16 SPX_OF_ISA
#endif

}  // namespace spx::cpu
