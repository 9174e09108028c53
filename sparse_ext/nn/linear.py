"""`SparseLinear`: `nn.Linear` whose weight, gradient and optimizer state have the size of the non-zeros."""

from __future__ import annotations

import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from sparse_ext.functional import sparse_linear
from sparse_ext.ops import layout_named

from .layer import SparseLayer, check_sparsity


class SparseLinear(SparseLayer):
    """y = x W^T + b with a sparse W [out_features, in_features]; forward and both gradients skip the zeros.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        sparsity: share of zeros, in [0, 1); None: 0.9. nnz = round((1 - sparsity) * in_features * out_features). Of "2:4" 0.5.
        layout: "csr"; or "auto" (CSR storage, free to choose the kernel); or "2:4" (two of every four neighbours of a row).
        capacity: room for regrowth, as a density; None: the density itself. Of "2:4" 0.5, or 1.0: a dense master, of which the
            products take two of four as a method chooses.

    Attributes:
        weight: Parameter, 1-D [capacity]: the non-zeros, row by row. grad and optimizer state have the same shape.
        bias: Parameter [out_features] or None.
        pattern: where the non-zeros are. `mask()` and `dense_weight()` show it as a matrix.

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
        super().__init__(out_features, in_features, bias, sparsity, layout, capacity, device, dtype)
        self.in_features, self.out_features = in_features, out_features
        self.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.catch_up()
            if torch.is_grad_enabled():
                vars(self)["_uses"] += 1  # Module.__setattr__ takes longer than a tiny product
        y = sparse_linear(layout_named(self.layout), x, self.weight, self.bias, self._pattern)
        return y if self._growth is None else self._observed(y, x, self._growth)

    def mask(self) -> torch.Tensor:
        """Boolean [out_features, in_features], True at the non-zeros."""
        return self.matrix_mask()

    def dense_weight(self) -> torch.Tensor:
        """A detached dense copy of the weight, [out_features, in_features]."""
        return self.matrix()

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
            ValueError: the mask has another shape than the weight or no ones, or more than the layout can hold, or both
                arguments are given.
        """
        dense = linear.weight.detach()
        if isinstance(dense, SparseSemiStructuredTensor):
            dense = dense.to_dense()
        if mask is not None:
            found = _sparsity_of(mask, dense, sparsity)
            sparsity = found if layout_named(layout).pattern.ANY_DENSITY else None
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
        """The `nn.Linear` whose weight is PyTorch's own 2:4 tensor, for inference; of layout "2:4", on CUDA.

        Shapes and dtypes are those of `torch.sparse.to_sparse_semi_structured`, which raises where they are not.
        """
        if self.layout != "2:4" or self.choice == "dense":
            raise ValueError(f"expected a layer of layout '2:4' that is not dense, got layout {self.layout!r}")
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
