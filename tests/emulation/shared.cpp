// Shared memory: objects of exact size, and checks of every access. See emulator.h.
#include <algorithm>

#include "machine.h"

namespace spx::emulator {
namespace {

constexpr int64_t kMaxStaticBytes = 49152;           // of shared memory that the launch does not speak of
constexpr int64_t kCanaryBytes = SPX_ASAN ? 0 : 64;  // ASan's red zones begin at the first byte outside
constexpr unsigned char kCanary = 0xC5, kPoison = 0xFF;

std::vector<SharedObject*> objects;               // of the running launch
const char kDynamic[] = "dynamic shared memory";  // the site of all declarations of it

int warp_of(int who) { return who <= kLanes ? kLanes - who : who >= 0 ? who / kWarpSize : -1; }

// Combines `who`, who accessed an element before `me` in this epoch of the block, with `me`. For lanes of one warp, a barrier
// of the warp between the two (`ordered`) leaves only `me`.
int16_t both(int who, int me, bool ordered) {
  const int warp = me / kWarpSize;
  if (who == me || (ordered && warp_of(who) == warp)) return static_cast<int16_t>(me);
  return static_cast<int16_t>(warp_of(who) == warp ? kLanes - warp : kSeveral);
}

bool intact(const SharedObject& object) {
  for (int64_t i = 0; i < kCanaryBytes; ++i)
    if (object.data[-1 - i] != kCanary || object.data[object.bytes + i] != kCanary) return false;
  return true;
}

}  // namespace

int64_t max_shared_bytes() {
  const char* bytes = getenv("SPARSE_EXT_EMULATION_SHARED_BYTES");
  return bytes ? strtoll(bytes, nullptr, 10) : kMaxSharedBytes;
}

SharedObject* shared_object(const void* site, int64_t count, int64_t bytes, const char* name, const char* file, int line) {
  SharedObject* object = nullptr;
  const int rank = m.threads[m.current].rank;
  int64_t total = m.block.shared_bytes, most = std::min(kMaxStaticBytes + total, m.max_shared_bytes);
  for (SharedObject* other : objects) {
    if (other->rank != rank) continue;
    if (other->site == site) object = other;
    if (other->site != kDynamic) total += other->bytes;
  }
  if (!object) {
    if (site != kDynamic && (total += count * bytes) > most)
      fail("%s:%d: `%s` makes %lld bytes of shared memory", file, line, name, static_cast<long long>(total));
    object = new SharedObject{site, name, file, line, rank, count, count * bytes, nullptr, nullptr, new Access[count](), 0};
    object->allocation = new unsigned char[object->bytes + 2 * kCanaryBytes];
    object->data = object->allocation + kCanaryBytes;
    memset(object->allocation, kCanary, object->bytes + 2 * kCanaryBytes);
    objects.push_back(object);
  }
  if (object->block_epoch != m.block_epoch) {
    object->block_epoch = m.block_epoch;
    memset(object->data, kPoison, object->bytes);
  }
  return object;
}

SharedObject* dynamic_shared_object(int64_t bytes, const char* name, const char* file, int line) {
  return shared_object(kDynamic, m.block.shared_bytes / bytes, bytes, name, file, line);
}

SharedObject* object_of_rank(const void* site, int rank) {
  for (SharedObject* object : objects)
    if (object->site == site && object->rank == rank && object->block_epoch == m.block_epoch) return object;
  fail("shared memory of block %d of the cluster is used before that block is there", rank);
}
SharedObject* dynamic_of_rank(int rank) { return object_of_rank(kDynamic, rank); }

void check_canaries() {
  for (const SharedObject* object : objects)
    if (!intact(*object))
      fault("shared memory overrun: something was written outside of `%s` (%s:%d), which has %lld elements", object->name,
            object->file, object->line, static_cast<long long>(object->count));
}

void free_shared() {
  for (SharedObject* object : objects) {
    delete[] object->allocation;
    delete[] object->access;
    delete object;
  }
  objects.clear();
}

void check_access(SharedObject* object, int64_t i, Kind kind) {
  if (i < 0 || i >= object->count)
    fail("shared memory overrun: `%s` (%s:%d) has %lld elements, index %lld", object->name, object->file, object->line,
         static_cast<long long>(object->count), static_cast<long long>(i));
  Access& a = object->access[i];
  const int me = m.current, warp = me / kWarpSize;
  const uint32_t warp_epoch = m.warps[warp].epoch, epoch = m.epoch[object->rank];
  const bool atomic = kind == Kind::kAtomic, writes = kind != Kind::kRead;
  if (kind != Kind::kWrite && a.write_epoch < m.block_epoch)
    fail("read of unwritten shared memory: `%s[%lld]` (%s:%d)", object->name, static_cast<long long>(i), object->file,
         object->line);
  // Between accesses of different epochs lies a barrier of the block; of different warp epochs, one of the warp.
  const auto races = [&](int who, uint32_t who_epoch, uint32_t who_warp_epoch) {
    return who_epoch == epoch && who != me && (warp_of(who) != warp || who_warp_epoch == warp_epoch);
  };
  if ((races(a.writer, a.write_epoch, a.write_warp_epoch) && !(atomic && a.atomic)) ||
      (writes && races(a.reader, a.read_epoch, a.read_warp_epoch)))
    fail("race on shared memory: `%s[%lld]` (%s:%d) is %s with no barrier after another thread's access", object->name,
         static_cast<long long>(i), object->file, object->line, writes ? "written" : "read");
  if (!writes) {
    a.reader = a.read_epoch == epoch ? both(a.reader, me, a.read_warp_epoch != warp_epoch) : static_cast<int16_t>(me);
    a.read_epoch = epoch;
    a.read_warp_epoch = warp_epoch;
  } else {
    const bool together = atomic && a.write_epoch == epoch;
    a.writer = together ? both(a.writer, me, a.write_warp_epoch != warp_epoch) : static_cast<int16_t>(me);
    a.write_epoch = epoch;
    a.write_warp_epoch = warp_epoch;
    a.atomic = atomic;
  }
}

}  // namespace spx::emulator
