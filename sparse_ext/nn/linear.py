"""`SparseLinear`: `nn.Linear` whose weight, gradient and optimizer state have the size of the non-zeros."""

from __future__ import annotations

import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from sparse_ext.ops import Linear, layout_named

from .layer import SparseLayer, check_sparsity, storage


class SparseLinear(SparseLayer):
    """`nn.Linear` with a sparse weight: y = x W^T + b, where the forward pass and both gradients skip the zeros of W.

    The input is [..., in_features], the output [..., out_features], as in `nn.Linear`. Second derivatives raise a
    RuntimeError. A new layer has random positions.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        sparsity: share of zeros in W, in [0, 1). nnz = round((1 - sparsity) * in_features * out_features). None: the layout's
            default: 0.9 for "csr" and "auto", 0.5 for "2:4", 0 for "dense". The last two allow no other value.
        layout: "csr": any positions. "auto": the same, but multiplied densely where that was measured to be faster, and with
            few zeros the layout "masked": any positions of a weight that has room for all. "2:4": two of every four neighbours
            of a row. "dense": all positions. Or a name from `register_layout`.
        capacity: the length of `weight` as a share of W's elements, in [1 - sparsity, 1]: how far the layer can grow. None:
            just enough for nnz. For "2:4": 0.5 stores the weight packed; 1.0 stores a dense weight, of which products use two
            of every four.

    Attributes:
        weight: Parameter [capacity], 1-D: the non-zeros, row by row. Its gradient and optimizer state have the same shape.
        bias: Parameter [out_features] or None.
        layout, layout_reason: how the weight is stored, and why.
        pattern: the positions of the non-zeros. `mask()` and `dense_weight()` return [out_features, in_features].

    Raises:
        ValueError: unknown layout, or a sparsity, capacity or shape that the layout does not allow.

    Example:
        layer = SparseLinear(512, 256, sparsity=0.9)
        y = layer(torch.randn(32, 512))  # [32, 256]
        layer.weight.shape  # [13107]: a tenth of 512 * 256
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        sparsity: float | None = None,
        layout: str = "csr",
        capacity: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(Linear(out_features, in_features), bias, sparsity, layout, capacity, device, dtype)
        self.in_features, self.out_features = in_features, out_features
        self.reset_parameters()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"nnz={self.nnz}, density={self.density:.4g}, layout={self.layout!r}"
        )

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        *,
        sparsity: float | None = None,
        mask: torch.Tensor | None = None,
        layout: str = "csr",
        capacity: float | None = None,
    ) -> SparseLinear:
        """Prunes an `nn.Linear`: a new sparse layer that keeps its values at `mask`, or its largest magnitudes.

        Args:
            linear: stays as it is. Its weight may come from `torch.sparse.to_sparse_semi_structured`.
            sparsity: share of zeros, as in the constructor; not together with `mask`.
            mask: bool [out_features, in_features], True where a value is kept; None: the largest magnitudes are.
            layout, capacity: as in the constructor.

        Returns:
            A layer on the same device, with the same dtype, bias, training mode and frozen parameters.

        Raises:
            ValueError: sparsity and mask are both given; or the mask has a wrong shape, no True, or more than the layout holds.
            TypeError: the mask is not boolean.
        """
        dense = linear.weight.detach()
        if isinstance(dense, SparseSemiStructuredTensor):
            dense = dense.to_dense()
        if mask is not None:
            found = _sparsity_of(mask, dense, sparsity)
            sparsity = found if layout_named(layout).pattern.VARIABLE else None
        layer = cls.outline(linear, sparsity=sparsity, layout=layout, capacity=capacity)
        if not dense.is_meta:
            layer.to_empty(device=dense.device)
            layer.set_matrix_(dense, mask)
            if linear.bias is not None and layer.bias is not None:
                layer.bias.data.copy_(linear.bias.detach())
        return layer

    @classmethod
    def outline(cls, linear: nn.Linear, *, sparsity: float | None, layout: str, capacity: float | None) -> SparseLinear:
        """The layer for which `linear` would be exchanged, on the device "meta": neither pattern nor values are computed.

        `to_empty` and then `set_matrix_` or `reset_parameters` fill it. Arguments and errors are those of `from_dense`.
        """
        dense = linear.weight
        stored = storage(layout, dense.numel(), sparsity, dense.dtype, dense.device)
        layer = cls(
            linear.in_features, linear.out_features, linear.bias is not None,
            sparsity=sparsity, layout=stored.chosen, capacity=capacity, device="meta", dtype=dense.dtype,
        )  # fmt: skip
        layer.layout_reason = stored.reason
        keep_frozen(layer, linear)
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """A new `nn.Linear` that computes the same function; its weight holds zeros at the unused positions."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.weight.dtype)
        if not self.weight.is_meta:
            linear.to_empty(device=self.weight.device)
            linear.weight.data.copy_(self.dense_weight())
            if self.bias is not None:
                linear.bias.data.copy_(self.bias.detach())
        keep_frozen(linear, self)
        return linear.train(self.training)

    def to_semi_structured(self) -> nn.Linear:
        """A new `nn.Linear` whose weight is PyTorch's own semi-structured (2:4) tensor, for inference on CUDA.

        Raises:
            ValueError: the layer's layout is not 2:4.
            RuntimeError: `torch.sparse.to_sparse_semi_structured` does not support this shape, dtype or device.
        """
        if self.pattern.block != (1, 4):
            raise ValueError(f"expected a layer whose blocks are 1 x 4, got {self.layout!r} with {self.pattern.block}")
        linear = self.to_dense()
        linear.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.detach()), requires_grad=False)
        return linear


def keep_frozen(new: nn.Module, old: nn.Module) -> None:
    """Copies `requires_grad` from the parameters of `old` to those of the same name in `new`."""
    for name, parameter in old.named_parameters(recurse=False):
        new.get_parameter(name).requires_grad_(parameter.requires_grad)


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
