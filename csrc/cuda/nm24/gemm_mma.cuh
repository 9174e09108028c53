// nm24_gemm of 16-bit types by mma.sp, sm_80 and newer
//
//   sums in float32, in a fixed order of columns: the same bits on every run. Each y is written by one block
//   work: a block makes y for 128 rows of w and 128 tokens: a warp 64 x 32, in registers. Columns pass through shared memory,
//         64 at a time, in two stages: while half of one is multiplied, the loads of half of the next are under way to
//         registers
//   Inf and NaN in x reach a row only through its stored positions; outside w and x both are 0
//
// The instruction takes the codes of 16 columns of rows i and i + 8 in one word (nm24_metadata). In the ids the codes of 16
// columns are neighbours, so they are stored in no special order.
//
// Banks: ldmatrix reads 8 rows of 16 bytes at a time. A token's 64 columns are 8 chunks of 16 bytes, a row's 32 values are 4: a
// chunk lies at an exclusive or of its number and the row's, and any 8 neighbouring rows have the same chunk in 8 different
// places.
//
// What limits it, in clocks of a multiprocessor for one step of one block (128 x 128 x 64):
//   tensor cores    256 mma.sp: 512 on sm_80
//   shared memory   64 KB: a warp reads (64 / 2 + 32) x 64 elements, 8 KB, 64 KB in all: 512; 25 KB are stored: 200
//   L2              25 KB: 540 on sm_80 (5120 bytes a clock for 108)
// So shared memory limits it, to about 70 % of the sparse peak.
#pragma once
#include "common/nm24/groups.h"
#include "cuda/device/words.cuh"

namespace spx::cuda::nm24 {

constexpr int kSpThreads = 256;
constexpr int kSpRows = 128, kSpTokens = 128, kSpCols = 64;  // of a block and step
constexpr int kSpWarpRows = 64, kSpWarpTokens = 32;
constexpr int kSpTokenWarps = kSpTokens / kSpWarpTokens;
static_assert(kSpRows / kSpWarpRows * kSpTokenWarps * kWarp == kSpThreads);

// Shared memory of a stage, in words: values [row][4 chunks], then tokens [token][8 chunks], then codes [row][2 words].
constexpr int kChunkWords = 4, kRowChunks = kSpCols / 16, kTokenChunks = kSpCols / 8, kCodeWords = kSpCols / 32;
constexpr int kValueWords = kSpRows * kRowChunks * kChunkWords;
constexpr int kTokenWords = kSpTokens * kTokenChunks * kChunkWords;
constexpr int kStageWords = kValueWords + kTokenWords + kSpRows * kCodeWords;
constexpr int kSpSharedBytes = 2 * kStageWords * 4;

__device__ inline int value_place(int row, int chunk) {
  return (row * kRowChunks + (chunk ^ (row / 2 % kRowChunks))) * kChunkWords;
}
__device__ inline int token_place(int token, int chunk) {
  return kValueWords + (token * kTokenChunks + (chunk ^ (token % kTokenChunks))) * kChunkWords;
}
__device__ inline int code_place(int row) { return kValueWords + kTokenWords + row * kCodeWords; }

// Eight neighbours of a row, from element `from` on, with 0 behind its `count` elements; `row` is null if the row does not
// exist. kAligned: rows begin at multiples of 16 bytes.
template <bool kAligned, class T>
__device__ __forceinline__ Words<T, 8> load_eight(const T* row, int from, int count) {
  Words<T, 8> eight = {};
  if constexpr (kAligned) {
    if (row && from < count) eight = *reinterpret_cast<const Words<T, 8>*>(row + from);
    return eight;
  }
  if (row) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (from + i < count) eight.set(i, row[from + i]);
  }
  return eight;
}

// A thread's share of half a step, 32 columns, on its way from global to shared memory. Aligned: w has a multiple of 32
// columns.
template <class T, bool kAligned>
class SpCarried {
 public:
  __device__ __forceinline__ SpCarried(const Nm24View<const T>& w, DenseView<const T> x, int64_t row0, int64_t token0)
      : cols_(static_cast<int>(w.cols)) {
    row_ = row0 + row() < w.rows ? w.values_of_row(row0 + row()) : nullptr;
    ids_ = row0 + threadIdx.x < w.rows && threadIdx.x < kSpRows ? w.ids_of_row(row0 + threadIdx.x) : nullptr;
#pragma unroll
    for (int i = 0; i < kMyTokens; ++i) token_[i] = token0 + token(i) < x.rows ? x.row(token0 + token(i)) : nullptr;
  }

