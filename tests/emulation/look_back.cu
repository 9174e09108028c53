// look_back on status words as running blocks may leave them. Emulated blocks run one after another, so in the emulated kernels
// every chunk finds a prefix right before it.
#include <cstdio>
#include <random>
#include <vector>

#include "cuda/device/compact.cuh"

namespace spx::cuda {
namespace {

__global__ void __launch_bounds__(kCompactThreads)
    look_back_kernel(Counts* before, unsigned long long* status, int64_t chunk, Counts own) {
  before[threadIdx.x] = look_back(status, chunk, own);
}

// Chunks before `chunk` have their own counts or a prefix; equals reach the largest value that a word holds where `many`.
int check(std::mt19937& random, int64_t chunk, bool many) {
  const int64_t finished = chunk ? random() % chunk : 0;
  std::vector<unsigned long long> status(chunk + 1);
  Counts sum = {0, 0};
  for (int64_t i = 0; i < chunk; ++i) {
    const Counts own = {random() % 1000, many ? kMostEqual : random() % 1000};
    sum = {sum.sure + own.sure, sum.equal + own.equal};
    status[i] = i <= finished || random() % 40 == 0 ? pack(sum, kPrefix) : pack(own, kOwn);
  }
  const Counts own = {7, 9};
  std::vector<Counts> before(kCompactThreads);
  if (launch("look_back", look_back_kernel, 1, kCompactThreads, nullptr, before.data(), status.data(), chunk, own) != kOk)
    return puts("the launch failed"), 1;
  for (const Counts& b : before)
    if (pack(b, kPrefix) != pack(sum, kPrefix)) return printf("wrong before chunk %lld\n", static_cast<long long>(chunk)), 1;
  if (status[chunk] != pack({sum.sure + own.sure, sum.equal + own.equal}, kPrefix)) return puts("wrong prefix"), 1;
  return 0;
}

}  // namespace
}  // namespace spx::cuda

int main() {
  std::mt19937 random(0);
  for (int i = 0; i < 40; ++i)
    if (spx::cuda::check(random, i < 20 ? i * i : random() % 500, i % 7 == 0)) return 1;
  return puts("ok"), 0;
}
