// The weight gradient of a convolution at the pattern's entries:  dw[p] = sum of dy(row_p, pixel) * x(channel_p, what tap_p of
// the pixel meets), over all images and pixels;  0 behind nnz
//
//   sums in Acc<T>, in a fixed order of pixels, no atomics: the same bits on every run
//   work: a block owns the entries of a tile of rows and channels, a warp up to kConvSlots of them, a lane a sum of each for
//         its own pixels. dy and the halo of x (conv_feed.cuh) pass through shared memory, up to kPixels pixels at a time:
//         while a step is multiplied, the next is copied. A tile with more entries than a block has slots takes several
//         rounds. If tiles are few, several blocks share the pixels of one (sddmm_shares.cuh)
// Only entries of the pattern are multiplied. A dy that is Inf makes NaN of padding's zeros: what is NaN is made anew
// (conv_exact.cuh).
//
// The limit is shared memory: 4 clocks for an entry and 128 pixels of float, as in conv.cu, and 1/4 for its place; dy's row
// stays in registers, at most 4 clocks where an entry begins one. A tile of 1024 entries takes 4350 clocks a step; copying 16
// channels and 64 rows about 1000 beside them.
#include "cuda/csr/conv_exact.cuh"
#include "cuda/csr/sddmm_shares.cuh"

namespace spx::cuda::csr {
namespace {

template <class T>
constexpr int kConvSlots = sizeof(T) == 8 ? 32 : 64;  // registers decide
template <class T>
constexpr int kRoundEntries = kConvSlots<T> * kMultiplyWarps;
constexpr int kMostTileRows = 64;
constexpr int kPlacesAtOnce = 4;

// Elements of x's halo in a step: these fit 163 KB of shared memory twice, with dy; where there are 227 KB, twice as many do.
template <class T>
constexpr int kHaloElements = sizeof(T) == 8 ? 4096 : 8192;
template <class T>
constexpr int64_t steps_bytes(int halo_elements) {
  return 2 * (halo_elements + kMostTileRows * kPixels<T>)*int64_t{sizeof(T)};
}

// A place: the row of dy in the tile, whether it is another than the entry's before, and where x lies, in bytes.
constexpr int kRowShift = 21;
constexpr uint32_t kNewRow = 1u << 20;
static_assert(2 * kHaloElements<float> * sizeof(float) <= kNewRow && kMostTileRows <= 1 << (32 - kRowShift));

// Block b makes tile b % tiles, from share b / tiles of the pixels.
struct ConvGrid {
  int halo_elements;
  int rows, channels;  // of a tile
  int row_tiles, channel_tiles, tiles;
  TokenShares shares;  // of pixels

  int64_t blocks() const { return tiles * shares.count; }
};

// What a thread copies of every step: a row's pixel of dy, and a pixel of the halo, each for several rows or channels.
template <class T>
struct ConvSource {
  const T *x, *dy;
  const ConvTiles& g;
  int halo_elements, group, channel0, channels, row0, rows;  // of the tile; row0 counts over all groups

