// The Python module: its submodules `cpu` and `cuda` hold the launchers. Pointers and sizes only; ops/ has checked them.
#include <pybind11/pybind11.h>

#include <string>

#include "common/random.h"
#include "kernels.h"
#include "python/bind.h"

namespace py = pybind11;
using spx::python::Each;
using spx::python::Types;

namespace spx::cpu {
namespace {

struct Device {
  static constexpr const char* kStreamName = "threads";
  struct Scope {  // CPU kernels run without the GIL
    explicit Scope(Threads) {}
    py::gil_scoped_release release;
  };
  static std::string describe(Status status) { return "failed with status " + std::to_string(status); }
};

using Once = Each<Types<>>;
using Sums = Each<Types<float>, Types<double>>;
using Values = Each<Types<float>, Types<double>, Types<bf16>>;
using ValuesAndIndices = Each<Types<float, int32_t>, Types<float, uint16_t>, Types<double, int32_t>, Types<double, uint16_t>,
                              Types<bf16, int32_t>, Types<bf16, uint16_t>>;
using ValuesAndSources = Each<Types<float, float>, Types<double, double>, Types<bf16, bf16>, Types<bf16, float>>;

template <class List, class... Arguments>
void bind(Arguments&&... arguments) {
  python::bind<Device, List>(arguments...);
}

#define SPX_ON_CPU
#define SPX_MULTIPLIES(f)                                        \
  [](auto... type) {                                             \
    if constexpr ((std::is_same_v<decltype(type), bf16> || ...)) \
      return SPX_OF_ISA_WITH_BF16(f<decltype(type)...>);         \
    else                                                         \
      return SPX_OF_ISA(f<decltype(type)...>);                   \
  }
#define SPX_COMPUTES(f) [](auto... type) { return SPX_OF_ISA(f<decltype(type)...>); }
#define SPX_MOVES(f) [](auto... type) { return &baseline::f<decltype(type)...>; }
#define SPX_SINGLE(f) [] { return &baseline::f; }
#include "python/bindings.inc"
#undef SPX_ON_CPU
#undef SPX_MULTIPLIES
#undef SPX_COMPUTES
#undef SPX_MOVES
#undef SPX_SINGLE

}  // namespace
}  // namespace spx::cpu

#ifdef SPX_WITH_CUDA
namespace spx::cuda {
namespace {

struct Device {
  static constexpr const char* kStreamName = "stream";
  struct Scope : DeviceGuard {  // launches are asynchronous: the GIL stays
    explicit Scope(const python::DeviceStream& stream) : DeviceGuard(stream.device) {}
  };
  static std::string describe(Status status) { return describe_failure(status); }
};

using Once = Each<Types<>>;
using Sums = Each<Types<float>, Types<double>>;
using Values = Each<Types<float>, Types<double>, Types<bf16>, Types<f16>>;
using ValuesAndIndices = Each<Types<float, int32_t>, Types<float, uint16_t>, Types<double, int32_t>, Types<double, uint16_t>,
                              Types<bf16, int32_t>, Types<bf16, uint16_t>, Types<f16, int32_t>, Types<f16, uint16_t>>;
using ValuesAndSources =
    Each<Types<float, float>, Types<double, double>, Types<bf16, bf16>, Types<bf16, float>, Types<f16, f16>, Types<f16, float>>;

template <class List, class... Arguments>
void bind(Arguments&&... arguments) {
  python::bind<Device, List>(arguments...);
}

#define SPX_MULTIPLIES(f) [](auto... type) { return &f<decltype(type)...>; }
#define SPX_COMPUTES SPX_MULTIPLIES
#define SPX_MOVES SPX_MULTIPLIES
#define SPX_SINGLE(f) [] { return &f; }
#include "python/bindings.inc"

}  // namespace
}  // namespace spx::cuda
#endif

PYBIND11_MODULE(SPX_MODULE_NAME, m) {
  m.doc() = "Kernels of sparse_ext. Raw pointers: call them through sparse_ext.ops.";
  m.attr("version") = SPX_VERSION;
  m.attr("cuda_archs") = SPX_CUDA_ARCHS;  // "" where the binary has no CUDA kernels
  m.def("random_u32", &spx::random_u32, "Element i of the Philox stream `seed`.", py::arg("seed"), py::arg("i"));

  auto cpu = m.def_submodule("cpu", "CPU kernels; the last argument is the number of threads.");
  spx::cpu::bind_launchers(cpu);
  cpu.def("isa", &spx::cpu::isa, "The instruction set in use: baseline, v3 (AVX2), v4 (AVX-512) or v4_bf16 (and AVX512-BF16).");
  cpu.def("register_bytes", &spx::cpu::register_bytes, "Bytes of a vector register of that instruction set.");
  cpu.def("use_isa", &spx::cpu::use_isa, "Chooses another one; False if this CPU does not have it.", py::arg("name"));

#ifdef SPX_WITH_CUDA
  auto cuda = m.def_submodule("cuda", "CUDA kernels; the last argument is (device, stream handle).");
  spx::cuda::bind_launchers(cuda);
  cuda.def("isa", &spx::cuda::isa, "Whose kernels are in use: sm_80 (portable) or sm_90a (Hopper).");
  cuda.def("use_isa", &spx::cuda::use_isa, "Chooses others; False if the current device does not have them.", py::arg("name"));
  cuda.def("device_count", &spx::cuda::device_count, "Number of usable devices; 0 without a driver.");
  cuda.def("driver_version", &spx::cuda::driver_version, "13000 for CUDA 13.0; 0 without a driver.");
  cuda.def("runtime_version", &spx::cuda::runtime_version, "Version of the linked CUDA runtime.");
#endif
}
