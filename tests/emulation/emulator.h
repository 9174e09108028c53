// Runs CUDA kernels on the host. It declares for the host compiler what nvcc would provide to the .cu files of csrc/cuda.
//
//   threads        fibers, one at a time; in a new random order after every rendezvous (SPARSE_EXT_EMULATION_SEED)
//   blocks         one after another, in random order; nothing survives from one to the next but global memory.
//                  The blocks of a cluster run together
//   rendezvous     all threads of the block, or all 32 lanes, at the same file:line; anything else fails the launch
//   asynchronous   TMA and wgmma take effect some time later: see hopper.h
//   shared memory  heap objects of exact size, 0xFF at the start of a block (floats: NaN); every access through the array is
//                  checked: bounds, read before written, and races (two threads, no barrier between, one of them writes).
//                  ASan sees accesses through raw pointers; without it, canaries before and behind the object do
//
// A fault fails the launch with cudaErrorLaunchFailure, and cudaGetErrorString describes it.
// Not covered: memory order between blocks, occupancy, registers, blocks that wait for each other.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace spx::emulator {

constexpr int kMaxSharedBytes = 232448;  // of a block, static and dynamic: an H100's
constexpr int kResidentClusters = 3;     // fewer than tests have tiles for

struct BlockShape {
  unsigned threads, shared_bytes, cluster;
};
cudaError_t launch(const char* kernel, unsigned grid, BlockShape block, const std::function<void()>& body);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Rendezvous of the cluster, the block or the warp; all of them order shared memory.
void wait_cluster(const char* file, int line);
void wait_block(const char* file, int line);
void wait_warp(const char* file, int line);
// Passes `v` to the warp and returns the values of its 32 lanes, which are valid until the lane's next exchange but one. As on
// the device, a shuffle does not order shared memory.
const uint64_t* exchange(uint64_t v, const char* file, int line);

// cp.async: what the running thread does when it lands. A thread that ends before that fails the launch.
void later(std::function<void()> copy);
void land();

// The last accesses to an element of shared memory. Epochs count barriers. writer, reader: a thread, kSeveral, or kLanes -
// warp.
constexpr int16_t kSeveral = -1;  // threads of several warps
constexpr int16_t kLanes = -2;    // several lanes of warp kLanes - who
struct Access {
  uint32_t write_epoch, write_warp_epoch, read_epoch, read_warp_epoch;
  int16_t writer, reader;
  bool atomic;
};

struct SharedObject {
  const void* site;
  const char *name, *file;
  int line, rank;  // of the block in its cluster
  int64_t count, bytes;
  unsigned char *allocation, *data;
  Access* access;
  uint32_t block_epoch;  // the epoch in which this block began; earlier writes do not count
};
SharedObject* shared_object(const void* site, int64_t count, int64_t bytes, const char* name, const char* file, int line);
SharedObject* dynamic_shared_object(int64_t bytes, const char* name, const char* file, int line);  // elements of `bytes` bytes
SharedObject* object_of_rank(const void* site, int rank);  // that of a block of the cluster

enum class Kind { kRead, kWrite, kAtomic };
void check_access(SharedObject* object, int64_t index, Kind kind);

template <class T>
class SharedPtr;

// One element: reads and writes are checked. &element is a SharedPtr, which atomics take.
template <class T>
class SharedRef {
 public:
  SharedRef(SharedObject* object, int64_t index) : object_(object), index_(index) {}
  operator T() const { return *at(Kind::kRead); }
  const SharedRef& operator=(T v) const { return *at(Kind::kWrite) = v, *this; }
  const SharedRef& operator=(const SharedRef& other) const { return *this = static_cast<T>(other); }
  SharedRef(const SharedRef&) = default;
  const SharedRef& operator+=(T v) const { return *this = static_cast<T>(*this) + v; }
  const SharedRef& operator|=(T v) const { return *this = static_cast<T>(*this) | v; }
  SharedPtr<T> operator&() const { return {object_, index_}; }
  T* at(Kind kind) const {
    check_access(object_, index_, kind);
    return reinterpret_cast<T*>(object_->data) + index_;
  }

 private:
  SharedObject* object_;
  int64_t index_;
};

