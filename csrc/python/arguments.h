// The arguments of launchers as Python passes them. A view is a tuple of pointers, sizes and dtypes:
//
//   Matrix         (data, dtype, rows, cols)
//   Pattern        (row_ptr, col_idx, slot, is_16_bit, rows, cols, capacity)    is_16_bit: col_idx is uint16
//   Csr            (values, dtype, pattern)
//   Nm24           (values, dtype, ids, rows, cols)
//   Convolution    (batch, groups, channels, height, width, rows, out_height, out_width, and of height and width each: kernel,
//                  stride, padding, dilation)
//   CandidateList  (at_entry, score, position, count, dtype, candidates)        dtype: of the scores
// A pointer is tensor.data_ptr(), or 0 for none; a dtype is one of the codes below. ops/boundary/views.py makes them.
//
// Each converts to the views of its kind for any T; is(View*) tells whether its dtypes are those of that view.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>

#include "common/conv.h"
#include "common/types.h"
#include "common/views.h"

struct CUstream_st;  // *cudaStream_t

namespace spx::python {

using pybind11::detail::const_name;

// The order of DTYPES in ops/boundary/launch.py.
enum Dtype : int { kFloat32, kFloat64, kBFloat16, kFloat16, kByte, kInt32 };
constexpr const char* kDtypeNames[] = {"float32", "float64", "bfloat16", "float16", "byte", "int32"};

template <class T>
constexpr Dtype kDtypeOf = kInt32;
template <>
inline constexpr Dtype kDtypeOf<float> = kFloat32;
template <>
inline constexpr Dtype kDtypeOf<double> = kFloat64;
template <>
inline constexpr Dtype kDtypeOf<bf16> = kBFloat16;
template <>
inline constexpr Dtype kDtypeOf<f16> = kFloat16;
template <>
inline constexpr Dtype kDtypeOf<uint8_t> = kByte;
template <class T>
bool is_dtype(int code) {
  return code == kDtypeOf<std::remove_const_t<T>>;
}
inline std::string dtype_name(int code) {
  return kFloat32 <= code && code <= kInt32 ? kDtypeNames[code] : "dtype code " + std::to_string(code);
}

struct Pointer {
  static constexpr auto kSignature = const_name("int");
  uintptr_t address;

  template <class T>
  operator T*() const {
    return reinterpret_cast<T*>(address);
  }
};

struct Matrix {
  static constexpr auto kSignature = const_name("tuple[int, int, int, int]");
  Pointer data;
  int dtype;
  int64_t rows, cols;

  auto fields() { return std::tie(data, dtype, rows, cols); }
  template <class T>
  operator DenseView<T>() const {
    return {rows, cols, data};
  }
  template <class T>
  bool is(const DenseView<T>*) const {
    return is_dtype<T>(dtype);
  }
};

struct Pattern {
  static constexpr auto kSignature = const_name("tuple[int, int, int, bool, int, int, int]");
  Pointer row_ptr, col_idx, slot;
  bool is_16_bit;
  int64_t rows, cols, capacity;

  auto fields() { return std::tie(row_ptr, col_idx, slot, is_16_bit, rows, cols, capacity); }
  template <class Index>
  operator CsrPattern<Index>() const {
    return {rows, cols, capacity, row_ptr, col_idx, slot};
  }
  operator CsrPatternOut() const { return {rows, cols, capacity, row_ptr, col_idx, slot}; }
  template <class Index>
  bool is(const CsrPattern<Index>*) const {
    return is_16_bit == std::is_same_v<Index, uint16_t>;
  }
  bool is(const CsrPatternOut*) const { return !is_16_bit; }
};

struct Csr {
  static constexpr auto kSignature = const_name("tuple[int, int, tuple[int, int, int, bool, int, int, int]]");
  Pointer values;
  int dtype;
  Pattern pattern;

  auto fields() { return std::tie(values, dtype, pattern); }
  template <class T, class Index>
  operator CsrView<T, Index>() const {
    return {pattern, values};
  }
  template <class T, class Index>
  bool is(const CsrView<T, Index>*) const {
    return is_dtype<T>(dtype) && pattern.is(static_cast<const CsrPattern<Index>*>(nullptr));
  }
};

struct Nm24 {
  static constexpr auto kSignature = const_name("tuple[int, int, int, int, int]");
  Pointer values;
  int dtype;
  Pointer ids;
  int64_t rows, cols;

  auto fields() { return std::tie(values, dtype, ids, rows, cols); }
  template <class T>
  operator Nm24View<T>() const {
    return {rows, cols, values, ids};
  }
  template <class T>
  bool is(const Nm24View<T>*) const {
    return is_dtype<T>(dtype);
  }
};

struct Convolution {
  static constexpr auto kSignature =
      const_name("tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int]");
  Conv2d shape;

