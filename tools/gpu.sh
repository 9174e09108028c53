#!/usr/bin/env bash
# Builds, tests, sanitizes and measures on a machine with a GPU; nothing is installed or fetched.
#
#   tools/gpu.sh full|quick     full: under 9 minutes, quick: under 3
#   OUT      folder for machine.log, build.log, tests.log, memcheck.log, racecheck.log, bench.log, bench.jsonl, summary.txt
#   PYTHON   interpreter with torch, pybind11 and pytest (default: python3)
# A missing tool or a step out of time is recorded and the rest goes on. Exit status 1: the build or a step failed, or no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

mode=${1:-full}
out=${OUT:-out}
python=${PYTHON:-python3}
build=${SPARSE_EXT_BUILD_DIR:-build/gpu}
case $mode in
  full) budget=525 pytest_args=(-k "not emulated") dtypes=(bfloat16 float32) bench_args=(--budget 0.3 --sparsity 0.8 0.9 0.95 0.98) ;;
  quick) budget=170 pytest_args=(-k "cuda and not emulated" -m "not slow") dtypes=(bfloat16) bench_args=(--budget 0.1 --sparsity 0.9 0.98) ;;
  *) echo "expected full or quick, got '$mode'" >&2; exit 2 ;;
esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/{machine,build,tests,memcheck,racecheck,bench}.log "$out"/{bench.jsonl,summary.txt}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin  # compute-sanitizer is often there alone
failed=0

say() { echo "$*" | tee -a "$out/summary.txt"; }

# step NAME SECONDS COMMAND...: runs within its own and the whole script's time, logs to NAME.log; returns the command's status.
step() {
  local name=$1 limit=$2 left=$((budget - SECONDS)) start=$SECONDS status=0
  shift 2
  if ((left < 5)); then say "$name: skipped, no time left"; return 125; fi
  ((limit > left)) && limit=$left
  timeout --kill-after=5 "$limit" "$@" >>"$out/$name.log" 2>&1 || status=$?
  case $status in
    0) say "$name: ok ($((SECONDS - start)) s)" ;;
    124 | 137) say "$name: stopped after $((SECONDS - start)) s, see $name.log" ;;
    *) say "$name: FAILED with status $status ($((SECONDS - start)) s), see $name.log" ;;
  esac
  return $status
}

# A step that was cut short or skipped is no failure.
judge() { [[ $1 =~ ^(0|124|125|137)$ ]] || failed=1; }

describe_machine() {
  nvidia-smi; nvcc --version; cmake --version; uname -a
  "$python" -c "import sys, torch; print(sys.version); print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
  git log -1 --format='commit %H'
}

# For this machine's card alone where time is short.
compile() {
  local archs=() card
  card=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
  [[ $mode == quick && -n $card ]] && archs=(-DSPARSE_EXT_CUDA_ARCHS="${card/#90/90a}-real")
  cmake -S . -B "$build" -G Ninja -DSPARSE_EXT_CUDA=on "${archs[@]}" \
    -DSPARSE_EXT_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    cmake --build "$build" && cmake --install "$build" --prefix sparse_ext
}

# What is installed and why CUDA is unavailable; fails where it is.
check_device() { "$python" -m sparse_ext && "$python" -c "import sparse_ext, sys; sys.exit(not sparse_ext.cuda_available())"; }

# sanitize TOOL SECONDS: the small CUDA tests under compute-sanitizer, without torch's caching allocator, which hides overruns.
sanitize() {
  local tool=$1 limit=$2 status=0
  if ! command -v compute-sanitizer >/dev/null; then say "$tool: skipped, no compute-sanitizer"; return; fi
  step "$tool" "$limit" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 86 \
    "$python" -m pytest tests/ops -q -x -p no:cacheprovider \
    -k "cuda and (by_hand or agrees_with_its_twin) and not large" || status=$?
  if grep -qi "device not supported" "$out/$tool.log"; then
    say "$tool: refused by this machine"
  else
    judge $status
  fi
}

describe_machine >"$out/machine.log" 2>&1
if ! step build 150 bash -c "$(declare -f compile); mode=$mode python=$python build=$build; compile"; then
  tail -30 "$out/build.log"
  say "result: FAILED (build)"
  exit 1
fi
check_device >>"$out/machine.log" 2>&1 || { say "device: FAILED, no usable CUDA: see machine.log"; failed=1; }
step tests 180 "$python" -m pytest -q -ra --durations=15 -p no:cacheprovider "${pytest_args[@]}" || failed=1  # out of time counts
tail -25 "$out/tests.log"
if [[ $mode == full ]]; then
  sanitize memcheck 70
  sanitize racecheck 60
fi
step bench 45 "$python" -m bench run --suite gpu --device cuda --dtype bfloat16 --out "$out/bench.jsonl" --sparsity 0.5 --budget 0.1 \
  --products forward "input gradient" "weight gradient" step pack \
  --contenders "2:4" "2:4 mvue" "2:4 sm_90a" "2:4 sm_90a mvue" "2:4 sm_90a shared" "torch 2:4"
judge $?
for dtype in "${dtypes[@]}"; do
  step bench 75 "$python" -m bench run --suite gpu --device cuda --dtype "$dtype" --out "$out/bench.jsonl" \
    --products forward "input gradient" "weight gradient" step regrow --contenders tf32 sparse_ext sm_90a torch.sparse "${bench_args[@]}"
  judge $?
done
say "result: $([[ $failed == 0 ]] && echo ok || echo FAILED) in $SECONDS s, $mode, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
exit "$failed"
