// The scheduler, the checks and the few functions of the CUDA runtime that csrc/cuda calls. See emulator.h.
#include "emulator.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "fiber.h"

asm(R"(
.text
.hidden spx_emulator_switch
.globl spx_emulator_switch
.type spx_emulator_switch, @function
spx_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size spx_emulator_switch, .-spx_emulator_switch
)");

namespace spx::emulator {
namespace {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;           // of a block
constexpr int64_t kMaxSharedBytes = 49152;  // of static shared memory
constexpr int64_t kCanaryBytes = SPX_ASAN ? 0 : 64;
constexpr unsigned char kCanary = 0xC5, kPoison = 0xFF;

enum class State { kRuns, kAtBlock, kAtWarp, kExchanges, kExited };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state;
  const char* file;  // of the rendezvous
  int line;
  int exchanges;  // how many so far: picks the buffer
};

struct Warp {
  uint64_t lanes[2][kWarpSize];  // two buffers: a fast lane's next exchange leaves this one alone
  uint32_t epoch;
};

// One launch at a time: the caller holds the GIL.
struct Machine {
  Fiber scheduler;
  std::vector<Thread> threads = std::vector<Thread>(kMaxThreads);
  Warp warps[kMaxThreads / kWarpSize];
  int count = 0;    // threads of a block
  int current = -1;  // the thread that runs
  const std::function<void()>* body = nullptr;
  std::vector<SharedObject*> shared;
  int64_t shared_bytes = 0;
  uint32_t epoch = 1, block_epoch = 1;  // both grow over all launches: nothing has to be cleared
  bool failed = false;
  std::string error;
  uint64_t random = 0;
  std::vector<int> ready;
};
Machine m;

uint32_t random_below(uint32_t n) {
  m.random ^= m.random << 13;
  m.random ^= m.random >> 7;
  m.random ^= m.random << 17;
  return static_cast<uint32_t>((m.random >> 32) * n >> 32);
}

// Keeps the first fault: what follows from it tells less.
void set_error(const char* format, va_list arguments) {
  if (m.failed) return;
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  m.error = std::string("emulation: ") + text + " (block " + std::to_string(blockIdx.x);
  if (m.current >= 0) m.error += ", thread " + std::to_string(m.current);
  m.error += ")";
  m.failed = true;
}

__attribute__((format(printf, 1, 2))) void fault(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_error(format, arguments);
  va_end(arguments);
}

void fiber_main() {
#if SPX_ASAN
  const void* stack;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &m.scheduler.stack_bytes);
  m.scheduler.stack = static_cast<char*>(const_cast<void*>(stack));
#endif
  (*m.body)();
  Thread& self = m.threads[m.current];
  self.state = State::kExited;
  switch_fiber(self.fiber, m.scheduler, true);
  __builtin_unreachable();
}

void wait(State state, const char* file, int line) {
  if (m.current < 0) std::abort();  // device code outside of a launch
  Thread& self = m.threads[m.current];
  self.state = state;
  self.file = file;
  self.line = line;
  switch_fiber(self.fiber, m.scheduler);
}

void resume(int t) {
  m.current = t;
  threadIdx = m.threads[t].index;
  m.threads[t].state = State::kRuns;
  switch_fiber(m.scheduler, m.threads[t].fiber);
  m.current = -1;
}

// All of [begin, end) wait in `state` at one place.
bool met(int begin, int end, State state) {
  const Thread& first = m.threads[begin];
  for (int t = begin; t < end; ++t) {
    const Thread& thread = m.threads[t];
    if (thread.state != state || thread.line != first.line || thread.file != first.file) return false;
  }
  return true;
}

// After every thread has run to a rendezvous or its end: who may go on?
void release() {
  m.ready.clear();
  for (int warp = 0; warp < m.count / kWarpSize; ++warp) {
    const int begin = warp * kWarpSize, end = begin + kWarpSize;
    const bool at_barrier = met(begin, end, State::kAtWarp);
    if (!at_barrier && !met(begin, end, State::kExchanges)) continue;
    m.warps[warp].epoch += at_barrier;
    for (int t = begin; t < end; ++t) m.ready.push_back(t);
  }
  if (!m.ready.empty() || !met(0, m.count, State::kAtBlock)) return;
  ++m.epoch;
  m.ready.resize(m.count);
  std::iota(m.ready.begin(), m.ready.end(), 0);
}