  __device__ void copy(Shared<T> step, PixelTile tile) const {
    const Halo halo(g, tile);
    const int64_t image = tile.pixel(g, 0).image;
    const T* from_x = x + image * g.source_image() + int64_t{group * g.source_channels + channel0} * g.source_plane();
    const int at_once = kMultiplyThreads / halo.count > 0 ? kMultiplyThreads / halo.count : 1;  // channels
    for (int i = threadIdx.x; i < halo.count * at_once; i += kMultiplyThreads) {
      const HaloPixel pixel = halo.pixel(g, i % halo.count);
      for (int channel = i / halo.count; channel < channels; channel += at_once)
        cp_async(step + channel * g.channel_size + pixel.place,
                 from_x + (pixel.source >= 0 ? channel * g.source_plane() + pixel.source : 0), pixel.source >= 0);
    }
    constexpr int kRowsAtOnce = kMultiplyThreads / kPixels<T>;
    const int i = threadIdx.x % kPixels<T>;
    const ConvPixel pixel = tile.pixel(g, i);
    const bool inside = pixel.row < g.y.target && pixel.col < g.x.target;
    const T* from_dy = dy + ((inside ? int64_t{pixel.image} : 0) * g.rows() + row0) * g.target_plane() +
                       (inside ? int64_t{pixel.row} * g.x.target + pixel.col : 0);
    for (int row = threadIdx.x / kPixels<T>; row < rows; row += kRowsAtOnce)
      cp_async(step + halo_elements + row * kPixels<T> + i, from_dy + row * g.target_plane(), inside);
  }
};

// places[i] belongs to entry first + i of the tile, for the entries of a round, of which a warp has `each`.
template <class T, class Index>
__device__ void find_places(Shared<uint32_t> places, const TileEntries<kMostTileRows>& entries, int first, int count, int each,
                            const CsrPattern<Index>& pattern, const ConvTiles& g, int channel0) {
  const int taps = g.y.taps * g.x.taps;
  for (int i = threadIdx.x; i < kRoundEntries<T>; i += kMultiplyThreads) {
    uint32_t place = 0;
    const int slot = i % kConvSlots<T>, e = first + i / kConvSlots<T> * each + slot;
    if (slot < each && e < count) {
      int row;
      const int column = static_cast<int>(pattern.col_idx[entries.at(e, &row)]), channel = column / taps, tap = column % taps;
      const int at = (channel - channel0) * g.channel_size + place_of_tap(g, tap / g.x.taps, tap % g.x.taps, 0, 0);
      const bool new_row = slot == 0 || entries.before[row] == e;
      place = static_cast<uint32_t>(row) << kRowShift | (new_row ? kNewRow : 0u) |
              static_cast<uint32_t>(at) * static_cast<uint32_t>(sizeof(T));
    }
    places[i] = place;
  }
}

// sum[s] += the products of a step, for the first `each` slots. kWhole: every pixel of the block is one of the target.
template <class T, bool kWhole>
__device__ __forceinline__ void multiply(Acc<T> (&sum)[kConvSlots<T>], int each, Shared<uint32_t> places, Shared<T> step,
                                         Shared<T> rows, const int (&at)[kPerLane<T>], const bool (&inside)[kPerLane<T>]) {
  const int lane = threadIdx.x % kWarp;
  Acc<T> dy[kPerLane<T>] = {};
#pragma unroll
  for (int s0 = 0; s0 < kConvSlots<T>; s0 += kPlacesAtOnce) {
    if (s0 >= each) break;
    uint32_t place[kPlacesAtOnce];
    load_chunk(place, places + s0);
#pragma unroll
    for (int s = 0; s < kPlacesAtOnce; ++s) {
      if (place[s] & kNewRow) {
        const Shared<T> row = rows + static_cast<int>(place[s] >> kRowShift) * kPixels<T>;
#pragma unroll
        for (int t = 0; t < kPerLane<T>; ++t) dy[t] = to_acc(T(row[t * kWarp + lane]));
      }
#pragma unroll
      for (int t = 0; t < kPerLane<T>; ++t) {
        const T x = element_at<T>(step + at[t], static_cast<int>(place[s] & (kNewRow - 1)));
        sum[s0 + s] += dy[t] * (kWhole || inside[t] ? to_acc(x) : Acc<T>{0});
      }
    }
  }
}

// Adds 2 * kHalf sums over pairs of lanes kHalf apart, and so on: lane i gets the total of sum i.
template <int kHalf, class A>
__device__ __forceinline__ void add_lanes(A (&v)[kWarp]) {
  const bool upper = threadIdx.x & kHalf;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const A kept = upper ? v[i + kHalf] : v[i], given = upper ? v[i] : v[i + kHalf];
    v[i] = kept + shfl_xor(given, kHalf);
  }
  if constexpr (kHalf > 1) add_lanes<kHalf / 2>(v);
}

// Those of a warp's entries of the tile, [first, last), whose sums over pixels [begin, end) are NaN.
template <class Sum, class T, class Index>
__device__ void remake_entries(Sum* dw, const TileEntries<kMostTileRows>& entries, int first, int last,
                               const CsrPattern<Index>& pattern, const ConvSource<T>& from, int begin, int end) {
  const ConvTiles& g = from.g;
  const int taps = g.y.taps * g.x.taps;
  for (int e = first + static_cast<int>(threadIdx.x) % kWarp; e < last; e += kWarp) {
    int row;
    const int32_t p = entries.at(e, &row);
    if (!is_nan(to_acc(dw[p]))) continue;
    const int column = static_cast<int>(pattern.col_idx[p]), channel = from.group * g.source_channels + column / taps;
    const T *dy = from.dy + (from.row0 + row) * g.target_plane(), *x = from.x + channel * g.source_plane();
    dw[p] = from_acc<Sum>(sum_of_pixels(g, dy, x, column % taps, begin, end));
  }
}

// Sum is T where a tile has one block. Else it is Acc<T>, and dw is [shares, capacity].
template <class T, class Sum, class Index>
__global__ void __launch_bounds__(kMultiplyThreads, 1)
    csr_conv2d_grad_weight_kernel(Sum* dw, CsrPattern<Index> pattern, const T* dy, const T* x,
                                  const __grid_constant__ ConvTiles g, const __grid_constant__ ConvGrid grid) {
  SPX_DYNAMIC_SHARED(T, steps);  // two
  SPX_SHARED(uint32_t, places, kRoundEntries<T>);
  SPX_SHARED(int32_t, first, kMostTileRows);
  SPX_SHARED(int32_t, before, kMostTileRows);
  SPX_SHARED(int32_t, scratch, kMultiplyWarps);
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int tile = static_cast<int>(blockIdx.x % grid.tiles), group = tile / (grid.row_tiles * grid.channel_tiles);
  const int64_t share = blockIdx.x / grid.tiles;
  const int in_group = tile / grid.channel_tiles % grid.row_tiles * grid.rows;
  const int channel0 = tile % grid.channel_tiles * grid.channels, taps = g.y.taps * g.x.taps;
  const int rows_left = g.target_channels - in_group, channels_left = g.source_channels - channel0;
  const ConvSource<T> from = {x,
                              dy,
                              g,
                              grid.halo_elements,
                              group,
                              channel0,
                              channels_left < grid.channels ? channels_left : grid.channels,
                              group * g.target_channels + in_group,
                              rows_left < grid.rows ? rows_left : grid.rows};
  if constexpr (std::is_same_v<T, Sum>) clear_unused(dw, pattern);
  const TileEntries<kMostTileRows> entries{first, before};
  const int32_t count = entries.find(pattern, from.row0, from.rows, int64_t{channel0} * taps, from.channels * taps, scratch);
  const int begin = static_cast<int>(grid.shares.begin(share)), end = static_cast<int>(grid.shares.end(share));

  for (int32_t done = 0; done < count; done += kRoundEntries<T>) {
    const int round = count - done < kRoundEntries<T> ? count - done : kRoundEntries<T>;
    const int each = (round + kMultiplyWarps - 1) / kMultiplyWarps;
    __syncthreads();  // everyone has read the places and the steps before they are written again
    find_places<T>(places, entries, done, count, each, pattern, g, channel0);
    Acc<T> sum[kConvSlots<T>] = {};
    Shared<T> step = steps, other = steps + grid.halo_elements + kMostTileRows * kPixels<T>;
    from.copy(step, {begin, 0, 0});
#pragma unroll 1
    for (int pixel0 = begin; pixel0 < end; pixel0 += g.pixels) {
      const PixelTile pixels = {pixel0, 0, 0};
      cp_async_wait();
      __syncthreads();  // this step is there, and all have read the one before, which the next replaces
      if (pixel0 + g.pixels < end) from.copy(other, {pixel0 + g.pixels, 0, 0});
      int at[kPerLane<T>];
      bool inside[kPerLane<T>], whole = true;
#pragma unroll
      for (int t = 0; t < kPerLane<T>; ++t) {
        const ConvPixel pixel = pixels.pixel(g, t * kWarp + lane);
        at[t] = pixel.place;
        inside[t] = pixel.row < g.y.target && pixel.col < g.x.target;
        whole = whole && inside[t];
      }
      if (ballot(whole) == 0xFFFFFFFFu)
        multiply<T, true>(sum, each, places + warp * kConvSlots<T>, step, step + grid.halo_elements, at, inside);
      else
        multiply<T, false>(sum, each, places + warp * kConvSlots<T>, step, step + grid.halo_elements, at, inside);
      const Shared<T> read = step;
      step = other;
      other = read;
    }
    Sum* const to = dw + share * pattern.capacity;
    bool any_nan = false;
#pragma unroll
    for (int slot = 0; slot < kConvSlots<T>; slot += kWarp) {
      Acc<T> totals[kWarp];
#pragma unroll
      for (int i = 0; i < kWarp; ++i) totals[i] = sum[slot + i];
      add_lanes<kWarp / 2>(totals);
      const int s = slot + lane, e = warp * each + s;
      int row;
      if (s < each && e < round) to[entries.at(done + e, &row)] = from_acc<Sum>(totals[0]);
      any_nan = any_nan || is_nan(totals[0]);
    }
    if (any_nan) {
      const int warp_end = warp * each + each < round ? warp * each + each : round;
      remake_entries(to, entries, done + warp * each, done + warp_end, pattern, from, begin, end);
    }
  }
}

constexpr int64_t kEnoughBlocks = 512;  // one fills a multiprocessor
constexpr int kLeastColumns = 96;       // 64 rows have 600 entries in them at 90 % zeros

// How much of x's halo fits the device's shared memory twice; 0: not even the least.
template <class T>
int halo_that_fits() {
  constexpr int kStatic = kRoundEntries<T> * sizeof(uint32_t) + (2 * kMostTileRows + kMultiplyWarps) * sizeof(int32_t);
  const int64_t available = shared_bytes_per_block() - kStatic - kDynamicAlignment;
  int elements = 2 * kHaloElements<T>;
  while (elements >= kHaloElements<T> && steps_bytes<T>(elements) > available) elements /= 2;
  return elements >= kHaloElements<T> ? elements : 0;
}

// Tiles with a round of entries on average, less what random patterns vary by; fewer if multiprocessors would be idle.
template <class T>
ConvGrid grid_of(const ConvTiles& g, int halo_elements, int64_t capacity) {
  const int64_t taps = int64_t{g.y.taps} * g.x.taps, places = int64_t{g.rows()} * g.source_channels * taps;
  const int64_t wanted = places * (kRoundEntries<T> * 7 / 8) / (capacity + 1);  // places of a tile
  ConvGrid grid = {halo_elements, 0, 0, 0, 0, 0, TokenShares(1, 0, 1)};
  grid.rows = g.target_channels < kMostTileRows ? g.target_channels : kMostTileRows;
  const int64_t channels = wanted / (grid.rows * taps);
  grid.channels = static_cast<int>(channels < 1 ? 1 : channels < g.part_channels ? channels : g.part_channels);
  grid.row_tiles = static_cast<int>(ceil_div(g.target_channels, grid.rows));
  grid.channel_tiles = static_cast<int>(ceil_div(g.source_channels, grid.channels));
  grid.tiles = grid.row_tiles * grid.channel_tiles * g.groups;
  grid.shares = TokenShares(ceil_div(kEnoughBlocks, grid.tiles), int64_t{g.pixel_tiles} * g.pixels, g.pixels);
  return grid;
}

}  // namespace

