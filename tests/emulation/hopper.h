// csrc/cuda/device/hopper.cuh on the host, written from the PTX manual: "mbarrier", "Tensor Memory Access", "Swizzling modes",
// "Asynchronous Warpgroup Level Matrix Instructions" (matrix descriptor format, strides, canonical layouts, register
// fragments).
//
//   copies (TMA)   run some time after tma_load, in random order; every second one as late as possible, when all threads wait.
//                  Until then the target is unchanged. A copy that is still under way at the end fails the launch
//   products       run in wgmma_wait and no earlier, on the operands as they are then. If codes have changed that a product
//                  reads, the launch fails
//   barriers       are the 64-bit words of the kernel. A thread that waits for a phase that nothing can end fails the launch
//
// Addresses: dynamic shared memory begins at kDynamicAddress in each block; static shared memory has none.
// Not covered: the order of ordinary and asynchronous accesses to the same memory, apart from the above (fence.proxy.async).
#pragma once
#include <cuda.h>

#include "emulator.h"

namespace spx::emulator {

constexpr uint32_t kDynamicAddress = 2048;

// The swizzle of rows of 128 bytes replaces bits 4 to 6 of an address by their exclusive or with bits 7 to 9; that of 64 bytes
// bits 4 and 5 by theirs with bits 7 and 8.
inline uint32_t swizzled(uint32_t address, uint32_t width) { return address ^ (address >> 3 & (width - 16)); }

uint32_t address_of(const SharedObject* object, int64_t byte);

void init_barrier(SharedPtr<uint64_t> barrier, int arrivals);
void arrive_at(SharedPtr<uint64_t> barrier, int expected_bytes);
void wait_for_phase(SharedPtr<uint64_t> barrier, int parity, const char* file, int line);

// A copy to [address, address + box) in the shared memory of block `rank`.
void start_copy(int rank, uint32_t address, const CUtensorMap& map, int row, int col, uint64_t* barrier);

// d += a b, by one thread: its part of the product of its warpgroup.
void start_product(float* d, uint64_t a, uint64_t b, float (*value)(uint16_t), const char* file, int line);
// The same with a 2:4. The codes may not change until the product is done.
void start_sparse_product(float* d, uint64_t a, uint64_t b, const uint32_t* codes, int selector, float (*value)(uint16_t),
                          const char* file, int line);
void commit_products();
void wait_products(size_t groups, const char* file, int line);
void fence_products();

}  // namespace spx::emulator

namespace spx::cuda {

template <class T>
uint32_t shared_address(emulator::SharedPtr<T> p) {
  return emulator::address_of(p.object(), reinterpret_cast<unsigned char*>(p.raw()) - p.object()->data);
}

inline void cluster_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::wait_cluster(file, line);
}

inline void barrier_init(Shared<Barrier> barrier, int arrivals) { emulator::init_barrier(barrier, arrivals); }
inline void fence_barrier_init() {}
inline void barrier_expect(Shared<Barrier> barrier, int bytes) { emulator::arrive_at(barrier, bytes); }
inline void barrier_arrive(Shared<Barrier> barrier, int rank) { emulator::arrive_at(barrier.of_rank(rank), 0); }
inline void barrier_wait(Shared<Barrier> barrier, int parity, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  emulator::wait_for_phase(barrier, parity, file, line);
}

template <class T>
void tma_load(Shared<T> to, const CUtensorMap& map, int row, int col, Shared<Barrier> barrier, uint16_t blocks) {
  for (int rank = 0; blocks >> rank; ++rank)
    if (blocks >> rank & 1) emulator::start_copy(rank, shared_address(to), map, row, col, barrier.of_rank(rank).raw());
}
template <class T>
void tma_load(Shared<T> to, const CUtensorMap& map, int row, int col, Shared<Barrier> barrier) {
  emulator::start_copy(barrier.object()->rank, shared_address(to), map, row, col, barrier.raw());
}

template <class T>
float value_of(uint16_t bits) {
  T v;
  memcpy(&v, &bits, sizeof v);
  return to_acc(v);
}
template <class T>
void wgmma_64x256x16(float (&d)[128], uint64_t a, uint64_t b, const char* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  emulator::start_product(d, a, b, value_of<T>, file, line);
}
template <class T, int kSelector>
void wgmma_sp_64x256x32(float (&d)[128], uint64_t a, uint64_t b, const uint32_t& codes, const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  emulator::start_sparse_product(d, a, b, &codes, kSelector, value_of<T>, file, line);
}
inline void wgmma_fence() { emulator::fence_products(); }
inline void wgmma_commit() { emulator::commit_products(); }
template <int kGroups>
void wgmma_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::wait_products(kGroups, file, line);
}
inline void wgmma_finish(float (&)[128], const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::wait_products(0, file, line);
}

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

// Lanes 4 * i + j, i = 0 .. 7, hold row 2j of a matrix in their low halves and row 2j + 1 in their high halves.
inline void stmatrix_x4_transposed(Shared<uint32_t> column, const uint32_t (&matrices)[4], const char* file = __builtin_FILE(),
                                   int line = __builtin_LINE()) {
  const int lane = lane_id(), matrix = lane / 8, c = lane % 8;
  uint16_t elements[8] = {};
  for (int pair = 0; pair < 2; ++pair) {
    const uint64_t* lanes = emulator::exchange(matrices[2 * pair] | uint64_t{matrices[2 * pair + 1]} << 32, file, line);
    if (matrix / 2 != pair) continue;
    for (int i = 0; i < 8; ++i) elements[i] = static_cast<uint16_t>(lanes[4 * i + c / 2] >> (32 * (matrix % 2) + 16 * (c % 2)));
  }
  for (int i = 0; i < 4; ++i) column[i] = elements[2 * i] | uint32_t{elements[2 * i + 1]} << 16;
}

}  // namespace spx::cuda