std::string place(const Thread& thread) {
  if (thread.state == State::kExited) return "has exited";
  const char* what = thread.state == State::kAtBlock ? "__syncthreads" : "a warp primitive";
  const char* file = strrchr(thread.file, '/');
  return std::string("waits in ") + what + " at " + (file ? file + 1 : thread.file) + ":" + std::to_string(thread.line);
}

// Nobody can go on. Fine if all have exited; else names two threads that are not at the same place.
void check_stuck() {
  const Thread& first = m.threads[0];
  for (int t = 0; t < m.count; ++t) {
    const Thread& thread = m.threads[t];
    if (thread.state == first.state && (first.state == State::kExited || (thread.line == first.line && thread.file == first.file)))
      continue;
    return fault("divergent barrier: thread 0 %s, thread %d %s", place(first).c_str(), t, place(thread).c_str());
  }
}

bool canaries_intact(const SharedObject& object) {
  for (int64_t i = 0; i < kCanaryBytes; ++i)
    if (object.data[-1 - i] != kCanary || object.data[object.bytes + i] != kCanary) return false;
  return true;
}

void run_block() {
  m.block_epoch = ++m.epoch;
  for (Warp& warp : m.warps) warp.epoch = 1;
  for (int t = 0; t < m.count; ++t) {
    m.threads[t].exchanges = 0;
    reset_fiber(m.threads[t].fiber, fiber_main);
  }
  m.ready.resize(m.count);
  std::iota(m.ready.begin(), m.ready.end(), 0);
  while (!m.ready.empty() && !m.failed) {
    for (uint32_t i = m.ready.size(); i > 1; --i) std::swap(m.ready[i - 1], m.ready[random_below(i)]);
    for (int t : m.ready) {
      resume(t);
      if (m.failed) return;
    }
    release();
  }
  check_stuck();
  for (const SharedObject* object : m.shared)
    if (!canaries_intact(*object))
      fault("shared memory overrun: something was written outside of `%s` (%s:%d), which has %lld elements", object->name,
            object->file, object->line, static_cast<long long>(object->count));
}

void prepare_stacks(int count) {
  constexpr size_t kGuard = 4096;  // an overflow faults instead of reaching the neighbour
  for (int t = 0; t < count; ++t) {
    Fiber& fiber = m.threads[t].fiber;
    if (!fiber.stack) {
      void* p = mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED || mprotect(p, kGuard, PROT_NONE) != 0) std::abort();
      fiber.stack = static_cast<char*>(p) + kGuard;
      fiber.stack_bytes = kStackBytes;
    }
#if SPX_ASAN
    __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);  // a failed launch leaves its red zones
#endif
  }
}

void free_shared() {
  for (SharedObject* object : m.shared) {
    delete[] object->allocation;
    delete[] object->access;
    delete object;
  }
  m.shared.clear();
  m.shared_bytes = 0;
}

int warp_of(int who) { return who <= kLanes ? kLanes - who : who >= 0 ? who / kWarpSize : -1; }

}  // namespace

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_error(format, arguments);
  va_end(arguments);
  if (m.current < 0) std::abort();
  switch_fiber(m.threads[m.current].fiber, m.scheduler);  // never continued
  __builtin_unreachable();
}

