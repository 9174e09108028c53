"""`Layout`: a pattern class, what its kernels read of a pattern, and the kernels of each product. LAYOUTS has them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from .pattern import Pattern
from .product import Kernels
from .rule import Rule


class Layout(ABC):
    """How a matrix is stored and multiplied. Never instantiated; a subclass defines the attributes, `allocate` and `prepare_`.

    Attributes:
        name: of `layer.layout`. stem: of operators and error messages; the name, unless it is set.
        pattern: the class of its patterns. Their BUFFERS tell its checkpoints from those of all other layouts.
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

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "stem") and hasattr(cls, "name"):
            cls.stem = cls.name

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
        """values [capacity] of a dense matrix [rows, cols] at the pattern, in new memory; 0 where a slot is unused."""
        check_matrix(dense, pattern)
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


def check_matrix(dense: torch.Tensor, pattern: Pattern) -> None:
    """ValueError unless the matrix has the pattern's shape."""
    if dense.shape != (pattern.rows, pattern.cols):
        raise ValueError(f"expected dense of shape ({pattern.rows}, {pattern.cols}), got {tuple(dense.shape)}")


LAYOUTS: dict[str, type[Layout]] = {}


def register_layout(layout: type[Layout]) -> type[Layout]:
    """Adds a layout under its name, so that `SparseLinear(..., layout=name)` and all else know it; usable as a decorator.

    Raises:
        TypeError: something that a layout needs is missing, or of another kind. ValueError: the name is taken by another class,
            or checkpoints could not be told from those of another layout.
    """
    _check_complete(layout)
    if LAYOUTS.get(layout.name, layout) is not layout:
        raise ValueError(f"expected a new layout name, got {layout.name!r}, which is {LAYOUTS[layout.name].__name__}'s")
    buffers = set(layout.pattern.BUFFERS)
    for other in LAYOUTS.values():
        others = set(other.pattern.BUFFERS)
        if other.pattern is not layout.pattern and buffers and others and (buffers <= others or others <= buffers):
            raise ValueError(
                f"expected BUFFERS that tell {layout.name!r} from {other.name!r}, got {', '.join(layout.pattern.BUFFERS)}"
            )
    LAYOUTS[layout.name] = layout
    return layout


def _check_complete(layout: type[Layout]) -> None:
    """TypeError unless everything is there that a layout's class says."""
    missing = [name for name in ("name", "pattern", "operands", "products") if not hasattr(layout, name)]
    if missing:
        raise TypeError(f"expected a layout with {', '.join(missing)}, got {layout.__name__} without")
    if not hasattr(layout.operands, "_fields"):
        raise TypeError(f"expected {layout.__name__}.operands to be a NamedTuple class, got {layout.operands!r}")
    if not hasattr(layout.pattern, "BUFFERS") or {"weight", "bias", "rule"} & set(layout.pattern.BUFFERS):
        raise TypeError(f"expected {layout.pattern.__name__}.BUFFERS, names other than 'weight', 'bias' and 'rule'")
    for one, base in ((layout, Layout), (layout.pattern, Pattern), *((kind, Kernels) for kind in layout.products.values())):
        if not (isinstance(one, type) and issubclass(one, base)):
            raise TypeError(f"expected a subclass of {base.__name__}, got {one!r}")
        if undefined := getattr(one, "__abstractmethods__", None):
            raise TypeError(f"expected {one.__name__} to define {', '.join(sorted(undefined))}")


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
    kept: dict[type[Any], Any] = vars(pattern).setdefault("_operands", {})
    if layout.operands not in kept:
        kept[layout.operands] = prepared(layout, pattern)
    return kept[layout.operands]


def prepared(layout: type[Layout], pattern: Pattern) -> Any:
    """New operands of the pattern; uninitialised on "meta"."""
    operands = layout.allocate(pattern)
    if not any(tensor.is_meta for tensor in operands):
        layout.prepare_(operands, pattern)
    return operands
