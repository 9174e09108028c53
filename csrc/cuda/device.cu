// Devices, versions, and what to tell the user when a launch fails. Nothing here raises or initialises a device by itself.
#include <string>

#include "launch.cuh"

#ifndef SPX_CUDA_ARCHS
#define SPX_CUDA_ARCHS "unknown"
#endif

namespace spx::cuda {

LaunchRecord& last_launch() {
  static thread_local LaunchRecord record = {"(none)", dim3(0), dim3(0)};
  return record;
}

DeviceGuard::DeviceGuard(int device) : previous_(-1) {
  int current = device;
  // Where the thread has no usable device there is nothing to come back to; the launch will report what is wrong.
  if (cudaGetDevice(&current) == cudaSuccess && current != device && cudaSetDevice(device) == cudaSuccess) previous_ = current;
  cudaGetLastError();
}

DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

const char* describe_failure(Status status) {
  static thread_local std::string text;
  const auto error = static_cast<cudaError_t>(status);
  const LaunchRecord& launch = last_launch();
  text = std::string(cudaGetErrorString(error)) + " (kernel " + launch.kernel + ", grid " + std::to_string(launch.grid.x) +
         ", block " + std::to_string(launch.block.x) + ", built for " SPX_CUDA_ARCHS ")";
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion)
    text += "; this binary has no code for the device: rebuild with SPARSE_EXT_CUDA_ARCHS set to its compute capability";
  else if (error == cudaErrorInsufficientDriver)
    text += "; CUDA 13 binaries need driver >= 580: update the driver (nvidia-smi shows its version)";
  else if (error == cudaErrorIllegalAddress || error == cudaErrorLaunchFailure)
    text += "; an earlier kernel may be the cause: run with CUDA_LAUNCH_BLOCKING=1 or under compute-sanitizer";
  return text.c_str();
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  cudaGetLastError();
  return count;
}

int driver_version() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess) version = 0;
  return version;
}

int runtime_version() {
  int version = 0;
  if (cudaRuntimeGetVersion(&version) != cudaSuccess) version = 0;
  return version;
}

}  // namespace spx::cuda
