// Drop and grow with exact counts (Evci et al. 2020, "Rigging the Lottery", Algorithm 1): the pattern and the slot map.
//
//   keep   the nnz - drop entries of largest |weight|: a selection over the entries, marked in a bitmap of the matrix
//   grow   the `grow` unmarked positions of largest score: a selection over rows * cols positions, in the same bitmap
//   then   the bitmap, row by row, is the new pattern; an entry that was in the old one says where
// Ties go to the lower linear index (select.cuh), so CPU, CUDA and all ranks get the same bits. nnz is known on the device
// only.
#include "common/random.h"
#include "common/select.h"
#include "launch.cuh"
#include "scan.cuh"
#include "select.cuh"

namespace spx::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBits = 32;  // positions per word of the bitmap; bit i % kBits of word i / kBits is position r * cols + c == i

// The old entries, by |weight|.
template <class T>
struct Entries {
  using Key = spx::Key<T>;
  static constexpr int kKeyBits = 8 * sizeof(T);
  CsrView<T, int32_t> old;
  unsigned* bitmap;

  __device__ bool get(int64_t p, Key* key) const {
    if (p >= old.pattern.row_ptr[old.pattern.rows]) return false;
    *key = magnitude_key(old.values[p]);
    return true;
  }
  __device__ void take(int64_t p0, unsigned lanes) const {
    if (!(lanes >> threadIdx.x % kWarp & 1)) return;
    const int64_t p = p0 + threadIdx.x % kWarp;
    int64_t row = 0, end = old.pattern.rows;  // the last row that begins at or before p
    while (end - row > 1) {
      const int64_t middle = row + (end - row) / 2;
      if (old.pattern.row_ptr[middle] <= p)
        row = middle;
      else
        end = middle;
    }
    const int64_t i = row * old.pattern.cols + old.pattern.col_idx[p];
    atomicOr(&bitmap[i / kBits], 1u << i % kBits);  // neighbours in a row share words
  }
};

// The positions that are not kept, by their score.
template <class T>
struct Scores {
  using Key = spx::Key<T>;
  static constexpr int kKeyBits = 8 * sizeof(T);
  const T* score;
  unsigned* bitmap;

  __device__ bool get(int64_t i, Key* key) const {
    *key = magnitude_key(score[i]);
    return !(bitmap[i / kBits] >> i % kBits & 1);
  }
  __device__ void take(int64_t i0, unsigned lanes) const {
    if (threadIdx.x % kWarp == 0) bitmap[i0 / kBits] |= lanes;  // i0 is a multiple of kBits: no other warp has this word
  }
};

// The same positions in random order.
struct Draws {
  using Key = uint32_t;
  static constexpr int kKeyBits = 32;
  uint64_t seed;
  unsigned* bitmap;

  __device__ bool get(int64_t i, Key* key) const {
    *key = random_u32(seed, static_cast<uint64_t>(i));
    return !(bitmap[i / kBits] >> i % kBits & 1);
  }
  __device__ void take(int64_t i0, unsigned lanes) const {
    if (threadIdx.x % kWarp == 0) bitmap[i0 / kBits] |= lanes;
  }
};
static_assert(kBits == kWarp && kChunk % kBits == 0, "a warp's 32 items are one word of the bitmap");

// The workspace. `selections`: keep, grow.
struct Workspace {
  Selection* selections;
  unsigned long long* histogram;
  int64_t* equals;
  unsigned* bitmap;
  int64_t words, bytes;

  Workspace(void* base, int64_t rows, int64_t cols, int64_t capacity) {
    const int64_t positions = rows * cols, most = positions > capacity ? positions : capacity;
    words = ceil_div(positions, kBits);
    selections = static_cast<Selection*>(base);
    histogram = reinterpret_cast<unsigned long long*>(selections + 2);
    equals = reinterpret_cast<int64_t*>(histogram + kDigits);
    bitmap = reinterpret_cast<unsigned*>(equals + select_chunks(most) + 1);
    bytes = reinterpret_cast<char*>(bitmap + words) - static_cast<char*>(base);
  }
};

__global__ void __launch_bounds__(kThreads)
    regrow_begin_kernel(Workspace work, const int32_t* row_ptr, int64_t rows, int64_t cols, int64_t drop, int64_t grow) {
  for (int64_t i = global_thread(); i < work.words; i += global_threads()) work.bitmap[i] = 0;
  for (int64_t d = global_thread(); d < kDigits; d += global_threads()) work.histogram[d] = 0;
  if (global_thread() != 0) return;
  const int64_t keep = row_ptr[rows] > drop ? row_ptr[rows] - drop : 0, free = rows * cols - keep;
  work.selections[0] = {0, keep};
  work.selections[1] = {0, grow < free ? grow : free};
}

