"""Every operator of OPS on every device kind and dtype: by hand, against its twin, then what must hold for all of them."""

import pytest
import torch
from by_hand import HAND, REGROW, tensors
from cases import (
    ARGUMENTS,
    BEYOND_16_BITS,
    INDEXED,
    INDEXED_OPS,
    LARGE,
    MASKED,
    SMALL,
    SUMS,
    TENSOR_CORES,
    THREADED,
    TOLERANCE,
    TORCH_SUMS,
    Shape,
    name_of,
    problem,
    sum_dtype,
)

from sparse_ext.ops import OPS, Candidates, reference

MEDIUM = Shape(33, 70, 35, 0.2, spare=7)
EXACT = {"rtol": 0, "atol": 0}


def call(function, arguments):
    """(results, the arguments afterwards): operators in place show, and so would one that writes to its input."""
    arguments = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    result = function(*arguments)
    results = [] if result is None else [result] if isinstance(result, torch.Tensor) else list(result)
    return results, [a for a in arguments if isinstance(a, torch.Tensor)]


def call_twin(op, arguments):
    on_cpu = [a.cpu() if isinstance(a, torch.Tensor) else a for a in arguments]
    return call(getattr(reference, op), on_cpu)


def flat(outcome):
    return [tensor.cpu() for part in outcome for tensor in part]


def same_bits(one, other):
    """Equal, with NaN equal to NaN."""
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) for a, b in pairs)


def assert_agrees(op, arguments, dtype, threads=1):
    torch.set_num_threads(threads)
    outcome = flat(call(OPS[op], arguments))
    torch.set_num_threads(1)
    tolerance = TOLERANCE[dtype] if op in SUMS else EXACT
    for got, want in zip(outcome, flat(call_twin(op, arguments)), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True, **tolerance)


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_by_hand(op, device, dtype):
    assert HAND[op] or (op.startswith("regrow") and REGROW)
    for arguments, results in HAND[op]:
        arguments, results = tensors(arguments, device, dtype), tensors(results, device, dtype)
        got, after = call(OPS[op], arguments)
        for a, b in zip(got or after, results, strict=bool(got)):
            torch.testing.assert_close(a, b, equal_nan=True, **EXACT)


@pytest.mark.parametrize("case", REGROW, ids=str)
def test_regrow_by_hand(case, device, dtype):
    weight = torch.tensor([[0.0 if w is None else w for w in row] for row in case.weight]).to(device, dtype)
    mask = torch.tensor([[w is not None for w in row] for row in case.weight], device=device)
    score = torch.tensor(case.score, dtype=sum_dtype(dtype), device=device)
    capacity = int(mask.sum()) + case.spare
    row_ptr, col_idx = OPS["csr_from_mask"](mask, capacity)
    values = OPS["csr_pack"](weight, row_ptr, col_idx)
    best = Candidates.empty(values, capacity, case.grow, score.dtype)
    for row in range(mask.shape[0]):
        OPS["regrow_candidates_"](*best.tensors, row_ptr, col_idx, score[row : row + 1], row)
    operands = (values, row_ptr, col_idx, mask.shape[1])
    got = OPS["regrow"](*operands, score, 0, case.drop, case.grow)
    streamed = OPS["regrow_streamed"](*operands, *best.tensors, case.drop, case.grow)
    assert all(torch.equal(a, b) for a, b in zip(streamed, got, strict=True))
    expected = [(r, c, entry) for r, row in enumerate(case.after) for c, entry in enumerate(row) if entry is not None]
    unused = capacity - len(expected)
    assert got[0].tolist() == [sum(r < row for r, _, _ in expected) for row in range(len(case.after) + 1)]
    assert got[1].tolist() == [c for _, c, _ in expected] + [0] * unused
    assert got[2].tolist() == [entry for _, _, entry in expected] + [-1] * unused


def is_small_enough(case):
    return case.kind != "emulated" or (case.shape.rows <= 1000 and case.op not in TENSOR_CORES)


# ---- against the twin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_twin_and_a_docstring(op):
    assert callable(getattr(reference, op))
    assert OPS[op].__doc__


@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize(("op", "index"), INDEXED_OPS, ids=name_of)
def test_agrees_with_its_twin(op, index, shape, device, dtype):
    for arguments in ARGUMENTS[op](problem(shape, dtype, device, index)):
        assert_agrees(op, arguments, dtype)