template <class T, class Index>
Status csr_conv2d_grad_weight(DenseView<T> dw, CsrPattern<Index> pattern, const T* dy, const T* x, Conv2d shape,
                              void* workspace, Stream stream) {
  const int halo_elements = halo_that_fits<T>();
  const ConvTiles g(shape, false, kPixels<T>, halo_elements, kLeastColumns);
  const ConvGrid grid = grid_of<T>(g, halo_elements, pattern.capacity);
  const Block block(kMultiplyThreads, static_cast<int>(steps_bytes<T>(halo_elements)));
  if (grid.shares.count == 1)
    return launch("csr_conv2d_grad_weight", csr_conv2d_grad_weight_kernel<T, T, Index>, grid.blocks(), block, stream, dw.data,
                  pattern, dy, x, g, grid);
  auto* sums = static_cast<Acc<T>*>(workspace);
  SPX_TRY(launch("csr_conv2d_grad_weight", csr_conv2d_grad_weight_kernel<T, Acc<T>, Index>, grid.blocks(), block, stream, sums,
                 pattern, dy, x, g, grid));
  return add_shares(dw.data, sums, pattern, grid.shares, stream);
}

template <class T, class Index>
int64_t csr_conv2d_grad_weight_workspace(DenseView<T>, CsrPattern<Index> pattern, Conv2d shape, Stream) {
  const int halo_elements = halo_that_fits<T>();
  const ConvTiles g(shape, false, kPixels<T>, halo_elements, kLeastColumns);
  return g.fits() ? grid_of<T>(g, halo_elements, pattern.capacity).shares.bytes(pattern.capacity, sizeof(Acc<T>)) : -1;
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_grad_weight)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_conv2d_grad_weight, f16)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_conv2d_grad_weight_workspace)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_conv2d_grad_weight_workspace, f16)

}  // namespace spx::cuda::csr
