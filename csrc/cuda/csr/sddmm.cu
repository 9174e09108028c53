// Dense x dense at the pattern's entries:  dw[p] = sum_n dy[n, row_p] * x[n, col_p],  0 behind nnz
//
//   dy   [tokens, rows]    x  [tokens, cols]    dw  [capacity], every element written once
//   sums in Acc<T>, in a fixed order of tokens, no atomics: the same bits on every run
//   work: a block owns the entries of a tile of the matrix, a quarter of a warp up to kSlots of them, a lane a sum of each for
//         its own tokens. dy and x pass through shared memory, 8 lanes' tokens at a time: while a step is multiplied, the next
//         is loaded, transposed and stored. A tile with more entries than a block has slots takes several rounds over the
//         tokens. If tiles are few, several blocks share the tokens of one (sddmm_shares.cuh)
//   bf16, f16  on tensor cores (sddmm_mma.cuh, sddmm_wgmma.cuh), unless the pattern is too sparse for that: see
//         kPlacesPerEntry
// Only entries of the pattern are multiplied: Inf and NaN reach exactly the entries of their row or column.
//
// The limit is shared memory, at 128 bytes a clock: every multiplication reads its x from there, while dy's row stays in
// registers. In clocks of a multiprocessor, for a step of 32 tokens of float:
//   an entry     1: 8 lanes read 16 bytes. 4 entries of a warp are 12 instructions, 3 clocks to issue of the 4
//   a row        1 to 4, each time a quarter begins one: if the other quarters cost nothing or as much. And 1 to be stored
//   a column     1 to be stored
//   a step       about 200: each warp reads its first rows, and waits for the others
//   from L2      5.4 for a row or column, 128 bytes of 5.5 TB/s for 132 at 1.76 GHz; all of it beside the others
// A quarter of a warp to an entry, and not a whole one, makes rows and columns rare: its sums take 8 registers in place of 32,
// so that a tile has four times the entries. So do 192 KB for two steps: with 80 KB, 98 % zeros would take twice as long.
// For 4096 x 4096 floats, in entries per clock where a row takes 2: 0.71 at 90 % zeros (tiles of 96 x 224, 2150 entries, 3014
// clocks), 0.64 at 95 %, 0.58 at 98 % (256 x 416), where L2 needs as long. With edges, last blocks and about 10000 clocks for
// the beginning and end of a block: 3.1, 1.7 and 0.7 ms for 8192 tokens at 1.76 GHz.
// 16-bit types are converted to float before they are stored in shared memory. Stored as 16 bits, they would need half its
// bandwidth, but converting them for every multiplication takes twice the instructions.
#include "cuda/csr/sddmm_mma.cuh"
#include "cuda/csr/sddmm_slots.cuh"
#include "cuda/csr/sddmm_wgmma.cuh"

namespace spx::cuda::csr {
namespace {

constexpr int kThreads = 384;
constexpr int kQuarters = kThreads / kParts;
template <class T>
constexpr int kRoundEntries = kQuarters * kSlots<T>;

constexpr int kMostColumns = 768;  // of a step: two of them are 192 KB, and a thread carries up to 4 patches of the next
constexpr int kMostPatches = kMostColumns / kStripCols * kStripPatches / kThreads;
constexpr int kMostRows = 256;    // a place has bits for no more
constexpr int kStepClocks = 200;  // see above
static_assert(kMostRows <= kThreads && kMostPatches * kThreads == kMostColumns / kStripCols * kStripPatches);
static_assert(kMostRows * kParts <= 1 << (32 - kRowShift) && kMostColumns * kParts <= kNewRow);

// Block b makes tile b % tiles, from share b / tiles of the tokens.
struct CoreGrid {
  int rows, cols;  // of a tile: whole strips
  int64_t col_tiles, tiles;
  TokenShares shares;

