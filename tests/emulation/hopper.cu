// TMA, barriers, clusters and wgmma, compared with a plain product; then with one fault each, which the emulation must see.
// Sums are read by the formulas of the PTX manual, written here independently.
// usage: hopper <fault>    prints "ok", "wrong" or the launch's error
#include "cuda/device/hopper.cuh"

#include <cstdio>
#include <cstring>
#include <vector>

namespace spx::cuda {
namespace {

enum Fault {
  kNone,
  kWrongLeading,
  kNoWait,
  kOverwritten,
  kNoFinish,
  kNoFence,
  kMoreBytes,
  kNoArrival,
  kTooManyArrivals,
  kStillCopying,
  kUnaligned
};
const char* const kNames[] = {"none",       "wrong_leading", "no_wait",           "overwritten",   "no_finish", "no_fence",
                              "more_bytes", "no_arrival",    "too_many_arrivals", "still_copying", "unaligned"};
constexpr int kFaults = sizeof kNames / sizeof *kNames;

constexpr int kRows = 120, kCols = 248, kTokens = 104;  // not whole boxes: the rest of those is 0
constexpr int kBlocks = 2;                              // with 64 rows each, and all columns in common
constexpr int kStep = 16, kSteps = (kTokens + kStep - 1) / kStep, kStages = 2;
constexpr int kBoxBytes = kStep * kBoxWidth, kStageBoxes = 5;  // one of a, four of b

// d [128, 256] = a^T b, with a [kTokens, kRows] and b [kTokens, kCols]
template <class T, Fault kFault>
__global__ void __launch_bounds__(kWarpgroup)
    product_kernel(float* d, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
  SPX_DYNAMIC_SHARED(uint32_t, memory);
  SPX_SHARED(Barrier, full, kStages);
  const int thread = threadIdx.x, rank = blockIdx.x % kBlocks;
  const auto box = [&](int stage, int i) { return memory + (stage * kStageBoxes + i) * kBoxBytes / 4; };
  const auto load = [&](int step) {
    const int stage = step % kStages;
    barrier_expect(full + stage, kStageBoxes * kBoxBytes + (kFault == kMoreBytes ? 16 : 0));
    if (kFault == kTooManyArrivals) barrier_expect(full + stage, 0);
    tma_load(box(stage, 0) + (kFault == kUnaligned ? 32 : 0), a, step * kStep, rank * 64, full + stage);
    for (int i = 2 * rank; i < 2 * rank + 2; ++i) tma_load(box(stage, 1 + i), b, step * kStep, i * 64, full + stage, 3);
  };
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) barrier_init(full + stage, kFault == kNoArrival ? 2 : 1);
    fence_barrier_init();
  }
  cluster_sync();
  if (thread == 0) load(0);

  WarpgroupSums sums = {};
  for (int step = 0; step < kSteps; ++step) {
    const int stage = step % kStages;
    cluster_sync();  // both blocks are done with the other stage
    if (thread == 0 && (step + 1 < kSteps || kFault == kStillCopying)) load(step + 1);
    if (kFault != kNoWait) barrier_wait(full + stage, step / kStages % 2);
    if (kFault != kNoFence) wgmma_fence();
    wgmma_64x256x16<T>(sums, operand_descriptor(shared_address(box(stage, 0)), 0),
                       operand_descriptor(shared_address(box(stage, 1)), kFault == kWrongLeading ? kBoxBytes / 2 : kBoxBytes));
    wgmma_commit();
    if (kFault == kOverwritten || kFault == kNoFinish)
      wgmma_wait<1>();
    else
      wgmma_wait<0>();
  }
  if (kFault != kNoFinish) wgmma_finish(sums);
  const int warp = thread / kWarp, lane = thread % kWarp;
  for (int i = 0; i < 128; ++i) {
    const int row = rank * 64 + 16 * warp + lane / 4 + 8 * (i / 2 % 2), col = 8 * (i / 4) + lane % 4 * 2 + i % 2;
    d[row * 256 + col] = sums[i];
  }
}

template <class T, Fault kFault = kNone>
Status run(int fault, float* d, const CUtensorMap& a, const CUtensorMap& b) {
  if (fault == kFault)
    return launch("hopper", product_kernel<T, kFault>, kBlocks, Block(kWarpgroup, kStages * kStageBoxes * kBoxBytes, kBlocks),
                  nullptr, d, a, b);
  if constexpr (kFault + 1 < kFaults)
    return run<T, static_cast<Fault>(kFault + 1)>(fault, d, a, b);
  else
    return cudaErrorInvalidValue;
}

template <class T>
int compare(int fault) {
  struct alignas(16) Aligned {
    T element[8];
  };
  std::vector<Aligned> a_memory(kTokens * kRows / 8), b_memory(kTokens * kCols / 8);
  T *a = a_memory[0].element, *b = b_memory[0].element;
  for (int i = 0; i < kTokens * kRows; ++i) a[i] = from_acc<T>(static_cast<float>(i * 37 % 101) - 50);
  for (int i = 0; i < kTokens * kCols; ++i) b[i] = from_acc<T>(static_cast<float>(i * 53 % 97) - 48);
  std::vector<float> d(128 * 256, -1), want(d.size());
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c) want[r * 256 + c] += to_acc(a[t * kRows + r]) * to_acc(b[t * kCols + c]);
  CUtensorMap a_map, b_map;
  if (make_tensor_map(&a_map, DenseView<const T>{kTokens, kRows, a}, kStep) != kOk) return puts("no map"), 1;
  if (make_tensor_map(&b_map, DenseView<const T>{kTokens, kCols, b}, kStep) != kOk) return puts("no map"), 1;
  CUtensorMap none;
  if (make_tensor_map(&none, DenseView<const T>{kTokens, kRows - 1, a}, kStep) == kOk) return puts("a map of odd rows"), 1;
  const Status status = run<T>(fault, d.data(), a_map, b_map);
  return puts(status != kOk ? describe_failure(status) : d == want ? "ok" : "wrong"), 0;
}

}  // namespace
}  // namespace spx::cuda

int main(int argc, char** argv) {
  using namespace spx::cuda;
  int fault = 0;
  while (argc == 2 && fault < kFaults && strcmp(kNames[fault], argv[1])) ++fault;
  return argc != 2 || fault == kFaults ? 2 : compare<spx::bf16>(fault) | compare<spx::f16>(fault);
}
