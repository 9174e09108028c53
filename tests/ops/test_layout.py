"""Every layout of CSR storage: its five verbs on the hand-computed matrix, and against the dense product."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from by_hand import BIAS, DW, DX, WEIGHT, Y_BIAS, W, X
from cases import (
    ARGUMENTS,
    LARGE,
    SMALL,
    TOLERANCE,
    TORCH_SUMS,
    Shape,
    assert_agrees,
    problem,
)

from sparse_ext import SparseLinear, count_flops
from sparse_ext.ops import LAYOUTS, OPS, CsrPattern, crossover, densified, launch

CSR = [name for name, layout in LAYOUTS.items() if layout.pattern is CsrPattern]


@pytest.mark.parametrize("layout", CSR)
def test_by_hand(layout, device, dtype):
    verbs = LAYOUTS[layout]
    dense, x, bias = (torch.tensor(values, dtype=dtype, device=device) for values in (W, X, BIAS))
    pattern = CsrPattern.from_mask(dense != 0, capacity=4)
    weight = verbs.pack(dense, pattern)
    assert weight.tolist() == WEIGHT
    assert verbs.unpack(weight, pattern).tolist() == W
    assert verbs.matmul(weight, pattern, x, bias).tolist() == Y_BIAS
    assert verbs.matmul_t(weight, pattern, x).tolist() == DX
    assert verbs.grad_weight(pattern, x, x).tolist() == DW


@pytest.mark.parametrize("shape", [*SMALL, LARGE[0]], ids=str)
@pytest.mark.parametrize("layout", CSR)
def test_against_the_dense_product(layout, shape, device, dtype):
    verbs, p = LAYOUTS[layout], problem(shape, dtype, device)
    matrix = p.dense.double() * p.mask
    weight = verbs.pack(p.dense, p.pattern)
    pairs = {
        "unpack": (verbs.unpack(weight, p.pattern), matrix),
        "matmul": (verbs.matmul(weight, p.pattern, p.x, p.bias), p.x.double() @ matrix.T + p.bias.double()),
        "matmul_t": (verbs.matmul_t(weight, p.pattern, p.dy), p.dy.double() @ matrix),
        "grad_weight": (
            verbs.unpack(verbs.grad_weight(p.pattern, p.dy, p.x), p.pattern),
            p.dy.double().T @ p.x.double() * p.mask,
        ),
    }
    for verb, (got, want) in pairs.items():
        torch.testing.assert_close(got, want.to(dtype), msg=lambda m, verb=verb: f"{verb}: {m}", **TOLERANCE[dtype])


@pytest.mark.parametrize("layout", CSR)
@pytest.mark.parametrize("cols", [65535, 65536, 65537])
def test_column_width_follows_the_matrix(layout, cols, device):
    """At 65536 columns the last index, 65535, is the largest of 16 bits; one more takes 32."""
    mask = torch.zeros(1, cols, dtype=torch.bool, device=device)
    mask[0, -1] = True
    pattern = CsrPattern.from_mask(mask)
    assert pattern.columns.dtype == (torch.uint16 if cols <= 65536 else torch.int32)
    x = torch.zeros(1, cols, device=device)
    x[0, -1] = 3.0
    weight = torch.full((1,), 2.0, device=device)
    assert LAYOUTS[layout].matmul(weight, pattern, x, None).tolist() == [[6.0]]
    assert LAYOUTS[layout].matmul_t(weight, pattern, x[:, -1:])[0, -1] == 6.0
    assert LAYOUTS[layout].grad_weight(pattern, x[:, -1:], x).tolist() == [9.0]


def test_pattern_is_rewritten_in_place(device):
    one, other = (problem(Shape(6, 9, 1, 0.4, spare=40 - n), device=device, seed=n).pattern for n in (0, 1))
    capacity = min(one.capacity, other.capacity)
    one, other = (CsrPattern.from_mask(p.mask(), capacity) for p in (one, other))
    addresses = [tensor.data_ptr() for tensor in one.tensors]
    one.write_(other.row_ptr, other.col_idx)
    assert [tensor.data_ptr() for tensor in one.tensors] == addresses
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.mask(), other.mask())


# ---- "auto": the dense product where the table says so ----------------------------------------------------------------


@pytest.fixture
def all_dense(monkeypatch):
    monkeypatch.setattr("sparse_ext.ops.layouts.dense_is_faster", lambda *_: True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("panel_bytes", [1, 700, 5000, 1 << 20])
def test_a_dense_product_does_not_depend_on_its_panels(panel_bytes, dtype, monkeypatch):
    monkeypatch.setattr(densified, "PANEL_BYTES", panel_bytes)
    for spare in (0, 7):
        p = problem(Shape(33, 70, 35, 0.2, spare=spare), dtype)
        for op in TORCH_SUMS[:3]:
            for arguments in ARGUMENTS[op](p):
                assert_agrees(op, arguments, dtype)


def test_a_panel_is_any_part_of_the_matrix(device, dtype):
    p = problem(Shape(33, 70, 1, 0.2, spare=7), dtype, device)
    index = p.pattern.row_ptr, p.columns
    whole = OPS["csr_unpack"](p.weight, *index, 70)
    for rows, cols in ((33, (0, 70)), (33, (0, 1)), (33, (13, 40)), (20, (13, 70)), (7, (69, 70)), (33, (30, 30))):
        panel = torch.full((rows, cols[1] - cols[0]), torch.nan, dtype=dtype, device=device)
        densified._unpack(panel, p.weight, *index, first_row=33 - rows, first_col=cols[0])
        assert torch.equal(panel, whole[33 - rows :, slice(*cols)])


def keep_all(monkeypatch):
    """However small workspaces are; none is there yet."""
    monkeypatch.setattr(launch, "KEPT", (1, 1 << 20))
    monkeypatch.setattr(launch, "_kept", threading.local())


def test_panels_serve_inference_and_training_in_turn(all_dense, monkeypatch):
    """Their memory stays, though it may have been made in inference mode."""
    keep_all(monkeypatch)
    layer, x = SparseLinear(20, 12, sparsity=0.5, layout="auto"), torch.randn(5, 20)
    with torch.inference_mode():
        y = layer(x)
    trained = layer(x)
    trained.sum().backward()
    with torch.inference_mode():
        assert torch.equal(layer(x), y)
    assert torch.equal(trained, y)


def test_panels_serve_dtypes_in_turn(monkeypatch):
    """The memory of an odd number of 16-bit elements, too."""
    keep_all(monkeypatch)
    for dtype, cols in ((torch.bfloat16, 21), (torch.float64, 4)):
        for arguments in ARGUMENTS["densified_matmul"](problem(Shape(3, cols, 5, 0.5), dtype)):
            assert_agrees("densified_matmul", arguments, dtype)


def test_panels_of_several_threads(all_dense, monkeypatch):
    """Each has its own memory."""
    keep_all(monkeypatch)
    p = problem(Shape(64, 300, 40, 0.3))
    weight = LAYOUTS["auto"].pack(p.dense, p.pattern)

    def products(sign):
        return [LAYOUTS["auto"].matmul(weight * sign, p.pattern, p.x, None) for _ in range(50)]

    with ThreadPoolExecutor(4) as pool:
        for sign, results in zip((1, -1, 1, -1), pool.map(products, (1, -1, 1, -1)), strict=True):
            for y in results:
                torch.testing.assert_close(y, sign * (p.x @ p.dense.where(p.mask, 0).T), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [SMALL[0], LARGE[0]], ids=str)
def test_auto_multiplies_densely_to_the_same_result(all_dense, shape, device, dtype):
    test_against_the_dense_product("auto", shape, device, dtype)


def test_auto_really_multiplies_densely(all_dense):
    p = problem(Shape(12, 20, 5, 0.3))
    weight = LAYOUTS["auto"].pack(p.dense, p.pattern)
    flops = {
        "matmul": count_flops(lambda: LAYOUTS["auto"].matmul(weight, p.pattern, p.x, p.bias)),
        "matmul_t": count_flops(lambda: LAYOUTS["auto"].matmul_t(weight, p.pattern, p.dy)),
        "grad_weight": count_flops(lambda: LAYOUTS["auto"].grad_weight(p.pattern, p.dy, p.x)),
    }
    assert flops == dict.fromkeys(flops, 2 * 12 * 20 * 5)


def test_auto_refuses_what_csr_refuses(all_dense):
    p = problem(Shape(12, 20, 5, 0.3))
    weight = LAYOUTS["auto"].pack(p.dense, p.pattern)
    with pytest.raises(ValueError, match=r"expected x with 20 columns .*got 19"):
        LAYOUTS["auto"].matmul(weight, p.pattern, p.x[:, 1:], None)
    with pytest.raises(TypeError, match=r"expected weight of dtype torch.float64 \(as x\), got torch.float32"):
        LAYOUTS["auto"].matmul(weight, p.pattern, p.x.double(), None)


ROWS = ((1000, 100, 0.8), (10, 10000, 0.6), (10, 100, 0.4))


@pytest.mark.parametrize(
    ("tokens", "positions", "density"),
    [(1000, 100, 0.8), (101, 100, 0.8), (99, 100, 0.4), (10, 1100, 0.6), (10, 900, 0.4), (0, 1, 0.4), (9000, 9000, 0.8)],
)
def test_the_nearest_size_counts(monkeypatch, tokens, positions, density):
    key = (crossover.device_name(torch.device("cpu")), torch.float32, "matmul")
    monkeypatch.setattr(crossover, "TABLE", {key: ROWS})
    x, entries = torch.empty(tokens, 1), density * positions
    assert not crossover.dense_is_faster("matmul", x, 1, positions, entries)
    assert crossover.dense_is_faster("matmul", x, 1, positions, entries + 1)
    assert not crossover.dense_is_faster("matmul_t", x, 1, positions, positions)  # not in the table
    assert not crossover.dense_is_faster("matmul", x.double(), 1, positions, positions)


def test_the_table_that_ships():
    path = Path(crossover.__file__).with_name("crossover.json")
    for (device, dtype, product), rows in crossover.load(path).items():
        assert re.fullmatch(r"cpu (baseline|v3|v4|v4_bf16)( amx)?|cuda \d+\.\d", device)
        assert isinstance(dtype, torch.dtype)
        assert product in (*crossover.PRODUCTS, *crossover.NM24_PRODUCTS)
        lowest = 0 if product in crossover.NM24_PRODUCTS else 1e-6
        assert all(tokens > 0 and positions > 0 and lowest <= density <= 1 for tokens, positions, density in rows)
