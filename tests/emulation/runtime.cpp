// The part of the CUDA runtime that csrc/cuda/device/device.cu uses. The one device is this process.
#include <cuda.h>

#include <utility>

#include "machine.h"

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
  const std::string& text = spx::emulator::m.error;
  return error == cudaSuccess ? "no error" : text.empty() ? "emulation: unknown error" : text.c_str();
}
int spx_last_error = cudaSuccess;
cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(std::exchange(spx_last_error, cudaSuccess)); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {  // of compute capability 9.0
  switch (what) {
    case cudaDevAttrComputeCapabilityMajor: return *value = 9, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: return *value = 0, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = static_cast<int>(spx::emulator::max_shared_bytes()), cudaSuccess;
    default: return cudaErrorInvalidValue;
  }
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *found = cudaDriverEntryPointSuccess;
  return *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled), cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

}  // extern "C"
