// csr_sddmm where tiles are few: several blocks share the tokens of one, each leaves its sums in a slice of the workspace, and a
// second kernel adds the slices in order. The same bits on every run.
#pragma once
#include "csr_sddmm_entries.cuh"

namespace spx::cuda {

constexpr int64_t kEnoughTokens = 512;  // a block of fewer is mostly its beginning and end

struct TokenShares {
  int64_t all, count, tokens;  // tokens of a share: whole steps; the last shares may have fewer, or none

  // As many as make `enough` blocks of the tiles.
  TokenShares(int64_t tiles, int64_t enough, int64_t all_tokens, int64_t step) : all(all_tokens) {
    const int64_t wanted = enough / tiles, possible = all / kEnoughTokens;
    count = wanted < possible ? wanted : possible;
    if (count < 1) count = 1;
    tokens = ceil_div(ceil_div(all, count), step) * step;
  }
  SPX_HOST_DEVICE int64_t begin(int64_t share) const { return share * tokens; }
  SPX_HOST_DEVICE int64_t end(int64_t share) const { return all - begin(share) < tokens ? all : begin(share) + tokens; }

  // Bytes of the sums [count, capacity].
  int64_t workspace(int64_t capacity) const { return count == 1 ? 0 : count * capacity * int64_t{sizeof(float)}; }
};

constexpr int kAddThreads = 256;

template <class T, class Index>
__global__ void __launch_bounds__(kAddThreads)
    csr_sddmm_add_kernel(T* dw, const float* sums, CsrPattern<Index> pattern, int64_t shares) {
  clear_unused(dw, pattern);
  const int64_t nnz = pattern.row_ptr[pattern.rows];
  for (int64_t p = global_thread(); p < nnz; p += global_threads()) {
    float sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += sums[share * pattern.capacity + p];
    dw[p] = from_acc<T>(sum);
  }
}

template <class T, class Index>
Status add_shares(T* dw, const float* sums, CsrPattern<Index> pattern, TokenShares shares, Where where) {
  return launch("csr_sddmm_add", csr_sddmm_add_kernel<T, Index>, blocks_for(pattern.capacity, kAddThreads), kAddThreads, where,
                dw, sums, pattern, shares.count);
}

}  // namespace spx::cuda
