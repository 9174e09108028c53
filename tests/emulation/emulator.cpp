// The scheduler: threads as fibers, clusters in turn. See emulator.h.
#include "machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>

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

Machine m;

uint32_t random_below(uint32_t n) {
  m.random ^= m.random << 13;
  m.random ^= m.random >> 7;
  m.random ^= m.random << 17;
  return static_cast<uint32_t>((m.random >> 32) * n >> 32);
}

void later(std::function<void()> copy) { m.threads[m.current].copies.push_back(std::move(copy)); }
void land() {
  std::vector<std::function<void()>>& copies = m.threads[m.current].copies;
  for (const std::function<void()>& copy : copies) copy();
  copies.clear();
}

void wait(State state, const char* file, int line) {
  if (m.current < 0) std::abort();  // device code outside of a launch
  Thread& self = m.threads[m.current];
  self.state = state;
  self.file = file;
  self.line = line;
  switch_fiber(self.fiber, m.scheduler);
}

namespace {

// Keeps the first fault; later ones are usually its consequences.
void set_error(const char* format, va_list arguments) {
  if (m.failed) return;
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  m.error = std::string("emulation: ") + text + " (block " + std::to_string(blockIdx.x);
  if (m.current >= 0) m.error += ", thread " + std::to_string(m.current);
  m.error += ")";
  m.failed = true;
}

// Never returns, so ASan must not put red zones into its frame.
__attribute__((no_sanitize("address"))) void fiber_main() {
#if SPX_ASAN
  const void* stack;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &m.scheduler.stack_bytes);
  m.scheduler.stack = static_cast<char*>(const_cast<void*>(stack));
#endif
  (*m.body)();
  Thread& self = m.threads[m.current];
  if (!self.copies.empty()) fault("a thread ended without waiting for its copies: %zu", self.copies.size());
  self.state = State::kExited;
  switch_fiber(self.fiber, m.scheduler, true);
  __builtin_unreachable();
}

void resume(int t) {
  m.current = t;
  threadIdx = m.threads[t].index;
  blockIdx.x = m.first_block + m.threads[t].rank;
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

// Releases the threads of blocks [rank, end_rank), which have met at a barrier.
void pass_barrier(int rank, int end_rank) {
  for (; rank < end_rank; ++rank) {
    ++m.epoch[rank];
    for (unsigned t = 0; t < m.block.threads; ++t) m.ready.push_back(static_cast<int>(rank * m.block.threads + t));
  }
}

// Once every thread has reached a rendezvous or its end: releases those that may go on.
void release() {
  m.ready.clear();
  const int blocks = static_cast<int>(m.block.cluster), threads = static_cast<int>(m.block.threads);
  for (int warp = 0; warp < m.count / kWarpSize; ++warp) {
    const int begin = warp * kWarpSize, end = begin + kWarpSize;
    const bool at_barrier = met(begin, end, State::kAtWarp);
    if (!at_barrier && !met(begin, end, State::kExchanges)) continue;
    m.warps[warp].epoch += at_barrier;
    for (int t = begin; t < end; ++t) m.ready.push_back(t);
  }
  for (int t = 0; t < m.count; ++t)
    if (m.threads[t].state == State::kAtBarrier && barrier_has_ended(t)) m.ready.push_back(t);
  for (int rank = 0; rank < blocks; ++rank)
    if (met(rank * threads, (rank + 1) * threads, State::kAtBlock)) pass_barrier(rank, rank + 1);
  if (met(0, m.count, State::kAtCluster)) pass_barrier(0, blocks);
}

std::string place(const Thread& thread) {
  if (thread.state == State::kExited) return "has exited";
  const char* what = thread.state == State::kAtCluster   ? "cluster_sync"
                     : thread.state == State::kAtBlock   ? "__syncthreads"
                     : thread.state == State::kAtBarrier ? "barrier_wait"
                                                         : "a warp primitive";
  const char* file = strrchr(thread.file, '/');
  return std::string("waits in ") + what + " at " + (file ? file + 1 : thread.file) + ":" + std::to_string(thread.line);
}

// No thread can go on. An error unless all have exited: a thread waits for a barrier that will never complete, or two threads
// wait at different places.
void check_stuck() {
  const Thread& first = m.threads[0];
  for (int t = 0; t < m.count; ++t)
    if (m.threads[t].state == State::kAtBarrier)
      return fault("endless wait: thread %d %s, and nothing that could end it is under way", t, place(m.threads[t]).c_str());
  for (int t = 0; t < m.count; ++t) {
    const Thread& thread = m.threads[t];
    if (thread.state == first.state &&
        (first.state == State::kExited || (thread.line == first.line && thread.file == first.file)))
      continue;
    return fault("divergent barrier: thread 0 %s, thread %d %s", place(first).c_str(), t, place(thread).c_str());
  }
}

bool all_exited() {
  return std::all_of(m.threads.begin(), m.threads.begin() + m.count,
                     [](const Thread& thread) { return thread.state == State::kExited; });
}

void run_cluster() {
  m.block_epoch = *std::max_element(m.epoch, m.epoch + kMaxCluster) + 1;
  for (uint32_t& epoch : m.epoch) epoch = m.block_epoch;
  for (Warp& warp : m.warps) warp.epoch = 1;
  reset_copies();
  reset_products();
  for (int t = 0; t < m.count; ++t) {
    m.threads[t].exchanges = 0;
    m.threads[t].copies.clear();
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
    while (random_below(2) && run_copy(false)) continue;
    release();
    while (m.ready.empty() && !all_exited() && run_copy(true)) release();
  }
  check_stuck();
  check_copies();
  check_products();
  check_canaries();
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
  }
}

