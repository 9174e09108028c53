// The product of csr_sddmm, for activations of any form:  dw[p] = sum_n dy[n, row_p] * x[n, col_p]
//
//   work: per batch of token blocks x is packed by all threads together and dy by the owner of its rows; a panel of rows goes
//   through the column tiles; a row's dy stays in registers while its entries' feature rows pass, and kLanes sums are folded
//   a row belongs to one thread and token blocks are added in order, in Acc<T>: the same bits for any thread count
#pragma once
#include "common/views.h"
#include "cpu/simd/tiles.h"
#include "cpu/simd/tokens.h"
#include "cpu/simd/work.h"

namespace spx::cpu::SPX_ISA::csr {

constexpr int kSddmmVecs = 8;  // registers of tokens in a block: the final reduction is shared by so many products
constexpr int64_t kDyPanelBytes = 128 << 10;  // a panel's dy, which stays in L2 while the tiles pass; of a batch twice as much

// Token blocks that a panel takes through the tiles together: a tile's dw is brought into L2 once for all of them. Below one
// entry in six dw is small, and reading the tiles of x again for every panel would cost more than that saves.
constexpr int64_t kBatch = 4;
inline int64_t batch_of(int64_t rows, int64_t cols, int64_t capacity, int64_t blocks) {
  return capacity * 6 > rows * cols ? min(kBatch, blocks) : 1;
}

// Workspace: two batches of x blocks (one is packed while the other is still being read), a batch of dy blocks, the cuts, and
// sums where T is not Acc<T>.
struct SddmmLayout {
  int64_t x_block, dy_block, dy, cuts, sums, total;
};
inline SddmmLayout sddmm_layout(int64_t rows, int64_t cols, int64_t capacity, int64_t tokens, int64_t acc_bytes) {
  const int64_t block_bytes = vecs_for(tokens, acc_bytes, kSddmmVecs) * kVecBytes;
  SddmmLayout l;
  const int64_t batch = batch_of(rows, cols, capacity, ceil_div(tokens * acc_bytes, block_bytes));
  l.x_block = align64(cols * block_bytes);
  l.dy_block = align64(rows * block_bytes);
  l.dy = 2 * batch * l.x_block;
  l.cuts = l.dy + batch * l.dy_block;
  l.sums = l.cuts + align64((rows * max_tile_count(cols, block_bytes) + 1) * static_cast<int64_t>(sizeof(int32_t)));
  l.total = l.sums + align64(capacity * acc_bytes);
  return l;
}

// Lane i of the result is this token block's share of dw[i] for i < count, and 0 behind. Partial sums are folded in pairs as
// soon as both exist, so few of them occupy registers, and dy keeps its own.
template <int kVecs, int h, class E, class Index>
[[gnu::always_inline]] inline Vec<Acc<E>> sample(const Vec<E>* dy, const E* x_block, const Index* col_idx, int count) {
  Vec<Acc<E>> sum{};
  if (count <= 0) return sum;
  if constexpr (h < kLanes<E>) {
    sum = sample<kVecs, 2 * h>(dy, x_block, col_idx, count);
    return fold<Acc<E>, h>(sum, sample<kVecs, 2 * h>(dy, x_block, col_idx + h, count - h));
  } else {
    const Vec<E>* x = reinterpret_cast<const Vec<E>*>(x_block + static_cast<int64_t>(*col_idx) * (kVecs * kLanes<E>));
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) sum = multiply_add<E>(sum, dy[t], x[t]);
    return sum;
  }
}

