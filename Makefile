# Every target works in a fresh clone; Python (>= 3.10, with venv), a C++ compiler and make are enough.
#   make test     builds, with the CUDA kernels emulated on the CPU where the toolkit's headers are found, and runs the tests
#                 TEST_ARGS="-m slow" runs the slow ones instead, TEST_ARGS=--all-cases what sampling leaves out as well
#   make zoo      models, trainers and optimizers of other packages, which it installs: Hugging Face, PyTorch Geometric, ONNX ...
#   make pages    the page of a comparison in a headless browser, which it installs where it may
#   make demo     trains a dense and a sparse network side by side        DEMO_ARGS="--full", or "--quick"
#   make accuracy  every method on four small tasks; docs/accuracy.md  ACCURACY_ARGS="--task digits --methods rigl,set", or "--quick"
#   make sanitize  the kernel tests under ASan and UBSan
#   make fuzz     looks for checkpoints and indices that break something; FUZZ_SECONDS for each of two targets, default 600
#   make stubs    writes sparse_ext/_C.pyi, after a change of the bindings
#   make bench    measures the kernels                                    BENCH_ARGS="run ..."
#   make gpu      on a machine with a GPU, without network: builds, tests, sanitizes, measures; results in OUT (default: out)
#   make dist     the sdist and the wheel that would be published, checked     DIST=dist
# Without a GPU no CUDA kernels are compiled for devices; SPARSE_EXT_CUDA=on compiles them anyway.
# pip reads PIP_ARGS and its own PIP_* variables, such as an index with a CPU-only torch.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TEST_ARGS ?=
DEMO_ARGS ?=
ACCURACY_ARGS ?=
BENCH_ARGS ?= run
DIST ?= dist

BIN = $(abspath $(VENV))/bin
INSTALL = $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt $(PIP_ARGS)
SOURCES = CMakeLists.txt setup.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.* tests/emulation/*.*)
CXX_FILES = $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.* tests/emulation/*.h tests/emulation/*.cpp tests/emulation/*.cu)
export PATH := $(BIN):$(PATH)
ASKED_CUDA := $(SPARSE_EXT_CUDA)
export SPARSE_EXT_CUDA := $(or $(ASKED_CUDA),$(if $(shell nvidia-smi -L 2>/dev/null),auto,off))

.PHONY: build test zoo pages demo accuracy bench sanitize fuzz stubs lint format gpu gpu-quick dist clean venv
venv: $(VENV)/.tools
build: $(VENV)/.with-test

# The build tools live in the environment itself, so that a second build compiles only what has changed.
$(VENV)/.tools: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "setuptools>=77" wheel pybind11 "cmake>=3.24" ninja
	touch $@

# The package in place, with one of its extras.
$(VENV)/.with-%: $(VENV)/.tools $(SOURCES)
	$(INSTALL) --no-build-isolation -e ".[$*]"
	-@cat "$$(ls -t build/*/built.txt | head -1)"
	touch $@
$(VENV)/.with-test: export SPARSE_EXT_CMAKE_ARGS += -DSPARSE_EXT_EMULATION=ON

# Tests in other processes want the core where a thread waits for others; by default it would spin there.
test zoo pages sanitize: export OMP_WAIT_POLICY := passive

test: $(VENV)/.with-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m "not slow" $(TEST_ARGS)

zoo: $(VENV)/.with-test $(VENV)/.with-zoo
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile tests/zoo $(TEST_ARGS)

pages: $(VENV)/.with-test $(VENV)/.with-pages
	tools/pages.sh $(TEST_ARGS)

sanitize: $(VENV)/.with-test
	tools/sanitize.sh $(TEST_ARGS)

# Without a wheel of atheris, tools/fuzz.sh says that it skips.
fuzz: $(VENV)/.with-test
	-$(INSTALL) --only-binary :all: atheris
	tools/fuzz.sh

stubs: $(VENV)/.with-lint $(VENV)/.with-test
	$(BIN)/python tools/stubs.py "$$(ls -t build/*/_C_emulated*.so | head -1)"
	$(BIN)/ruff format sparse_ext/_C.pyi

demo: $(VENV)/.with-demo
	$(BIN)/python -m examples.demo $(DEMO_ARGS)

# What its file of results has already is not run again.
accuracy: $(VENV)/.with-demo
	$(BIN)/python -m accuracy $(ACCURACY_ARGS)

bench: $(VENV)/.with-bench
	$(BIN)/python -m bench $(BENCH_ARGS)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/actionlint
	test "$$($(BIN)/cibuildwheel --platform linux --print-build-identifiers | cut -d- -f1 | xargs)" = \
	  "cp310 cp311 cp312 cp313 cp314"

format: $(VENV)/.with-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# Uses the system's Python and tools as they are; installs nothing.
gpu:
	$(PYTHON) tools/gpu.py full
gpu-quick:
	$(PYTHON) tools/gpu.py quick

# A wheel is for other machines: it has CUDA kernels wherever there is an nvcc.
dist: export SPARSE_EXT_CUDA := $(or $(ASKED_CUDA),auto)
dist:
	PYTHON="$(PYTHON)" PIP_ARGS="$(PIP_ARGS)" tools/dist.sh $(DIST)

clean:
	rm -rf build build-* dist out .sanitize .fuzz *.egg-info sparse_ext/*.so $(VENV)/.with-*
