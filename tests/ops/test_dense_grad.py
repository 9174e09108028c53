"""`Watch`: which backward passes count, and what a sink gets of them."""

import pytest
import torch
from cases import TOLERANCE, Shape, problem
from torch.utils.checkpoint import checkpoint

from sparse_ext.ops import LAYOUTS, OPS, Conv1d, Conv2d, GradientTotal, Linear, Watch, multiply, new_handle, operands_of
from sparse_ext.ops.dense_grad import WATCHES, pair_of

SHAPE = Shape(6, 10, 7, 0.4, spare=3)


class Watched:
    """A weight, its product as a layer makes it, and a watch on it."""

    def __init__(self, layout="csr", dtype=torch.float32):
        p = problem(SHAPE, dtype)
        self.layout, self.product, self.p = LAYOUTS[layout], Linear(SHAPE.rows, SHAPE.cols), p
        self.pattern = p.pattern if layout in ("csr", "auto") else self.layout.pattern.select(p.score, 30)
        self.weight = torch.nn.Parameter(self.layout.pack(p.dense, self.pattern))
        self.handle, self.token = new_handle(), torch.zeros(1, dtype=torch.int64)
        self.watch = Watch(self.handle, self.weight, self.product, GradientTotal(self.weight, self.product))

    def __call__(self, x):
        operands = operands_of(self.layout, self.pattern)
        return multiply(self.layout, self.product, x, self.weight, None, operands, handle=self.handle, token=self.token)

    def backward(self, factor=1.0):
        self(self.p.x).backward(self.p.dy * factor)

    def assert_seen(self, passes, factor):
        """So many accumulations count, and their sum is the gradient of one pass times the factor."""
        assert self.watch.passes == passes
        expected = factor * (self.p.dy.double().T @ self.p.x.double())
        torch.testing.assert_close(self.watch.sink.total.double(), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_accumulations_add_up(layout):
    w = Watched(layout)
    w.backward()
    w.assert_seen(1, 1.0)
    w.backward(2.0)
    w.assert_seen(2, 3.0)
    at_pattern = w.layout.pack(w.watch.sink.total, w.pattern)
    torch.testing.assert_close(w.weight.grad, at_pattern, **TOLERANCE[torch.float32])


@pytest.mark.parametrize(("dtype", "total"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_sums_have_the_dtype_of_sums(dtype, total):
    w = Watched(dtype=dtype)
    w.backward()
    w.assert_seen(1, 1.0)
    assert w.watch.sink.total.dtype == total


def test_a_weight_that_is_used_twice_is_accumulated_once():
    w = Watched()
    (w(w.p.x) + w(3 * w.p.x)).backward(w.p.dy)
    w.assert_seen(1, 4.0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_counts_once(reentrant):
    w = Watched()
    x = w.p.x.clone().requires_grad_()
    checkpoint(w, x, use_reentrant=reentrant).backward(w.p.dy)
    w.assert_seen(1, 1.0)


def test_gradients_that_are_not_accumulated_do_not_count():
    w = Watched()
    x = w.p.x.clone().requires_grad_()
    torch.autograd.grad(w(x), (x, w.weight), w.p.dy)
    w.assert_seen(0, 0.0)
    w.backward()
    torch.autograd.grad(w(x), x, w.p.dy)
    w.assert_seen(1, 1.0)
    w.weight.requires_grad_(False)
    w(x).backward(w.p.dy)
    w.assert_seen(1, 1.0)


def test_nobody_watches_without_a_token():
    w = Watched()
    w.token = None
    w.backward()
    w.assert_seen(0, 0.0)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda weight: setattr(weight, "grad", None), False),
        (lambda weight: weight.grad.zero_(), False),
        (lambda weight: torch.nn.utils.clip_grad_norm_(weight, 1e-3), True),
        (lambda weight: weight.grad.mul_(2.0**-16), True),
    ],
    ids=["set to None", "set to zero", "clipped", "unscaled"],
)
@pytest.mark.parametrize("then", ["backward", "close"])
def test_what_is_thrown_away_is_forgotten(change, kept, then):
    w = Watched()
    w.backward()
    change(w.weight)
    if then == "close":
        w.watch.close()
        w.assert_seen(*((1, 1.0) if kept else (0, 0.0)))
    else:
        w.backward(4.0)
        w.assert_seen(*((2, 5.0) if kept else (1, 4.0)))


def test_a_closed_watch_sees_nothing_more():
    w = Watched()
    w.backward()
    w.watch.close()
    w.weight.grad = None  # after the optimizer has stepped this is no reason to forget
    w.backward(4.0)
    w.watch.close()
    w.assert_seen(1, 1.0)


def test_a_stopped_watch_keeps_what_it_has():
    w = Watched()
    w.backward()
    w.watch.stop()
    w.backward()
    w.assert_seen(1, 1.0)
    assert w.handle not in WATCHES


def test_a_watch_without_a_sink_counts():
    w = Watched()
    w.watch.stop()
    w.watch = Watch(w.handle, w.weight, w.product, None)
    w.backward()
    assert w.watch.passes == 1


def test_handles_differ():
    assert len({new_handle() for _ in range(100)}) == 100


def test_the_operator_of_compiled_code_tells_the_watch_copies():
    w = Watched()

    class Compiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x)
            return x.new_zeros(x.shape[0], SHAPE.rows)

        @staticmethod
        def backward(ctx, dy):
            (x,), dy = ctx.saved_tensors, dy.clone()
            x = x.clone()
            OPS["observe_dense_grad_"](w.token, w.handle, dy, x)
            dy.zero_(), x.zero_()  # compiled code may use their memory again
            return None, torch.ones_like(w.weight)

    Compiled.apply(w.p.x, w.weight).backward(w.p.dy)
    w.assert_seen(1, 1.0)
    assert w.token.tolist() == [1]


def test_a_total_can_be_cleared_and_says_whether_it_is_finite():
    w = Watched()
    w.backward(float("inf"))
    assert not w.watch.sink.is_finite()
    w.watch.sink.clear_()
    assert w.watch.sink.is_finite()
    assert not w.watch.sink.total.any()


PRODUCTS = [
    Linear(6, 10),
    Conv2d(6, 2, (3, 2)),
    Conv2d(6, 2, (3, 2), (2, 3), (2, 1), (1, 2), groups=3),
    Conv2d(4, 1, (2, 2), (3, 1), (4, 0), (2, 1), groups=4),
    Conv2d(3, 5, (1, 1), (2, 2), (3, 3)),
    Conv1d.of(4, 3, (3,), (2,), (1,), (2,), 2),
]


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_any_matrix_is_a_dense_gradient(product):
    """Of the one pair that is made for it, exactly."""
    gradient = torch.randn(product.rows, product.cols)
    dy, x = pair_of(product, gradient)
    assert torch.equal(product.dense_grad(dy, x), gradient)
    for rows, tile in product.dense_grad_tiles([(dy, x)], torch.float32):
        assert torch.equal(tile, gradient[rows.start : rows.stop])
