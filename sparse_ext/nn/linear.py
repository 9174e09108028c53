"""`SparseLinear`: `nn.Linear` whose weight, gradient and optimizer state have the size of the non-zeros."""

from __future__ import annotations

import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from sparse_ext.ops import Linear, layout_named

from .layer import SparseLayer, check_sparsity


class SparseLinear(SparseLayer):
    """y = x W^T + b with a sparse W [out_features, in_features]; forward and both gradients skip the zeros.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        sparsity: share of zeros, in [0, 1). nnz = round((1 - sparsity) * in_features * out_features). None: 0.9; of "2:4" 0.5
            and of "dense" 0, which allow no other.
        layout: "csr" (any positions), "auto" (the same, free to choose the kernel), "2:4" (two of every four neighbours of a
            row), "dense" (all positions), or one of `register_layout`.
        capacity: the density up to which the layer can grow; None: its own. Of "2:4" 0.5 (packed), or 1.0: the weight is dense,
            and products take two of four as a method chooses.

    Attributes:
        weight: Parameter, 1-D [capacity]: the non-zeros, row by row. grad and optimizer state have the same shape.
        bias: Parameter [out_features] or None.
        pattern: where the non-zeros are. `mask()` and `dense_weight()` show it as a matrix [out_features, in_features].

    x has any number of leading dimensions, as in `nn.Linear`. Second derivatives raise a RuntimeError.
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
        """A sparse layer with the dense one's values at `mask`, or at its largest magnitudes (default sparsity 0.9).

        The dense weight may be one of `torch.sparse.to_sparse_semi_structured`.

        Raises:
            ValueError: the mask has another shape than the weight or no ones, or more than the layout can hold; or sparsity and
                mask are both given.
        """
        dense = linear.weight.detach()
        if isinstance(dense, SparseSemiStructuredTensor):
            dense = dense.to_dense()
        if mask is not None:
            found = _sparsity_of(mask, dense, sparsity)
            sparsity = found if layout_named(layout).pattern.VARIABLE else None
        layer = cls(
            linear.in_features, linear.out_features, linear.bias is not None,
            sparsity=sparsity, layout=layout, capacity=capacity, device="meta", dtype=dense.dtype,
        )  # fmt: skip
        if not dense.is_meta:
            layer.to_empty(device=dense.device)
            layer.set_matrix_(dense, mask)
            if linear.bias is not None and layer.bias is not None:
                layer.bias.data.copy_(linear.bias.detach())
        keep_frozen(layer, linear)
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """The `nn.Linear` with the same function."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.weight.dtype)
        if not self.weight.is_meta:
            linear.to_empty(device=self.weight.device)
            linear.weight.data.copy_(self.dense_weight())
            if self.bias is not None:
                linear.bias.data.copy_(self.bias.detach())
        keep_frozen(linear, self)
        return linear.train(self.training)

    def to_semi_structured(self) -> nn.Linear:
        """The `nn.Linear` whose weight is PyTorch's own semi-structured tensor (two of four), for inference on CUDA.

        Raises:
            ValueError: the layer's blocks are not 1 x 4. RuntimeError: `torch.sparse.to_sparse_semi_structured` cannot take
                this shape, dtype or device.
        """
        if self.pattern.block != (1, 4):
            raise ValueError(f"expected a layer whose blocks are 1 x 4, got {self.layout!r} with {self.pattern.block}")
        linear = self.to_dense()
        linear.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.detach()), requires_grad=False)
        return linear


def keep_frozen(new: nn.Module, old: nn.Module) -> None:
    """Parameters of the same name require a gradient in `new` as they do in `old`."""
    for name, parameter in old.named_parameters(recurse=False):
        new.get_parameter(name).requires_grad_(parameter.requires_grad)


def _sparsity_of(mask: torch.Tensor, dense: torch.Tensor, sparsity: float | None) -> float:
    """What the mask leaves out, after checking that it is one for this weight."""
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
