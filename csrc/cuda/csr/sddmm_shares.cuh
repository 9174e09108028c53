// If the tiles of csr_sddmm are few, several blocks share the tokens of one. Each writes its sums to the workspace, and a
// second kernel adds them in the order of tokens: the same bits on every run.
#pragma once
#include "cuda/csr/sddmm_entries.cuh"

namespace spx::cuda::csr {

constexpr int64_t kEnoughTokens = 512;  // a block of fewer is mostly its beginning and end

struct TokenShares {
  int64_t all, count, tokens;  // `tokens` of a share are whole steps. Only a single share may be empty

  TokenShares(int64_t useful, int64_t all_tokens, int64_t step) : all(all_tokens) {
    const int64_t possible = all / kEnoughTokens, most = useful < possible ? useful : possible;
    tokens = ceil_div(ceil_div(all, most < 1 ? 1 : most), step) * step;
    count = tokens == 0 ? 1 : ceil_div(all, tokens);
  }
  SPX_HOST_DEVICE int64_t begin(int64_t share) const { return share * tokens; }
  SPX_HOST_DEVICE int64_t end(int64_t share) const { return begin(share) + tokens < all ? begin(share) + tokens : all; }

  // Of the sums [count, capacity].
  int64_t bytes(int64_t capacity, int64_t acc_bytes) const { return count == 1 ? 0 : count * capacity * acc_bytes; }
};

constexpr int kAddThreads = 256;

// sums  [shares, capacity]
template <class T, class Index>
__global__ void __launch_bounds__(kAddThreads)
    csr_sddmm_add_kernel(T* dw, const Acc<T>* sums, CsrPattern<Index> pattern, int64_t shares) {
  clear_unused(dw, pattern);
  const int64_t nnz = pattern.row_ptr[pattern.rows];
  for (int64_t p = global_thread(); p < nnz; p += global_threads()) {
    Acc<T> sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += sums[share * pattern.capacity + p];
    dw[p] = from_acc<T>(sum);
  }
}

template <class T, class Index>
Status add_shares(T* dw, const Acc<T>* sums, CsrPattern<Index> pattern, TokenShares shares, Stream stream) {
  return launch("csr_sddmm_add", csr_sddmm_add_kernel<T, Index>, blocks_for(pattern.capacity, kAddThreads), kAddThreads, stream,
                dw, sums, pattern, shares.count);
}

}  // namespace spx::cuda::csr
