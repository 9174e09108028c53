// Every launcher, for the CPU and for CUDA. No Python, no torch: other front ends can link this.
//
// Conventions
//   * arguments: outputs, inputs, sizes, workspace; last the stream: a cudaStream_t, or on the CPU the number of threads
//   * T is float, double, bf16 (and f16 on CUDA); Index is int32_t or uint16_t; sums are kept in Acc<T>
//   * callers have checked shapes, devices, alignment (16 bytes) and index ranges; a launcher trusts them
//   * nothing is allocated, nothing synchronises, empty input is fine; the same input gives the same bits, always
//   * a workspace has `*_workspace(...)` bytes (0: may be null), is 64-byte aligned and uninitialised
//   * Status is 0 or a cudaError_t
#pragma once
#include "common/conv.h"
#include "common/types.h"
#include "common/views.h"
#include "cpu/simd/isa.h"

struct CUstream_st;

namespace spx::cuda {

using Stream = CUstream_st*;  // cudaStream_t
#include "launchers.inc"

// Makes `device` current for a scope; a second CUDA runtime sees only the thread's current context.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();

 private:
  int previous_;
};
// Whose kernels: "sm_80", the portable ones, or "sm_90a", which replaces some of them on compute capability 9.0. The same
// shapes of result, not the same bits. SPARSE_EXT_CUDA_ISA chooses at first use if the device has it; otherwise it is the last
// one that the device has.
const char* isa();
bool use_isa(const char* name);  // false: the current device or this binary does not have it
// One sentence on what failed: error, kernel, grid, what the binary was built for, and what to do about it.
const char* describe_failure(Status status);
int device_count();    // 0 without a driver or a device
int driver_version();  // 13000 for CUDA 13.0; 0 without a driver
int runtime_version();

}  // namespace spx::cuda
