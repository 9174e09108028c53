"""Bad input: a sentence that names what was found and what was expected, and nothing changed."""

import copy

import pytest
import torch
from cases import ARGUMENTS, Shape, problem
from torch import nn

from sparse_ext import SparseLinear, densify_, layer_densities, sparsify_
from sparse_ext import functional as SF
from sparse_ext.ops import LAYOUTS, OPS, Candidates, CsrPattern, Linear, operands_of
from sparse_ext.ops.boundary import checks

meta = torch.device("meta")


class Case:
    """A layer 8 -> 6 with 24 entries, a model around one like it, and good tensors for both."""

    def __init__(self):
        self.layer = SparseLinear(8, 6, sparsity=0.5)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), SparseLinear(16, 6, sparsity=0.5))
        self.dense = nn.Linear(8, 6)
        self.x = torch.randn(3, 8)
        self.dy = torch.randn(3, 6)
        self.pattern = self.layer.pattern
        self.weight = self.layer.weight.detach()
        self.mask = torch.rand(6, 8) < 0.5
        self.score = torch.randn(6, 8)
        self.index = (self.layer.row_ptr, self.layer.col_idx)

    def linear(self, x=None, weight=None, bias=None, layout="csr", activation=None):
        x, weight = self.x if x is None else x, self.weight if weight is None else weight
        return SF.csr_linear(x, weight, bias, self.pattern, layout, activation)

    def grad_input(self, dy):
        operands = operands_of(LAYOUTS["csr"], self.pattern)
        return self._kernels.grad_input(self.product, self.weight, None, operands, dy, self.x.shape)

    def grad_weight(self, dy):
        return self._kernels.grad_weight(self.product, None, operands_of(LAYOUTS["csr"], self.pattern), dy, self.x, None)

    _kernels, product = LAYOUTS["csr"].products[Linear], Linear(6, 8)

    def regrow(self, weight=None, row_ptr=None, col_idx=None, score=None, drop=1, grow=1):
        given = (weight, row_ptr, col_idx, score)
        weight, row_ptr, col_idx, score = (
            b if a is None else a for a, b in zip(given, (self.weight, *self.index, self.score), strict=True)
        )
        return OPS["regrow"](weight, row_ptr, col_idx, 8, score, 0, drop, grow)


