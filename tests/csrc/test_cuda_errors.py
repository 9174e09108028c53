"""The CUDA runtime's pending error: others' is left alone, ours is cleared."""

import ctypes

import pytest
import torch
from cases import ARGUMENTS, Shape, problem

from sparse_ext.ops import OPS


@pytest.fixture
def last_error(emulated_file):
    """The emulated runtime's pending error, as a ctypes variable."""
    found = ctypes.c_int.in_dll(ctypes.CDLL(emulated_file), "spx_last_error")
    found.value = 0
    yield found
    found.value = 0


def test_a_pending_error_of_somebody_else_stays(last_error, emulated):
    """Whoever caused it has not asked yet; clearing it would hide it from them."""
    last_error.value = OTHERS = 700
    mask = torch.ones(3, 5, dtype=torch.bool)
    OPS["csr_from_mask"](mask, 15)
    emulated.use_isa("sm_90a"), emulated.use_isa("sm_80")
    emulated.device_count(), emulated.driver_version(), emulated.runtime_version()
    assert last_error.value == OTHERS


def test_the_error_of_a_failed_launch_is_reported_once(last_error, emulated, monkeypatch):
    """In our own sentence: torch's next call must not report it again."""
    monkeypatch.setenv("SPARSE_EXT_EMULATION_SHARED_BYTES", "64")
    p = problem(Shape(9, 17, 33, 1.0))
    with pytest.raises(RuntimeError, match="csr_spmm"):
        OPS["csr_spmm"](*ARGUMENTS["csr_spmm"](p)[0])
    assert last_error.value == 0
