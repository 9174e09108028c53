"""`multiply`: the forward product of every layer and its derivative, for all layouts and products.

The autograd function wraps the operators, and `forward` takes ctx. Autograd inside the operators, or a separate
`setup_context`, would cost microseconds a call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .dense_grad import observe
from .layout import Layout
from .rule import Rule


class ProductFunction(torch.autograd.Function):
    """y = kernels.forward(...). Operands are plain arguments, so that compilers see them."""

    @staticmethod
    def forward(
        ctx: Any,
        layout: type[Layout],
        product: Any,
        rule: Rule | None,
        rng: torch.Tensor | None,
        handle: int,
        token: torch.Tensor | None,
        relu: bool,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *operands: torch.Tensor,
    ) -> torch.Tensor:
        ctx.layout, ctx.product, ctx.rule, ctx.handle = layout, product, rule, handle
        ctx.rng, ctx.token = rng, token  # not saved_tensors: backward writes them, and autograd would raise
        kernels = layout.products[type(product)]
        y = kernels.forward(product, weight, rule, layout.operands(*operands), x, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *operands)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, y, *operands = ctx.saved_tensors
        layout, product, rule = ctx.layout, ctx.product, ctx.rule
        kernels, operands = layout.products[type(product)], layout.operands(*operands)
        if y is not None:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)  # as relu's own: 0 where y is not positive
        *_, needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:10]
        dx = kernels.grad_input(product, weight, rule, operands, dy, x.shape) if needs_x else None
        dw = db = None
        if needs_weight:
            dw = kernels.grad_weight(product, rule, operands, dy, x, ctx.rng)
            if dw.dtype is not weight.dtype:  # of a dense weight, which autocast does not cast
                dw = dw.to(weight.dtype)
            if ctx.token is not None:
                observe(ctx.handle, ctx.token, dy, x)
        if needs_bias:
            db = product.grad_bias(dy)
        return *(None for _ in range(7)), dx, dw, db, *(None for _ in operands)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As autocast treats the operands of `linear`: float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def multiply(
    layout: type[Layout],
    product: Any,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    operands: Any,
    rule: Rule | None = None,
    rng: torch.Tensor | None = None,
    handle: int = 0,
    token: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor:
    """The product of x and the sparse weight, plus bias, then the activation. Has first derivatives only.

    Args:
        x: input as the dense layer takes it, any strides.
        weight: 1-D; packed [capacity], or with a `rule` dense [rows * cols], of which the product uses a part.
        bias: [rows] or None.
        operands: the layout's operands of the pattern.
        rng: int64 [2], (seed, offset), to estimate the weight gradient from a sample of the output gradient; None: exact.
        handle, token: identify the watch on the dense weight gradient, see `dense_grad`; token None: no watch.
        activation: "relu" or None.

    Raises:
        ValueError: x does not fit, devices differ, or the activation is unknown.
        TypeError: dtypes differ.
    """
    on_cpu = x.is_cpu
    if on_cpu is not weight.is_cpu or not (on_cpu or x.device == weight.device):
        raise ValueError(f"{_name(layout, product)}: expected x on {weight.device} (as the weight), got {x.device}")
    device_type = "cpu" if on_cpu else x.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        x = _cast(x, dtype)
        weight = weight if rule is not None else _cast(weight, dtype)  # kernels cast the used part of a dense weight
        bias = None if bias is None else _cast(bias, dtype)  # or it would promote the output again
    lead = None
    dims, features = product.takes
    if x.dim() != dims or x.shape[1] != features:
        x, lead = product.batched(_name(layout, product), x)
    if rule is None and x.dtype is not weight.dtype:
        raise TypeError(f"{_name(layout, product)}: expected x of dtype {weight.dtype} (as the weight), got {x.dtype}")
    if activation is not None and activation != "relu":
        raise ValueError(f"{_name(layout, product)}: expected activation 'relu' or None, got {activation!r}")
    relu = activation is not None
    if torch.is_grad_enabled():
        y = ProductFunction.apply(layout, product, rule, rng, handle, token, relu, x, weight, bias, *operands)
    else:
        y = layout.products[type(product)].forward(product, weight, rule, operands, x, bias, relu)
    return y if lead is None else product.unbatched(y, lead)


def _name(layout: type[Layout], product: Any) -> str:
    """As in error messages: "csr_linear"."""
    return f"{layout.stem}_{product.name}"