# id: (call, exception, what the message must say, in this order)
BAD = {
    # ---- x and dy ----
    "x too narrow": (lambda c: c.layer(c.x[:, :7]), ValueError, ("x with 8 columns", "got", "7")),
    "x too wide": (lambda c: c.layer(torch.randn(2, 3, 9)), ValueError, ("x with 8 columns", "got", "9")),
    "x without dimensions": (lambda c: c.layer(torch.tensor(1.0)), ValueError, ("x with 8 columns", "got", r"\(\)")),
    "x of another dtype": (lambda c: c.layer(c.x.double()), TypeError, ("x of dtype torch.float32", "got torch.float64")),
    "x of integers": (lambda c: c.layer(c.x.long()), TypeError, ("int64|float32", "got", "int64|float32")),
    "x on another device": (lambda c: c.layer(c.x.to(meta)), ValueError, ("expected", "cpu|meta", "got", "cpu|meta")),
    "layer on another device": (
        lambda c: copy.deepcopy(c.layer).to(meta)(c.x), ValueError, ("expected", "cpu|meta", "got", "cpu|meta")),
    "half layer": (lambda c: SparseLinear(8, 6, dtype=torch.half)(c.x.half()), TypeError,
                   ("bfloat16, float32, float64 on cpu", "got", "float16")),
    "dy too wide": (lambda c: c.grad_input(c.x), ValueError,
                    ("dy with 6 columns", "got 8")),
    "dy of one dimension": (lambda c: c.grad_input(c.dy[0]), ValueError,
                            ("dy with 6 columns", r"got shape \(6,\)")),
    "other tokens in dy": (lambda c: c.grad_weight(c.dy[:2]), ValueError,
                           ("x with 2 tokens", "got 3")),
    "dy of another dtype": (lambda c: c.grad_weight(c.dy.double()), TypeError,
                            ("float64", "got", "float32")),
    "dy on another device": (lambda c: c.grad_weight(c.dy.to(meta)), ValueError,
                             ("expected", "cpu|meta", "got", "cpu|meta")),
    "spmm of another height": (lambda c: SF.spmm(c.weight, c.pattern, c.x), ValueError, ("8 columns", r"got shape \(8, 3\)")),
    "sddmm of another depth": (lambda c: SF.sddmm(c.pattern, c.dy.t(), c.x[:2]), ValueError, ("3 tokens", "got 2")),
    # ---- weight, bias, indices ----
    "weight too short": (lambda c: c.linear(weight=c.weight[:-1]), ValueError, ("24", "got", "23")),
    "weight of two dimensions": (lambda c: c.linear(weight=c.weight.view(2, 12)), ValueError, ("24", r"got .*\(2, 12\)")),
    "weight of another dtype": (lambda c: c.linear(weight=c.weight.double()), TypeError,
                                ("x of dtype torch.float64", "got torch.float32")),
    "weight on another device": (lambda c: c.linear(weight=c.weight.to(meta)), ValueError,
                                 ("expected", "cpu|meta", "got", "cpu|meta")),
    "activation of another name": (lambda c: c.linear(activation="gelu"), ValueError, ("activation 'relu'", "got 'gelu'")),
    "bias too short": (lambda c: c.linear(bias=torch.ones(5)), ValueError, (r"bias of shape \(6,\)", r"got \(5,\)")),
    "bias of another dtype": (lambda c: c.linear(bias=torch.ones(6).double()), TypeError, ("float32", "got", "float64")),
    "unknown layout": (lambda c: c.linear(layout="coo"), ValueError, ("'csr', 'auto'", "got 'coo'")),
    "64-bit columns": (lambda c: OPS["csr_spmm"](c.weight, c.index[0], c.index[1].long(), 8, c.x, None), TypeError,
                       ("col_idx of dtype", "int32", "got", "int64")),
    "64-bit row_ptr": (lambda c: OPS["csr_spmm"](c.weight, c.index[0].long(), c.index[1], 8, c.x, None), TypeError,
                       ("row_ptr of dtype", "int32", "got", "int64")),
    "16-bit columns in a transpose": (
        lambda c: OPS["csr_transpose"](c.index[0], c.index[1].to(torch.uint16), 8), TypeError, ("int32", "got", "uint16")),
    "columns of two dimensions": (lambda c: OPS["csr_unpack"](c.weight, c.index[0], c.index[1].view(2, 12), 8), ValueError,
                                  ("1 dimension", r"got shape \(2, 12\)")),
    "index on another device": (lambda c: OPS["csr_spmm"](c.weight, c.index[0], c.index[1].to(meta), 8, c.x, None),
                                ValueError, ("col_idx on cpu", "got meta")),
    "pack with other rows": (lambda c: LAYOUTS["csr"].pack(torch.randn(5, 8), c.pattern), ValueError,
                             ("6", r"got .*\(5, 8\)")),
    "pack with other columns": (lambda c: LAYOUTS["csr"].pack(torch.randn(6, 9), c.pattern), ValueError,
                                ("8", r"got .*9")),
    # ---- masks ----
    "mask of another shape": (lambda c: SparseLinear.from_dense(c.dense, mask=c.mask.t()), ValueError,
                              (r"mask of shape \(6, 8\)", r"got \(8, 6\)")),
    "mask of other numbers": (lambda c: SparseLinear.from_dense(c.dense, mask=0.5 * c.mask.float()), ValueError,
                              ("0 and 1", "got 0.5", "mask != 0")),
    "mask without ones": (lambda c: SparseLinear.from_dense(c.dense, mask=c.mask & False), ValueError,
                          ("at least one True", r"got none in \(6, 8\)")),
    "mask and sparsity": (lambda c: SparseLinear.from_dense(c.dense, mask=c.mask, sparsity=0.5), ValueError,
                          ("sparsity or mask", "got both")),
    "mask beyond the capacity": (lambda c: CsrPattern.from_mask(torch.ones(6, 8, dtype=torch.bool), 24), ValueError,
                                 ("at most 24", "got 48")),
    "mask of numbers": (lambda c: CsrPattern.from_mask(c.score), TypeError, ("bool", "got", "float32")),
    "mask of one dimension": (lambda c: CsrPattern.from_mask(c.mask[0]), ValueError, ("2 dimensions", r"got shape \(8,\)")),
    "mask of more columns than int32 counts": (
        lambda c: CsrPattern.from_mask(c.mask[:1, :1].expand(1, 2**31)), ValueError, ("columns", "int32", "got 2147483648")),
    "mask of more columns on meta": (lambda c: CsrPattern.from_mask(c.mask[:1, :1].expand(1, 2**31).to(meta), 1), ValueError,
                                     ("columns", "int32", "got 2147483648")),
    "layer of more entries than int32 counts": (
        lambda c: SparseLinear(2**16, 2**16, sparsity=0.4, device=meta), ValueError, ("entries", "int32", "got 2576980378")),
    "set_matrix_ with a mask beyond the capacity": (
        lambda c: c.layer.set_matrix_(c.score, c.mask | True), ValueError, ("at most 24", "got 48")),
    "set_matrix_ with a narrow mask": (lambda c: c.layer.set_matrix_(c.score, c.mask[:, :4]), ValueError,
                                       (r"mask .*\(6, 8\)", r"got .*\(6, 4\)")),
    "set_matrix_ with a wide matrix": (lambda c: c.layer.set_matrix_(torch.randn(6, 9), c.layer.mask()), ValueError,
                                       (r"8", r"got .*9")),
    # ---- patterns made by hand ----
    "pattern with columns not ascending": (
        lambda c: CsrPattern(1, 4, torch.tensor([0, 2]).int(), torch.tensor([3, 1]).int()).check(),
        ValueError, ("ascending", "got 3 then 1", "row 0")),
    # ---- sparsity, capacity, names ----
    **{f"sparsity {s}": (lambda c, s=s: SparseLinear(8, 6, sparsity=s), ValueError,
                         (r"sparsity in \[0, 1\)", f"got {s}")) for s in (-0.1, 1.0, 1.5, float("nan"))},
    "sparsify_ sparsity": (lambda c: sparsify_(c.model, 1.0), ValueError, (r"sparsity in \[0, 1\)", "got 1.0")),
    "from_dense sparsity": (lambda c: SparseLinear.from_dense(c.dense, sparsity=2), ValueError,
                            (r"sparsity in \[0, 1\)", "got 2")),
    "layer_densities sparsity": (lambda c: layer_densities(c.model, -1, "erk"), ValueError,
                                 (r"sparsity in \[0, 1\)", "got -1")),
    "capacity below the density": (lambda c: SparseLinear(8, 6, sparsity=0.5, capacity=0.25), ValueError,
                                   (r"capacity .*\[0.5, 1\]", "got 0.25")),
    "capacity above one": (lambda c: SparseLinear(8, 6, sparsity=0.5, capacity=1.5), ValueError,
                           (r"capacity .*\[0.5, 1\]", "got 1.5")),
    "capacity not a number": (lambda c: SparseLinear(8, 6, sparsity=0.5, capacity=float("nan")), ValueError,
                              (r"capacity .*\[0.5, 1\]", "got nan")),
    "layer layout": (lambda c: SparseLinear(8, 6, layout="coo"), ValueError, ("'csr', 'auto'", "got 'coo'")),
    "sparsify_ layout": (lambda c: sparsify_(c.model, 0.9, layout="coo"), ValueError, ("'csr', 'auto'", "got 'coo'")),
    "sparsify_ init": (lambda c: sparsify_(c.model, 0.9, init="zeros"), ValueError,
                       ("'variance', 'masked'", "got 'zeros'")),
    "sparsify_ distribution": (lambda c: sparsify_(c.model, 0.9, distribution="erdos"), ValueError,
                               ("'uniform', 'er', 'erk'", "got 'erdos'")),
    "sparsify_ of a bare layer": (lambda c: sparsify_(c.dense, 0.9), ValueError,
                                  ("model that contains layers", "got a bare Linear", "from_dense")),
    "densify_ of a bare layer": (lambda c: densify_(c.layer), ValueError,
                                 ("model that contains layers", "got a bare", "to_dense")),
    # ---- regrow ----
    "drop more than there are": (lambda c: c.regrow(drop=25), ValueError, ("drop between 0 and nnz = 24", "got 25")),
    "drop less than nothing": (lambda c: c.regrow(drop=-1), ValueError, ("drop between 0 and nnz = 24", "got -1")),
    "grow beyond the capacity": (lambda c: c.regrow(grow=2), ValueError, ("grow between 0 and 1", "capacity 24", "got 2")),
    "score of another shape": (lambda c: c.regrow(score=c.score.t()), ValueError,
                               (r"score of shape \(6, 8\)", r"got \(8, 6\)")),
    "score of another dtype": (lambda c: c.regrow(score=c.score.double()), TypeError,
                               ("score of dtype torch.float32", "got torch.float64")),
    "score on another device": (lambda c: c.regrow(score=c.score.to(meta)), ValueError, ("score on cpu", "got meta")),
    "regrown weight too short": (lambda c: c.regrow(weight=c.weight[1:]), ValueError, (r"\(24,\)", r"got \(23,\)")),
    "nnz beyond the capacity": (
        lambda c: c.regrow(c.weight[:20], torch.tensor([0] * 6 + [22]).int(), c.index[1][:20], drop=22, grow=0), ValueError,
        ("20", "got 22")),
}  # fmt: skip