  auto fields() {
    return std::tie(shape.batch, shape.groups, shape.channels, shape.height, shape.width, shape.rows, shape.out_height,
                    shape.out_width, shape.kernel_h, shape.kernel_w, shape.stride_h, shape.stride_w, shape.pad_top,
                    shape.pad_left, shape.dilation_h, shape.dilation_w);
  }
  operator Conv2d() const { return shape; }
};

struct CandidateList {
  static constexpr auto kSignature = const_name("tuple[int, int, int, int, int, int]");
  Pointer at_entry, score, position, count;
  int dtype;
  int64_t candidates;

  auto fields() { return std::tie(at_entry, score, position, count, dtype, candidates); }
  template <class A>
  operator Candidates<A>() const {
    return {candidates, at_entry, score, position, count};
  }
  template <class A>
  bool is(const Candidates<A>*) const {
    return is_dtype<A>(dtype);
  }
};

// A device's index and the handle of one of its streams.
struct DeviceStream {
  static constexpr auto kSignature = const_name("tuple[int, int]");
  int device;
  Pointer handle;

  auto fields() { return std::tie(device, handle); }
  operator CUstream_st*() const { return handle; }
};

// An integer modulo 2^64: a seed.
struct Word {
  static constexpr auto kSignature = const_name("int");
  uint64_t bits;

  operator uint64_t() const { return bits; }
};

struct Choice {
  static constexpr auto kSignature = const_name("int");
  int code;

  operator Nm24Choice() const { return static_cast<Nm24Choice>(code); }
};

// What Python passes for a parameter of a launcher: numbers as they are.
template <class Parameter>
struct ArgumentOf {
  using type = Parameter;
};
template <class T>
struct ArgumentOf<T*> {
  using type = Pointer;
};
template <class T>
struct ArgumentOf<DenseView<T>> {
  using type = Matrix;
};
template <class Index>
struct ArgumentOf<CsrPattern<Index>> {
  using type = Pattern;
};
template <>
struct ArgumentOf<CsrPatternOut> {
  using type = Pattern;
};
template <class T, class Index>
struct ArgumentOf<CsrView<T, Index>> {
  using type = Csr;
};
template <class T>
struct ArgumentOf<Nm24View<T>> {
  using type = Nm24;
};
template <>
struct ArgumentOf<Conv2d> {
  using type = Convolution;
};
template <class A>
struct ArgumentOf<Candidates<A>> {
  using type = CandidateList;
};
template <>
struct ArgumentOf<uint64_t> {
  using type = Word;
};
template <>
struct ArgumentOf<Nm24Choice> {
  using type = Choice;
};
template <>
struct ArgumentOf<CUstream_st*> {
  using type = DeviceStream;
};
template <class Parameter>
using Argument = typename ArgumentOf<Parameter>::type;

// ---- from Python's objects ----------------------------------------------------------------------------------------------

template <class Integer>
bool read_integer(PyObject* object, Integer* value) {
  if (!PyLong_Check(object)) return false;
  int overflow = 0;
  const long long read = PyLong_AsLongLongAndOverflow(object, &overflow);
  *value = static_cast<Integer>(read);
  return overflow == 0 && static_cast<long long>(*value) == read;
}
inline bool read(PyObject* object, int& value) { return read_integer(object, &value); }
inline bool read(PyObject* object, int64_t& value) { return read_integer(object, &value); }
inline bool read(PyObject* object, Pointer& value) { return read_integer(object, &value.address); }
inline bool read(PyObject* object, bool& value) {
  value = object == Py_True;
  return PyBool_Check(object);
}
inline bool read(PyObject* object, Word& value) {
  if (!PyLong_Check(object)) return false;
  value.bits = PyLong_AsUnsignedLongLongMask(object);
  return true;
}
inline bool read(PyObject* object, Choice& value) {
  return read_integer(object, &value.code) && 0 <= value.code && value.code <= static_cast<int>(Nm24Choice::kTransposable);
}
template <class View>
auto read(PyObject* object, View& view) -> decltype(view.fields(), bool()) {
  return std::apply(
      [object](auto&... field) {
        if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != Py_ssize_t{sizeof...(field)}) return false;
        Py_ssize_t i = 0;
        return (read(PyTuple_GET_ITEM(object, i++), field) && ...);
      },
      view.fields());
}

}  // namespace spx::python

namespace pybind11::detail {

template <class View>
struct type_caster<View, std::void_t<decltype(View::kSignature)>> {
  PYBIND11_TYPE_CASTER(View, View::kSignature);
  bool load(handle source, bool) { return spx::python::read(source.ptr(), value); }
};

}  // namespace pybind11::detail
