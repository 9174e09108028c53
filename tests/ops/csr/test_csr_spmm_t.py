"""The input gradient on a CPU: by the matrix itself for few tokens, by its transposed view for many, with the same bits."""

import pytest
import torch
from cases import ARGUMENTS, INDEX_DTYPES, Shape, assert_agrees, name_of, problem

from sparse_ext.ops import BACKENDS, OPS
from sparse_ext.ops.csr import kernels

OPERATOR = "csr_spmm_t"

SHAPES = (
    Shape(70, 264, 130, 0.3),  # a part of a token block behind whole ones
    Shape(40, 3000, 40, 0.05, spare=5),  # columns in several ranges
    Shape(33, 2100, 9, 1.0),
    Shape(130, 264, 3, 0.05, skew=True),  # empty rows
    Shape(5, 2, 33, 0.5),  # fewer columns than threads
)
ON_CPU = pytest.mark.only("on CUDA there is one way", lambda case: case.kind == "cpu")


def by(few, monkeypatch):
    monkeypatch.setattr(kernels, "FEW_REGISTERS", 1 << 30 if few else 0)


@ON_CPU
@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_ways_have_the_same_bits(shape, index, device, dtype, monkeypatch):
    """For any number of threads. Multiples of 1/8 would add up without rounding in any order."""
    p = problem(shape, dtype, device, index)
    for tensor in (p.weight, p.dy):
        tensor.mul_(torch.rand(tensor.shape).to(dtype))
    (arguments,) = ARGUMENTS["csr_spmm_t"](p)
    by(False, monkeypatch)
    assert_agrees("csr_spmm_t", arguments, dtype)
    gathered = OPS["csr_spmm_t"](*arguments)
    by(True, monkeypatch)
    assert_agrees("csr_spmm_t", arguments, dtype)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        scattered = OPS["csr_spmm_t"](*arguments)
        if threads == 1:
            first = scattered
        assert torch.equal(scattered, first)
    if dtype != torch.bfloat16:  # pairs of bfloat16 are multiplied by an instruction of their own
        assert torch.equal(scattered, gathered)


@ON_CPU
def test_few_tokens_need_no_transposed_view(device, dtype, monkeypatch):
    """It is not read: whatever it holds, the result is the same."""
    (arguments,) = ARGUMENTS["csr_spmm_t"](problem(SHAPES[0], dtype, device))
    by(True, monkeypatch)
    before = OPS["csr_spmm_t"](*arguments)
    arguments[5].fill_(0)  # slot
    assert torch.equal(OPS["csr_spmm_t"](*arguments), before)
    by(False, monkeypatch)
    assert not torch.equal(OPS["csr_spmm_t"](*arguments), before)


@ON_CPU
def test_how_many_are_few(device, dtype, monkeypatch):
    """Two registers of the sums."""
    called, most = [], {"baseline": 8, "v3": 16, "v4": 32, "v4_bf16": 32}[BACKENDS["cpu"].module.isa()]
    if dtype == torch.float64:
        most //= 2
    monkeypatch.setattr(kernels, "multiply", lambda op, weight, *rest: called.append(rest[3].shape[0]) or rest[3][:, :0])
    for tokens in (1, most, most + 1):
        (arguments,) = ARGUMENTS["csr_spmm_t"](problem(Shape(6, 8, tokens, 0.5), dtype))
        kernels.csr_spmm_t.kernel(*arguments)
    assert called == [most + 1]