@pytest.mark.only("the emulator is slow; 2:4 products have large shapes of their own", is_small_enough)
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize(("op", "index"), INDEXED_OPS, ids=name_of)
def test_agrees_with_its_twin_on_large_shapes(op, index, shape, device, dtype):
    for arguments in ARGUMENTS[op](problem(shape, dtype, device, index)):
        assert_agrees(op, arguments, dtype, threads=2)


# In `make test`, those that read 16-bit indices by code of their own.
INDEXED_OR_SLOW = [
    pytest.param(op, index, marks=() if op.startswith(("csr", "densified")) else pytest.mark.slow) for op, index in INDEXED_OPS
]


def is_quick(case):
    """Transposed, 3 x 65536 are a thousand blocks."""
    return is_small_enough(case) and (case.op != "csr_spmm_t" or case.kind != "emulated" or case.dtype == torch.float32)


@pytest.mark.only("the emulator is slow", is_quick)
@pytest.mark.parametrize("shape", BEYOND_16_BITS, ids=str)
@pytest.mark.parametrize(("op", "index"), INDEXED_OR_SLOW, ids=name_of)
def test_agrees_with_its_twin_where_sizes_are_too_large_for_16_bits(op, index, shape, device, dtype):
    test_agrees_with_its_twin_on_large_shapes(op, index, shape, device, dtype)


# ---- what holds for all ----------------------------------------------------------------------------------------------


def has_own_sums(case):
    return case.op not in MASKED or (case.kind == "cpu" and case.isa != "v4_bf16")


@pytest.mark.only("torch's own products have the same bits for one thread count only", has_own_sums)
@pytest.mark.only("the emulator has a shape of its own", lambda case: case.kind != "emulated" or case.shape is THREADED[0])
@pytest.mark.parametrize("shape", THREADED, ids=str)
@pytest.mark.parametrize("op", [op for op in OPS if op not in TORCH_SUMS])
def test_same_bits_for_any_thread_count_and_run(op, shape, device, dtype, kind):
    p = problem(MEDIUM if kind == "emulated" else shape, dtype, device)
    # Multiples of 1/8 add up without rounding in any order, and so would hide a changed order.
    for tensor in (p.weight, p.x, p.dy):
        tensor.mul_(torch.rand(tensor.shape, device=device).to(dtype))
    for arguments in ARGUMENTS[op](p):
        outcomes = []
        for threads in (1, 1) if kind == "emulated" else (1, 2, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(flat(call(OPS[op], arguments)))
        assert all(same_bits(outcomes[0], outcome) for outcome in outcomes[1:])


def strided(tensor):
    """Every second element of a larger tensor; read as if contiguous it is wrong, but no index leaves its range."""
    return torch.stack([tensor, tensor], -1)[..., 0]


def misaligned(tensor):
    """The same values one element behind an aligned address."""
    longer = torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])
    return longer[1:].view(tensor.shape)


def transposed(tensor):
    return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor


