#!/usr/bin/env bash
# Fuzzes what takes data from outside, guided by coverage, FUZZ_SECONDS for each target. Arguments: the targets; none: both.
# FUZZ_SEED: with the same one the inputs come in the same order; by default in another one every time.
#   loader      checkpoints of layers, and states of a Sparsifier
#   launchers   the operators on any indices that ops/ lets through: CPU kernels and emulated CUDA kernels, under ASan + UBSan
# A finding ends the run, and fails. Inputs that reached new code stay in .fuzz, where the next run starts.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! atheris=$(python -c 'import atheris; print(*atheris.__path__)' 2>/dev/null); then
  echo "fuzz: skipped, atheris has no wheel for this Python and machine"
  exit 0
fi

# fuzz TARGET LD_PRELOAD
fuzz() {
  local options=(-max_total_time="${FUZZ_SECONDS:-600}" -seed="${FUZZ_SEED:-0}" -max_len=64 -len_control=0 -timeout=120 -rss_limit_mb=0
                 -artifact_prefix=".fuzz/$1-" -verbosity=0 -print_final_stats=1)
  mkdir -p ".fuzz/$1"
  if ! env LD_PRELOAD="${2:-}" python -W ignore tests/fuzz/fuzz.py "$1" ".fuzz/$1" "${options[@]}" 2> >(grep -v "^INFO: " >&2); then
    echo "fuzz: $1 found something; mend it, and move .fuzz/$1-* to tests/fuzz/corpus/$1, which make test runs (OPERATOR.what)"
    exit 1
  fi
}

launchers() {
  . tools/sanitized.sh
  if [[ -z $sanitizers ]]; then
    echo "fuzz: launchers: skipped, ${CXX:-c++} has no sanitizer libraries"
    return
  fi
  # libFuzzer, which comes with atheris, is loaded first: libasan has empty functions of the same names.
  ${CXX:-c++} -shared -o .sanitize/libfuzzer.so -Wl,--whole-archive "$atheris/../libclang_rt.fuzzer_no_main.a" -Wl,--no-whole-archive
  # A size that there is no memory for is refused, not fatal.
  ASAN_OPTIONS+=:verify_asan_link_order=0:allocator_may_return_null=1:max_allocation_size_mb=1024
  fuzz launchers "$PWD/.sanitize/libfuzzer.so $sanitizers"
}

[[ $# -gt 0 ]] || set -- loader launchers
for target in "$@"; do
  if [[ $target == launchers ]]; then launchers; else fuzz "$target"; fi
done
