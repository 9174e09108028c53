"""`multiply`: the forward product of every layer and its derivative, for all layouts and products.

The autograd function wraps the operators, and `forward` takes ctx. Autograd inside the operators, or a separate
`setup_context`, would cost microseconds a call. Kernels give the derivatives of one backward pass, `written_out` all others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._C import _are_functorch_transforms_active, _get_tracing_state
from torch.autograd import forward_ad
from torch.compiler import is_exporting

from . import written_out
from .dense_grad import observe, observe_matrix
from .layout import Layout
from .part import PARTS, Part
from .pattern import Pattern
from .rule import Rule

CONSTANTS = 10  # arguments of `ProductFunction` in front of x


class ProductFunction(torch.autograd.Function):
    """y = kernels.forward(...). Operands are plain arguments, so that compilers see them.

    part, live: the kind of the weight's part that trains, and by what its gradient is multiplied; the part's tensors follow
    those of the operands. None: all trains.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layout: type[Layout],
        product: Any,
        rule: Rule | None,
        pattern: Pattern | None,
        rng: torch.Tensor | None,
        handle: int,
        token: torch.Tensor | None,
        relu: bool,
        part: str | None,
        live: torch.Tensor | None,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        ctx.part, ctx.live = part, live
        operands = tensors if part is None else tensors[: len(layout.operands._fields)]
        ctx.layout, ctx.product, ctx.rule, ctx.pattern, ctx.handle = layout, product, rule, pattern, handle
        ctx.rng, ctx.token = rng, token  # not saved_tensors: backward writes them, and autograd would raise
        kernels = layout.products[type(product)]
        y = kernels.forward(product, weight, rule, layout.operands(*operands), x, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return differentiable_backward(ctx, dy)
        x, weight, y, *tensors = ctx.saved_tensors
        layout, product, rule = ctx.layout, ctx.product, ctx.rule
        count = len(layout.operands._fields)
        kernels, operands = layout.products[type(product)], layout.operands(*tensors[:count])
        if y is not None:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)  # as relu's own: 0 where y is not positive
        *_, needs_x, needs_weight, needs_bias = ctx.needs_input_grad[: CONSTANTS + 3]
        dx = kernels.grad_input(product, weight, rule, operands, dy, x.shape) if needs_x else None
        dw = db = None
        if needs_weight:
            if ctx.part is None:
                dw = kernels.grad_weight(product, rule, operands, dy, x, ctx.rng)
            else:
                dw = PARTS[ctx.part](product, weight.numel(), dy, x, *tensors[count:])
                dw = (dw if rule is not None else layout.at_pattern(dw, operands)).view(weight.shape)
            if dw.dtype is not weight.dtype:  # of a dense weight, which autocast does not cast
                dw = dw.to(weight.dtype)
            if ctx.token is not None:
                observe(ctx.handle, ctx.token, dy, x)
        if needs_bias:
            db = product.grad_bias(dy)
        if ctx.live is not None:
            dw, db = (None if gradient is None else gradient * ctx.live.to(gradient.dtype) for gradient in (dw, db))
        return *(None,) * CONSTANTS, dx, dw, db, *(None,) * len(tensors)


def differentiable_backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """`ProductFunction.backward` with create_graph=True.

    The weight gradient is exact, also where it would be estimated, and that of all weights, also where some are frozen.
    """
    x, weight, y, *tensors = ctx.saved_tensors
    *_, needs_x, needs_weight, needs_bias = ctx.needs_input_grad[: CONSTANTS + 3]
    if y is not None:
        dy = torch.ops.aten.threshold_backward(dy, y.detach(), 0)
    matrix = written_out.matrix(ctx.layout, _known(ctx.pattern), ctx.rule, weight)
    needed = [tensor for tensor, is_needed in ((x, needs_x), (weight, needs_weight)) if is_needed]
    y = written_out.multiply(ctx.product, matrix, x, None)
    found = iter(torch.autograd.grad(y, needed, dy, create_graph=True) if needed else ())
    dx, dw = next(found) if needs_x else None, next(found) if needs_weight else None
    if needs_weight and ctx.token is not None:
        observe(ctx.handle, ctx.token, dy.detach(), x.detach())
        observe_matrix(ctx.handle, ctx.product, matrix)
    db = ctx.product.grad_bias(dy) if needs_bias else None
    return *(None,) * CONSTANTS, dx, dw, db, *(None,) * len(tensors)


def _differentiable(
    layout: type[Layout],
    product: Any,
    rule: Rule | None,
    pattern: Pattern | None,
    handle: int,
    token: torch.Tensor | None,
    relu: bool,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """The product where kernels do not serve: `written_out`."""
    matrix = written_out.matrix(layout, _known(pattern), rule, weight)
    if token is not None and matrix.requires_grad and not _are_functorch_transforms_active():
        observe_matrix(handle, product, matrix)
    y = written_out.multiply(product, matrix, x, bias)
    return torch.relu(y) if relu else y


def _known(pattern: Pattern | None) -> Pattern:
    if pattern is None:
        raise RuntimeError(
            "multiply: expected a pattern, as transforms of torch.func, forward-mode and second derivatives and ONNX read it, "
            "got None; pass the pattern that the operands are of"
        )
    return pattern


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
    pattern: Pattern | None = None,
    part: Part | None = None,
) -> torch.Tensor:
    """The product of x and the sparse weight, plus bias, then the activation.

    Args:
        x: input as the dense layer takes it, any strides.
        weight: 1-D; packed [capacity], or with a `rule` dense [rows * cols], of which the product uses a part.
        bias: [rows] or None.
        operands: the layout's operands of the pattern.
        rng: int64 [2], (seed, offset), to estimate the weight gradient from a sample of the output gradient; None: exact.
        handle, token: identify the watch on the dense weight gradient, see `dense_grad`; token None: no watch.
        activation: "relu" or None.
        pattern: of which the operands are. None: there are first derivatives of one backward pass only.
        part: of the weight, that trains: elsewhere its gradient is 0, and costs nothing. None: all of it.

    Raises:
        ValueError: x does not fit, devices differ, or the activation is unknown.
        TypeError: dtypes differ.
        RuntimeError: without a pattern, other derivatives are asked for.
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
    is_exported = (_get_tracing_state() is not None or is_exporting()) and torch.onnx.is_in_onnx_export()
    if is_exported or forward_ad._current_level >= 0 or _are_functorch_transforms_active():
        y = _differentiable(layout, product, rule, pattern, handle, token, relu, x, weight, bias)
    elif torch.is_grad_enabled():
        kind, tensors, live = (None, (), None) if part is None else part
        y = ProductFunction.apply(
            layout, product, rule, pattern, rng, handle, token, relu, kind, live, x, weight, bias, *operands, *tensors
        )
    else:
        y = layout.products[type(product)].forward(product, weight, rule, operands, x, bias, relu)
    return y if lead is None else product.unbatched(y, lead)


def _name(layout: type[Layout], product: Any) -> str:
    """As in error messages: "csr_linear"."""
    return f"{layout.stem}_{product.name}"