__global__ void __launch_bounds__(kThreads)
    regrow_count_kernel(int32_t* row_ptr, const unsigned* bitmap, int64_t rows, int64_t cols) {
  for (int64_t r = global_thread() / kWarp; r < rows; r += global_threads() / kWarp) {
    const int64_t begin = r * cols, end = begin + cols;
    int32_t count = 0;
    for (int64_t word = begin / kBits + threadIdx.x % kWarp; word * kBits < end; word += kWarp) {
      unsigned bits = bitmap[word];
      if (word * kBits < begin) bits &= ~0u << begin % kBits;              // the row above
      if ((word + 1) * kBits > end) bits &= ~0u >> (kBits - end % kBits);  // the row below
      count += popcount(bits);
    }
    count = reduce_add(count);
    if (threadIdx.x % kWarp == 0) row_ptr[r + 1] = count;
  }
}

// The entry of `pattern` at row r, column c, or -1.
__device__ int32_t find_entry(const CsrPattern<int32_t>& pattern, int64_t r, int32_t c) {
  int32_t p = pattern.row_ptr[r], end = pattern.row_ptr[r + 1];
  while (p < end) {
    const int32_t middle = p + (end - p) / 2;
    if (pattern.col_idx[middle] == c) return middle;
    if (pattern.col_idx[middle] < c)
      p = middle + 1;
    else
      end = middle;
  }
  return -1;
}

__global__ void __launch_bounds__(kThreads)
    regrow_place_kernel(CsrPatternOut out, CsrPattern<int32_t> old, const unsigned* bitmap) {
  for (int64_t r = global_thread() / kWarp; r < out.rows; r += global_threads() / kWarp) {
    int64_t q = out.row_ptr[r];
    for (int64_t c0 = 0; c0 < out.cols; c0 += kWarp) {
      const int64_t c = c0 + threadIdx.x % kWarp, i = r * out.cols + c;
      const bool is_entry = c < out.cols && bitmap[i / kBits] >> i % kBits & 1;
      const unsigned entries = ballot(is_entry);
      if (is_entry) {
        const int64_t at = q + popcount(entries & lanes_below());
        out.col_idx[at] = static_cast<int32_t>(c);
        out.slot[at] = find_entry(old, r, static_cast<int32_t>(c));
      }
      q += popcount(entries);
    }
  }
  for (int64_t q = out.row_ptr[out.rows] + global_thread(); q < out.capacity; q += global_threads()) {
    out.col_idx[q] = 0;
    out.slot[q] = -1;
  }
}

}  // namespace

template <class T>
Status regrow(CsrPatternOut out, CsrView<T, int32_t> old, const Acc<T>* score, uint64_t seed, int64_t drop, int64_t grow,
              void* workspace, Where where) {
  const int64_t rows = out.rows, cols = out.cols, positions = rows * cols;
  const Workspace work(workspace, rows, cols, old.pattern.capacity);
  SPX_TRY(launch("regrow_begin", regrow_begin_kernel, blocks_for(work.words, kThreads), kThreads, where, work,
                 old.pattern.row_ptr, rows, cols, drop, grow));
  SPX_TRY(select(Entries<T>{old, work.bitmap}, old.pattern.capacity, work.selections, work.histogram, work.equals, where));
  if (score)
    SPX_TRY(select(Scores<Acc<T>>{score, work.bitmap}, positions, work.selections + 1, work.histogram, work.equals, where));
  else
    SPX_TRY(select(Draws{seed, work.bitmap}, positions, work.selections + 1, work.histogram, work.equals, where));
  const int64_t row_blocks = blocks_for(rows, kWarps);
  SPX_TRY(launch("regrow_count", regrow_count_kernel, row_blocks, kThreads, where, out.row_ptr, work.bitmap, rows, cols));
  SPX_TRY(counts_to_offsets(out.row_ptr, rows, where));
  return launch("regrow_place", regrow_place_kernel, row_blocks, kThreads, where, out, old.pattern, work.bitmap);
}

int64_t regrow_workspace(int64_t rows, int64_t cols, int64_t capacity, Where) {
  return Workspace(nullptr, rows, cols, capacity).bytes;
}

#define INSTANTIATE(T) \
  template Status regrow(CsrPatternOut, CsrView<T, int32_t>, const Acc<T>*, uint64_t, int64_t, int64_t, void*, Where);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bf16)
INSTANTIATE(f16)

}  // namespace spx::cuda
