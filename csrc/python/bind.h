// bind: makes a Python function of a launcher. The launcher's type says what Python passes (arguments.h). The dtypes of the
// arguments choose the instantiation. A binding only adds the names of the arguments.
#pragma once
#include <stdexcept>
#include <string>

#include "python/arguments.h"

namespace spx::python {

namespace py = pybind11;

// What a launcher is instantiated for: Each<Types<float, int32_t>, ...>.
template <class... T>
struct Types {};
template <class... List>
struct Each {};

template <class Codes, class... T>
auto code_for(const Codes& codes, Types<T...>) {
  return codes(T()...);
}

// Whether an argument is of the type that the launcher takes. Numbers and bare pointers always are.
template <class Parameter, class T>
auto fits(const T& argument) -> decltype(argument.is(static_cast<const Parameter*>(nullptr))) {
  return argument.is(static_cast<const Parameter*>(nullptr));
}
template <class Parameter>
bool fits(...) {
  return true;
}

// Calls the launcher if it is for arguments like these.
template <class Device, class Result, class... Parameters>
bool called(Result* result, Result (*launcher)(Parameters...), const Argument<Parameters>&... arguments) {
  if (!(fits<Parameters>(arguments) && ...)) return false;
  const auto& stream = std::get<sizeof...(Parameters) - 1>(std::tie(arguments...));
  if constexpr (std::is_same_v<Result, Status>) {
    const typename Device::Scope scope(stream);
    *result = launcher(arguments...);
  } else {  // a size: nothing runs
    *result = launcher(arguments...);
  }
  return true;
}

template <class T>
auto describe(const T& argument) -> decltype(argument.dtype, std::string()) {
  return " " + dtype_name(argument.dtype);
}
inline std::string describe(...) { return ""; }

template <class Device, class Result, class Codes, class... List, class... Arguments>
Result call(const char* name, const Codes& codes, Each<List...>, const Arguments&... arguments) {
  Result result{};
  if (!(called<Device>(&result, code_for(codes, List()), arguments...) || ...))
    throw std::invalid_argument(std::string(name) + ": no kernel on this device for" + (describe(arguments) + ...));
  return result;
}

template <class Device, class List, class Codes, class Result, class... Parameters, class... Names>
void bind_as(py::module_& m, const char* name, Codes codes, Result (*)(Parameters...), Names... names) {
  static_assert(sizeof...(Names) + 1 == sizeof...(Parameters), "a name for every parameter but the stream");
  const auto function = [name, codes](const Argument<Parameters>&... arguments) {
    const Result result = call<Device, Result>(name, codes, List(), arguments...);
    if constexpr (std::is_same_v<Result, Status>) {
      if (result != kOk) throw std::runtime_error(std::string(name) + ": " + Device::describe(result));
    } else {
      return result;
    }
  };
  m.def(name, function, py::arg(names)..., py::arg(Device::kStreamName));
}

template <class First, class... Rest>
First first_of(Each<First, Rest...>);

// codes(T()...) is the launcher for T...; `names` are those of its parameters in order, without the stream.
template <class Device, class List, class Codes, class... Names>
void bind(py::module_& m, const char* name, Codes codes, Names... names) {
  bind_as<Device, List>(m, name, codes, code_for(codes, decltype(first_of(List()))()), names...);
}

}  // namespace spx::python
