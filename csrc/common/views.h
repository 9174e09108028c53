// What a kernel sees of a tensor: pointers and sizes, nothing owned.
#pragma once
#include <cstdint>

#include "common/types.h"

namespace spx {

// A row-major, contiguous matrix [rows, cols].
template <class T>
struct DenseView {
  int64_t rows, cols;
  T* data;

  SPX_HOST_DEVICE T* row(int64_t r) const { return data + r * cols; }
};

// Where the non-zeros of a [rows, cols] matrix are, in compressed sparse rows.
//
//   row_ptr  [rows + 1]  row r owns the entries row_ptr[r] .. row_ptr[r + 1]; row_ptr[rows] is nnz
//   col_idx  [capacity]  columns, ascending inside a row; Index is int32_t, or uint16_t where cols <= 65536
//   slot     [capacity]  which element of the values belongs to entry p; null: element p
//
// The transposed view of a matrix is again a CsrPattern, with cols and rows exchanged and a `slot`, so that values
// are stored once and never move. Entries behind nnz are unused: col_idx is 0 there and values are 0.
template <class Index>
struct CsrPattern {
  int64_t rows, cols, capacity;
  const int32_t* row_ptr;
  const Index* col_idx;
  const int32_t* slot;

  SPX_HOST_DEVICE int64_t value_at(int64_t p) const { return slot ? slot[p] : p; }
};

// The same where a kernel writes the pattern (regrow, csr_transpose, csr_from_mask): always 32-bit columns.
struct CsrPatternOut {
  int64_t rows, cols, capacity;
  int32_t* row_ptr;
  int32_t* col_idx;
  int32_t* slot;
};

// A CSR matrix: a pattern and its values [capacity].
template <class T, class Index>
struct CsrView {
  CsrPattern<Index> pattern;
  const T* values;
};

// A 2:4 matrix [rows, cols]: of every four neighbours of a row two are stored (common/nm24/groups.h).
//
//   values  [rows, 2 * groups]           groups = ceil(cols / 4); 0 where the row has no such column
//   ids     [rows, ceil(groups / 2)]     bytes: two codes of groups, first | second << 2, the even group in the low half
template <class T>
struct Nm24View {
  int64_t rows, cols;
  T* values;
  uint8_t* ids;

  SPX_HOST_DEVICE int64_t groups() const { return (cols + 3) / 4; }
  SPX_HOST_DEVICE T* values_of_row(int64_t r) const { return values + r * 2 * groups(); }
  SPX_HOST_DEVICE uint8_t* ids_of_row(int64_t r) const { return ids + r * ((groups() + 1) / 2); }
};

// How nm24_pack chooses two of four.
enum class Nm24Choice { kGiven, kLargest, kSoft, kTransposable };

// The candidates for growth (regrow_candidates): the best positions outside a pattern. They replace the dense score.
//
//   at_entry  [capacity of the pattern]  the score at each entry, in case it is dropped
//   score     [candidates]  of each candidate. For random growth it is null, as is at_entry: the position determines the score
//   position  [candidates]  r * cols + c of each candidate, ascending
//   count     [1]  how many there are; elements behind them are unspecified
template <class A>
struct Candidates {
  int64_t candidates;  // the length of the list
  A* at_entry;
  A* score;
  int64_t* position;
  int64_t* count;
};

}  // namespace spx