// The fibers of a failed launch never continue, so ASan's red zones on their stacks are removed.
void abandon_stacks() {
#if SPX_ASAN
  for (int t = 0; t < m.count; ++t) __asan_unpoison_memory_region(m.threads[t].fiber.stack, kStackBytes);
#endif
}

}  // namespace

void fault(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_error(format, arguments);
  va_end(arguments);
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_error(format, arguments);
  va_end(arguments);
  if (m.current < 0) std::abort();
  switch_fiber(m.threads[m.current].fiber, m.scheduler);  // never continued
  __builtin_unreachable();
}

cudaError_t launch(const char* kernel, unsigned grid, BlockShape block, const std::function<void()>& body) {
  const char* seed = getenv("SPARSE_EXT_EMULATION_SEED");
  m.random = (seed ? strtoull(seed, nullptr, 10) : 0) * 0x9E3779B97F4A7C15ull + 0xD1B54A32D192ED03ull;
  m.count = static_cast<int>(block.threads * block.cluster);
  if (m.count == 0 || block.threads > kMaxBlockThreads || m.count > kMaxThreads || block.threads % kWarpSize ||
      block.cluster > kMaxCluster || grid % block.cluster) {
    m.error =
        std::string("emulation: ") + kernel +
        ": blocks are 1-D, of whole warps and at most 1024 threads; clusters have at most 2048, and a grid is whole clusters";
    return cudaErrorInvalidConfiguration;
  }
  gridDim = dim3(grid);
  blockDim = dim3(block.threads);
  m.block = block;
  m.max_shared_bytes = max_shared_bytes();
  m.body = &body;
  prepare_stacks(m.count);
  m.failed = false;
  m.error.clear();
  for (int t = 0; t < m.count; ++t) {
    m.threads[t].index = {static_cast<unsigned>(t) % block.threads, 0, 0};
    m.threads[t].rank = t / static_cast<int>(block.threads);
  }
  const unsigned clusters = grid / block.cluster;
  uint64_t stride = clusters > 2 ? 1 + random_below(clusters - 1) : 1;
  while (std::gcd(stride, uint64_t{clusters}) != 1) ++stride;
  const uint64_t first = random_below(clusters);
  for (uint64_t i = 0; i < clusters && !m.failed; ++i) {  // (i * stride + first) % clusters is a random-looking order
    m.first_block = static_cast<unsigned>((i * stride + first) % clusters) * block.cluster;
    blockIdx = {m.first_block, 0, 0};
    run_cluster();
  }
  if (m.failed) abandon_stacks();
  free_shared();
  m.body = nullptr;
  if (m.failed) spx_last_error = cudaErrorLaunchFailure;
  return m.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

void wait_cluster(const char* file, int line) { wait(State::kAtCluster, file, line); }
void wait_block(const char* file, int line) { wait(State::kAtBlock, file, line); }
void wait_warp(const char* file, int line) { wait(State::kAtWarp, file, line); }

const uint64_t* exchange(uint64_t v, const char* file, int line) {
  Thread& self = m.threads[m.current];
  uint64_t* lanes = m.warps[m.current / kWarpSize].lanes[self.exchanges++ & 1];
  lanes[m.current % kWarpSize] = v;
  wait(State::kExchanges, file, line);
  return lanes;
}

}  // namespace spx::emulator
