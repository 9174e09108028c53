"""`Layout`: a storage format: a pattern class, its operands (what kernels read), and the kernels. LAYOUTS lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from .auto import Choice
from .derived import completed
from .lasting import lasting
from .pattern import Pattern
from .product import Kernels
from .rule import Rule


class Layout(ABC):
    """How a matrix is stored and multiplied. A subclass defines the attributes, `allocate` and `prepare_`.

    The class itself is used; it is never instantiated.

    Attributes:
        name: what `layer.layout` says.
        stem: prefix of operators and error messages; by default the name.
        pattern: the class of its patterns. A checkpoint's layout is recognised by the names in their BUFFERS.
        operands: a NamedTuple class of tensors: what kernels read, derived from a pattern.
        products: {product class: kernels class}. Convolutions may be missing: they can be made of linear products.
        SAMPLES: whether the kernels can sample the output gradient.
        STORAGES: names of the layouts that `storage` may choose in place of this one.
        AT_POSITIONS: whether a packed weight has a slot for every position p, which is slot p.
    """

    name: ClassVar[str]
    stem: ClassVar[str]
    pattern: ClassVar[type[Pattern]]
    operands: ClassVar[type[Any]]
    products: ClassVar[dict[type, type[Kernels]]]
    SAMPLES: ClassVar[bool] = False
    STORAGES: ClassVar[tuple[str, ...]] = ()
    AT_POSITIONS: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "stem") and hasattr(cls, "name"):
            cls.stem = cls.name

    @staticmethod
    @abstractmethod
    def allocate(pattern: Any) -> Any:
        """Uninitialised operands, large enough for every pattern of this shape and capacity."""

    @staticmethod
    @abstractmethod
    def prepare_(operands: Any, pattern: Any) -> None:
        """Writes this pattern into the operands in place: addresses stay, so CUDA graphs and compiled code stay valid.

        It copies: DDP writes the pattern's own tensors before every forward, while a backward pass may still need the operands.
        """

    @staticmethod
    def is_prepared(operands: Any, pattern: Any) -> bool:
        """Whether the operands already hold this pattern. May always be False, where comparing is as slow as preparing."""
        return False

    @classmethod
    def held(cls, operands: Any) -> dict[str, torch.Tensor]:
        """{name: tensor} of the pattern's buffers that the operands hold as they are, perhaps in another dtype.

        By default, what has the same name.
        """
        return {name: getattr(operands, name) for name in cls.pattern.BUFFERS if hasattr(operands, name)}

    @classmethod
    def storage(cls, product: Any, nnz: int, dtype: torch.dtype, device: torch.device) -> Choice:
        """(chosen, reason): the name of the layout that shall store a new weight of this product. By default, this one."""
        return Choice(cls.name, "as asked for")

    @classmethod
    def obstacle(cls, product: Any) -> str | None:
        """Why `sparsify_` leaves a layer with this product dense; None: it does not."""
        if type(product) not in cls.products:
            return f"layout {cls.name!r} has no {product.name} product"
        return cls.pattern.obstacle(product.rows, product.cols)

    @classmethod
    def refuses(cls, dtype: torch.dtype, device: torch.device) -> str | None:
        """Why a new weight of this dtype cannot be on this device, as no kernel would multiply it there; None: it can."""
        return None

    @classmethod
    def backward_entries(cls, product: Any, nnz: Any, rule: str | None, sampled: bool) -> tuple[Any, Any]:
        """How many entries of the weight the input gradient and the weight gradient cost; the forward product costs nnz.

        By default both cost the pattern's; of a dense weight, the weight gradient costs all positions.

        Args:
            nnz: of the pattern: a number, or a tensor with one.
            rule: the name of the rule that chose it of a dense weight; None: the weight is packed.
            sampled: whether the weight gradient is estimated from a sample of the output gradient.
        """
        return nnz, nnz if rule is None else product.rows * product.cols

    @classmethod
    def at_pattern(cls, values: torch.Tensor, operands: Any) -> torch.Tensor:
        """The values [capacity], 0 in unused slots; they are elsewhere than AT_POSITIONS already."""
        return values

    @classmethod
    def pack(cls, dense: torch.Tensor, pattern: Any) -> torch.Tensor:
        """The values [capacity] of a dense matrix [rows, cols] at the pattern, as a new tensor; unused slots are 0."""
        check_matrix(dense, pattern)
        at = pattern.positions()
        values = dense.reshape(-1)[at.clamp(min=0)] if dense.numel() else dense.new_zeros(at.numel())
        return values.masked_fill(at < 0, 0)

    @classmethod
    def unpack(cls, values: torch.Tensor, pattern: Any) -> torch.Tensor:
        """The inverse of `pack`: a dense matrix [rows, cols], 0 outside the pattern."""
        at = pattern.positions()
        dense = values.new_zeros(pattern.rows * pattern.cols)
        dense[at[at >= 0]] = values[at >= 0]
        return dense.view(pattern.rows, pattern.cols)

    @classmethod
    def matrix(cls, weight: torch.Tensor, pattern: Any, rule: Rule | None) -> torch.Tensor:
        """The matrix that products multiply by, as a new dense tensor [rows, cols]. With a rule the weight is dense."""
        if rule is not None:
            weight = cls.pack(weight.view(pattern.rows, pattern.cols), pattern)
        return cls.unpack(weight, pattern)


def check_matrix(dense: torch.Tensor, pattern: Pattern) -> None:
    """ValueError unless the matrix has the pattern's shape."""
    if dense.shape != (pattern.rows, pattern.cols):
        raise ValueError(f"expected dense of shape ({pattern.rows}, {pattern.cols}), got {tuple(dense.shape)}")


