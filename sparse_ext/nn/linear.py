"""`SparseLinear`: `nn.Linear` whose weight, gradient and optimizer state have the size of the non-zeros."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured

from sparse_ext.ops import Linear

from .arguments import check_size
from .replacement import Replacement


class SparseLinear(Replacement):
    """`nn.Linear` with a sparse weight: y = x W^T + b, where the forward pass and both gradients skip the zeros of W.

    The input is [..., in_features], the output [..., out_features], as in `nn.Linear`. A new layer has random positions. Second
    derivatives and transforms of `torch.func` write W out as a dense matrix.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        sparsity: share of zeros in W, in [0, 1). nnz = round((1 - sparsity) * in_features * out_features). None: the layout's
            default: 0.9 for "csr" and "auto", 0.5 for "2:4", 0 for "dense". The last two allow no other value.
        layout: "csr": any positions. "auto": the same, but multiplied densely where that was measured to be faster, and with
            few zeros the layout "masked": any positions of a weight that has room for all; a `Sparsifier` whose method changes
            the density changes the storage, too. "2:4": two of every four neighbours
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
        ValueError: a size is no whole number; unknown layout, or a sparsity, capacity or shape that it does not allow.
        TypeError: no kernels multiply weights of this dtype on this device: float16 needs a GPU.

    Example:
        layer = SparseLinear(512, 256, sparsity=0.9)
        y = layer(torch.randn(32, 512))  # [32, 256]
        layer.weight.shape  # [13107]: a tenth of 512 * 256
    """

    DENSE: ClassVar[type[nn.Module] | str] = nn.Linear
    ARGUMENTS: ClassVar[tuple[str, ...]] = ("in_features", "out_features")

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
        in_features, out_features = (
            check_size(type(self).__name__, name, size, 0)
            for name, size in (("in_features", in_features), ("out_features", out_features))
        )
        super().__init__(Linear(out_features, in_features), bias, sparsity, layout, capacity, device, dtype)
        self.in_features, self.out_features = in_features, out_features
        self.reset_parameters()

    @classmethod
    def product_of(cls, dense: Any) -> Linear:
        return Linear(dense.out_features, dense.in_features)

    def to_semi_structured(self) -> nn.Linear:
        """A new `nn.Linear` whose weight is PyTorch's own semi-structured (2:4) tensor, for inference on CUDA.

        Raises:
            ValueError: the layer's layout is not 2:4.
            RuntimeError: `torch.sparse.to_sparse_semi_structured` does not support this shape, dtype or device.
        """
        if self.pattern.block != (1, 4):
            raise ValueError(f"expected a layer whose blocks are 1 x 4, got {self.layout!r} with {self.pattern.block}")
        linear: nn.Linear = self.to_dense()
        linear.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.detach()), requires_grad=False)
        return linear
