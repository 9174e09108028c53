// The Python module: one line per launcher, in the submodules `cpu` and `cuda`. Pointers and sizes only; ops/ has checked them.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/random.h"
#include "kernels.h"

namespace py = pybind11;

namespace spx {
namespace {

using Ptr = uintptr_t;  // tensor.data_ptr(); 0 stands for "none"

// The order of sparse_ext/ops/launch.py DTYPES.
enum Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

template <class T>
T* at(Ptr p) {
  return reinterpret_cast<T*>(p);
}

template <class Index>
CsrPattern<Index> pattern_at(int64_t rows, int64_t cols, int64_t capacity, Ptr row_ptr, Ptr col_idx, Ptr slot) {
  return {rows, cols, capacity, at<const int32_t>(row_ptr), at<const Index>(col_idx), at<const int32_t>(slot)};
}

template <class A>
Candidates<A> candidates_at(int64_t capacity, Ptr at_entry, Ptr score, Ptr position, Ptr count) {
  return {capacity, at<A>(at_entry), at<A>(score), at<int64_t>(position), at<int64_t>(count)};
}

[[noreturn]] void throw_unsupported(const char* op, int dtype) {
  throw std::invalid_argument(std::string(op) + ": no kernel for dtype code " + std::to_string(dtype) + " on this device");
}

}  // namespace
}  // namespace spx

namespace spx::cpu {
namespace {

struct Scope {  // CPU kernels run without the GIL
  explicit Scope(int) {}
  py::gil_scoped_release release;
};
Where where_of(Ptr where) { return static_cast<int>(where); }
void check(const char* op, Status status) {
  if (status != kOk) throw std::runtime_error(std::string(op) + ": failed with status " + std::to_string(status));
}
template <class F>
void with_dtype(const char* op, int dtype, F f) {
  switch (dtype) {
    case kFloat32: return f(float());
    case kFloat64: return f(double());
    case kBFloat16: return f(bf16());
    default: throw_unsupported(op, dtype);
  }
}
#include "bindings.inc"

}  // namespace
}  // namespace spx::cpu

#ifdef SPX_WITH_CUDA
namespace spx::cuda {
namespace {

using Scope = DeviceGuard;  // launches are asynchronous: the GIL stays
Where where_of(Ptr where) { return at<void>(where); }
void check(const char* op, Status status) {
  if (status != kOk) throw std::runtime_error(std::string(op) + ": " + describe_failure(status));
}
template <class F>
void with_dtype(const char* op, int dtype, F f) {
  switch (dtype) {
    case kFloat32: return f(float());
    case kFloat64: return f(double());
    case kBFloat16: return f(bf16());
    case kFloat16: return f(f16());
    default: throw_unsupported(op, dtype);
  }
}
#include "bindings.inc"

}  // namespace
}  // namespace spx::cuda
#endif

PYBIND11_MODULE(SPX_MODULE_NAME, m) {
  m.doc() = "Kernels of sparse_ext. Raw pointers: call them through sparse_ext.ops.";
  m.attr("version") = SPX_VERSION;
  m.attr("cuda_archs") = SPX_CUDA_ARCHS;  // "" where the binary has no CUDA kernels
  m.def("random_u32", &spx::random_u32, "Element i of the Philox stream `seed`.", py::arg("seed"), py::arg("i"));

  auto cpu = m.def_submodule("cpu", "CPU kernels; the last argument is the thread count.");
  spx::cpu::bind_launchers(cpu);
  cpu.def("isa", &spx::cpu::isa, "The instruction set in use: baseline, v3 (AVX2), v4 (AVX-512) or v4_bf16 (and AVX512-BF16).");
  cpu.def("use_isa", &spx::cpu::use_isa, "Chooses another one; False where this CPU does not have it.", py::arg("name"));

#ifdef SPX_WITH_CUDA
  auto cuda = m.def_submodule("cuda", "CUDA kernels; the last argument is the stream handle.");
  spx::cuda::bind_launchers(cuda);
  cuda.def("isa", &spx::cuda::isa, "Whose kernels are in use: sm_80 (portable), sm_90a or sm_90a_shared (Hopper).");
  cuda.def("use_isa", &spx::cuda::use_isa, "Chooses others; False where the current device does not have them.",
           py::arg("name"));
  cuda.def("device_count", &spx::cuda::device_count, "Number of usable devices; 0 without a driver.");
  cuda.def("driver_version", &spx::cuda::driver_version, "13000 for CUDA 13.0; 0 without a driver.");
  cuda.def("runtime_version", &spx::cuda::runtime_version, "Version of the linked CUDA runtime.");
#endif
}
