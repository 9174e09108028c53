"""`Linear` and `Conv2d`: shapes, and the dense weight gradient, whole and in tiles."""

import pytest
import torch
from by_hand import DENSE_GRAD, X
from cases import SMALL, THREADED, TOLERANCE, Shape, problem, sum_dtype

from sparse_ext.ops import Conv2d, Linear, product

OPERATOR = "observe_dense_grad_"  # one code for many kinds of devices, as all that is called here


def tiles(linear, pairs, dtype):
    """The gradient that the tiles make up; each is a run of whole rows that begins where the one before ends."""
    total, end = torch.full((linear.rows, linear.cols), torch.nan, dtype=dtype, device=pairs[0][0].device), 0
    for rows, tile in linear.dense_grad_tiles(pairs, dtype):
        assert (rows.start, tile.shape, tile.dtype) == (end, (len(rows), linear.cols), dtype)
        total[rows.start : rows.stop], end = tile, rows.stop
    assert end == linear.rows
    return total


def test_by_hand(device, dtype):
    x = torch.tensor(X, dtype=dtype, device=device)
    linear = Linear(3, 3)
    assert linear.dense_grad(x, x).tolist() == DENSE_GRAD
    assert tiles(linear, [(x, x)], sum_dtype(dtype)).tolist() == DENSE_GRAD
    assert tiles(linear, [(x, x)] * 3, sum_dtype(dtype)).tolist() == [[3 * v for v in row] for row in DENSE_GRAD]
    assert linear.grad_bias(x).tolist() == [5.0, 7.0, 9.0]


@pytest.mark.parametrize("positions", [1, 70, 1000, 1 << 20])
@pytest.mark.parametrize("shape", [*SMALL, *THREADED], ids=str)
def test_tiles_make_up_the_gradient(shape, positions, device, dtype, monkeypatch):
    """Summed over pairs with different numbers of tokens, none among them, in the dtype of sums."""
    monkeypatch.setitem(product.TILE, device.type, positions)
    p = problem(shape, dtype, device)
    pairs = [(p.dy, p.x), (p.dy[:1], p.x[:1]), (p.dy[:0], p.x[:0])]
    expected = sum(dy.double().T @ x.double() for dy, x in pairs)
    got = tiles(Linear(shape.rows, shape.cols), pairs, sum_dtype(dtype))
    torch.testing.assert_close(got, expected.to(got), **TOLERANCE[got.dtype])


def test_tiles_are_no_larger_than_they_may_be(monkeypatch):
    monkeypatch.setitem(product.TILE, "cpu", 100)
    p = problem(Shape(50, 30, 4, 0.5))
    assert [len(rows) for rows, _ in Linear(50, 30).dense_grad_tiles([(p.dy, p.x)], torch.float32)] == [3] * 16 + [2]
    assert product.tile_rows(torch.device("cpu"), 101) == 1
    assert product.tile_rows(torch.device("cpu"), 0) == 100


@pytest.mark.parametrize(("rows", "cols"), [(0, 3), (3, 0), (0, 0)])
def test_tiles_of_nothing(rows, cols):
    dy, x = torch.ones(4, rows), torch.ones(4, cols)
    assert tiles(Linear(rows, cols), [(dy, x)], torch.float32).shape == (rows, cols)
    assert list(Linear(3, 3).dense_grad_tiles([], torch.float32)) == []


@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (2, 0, 3)], ids=str)
def test_leading_dimensions_and_back(lead):
    x = torch.randn(*lead, 5)
    flat, kept = Linear(2, 5).batched("op", x)
    assert flat.shape == (x.numel() // 5, 5)
    assert torch.equal(flat.view(x.shape), x)
    assert Linear(2, 5).unbatched(torch.ones(flat.shape[0], 2), kept).shape == (*lead, 2)


@pytest.mark.parametrize("shape", [(), (4,), (3, 6), (0,)], ids=str)
def test_another_number_of_columns_raises(shape):
    with pytest.raises(ValueError, match=r"op: expected x with 5 columns \(weight has 5 input features\), got shape \("):
        Linear(2, 5).batched("op", torch.zeros(shape))


@pytest.mark.parametrize("positions", [1, 60, 200, 1 << 20])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_tiles_of_a_convolution_make_up_the_gradient(groups, positions, monkeypatch):
    """Of one row and more, of one group and of several."""
    monkeypatch.setitem(product.TILE, "cpu", positions)
    conv = Conv2d(12, 6 // groups, (3, 2), (2, 1), (1, 0), (1, 2), groups)
    weight, x = torch.zeros(conv.weight_shape, dtype=torch.float64, requires_grad=True), torch.randn(5, 6, 7, 6).double()
    y = torch.nn.functional.conv2d(x, weight, None, *conv.window[1:])
    assert tuple(y.shape[2:]) == conv.out_size("conv", 7, 6)
    dy = torch.randn(y.shape).double()
    y.backward(dy)
    expected = weight.grad.view(conv.rows, conv.cols)
    torch.testing.assert_close(conv.dense_grad(dy, x), expected, **TOLERANCE[torch.float64])
    other = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(conv.dense_grad(dy, other), expected, **TOLERANCE[torch.float64])
    pairs = [(dy[:2], other[:2]), (dy[2:], x[2:]), (dy[:0], x[:0])]
    torch.testing.assert_close(tiles(conv, pairs, torch.float64), expected, **TOLERANCE[torch.float64])
    assert torch.equal(conv.grad_bias(dy), dy.sum((0, 2, 3)))
