#!/usr/bin/env bash
# tools/cuda_from_pypi.sh FOLDER: makes the folder a CUDA toolkit, of NVIDIA's wheels and as much as this package needs of it:
# nvcc, headers, the static runtime. So an nvcc needs no image, no system packages and no rights; 100 MB come by pip.
# Then CUDACXX=FOLDER/bin/nvcc compiles, and CUDA_HOME=FOLDER has the headers for the emulated kernels.
set -euo pipefail
folder=$(realpath -m "${1:?expected the folder to make}")
if [[ -e $folder ]]; then
  echo "cuda_from_pypi: expected a new folder, but $folder is there"
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# All are named and none is resolved: the wheels ask for one another in any version, and those of a release belong together.
# The release is what tests/csrc/test_sass.py has its numbers of registers from.
"${PYTHON:-python3}" -m pip --disable-pip-version-check install -q --no-deps --only-binary :all: --target "$work" \
  ${PIP_ARGS:-} nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
mkdir -p "$(dirname "$folder")"
mv "$work/nvidia/cu13" "$folder"
# As an installed toolkit has it: nvcc.profile and CMake look into lib64, and CMake asks for libcudart.so, which nothing links.
ln -s lib "$folder/lib64"
ln -s libcudart.so.13 "$folder/lib/libcudart.so"
"$folder/bin/nvcc" --version | tail -2