cudaError_t launch(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body) {
  const char* seed = getenv("SPARSE_EXT_EMULATION_SEED");
  m.random = (seed ? strtoull(seed, nullptr, 10) : 0) * 0x9E3779B97F4A7C15ull + 0xD1B54A32D192ED03ull;
  m.failed = false;
  m.error.clear();
  m.count = static_cast<int>(block.x);
  if (block.x == 0 || block.x > kMaxThreads || block.x % kWarpSize || block.y * block.z * grid.y * grid.z != 1) {
    m.error = std::string("emulation: ") + kernel + ": blocks are 1-D, of whole warps and at most 1024 threads; grids are 1-D";
    return cudaErrorInvalidConfiguration;
  }
  gridDim = grid;
  blockDim = block;
  m.body = &body;
  prepare_stacks(m.count);
  for (int t = 0; t < m.count; ++t) m.threads[t].index = {static_cast<unsigned>(t), 0, 0};
  uint64_t stride = grid.x > 2 ? 1 + random_below(grid.x - 1) : 1;  // i -> (i * stride + first) % grid is a random-looking order
  while (std::gcd(stride, uint64_t{grid.x}) != 1) ++stride;
  const uint64_t first = random_below(grid.x);
  for (uint64_t i = 0; i < grid.x && !m.failed; ++i) {
    blockIdx = {static_cast<unsigned>((i * stride + first) % grid.x), 0, 0};
    run_block();
  }
  free_shared();
  m.body = nullptr;
  return m.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

void wait_block(const char* file, int line) { wait(State::kAtBlock, file, line); }
void wait_warp(const char* file, int line) { wait(State::kAtWarp, file, line); }

const uint64_t* exchange(uint64_t v, const char* file, int line) {
  Thread& self = m.threads[m.current];
  uint64_t* lanes = m.warps[m.current / kWarpSize].lanes[self.exchanges++ & 1];
  lanes[m.current % kWarpSize] = v;
  wait(State::kExchanges, file, line);
  return lanes;
}

SharedObject* shared_object(const void* site, int64_t count, int64_t bytes, const char* name, const char* file, int line) {
  SharedObject* object = nullptr;
  for (SharedObject* candidate : m.shared)
    if (candidate->site == site) object = candidate;
  if (!object) {
    object = new SharedObject{site, name, file, line, count, count * bytes, nullptr, nullptr, new Access[count](), 0};
    object->allocation = new unsigned char[object->bytes + 2 * kCanaryBytes];
    object->data = object->allocation + kCanaryBytes;
    memset(object->allocation, kCanary, object->bytes + 2 * kCanaryBytes);
    m.shared.push_back(object);
    m.shared_bytes += object->bytes;
    if (m.shared_bytes > kMaxSharedBytes)
      fail("%s: more than %lld bytes of static shared memory", name, static_cast<long long>(kMaxSharedBytes));
  }
  if (object->block_epoch != m.block_epoch) {
    object->block_epoch = m.block_epoch;
    memset(object->data, kPoison, object->bytes);
  }
  return object;
}

void check_access(SharedObject* object, int64_t i, Kind kind) {
  if (i < 0 || i >= object->count)
    fail("shared memory overrun: `%s` (%s:%d) has %lld elements, index %lld", object->name, object->file, object->line,
         static_cast<long long>(object->count), static_cast<long long>(i));
  Access& a = object->access[i];
  const int me = m.current, warp = me / kWarpSize;
  const uint32_t warp_epoch = m.warps[warp].epoch;
  const bool atomic = kind == Kind::kAtomic, writes = kind != Kind::kRead;
  if (kind != Kind::kWrite && a.write_epoch < m.block_epoch)
    fail("read of unwritten shared memory: `%s[%lld]` (%s:%d)", object->name, static_cast<long long>(i), object->file, object->line);
  // A barrier of the block lies between accesses of different epochs, one of the warp between different warp epochs.
  const auto races = [&](int who, uint32_t epoch, uint32_t who_warp_epoch) {
    return epoch == m.epoch && who != me && (warp_of(who) != warp || who_warp_epoch == warp_epoch);
  };
  if ((races(a.writer, a.write_epoch, a.write_warp_epoch) && !(atomic && a.atomic)) ||
      (writes && races(a.reader, a.read_epoch, a.read_warp_epoch)))
    fail("race on shared memory: `%s[%lld]` (%s:%d) is %s by thread %d with no barrier after an access of another thread",
         object->name, static_cast<long long>(i), object->file, object->line, writes ? "written" : "read", me);
  if (!writes) {
    const bool first = a.read_epoch != m.epoch || a.reader == me;
    const bool same_warp = warp_of(a.reader) == warp;
    if (first || (same_warp && a.read_warp_epoch != warp_epoch)) a.reader = static_cast<int16_t>(me);
    else a.reader = static_cast<int16_t>(same_warp ? kLanes - warp : kSeveral);
    a.read_epoch = m.epoch;
    a.read_warp_epoch = warp_epoch;
  } else {
    const bool alone = a.write_epoch != m.epoch || a.writer == me;
    a.writer = alone || !atomic ? static_cast<int16_t>(me) : kSeveral;
    a.write_epoch = m.epoch;
    a.write_warp_epoch = warp_epoch;
    a.atomic = atomic;
  }
}

}  // namespace spx::emulator

// ---- the CUDA runtime, as far as csrc/cuda/device.cu needs it -----------------------------------------------------------
extern "C" {
const char* cudaGetErrorString(cudaError_t error) {
  const std::string& text = spx::emulator::m.error;
  return error == cudaSuccess ? "no error" : text.empty() ? "emulation: unknown error" : text.c_str();
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
}
