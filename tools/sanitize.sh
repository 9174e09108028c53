#!/usr/bin/env bash
# Runs the kernel tests on an ASan + UBSan build: the CPU kernels at every instruction set, and the CUDA kernels emulated.
# Arguments go to pytest. The build lives in .sanitize, where no other test looks.
set -euo pipefail
cd "$(dirname "$0")/.."

build=.sanitize/build site=$PWD/.sanitize/site
asan=$(${CXX:-c++} -print-file-name=libasan.so) ubsan=$(${CXX:-c++} -print-file-name=libubsan.so)
if [[ $asan != /* || $ubsan != /* ]]; then
  echo "sanitize: skipped, ${CXX:-c++} has no sanitizer libraries"
  exit 0
fi
mkdir -p .sanitize
cmake -S . -B "$build" -G Ninja -DSPARSE_EXT_CUDA=off -DSPARSE_EXT_EMULATION=ON \
  -DSPARSE_EXT_SANITIZE=ON -DCMAKE_MAKE_PROGRAM="$(command -v ninja)" -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build"

# A package of its own, before the installed one on the path: `pytest`, unlike `python -m pytest`, leaves the current folder out.
rm -rf "$site" && mkdir -p "$site"
cp -r sparse_ext "$site" && rm -f "$site"/sparse_ext/*.so
cmake --install "$build" --prefix "$site/sparse_ext"
export SPARSE_EXT_EMULATION_SEED=${SPARSE_EXT_EMULATION_SEED:-23}  # another order of the emulated threads than make test's
export PYTHONPATH=$site ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
SPARSE_EXT_EMULATED=$(echo "$site"/sparse_ext/_C_emulated*.so)
[[ -e $SPARSE_EXT_EMULATED ]] && export SPARSE_EXT_EMULATED || unset SPARSE_EXT_EMULATED
# What a sanitizer says before it aborts must not be held back with a test's output: --capture=sys.
# Emulated threads are five times as slow here: one type of each size, and not the tests that repeat a kernel for its bits or need
# hundreds of blocks.
left_out="emulated and (float64 or sm_80-float16 or sm_90a-float16 or sm_90a_shared-float16 or many_tiles or same_bits or smaller_devices or large or width)"
left_out="($left_out) or (test_nm24_gemm and (1030 or 4100))"  # as many tiles as a device takes in turns
# One code for all instruction sets.
left_out="($left_out) or (nm24 and not regrow and (cpu-baseline or cpu-v4-)) or ((csr_spmm or csr_sddmm) and cpu-baseline)"
# Tests of layouts and patterns call kernels that have tests of their own.
python_only=(--ignore=tests/ops/test_layout.py --ignore=tests/ops/test_pattern.py --ignore=tests/ops/test_product.py)
LD_PRELOAD="$asan $ubsan" pytest -n auto --maxprocesses 8 --dist loadfile -p no:cacheprovider --capture=sys tests/ops "${python_only[@]}" -k "(cpu or emulated) and not ($left_out)" "$@"
