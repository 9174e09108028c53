// The CPU's launchers: one set of declarations for each instruction set, and the choice among them at run time.
//
// Kernels that compute are compiled for every instruction set. Those that move or select are compiled once, in `baseline`: on
// them a wider one gains nothing.
#pragma once
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
namespace v4_bf16 {  // and AVX512-BF16
#include "launchers.inc"
}

#undef SPX_ON_CPU

// By name: "baseline", "v3", "v4", "v4_bf16". All of them give the same shapes of result, not the same bits.
const char* isa();               // the one in use: the widest that both this binary and this CPU have, unless told otherwise
bool use_isa(const char* name);  // false: this CPU or this binary does not have it
int isa_index();                 // of isa() in that order

// The launcher of the instruction set in use: SPX_OF_ISA(nm24::nm24_gemm<float>)(y, w, x, ...).
#if defined(SPX_HAVE_v3)
template <class Launcher>
Launcher of_isa(Launcher baseline, Launcher v3, Launcher v4, Launcher v4_bf16) {
  const Launcher launchers[] = {baseline, v3, v4, v4_bf16};
  return launchers[isa_index()];
}
#define SPX_OF_ISA(launcher)                                                                                \
  ::spx::cpu::of_isa(&::spx::cpu::baseline::launcher, &::spx::cpu::v3::launcher, &::spx::cpu::v4::launcher, \
                     &::spx::cpu::v4_bf16::launcher)
#else
#define SPX_OF_ISA(launcher) (&::spx::cpu::baseline::launcher)
#endif

}  // namespace spx::cpu
