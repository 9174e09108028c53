"""How many tokens each layer of a model multiplies in one forward pass: of a convolution, the pixels of its output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from sparse_ext.nn import SparseLayer
from sparse_ext.nn.table import nearest, replacement_of
from sparse_ext.ops import Linear

from ..names import plain_name, unwrapped
from .counter import flop_counter

_Conv = nn.modules.conv._ConvNd
_Transposed = nn.modules.conv._ConvTransposeNd


@dataclass(frozen=True)
class Tokens:
    """Attributes:
    layers: {name: layer} of those that multiply by a weight, sparse and dense ones.
    counts: {name: tokens}.
    other: FLOPs of all else in the forward pass, such as attention's products.
    """

    layers: dict[str, Any]
    counts: dict[str, int]
    other: int


def layers_of(model: nn.Module) -> dict[str, Any]:
    """{name: layer} of a model's sparse layers and of those dense ones that multiply by a weight; embeddings do not."""
    found = {}
    for name, module in model.named_modules():
        multiplies = isinstance(module, nn.Linear | _Conv) or nearest(module) is not None
        if isinstance(module, SparseLayer) or (multiplies and not is_lazy(module.weight)):
            found[plain_name(model, name)] = module
    return found


def one_each(model: nn.Module) -> Tokens:
    """One token for each layer; ValueError if one is not linear."""
    layers = layers_of(model)
    if others := [name for name, layer in layers.items() if not is_linear(layer)]:
        raise ValueError(
            f"count_flops: expected inputs=..., a batch, for a model with convolutions ({', '.join(others[:3])}): it tells how "
            "many pixels they multiply; got None"
        )
    return Tokens(layers, dict.fromkeys(layers, 1), 0)


def measured(model: nn.Module, inputs: Any, trained: Collection[str]) -> Tokens:
    """In a forward pass of these inputs, which leaves the model, its buffers and the random state as they were.

    inputs: a tensor; a tuple or list of arguments; or a mapping, of keywords. trained: names of layers, of which at least one
    must be reached: ValueError if none is. Without names any forward pass will do.
    """
    inner = unwrapped(model)
    layers, found = layers_of(inner), _Found()
    args = inputs if isinstance(inputs, tuple | list) else () if isinstance(inputs, Mapping) else (inputs,)
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    with ExitStack() as stack, _untouched(inner) as buffers, flop_counter() as found.counter:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(found.begin).remove)
            stack.callback(layer.register_forward_hook(found.counts_for(name)).remove)
        functional_call(inner, buffers, tuple(args), keywords)
        other = found.counter.get_total_flops() - found.of_layers
    counts = {name: found.tokens.get(name, 0) for name in layers}
    if trained and not any(counts[name] for name in trained):
        raise ValueError(
            "count_flops: expected inputs whose forward pass reaches the Sparsifier's layers, got some without any"
        )
    return Tokens(layers, counts, int(other))


class _Found:
    """What the hooks of a forward pass have seen."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.of_layers = 0
        self.counter: Any = None
        self._before = 0

    def begin(self, layer: Any, args: Any) -> None:
        self._before = self.counter.get_total_flops()

    def counts_for(self, name: str) -> Any:
        def count(layer: Any, args: Any, y: torch.Tensor) -> None:
            self.of_layers += self.counter.get_total_flops() - self._before
            self.tokens[name] = self.tokens.get(name, 0) + _tokens(layer, args[0] if args else None, y)

        return count


def _tokens(layer: Any, x: Any, y: torch.Tensor) -> int:
    if isinstance(layer, SparseLayer):
        return y.numel() // max(1, layer.product.rows)
    if isinstance(layer, _Transposed):
        return x.numel() // max(1, layer.in_channels)
    features = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    if features is None:
        kind = replacement_of(layer)
        features = layer.weight.shape[-1 if kind is not None and kind.TRANSPOSED else 0]
    return y.numel() // max(1, features)


def is_linear(layer: Any) -> bool:
    """Whether it multiplies tokens, and not the pixels of a convolution."""
    if isinstance(layer, SparseLayer):
        return isinstance(layer.product, Linear)
    return not isinstance(layer, _Conv)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Without gradients, and without compiled code or fused paths, which pass hooks by. Yields copies of buffers to be used."""
    sparse = {id(buffer) for layer in model.modules() if isinstance(layer, SparseLayer) for buffer in layer.buffers()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if id(buffer) not in sparse}
    devices = list({p.device for p in model.parameters() if p.is_cuda})
    fused = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield buffers
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
