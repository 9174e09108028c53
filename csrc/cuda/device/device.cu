// Devices, versions, the choice of kernels, and the message for a failed launch. Nothing here raises or initialises a device by
// itself.
#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/device/hopper.cuh"

#ifndef SPX_CUDA_ARCHS
#define SPX_CUDA_ARCHS "unknown"
#endif

namespace spx::cuda {
namespace {

enum Isa { kSm80, kSm90a, kIsas };
constexpr const char* kNames[] = {"sm_80", "sm_90a"};

// Kernels for sm_80 run everywhere; those for sm_90a on compute capability 9.0 alone.
bool available(int isa) {
  if (isa == kSm80) return true;
  int device = 0, major = 0, minor = 0;
  const bool known = strstr(SPX_CUDA_ARCHS, "90a") && ok(cudaGetDevice(&device)) &&
                     ok(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) &&
                     ok(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return known && major == 9 && minor == 0;
}

int find_available(const char* name) {
  int isa = 0;
  while (isa < kIsas && (strcmp(name, kNames[isa]) != 0 || !available(isa))) ++isa;
  return isa;
}

// Where there is no other wish, a Hopper GPU's own kernels: an H200 was faster with them in all that was measured.
Isa& chosen() {
  static Isa isa = [] {
    const char* name = getenv("SPARSE_EXT_CUDA_ISA");
    const int wish = name ? find_available(name) : kIsas;
    if (wish < kIsas) return static_cast<Isa>(wish);
    return available(kSm90a) ? kSm90a : kSm80;
  }();
  return isa;
}

}  // namespace

const char* isa() { return kNames[chosen()]; }

bool use_isa(const char* name) {
  const int isa = find_available(name);
  if (isa < kIsas) chosen() = static_cast<Isa>(isa);
  return isa < kIsas;
}

bool uses_sm_90a() { return chosen() == kSm90a && available(kSm90a); }

// The runtime answers this without asking the device.
int64_t shared_bytes_per_block() {
  constexpr int kOfEvery = 49152;  // device
  int device = 0, bytes = 0;
  const bool known =
      ok(cudaGetDevice(&device)) && ok(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return known ? bytes : kOfEvery;
}

LaunchRecord& last_launch() {
  static thread_local LaunchRecord record = {"(none)", dim3(0), dim3(0)};
  return record;
}

DeviceGuard::DeviceGuard(int device) : previous_(-1) {
  int current = device;
  // Without a usable device there is nothing to restore, and the launch reports the error. The device is set even if it is the
  // current one: a thread's first call creates its context, which cuTensorMapEncodeTiled needs.
  if (ok(cudaGetDevice(&current)) && ok(cudaSetDevice(device)) && current != device) previous_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) ok(cudaSetDevice(previous_));
}

const char* describe_failure(Status status) {
  static thread_local std::string text;
  const auto error = static_cast<cudaError_t>(status);
  const LaunchRecord& launch = last_launch();
  text = std::string(cudaGetErrorString(error)) + " (kernel " + launch.kernel + ", grid " + std::to_string(launch.grid.x) +
         ", block " + std::to_string(launch.block.x) + ", built for " SPX_CUDA_ARCHS ")";
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion ||
      error == cudaErrorInvalidDeviceFunction)
    text += "; this binary has no code for the device: rebuild with SPARSE_EXT_CUDA_ARCHS set to its compute capability";
  else if (error == cudaErrorInsufficientDriver)
    text += "; CUDA 13 binaries need driver >= 580: update the driver (nvidia-smi shows its version)";
  else if (error == cudaErrorIllegalAddress || error == cudaErrorLaunchFailure)
    text += "; an earlier kernel may be the cause: run with CUDA_LAUNCH_BLOCKING=1 or under compute-sanitizer";
  return text.c_str();
}

int device_count() {
  int count = 0;
  return ok(cudaGetDeviceCount(&count)) ? count : 0;
}

int driver_version() {
  int version = 0;
  return ok(cudaDriverGetVersion(&version)) ? version : 0;
}

int runtime_version() {
  int version = 0;
  return ok(cudaRuntimeGetVersion(&version)) ? version : 0;
}

}  // namespace spx::cuda
