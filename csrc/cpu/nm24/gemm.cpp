// 2:4 product, dense tokens:  y[n, r] = bias[r] + sum_s w[r, s] * x[n, col_s], then relu, if `relu`
//
//   x [tokens, cols] and y [tokens, rows] token-major; w [rows, cols] as values and ids (common/nm24/groups.h)
//   work: a block of tokens is packed feature-major; a panel of rows goes through the column tiles; a row adds the feature rows
//   of its stored columns, kVecs registers of tokens at a time, to its sums. As csr_spmm, but a code of half a byte places two
//   entries, and all rows have equally many
//   a thread owns whole (token block, row range) pieces and each y is summed by one thread in column order, in Acc<T>: the same
//   bits for any thread count
// ops/nm24/kernels.py has checked shapes, dtypes and codes.
#include "common/nm24/groups.h"

#include "common/views.h"
#include "cpu/simd/isa.h"
#include "cpu/simd/tokens.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::nm24 {
namespace {

constexpr int kMaxVecs = kVecBytes == 64 ? 4 : 8;  // as in csr_spmm
constexpr int64_t kTileBytes = 24 << 10;           // of features, which stay in L1 while a panel's rows pass
constexpr int64_t kPanelBytes = 256 << 10;         // of sums, which stay in L2 while tiles pass
constexpr int64_t kStackBytes = 8 << 10;           // as in csr_spmm
constexpr int64_t kTileStep = 8;                   // tiles begin at whole bytes of ids

// Workspace, per thread: the packed x block and a panel's sums.
struct Layout {
  int64_t features, panel_rows, x_block, thread, total;
};
Layout layout(int64_t rows, int64_t cols, int64_t tokens, int64_t acc_bytes, int threads) {
  const int64_t block_bytes = vecs_for(tokens, acc_bytes, kMaxVecs) * kVecBytes;
  const int64_t sum_bytes = 2 * block_bytes;  // of a row, where elements are pairs; half of it otherwise
  Layout l;
  l.features = ceil_div(cols, 4) * 4;  // whole groups: features behind the last column are 0, as are their values
  l.panel_rows = max(1, min(rows, kPanelBytes / sum_bytes));
  l.x_block = align64(l.features * block_bytes);
  l.thread = l.x_block + align64(l.panel_rows * sum_bytes);
  l.total = l.thread * threads;
  return l;
}

// sum[..] += both values of a group * their feature rows; x is the group's first.
template <int kVecs, class E, class T>
inline void add_group(Vec<Acc<E>>* sum, const T* values, uint32_t code, const E* x) {
  constexpr int kStride = kVecs * kLanes<E>;
  const auto* first = reinterpret_cast<const Vec<E>*>(x + (code & 3) * kStride);
  const auto* second = reinterpret_cast<const Vec<E>*>(x + (code >> 2 & 3) * kStride);
  if constexpr (std::is_same_v<E, Pair>) {
    uint32_t both;
    memcpy(&both, values, sizeof both);
    const Vec<Pair> weights = Vec<Pair>{} + both;
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) {
      sum[2 * t] = multiply_add<Pair>(sum[2 * t], interleave<false>(first[t], second[t]), weights);
      sum[2 * t + 1] = multiply_add<Pair>(sum[2 * t + 1], interleave<true>(first[t], second[t]), weights);
    }
  } else {
    const E a = to_acc(values[0]), b = to_acc(values[1]);
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum[t] += a * first[t];
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum[t] += b * second[t];
  }
}

// sums[r - r0] = (kFirst: bias[r], otherwise itself) + the groups [g0, g1) of row r, then relu, if `relu`.
template <int kVecs, bool kFirst, class E, class T>
void multiply_tile(Acc<E>* sums, const Nm24View<const T>& w, int64_t g0, int64_t g1, const E* x_block, const T* bias, bool relu,
                   int64_t r0, int64_t r1) {
  using A = Acc<E>;
  constexpr int kSums = kVecs * kTokensPer<E>, kGroup = 4 * kVecs * kLanes<E>;
  for (int64_t r = r0; r < r1; ++r) {
    const T* values = w.values_of_row(r);
    const uint8_t* ids = w.ids_of_row(r);
    Vec<A>* out = reinterpret_cast<Vec<A>*>(sums + (r - r0) * (kSums * kLanes<A>));
    Vec<A> sum[kSums];
#pragma GCC unroll 8
    for (int t = 0; t < kSums; ++t) sum[t] = kFirst ? Vec<A>{} + (bias ? to_acc(bias[r]) : A(0)) : out[t];
    int64_t g = g0;
    for (; g + 2 <= g1; g += 2) {
      const uint32_t codes = ids[g / 2];
      add_group<kVecs>(sum, values + 2 * g, codes, x_block + g * kGroup);
      add_group<kVecs>(sum, values + 2 * g + 2, codes >> 4, x_block + (g + 1) * kGroup);
    }
    if (g < g1) add_group<kVecs>(sum, values + 2 * g, ids[g / 2], x_block + g * kGroup);
#pragma GCC unroll 8
    for (int t = 0; t < kSums; ++t) out[t] = relu && sum[t] < 0 ? Vec<A>{} : sum[t];
  }
}

