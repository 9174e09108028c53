"""Replacements for linear layers of other packages, which are imported only where a model has brought them."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparse_ext.ops import Linear

from .linear import SparseLinear


class SparseTransposedLinear(SparseLinear):
    """Hugging Face's `Conv1D` (GPT-2's linear layer, whose weight is [in, out]) with a sparse weight; see `SparseLinear`.

    It is stored as any `SparseLinear` is, and `mask()` and `dense_weight()` are [out, in]. What comes from a `Conv1D` is
    [in, out]: the mask of `from_dense`, `to_dense().weight`, a dense checkpoint.

    Args:
        nf, nx: number of output and of input features, as in `Conv1D`.
        bias, storage: bias, sparsity, layout, capacity, device and dtype, as in `SparseLinear`.
    """

    DENSE = "transformers.pytorch_utils.Conv1D"
    ARGUMENTS = ("nf", "nx")
    TRANSPOSED = True
    STD = 0.02  # of Conv1D's own initialisation

    def __init__(self, nf: int, nx: int, bias: bool = True, **storage: Any) -> None:
        super().__init__(nx, nf, bias, **storage)
        self.nf, self.nx = self.out_features, self.in_features

    @classmethod
    def product_of(cls, dense: Any) -> Linear:
        return Linear(dense.nf, dense.nx)

    def dense_arguments(self) -> dict[str, Any]:
        return {"nf": self.nf, "nx": self.nx}

    def reset_parameters(self) -> None:
        """A new random pattern and new values, at the scale of `Conv1D`'s own initialisation; the bias is 0."""
        if not self.weight.is_meta:
            self.reset_weight_(self.STD**2)
            if self.bias is not None:
                nn.init.zeros_(self.bias)


class SparseGraphLinear(SparseLinear):
    """PyTorch Geometric's `Linear` with a sparse weight; see `SparseLinear`.

    Args:
        in_channels, out_channels, bias, weight_initializer, bias_initializer: as in PyTorch Geometric's.
        storage: sparsity, layout, capacity, device and dtype, as in `SparseLinear`.
    """

    DENSE = "torch_geometric.nn.dense.linear.Linear"
    ARGUMENTS = ("in_channels", "out_channels", "weight_initializer", "bias_initializer")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        weight_initializer: str | None = None,
        bias_initializer: str | None = None,
        **storage: Any,
    ) -> None:
        # In front: the constructor initialises by them.
        self.weight_initializer, self.bias_initializer = weight_initializer, bias_initializer
        super().__init__(in_channels, out_channels, bias, **storage)
        self.in_channels, self.out_channels = self.in_features, self.out_features

    @classmethod
    def product_of(cls, dense: Any) -> Linear:
        return Linear(dense.out_channels, dense.in_channels)

    def reset_parameters(self) -> None:
        """A new random pattern and new values, at the scale that the initializers give a dense layer."""
        if self.weight.is_meta:
            return
        if self.weight_initializer == "glorot":
            self.reset_weight_(2.0 / max(1, self.in_features + self.out_features))
        else:  # at that of nn.Linear
            super().reset_parameters()
        if self.bias_initializer == "zeros" and self.bias is not None:
            nn.init.zeros_(self.bias)
