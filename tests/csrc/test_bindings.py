"""What the bindings say of arguments that no kernel is for; sizes are 0, so that nothing runs."""

import pytest

from sparse_ext.ops import BACKENDS

FLOAT32, FLOAT64, FLOAT16, UNKNOWN = 0, 1, 3, 9


def matrix(dtype):
    return 0, dtype, 0, 0


def csr(dtype):
    return 0, dtype, (0, 0, 0, False, 0, 0, 0)


def spmm(y, w, x):
    return BACKENDS["cpu"].module.csr_spmm(matrix(y), csr(w), matrix(x), 0, False, 0, 1)


def test_dtypes_choose_the_kernel():
    spmm(FLOAT32, FLOAT32, FLOAT32)
    spmm(FLOAT64, FLOAT64, FLOAT64)


@pytest.mark.parametrize(
    ("dtypes", "seen"),
    [
        ((FLOAT16, FLOAT16, FLOAT16), "float16 float16 float16"),
        ((FLOAT32, FLOAT64, FLOAT32), "float32 float64 float32"),
        ((FLOAT32, FLOAT32, UNKNOWN), "float32 float32 dtype code 9"),
    ],
    ids=["none", "mixed", "unknown"],
)
def test_no_kernel_for_these_dtypes(dtypes, seen):
    with pytest.raises(ValueError, match=f"csr_spmm: no kernel on this device for {seen}"):
        spmm(*dtypes)


@pytest.mark.parametrize("y", [0, (0, FLOAT32, 0), (0, FLOAT32, 0, 0.0), csr(FLOAT32)], ids=["int", "short", "float", "csr"])
def test_arguments_of_another_kind(y):
    with pytest.raises(TypeError, match=r"y: tuple\[int, int, int, int\]"):
        BACKENDS["cpu"].module.csr_spmm(y, csr(FLOAT32), matrix(FLOAT32), 0, False, 0, 1)