template <class T>
class SharedPtr {
 public:
  SharedPtr(SharedObject* object, int64_t offset) : object_(object), offset_(offset) {}
  SharedRef<T> operator[](int64_t i) const { return {object_, offset_ + i}; }
  SharedRef<T> operator*() const { return {object_, offset_}; }
  SharedPtr operator+(int64_t n) const { return {object_, offset_ + n}; }
  T* raw() const { return reinterpret_cast<T*>(object_->data) + offset_; }  // unchecked, for vector accesses
  SharedPtr of_rank(int rank) const { return {object_of_rank(object_->site, rank), offset_}; }
  const SharedObject* object() const { return object_; }

 private:
  SharedObject* object_;
  int64_t offset_;
};

}  // namespace spx::emulator

#define SPX_SHARED(type, name, count)          \
  static const char name##_site = 0;           \
  const ::spx::emulator::SharedPtr<type> name( \
      ::spx::emulator::shared_object(&name##_site, (count), sizeof(type), #name, __FILE__, __LINE__), 0)

#define SPX_DYNAMIC_SHARED(type, name)                                                                                         \
  const ::spx::emulator::SharedPtr<type> name(::spx::emulator::dynamic_shared_object(sizeof(type), #name, __FILE__, __LINE__), \
                                              0)

#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  spx::emulator::wait_block(file, line);
}
inline void __syncwarp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  spx::emulator::wait_warp(file, line);
}
inline void __threadfence() {}

// One thread runs at a time, so these are atomic.
template <class T>
T atomicAdd(T* p, std::common_type_t<T> v) {
  static_assert(std::is_integral_v<T>, "float atomics are not deterministic");
  const T old = *p;
  return *p = old + v, old;
}
template <class T>
T atomicOr(T* p, std::common_type_t<T> v) {
  const T old = *p;
  return *p = old | v, old;
}
template <class T>
T atomicAdd(spx::emulator::SharedPtr<T> p, std::common_type_t<T> v) {
  return atomicAdd((*p).at(spx::emulator::Kind::kAtomic), v);
}
template <class T>
T atomicOr(spx::emulator::SharedPtr<T> p, std::common_type_t<T> v) {
  return atomicOr((*p).at(spx::emulator::Kind::kAtomic), v);
}

namespace spx::cuda {

template <class T>
using Shared = emulator::SharedPtr<T>;

template <class T>
emulator::SharedRef<T> element_at(emulator::SharedPtr<T> first, int bytes) {
  if (bytes % sizeof(T) != 0) emulator::fail("misaligned: %d bytes are no multiple of %zu", bytes, sizeof(T));
  return first[bytes / static_cast<int>(sizeof(T))];
}

template <class T>
T read_lane(T v, int lane, const char* file, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  const uint64_t* lanes = emulator::exchange(bits, file, line);
  memcpy(&v, &lanes[lane], sizeof v);
  return v;
}
inline int lane_id() { return static_cast<int>(threadIdx.x % 32); }

template <class T>
T shfl_idx(T v, int lane, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return read_lane(v, lane & 31, file, line);
}
template <class T>
T shfl_xor(T v, int mask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return read_lane(v, (lane_id() ^ mask) & 31, file, line);
}
template <class T>
T shfl_up(T v, int delta, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return read_lane(v, lane_id() < delta ? lane_id() : lane_id() - delta, file, line);
}
template <class T>
T shfl_down(T v, int delta, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return read_lane(v, lane_id() + delta > 31 ? lane_id() : lane_id() + delta, file, line);
}
inline unsigned ballot(bool v, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const uint64_t* lanes = emulator::exchange(v, file, line);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(lanes[lane]) << lane;
  return bits;
}
inline int popcount(unsigned v) { return __builtin_popcount(v); }

// As on the device; launch.cuh says which lane holds which elements. A lane computes the four sums of its two rows and two
// columns.
template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
  const int row = lane_id() / 4, col = lane_id() % 4 * 2;
  const auto element = [](const uint64_t* lanes, int lane, int i) {  // the i-th of the four that a lane gave
    const auto bits = static_cast<uint16_t>(lanes[lane] >> 16 * i);
    T v;
    memcpy(&v, &bits, sizeof v);
    return to_acc(v);
  };
  float rows[2][16], cols[2][16];
  for (int half = 0; half < 2; ++half) {
    const uint64_t* lanes = emulator::exchange(a[2 * half] | uint64_t{a[2 * half + 1]} << 32, file, line);
    for (int k = 0; k < 8; ++k)
      for (int i = 0; i < 2; ++i) rows[i][8 * half + k] = element(lanes, 4 * row + k / 2, 2 * i + k % 2);
  }
  const uint64_t* lanes = emulator::exchange(b[0] | uint64_t{b[1]} << 32, file, line);
  for (int k = 0; k < 16; ++k)
    for (int i = 0; i < 2; ++i) cols[i][k] = element(lanes, 4 * (col + i) + k % 8 / 2, k / 8 * 2 + k % 2);
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k) d[i] += rows[i / 2][k] * cols[i % 2][k];
}

