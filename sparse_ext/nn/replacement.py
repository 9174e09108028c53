"""`Replacement`: a sparse layer that takes the place of a dense one of PyTorch's: made of it, and back."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.sparse import SparseSemiStructuredTensor

from sparse_ext.ops import Product, layout_named

from .arguments import check_sparsity, storage
from .layer import SparseLayer

R = TypeVar("R", bound="Replacement")


class Replacement(SparseLayer):
    """A sparse layer with a dense counterpart. A subclass defines the attributes, `product_of` and a constructor.

    Attributes:
        DENSE: the class of the dense layer.
        ARGUMENTS: names of the constructor's arguments that both layers also have as attributes; `bias` is not among them.
    """

    DENSE: ClassVar[type[nn.Module]]
    ARGUMENTS: ClassVar[tuple[str, ...]]

    @classmethod
    def product_of(cls, dense: Any) -> Product:
        """The product of the layer that would replace this dense one."""
        raise NotImplementedError

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
            dense: an instance of DENSE; it stays as it is. Its weight may be pruned by `torch.nn.utils.prune`, or come from
                `torch.sparse.to_sparse_semi_structured`.
            sparsity: share of zeros, as in the constructor; not together with `mask`.
            mask: bool, of the dense weight's shape, True where a value is kept; None: the largest magnitudes are.
            layout, capacity: as in the constructor.

        Returns:
            A layer on the same device, with the same dtype, bias, training mode and frozen parameters.

        Raises:
            ValueError: sparsity and mask are both given; or the mask has a wrong shape, no True, or more than the layout holds.
            TypeError: `dense` is of another class, or the mask is not boolean.
        """
        if not isinstance(dense, cls.DENSE):
            raise TypeError(f"{cls.__name__}.from_dense: expected a {cls.DENSE.__name__}, got {type(dense).__name__}")
        weight, bias = _present(dense, "weight"), _present(dense, "bias")
        if mask is not None:
            found = _sparsity_of(mask, weight, sparsity)
            sparsity = found if layout_named(layout).pattern.VARIABLE else None
        layer = cls.outline(dense, sparsity=sparsity, layout=layout, capacity=capacity)
        if not weight.is_meta:
            layer.allocate_(weight.device)
            layer.set_matrix_(weight, mask)
            if layer.bias is not None:
                layer.bias.data.copy_(bias)
        return layer

    @classmethod
    def outline(cls: type[R], dense: Any, *, sparsity: float | None, layout: str, capacity: float | None) -> R:
        """The layer for which `dense` would be exchanged, on the device "meta": neither pattern nor values are computed.

        `allocate_` and then `set_matrix_` or `reset_parameters` fill it. Arguments and errors are those of `from_dense`.
        """
        weight = dense.weight
        stored = storage(layout, cls.product_of(dense), sparsity, weight.dtype, weight.device)
        arguments: dict[str, Any] = {name: getattr(dense, name) for name in cls.ARGUMENTS}
        layer = cls(
            **arguments, bias=dense.bias is not None, sparsity=sparsity, layout=stored.chosen, capacity=capacity,
            device="meta", dtype=weight.dtype,
        )  # fmt: skip
        layer.layout_reason = stored.reason
        _keep_frozen(layer, dense)
        return layer.train(dense.training)

    def to_dense(self) -> Any:
        """A new layer of class DENSE that computes the same function; its weight holds zeros at the unused positions."""
        arguments: dict[str, Any] = {name: getattr(self, name) for name in self.ARGUMENTS}
        dense: Any = self.DENSE(**arguments, bias=self.bias is not None, device="meta", dtype=self.weight.dtype)
        if not self.weight.is_meta:
            dense.to_empty(device=self.weight.device)
            dense.weight.data.copy_(self.dense_weight())
            if self.bias is not None:
                dense.bias.data.copy_(self.bias.detach())
        _keep_frozen(dense, self)
        return dense.train(self.training)


def _present(dense: nn.Module, name: str) -> Any:
    """The dense layer's weight or bias as its next forward pass would use it, detached; None stays None."""
    tensor: Any = getattr(dense, name)
    for hook in dense._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            tensor = hook.apply_mask(dense)  # what the attribute holds is of the last forward pass
    if isinstance(tensor, SparseSemiStructuredTensor):
        tensor = tensor.to_dense()
    return tensor if tensor is None else tensor.detach()


def _keep_frozen(new: nn.Module, old: nn.Module) -> None:
    """Copies `requires_grad` from the parameters of `old` to those of the same name in `new`.

    Where a hook or a parametrization computes one, those that it is computed of count: `weight_orig` for `weight`.
    """
    given = dict(old.named_parameters())
    for name, parameter in new.named_parameters(recurse=False):
        sources = [given[name]] if name in given else [tensor for full, tensor in given.items() if name in full]
        parameter.requires_grad_(any(tensor.requires_grad for tensor in sources))


def _sparsity_of(mask: torch.Tensor, dense: torch.Tensor, sparsity: float | None) -> float:
    """The sparsity of a mask for this dense weight; ValueError or TypeError if the mask does not fit."""
    if sparsity is not None:
        raise ValueError(f"expected sparsity or mask, got both (sparsity={sparsity})")
    if mask.shape != dense.shape:
        raise ValueError(f"expected mask of shape {tuple(dense.shape)} (as the weight), got {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise TypeError(f"expected mask of dtype torch.bool, got {mask.dtype}")
    ones = int(mask.sum())
    if mask.numel() and not ones:
        raise ValueError(f"expected a mask with at least one True, got none in {tuple(mask.shape)}")
    return check_sparsity(1.0 - ones / max(1, mask.numel()))
