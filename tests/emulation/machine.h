// Shared by the parts of the emulator: the threads of the running block, the epochs, the first fault.
#pragma once
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"

// What cudaGetLastError reports and clears. Tests read and write it.
extern "C" __attribute__((visibility("default"))) int spx_last_error;

namespace spx::emulator {

constexpr int kWarpSize = 32;
constexpr int kMaxBlockThreads = 1024;
constexpr int kMaxThreads = 2048;  // of a cluster
constexpr int kMaxCluster = 8;

enum class State { kRuns, kAtCluster, kAtBlock, kAtWarp, kExchanges, kAtBarrier, kExited };

struct Thread {
  Fiber fiber;
  uint3 index;
  int rank;  // of its block in the cluster
  State state;
  const char* file;  // of the rendezvous
  int line;
  int exchanges;                              // how many so far: picks the buffer
  std::vector<std::function<void()>> copies;  // cp.async, under way
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
  int count = 0;  // threads of a cluster
  BlockShape block;
  int64_t max_shared_bytes = 0;
  unsigned first_block = 0;  // of the cluster
  int current = -1;          // the thread that runs
  const std::function<void()>* body = nullptr;
  uint32_t epoch[kMaxCluster] = {}, block_epoch = 1;  // grow over all launches: nothing has to be cleared
  bool failed = false;
  std::string error;
  uint64_t random = 0;
  std::vector<int> ready;
};
extern Machine m;

// Keeps the first fault; later ones are usually its consequences. Unlike fail(), it returns.
void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

uint32_t random_below(uint32_t n);
void wait(State state, const char* file, int line);

// tma.cpp. Copies happen without a thread.
void reset_copies();                 // for a new cluster
bool run_copy(bool late);            // runs one that is under way (`late`: or a late one); false if there is none
bool barrier_has_ended(int thread);  // whether the phase has ended that the thread waits for
void check_copies();                 // at the end of a cluster: none is left
// wgmma.cpp
void reset_products();
void check_products();

SharedObject* dynamic_of_rank(int rank);

int64_t max_shared_bytes();  // of a block, static and dynamic: those of sm_90, or what SPARSE_EXT_EMULATION_SHARED_BYTES says

void check_canaries();
void free_shared();

}  // namespace spx::emulator
