// A dense matrix to 2:4 and back (common/nm24/groups.h), and the transpose in the same pass
//
//   work: a block takes 128 rows x 64 columns, a thread two tiles of 4 x 4; neighbouring lanes take neighbouring tiles of a
//         row. The transpose passes through shared memory: runs of 64 bytes (w) and 128 bytes (wt) of 16-bit values are written
//   bytes, 16 bits: 2 read and 1 + 1/8 written per element and direction; 4096 x 4096 both ways are 71 MB, 17 us at 4.3 TB/s
//   instructions: about 350 for the best of the 90 tiles, 22 an element: 3 us of 4096 x 4096, if all issue slots are used
// ops/nm24/kernels.py has checked shapes, dtypes and codes.
#include "common/keys.h"
#include "common/nm24/groups.h"
#include "cuda/device/words.cuh"

namespace spx::cuda::nm24 {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 128, kCols = 64;  // of a block
constexpr int kTileRows = kRows / 4, kTileCols = kCols / 4;
constexpr int kTilesPerThread = kTileRows * kTileCols / kThreads;
static_assert(kTileRows == kWarp, "the transpose is written a warp to a row");

// |v|, and Inf for NaN: it ranks first, and sums stay comparable.
template <class A>
__device__ A magnitude(A v) {
  return v != v ? static_cast<A>(__builtin_huge_val()) : v < 0 ? -v : v;
}

template <class A>
struct Best {
  A total = -1;
  uint32_t tile = 0;

  SPX_HOST_DEVICE void operator()(A sum, uint32_t offered) {
    if (sum > total) {
      total = sum;
      tile = offered;
    }
  }
};

template <class S>
using Four = Words<S, 4>;

template <class S>
__device__ __forceinline__ uint32_t best_tile(const Four<S> (&at)[4]) {
  Acc<S> magnitudes[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) magnitudes[i] = magnitude(to_acc(at[i / 4][i % 4]));
  Best<Acc<S>> best;
  offer_tiles(magnitudes, best);
  return best.tile;
}

template <class T, class S>
__device__ __forceinline__ uint32_t chosen_tile(const Four<S> (&at)[4], const Nm24View<T>& w, int64_t row, int64_t group,
                                                Nm24Choice choice) {
  const int64_t rows = w.rows - row;
  if (choice == Nm24Choice::kTransposable)
    return best_tile<S>(at) & (rows < 4 ? (1u << (rows > 0 ? 4 * rows : 0)) - 1 : 0xFFFF);
  uint32_t tile = 0;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    uint32_t mask = 0;
    if (choice != Nm24Choice::kGiven)
      mask = nm24_largest(magnitude_key(at[r][0]), magnitude_key(at[r][1]), magnitude_key(at[r][2]), magnitude_key(at[r][3]));
    else if (r < rows && group < w.groups())
      mask = nm24_mask(w.ids_of_row(row + r)[group / 2] >> group % 2 * 4);
    tile |= mask << 4 * r;
  }
  return tile;
}

// The third largest magnitude of four: the larger one of the two that are not kept.
template <class S>
__device__ Acc<S> threshold(const Four<S>& four, uint32_t mask) {
  const int others = static_cast<int>(nm24_code(~mask & 15));
  const Acc<S> a = magnitude(to_acc(element_of(four, others & 3))), b = magnitude(to_acc(element_of(four, others >> 2)));
  return a > b ? a : b;
}

template <class T, class A>
__device__ T stored(A a, A towards_zero, float scale) {
  return from_acc<T>(static_cast<Acc<T>>((a < 0 ? a + towards_zero : a - towards_zero) * static_cast<A>(scale)));
}

// The four rows of one tile. All lanes of a warp: the codes of two groups are a byte.
template <class T, class S>
__device__ __forceinline__ void write_rows(const Nm24View<T>& w, const Four<S> (&at)[4], uint32_t tile, int64_t row,
                                           int64_t group, Nm24Choice choice, float scale) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const bool exists = row + r < w.rows && group < w.groups();
    const uint32_t mask = tile >> 4 * r & 15;
    const int code = exists ? static_cast<int>(nm24_code(mask)) : kNm24EmptyCode;
    const int next = shfl_xor(code, 1);
    if (!exists) continue;
    const Acc<S> shrink = choice == Nm24Choice::kSoft ? threshold(at[r], mask) : 0;
    Words<T, 2> pair;
    pair.set(0, stored<T>(to_acc(element_of(at[r], code & 3)), shrink, scale));
    pair.set(1, stored<T>(to_acc(element_of(at[r], code >> 2)), shrink, scale));
    *reinterpret_cast<Words<T, 2>*>(w.values_of_row(row + r) + 2 * group) = pair;
    if (choice != Nm24Choice::kGiven && group % 2 == 0)
      w.ids_of_row(row + r)[group / 2] = static_cast<uint8_t>(code | next << 4);
  }
}

// The block's part of the transpose: [column][tile row], padded so that neighbouring columns begin in different banks.
constexpr int kStride = kTileRows + 1;

