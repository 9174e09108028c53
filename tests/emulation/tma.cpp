// TMA and its barriers. See hopper.h.
#include "cuda/device/hopper.cuh"

#include <algorithm>

#include "machine.h"

namespace spx::emulator {
namespace {

// An mbarrier object. Its phase ends when no arrival and no byte is missing.
struct Mbarrier {
  int32_t missing_bytes;  // negative: more bytes have arrived than were announced so far
  uint32_t missing : 15, arrivals : 15, phase : 1, unused : 1;

  void end_phase_if_complete() {
    if (missing || missing_bytes) return;
    missing = arrivals;
    phase ^= 1;
  }
};
static_assert(sizeof(Mbarrier) == sizeof(uint64_t));

Mbarrier& state_of(uint64_t* barrier) { return *reinterpret_cast<Mbarrier*>(barrier); }

// The content of a CUtensorMap, which cuTensorMapEncodeTiled below writes: a matrix of 16-bit elements.
struct TensorMap {
  const unsigned char* data;
  uint64_t cols, rows, row_bytes;
  uint32_t box_cols, box_rows;
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

struct Copy {
  unsigned char* memory;  // the block's dynamic shared memory
  uint32_t address;
  TensorMap map;
  int64_t row, col;
  uint64_t* barrier;
  bool late;
};

std::vector<Copy> copies;

struct Wait {
  const uint64_t* barrier;
  int parity;
};
std::vector<Wait> waits(kMaxThreads);

void run(const Copy& copy) {
  const uint32_t width = copy.map.box_cols * sizeof(uint16_t);
  for (uint32_t r = 0; r < copy.map.box_rows; ++r)
    for (uint32_t c = 0; c < copy.map.box_cols; ++c) {
      const int64_t row = copy.row + r, col = copy.col + c;
      uint16_t element = 0;  // outside of the matrix
      if (row >= 0 && row < int64_t(copy.map.rows) && col >= 0 && col < int64_t(copy.map.cols))
        memcpy(&element, copy.map.data + row * copy.map.row_bytes + col * sizeof element, sizeof element);
      const uint32_t address = swizzled(copy.address + r * width + c * uint32_t{sizeof element}, width);
      memcpy(copy.memory + address - kDynamicAddress, &element, sizeof element);
    }
  Mbarrier& barrier = state_of(copy.barrier);
  barrier.missing_bytes -= static_cast<int32_t>(copy.map.box_rows * width);
  barrier.end_phase_if_complete();
}

}  // namespace

void reset_copies() { copies.clear(); }

bool run_copy(bool late) {
  const auto end = std::partition(copies.begin(), copies.end(), [late](const Copy& copy) { return late || !copy.late; });
  if (end == copies.begin()) return false;
  const auto chosen = copies.begin() + random_below(static_cast<uint32_t>(end - copies.begin()));
  const Copy copy = *chosen;
  copies.erase(chosen);
  return run(copy), true;
}

void check_copies() {
  if (!copies.empty()) fault("a block ends while %d copies into shared memory are under way", int(copies.size()));
}

uint32_t address_of(const SharedObject* object, int64_t byte) {
  if (object != dynamic_of_rank(object->rank)) fail("`%s`: only dynamic shared memory has an address here", object->name);
  return kDynamicAddress + static_cast<uint32_t>(byte);
}

void init_barrier(SharedPtr<uint64_t> barrier, int arrivals) {
  Mbarrier state = {};
  state.missing = state.arrivals = static_cast<uint32_t>(arrivals);
  state_of((*barrier).at(Kind::kWrite)) = state;
}

void arrive_at(SharedPtr<uint64_t> barrier, int expected_bytes) {
  Mbarrier& state = state_of((*barrier).at(Kind::kAtomic));
  if (!state.missing) fail("more threads arrive at a barrier than the %d that it was made for", int(state.arrivals));
  state.missing_bytes += expected_bytes;
  --state.missing;
  state.end_phase_if_complete();
}

void wait_for_phase(SharedPtr<uint64_t> barrier, int parity, const char* file, int line) {
  waits[m.current] = {(*barrier).at(Kind::kAtomic), parity};
  wait(State::kAtBarrier, file, line);
}

// Ended: the current phase has the other parity.
bool barrier_has_ended(int thread) {
  Mbarrier state;
  memcpy(&state, waits[thread].barrier, sizeof state);
  return static_cast<int>(state.phase) != waits[thread].parity;
}

void start_copy(int rank, uint32_t address, const CUtensorMap& opaque, int row, int col, uint64_t* barrier) {
  Copy copy = {dynamic_of_rank(rank)->data, address, {}, row, col, barrier, random_below(2) == 0};
  memcpy(&copy.map, &opaque, sizeof copy.map);
  const int64_t end = int64_t{address} - kDynamicAddress + copy.map.box_cols * copy.map.box_rows * int64_t{sizeof(uint16_t)};
  if (address % 1024 || end > dynamic_of_rank(rank)->bytes)
    fail("TMA: a swizzled box begins at a multiple of 1024 bytes of shared memory and ends inside of it");
  copies.push_back(copy);
}

}  // namespace spx::emulator

// The driver's function, as far as the kernels use it; it refuses the same arguments.
CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                                        const cuuint64_t* size, const cuuint64_t* stride, const cuuint32_t* box,
                                        const cuuint32_t* every, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                        CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  const bool emulated = (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16) && rank == 2 &&
                        every[0] == 1 && every[1] == 1 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                        (swizzle == CU_TENSOR_MAP_SWIZZLE_128B || swizzle == CU_TENSOR_MAP_SWIZZLE_64B) &&
                        fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  const bool allowed = reinterpret_cast<uintptr_t>(map) % 64 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
                       size[0] - 1 < uint64_t{1} << 32 && size[1] - 1 < uint64_t{1} << 32 && stride[0] % 16 == 0 &&
                       stride[0] < uint64_t{1} << 40 && box[0] - 1 < 256 && box[1] - 1 < 256 &&
                       box[0] * 2 == (swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : 64);
  if (!emulated || !allowed) return CUDA_ERROR_INVALID_VALUE;
  const spx::emulator::TensorMap matrix = {static_cast<unsigned char*>(data), size[0], size[1], stride[0], box[0], box[1]};
  memcpy(map, &matrix, sizeof matrix);
  return CUDA_SUCCESS;
}
