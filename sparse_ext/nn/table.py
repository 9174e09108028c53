"""REPLACEMENTS: which sparse layer takes the place of which dense one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .layer import SparseLayer
from .replacement import Replacement, full_name, short_name

# Dense class, or its full name where its package may be absent -> the sparse class that replaces it.
REPLACEMENTS: dict[type[nn.Module] | str, type[Replacement]] = {}


def register_layer(
    dense: type[nn.Module] | str, sparse: type[Any] | None = None
) -> Callable[[type[Any]], type[Any]] | type[Any]:
    """Says which sparse layer replaces a dense one in `sparsify_`; `densify_` is the way back. Also usable as a decorator.

    `sparsify_` replaces exactly this class: a subclass may compute something else, and needs a row of its own.

    Args:
        dense: the dense class; or its full name, so that its package need not be imported.
        sparse: a class of its own, derived from `SparseLinear`, `SparseConv1d` or `SparseConv2d`. Its ARGUMENTS name what its
            constructor takes from attributes of a dense layer, and `product_of` describes the weight of one. Where the dense
            constructor takes other arguments, it overrides `dense_arguments`; where the weight of a linear layer is
            [in, out], it sets TRANSPOSED; where there is more to compute, `forward`. Further parameters and buffers are copied,
            from those of the same names. Without `sparse` the call returns a decorator.

    Returns:
        The sparse class, or the decorator.

    Raises:
        TypeError: `dense` is neither a module's class nor a name, or `sparse` is not derived from a sparse layer.
        ValueError: another class replaces `dense`, or `sparse` replaces another one.

    Example:
        class ScaledLinear(nn.Linear):  # another initialisation, the same forward pass
            ...

        @register_layer(ScaledLinear)
        class SparseScaledLinear(SparseLinear):
            pass
    """
    if sparse is None:
        return lambda decorated: register_layer(dense, decorated)  # type: ignore[return-value]
    if not (isinstance(dense, str) and "." in dense) and not _is_dense(dense):
        raise TypeError(f"expected the class of a dense module, or its full name with its package's, got {dense!r}")
    if not (isinstance(sparse, type) and issubclass(sparse, Replacement) and hasattr(sparse, "ARGUMENTS")):
        raise TypeError(f"expected a class derived from SparseLinear, SparseConv1d or SparseConv2d, got {sparse!r}")
    present = _row(dense)
    if present is sparse:
        return sparse
    if present is not None:
        raise ValueError(f"expected a class without a replacement, got {short_name(dense)}, which {present.__name__} replaces")
    if vars(sparse).get("DENSE", dense) != dense:
        raise ValueError(
            f"expected a sparse class of its own for {short_name(dense)}, got {sparse.__name__}, which replaces "
            f"{short_name(sparse.DENSE)}; derive one from it"
        )
    sparse.DENSE = dense
    REPLACEMENTS[dense] = sparse
    return sparse


def replacement_of(module: nn.Module) -> type[Replacement] | None:
    """The class that replaces exactly this module's class; None if there is none."""
    return _row(type(module))


def nearest(module: nn.Module) -> type[nn.Module] | None:
    """The class closest to the module's among those that it is or derives from and that can be replaced; None without one."""
    return next((kind for kind in type(module).__mro__ if _row(kind) is not None), None)


def _row(kind: type | str) -> type[Replacement] | None:
    return REPLACEMENTS.get(kind) or (None if isinstance(kind, str) else REPLACEMENTS.get(full_name(kind)))


def _is_dense(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module) and not issubclass(kind, SparseLayer)