def snapshot(case):
    return [
        *(tensor.clone() for module in (case.layer, case.model, case.dense) for tensor in module.state_dict().values()),
        *(tensor.clone() for tensor in case.layer.pattern.buffers.values()),
        repr(case.model),
    ]


def same(before, after):
    return len(before) == len(after) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_a_sentence_and_changes_nothing(name):
    call, exception, parts = BAD[name]
    case = Case()
    before = snapshot(case)
    with pytest.raises(exception, match="(?s)" + ".*".join(f"(?:{part})" for part in parts)) as raised:
        call(case)
    assert raised.type is exception
    assert "\n" not in str(raised.value)
    assert same(before, snapshot(case))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_what_x_should_be(layout):
    layer, x = SparseLinear(8, 6, layout=layout), torch.randn(2, 3, 8)
    name = f"^{LAYOUTS[layout].stem}_linear: expected x"
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for given in (x[..., :7], x[0, :, :7], x.new_zeros(())):
                with pytest.raises(ValueError, match=f"{name} with 8 columns .*got shape"):
                    layer(given)
            with pytest.raises(TypeError, match=f"{name} of dtype torch.float32 .*got torch.float64"):
                layer(x.double())
            with pytest.raises(ValueError, match=f"{name} on cpu .*got meta"):
                layer(x.to(meta))


