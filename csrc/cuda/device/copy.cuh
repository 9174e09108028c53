// Copies to shared memory that a thread begins and later waits for, past its registers.
#pragma once
#include "cuda/device/launch.cuh"

#if defined(__CUDACC__)  // on the host: tests/emulation/emulator.h
namespace spx::cuda {

// Begins to copy an element of 4, 8 or 16 bytes to shared memory, or to make it 0. It is there after this thread's
// cp_async_wait(); for other threads, after a barrier behind that. Smaller elements are copied at once.
template <class T>
__device__ __forceinline__ void cp_async(Shared<T> to, const T* from, bool inside = true) {
  if constexpr (sizeof(T) < 4)
    *to = inside ? *from : T{};
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "n"(sizeof(T)), "r"(inside ? static_cast<int>(sizeof(T)) : 0)
                 : "memory");
}
__device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace spx::cuda
#endif
