// The k-th largest key, exactly, by radix select. The last block of each pass evaluates it, so no kernel runs between passes.
//
//   top    kTopBits of the key, counted in shared memory: for passes over many items
//   fine   the next kFineBits, counted in global memory, but only for items that agree with the k-th so far, which are few.
//          Coarse counters find the segment of fine ones to read
//   so 32 bits take two passes; 64 bits take two more of the fine kind
//   the last block of a pass finds the digit of the k-th key. Digit 0 is not counted: it has the remaining items, and a score
//   full of zeros costs no atomics
// k is known on the device only. Integer atomics; no block waits for another. Counters start at 0.
#pragma once
#include "cuda/device/launch.cuh"
#include "cuda/device/scan.cuh"

namespace spx::cuda {

constexpr int kSelectThreads = 256;
constexpr int kCountBlocks = 528;  // four on each multiprocessor of an H200; each adds its counters to the global ones once
constexpr int kTopBits = 13;       // 32 KB of counters
constexpr int kTopDigits = 1 << kTopBits;
constexpr int kFineBits = 19;
constexpr int kFineDigits = 1 << kFineBits;
constexpr int kSegmentBits = 9;  // a coarse counter counts a segment of fine ones
constexpr int kSegments = kFineDigits >> kSegmentBits;

using Counter = unsigned long long;

// Clears [begin, end) by the whole grid, which has at least kClearBlocks blocks: there are 4 MB of counters.
#if defined(__CUDACC__)
constexpr int kClearBlocks = 256;
__device__ inline void clear_counters(Counter* begin, Counter* end) {
  for (Counter* counter = begin + global_thread(); counter < end; counter += global_threads()) *counter = 0;
}
#else  // an emulated thread takes long to start, and strides would miss the host's caches
constexpr int kClearBlocks = 2;
inline void clear_counters(Counter* begin, Counter* end) {
  const int64_t count = end - begin, id = global_thread(), threads = global_threads();
  for (int64_t i = count * id / threads; i < count * (id + 1) / threads; ++i) begin[i] = 0;
}
#endif

struct Selection {
  uint64_t key;     // the bits of the k-th largest key that are known
  int64_t missing;  // how many of the items that equal those bits are to be selected
  int64_t equal;    // how many there are; at first, all items
  int64_t above;    // items above: all selected
};

// The digits of keys of `bits` bits: [shift, shift + width).
struct Digit {
  int shift, width;
};
SPX_HOST_DEVICE constexpr Digit top_digit(int bits) {
  return bits > kTopBits ? Digit{bits - kTopBits, kTopBits} : Digit{0, bits};
}
SPX_HOST_DEVICE constexpr Digit fine_digit(Digit last) {
  return last.shift > kFineBits ? Digit{last.shift - kFineBits, kFineBits} : Digit{0, last.shift};
}

// One selection, in device memory.
struct Select {
  Selection* selection;
  Counter *top, *coarse, *fine;  // [kTopDigits], [kSegments], [kFineDigits]
  unsigned* done;                // blocks of the running pass that have counted; 0 between passes
};

// Whether this is the last block of the grid to get here; it sees everything that the others have written.
__device__ inline bool is_last_block(unsigned* done) {
  SPX_SHARED(unsigned, last, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned is_last = atomicAdd(done, 1u) == gridDim.x - 1;
    if (is_last) *done = 0;
    last[0] = is_last;
  }
  __syncthreads();
  __threadfence();
  const unsigned is_last = last[0];
  return is_last;
}

// Finds the digit of the k-th key among `digits` counters. One block.
__device__ inline void find_digit(Selection* selection, const Counter* counters, int digits, int shift) {
  SPX_SHARED(int64_t, scratch, kSelectThreads / kWarp);
  const Selection known = *selection;
  const int each = (digits + kSelectThreads - 1) / kSelectThreads;
  const int top = digits - 1 - static_cast<int>(threadIdx.x) * each;  // thread 0 has the largest digits
  int64_t sum = 0, counted;
  for (int d = top; d > top - each && d > 0; --d) sum += static_cast<int64_t>(counters[d]);
  int64_t above = block_scan<int64_t>(sum, scratch, &counted);  // items of larger digits; also: all have read *selection
  if (known.missing <= 0) {                                     // nothing is selected: a key that no item exceeds
    if (threadIdx.x == 0) *selection = {known.key | static_cast<uint64_t>(digits - 1) << shift, 0, 0, known.above};
  } else {
    for (int d = top; d > top - each && d >= 0; --d) {
      const int64_t count = d ? static_cast<int64_t>(counters[d]) : known.equal - counted;
      if (above < known.missing && known.missing <= above + count)  // true in one place
        *selection = {known.key | static_cast<uint64_t>(d) << shift, known.missing - above, count, known.above + above};
      above += count;
    }
  }
  __syncthreads();
}

__device__ inline void begin_top(Shared<unsigned> counts) {
  for (int d = threadIdx.x; d < kTopDigits; d += kSelectThreads) counts[d] = 0;
  __syncthreads();
}

template <class Key>
__device__ inline void count_top(Shared<unsigned> counts, Key key, Digit digit) {
  const auto d = static_cast<unsigned>(key >> digit.shift);
  if (d) atomicAdd(&counts[d], 1u);
}

// True in the last block, after it has found the digit. Every thread of the grid calls it.
__device__ inline bool end_top(const Select& select, Shared<unsigned> counts, Digit digit) {
  __syncthreads();
  for (int d = threadIdx.x; d < kTopDigits; d += kSelectThreads) {
    const unsigned count = counts[d];
    if (count) atomicAdd(&select.top[d], Counter{count});
  }
  if (!is_last_block(select.done)) return false;
  find_digit(select.selection, select.top, 1 << digit.width, digit.shift);
  return true;
}

// Whether the key agrees with the k-th above the digit.
template <class Key>
__device__ inline bool agrees(Key key, Key kth, Digit digit) {
  return (key ^ kth) >> digit.shift >> digit.width == 0;
}

// Counts the keys with a bit in `counted`, which agree with the k-th so far. Called by whole warps: if many lanes have such
// keys, those equal to the first one's are added together, since atomics on one counter would queue up.
template <int kKeys, class Key>
__device__ __forceinline__ void count_fine(const Select& select, const Key (&key)[kKeys], unsigned counted, Digit digit) {
  constexpr int kMany = 8;
  const int lane = threadIdx.x % kWarp, lanes = popcount(ballot(counted != 0));
  if (lanes == 0) return;  // the usual case
#pragma unroll
  for (int e = 0; e < kKeys; ++e) {
    const auto d = static_cast<unsigned>(key[e] >> digit.shift) & ((1u << digit.width) - 1);
    bool adds = counted >> e & 1 && d != 0;
    unsigned count = 1;
    if (lanes >= kMany) {
      const unsigned all = ballot(adds);
      const int leader = all ? popcount((all & (0u - all)) - 1) : 0;
      const unsigned first = shfl_idx(d, leader), same = ballot(adds && d == first);
      if (d == first) count = static_cast<unsigned>(popcount(same));
      adds = adds && (d != first || lane == leader);
    }
    if (adds) {
      atomicAdd(&select.fine[d], Counter{count});
      atomicAdd(&select.coarse[d >> kSegmentBits], Counter{count});
    }
  }
}

// Every thread of the grid calls it.
__device__ inline void end_fine(const Select& select, Digit digit) {
  if (!is_last_block(select.done)) return;
  if (digit.width <= kSegmentBits) return find_digit(select.selection, select.fine, 1 << digit.width, digit.shift);
  find_digit(select.selection, select.coarse, 1 << (digit.width - kSegmentBits), digit.shift + kSegmentBits);
  const uint64_t found = select.selection->key >> digit.shift & ((1u << digit.width) - 1);  // its lower bits are still 0
  __syncthreads();
  find_digit(select.selection, select.fine + found, 1 << kSegmentBits, digit.shift);
}

// Between two fine passes. Every thread of the grid calls it.
__device__ inline void clear_fine(const Select& select) {
  clear_counters(select.fine, select.fine + kFineDigits);
  clear_counters(select.coarse, select.coarse + kSegments);
}

static __global__ void __launch_bounds__(kSelectThreads) select_clear_kernel(Select select) { clear_fine(select); }

// fine_pass(digit) for all digits behind the top one; the counters are clear before each.
template <class F>
Status fine_passes(const Select& select, Digit digit, Stream stream, F fine_pass) {
  for (bool first = true; digit.shift > 0; first = false) {
    digit = fine_digit(digit);
    if (!first) SPX_TRY(launch("select_clear", select_clear_kernel, kClearBlocks, kSelectThreads, stream, select));
    SPX_TRY(fine_pass(digit, first));
  }
  return kOk;
}

}  // namespace spx::cuda
