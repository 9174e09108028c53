# Sourced by sanitize.sh and fuzz.sh, in the root of the repository: builds the package under ASan + UBSan, into .sanitize, where no
# other test looks. Afterwards PYTHONPATH names it, and $sanitizers what LD_PRELOAD needs; empty where the compiler has none.
asan=$(${CXX:-c++} -print-file-name=libasan.so) ubsan=$(${CXX:-c++} -print-file-name=libubsan.so)
if [[ $asan != /* || $ubsan != /* ]]; then
  sanitizers=""
  return
fi
sanitizers="$asan $ubsan"
build=.sanitize/build site=$PWD/.sanitize/site
mkdir -p .sanitize
cmake -S . -B "$build" -G Ninja -DSPARSE_EXT_CUDA=off -DSPARSE_EXT_EMULATION=ON \
  -DSPARSE_EXT_SANITIZE=ON -DCMAKE_MAKE_PROGRAM="$(command -v ninja)" -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build"

# A package of its own, before the installed one on the path: `pytest`, unlike `python -m pytest`, leaves the current folder out.
rm -rf "$site" && mkdir -p "$site"
cp -r sparse_ext "$site" && rm -f "$site"/sparse_ext/*.so
cmake --install "$build" --prefix "$site/sparse_ext"
export PYTHONPATH=$site ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
SPARSE_EXT_EMULATED=$(echo "$site"/sparse_ext/_C_emulated*.so)
[[ -e $SPARSE_EXT_EMULATED ]] && export SPARSE_EXT_EMULATED || unset SPARSE_EXT_EMULATED
