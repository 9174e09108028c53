// wgmma. See hopper.h.
#include "cuda/device/hopper.cuh"

#include <algorithm>
#include <array>

#include "machine.h"

namespace spx::emulator {
namespace {

using Product = std::function<void()>;

// The products that a thread has started: committed groups, oldest first, and loose ones. fenced: a wgmma_fence has followed
// the last access to the sums; codes_fenced: one has followed the last wait, after which codes may be written.
struct Products {
  std::vector<std::vector<Product>> groups;
  std::vector<Product> loose;
  bool fenced = false, codes_fenced = false;
};

std::vector<Products> products(kMaxThreads);

// An operand by its matrix descriptor. T = 8 elements of 16 bits are 128 bits, and in the canonical layouts element (i, step)
// has these offsets:
//   MN-major, 128-byte swizzle  ((T, 8, m), (8, k)) : ((1, T, LBO), (8T, SBO))
//   K-major, 128-byte swizzle   ((8, m), (T, 2k)) : ((8T, SBO), (1, T)); it begins and ends inside one row of 128 bytes
//   K-major, 64-byte swizzle    ((8, m), (T, 2k)) : ((4T, SBO), (1, T)); the same of 64 bytes
struct Operand {
  uint32_t start, leading, stride, width;
  bool k_major;

  Operand(uint64_t descriptor, bool k_major)
      : start((descriptor & 0x3FFF) << 4),
        leading((descriptor >> 16 & 0x3FFF) << 4),
        stride((descriptor >> 32 & 0x3FFF) << 4),
        width(descriptor >> 62 == 1 ? 128 : 64),
        k_major(k_major) {
    if (descriptor >> 62 != 1 && !(descriptor >> 62 == 2 && k_major))
      fail("wgmma: swizzles of 128 and, K-major, 64 bytes are emulated, the descriptor's mode is %d", int(descriptor >> 62));
    if (descriptor >> 49 & 7 || start % 1024 >= (k_major ? width : 1))
      fail("wgmma: an operand's swizzle pattern begins at multiples of 1024 bytes");
  }
  uint32_t offset(int i, int step) const {
    if (!k_major) return i % 64 * sizeof(uint16_t) + i / 64 * leading + step % 8 * 128 + step / 8 * stride;
    if (start % width + step * sizeof(uint16_t) >= width)
      fail("wgmma: an operand ends behind the %u bytes of its swizzle pattern", width);
    return step * sizeof(uint16_t) + i % 8 * width + i / 8 * stride;
  }
  uint16_t at(const SharedObject* memory, int i, int step) const {
    const int64_t byte = int64_t{swizzled(start + offset(i, step), width)} - kDynamicAddress;
    if (byte < 0 || byte + int64_t{sizeof(uint16_t)} > memory->bytes)
      fail("wgmma reads beyond `%s` (%s:%d)", memory->name, memory->file, memory->line);
    uint16_t bits;
    memcpy(&bits, memory->data + byte, sizeof bits);
    return bits;
  }
};

using Value = float (*)(uint16_t);

// Adds to the current thread's sums, by "register fragment layout for accumulator matrix D": 16 elements of each of its two
// rows, times the steps `at`.
void add_products(float* d, const float (&rows)[2][16], const int (&at)[2][16], const Operand& b, int steps, Value value) {
  const SharedObject* memory = dynamic_of_rank(m.threads[m.current].rank);
  const int lane = m.current % kWarpSize;
  float col[32];
  for (int n = 0; n < 64; ++n) {
    for (int k = 0; k < steps; ++k) col[k] = value(b.at(memory, n / 2 * 8 + lane % 4 * 2 + n % 2, k));
    for (int half = 0; half < 2; ++half)
      for (int k = 0; k < 16; ++k) d[n / 2 * 4 + half * 2 + n % 2] += rows[half][k] * col[at[half][k]];
  }
}

// The current thread's rows of a in shared memory.
void read_rows(float (&rows)[2][16], const Operand& a, Value value) {
  const SharedObject* memory = dynamic_of_rank(m.threads[m.current].rank);
  const int warp = m.current / kWarpSize % 4, lane = m.current % kWarpSize;
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 16; ++k) rows[half][k] = value(a.at(memory, 16 * warp + lane / 4 + 8 * half, k));
}

void run_product(float* d, uint64_t a, uint64_t b, Value value) {
  float rows[2][16];
  int at[2][16];
  read_rows(rows, Operand(a, false), value);
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 16; ++k) at[half][k] = k;
  add_products(d, rows, at, Operand(b, false), 16, value);
}

