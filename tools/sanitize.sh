#!/usr/bin/env bash
# Runs the kernel tests on an ASan + UBSan build: the CPU kernels at every instruction set, and the CUDA kernels emulated.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

. tools/sanitized.sh
if [[ -z $sanitizers ]]; then
  echo "sanitize: skipped, ${CXX:-c++} has no sanitizer libraries"
  exit 0
fi
export SPARSE_EXT_EMULATION_SEED=${SPARSE_EXT_EMULATION_SEED:-23}  # another order of the emulated threads than make test's
# What a sanitizer says before it aborts must not be held back with a test's output: --capture=sys.
# Emulated threads are five times as slow here: one type of each size, and not the tests that repeat a kernel for its bits or need
# hundreds of blocks.
left_out="emulated and (float64 or sm_80-float16 or sm_90a-float16 or many_tiles or same_bits or smaller_devices or large or width)"
left_out="($left_out) or (test_nm24_gemm and (1030 or 4100))"  # as many tiles as a device takes in turns
# One code for all instruction sets.
left_out="($left_out) or (nm24 and not regrow and (cpu-baseline or cpu-v4-)) or ((csr_spmm or csr_sddmm) and cpu-baseline)"
# Tests of layouts and patterns call kernels that have tests of their own.
python_only=(--ignore=tests/ops/test_layout.py --ignore=tests/ops/test_pattern.py --ignore=tests/ops/test_product.py)
LD_PRELOAD=$sanitizers pytest -n auto --maxprocesses 8 --dist loadfile -p no:cacheprovider --capture=sys tests/ops "${python_only[@]}" -k "(cpu or emulated) and not ($left_out)" "$@"
