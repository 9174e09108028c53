"""sparse_ext.functional: the products with autograd, on every device kind, against dense PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from cases import TOLERANCE, Shape, problem
from torch.func import jvp, vmap

from sparse_ext import functional as SF
from sparse_ext.ops import OPS, CsrPattern, Linear, layout_named, multiply, operands_of

SHAPE = Shape(6, 10, 7, 0.4, spare=3)


def leaves(*tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def at_pattern(matrix, pattern):
    return OPS["csr_pack"](matrix, pattern.row_ptr, pattern.col_idx)


@pytest.mark.parametrize("bias", [True, False])
def test_csr_linear_and_its_gradients(bias, device, dtype):
    p = problem(SHAPE, dtype, device)
    x, weight, b = leaves(p.x, p.weight, p.bias)
    dense_x, dense, dense_b = leaves(p.x.double(), p.dense.double() * p.mask, p.bias.double())
    y = SF.csr_linear(x, weight, b if bias else None, p.pattern)
    want = F.linear(dense_x, dense, dense_b if bias else None)
    y.backward(p.dy)
    want.backward(p.dy.double())
    grads = [(y, want), (x.grad, dense_x.grad), (weight.grad, at_pattern(dense.grad.to(dtype), p.pattern))]
    for got, expected in grads + ([(b.grad, dense_b.grad)] if bias else []):
        torch.testing.assert_close(got, expected.to(dtype), **TOLERANCE[dtype])
    assert (weight.grad[p.pattern.nnz :] == 0).all()


CONVOLUTIONS = {  # x without batch, kernel size, stride, padding, dilation, groups
    "3 x 3": ((4, 9, 8), 3, 1, 1, 1, 1),
    "strided, not square": ((6, 11, 10), (3, 2), (2, 3), (2, 0), (1, 2), 2),
    "depthwise": ((4, 5, 5), 3, 2, 1, 1, 4),
    "one pixel": ((4, 3, 3), 3, 1, 0, 1, 1),
}


@pytest.mark.parametrize("batch", [0, 1, 19, None])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_csr_conv2d_and_its_gradients(case, batch, device, dtype):
    shape, kernel, *window = CONVOLUTIONS[case]
    generator = torch.Generator().manual_seed(0)
    groups = window[-1]
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    mask = torch.rand(8, shape[0] // groups, *kernel, generator=generator) < 0.4
    dense = torch.randn(mask.shape, generator=generator).to(device, dtype) * mask.to(device)
    x = torch.randn(shape if batch is None else (batch, *shape), generator=generator).to(device, dtype)
    pattern = CsrPattern.from_mask(mask.flatten(1).to(device), int(mask.sum()) + 3)
    x, weight, bias = leaves(x, at_pattern(dense.flatten(1), pattern), torch.randn(8, generator=generator).to(device, dtype))
    wide = leaves(x.double(), dense.double(), bias.double())
    y, want = SF.csr_conv2d(x, weight, bias, pattern, kernel, *window), F.conv2d(*wide, *window)
    dy = torch.randn(want.shape, generator=generator).to(device, dtype)
    y.backward(dy)
    want.backward(dy.double())
    grads = [(y, want), (x.grad, wide[0].grad), (bias.grad, wide[2].grad)]
    for got, expected in [*grads, (weight.grad, at_pattern(wide[1].grad.flatten(1).to(dtype), pattern))]:
        torch.testing.assert_close(got, expected.to(dtype), **TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        ((2, 2), r"a weight with a multiple of 4 columns \(kernel \(2, 2\)\), got 27"),
        ((3,), r"kernel_size to be a number or a pair of numbers, got \(3,\)"),
        ("same", r"kernel_size to be a number or a pair of numbers, got 'same'"),
        (0, r"kernel_size to be two numbers of at least 1, got \(0, 0\)"),
    ],
    ids=str,
)
def test_a_pattern_of_another_kernel_is_refused(kernel, sentence):
    """Its columns would be read behind the end."""
    pattern = CsrPattern.from_mask(torch.ones(4, 27, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"csr_conv2d: expected {sentence}"):
        SF.csr_conv2d(torch.zeros(2, 6, 5, 5), torch.zeros(pattern.capacity), None, pattern, kernel)


def test_relu_in_the_product(device, dtype):
    """As torch.relu after it, to the bit: also of NaN, and in all gradients."""
    p = problem(SHAPE, dtype, device)
    p.x[2, 3], p.x[3] = float("nan"), 0  # y of token 3 is the bias
    p.bias[0] = 0
    results = []
    for fused in (True, False):
        x, weight, bias = leaves(p.x, p.weight, p.bias)
        y = SF.csr_linear(x, weight, bias, p.pattern, activation="relu" if fused else None)
        y = y if fused else torch.relu(y)
        y.backward(p.dy)
        results.append((y.detach(), x.grad, weight.grad, bias.grad))
    assert (results[0][0] == 0).any()
    assert results[0][0].isnan().any()
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_spmm_by_hand(device):
    """Two neighbours averaged: a graph's adjacency times node features."""
    adjacency = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], device=device)
    pattern = CsrPattern.from_mask(adjacency != 0)
    features = torch.tensor([[1.0, 2.0], [4.0, 6.0], [8.0, 10.0]], device=device)
    assert SF.spmm(at_pattern(adjacency, pattern), pattern, features).tolist() == [[6.0, 8.0], [1.0, 2.0]]