def test_index_checks_do_not_read_past_the_end():
    """A row_ptr that is empty holds no pattern."""
    p = problem(Shape(2, 3, 1, 0.5))
    empty = torch.zeros(0, dtype=torch.int32)
    with pytest.raises(ValueError, match="row_ptr"):
        OPS["csr_spmm"](p.weight, empty, p.pattern.col_idx, 3, p.x, None)


# ---- debug mode: every index is read ----------------------------------------------------------------------------------
# For the ids of 2:4 see test_nm24.py.
OTHERS = ("auto_gemm", "auto_gemm_t", *(op for op in OPS if op.startswith(("nm24", "masked"))))
WITHOUT_INDICES = ("csr_from_mask", "follow_", "observe_dense_grad_", *OTHERS)
SPOIL = {
    "out of range": (lambda index: index[:1].fill_(99), "between 0 and .*got 99"),
    "not ascending": (lambda index: index[:2].copy_(index[:2].flip(0)), "ascending .*got .* then"),
}


@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("op", [op for op in OPS if op not in WITHOUT_INDICES])
def test_debug_mode_reads_every_index(op, spoil, monkeypatch):
    monkeypatch.setattr(checks, "DEBUG", True)
    change, message = SPOIL[spoil]
    p = problem(Shape(4, 5, 3, 1.0))
    calls = ARGUMENTS[op](p)
    for arguments in calls:
        OPS[op](*arguments)
    for index in (p.pattern.col_idx, p.operands.col_idx, p.operands.row_idx):
        change(index)
    for arguments in calls:
        with pytest.raises(ValueError, match=f"^{op}: expected column.*{message}"):
            OPS[op](*arguments)