template <class T, class S>
__device__ __forceinline__ void turn(Shared<Words<T, 2>> values, Shared<uint8_t> codes, const Four<S> (&at)[4], uint32_t tile,
                                     int tile_row, int tile_col, float scale) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int code = static_cast<int>(nm24_code(nm24_column(tile, c)));
    const Acc<S> column[4] = {to_acc(at[0][c]), to_acc(at[1][c]), to_acc(at[2][c]), to_acc(at[3][c])};
    Words<T, 2> pair;
    pair.set(0, stored<T>(element_of(column, code & 3), Acc<S>(0), scale));
    pair.set(1, stored<T>(element_of(column, code >> 2), Acc<S>(0), scale));
    values[(4 * tile_col + c) * kStride + tile_row] = pair;
    codes[(4 * tile_col + c) * kStride + tile_row] = static_cast<uint8_t>(code);
  }
}

// A warp writes a row of wt at a time.
template <class T>
__device__ void write_columns(const Nm24View<T>& wt, Shared<Words<T, 2>> values, Shared<uint8_t> codes, int64_t row0,
                              int64_t col0) {
  const int lane = threadIdx.x % kWarp;
  const int64_t group = row0 / 4 + lane;
  for (int c = threadIdx.x / kWarp; c < kCols && col0 + c < wt.rows; c += kThreads / kWarp) {
    const bool exists = group < wt.groups();
    const int code = exists ? codes[c * kStride + lane] : kNm24EmptyCode;
    const int next = shfl_xor(code, 1);
    if (!exists) continue;
    *reinterpret_cast<Words<T, 2>*>(wt.values_of_row(col0 + c) + 2 * group) = values[c * kStride + lane];
    if (lane % 2 == 0) wt.ids_of_row(col0 + c)[group / 2] = static_cast<uint8_t>(code | next << 4);
  }
}

template <class T, class S, bool kBoth>
__global__ void __launch_bounds__(kThreads)
    nm24_pack_kernel(Nm24View<T> w, Nm24View<T> wt, DenseView<const S> dense, Nm24Choice choice, float scale) {
  using Pair = Words<T, 2>;
  SPX_SHARED(Pair, values, kBoth ? kCols * kStride : 1);
  SPX_SHARED(uint8_t, codes, kBoth ? kCols * kStride : 1);
  const int64_t across = (dense.cols + kCols - 1) / kCols;
  const int64_t row0 = blockIdx.x / across * kRows, col0 = blockIdx.x % across * kCols;
  const int tile_col = threadIdx.x % kTileCols;
  for (int i = 0; i < kTilesPerThread; ++i) {
    const int tile_row = threadIdx.x / kTileCols + i * (kThreads / kTileCols);
    const int64_t row = row0 + 4 * tile_row, group = col0 / 4 + tile_col;
    Four<S> at[4];
    load_words(at, dense, row, 4 * group);
    const uint32_t tile = chosen_tile<T, S>(at, w, row, group, choice);
    write_rows<T, S>(w, at, tile, row, group, choice, scale);
    if constexpr (kBoth) turn<T, S>(values, codes, at, tile, tile_row, tile_col, scale);
  }
  if constexpr (kBoth) {
    __syncthreads();
    write_columns(wt, values, codes, row0, col0);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) nm24_unpack_kernel(DenseView<T> dense, Nm24View<const T> w) {
  for (int64_t i = global_thread(); i < w.rows * w.groups(); i += global_threads()) {
    const int64_t r = i / w.groups(), group = i % w.groups();
    const uint32_t code = w.ids_of_row(r)[group / 2] >> group % 2 * 4;
    const auto pair = *reinterpret_cast<const Words<T, 2>*>(w.values_of_row(r) + 2 * group);
    for (int c = 0; c < 4 && 4 * group + c < w.cols; ++c) {
      const T zero = from_acc<T>(0);
      const bool first = c == static_cast<int>(code & 3), second = c == static_cast<int>(code >> 2 & 3);
      dense.row(r)[4 * group + c] = first ? pair[0] : second ? pair[1] : zero;
    }
  }
}

}  // namespace

template <class T, class S>
Status nm24_pack(Nm24View<T> w, Nm24View<T> wt, DenseView<const S> dense, Nm24Choice choice, float scale, Stream stream) {
  const int64_t blocks = ceil_div(dense.rows, kRows) * ceil_div(dense.cols, kCols);
  if (wt.values)
    return launch("nm24_pack", nm24_pack_kernel<T, S, true>, blocks, kThreads, stream, w, wt, dense, choice, scale);
  return launch("nm24_pack", nm24_pack_kernel<T, S, false>, blocks, kThreads, stream, w, wt, dense, choice, scale);
}

template <class T>
Status nm24_unpack(DenseView<T> dense, Nm24View<const T> w, Stream stream) {
  const int64_t blocks = w.rows && w.cols ? blocks_for(w.rows * w.groups(), kThreads) : 0;
  return launch("nm24_unpack", nm24_unpack_kernel<T>, blocks, kThreads, stream, dense, w);
}

SPX_INSTANTIATE(nm24_pack, float, float)
SPX_INSTANTIATE(nm24_pack, double, double)
SPX_INSTANTIATE(nm24_pack, bf16, bf16)
SPX_INSTANTIATE(nm24_pack, bf16, float)
SPX_INSTANTIATE(nm24_pack, f16, f16)
SPX_INSTANTIATE(nm24_pack, f16, float)
SPX_FOR_EACH_TYPE(SPX_INSTANTIATE, nm24_unpack)
SPX_INSTANTIATE(nm24_unpack, f16)

}  // namespace spx::cuda::nm24