def test_sddmm_by_hand(device):
    pattern = CsrPattern.from_mask(torch.tensor([[True, False], [False, True]], device=device), capacity=3)
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device), torch.tensor([[5.0, 6.0], [7.0, 8.0]], device=device)
    assert SF.sddmm(pattern, a, b).tolist() == [19.0, 50.0, 0.0]


def gradcheck_inputs(device):
    p = problem(SHAPE, torch.float64, device)
    a, b = torch.randn(6, 5, dtype=torch.float64, device=device), torch.randn(5, 10, dtype=torch.float64, device=device)
    return p, *leaves(p.x, p.weight, p.bias, a, b)


@pytest.mark.only("of 64-bit values sm_90a has no kernels", lambda case: not case.isa.startswith("sm_90a"))
@pytest.mark.parametrize(
    "product", ["csr_linear", "csr_linear without bias", "csr_linear with relu", "csr_conv2d", "spmm", "sddmm"]
)
def test_gradcheck(product, device):
    p, x, weight, bias, a, b = gradcheck_inputs(device)
    images = torch.randn(2, 5, 3, 4, dtype=torch.float64, device=device)
    function, inputs = {
        "csr_linear": (lambda x, w, c: SF.csr_linear(x, w, c, p.pattern), (x, weight, bias)),
        "csr_linear without bias": (lambda x, w: SF.csr_linear(x, w, None, p.pattern), (x, weight)),
        # Products are multiples of 1/64: the bias keeps them off relu's corner.
        "csr_linear with relu": (lambda x, w, c: SF.csr_linear(x, w, c + 0.01, p.pattern, "csr", "relu"), (x, weight, bias)),
        "csr_conv2d": (
            lambda x, w, c: SF.csr_conv2d(x, w, c, p.pattern, (1, 2), stride=(2, 1), padding=1),
            (*leaves(images), weight, bias),
        ),
        "spmm": (lambda w, x: SF.spmm(w, p.pattern, x.t()), (weight, x)),
        "sddmm": (lambda a, b: SF.sddmm(p.pattern, a, b), (a, b)),
    }[product]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_only_gradients_that_are_needed_are_computed(frozen, monkeypatch):
    p = problem(SHAPE)
    inputs = dict(zip(("x", "weight", "bias"), leaves(p.x, p.weight, p.bias), strict=True))
    inputs[frozen].requires_grad_(False)
    calls = []
    for op in ("csr_spmm_t", "csr_sddmm"):
        monkeypatch.setattr(OPS[op], "call", lambda *a, op=op, call=OPS[op].call: calls.append(op) or call(*a))
    SF.csr_linear(inputs["x"], inputs["weight"], inputs["bias"], p.pattern).sum().backward()
    assert calls == {"x": ["csr_sddmm"], "weight": ["csr_spmm_t"], "bias": ["csr_spmm_t", "csr_sddmm"]}[frozen]
    assert [name for name, leaf in inputs.items() if leaf.grad is None] == [frozen]


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (2, 1, 3, 2), (0,), (2, 0, 3)], ids=str)
def test_any_number_of_leading_dimensions(lead, device):
    p = problem(SHAPE, device=device)
    x, weight, bias = leaves(torch.randn(*lead, 10, device=device), p.weight, p.bias)
    y = SF.csr_linear(x, weight, bias, p.pattern)
    dense = F.linear(x, OPS["csr_unpack"](weight.detach(), p.pattern.row_ptr, p.pattern.col_idx, 10), bias)
    assert y.shape == (*lead, 6)
    torch.testing.assert_close(y, dense, **TOLERANCE[torch.float32])
    (expected,) = torch.autograd.grad(dense.square().sum(), x)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, expected, **TOLERANCE[torch.float32])
    assert weight.grad.shape == weight.shape