@pytest.mark.parametrize("view", [strided, misaligned, transposed])
@pytest.mark.parametrize("op", OPS)
def test_any_memory_layout(op, view, device, dtype):
    for arguments in ARGUMENTS[op](problem(MEDIUM, dtype, device)):
        want = flat(call(OPS[op], arguments))
        viewed = [view(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        result = OPS[op](*viewed)
        results = [] if result is None else [result] if isinstance(result, torch.Tensor) else list(result)
        assert all(r.is_contiguous() for r in results)
        got = flat((results, [a for a in viewed if isinstance(a, torch.Tensor)]))
        tolerance = TOLERANCE[dtype] if op in TORCH_SUMS else EXACT  # torch's product may choose another kernel
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("op", INDEXED)
def test_expanded_activations(op, device, dtype):
    p = problem(MEDIUM, dtype, device)
    p.x, p.dy = p.x[:1].expand_as(p.x), p.dy[:1, :1].expand_as(p.dy)
    for arguments in ARGUMENTS[op](p):
        solid = [a.contiguous() if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.testing.assert_close(OPS[op](*arguments), OPS[op](*solid), **EXACT)


# ---- Inf and NaN: exactly where absence of the other terms puts them -------------------------------------------------


def poison(tensor, seed):
    """Inf, -Inf and NaN at a few places, the corners among them."""
    generator = torch.Generator().manual_seed(seed)
    flat_view = tensor.reshape(-1)
    if flat_view.numel():
        places = torch.randint(flat_view.numel(), (9,), generator=generator)
        places[:2] = torch.tensor([0, flat_view.numel() - 1])
        flat_view[places] = torch.tensor([float("nan"), float("inf"), float("-inf")]).repeat(3).to(tensor)


OPERANDS = {"csr_spmm": ("x", "weight", "bias"), "csr_spmm_t": ("dy", "weight"), "csr_sddmm": ("dy", "x")}


@pytest.mark.parametrize("shape", [Shape(7, 5, 3, 0.5, spare=4), Shape(9, 17, 33, 1.0), MEDIUM], ids=str)
@pytest.mark.parametrize(("op", "poisoned"), [(op, name) for op in OPERANDS for name in OPERANDS[op]])
def test_non_finite_values_follow_the_twin(op, poisoned, shape, device, dtype):
    p = problem(shape, dtype, device)
    poison(getattr(p, poisoned), seed=1)
    for arguments in ARGUMENTS[op](p):
        assert_agrees(op, arguments, dtype)


def test_columns_without_entries_keep_their_nan(device, dtype):
    p = problem(MEDIUM, dtype, device)
    empty_column, empty_row = torch.tensor([3, 4, 64], device=device), torch.tensor([0, 17, 32], device=device)
    p.mask[:, empty_column] = False
    p.mask[empty_row] = False
    row_ptr, col_idx = OPS["csr_from_mask"](p.mask, int(p.mask.sum()))
    col_ptr, row_idx, slot = OPS["csr_transpose"](row_ptr, col_idx, MEDIUM.cols)
    weight = OPS["csr_pack"](p.dense, row_ptr, col_idx)
    p.x[:, empty_column] = float("nan")
    p.dy[:, empty_row] = float("inf")
    assert OPS["csr_spmm"](weight, row_ptr, col_idx, MEDIUM.cols, p.x, p.bias).isfinite().all()
    assert OPS["csr_spmm_t"](weight, row_ptr, col_idx, col_ptr, row_idx, slot, p.dy).isfinite().all()
    assert OPS["csr_sddmm"](row_ptr, col_idx, MEDIUM.cols, p.dy, p.x).isfinite().all()


def test_a_token_keeps_its_nan(device, dtype):
    """Tokens are SIMD lanes and share a block: one's NaN stays its own."""
    p = problem(MEDIUM, dtype, device)
    p.x[11] = p.dy[11] = float("nan")
    others = torch.arange(MEDIUM.tokens, device=device) != 11
    for op in ("csr_spmm", "csr_spmm_t"):
        for arguments in ARGUMENTS[op](p):
            assert OPS[op](*arguments)[others].isfinite().all()


@pytest.mark.parametrize("op", ["csr_spmm", "csr_spmm_t", "csr_conv2d", "csr_conv2d_t", "csr_unpack", "regrow"])
def test_unused_entries_are_not_read(op, device, dtype):
    p = problem(MEDIUM, dtype, device)
    clean = [call(OPS[op], arguments)[0] for arguments in ARGUMENTS[op](p)]
    p.weight[p.pattern.nnz :] = float("nan")
    for index in (p.pattern.col_idx, p.operands.col_idx, p.operands.row_idx):
        index.view(torch.int16 if index.dtype == torch.uint16 else torch.int32)[p.pattern.nnz :] = -1
    for arguments, want in zip(ARGUMENTS[op](p), clean, strict=True):
        assert same_bits(call(OPS[op], arguments)[0], want)


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op):
    for arguments in ARGUMENTS[op](problem(Shape(7, 5, 3, 0.5, spare=4), index=torch.uint16))[:2]:
        torch.library.opcheck(OPS[op].call, tuple(arguments))


@pytest.mark.parametrize("op", OPS)
def test_tensors_on_two_devices_are_refused(op):
    """A single meta tensor makes torch call the shape function; its results would be taken for a kernel's."""
    arguments = ARGUMENTS[op](problem(Shape(7, 5, 3, 0.5, spare=4)))[0]
    tensors = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor)]
    for i in tensors if len(tensors) > 1 else ():
        mixed = [a.to("meta") if i == j else a for j, a in enumerate(arguments)]
        with pytest.raises(ValueError, match=rf"{op}: expected \w+ on (cpu|meta) \(as .*\), got (cpu|meta)"):
            OPS[op](*mixed)
