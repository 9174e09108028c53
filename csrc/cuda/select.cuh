// The k items of largest key, exactly; among equal keys the lower index wins.
//
//   Items   a device type with
//             static constexpr int kKeyBits;  using Key              keys are below 2^kKeyBits
//             __device__ bool get(int64_t i, Key* key) const          false: item i does not take part
//             __device__ void take(int64_t i0, unsigned lanes) const  items i0 + lane are selected, for the set bits of `lanes`
//           get and take of 32 neighbours are called by one warp, get before take
//   radix select: a pass histograms kDigitBits bits of the keys that can still be the k-th, from the top, and finds the digit
//   in which the k-th lies. Then a warp per chunk counts its equals of the k-th key, and a last pass takes what was selected
//   k is known on the device only. Integer atomics; no block waits for another: every step is a launch
#pragma once
#include "launch.cuh"
#include "scan.cuh"

namespace spx::cuda {

constexpr int kSelectThreads = 256;
constexpr int kDigitBits = 11;  // three passes for 32 bits; a block's counters fill 8 KB
constexpr int kDigits = 1 << kDigitBits;
constexpr int kDigitsPerThread = kDigits / kSelectThreads;
constexpr int kChunk = 1024;                                  // items of a warp
constexpr int kBlockItems = kChunk * kSelectThreads / kWarp;  // items of a block

// Where a selection stands. All of it lives in device memory.
struct Selection {
  uint64_t key;     // the bits of the k-th largest key that are known
  int64_t missing;  // how many of the items that equal those bits are still to be selected
};

// One pass: counts the digit at `shift` of the keys that agree with the k-th in its known bits.
template <class Items>
__global__ void __launch_bounds__(kSelectThreads) select_count_kernel(unsigned long long* histogram, Items items, int64_t n,
                                                                      const Selection* selection, int shift, uint64_t known) {
  SPX_SHARED(unsigned, counts, kDigits);
  for (int d = threadIdx.x; d < kDigits; d += kSelectThreads) counts[d] = 0;
  __syncthreads();
  const uint64_t wanted = selection->key & known;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    typename Items::Key key;
    if (items.get(i, &key) && (key & known) == wanted) atomicAdd(&counts[(key >> shift) % kDigits], 1u);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kDigits; d += kSelectThreads) {
    const unsigned count = counts[d];
    if (count) atomicAdd(&histogram[d], static_cast<unsigned long long>(count));
  }
}

// Finds the digit of the k-th key and clears the histogram for the next pass. One block.
static __global__ void __launch_bounds__(kSelectThreads)
    select_digit_kernel(unsigned long long* histogram, Selection* selection, int shift) {
  SPX_SHARED(int64_t, scratch, kSelectThreads / kWarp);
  const int64_t missing = selection->missing;
  const int top = kDigits - 1 - threadIdx.x * kDigitsPerThread;  // thread 0 has the largest digits
  int64_t count[kDigitsPerThread], sum = 0;
  for (int i = 0; i < kDigitsPerThread; ++i) {
    sum += count[i] = static_cast<int64_t>(histogram[top - i]);
    histogram[top - i] = 0;
  }
  int64_t total;
  int64_t above = block_scan<int64_t>(sum, scratch, &total);  // items of larger digits; also: all have read `missing`
  if (missing <= 0) {  // nothing is selected: a key that none is above, with no equals taken
    if (threadIdx.x == 0) selection->key |= static_cast<uint64_t>(kDigits - 1) << shift;
    return;
  }
  for (int i = 0; i < kDigitsPerThread; above += count[i++])
    if (above < missing && missing <= above + count[i]) {  // true in one place
      selection->key |= static_cast<uint64_t>(top - i) << shift;
      selection->missing = missing - above;
    }
}

// equals[chunk + 1] = items of the chunk whose key is the k-th
template <class Items>
__global__ void __launch_bounds__(kSelectThreads)
    select_equals_kernel(int64_t* equals, Items items, int64_t n, const Selection* selection) {
  const int64_t chunk = global_thread() / kWarp;
  int64_t count = 0;
  for (int step = 0; step < kChunk; step += kWarp) {
    const int64_t i = chunk * kChunk + step + threadIdx.x % kWarp;
    typename Items::Key key;
    if (i < n && items.get(i, &key)) count += key == selection->key;
  }
  count = reduce_add(count);
  if (threadIdx.x % kWarp == 0 && chunk * kChunk < n) equals[chunk + 1] = count;
}

template <class Items>
__global__ void __launch_bounds__(kSelectThreads)
    select_take_kernel(const int64_t* equals, Items items, int64_t n, const Selection* selection) {
  const int64_t chunk = global_thread() / kWarp;
  if (chunk * kChunk >= n) return;  // the whole warp
  int64_t before = equals[chunk];   // equals of lower index
  for (int step = 0; step < kChunk; step += kWarp) {
    const int64_t i0 = chunk * kChunk + step, i = i0 + threadIdx.x % kWarp;
    typename Items::Key key;
    const bool takes_part = i < n && items.get(i, &key);
    const unsigned equal = ballot(takes_part && key == selection->key);
    const bool is_equal = equal >> threadIdx.x % kWarp & 1;
    const unsigned taken = ballot(
        takes_part && (key > selection->key || (is_equal && before + popcount(equal & lanes_below()) < selection->missing)));
    if (taken) items.take(i0, taken);
    before += popcount(equal);
  }
}

inline int64_t select_chunks(int64_t n) { return ceil_div(n, kChunk); }

// Selects selection->missing of `n` items; selection->key is 0, the histogram is clear and stays so.
// equals: [select_chunks(n) + 1]
template <class Items>
Status select(Items items, int64_t n, Selection* selection, unsigned long long* histogram, int64_t* equals, Where where) {
  const int64_t blocks = ceil_div(n, kBlockItems);
  uint64_t known = 0;
  for (int bits = Items::kKeyBits; bits > 0; bits -= kDigitBits) {
    const int shift = bits > kDigitBits ? bits - kDigitBits : 0;
    SPX_TRY(launch("select_count", select_count_kernel<Items>, blocks_for(n, kBlockItems), kSelectThreads, where, histogram,
                   items, n, selection, shift, known));
    SPX_TRY(launch("select_digit", select_digit_kernel, 1, kSelectThreads, where, histogram, selection, shift));
    known = ~uint64_t{0} << shift;
  }
  SPX_TRY(launch("select_equals", select_equals_kernel<Items>, blocks, kSelectThreads, where, equals, items, n, selection));
  SPX_TRY(counts_to_offsets(equals, select_chunks(n), where));
  return launch("select_take", select_take_kernel<Items>, blocks, kSelectThreads, where, equals, items, n, selection);
}

}  // namespace spx::cuda