// The same for mma_sp_16x8x32. A code that is none of the six fails the launch.
template <class T>
void mma_sp_16x8x32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t codes,
                    const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const int row = lane_id() / 4, col = lane_id() % 4 * 2;
  const auto element = [](const uint64_t* lanes, int lane, int i) {  // the i-th of the four that a lane gave
    const auto bits = static_cast<uint16_t>(lanes[lane] >> 16 * i);
    T v;
    memcpy(&v, &bits, sizeof v);
    return to_acc(v);
  };
  float rows[2][16], cols[2][32];
  int at[2][16];  // the column of each stored element
  for (int half = 0; half < 2; ++half) {
    const uint64_t* lanes = emulator::exchange(a[2 * half] | uint64_t{a[2 * half + 1]} << 32, file, line);
    for (int k = 0; k < 8; ++k)
      for (int i = 0; i < 2; ++i) rows[i][8 * half + k] = element(lanes, 4 * row + k / 2, 2 * i + k % 2);
  }
  for (int half = 0; half < 2; ++half) {
    const uint64_t* lanes = emulator::exchange(b[2 * half] | uint64_t{b[2 * half + 1]} << 32, file, line);
    for (int k = 0; k < 16; ++k)
      for (int i = 0; i < 2; ++i) cols[i][16 * half + k] = element(lanes, 4 * (col + i) + k % 8 / 2, k / 8 * 2 + k % 2);
  }
  const uint64_t* lanes = emulator::exchange(codes, file, line);
  for (int i = 0; i < 2; ++i) {
    for (int group = 0; group < 8; ++group) {
      const auto code = static_cast<int>(lanes[4 * row + group / 4] >> (16 * i + group % 4 * 4) & 15);
      if ((code & 3) >= code >> 2)
        emulator::fail("mma_sp_16x8x32 (%s:%d): code %d is not of two ascending positions", file, line, code);
      at[i][2 * group] = 4 * group + (code & 3);
      at[i][2 * group + 1] = 4 * group + (code >> 2);
    }
  }
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k) d[i] += rows[i / 2][k] * cols[i % 2][at[i / 2][k]];
}

// Four 8 x 8 matrices, a row of one from each lane.
inline void ldmatrix_x4(uint32_t (&matrices)[4], Shared<uint32_t> row, const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  const int lane = lane_id();
  for (int half = 0; half < 2; ++half) {
    const uint32_t low = row[2 * half], high = row[2 * half + 1];
    const uint64_t* lanes = emulator::exchange(low | uint64_t{high} << 32, file, line);
    if (lane % 4 / 2 == half)
      for (int m = 0; m < 4; ++m) matrices[m] = static_cast<uint32_t>(lanes[8 * m + lane / 4] >> lane % 2 * 32);
  }
}

// What a thread copies arrives when it waits: an element that nobody waited for is read before written, or a race.
template <class T>
void cp_async(Shared<T> to, const T* from, bool inside = true) {
  if constexpr (sizeof(T) < 4)
    *to = inside ? *from : T{};
  else
    emulator::later([=] { *to = inside ? *from : T{}; });
}
inline void cp_async_wait() { emulator::land(); }

inline void store_global_chunk(void* to, const uint32_t (&words)[4]) { memcpy(to, words, sizeof words); }
inline void store_chunk(Shared<uint32_t> to, const uint32_t (&words)[4]) {
  for (int i = 0; i < 4; ++i) to[i] = words[i];
}
inline void load_chunk(uint32_t (&words)[4], Shared<uint32_t> from) {
  for (int i = 0; i < 4; ++i) words[i] = from[i];
}

}  // namespace spx::cuda
