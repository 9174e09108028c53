"""Builds sparse_ext._C by CMake + ninja. Torch is neither needed nor imported here.

Environment: SPARSE_EXT_CUDA=auto|on|off, SPARSE_EXT_CUDA_ARCHS, SPARSE_EXT_GLIBC, SPARSE_EXT_BUILD_DIR,
SPARSE_EXT_CMAKE_ARGS, CMAKE_BUILD_PARALLEL_LEVEL.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def wants_cuda() -> str:
    """SPARSE_EXT_CUDA; for another value CMake would take it for "auto" without a word."""
    value = os.environ.get("SPARSE_EXT_CUDA") or "auto"
    if value not in ("auto", "on", "off"):
        sys.exit(f"environment variable SPARSE_EXT_CUDA: expected auto, on or off, got {value!r}; or unset it")
    return value


class CMakeBuild(build_ext):
    """Runs CMakeLists.txt, which holds the only list of sources, and puts the modules where setuptools expects them."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        # A fixed folder: setuptools' own is a new temporary one at every editable install, and nothing would be reused.
        build = ROOT / os.environ.get("SPARSE_EXT_BUILD_DIR", f"build/{sys.implementation.cache_tag}")
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            # Every option is named, or the folder's cache would bring back an earlier build's choice.
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "SPARSE_EXT_VERSION": self.distribution.get_version(),
            "SPARSE_EXT_CUDA": wants_cuda(),
            "SPARSE_EXT_GLIBC": os.environ.get("SPARSE_EXT_GLIBC", "2.28"),
            "SPARSE_EXT_EMULATION": "OFF",
        }
        archs = os.environ.get("SPARSE_EXT_CUDA_ARCHS")
        defines = [f"-D{key}={value}" for key, value in options.items()]
        defines += [f"-DSPARSE_EXT_CUDA_ARCHS={archs}" if archs else "-USPARSE_EXT_CUDA_ARCHS"]
        defines += shlex.split(os.environ.get("SPARSE_EXT_CMAKE_ARGS", ""))
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *defines], check=True)
        subprocess.run(["cmake", "--build", build], check=True)
        subprocess.run(["cmake", "--install", build, "--prefix", target], check=True)


setup(ext_modules=[Extension("sparse_ext._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
