// mma_16x8x16, compared with a plain product. Registers are filled and read by the formulas of the PTX manual ("Matrix
// Fragments for mma.m16n8k16 with floating point type"), written here independently.  usage: mma bf16|f16
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/device/launch.cuh"

namespace spx::cuda {
namespace {

constexpr int kM = 16, kN = 8, kK = 16, kWarps = 2;

template <class T>
__device__ void set(uint32_t& word, int half, T v) {
  memcpy(reinterpret_cast<char*>(&word) + 2 * half, &v, sizeof v);
}

// d += a b twice; warp w multiplies the w-th a and b.
template <class T>
__global__ void __launch_bounds__(kWarps* kWarp) mma_kernel(float* d, const T* a, const T* b) {
  const int warp = threadIdx.x / kWarp, group = threadIdx.x % kWarp / 4, in_group = threadIdx.x % 4;
  d += warp * kM * kN, a += warp * kM * kK, b += warp * kK * kN;
  uint32_t a_words[4] = {}, b_words[2] = {};
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8, col = in_group * 2 + i % 2 + (i < 4 ? 0 : 8);
    set(a_words[i / 2], i % 2, a[row * kK + col]);
  }
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + i % 2 + (i < 2 ? 0 : 8), col = group;
    set(b_words[i / 2], i % 2, b[row * kN + col]);
  }
  const auto at = [&](int i) { return (i < 2 ? group : group + 8) * kN + in_group * 2 + i % 2; };
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = d[at(i)];
  for (int time = 0; time < 2; ++time) mma_16x8x16<T>(sums, a_words, b_words);
  for (int i = 0; i < 4; ++i) d[at(i)] = sums[i];
}

template <class T>
int compare() {
  std::vector<T> a(kWarps * kM * kK), b(kWarps * kK * kN);
  std::vector<float> d(kWarps * kM * kN), want(d.size());
  for (size_t i = 0; i < a.size(); ++i) a[i] = from_acc<T>(static_cast<float>(i * 37 % 101) - 50);
  for (size_t i = 0; i < b.size(); ++i) b[i] = from_acc<T>(static_cast<float>(i * 53 % 97) - 48);
  for (size_t i = 0; i < d.size(); ++i) want[i] = d[i] = static_cast<float>(i);
  for (int w = 0; w < kWarps; ++w)
    for (int m = 0; m < kM; ++m)
      for (int n = 0; n < kN; ++n)
        for (int k = 0; k < kK; ++k)
          want[(w * kM + m) * kN + n] += 2 * to_acc(a[(w * kM + m) * kK + k]) * to_acc(b[(w * kK + k) * kN + n]);
  const Status status = launch("mma", mma_kernel<T>, 1, kWarps * kWarp, nullptr, d.data(), a.data(), b.data());
  if (status != kOk) return puts(describe_failure(status)), 1;
  for (size_t i = 0; i < d.size(); ++i)
    if (d[i] != want[i]) return printf("wrong at %zu: %g, not %g\n", i, d[i], want[i]), 1;
  return puts("ok"), 0;
}

}  // namespace
}  // namespace spx::cuda

int main(int argc, char** argv) {
  return argc < 2 ? 2 : strcmp(argv[1], "bf16") ? spx::cuda::compare<spx::f16>() : spx::cuda::compare<spx::bf16>();
}
