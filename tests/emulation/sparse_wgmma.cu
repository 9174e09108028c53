// wgmma.sp and stmatrix, compared with a plain product; then with one fault each. Registers are filled and read by the formulas
// of the PTX manual ("Sparse matrix storage", "stmatrix"), written here independently.
// usage: sparse_wgmma <fault>    prints "ok", "wrong" or the launch's error, for each dtype
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/device/hopper.cuh"

namespace spx::cuda {
namespace {

enum Fault { kNone, kSwappedRows, kOtherSelector, kIllegalCode, kTouchedCodes, kNoFence, kBeyondPattern, kOtherColumn };
const char* const kNames[] = {"none",          "swapped_rows", "other_selector", "illegal_code",
                              "touched_codes", "no_fence",     "beyond_pattern", "other_column"};
constexpr int kFaults = sizeof kNames / sizeof *kNames;

constexpr int kM = 64, kN = 256, kK = 64;  // two products of 32 steps

// Which two of the four columns of group g are stored in row r.
__device__ __host__ inline int place(int r, int g, int i) {
  constexpr int kFirst[] = {0, 0, 0, 1, 1, 2}, kSecond[] = {1, 2, 3, 2, 3, 3};
  const int choice = (5 * r + 3 * g + r / 8) % 6;
  return i == 0 ? kFirst[choice] : kSecond[choice];
}

template <class T>
__device__ void set(uint32_t& word, int half, T v) {
  memcpy(reinterpret_cast<char*>(&word) + 2 * half, &v, sizeof v);
}

// The codes of 16 columns.
__device__ inline uint32_t codes_of(int row, int col) {
  uint32_t codes = 0;
  for (int g = 0; g < 4; ++g)
    codes |= static_cast<uint32_t>(place(row, col / 4 + g, 0) | place(row, col / 4 + g, 1) << 2) << 4 * g;
  return codes;
}

constexpr int kBytesOfB = kN * kBoxWidth, kBytesOfA = kM * kNarrowBoxWidth;

// d [kN, kM] = (a b^T)^T: a's stored values [kM, kK / 2], whose places are those of place(), and b [kN, kK]
template <class T, Fault kFault>
__global__ void __launch_bounds__(kWarpgroup)
    product_kernel(T* d, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
  SPX_DYNAMIC_SHARED(uint32_t, memory);
  SPX_SHARED(Barrier, full, 1);
  const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp, g = lane / 4, j = lane % 4, row = 16 * warp + g;
  if (thread == 0) {
    barrier_init(full, 1);
    fence_barrier_init();
    barrier_expect(full, kBytesOfB + kBytesOfA);
    tma_load(memory, b, 0, 0, full);
    tma_load(memory + kBytesOfB / 4, a, 0, 0, full);
  }
  __syncthreads();
  barrier_wait(full, 0);

  uint32_t codes[2] = {};
  for (int step = 0; step < 2; ++step) {
    // Lanes 0 and 1 of a quad hold the codes of the first product, lanes 2 and 3 those of the second.
    const int col = step * 32 + j % 2 * 16, low = kFault == kSwappedRows ? row + 8 : row, high = low ^ 8;
    if (j / 2 == step) codes[step] = codes_of(low, col) | codes_of(high, col) << 16;
    if (kFault == kIllegalCode && step == 1) codes[step] |= 15;
  }
  constexpr int kFirst = kFault == kOtherSelector ? 1 : 0;
  WarpgroupSums sums = {};
  if (kFault != kNoFence) wgmma_fence();
  const uint64_t x = transposed_descriptor(shared_address(memory));
  const uint64_t w = transposed_descriptor<kNarrowBoxWidth>(shared_address(memory + kBytesOfB / 4));
  wgmma_sp_64x256x32<T, kFirst>(sums, w, x, codes[0]);
  const uint64_t second = descriptor_offset(kFault == kBeyondPattern ? 48 : 32);
  wgmma_sp_64x256x32<T, 1>(sums, w + second, x + descriptor_offset(64), codes[1]);
  wgmma_commit();
  if (kFault == kTouchedCodes) codes[1] = 0;
  wgmma_finish(sums);

  __syncthreads();  // b has been read; y takes its place, [kN][kM] in T
  const Shared<uint32_t> y = memory;
  for (int n = 0; n < kN / 8; n += 2) {
    uint32_t matrices[4] = {};
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 2; ++k) set(matrices[i], k, from_acc<T>(sums[4 * (n + i / 2) + 2 * (i % 2) + k]));
    const int matrix = lane / 8, token = 8 * (n + matrix / 2) + lane % 8, rows = 16 * warp + 8 * (matrix % 2);
    stmatrix_x4_transposed(y + (kFault == kOtherColumn ? token ^ 1 : token) * kM / 2 + rows / 2, matrices);
  }
  __syncthreads();
  for (int i = thread; i < kN * kM / 2; i += kWarpgroup) {
    const uint32_t two = y[i];
    memcpy(d + 2 * i, &two, sizeof two);
  }
}

template <class T, Fault kFault = kNone>
Status run(int fault, T* d, const CUtensorMap& a, const CUtensorMap& b) {
  if (fault == kFault)
    return launch("sparse_wgmma", product_kernel<T, kFault>, 1, Block(kWarpgroup, kBytesOfB + kBytesOfA), nullptr, d, a, b);
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
  std::vector<Aligned> b_memory(kN * kK / 8), a_memory(kM * kK / 2 / 8);
  T *b = b_memory[0].element, *values = a_memory[0].element;
  std::vector<T> d(kN * kM);
  for (int i = 0; i < kM * kK / 2; ++i) values[i] = from_acc<T>(static_cast<float>(i * 37 % 7) - 3);
  for (int i = 0; i < kN * kK; ++i) b[i] = from_acc<T>(static_cast<float>(i * 53 % 11) - 5);
  CUtensorMap a_map, b_map;
  if (make_tensor_map<kNarrowBoxWidth>(&a_map, DenseView<const T>{kM, kK / 2, values}, kM) != kOk ||
      make_tensor_map(&b_map, DenseView<const T>{kN, kK, b}, kN) != kOk)
    return puts("no map"), 1;
  const Status status = run<T>(fault, d.data(), a_map, b_map);
  if (status != kOk) return puts(describe_failure(status)), 0;
  bool same = true;
  for (int n = 0; n < kN; ++n)
    for (int r = 0; r < kM; ++r) {
      float sum = 0;
      for (int s = 0; s < kK / 2; ++s)
        sum += to_acc(values[r * kK / 2 + s]) * to_acc(b[n * kK + s / 2 * 4 + place(r, s / 2, s % 2)]);
      same = same && to_acc(d[n * kM + r]) == to_acc(from_acc<T>(sum));
    }
  return puts(same ? "ok" : "wrong"), 0;
}

}  // namespace
}  // namespace spx::cuda

int main(int argc, char** argv) {
  using namespace spx::cuda;
  int fault = 0;
  while (argc == 2 && fault < kFaults && strcmp(kNames[fault], argv[1])) ++fault;
  return argc != 2 || fault == kFaults ? 2 : compare<spx::bf16>(fault) | compare<spx::f16>(fault);
}