  int64_t blocks() const { return tiles * shares.count; }
  int64_t steps_bytes() const { return 2 * int64_t{rows + cols} * kColumnBytes; }
};

// places[i] belongs to entry first + i of the tile, for the entries of a round; a quarter has `each` of them. Places behind the
// last entry may be read, too.
template <class Index>
__device__ void find_places(Shared<uint32_t> places, int size, const TileEntries<kMostRows>& entries, int first, int count,
                            int each, const CsrPattern<Index>& pattern, int64_t col0, int rows) {
  for (int i = threadIdx.x; i < size; i += kThreads) {
    uint32_t place = 0;
    if (first + i < count) {
      int row;
      const int32_t p = entries.at(first + i, &row);
      const bool new_row = i % each == 0 || entries.before[row] == first + i;
      place = place_of(row, rows + static_cast<int>(int64_t{pattern.col_idx[p]} - col0), new_row);
    }
    places[i] = place;
  }
}

// slots += dy x, for the tokens [begin, end) and `each` slots of a quarter. While a group of slots is multiplied, a patch of
// the next step is on its way.
template <class T>
__device__ __forceinline__ void multiply(Slots<T>& slots, int each, Shared<Part<T>> steps, const Operands<T>& from,
                                         Shared<Strip> strips, int columns, int64_t begin, int64_t end) {
  constexpr int kGroups = kSlots<T> / kGroup;
  const int patches = columns / kStripCols * kStripPatches;
  for (int patch = threadIdx.x; patch < patches; patch += kThreads) {
    StepPatch<T> first;
    first.load(from, strips, begin, patch);
    first.store(steps, patch);
  }
  Shared<Part<T>> step = steps, other = steps + columns * kParts;
  for (int64_t token0 = begin; token0 < end; token0 += kStepTokens<T>) {
    __syncthreads();  // all have stored this step, and have read the one before, which the next replaces
    Acc<T> dy[kPartTokens<T>] = {};
#pragma unroll
    for (int g = 0; g < kGroups || g < kMostPatches; ++g) {
      const int patch = threadIdx.x + g * kThreads;
      const bool carries = g < kMostPatches && patch < patches && token0 + kStepTokens<T> < end;
      StepPatch<T> next;
      if (carries) next.load(from, strips, token0 + kStepTokens<T>, patch);
      if (g < kGroups && g * kGroup < each) slots.multiply(dy, step, g * kGroup);
      if (carries) next.store(other, patch);
    }
    const Shared<Part<T>> read = step;
    step = other;
    other = read;
  }
}

// Sum is T where a tile has one block. Else it is Acc<T>, and dw is [shares, capacity].
template <class T, class Sum, class Index>
__global__ void __launch_bounds__(kThreads, 1)
    csr_sddmm_kernel(Sum* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, CoreGrid grid) {
  SPX_DYNAMIC_SHARED(Part<T>, steps);  // two
  SPX_SHARED(Strip, strips, kMostColumns / kStripCols);
  SPX_SHARED(uint32_t, places, kRoundEntries<T>);
  SPX_SHARED(int32_t, first, kMostRows);
  SPX_SHARED(int32_t, before, kMostRows);
  SPX_SHARED(int32_t, scratch, kThreads / kWarp);
  const int64_t tile = blockIdx.x % grid.tiles, share = blockIdx.x / grid.tiles;
  const int64_t row0 = tile / grid.col_tiles * grid.rows, col0 = tile % grid.col_tiles * grid.cols;
  if constexpr (std::is_same_v<T, Sum>) clear_unused(dw, pattern);
  const TileEntries<kMostRows> entries{first, before};
  const int32_t count = entries.find(pattern, row0, grid.rows, col0, grid.cols, scratch);

  const int thread = threadIdx.x, columns = grid.rows + grid.cols, column = thread * kStripCols;
  if (column < columns)
    strips[thread] = column < grid.rows ? Strip{row0 + column, true} : Strip{col0 + column - grid.rows, false};

  for (int32_t from = 0; from < count; from += kRoundEntries<T>) {
    const int round = count - from < kRoundEntries<T> ? count - from : kRoundEntries<T>;
    const int each = (round + kQuarters - 1) / kQuarters, begin = thread / kParts * each;
    __syncthreads();  // everyone has read the places and the steps before they are written again
    find_places(places, kRoundEntries<T>, entries, from, count, each, pattern, col0, grid.rows);
    __syncthreads();
    Slots<T> slots;
    slots.start(places, begin);
    multiply<T>(slots, each, steps, {dy, x}, strips, columns, grid.shares.begin(share), grid.shares.end(share));
#pragma unroll
    for (int group = 0; group < kSlots<T>; group += kGroup) {
      const Acc<T> sum = slots.total(group);
      const int s = group + thread % kParts;
      int row;
      if (s < each && begin + s < round) dw[share * pattern.capacity + entries.at(from + begin + s, &row)] = from_acc<Sum>(sum);
    }
  }
}

// One block fills a multiprocessor. With four for each of 128, the last, incomplete wave does not cost much.
constexpr int64_t kEnoughBlocks = 512;

// How many entries a tile should have on average: a round of them, less three standard deviations of a random pattern. Fewer if
// otherwise multiprocessors would be idle, although blocks share the tokens.
template <class T>
int64_t tile_entries(int64_t capacity, int64_t tokens) {
  constexpr int64_t kMost = kRoundEntries<T> * 15 / 16, kLeast = 256, kEnoughTiles = 128;
  const int64_t shares = tokens < kEnoughTokens ? 1 : tokens / kEnoughTokens, entries = capacity / kEnoughTiles * shares;
  return entries < kLeast ? kLeast : (entries < kMost ? entries : kMost);
}

// By the entries, not by the tiles: these depend on the device, and the workspace must not.
template <class T>
TokenShares core_shares(int64_t capacity, int64_t tokens) {
  const int64_t tiles = ceil_div(capacity + 1, tile_entries<T>(capacity, tokens));
  return TokenShares(ceil_div(kEnoughBlocks, tiles), tokens, kStepTokens<T>);
}

// The columns of which two steps fit shared memory; the least fit every device.
template <class T>
int64_t columns_that_fit() {
  constexpr int64_t kStatic = kDynamicAlignment + (kMostColumns / kStripCols) * sizeof(Strip) +
                              kRoundEntries<T> * sizeof(uint32_t) + 2 * kMostRows * sizeof(int32_t) +
                              kThreads / kWarp * sizeof(int32_t);
  const int64_t columns = (shared_bytes_per_block() - kStatic) / (2 * kColumnBytes) / kStripCols * kStripCols;
  return columns < 3 * kStripCols ? 3 * kStripCols : (columns < kMostColumns ? columns : kMostColumns);
}

// The tiles that cover the matrix in the fewest clocks (see above). On average they have no more entries than tile_entries, and
// their columns fit a step.
template <class T>
CoreGrid core_grid(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t fit) {
  const int64_t entries = tile_entries<T>(capacity, tokens);
  const double places = static_cast<double>(rows) * cols / (capacity + 1) * entries;
  const int64_t most_cols = tiles_along(cols, kStripCols) * kStripCols;
  CoreGrid grid = {0, 0, 0, 0, core_shares<T>(capacity, tokens)};
  double least = 0;
  const auto worth_it = [&](int64_t r) {
    return r < rows + kStripCols && r <= kMostRows && r < fit && r * kStripCols <= places;
  };
  for (int64_t r = kStripCols; r == kStripCols || worth_it(r); r += kStripCols) {
    int64_t c = fit - r < most_cols ? fit - r : most_cols;
    if (c * r > places) c = static_cast<int64_t>(places / r) / kStripCols * kStripCols;
    if (c == 0) c = kStripCols;
    const int64_t col_tiles = tiles_along(cols, c), tiles = tiles_along(rows, r) * col_tiles;
    const double clocks = static_cast<double>(tiles) * (entries + 3 * r + c + kStepClocks);
    if (grid.tiles > 0 && clocks >= least) continue;
    grid = {static_cast<int>(r), static_cast<int>(c), col_tiles, tiles, grid.shares};
    least = clocks;
  }
  return grid;
}

template <class T, class Index>
Status csr_sddmm_cores(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace,
                       Stream stream) {
  const int64_t fit = columns_that_fit<T>();
  const CoreGrid grid = core_grid<T>(pattern.rows, pattern.cols, pattern.capacity, x.rows, fit);
  const Block block = Block(kThreads, static_cast<int>(grid.steps_bytes())).allow(2 * fit * kColumnBytes);
  if (grid.shares.count == 1)
    return launch("csr_sddmm", csr_sddmm_kernel<T, T, Index>, grid.blocks(), block, stream, dw, pattern, dy, x, grid);
  auto* sums = static_cast<Acc<T>*>(workspace);
  SPX_TRY(launch("csr_sddmm", csr_sddmm_kernel<T, Acc<T>, Index>, grid.blocks(), block, stream, sums, pattern, dy, x, grid));
  return add_shares(dw, sums, pattern, grid.shares, stream);
}

// With an entry in so many places, tensor cores take over from CUDA cores for 16-bit types. By the clocks above these need
// 0.88 ms at 97.5 % zeros, 0.70 ms at 98 % and 0.5 ms at 99 %; tensor cores at any density 0.78 ms by mma (sddmm_mma.cuh) and
// 0.37 ms by wgmma (sddmm_wgmma.cuh).
constexpr int64_t kPlacesPerEntry = 48;
constexpr int64_t kPlacesPerEntryWgmma = 256;

}  // namespace

template <class T, class Index>
Status csr_sddmm(T* dw, CsrPattern<Index> pattern, DenseView<const T> dy, DenseView<const T> x, void* workspace,
                 Stream stream) {
  if constexpr (sizeof(T) == sizeof(uint16_t)) {
    const int64_t places = pattern.rows * pattern.cols;
    if (pattern.capacity * kPlacesPerEntryWgmma >= places && fits_wgmma(pattern.rows, pattern.cols, x.rows) && uses_sm_90a())
      return csr_sddmm_wgmma(dw, pattern, dy, x, workspace, stream);
    if (pattern.capacity * kPlacesPerEntry >= places) return csr_sddmm_mma(dw, pattern, dy, x, workspace, stream);
  }
  return csr_sddmm_cores(dw, pattern, dy, x, workspace, stream);
}

// What the largest of the kernels for T needs.
template <class T, class Index>
int64_t csr_sddmm_workspace(CsrPattern<Index> pattern, DenseView<const T> x, Stream) {
  const auto bytes = [&](const TokenShares& shares) { return shares.bytes(pattern.capacity, sizeof(Acc<T>)); };
  int64_t most = bytes(core_shares<T>(pattern.capacity, x.rows));
  if constexpr (sizeof(T) == sizeof(uint16_t)) {
    const int64_t mma = bytes(MmaGrid(pattern.rows, pattern.cols, x.rows).shares);
    const int64_t wgmma = bytes(WgmmaGrid(pattern.rows, pattern.cols, x.rows).shares);
    most = mma > most ? mma : most;
    most = wgmma > most ? wgmma : most;
  }
  return most;
}

SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_sddmm)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_sddmm, f16)
SPX_FOR_EACH_TYPE_AND_INDEX(SPX_INSTANTIATE, csr_sddmm_workspace)
SPX_FOR_EACH_INDEX(SPX_INSTANTIATE, csr_sddmm_workspace, f16)

}  // namespace spx::cuda::csr
