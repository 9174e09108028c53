"""`Layout`: a pattern class, what its kernels read of a pattern, and the kernels of each product. LAYOUTS is the table of all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from .pattern import Pattern, Rule
from .product import Kernels


class Layout(ABC):
    """How a matrix is stored and multiplied. Never instantiated; a subclass defines the attributes, `allocate` and `prepare_`.

    Attributes:
        name: of `layer.layout`. stem: of operators and error messages.
        pattern: the class of its patterns.
        operands: a NamedTuple of tensors, what kernels read of a pattern.
        products: {product class: its kernels}.
        SAMPLES: whether the kernels can sample the output gradient.
    """

    name: ClassVar[str]
    stem: ClassVar[str]
    pattern: ClassVar[type[Pattern]]
    operands: ClassVar[type[Any]]
    products: ClassVar[dict[type, type[Kernels]]]
    SAMPLES: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def allocate(pattern: Any) -> Any:
        """Operands for all patterns of this shape and capacity, uninitialised."""

    @staticmethod
    @abstractmethod
    def prepare_(operands: Any, pattern: Any) -> None:
        """Rewrites the operands in place for this pattern: addresses stay, so CUDA graphs and compiled code stay valid.

        Operands are copies. Whoever writes the pattern's own tensors, as DDP does before every forward, never touches what a
        backward pass still needs.
        """

    @staticmethod
    def is_prepared(operands: Any, pattern: Any) -> bool:
        """Whether the operands are those of this pattern already; False where comparing costs as much as preparing."""
        return False

    @classmethod
    def pack(cls, dense: torch.Tensor, pattern: Any) -> torch.Tensor:
        """values [capacity] of a dense matrix [rows, cols] at the pattern; 0 where a slot is unused."""
        at = pattern.positions()
        values = dense.reshape(-1)[at.clamp(min=0)] if dense.numel() else dense.new_zeros(at.numel())
        return values.masked_fill(at < 0, 0)

    @classmethod
    def unpack(cls, values: torch.Tensor, pattern: Any) -> torch.Tensor:
        """The dense matrix [rows, cols], with its zeros."""
        at = pattern.positions()
        dense = values.new_zeros(pattern.rows * pattern.cols)
        dense[at[at >= 0]] = values[at >= 0]
        return dense.view(pattern.rows, pattern.cols)

    @classmethod
    def matrix(cls, weight: torch.Tensor, pattern: Any, rule: Rule | None) -> torch.Tensor:
        """What products multiply by, as a new dense matrix [rows, cols]; `rule`: the weight is dense."""
        if rule is not None:
            weight = cls.pack(weight.view(pattern.rows, pattern.cols), pattern)
        return cls.unpack(weight, pattern)


LAYOUTS: dict[str, type[Layout]] = {}


def register_layout(layout: type[Layout]) -> type[Layout]:
    """Adds a layout under its name, so that `SparseLinear(..., layout=name)` and all else know it; usable as a decorator.

    Raises:
        ValueError: the name is taken by another class.
    """
    if LAYOUTS.get(layout.name, layout) is not layout:
        raise ValueError(f"expected a new layout name, got {layout.name!r}, which is {LAYOUTS[layout.name].__name__}'s")
    LAYOUTS[layout.name] = layout
    return layout


def layout_named(name: str) -> type[Layout]:
    """The layout of that name; ValueError names the ones there are."""
    layout = LAYOUTS.get(name)
    if layout is None:
        raise ValueError(f"expected layout to be one of {', '.join(map(repr, LAYOUTS))}, got {name!r}")
    return layout


def kernels_of(layout: type[Layout], product: Any) -> type[Kernels]:
    """The layout's kernels for this product; ValueError where it has none."""
    kernels = layout.products.get(type(product))
    if kernels is None:
        raise ValueError(f"expected a layout with a {product.name} product, got {layout.name!r}")
    return kernels


def operands_of(layout: type[Layout], pattern: Pattern) -> Any:
    """The pattern's operands: a layer's own, or made at first use and then kept with the pattern."""
    kept: dict[str, Any] = vars(pattern).setdefault("_operands", {})
    if layout.stem not in kept:
        kept[layout.stem] = prepared(layout, pattern)
    return kept[layout.stem]


def prepared(layout: type[Layout], pattern: Pattern) -> Any:
    """New operands of the pattern; uninitialised on "meta"."""
    operands = layout.allocate(pattern)
    if not any(tensor.is_meta for tensor in operands):
        layout.prepare_(operands, pattern)
    return operands
