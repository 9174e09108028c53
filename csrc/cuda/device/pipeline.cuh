// The pipeline of the wgmma kernels: one thread of a block has TMA load steps into a ring of stages, some steps ahead of the
// warps that multiply them. The blocks of a cluster load parts of a step for each other.
//
//   full    a phase ends when a step has arrived: the loading thread has announced its bytes and TMA has reported them
//   empty   a phase ends when all multiplying warps of the cluster have read the step: each arrives at the barriers of all
//           blocks
//   steps are numbered through the life of a block: step % kStages is the stage, step / kStages % 2 the parity of its phase
#pragma once
#include "cuda/device/hopper.cuh"

namespace spx::cuda {

template <class Element, int kStages, int kStageBytes, int kClusterBlocks, int kMultiplyingWarps>
struct Pipeline {
  static constexpr uint16_t kAllBlocks = (1 << kClusterBlocks) - 1;

  Shared<Element> memory;
  Shared<Barrier> full, empty;  // [kStages]

  // One thread. A cluster_sync follows.
  __device__ void init() const {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, kClusterBlocks * kMultiplyingWarps);
    }
    fence_barrier_init();
  }

  // Where a step lies: in bytes, and what is `bytes` behind its beginning.
  static __device__ unsigned offset(unsigned step) { return step % kStages * kStageBytes; }
  __device__ Shared<Element> at(unsigned step, unsigned bytes) const {
    return memory + (offset(step) + bytes) / static_cast<unsigned>(sizeof(Element));
  }

  // The loading thread, before its first load of a step. Returns the barrier that the loads report to.
  __device__ Shared<Barrier> begin_load(unsigned step) const {
    const unsigned stage = step % kStages, round = step / kStages;
    if (round > 0) barrier_wait(empty + stage, (round - 1) % 2);
    barrier_expect(full + stage, kStageBytes);
    return full + stage;
  }

  // A thread that multiplies.
  __device__ void wait(unsigned step) const { barrier_wait(full + step % kStages, step / kStages % 2); }

  // A warp that has read a step.
  __device__ void release(unsigned step) const {
    const int lane = threadIdx.x % kWarp;
    if (lane < kClusterBlocks) barrier_arrive(empty + step % kStages, lane);
  }
};

// The place of item i of a grid of width x height, taken in panels kPanel wide, row by row inside a panel: neighbouring items
// share rows and columns, and find them in L2.
struct PanelPlace {
  int across, along;

  __device__ PanelPlace(int i, int width, int height, int panel) {
    const int first = i / (panel * height) * panel, left = width - first, wide = left < panel ? left : panel;
    const int in_panel = i - first * height;
    across = first + in_panel % wide;
    along = in_panel / wide;
  }
};

}  // namespace spx::cuda