  __device__ __forceinline__ void load(int col) {
    const int groups = (cols_ + 3) / 4;
    values_ = load_eight<kAligned>(row_, col / 2 + row_piece() * 8, 2 * groups);
#pragma unroll
    for (int i = 0; i < kMyTokens; ++i) tokens_[i] = load_eight<kAligned>(token_[i], col + token_piece() * 8, cols_);
    codes_ = 0x11111111u * kNm24EmptyCode;  // of what does not exist: positions 0 and 1
    if constexpr (kAligned) {
      if (ids_ && col < cols_) codes_ = reinterpret_cast<const Words<uint32_t, 1>*>(ids_ + col / 8)->word[0];
    } else if (ids_) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (col / 8 + i < (groups + 1) / 2) codes_ = (codes_ & ~(0xFFu << 8 * i)) | uint32_t{ids_[col / 8 + i]} << 8 * i;
    }
  }

  __device__ __forceinline__ void store(Shared<uint32_t> stage, int half) const {
    store_chunk(stage + value_place(row(), half * kRowPieces + row_piece()), values_.word);
#pragma unroll
    for (int i = 0; i < kMyTokens; ++i)
      store_chunk(stage + token_place(token(i), half * kTokenPieces + token_piece()), tokens_[i].word);
    if (threadIdx.x < kSpRows) stage[code_place(threadIdx.x) + half] = codes_;
  }

 private:
  static constexpr int kHalves = kSpCols / 32;
  static constexpr int kRowPieces = kRowChunks / kHalves, kTokenPieces = kTokenChunks / kHalves;
  static constexpr int kMyTokens = kSpTokens * kTokenPieces / kSpThreads;
  static_assert(kSpRows * kRowPieces == kSpThreads && kSpRows <= kSpThreads);

  static __device__ int row() { return threadIdx.x / kRowPieces; }
  static __device__ int row_piece() { return threadIdx.x % kRowPieces; }
  static __device__ int token(int i) { return (threadIdx.x + i * kSpThreads) / kTokenPieces; }
  static __device__ int token_piece() { return threadIdx.x % kTokenPieces; }

  int cols_;
  const T* row_;
  const T* token_[kMyTokens];
  const uint8_t* ids_;
  Words<T, 8> values_, tokens_[kMyTokens];
  uint32_t codes_;
};

// The sums of a warp: [16 rows][8 tokens][of a lane].
using SpSums = float[kSpWarpRows / 16][kSpWarpTokens / 8][4];

// sums += w x for half a step; row and token are the warp's.
template <class T>
__device__ __forceinline__ void multiply_sparse(SpSums& sums, Shared<uint32_t> stage, int row, int token, int half) {
  const int lane = threadIdx.x % kWarp;
  uint32_t b[kSpWarpTokens / 8][4];
#pragma unroll
  for (int j = 0; j < kSpWarpTokens / 8; ++j)
    ldmatrix_x4(b[j], stage + token_place(token + 8 * j + lane % 8, 4 * half + lane / 8));
#pragma unroll
  for (int i = 0; i < kSpWarpRows / 16; ++i) {
    uint32_t a[4];
    ldmatrix_x4(a, stage + value_place(row + 16 * i + lane % 16, 2 * half + lane / 16));
    const int at = code_place(row + 16 * i + lane / 4) + half;
    const uint32_t upper = stage[at], lower = stage[at + 8 * kCodeWords];
    const int shift = lane % 2 * 16;
    const uint32_t codes = nm24_metadata(upper >> shift & 0xFFFF, lower >> shift & 0xFFFF);
#pragma unroll
    for (int j = 0; j < kSpWarpTokens / 8; ++j) mma_sp_16x8x32<T>(sums[i][j], a, b[j], codes);
  }
}

// The result is stored through the memory of the stages: [token][row] in T, two rows to a word.
constexpr int kSlabWords = kSpRows / 2 + 4;  // of a token; neighbouring tokens begin 4 banks apart
static_assert(kSpTokens * kSlabWords <= 2 * kStageWords);