// Adds (kFirst: writes) this token block's share of dw at the entries of rows [r0, r1) in tile k.
template <int kVecs, bool kFirst, class E, class Index>
void sample_tile(Acc<E>* dw, const Index* col_idx, Cuts cuts, int64_t k, const E* dy_block, const E* x_block, int64_t r0,
                 int64_t r1) {
  using A = Acc<E>;
  constexpr int n = kLanes<E>;
  for (int64_t r = r0; r < r1; ++r) {
    Vec<E> dy[kVecs];  // one by one: a memcpy would go through the stack in halves, and stall the loads
#pragma GCC unroll 8
    for (int t = 0; t < kVecs; ++t) dy[t] = reinterpret_cast<const Vec<E>*>(dy_block)[r * kVecs + t];
    int64_t p = cuts.at[r * cuts.tiles + k];
    const int64_t end = cuts.at[r * cuts.tiles + k + 1];
    for (; p + n <= end; p += n) {
      const Vec<A> total = sample<kVecs, 1>(dy, x_block, col_idx + p, n);
      store<A>(dw + p, kFirst ? total : total + load<A>(dw + p));
    }
    if (p < end) {
      const int count = static_cast<int>(end - p);
      const Vec<A> total = sample<kVecs, 1>(dy, x_block, col_idx + p, count);
      for (int i = 0; i < count; ++i) dw[p + i] = kFirst ? total[i] : total[i] + dw[p + i];
    }
  }
}

// X and Y: activations, token by token or plane by plane (simd/tokens.h, simd/pixels.h).
template <int kVecs, class Y, class X, class T, class Index>
void sddmm_blocks(T* dw, const CsrPattern<Index>& pattern, Y dy, X x, char* memory, const SddmmLayout& l, int threads) {
  using A = Acc<T>;
  using E = Element<T>;
  constexpr int kElements = kVecs * kLanes<E>, kBlock = kElements * kTokensPer<E>;
  const int64_t tokens = token_count(x), blocks = ceil_div(tokens, kBlock), nnz = pattern.row_ptr[pattern.rows];
  A* sums = sizeof(T) == sizeof(A) ? reinterpret_cast<A*>(dw) : reinterpret_cast<A*>(memory + l.sums);
  const int64_t tiles = blocks < 2 ? 1 : tile_count(pattern.rows, pattern.cols, nnz, kVecs * kVecBytes);
  int32_t* own_cuts = reinterpret_cast<int32_t*>(memory + l.cuts);
  const Cuts cuts{tiles == 1 ? pattern.row_ptr : own_cuts, tiles};
  const int64_t batch = batch_of(pattern.rows, pattern.cols, pattern.capacity, blocks);
  const int64_t panel = max(1, (batch == 1 ? 1 : 2) * kDyPanelBytes / (batch * kVecs * kVecBytes));

  in_parallel(threads, [&](int64_t id, int64_t team) {
    const int64_t begin = row_cut(pattern, id, team), end = row_cut(pattern, id + 1, team);
    const int64_t c0 = pattern.cols * id / team, c1 = pattern.cols * (id + 1) / team;
    if (tiles > 1) cut_rows(own_cuts, tiles, pattern, begin, end);
    for (int64_t b0 = 0; b0 < blocks; b0 += batch) {
      const int64_t b1 = min(blocks, b0 + batch);
      const auto x_of = [&](int64_t b) { return reinterpret_cast<E*>(memory + b % (2 * batch) * l.x_block); };
      const auto dy_of = [&](int64_t b) { return reinterpret_cast<E*>(memory + l.dy + (b - b0) * l.dy_block); };
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t first = b * kBlock, count = min(kBlock, tokens - first);
        pack_block<kElements>(x_of(b) + c0 * kElements, x, first, count, c0, c1);
        pack_block<kElements>(dy_of(b) + begin * kElements, dy, first, count, begin, end);
      }
#pragma omp barrier
      for (int64_t r0 = begin; r0 < end; r0 += panel) {
        const int64_t r1 = min(end, r0 + panel);
        for (int64_t k = 0; k < tiles; ++k) {
          for (int64_t b = b0; b < b1; ++b) {
            if (b == 0)
              sample_tile<kVecs, true>(sums, pattern.col_idx, cuts, k, dy_of(b), x_of(b), r0, r1);
            else
              sample_tile<kVecs, false>(sums, pattern.col_idx, cuts, k, dy_of(b), x_of(b), r0, r1);
          }
        }
      }
    }
    if (sizeof(T) != sizeof(A))
      for (int64_t p = pattern.row_ptr[begin]; p < pattern.row_ptr[end]; ++p) from_acc(dw + p, static_cast<A>(sums[p]));
  });
  fill_zero(dw + nnz, pattern.capacity - nnz);
}

}  // namespace spx::cpu::SPX_ISA::csr