LAYOUTS: dict[str, type[Layout]] = {}


def register_layout(layout: type[Layout]) -> type[Layout]:
    """Adds a layout to LAYOUTS; then `SparseLinear(..., layout=layout.name)` works. Also usable as a class decorator.

    Args:
        layout: a complete subclass of `Layout`.

    Returns:
        The class. Its `products` have gained those that can be made of the ones that it has (derived.py).

    Raises:
        TypeError: an attribute or method is missing, or of the wrong kind.
        ValueError: another class has this name, or BUFFERS do not distinguish its checkpoints from another layout's.
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
    layout.products = completed(layout.products)
    LAYOUTS[layout.name] = layout
    return layout


def _check_complete(layout: type[Layout]) -> None:
    """TypeError unless the class defines everything that `Layout` asks for."""
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
    """The layout of that name; ValueError if there is none."""
    layout = LAYOUTS.get(name) if isinstance(name, str) else None
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
    """The pattern's operands, cached on the pattern: those of its layer, or built at first use, and after it was written.

    Compiled code has those of its first call.

    Raises:
        ValueError: the pattern was written in place, and is not valid.
    """
    kept: dict[type[Any], tuple[Any, Any]] = vars(pattern).setdefault("_operands", {})
    if layout.operands not in kept:
        keep_operands(layout, pattern, prepared(layout, pattern))
    elif not torch.compiler.is_compiling() and kept[layout.operands][0] != _written(pattern):
        pattern.check(f"{layout.stem} ")
        keep_operands(layout, pattern, prepared(layout, pattern))
    return kept[layout.operands][1]


def keep_operands(layout: type[Layout], pattern: Pattern, operands: Any) -> None:
    """Caches these operands on the pattern, as those of what it holds now."""
    vars(pattern).setdefault("_operands", {})[layout.operands] = (_written(pattern), operands)


def _written(pattern: Pattern) -> tuple[int, ...] | None:
    """The version counters of its tensors, by which writes are recognised; None in programs that are compiled."""
    if torch.compiler.is_compiling():
        return None
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in pattern.buffers.values())


@lasting
def prepared(layout: type[Layout], pattern: Pattern) -> Any:
    """New operands of the pattern; uninitialised on "meta"."""
    operands = layout.allocate(pattern)
    if not any(tensor.is_meta for tensor in operands):
        layout.prepare_(operands, pattern)
    return operands
