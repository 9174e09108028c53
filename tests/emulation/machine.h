// What the parts of the emulator share: the threads of the running block, the epochs, the first fault.
#pragma once
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace spx::emulator {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;  // of a block

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
  int count = 0;     // threads of a block
  int current = -1;  // the thread that runs
  const std::function<void()>* body = nullptr;
  uint32_t epoch = 1, block_epoch = 1;  // both grow over all launches: nothing has to be cleared
  bool failed = false;
  std::string error;
  uint64_t random = 0;
  std::vector<int> ready;
};
extern Machine m;

// Keeps the first fault: what follows from it tells less. Unlike fail(), it returns.
void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

void check_canaries();
void free_shared();

}  // namespace spx::emulator
