// Fibers: a stack each and a switch of six registers. (ucontext makes two system calls per switch: 13 times slower.)
#pragma once
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#error "the emulation's fiber switch is written for x86-64"
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SPX_ASAN 1
#else
#define SPX_ASAN 0
#endif

namespace spx::emulator {

constexpr size_t kStackBytes = 64 << (SPX_ASAN ? 12 : 10);  // ASan's red zones need room

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;  // lowest address; null for the thread that schedules
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's
};

extern "C" void spx_emulator_switch(void** save, void* load);

// Continues `to` and returns when something switches back to `from`.
inline void switch_fiber(Fiber& from, Fiber& to, bool from_ends = false) {
#if SPX_ASAN
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#else
  static_cast<void>(from_ends);
#endif
  spx_emulator_switch(&from.stack_pointer, to.stack_pointer);
#if SPX_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// Makes `fiber` start at `entry`, which never returns.
inline void reset_fiber(Fiber& fiber, void (*entry)()) {
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes) - 2;  // 16-byte aligned
  *top = reinterpret_cast<void*>(entry);
  for (int i = 1; i <= 6; ++i) top[-i] = nullptr;  // the six registers
  fiber.stack_pointer = top - 6;
}

}  // namespace spx::emulator
