// Small kernels with one fault each, which the emulator must see; `none` is the correct kernel. Prints "ok" or the launch's
// error.  usage: faults <fault>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/device/copy.cuh"

namespace spx::cuda {
namespace {

enum Fault {
  kNone,
  kNoBarrier,
  kNoSecondBarrier,
  kNoWarpBarrier,
  kOverrun,
  kRawOverrun,
  kUnwritten,
  kDivergent,
  kLeft,
  kDivergentShuffle,
  kShort,
  kGlobalOverrun,
  kShortDynamic,
  kNoWait,
  kLeftCopy
};
const char* const kNames[] = {"none",
                              "no_barrier",
                              "no_second_barrier",
                              "no_warp_barrier",
                              "overrun",
                              "raw_overrun",
                              "unwritten",
                              "divergent_barrier",
                              "left_before_barrier",
                              "divergent_shuffle",
                              "part_of_a_warp",
                              "global_overrun",
                              "short_dynamic",
                              "no_wait",
                              "left_copy"};
constexpr int kFaults = sizeof kNames / sizeof *kNames;
constexpr int kThreads = 128;
constexpr int kBlocks = 3;
constexpr int kSteps = 2;

template <class T>
__device__ T* raw(Shared<T> p) {
#if defined(__CUDACC__)
  return p;
#else
  return p.raw();
#endif
}

// out[block, i] = sum of the 32 neighbours of in[block, reversed i], all of it through shared memory.
template <Fault kFault>
__global__ void faulty_kernel(float* out, const float* in) {
  SPX_SHARED(float, tile, kThreads);
  SPX_DYNAMIC_SHARED(int, counts);  // one for each warp
  const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp;
  float sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    const float* from = in + blockIdx.x * kThreads + thread;
    if (kFault != kUnwritten || thread != 40) cp_async(tile + (thread + (kFault == kOverrun ? 1 : 0)), from);
    if (kFault != kNoWait) cp_async_wait();
    if (kFault == kRawOverrun && thread == 0) raw<float>(tile)[kThreads] = 1;
    if (kFault != kNoBarrier) {
      if (kFault == kLeft && thread >= 100) return;
      if (kFault == kDivergent && thread < 64)
        __syncthreads();
      else
        __syncthreads();
    }
    sum = tile[kThreads - 1 - thread];
    if (kFault != kNoSecondBarrier) __syncthreads();
  }
  if (kFault == kLeftCopy) cp_async(tile + thread, in + thread);
  if (kFault != kDivergentShuffle || lane != 3) sum = reduce_add(sum);

  if (lane == 0) counts[warp] = 0;
  if (kFault != kNoWarpBarrier) __syncwarp();
  atomicAdd(&counts[warp], 1);
  __syncwarp();
  const int count = counts[warp];
  const int over = kFault == kGlobalOverrun && blockIdx.x == kBlocks - 1 ? 1 : 0;
  out[blockIdx.x * kThreads + thread + over] = count == kWarp ? sum : -1;
}

template <Fault kFault = kNone>
Status run(int fault, float* out, const float* in) {
  const Block block(kFault == kShort ? kThreads - 1 : kThreads,
                    (kThreads / kWarp - (kFault == kShortDynamic ? 1 : 0)) * sizeof(int));
  if (fault == kFault) return launch(kNames[kFault], faulty_kernel<kFault>, kBlocks, block, nullptr, out, in);
  if constexpr (kFault + 1 < kFaults)
    return run<static_cast<Fault>(kFault + 1)>(fault, out, in);
  else
    return cudaErrorInvalidValue;
}

int main_of(const char* name) {
  int fault = 0;
  while (fault < kFaults && strcmp(kNames[fault], name)) ++fault;
  std::vector<float> in(kBlocks * kThreads), out(kBlocks * kThreads);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 17);
  // Two runs: a failed launch must not disturb the next one.
  for (int i : {fault, int{kNone}}) {
    const Status status = run(i, out.data(), in.data());
    printf("%s\n", status == kOk ? "ok" : describe_failure(status));
  }
  for (int i = 0; i < kBlocks * kThreads; ++i) {
    float want = 0;
    const int thread = kThreads - 1 - i % kThreads, first = i / kThreads * kThreads + thread / kWarp * kWarp;
    for (int lane = 0; lane < kWarp; ++lane) want += in[first + lane];
    if (out[i] != want) return printf("wrong at %d: %g, not %g\n", i, out[i], want), 1;
  }
  return 0;
}

}  // namespace
}  // namespace spx::cuda

int main(int argc, char** argv) { return argc == 2 ? spx::cuda::main_of(argv[1]) : 2; }
