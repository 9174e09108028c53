"""Dense layers that a method trains in part: `nn.Linear` and `nn.Conv2d`, as they are, with what a Sparsifier asks of a layer.

`enroll` gives such a layer a subclass of its own class, as `torch.nn.utils.parametrize` does, and `release` the class back.
Parameters, state dict, copies, pickles and isinstance stay what they were.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparse_ext.ops import Conv2d, Linear, Pattern, layout_named, multiply

from .candidates import HOOKS, obstacles
from .conv import Window
from .partly import PartlyTrained


class DenseLayer(PartlyTrained):
    """What these subclasses share. The members are those of `SparseLayer`, of a layer that stores every position."""

    layout = asked = "dense"
    keeps_length = True
    layout_reason = "a dense layer"
    chosen_by = None
    watched = None
    can_sample = False
    rng = None
    in_features: int
    out_features: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the dense layer; the weight gradient is computed of the part that trains."""
        trains = self._trains
        if trains is None or not torch.is_grad_enabled() or trains.part.tensors[0].device != x.device:  # a replica's
            return super().forward(x)  # type: ignore[misc]
        weight, bias, part = trains.of(self.weight, self.bias)  # type: ignore[attr-defined]
        if part is None:
            return self.dense_forward(x, weight, bias)
        kind = layout_named(self.layout)
        return multiply(kind, self.product, x, weight, bias, kind.operands(), pattern=self.pattern, part=part)

    def dense_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """By PyTorch's own function."""
        raise NotImplementedError

    @property
    def pattern(self) -> Pattern:
        """All positions."""
        return layout_named(self.layout).pattern.empty(self.product.rows, self.product.cols, 0, self.weight.device)

    @property
    def capacity(self) -> int:
        """How many weights there are."""
        return self.weight.numel()

    nnz = target_nnz = capacity

    @property
    def density(self) -> float:
        """1."""
        return 1.0

    def slots(self) -> torch.Tensor:
        """int64 [capacity]: the position of every weight."""
        return torch.arange(self.capacity, device=self.weight.device)

    def mask(self) -> torch.Tensor:
        """bool, of the weight's shape: True."""
        return torch.ones_like(self.weight, dtype=torch.bool)

    def sync(self) -> None:
        """There is nothing that is derived from buffers."""

    def unwatch(self) -> None:
        """There is no watch: no method asks for more than `weight.grad`."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_trains"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or what was pickled, is a dense layer: no Sparsifier trains it, unless one is copied along."""
        super().__setstate__(state)  # type: ignore[misc]
        release(self)  # type: ignore[arg-type]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.train_all_()
        return super()._apply(*args, **kwargs)  # type: ignore[misc]


class PartlyTrainedLinear(DenseLayer, nn.Linear):  # type: ignore[misc]
    """An `nn.Linear` that is trained in part."""

    @property
    def product(self) -> Linear:
        return Linear(self.out_features, self.in_features)

    def dense_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return nn.functional.linear(x, weight, bias)


class PartlyTrainedConv2d(DenseLayer, nn.Conv2d):  # type: ignore[misc]
    """An `nn.Conv2d` that is trained in part."""

    @property
    def product(self) -> Conv2d:
        zeros: Any = Window.of(self).zeros()
        sizes: Any = (self.kernel_size, self.stride, zeros, self.dilation)
        return Conv2d._make((self.out_channels, self.in_channels // self.groups, *sizes, self.groups))

    def dense_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._conv_forward(x, weight, bias)


SUBCLASSES: dict[type[nn.Module], type[Any]] = {nn.Linear: PartlyTrainedLinear, nn.Conv2d: PartlyTrainedConv2d}


def eligible(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The dense layers of a model that could be trained in part, by name, and why others of their kinds could not."""
    why = obstacles(model)
    found, kept = {}, {}
    for name, module in model.named_modules():
        if type(module) not in (*SUBCLASSES, *SUBCLASSES.values()):
            if isinstance(module, tuple(SUBCLASSES)) and name in why:
                kept[name] = why[name]
            continue
        reason = None if isinstance(module, DenseLayer) else why.get(name)
        if reason == HOOKS:  # they stay, as the layer does
            reason = None
        if isinstance(module, nn.Conv2d) and Window.of(module).zeros() is None:
            reason = f"it pads with {module.padding_mode!r}, or one side more than the other"
        if reason is None:
            found[name] = module
        else:
            kept[name] = reason
    return found, kept


def enroll(layer: nn.Module) -> None:
    """Gives a dense layer the subclass that can be trained in part."""
    layer.__class__ = SUBCLASSES.get(type(layer), type(layer))


def release(layer: nn.Module) -> None:
    """Gives the layer its own class back."""
    if isinstance(layer, DenseLayer):
        vars(layer).pop("_trains", None)
        dense: Any = {own: kind for kind, own in SUBCLASSES.items()}[type(layer)]
        layer.__class__ = dense
