"""`Replacement`: a sparse layer that takes the place of a dense one: made of it, and back."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sparse_ext.ops import FLOATING, Product, layout_named

from .arguments import check_sparsity, storage
from .effective import effective
from .layer import SparseLayer
from .norms import norm_of

R = TypeVar("R", bound="Replacement")


class Replacement(SparseLayer):
    """A sparse layer with a dense counterpart. A subclass defines the attributes, `product_of` and a constructor.

    Attributes:
        DENSE: the class of the dense layer; or its full name, so that its package is imported only where it is used.
        ARGUMENTS: names of the constructor's arguments that both layers also have as attributes; `bias` is not among them.
        TRANSPOSED: whether the dense layer's weight is the transpose of the matrix that products multiply by.
    """

    DENSE: ClassVar[type[nn.Module] | str]
    ARGUMENTS: ClassVar[tuple[str, ...]]
    TRANSPOSED: ClassVar[bool] = False

    @classmethod
    def product_of(cls, dense: Any) -> Product:
        """The product of the layer that would replace this dense one."""
        raise NotImplementedError

    @classmethod
    def as_matrix(cls, weight: torch.Tensor) -> torch.Tensor:
        """A dense layer's weight as products have it; or, of such a one, as the dense layer has it."""
        return weight.t().contiguous() if cls.TRANSPOSED else weight

    def dense_arguments(self) -> dict[str, Any]:
        """What the constructor of the dense layer is called with."""
        return {**{name: getattr(self, name) for name in self.ARGUMENTS}, "bias": self.bias is not None}

    def extra_repr(self) -> str:
        arguments = "".join(f"{name}={getattr(self, name)!r}, " for name in self.ARGUMENTS)
        return f"{arguments}bias={self.bias is not None}, nnz={self.nnz}, density={self.density:.4g}, layout={self.layout!r}"

    @classmethod
    def from_dense(
        cls: type[R],
        dense: nn.Module,
        *,
        sparsity: float | None = None,
        mask: torch.Tensor | None = None,
        layout: str = "csr",
        capacity: float | None = None,
    ) -> R:
        """Prunes a dense layer: a new sparse layer that keeps its values at `mask`, or its largest magnitudes.

        Args:
            dense: an instance of DENSE; it stays as it is. Its weight may be pruned by `torch.nn.utils.prune`, normalized
                (`weight_norm`, `spectral_norm`) or otherwise parametrized, or come from
                `torch.sparse.to_sparse_semi_structured`: taken is the weight that its next forward pass would use.
            sparsity: share of zeros, as in the constructor; not together with `mask`.
            mask: of the dense weight's shape, True or 1 where a value is kept, False or 0 elsewhere; None: the largest
                magnitudes are kept.
            layout, capacity: as in the constructor.

        Returns:
            A layer on the same device, with the same dtype, bias, training mode and frozen parameters.

        Raises:
            ValueError: the layer is lazy; sparsity and mask are both given; or the mask has a wrong shape, values other than
                0 and 1, no 1, or more of them than the layout holds.
            TypeError: `dense` is of another class, has a forward pass of its own, or a weight that is quantized, distributed,
                or of a dtype for which there are no kernels.
        """
        cls._check_class(dense)
        weight, bias = effective(dense, "weight"), effective(dense, "bias")
        if weight.dtype not in FLOATING or is_traceable_wrapper_subclass(weight):
            names, got = ", ".join(sorted(map(str, FLOATING))), f"{type(weight).__name__} of {weight.dtype}"
            raise TypeError(f"{cls.__name__}.from_dense: expected a plain weight of dtype {names}, got a {got}")
        if mask is not None:
            mask = _boolean(mask, weight)
            found = _sparsity_of(mask, sparsity)
            sparsity = found if layout_named(layout).pattern.VARIABLE else None
        layer = cls.outline(dense, weight, sparsity=sparsity, layout=layout, capacity=capacity)
        if not weight.is_meta:
            layer.allocate_(weight.device)
            layer.set_matrix_(cls.as_matrix(weight), None if mask is None else cls.as_matrix(mask))
            layer.copy_rest_(dense, bias)
        return layer

    @classmethod
    def _check_class(cls, dense: nn.Module) -> None:
        """TypeError unless it is a DENSE that computes what every DENSE does; ValueError if it has no weight yet."""
        wanted = short_name(cls.DENSE)
        base = next((kind for kind in type(dense).__mro__ if cls.DENSE in (kind, full_name(kind))), None)
        if base is None:
            raise TypeError(f"{cls.__name__}.from_dense: expected a {wanted}, got {type(dense).__name__}")
        if has_own_forward(dense, base):
            raise TypeError(
                f"{cls.__name__}.from_dense: expected a {wanted}, got {type(dense).__name__} with a forward pass of its own, "
                "which would be lost; register_layer a sparse class that has it, too"
            )
        if any(is_lazy(parameter) for parameter in dense.parameters(recurse=False)):
            raise ValueError(f"{cls.__name__}.from_dense: expected a weight, got a lazy {wanted}; run a batch through it first")

    @classmethod
    def outline(
        cls: type[R], dense: Any, weight: torch.Tensor, *, sparsity: float | None, layout: str, capacity: float | None
    ) -> R:
        """The layer for which `dense` would be exchanged, on the device "meta": neither pattern nor values are computed.

        `allocate_` and then `set_matrix_` or `reset_parameters` fill it. Arguments and errors are those of `from_dense`; only
        dtype and device of `weight`, the dense layer's, count.
        """
        stored = storage(layout, cls.product_of(dense), sparsity, weight.dtype, weight.device)
        arguments: dict[str, Any] = {name: getattr(dense, name) for name in cls.ARGUMENTS}
        layer = cls(
            **arguments, bias=dense.bias is not None, sparsity=sparsity, layout=stored.chosen, capacity=capacity,
            device="meta", dtype=weight.dtype,
        )  # fmt: skip
        layer._asked, layer.layout_reason = layout, stored.reason
        _keep_frozen(layer, dense)
        return layer.train(dense.training)

    @torch.no_grad()
    def reset_weight_(self, mean_square: float, spread: float | None = None) -> None:
        """A new random pattern and new values, at the scale of a dense layer.

        Args:
            mean_square: of the dense layer's weight. The values get the variance mean_square * cols / fan_in, where fan_in is
                the mean number of weights in a row: outputs are as large as the dense layer's. 0: they all become 0.
            spread: see `random_pattern`.
        """
        self.reset_(spread)  # at the scale of a dense weight of mean square 1 / (3 cols)
        self.weight.mul_(math.sqrt(3 * self.product.cols * mean_square))
        if self.chosen_by is not None:
            self.set_matrix_(self.weight.detach().view(self.product.weight_shape))

    @torch.no_grad()
    def copy_rest_(self, dense: nn.Module, bias: torch.Tensor | None) -> None:
        """Takes over the bias, and the tensors that a class from outside has beside weight and bias, from those of one name."""
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
        _copy(self, dense, {"weight", "bias", "_no_pattern", *self._names})

    def to_dense(self) -> Any:
        """A new layer of class DENSE that computes the same function; its weight holds zeros at the unused positions."""
        with torch.device("meta"):
            dense: Any = class_named(self.DENSE)(**self.dense_arguments())
        dense.to(self.weight.dtype)
        if not self.weight.is_meta:
            dense.to_empty(device=self.weight.device)
            weight = self.dense_weight()
            if (norm := norm_of(self)) is not None:
                weight.mul_(norm.scale(self).detach().view(-1, *(1 for _ in weight.shape[1:])))
            dense.weight.data.copy_(self.as_matrix(weight))
            if self.bias is not None:
                dense.bias.data.copy_(self.bias.detach())
            elif dense.bias is not None:  # a class that always has one
                dense.bias.data.zero_()
            _copy(dense, self, {"weight", "bias"})
        _keep_frozen(dense, self)
        return dense.train(self.training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Loads a dense layer's entries, too: pruned ones by `torch.nn.utils.prune`, and a weight that is transposed here."""
        entries = _without_pruning(state_dict, prefix, [name for name in ("weight", "bias") if name in self._parameters])
        weight = entries.get(prefix + "weight")
        if self.TRANSPOSED and isinstance(weight, torch.Tensor) and weight.dim() == 2:
            entries = {**entries, prefix + "weight": self.as_matrix(weight)}
        super()._load_from_state_dict(entries, prefix, *args, **kwargs)


def full_name(kind: type) -> str:
    """As an import would name it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def short_name(kind: type | str) -> str:
    """The name without its package."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def class_named(kind: type[nn.Module] | str) -> type[nn.Module]:
    """The class, imported if this is its full name."""
    if isinstance(kind, str):
        package, _, name = kind.rpartition(".")
        found: type[nn.Module] = getattr(import_module(package), name)
        return found
    return kind


def has_own_forward(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether its forward pass is another one than that of this class, which it is derived from."""
    return "forward" in vars(module) or type(module).forward is not base.forward


def _without_pruning(state_dict: dict[str, Any], prefix: str, names: list[str]) -> dict[str, Any]:
    """The entries, where those of `torch.nn.utils.prune` are replaced by the parameters of these names that they make up."""
    entries = state_dict
    for name in names:
        key = prefix + name
        value, mask = entries.get(key + "_orig"), entries.get(key + "_mask")
        if key not in entries and isinstance(value, torch.Tensor) and isinstance(mask, torch.Tensor):
            rest = {other: tensor for other, tensor in entries.items() if other not in (key + "_orig", key + "_mask")}
            entries = {**rest, key: value * mask.to(value)}
    return entries


def _keep_frozen(new: nn.Module, old: nn.Module) -> None:
    """Copies `requires_grad` from the parameters of `old` to those of the same name in `new`.

    Where a hook or a parametrization computes one, those that it is computed of count: `weight_orig` for `weight`.
    """
    given = dict(old.named_parameters())
    for name, parameter in new.named_parameters(recurse=False):
        sources = [given[name]] if name in given else [tensor for full, tensor in given.items() if name in full]
        parameter.requires_grad_(any(tensor.requires_grad for tensor in sources))


def _copy(new: nn.Module, old: nn.Module, but: set[str]) -> None:
    """Copies the tensors of `new`, but these, from those of `old`; ValueError if it has none of a name."""
    given = {**dict(old.named_parameters()), **dict(old.named_buffers())}
    for name, tensor in (*new.named_parameters(), *new.named_buffers()):
        if name not in but:
            if name not in given:
                raise ValueError(
                    f"expected a {type(old).__name__} with {name!r}, as {type(new).__name__} has it, got one without; "
                    "a registered layer and its dense counterpart need the same parameters and buffers"
                )
            tensor.data.copy_(given[name].detach())


def _boolean(mask: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """The mask as bool; ValueError if it does not fit this dense weight, or holds other numbers than 0 and 1."""
    if mask.shape != dense.shape:
        raise ValueError(f"expected mask of shape {tuple(dense.shape)} (as the weight), got {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        return mask
    other = mask[(mask != 0) & (mask != 1)]
    if other.numel():
        raise ValueError(f"expected a mask of 0 and 1, or False and True, got {other[0].item()}; do mask != 0, for example")
    return mask != 0


def _sparsity_of(mask: torch.Tensor, sparsity: float | None) -> float:
    """The sparsity of a boolean mask; ValueError if there is another one, or no True."""
    if sparsity is not None:
        raise ValueError(f"expected sparsity or mask, got both (sparsity={sparsity})")
    ones = int(mask.sum())
    if mask.numel() and not ones:
        raise ValueError(f"expected a mask with at least one True, got none in {tuple(mask.shape)}")
    return check_sparsity(1.0 - ones / max(1, mask.numel()))
