"""`estimate`: bytes, communication, FLOPs and speed of training a model, before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from sparse_ext.methods import METHODS, Method, Static
from sparse_ext.nn import sparsify_
from sparse_ext.nn.arguments import check_size
from sparse_ext.ops.auto import CPUS, POLICY, device_name
from sparse_ext.train.flops.tokens import Tokens, is_linear, layers_of, measured

from .outline import on_meta
from .result import Estimate
from .run import Run, estimated


def estimate(
    model: nn.Module,
    sparsity: float | None = None,
    layout: str = "auto",
    method: Method | Mapping[str, Method] | str | None = None,
    optimizer: Any = "adamw",
    tokens: int | None = None,
    ranks: int = 1,
    *,
    inputs: Any = None,
    total_steps: int = 10_000,
    distribution: str = "erk",
    exclude: Iterable[str] = (),
    device: torch.device | str | None = None,
) -> Estimate:
    """What training a model will cost, dense and sparse, layer by layer; and where dense is better.

    Nothing is allocated: it works on shapes alone, of copies on the device "meta". A model that was built there, under
    `with torch.device("meta"):`, may be larger than any memory.

    - *Bytes* are those of tensors that stay from step to step. The optimizer's are found by a step of it on "meta". Activations
      are not among them: sparse layers save for the backward pass what dense ones save.
    - *FLOPs* are those that `count_flops` plans: 2 for each entry and token, and three products in a training step, by the
      method's own schedule. Without `inputs` those of layers alone: attention's products do not count.
    - *Communication* is that of an all-reduce around a ring: each rank sends 2 (ranks - 1) / ranks of what is summed.
    - *Speed* is predicted of matrix products and convolutions from ratios measured by `python -m sparse_ext calibrate`, at the
      nearest size that was measured; the other parts of a step take as long as in the dense run. Where nothing was measured it
      is None, with a note.

    One backward pass in a step is assumed, and as many processes as ranks.

    Args:
        model: a dense model, on any device. It stays as it is.
        sparsity, layout, distribution, exclude: as of `sparsify_`. A method that trains dense layers in part, as `SAT` does,
            leaves the model dense if there is no sparsity.
        method: the method; its name in METHODS, for one with its default choices; or {name pattern: method}. None: `Static()`.
        optimizer: a class of torch.optim, or its name, "adamw" or "sgd-momentum" for example; any function of the parameters,
            such as `functools.partial(SGD, momentum=0.9)`; or an optimizer, whose first group's options count.
        tokens: how many each linear layer multiplies in a step of one rank: sequences times their length.
        ranks: how many processes sum their gradients.
        inputs: in place of tokens, a batch of one rank, which runs forward once, on "meta": a tensor, a tuple of arguments, or
            a mapping of keywords; tensors on "meta" will do. A model with convolutions needs it.
        total_steps: length of the run; the method's schedule is a share of it.
        device: where it will train, also as the table of measurements names it, such as "cuda 9.0". None: where the model is;
            for one on "meta", this machine's CPU.

    Returns:
        An `Estimate`: `print` it, or read its rows. Bytes and FLOPs are those of one rank.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of range, or unknown; the model is sparse, lazy or wrapped; the batch does not run on
            "meta"; or the method cannot train such layers, or such an optimizer follow it.

    Example:
        with torch.device("meta"):
            model = MyTransformer(width=8192, depth=80)
        print(estimate(model, 0.9, "csr", RigL(), "adamw", tokens=8 * 2048, ranks=64))
    """
    plan = _method(method)
    ranks, total_steps = check_size("estimate", "ranks", ranks, 1), check_size("estimate", "total_steps", total_steps, 1)
    if not isinstance(model, nn.Module):
        raise TypeError(f"estimate: expected a model, got {type(model).__name__}")
    dense, sparse = on_meta(model), on_meta(model)
    counted = _tokens(dense, tokens, inputs)
    if sparsity is not None or not _freezes_alone(plan):
        sparsify_(sparse, sparsity, distribution=distribution, layout=layout, method=plan, init="magnitude", exclude=exclude)
    run = Run(plan, optimizer, ranks, total_steps, _device(device, model))
    return estimated(run, dense, sparse, counted)


def _method(method: Any) -> Any:
    if method is None:
        return Static()
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(f"estimate: expected method to be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    return METHODS[method]()


def _freezes_alone(method: Any) -> bool:
    """Whether the method trains dense layers, and changes no patterns."""
    return isinstance(method, Method) and all(one.trains_dense_layers and not one.changes_patterns for one in method.parts)


def _tokens(model: nn.Module, tokens: int | None, inputs: Any) -> Tokens:
    """How many tokens each layer of a model on "meta" multiplies."""
    if (tokens is None) == (inputs is None):
        got = "neither" if tokens is None else "both"
        raise ValueError(f"estimate: expected tokens or inputs, got {got}; that is, how many tokens a step has, or a batch")
    layers = layers_of(model)
    if inputs is None:
        count = check_size("estimate", "tokens", tokens, 1)
        if others := [name for name, layer in layers.items() if not is_linear(layer)]:
            raise ValueError(
                f"estimate: expected inputs=..., a batch, for a model with convolutions ({', '.join(others[:3])}): it tells "
                f"how many pixels they multiply; got tokens={count}"
            )
        return Tokens(layers, dict.fromkeys(layers, count), 0)
    if not isinstance(inputs, torch.Tensor | tuple | list | Mapping):
        raise TypeError(f"estimate: expected inputs as a tensor, a tuple or a mapping, got {type(inputs).__name__}")
    shapes = tree_map(lambda one: one.to("meta") if isinstance(one, torch.Tensor) else one, inputs)
    try:
        found = measured(model, shapes, ())
    except Exception as error:  # whatever a model may raise
        raise ValueError(
            f"estimate: expected inputs that the model takes on the device 'meta', got {type(error).__name__}: {error}; a "
            "model of linear layers can be estimated by their number of tokens"
        ) from error
    if not any(found.counts.values()):
        raise ValueError("estimate: expected inputs whose forward pass reaches the model's layers, got some without any")
    return found


def _device(device: torch.device | str | None, model: nn.Module) -> str:
    """As the table of measurements names it."""
    known = list(dict.fromkeys([*CPUS, *(name for name, *_ in POLICY.table)]))
    if device is None:
        return device_name(next((one.device for one in model.parameters()), torch.device("cpu")))
    if device in known:
        return str(device)
    try:
        return device_name(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise ValueError(
            f"estimate: expected a device of this machine, or one of {', '.join(map(repr, known))}, got {device!r}: {error}"
        ) from error
