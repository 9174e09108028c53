// Tells libFuzzer which code ran. g++ calls __sanitizer_cov_trace_pc in every basic block (-fsanitize-coverage=trace-pc), while
// libFuzzer reads counters that only clang makes. So every module that is built with sanitizers has counters, and this counts.
// Where no libFuzzer is loaded, libasan's own definitions take the counters and ignore them.
#include <cstddef>
#include <cstdint>

namespace {

// A block's counter is a hash of its place in the module: 2^17 are several times as many as there are blocks that ever run.
constexpr int kBits = 17;
constexpr size_t kCounters = size_t{1} << kBits;

uint8_t counters[kCounters];
uintptr_t places[2 * kCounters];  // (address, flags) of every counter; libFuzzer asks for the table, but needs no addresses

}  // namespace

extern "C" {

[[gnu::weak]] void __sanitizer_cov_8bit_counters_init(uint8_t* begin, uint8_t* end);
[[gnu::weak]] void __sanitizer_cov_pcs_init(const uintptr_t* begin, const uintptr_t* end);

[[gnu::visibility("hidden")]] void __sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0)) - reinterpret_cast<uintptr_t>(counters);
  ++counters[(place * 0x9E3779B97F4A7C15u) >> (64 - kBits)];
}

[[gnu::constructor]] static void register_counters() {
  if (!__sanitizer_cov_8bit_counters_init || !__sanitizer_cov_pcs_init) return;
  __sanitizer_cov_8bit_counters_init(counters, counters + kCounters);
  __sanitizer_cov_pcs_init(places, places + 2 * kCounters);
}

}  // extern "C"
