// Growth in the groups of a 2:4 matrix (contract: launchers.inc): each on its own, a row after the other.
#include "common/nm24/groups.h"

#include "common/keys.h"
#include "common/random.h"
#include "cpu/simd/isa.h"

namespace spx::cpu::SPX_ISA::nm24 {
namespace {

constexpr int64_t kParallelFrom = 1 << 14;  // elements: fewer take no longer than waking a thread

template <class A>
Key<A> growth_key(DenseView<const A> score, int64_t r, int64_t c, uint64_t seed) {
  if (c >= score.cols) return 0;
  return score.data ? magnitude_key(score.row(r)[c]) : random_u32(seed, static_cast<uint64_t>(r * score.cols + c));
}

}  // namespace

template <class A>
Status nm24_regrow(Nm24View<int32_t> grown, Nm24View<const uint8_t> old, DenseView<const A> score, uint64_t seed,
                   Threads threads) {
  const int64_t groups = grown.groups();
#pragma omp parallel for num_threads(threads) schedule(static) if (grown.rows * grown.cols > kParallelFrom)
  for (int64_t r = 0; r < grown.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t code = old.ids_of_row(r)[g / 2] >> g % 2 * 4;
      const uint8_t* two = old.values_of_row(r) + 2 * g;
      const bool stays[2] = {two[0] != 0, two[1] != 0};
      Key<A> key[4];
      for (int c = 0; c < 4; ++c) key[c] = growth_key(score, r, 4 * g + c, seed);
      int32_t source[2];
      const uint32_t regrown =
          nm24_regrown(source, code, stays, nm24_columns(g, grown.cols), key, static_cast<int32_t>(2 * (r * groups + g)));
      grown.values_of_row(r)[2 * g] = source[0];
      grown.values_of_row(r)[2 * g + 1] = source[1];
      uint8_t* ids = grown.ids_of_row(r) + g / 2;
      *ids = static_cast<uint8_t>(g % 2 ? (*ids & 15) | regrown << 4 : regrown | kNm24EmptyCode << 4);
    }
  }
  return kOk;
}

SPX_INSTANTIATE(nm24_regrow, float)
SPX_INSTANTIATE(nm24_regrow, double)

}  // namespace spx::cpu::SPX_ISA::nm24