@pytest.mark.parametrize("spoiled", ["col_ptr", "row_idx", "slot"])
@pytest.mark.parametrize("op", ["csr_spmm_t", "auto_spmm_t"])
def test_debug_mode_compares_the_views_of_a_matrix(op, spoiled, monkeypatch):
    """Each would be a valid index; which of the two is read depends on the number of tokens."""
    monkeypatch.setattr(checks, "DEBUG", True)
    p = problem(Shape(4, 5, 3, 0.5, spare=2))
    (arguments,) = ARGUMENTS[op](p)
    OPS[op](*arguments)
    index = getattr(p.operands, spoiled)
    index[1:3] = index[1:3].flip(0) if spoiled != "col_ptr" else 0
    with pytest.raises(ValueError, match=f"^{op}: expected col_ptr, row_idx and slot of the same matrix as row_ptr"):
        OPS[op](*arguments)


@pytest.mark.parametrize("positions", [[5, 5], [7, 5], [5, 20], [-1, 5]], ids=str)
def test_debug_mode_reads_every_candidate(positions, monkeypatch):
    monkeypatch.setattr(checks, "DEBUG", True)
    p = problem(Shape(4, 5, 3, 0.5))
    best = (torch.zeros(p.pattern.capacity), torch.zeros(2), torch.tensor(positions), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"regrow_streamed: expected 2 ascending positions between 0 and 19, got \["):
        OPS["regrow_streamed"](p.weight, p.pattern.row_ptr, p.pattern.col_idx, 5, *best, 2, 2)


def test_too_few_candidates_are_refused():
    """As before any row has passed: with them the number of entries would drift."""
    p = problem(Shape(4, 5, 3, 0.5))
    none = Candidates.empty(p.weight, p.pattern.capacity, 3, torch.float32)
    with pytest.raises(ValueError, match=r"regrow_streamed: expected count 2 or more .*, got 0"):
        OPS["regrow_streamed"](p.weight, p.pattern.row_ptr, p.pattern.col_idx, 5, *none.tensors, 2, 2)


def test_debug_mode_reads_every_slot(monkeypatch):
    monkeypatch.setattr(checks, "DEBUG", True)
    p = problem(Shape(4, 5, 3, 1.0))
    weight = torch.cat([p.weight, p.weight])[:20]  # a wrong slot reads the other half
    p.operands.slot[7] = 20
    with pytest.raises(ValueError, match=r"csr_spmm_t: expected slot .* between 0 and 19, got 20"):
        OPS["csr_spmm_t"](weight, *p.operands, p.dy)