// Where the 16 stored elements of the current thread's two rows belong, by "Sparse matrix storage", from the codes of the four
// lanes of its quad: of the two lanes that the selector names, the first has those of columns 0 to 15, the second of 16 to 31;
// bits 0 to 15 are row g's, bits 16 to 31 row g + 8's.
void places(int (&at)[2][16], const std::array<uint32_t, 4>& codes, int selector) {
  for (int row = 0; row < 2; ++row)
    for (int group = 0; group < 8; ++group) {
      const int code = static_cast<int>(codes[2 * selector + group / 4] >> (16 * row + 4 * (group % 4)) & 15);
      if ((code & 3) >= code >> 2) fail("wgmma: code %d is not of two ascending positions", code);
      at[row][2 * group] = 4 * group + (code & 3);
      at[row][2 * group + 1] = 4 * group + (code >> 2);
    }
}

void check_descriptor(uint64_t descriptor, const char* file, int line) {
  const uint64_t* lanes = exchange(descriptor, file, line);
  for (int lane = 0; lane < kWarpSize; ++lane)
    if (lanes[lane] != descriptor) fail("wgmma: the lanes of a warp have different descriptors");
}

// The words of the four lanes of the current thread's quad.
std::array<uint32_t, 4> of_quad(uint32_t word, const char* file, int line) {
  const uint64_t* lanes = exchange(word, file, line) + m.current % kWarpSize / 4 * 4;
  std::array<uint32_t, 4> words;
  for (int j = 0; j < 4; ++j) words[j] = static_cast<uint32_t>(lanes[j]);
  return words;
}

}  // namespace

void reset_products() { std::fill_n(products.begin(), m.count, Products{}); }

void check_products() {
  for (int t = 0; t < m.count; ++t)
    if (!products[t].groups.empty() || !products[t].loose.empty()) fault("thread %d ends without waiting for its products", t);
}

void start_product(float* d, uint64_t a, uint64_t b, float (*value)(uint16_t), const char* file, int line) {
  Products& own = products[m.current];
  if (!own.fenced) fail("wgmma: no wgmma_fence since the sums were last touched");
  check_descriptor(a, file, line);
  check_descriptor(b, file, line);
  own.loose.push_back([=] { run_product(d, a, b, value); });
}

void start_sparse_product(float* d, uint64_t a, uint64_t b, const uint32_t* codes, int selector, Value value, const char* file,
                          int line) {
  const Products& own = products[m.current];
  if (!own.fenced || !own.codes_fenced) fail("wgmma: no wgmma_fence since the sums or the codes were last touched");
  check_descriptor(a, file, line);
  check_descriptor(b, file, line);
  const std::array<uint32_t, 4> quad = of_quad(*codes, file, line);
  products[m.current].loose.push_back([=] {
    if (quad[m.current % 4] != *codes) fail("wgmma: codes were written while a product reads them (%s:%d)", file, line);
    float rows[2][16];
    int at[2][16];
    read_rows(rows, Operand(a, true), value);
    places(at, quad, selector);
    add_products(d, rows, at, Operand(b, true), 32, value);
  });
}

void commit_products() {
  products[m.current].groups.push_back(std::move(products[m.current].loose));
  products[m.current].loose.clear();
}

void wait_products(size_t groups, const char* file, int line) {
  Products& own = products[m.current];
  for (; own.groups.size() > groups; own.groups.erase(own.groups.begin()))
    for (const Product& product : own.groups.front()) product();
  if (own.groups.empty()) own.fenced = false;  // now the thread may use the sums
  own.codes_fenced = false;
  exchange(0, file, line);  // as the whole warp waits
}

void fence_products() { products[m.current].fenced = products[m.current].codes_fenced = true; }

}  // namespace spx::emulator