template <int kVecs, class T>
void gemm_blocks(DenseView<T> y, const Nm24View<const T>& w, DenseView<const T> x, const T* bias, bool relu, char* memory,
                 const Layout& l, int threads) {
  using A = Acc<T>;
  using E = Element<T>;
  constexpr int kElements = kVecs * kLanes<E>, kBlock = kElements * kTokensPer<E>;
  const int64_t tokens = x.rows, blocks = ceil_div(tokens, kBlock), groups = w.groups();
  const int64_t tile = max(1, kTileBytes / (kVecs * kVecBytes) / kTileStep) * kTileStep / 4;  // groups of one
  // Threads form a grid: token groups first, and rows are cut too where there are fewer token blocks than threads.
  const int64_t token_groups = min(threads, blocks), row_groups = threads / token_groups;

  in_parallel(threads, [&](int64_t id, int64_t team) {
    E* x_block = reinterpret_cast<E*>(memory + id * l.thread);
    A* sums = reinterpret_cast<A*>(memory + id * l.thread + l.x_block);
    for (int64_t piece = id; piece < token_groups * row_groups; piece += team) {
      const int64_t group = piece % token_groups, part = piece / token_groups;
      const int64_t begin = w.rows * part / row_groups, end = w.rows * (part + 1) / row_groups;
      for (int64_t b = blocks * group / token_groups; b < blocks * (group + 1) / token_groups; ++b) {
        const int64_t first = b * kBlock, count = min(kBlock, tokens - first);
        pack_tokens<kElements>(x_block, x.row(first), x.cols, count, 0, x.cols);
        fill_zero(x_block + x.cols * kElements, (l.features - x.cols) * kElements);
        for (int64_t r0 = begin; r0 < end; r0 += l.panel_rows) {
          const int64_t r1 = min(end, r0 + l.panel_rows);
          multiply_tile<kVecs, true>(sums, w, 0, min(groups, tile), x_block, bias, relu && groups <= tile, r0, r1);
          for (int64_t g = tile; g < groups; g += tile)
            multiply_tile<kVecs, false>(sums, w, g, min(groups, g + tile), x_block, bias, relu && groups <= g + tile, r0, r1);
          unpack_tokens<kBlock>(y.row(first), y.cols, count, sums, r0, r1);
        }
      }
    }
  });
}

}  // namespace

template <class T>
Status nm24_gemm(DenseView<T> y, Nm24View<const T> w, DenseView<const T> x, const T* bias, bool relu, void* workspace,
                 Threads threads) {
  const int64_t tokens = x.rows;
  if (tokens == 0 || w.rows == 0) return kOk;
  threads = useful_threads(threads, (w.rows * (w.cols / 2 + 1) + w.cols) * tokens);
  const Layout l = layout(w.rows, w.cols, tokens, sizeof(Acc<T>), threads);
  alignas(64) char stack[kStackBytes];
  char* memory = workspace ? static_cast<char*>(workspace) : stack;
  using E = Element<T>;
  switch (vecs_for(tokens, sizeof(E) / kTokensPer<E>, kMaxVecs)) {
    case 1: gemm_blocks<1>(y, w, x, bias, relu, memory, l, threads); break;
    case 2: gemm_blocks<2>(y, w, x, bias, relu, memory, l, threads); break;
    case 4: gemm_blocks<4>(y, w, x, bias, relu, memory, l, threads); break;
    default: gemm_blocks<kMaxVecs>(y, w, x, bias, relu, memory, l, threads);
  }
  return kOk;
}

template <class T>
int64_t nm24_gemm_workspace(Nm24View<const T> w, DenseView<const T> x, Threads threads) {
  const int64_t total = layout(w.rows, w.cols, x.rows, sizeof(Acc<T>), threads).total;
  return total <= kStackBytes ? 0 : total;
}

SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, nm24_gemm)
SPX_FOR_EACH_PRODUCT(SPX_INSTANTIATE, nm24_gemm_workspace)

}  // namespace spx::cpu::SPX_ISA::nm24