VIEWS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second": lambda x: torch.stack([x, -x], -1)[..., 0],
    "misaligned": lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape),
    "permuted": lambda x: x.view(2, 4, 10).permute(1, 0, 2),
    "expanded": lambda x: x[:1].expand(8, 10),
}


@pytest.mark.parametrize("view", VIEWS)
def test_strided_inputs_and_expanded_gradients(view, device):
    p = problem(Shape(6, 10, 8, 0.4), device=device)
    results = []
    for make in (VIEWS[view], lambda x: VIEWS[view](x).contiguous()):
        x, weight = leaves(p.x, p.weight)
        SF.csr_linear(make(x), weight, None, p.pattern).sum().backward()  # sum's gradient has stride 0
        results.append((x.grad, weight.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, **TOLERANCE[torch.float32])


def test_second_derivatives():
    """gradgradcheck compares them with differences; `multiply` alone has none, and says so."""
    p = problem(SHAPE, torch.float64)
    x, weight, bias, a = leaves(p.x + 0.01, p.weight, p.bias, p.dy.t())  # no y is exactly 0, where relu has no derivative
    assert torch.autograd.gradgradcheck(lambda *inputs: SF.csr_linear(*inputs, p.pattern, activation="relu"), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *inputs: SF.sddmm(p.pattern, *inputs), (a, x))
    y = multiply(layout_named("csr"), Linear(6, 10), x, weight, bias, operands_of(layout_named("csr"), p.pattern))
    with pytest.raises(RuntimeError, match=r"expected a pattern, .* got None; pass the pattern"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("function", ["csr_linear", "spmm", "sddmm"])
def test_transforms(function):
    """Of torch.func: what a loop over the examples gives."""
    p = problem(SHAPE)
    calls = {
        "csr_linear": (lambda x: SF.csr_linear(x, p.weight, p.bias, p.pattern), p.x),
        "spmm": (lambda x: SF.spmm(p.weight, p.pattern, x[:, None]), p.x),
        "sddmm": (lambda x: SF.sddmm(p.pattern, torch.ones(6, 1), x[None]), p.x),
    }
    call, x = calls[function]
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            torch.testing.assert_close(vmap(call)(x), torch.stack([call(one) for one in x]), **TOLERANCE[torch.float32])
            _, tangent = jvp(call, (x[0],), (x[1],))
            zero = call(torch.zeros_like(x[0]))
            torch.testing.assert_close(tangent, call(x[1]) - zero, **TOLERANCE[torch.float32])


def test_autocast_casts_x_weight_and_bias(device):
    p = problem(SHAPE, device=device)
    x, weight, bias = leaves(p.x, p.weight, p.bias)
    with torch.autocast(device.type, torch.bfloat16):
        y = SF.csr_linear(x, weight, bias, p.pattern)
    want = SF.csr_linear(*(t.detach().bfloat16() for t in (x, weight, bias)), p.pattern)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, want)
    y.sum().backward()
    assert {t.grad.dtype for t in (x, weight, bias)} == {torch.float32}


def test_autocast_leaves_float64_alone():
    p = problem(SHAPE, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert SF.csr_linear(p.x, p.weight, p.bias, p.pattern).dtype == torch.float64


def test_regrow_is_public():
    p = problem(SHAPE)
    row_ptr, _, source = SF.regrow(p.weight, p.pattern.row_ptr, p.pattern.col_idx, 10, p.score, 0, 2, 2)
    assert int(row_ptr[-1]) == p.pattern.nnz
    assert source.numel() == p.pattern.capacity