// A lane has rows g and g + 8 of tokens 2j and 2j + 1. A word holds two rows of one token, so lanes g and g + 1 exchange sums.
template <class T>
__device__ __forceinline__ void store_slab(Shared<uint32_t> slab, const SpSums& sums, DenseView<T> y, const T* bias, bool relu,
                                           int64_t row0, int row, int token) {
  const int lane = threadIdx.x % kWarp, g = lane / 4;
  const bool odd = g % 2;
#pragma unroll
  for (int i = 0; i < kSpWarpRows / 16; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int my_row = row + 16 * i + 8 * half + g;
      const float add = bias && row0 + my_row < y.cols ? to_acc(bias[row0 + my_row]) : 0;
#pragma unroll
      for (int j = 0; j < kSpWarpTokens / 8; ++j) {
        float first = sums[i][j][2 * half] + add, second = sums[i][j][2 * half + 1] + add;
        if (relu) {
          first = first < 0 ? 0 : first;
          second = second < 0 ? 0 : second;
        }
        const float other = shfl_xor(odd ? first : second, 4);
        const int at = (token + 8 * j + lane % 4 * 2 + odd) * kSlabWords + my_row / 2;
        slab[at] = odd ? two<T>(other, second) : two<T>(first, other);
      }
    }
  }
}

template <class T>
__device__ void store_tokens(DenseView<T> y, Shared<uint32_t> slab, int64_t row0, int64_t token0) {
  constexpr int kPieces = kSpRows / 8;
  for (int i = threadIdx.x; i < kSpTokens * kPieces; i += kSpThreads) {
    Words<T, 8> eight;
    load_chunk(eight.word, slab + (i / kPieces * kSlabWords + i % kPieces * 4));
    store_eight(y, token0 + i / kPieces, row0 + i % kPieces * 8, eight);
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kSpThreads, 2)
    nm24_gemm_mma_kernel(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu) {
  SPX_DYNAMIC_SHARED(uint32_t, memory);
  // Neighbouring blocks share their tokens, which are more bytes than w's rows.
  const int64_t row_tiles = (w.rows + kSpRows - 1) / kSpRows;
  const int64_t row0 = blockIdx.x % row_tiles * kSpRows, token0 = blockIdx.x / row_tiles * kSpTokens;
  const int warp = threadIdx.x / kWarp, row = warp / kSpTokenWarps * kSpWarpRows, token = warp % kSpTokenWarps * kSpWarpTokens;
  SpSums sums = {};
  SpCarried<T, kAligned> next(w, x, row0, token0);
  for (int half = 0; half < 2; ++half) {
    next.load(32 * half);
    next.store(memory, half);
  }
  const int cols = static_cast<int>(w.cols);
#pragma unroll 1
  for (int col = 0; col < cols; col += kSpCols) {
    const int parity = col / kSpCols % 2;
    const Shared<uint32_t> stage = memory + parity * kStageWords, other = memory + (1 - parity) * kStageWords;
    __syncthreads();  // this stage is written, and everyone has read the other one
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      next.load(col + kSpCols + 32 * half);  // behind the last column: zeros, never read
      multiply_sparse<T>(sums, stage, row, token, half);
      next.store(other, half);
    }
  }
  __syncthreads();
  store_slab<T>(memory, sums, y, bias, relu, row0, row, token);
  __syncthreads();
  store_tokens<T>(y, memory, row0, token0);
}

template <class T>
Status nm24_gemm_mma(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, Stream stream) {
  if (w.cols > 0x7FFFFFFF - 2 * kSpCols) return cudaErrorInvalidValue;  // columns are 32-bit numbers
  const int64_t blocks = ceil_div(w.rows, kSpRows) * ceil_div(x.rows, kSpTokens);
  const Block block(kSpThreads, kSpSharedBytes);
  if (w.cols % 32 == 0)
    return launch("nm24_gemm_mma", nm24_gemm_mma_kernel<T, true>, blocks, block, stream, y, w, x, bias, relu);
  return launch("nm24_gemm_mma", nm24_gemm_mma_kernel<T, false>, blocks, block, stream, y, w, x, bias, relu);
}

}  // namespace spx::cuda::nm24
