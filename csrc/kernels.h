// Every launcher, once for the CPU and once for CUDA. No Python, no torch: other front ends can link this.
//
// Conventions
//   * arguments: outputs, inputs, sizes, workspace; last `Where`, the thread count (cpu::) or the stream (cuda::)
//   * T is float, double, bf16 (and f16 on CUDA); Index is int32_t or uint16_t; sums are kept in Acc<T>
//   * callers have checked shapes, devices, alignment (16 bytes) and index ranges; a launcher trusts them
//   * nothing is allocated, nothing synchronises, empty input is fine; the same input gives the same bits, always
//   * a workspace has `*_workspace(...)` bytes (0: may be null), is 64-byte aligned and uninitialised
//   * Status is 0 or a cudaError_t
#pragma once
#include "common/nm24.h"
#include "common/types.h"
#include "common/views.h"

namespace spx::cpu {
using Where = int;  // threads
#include "launchers.inc"

// Instruction sets: "baseline", "v3" (AVX2), "v4" (AVX-512). All of them give the same shapes of result, not the same bits.
const char* isa();               // the one in use
bool use_isa(const char* name);  // false: this CPU or this binary does not have it
}  // namespace spx::cpu

namespace spx::cuda {
using Where = void*;  // cudaStream_t
#include "launchers.inc"

// Makes `device` current for a scope; a second CUDA runtime sees only the thread's current context.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();

 private:
  int previous_;
};
// Whose kernels: "sm_80", the portable ones, or "sm_90a", which replaces some of them on compute capability 9.0. The same shapes
// of result, not the same bits. "sm_90a_shared" is sm_90a with some in another form, to compare it. SPARSE_EXT_CUDA_ISA chooses
// at first use where the device has it; else it is sm_80.
const char* isa();
bool use_isa(const char* name);  // false: the current device or this binary does not have it
// One sentence on what failed: error, kernel, grid, what the binary was built for, and what to do about it.
const char* describe_failure(Status status);
int device_count();    // 0 where there is no driver or no device
int driver_version();  // 13000 for CUDA 13.0; 0 where there is no driver
int runtime_version();
}  // namespace spx::cuda
