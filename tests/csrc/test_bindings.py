"""What the bindings say of arguments that no kernel is for; sizes are 0, so that nothing runs."""

import pytest

from sparse_ext.ops import BACKENDS

FLOAT32, FLOAT64, FLOAT16, UNKNOWN = 0, 1, 3, 9


def matrix(dtype):
    return 0, dtype, 0, 0


def csr(dtype):
    return 0, dtype, (0, 0, 0, False, 0, 0, 0)


def spmm(y=FLOAT32, w=FLOAT32, x=FLOAT32, relu=False):
    return BACKENDS["cpu"].module.csr_spmm(matrix(y), csr(w), matrix(x), 0, relu, 0, 1)


def test_dtypes_choose_the_kernel():
    spmm()
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


def test_arguments_of_another_kind():
    with pytest.raises(TypeError, match=r"y: tuple\[int, int, int, int\]"):
        spmm(relu=None)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        BACKENDS["cpu"].module.csr_spmm(matrix(FLOAT32), matrix(FLOAT32), matrix(FLOAT32), 0, False, 0, 1)
