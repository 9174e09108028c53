"""`summary`: what of a model is sparse, what stays dense, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from .candidates import WHY_DENSE, obstacles
from .layer import SparseLayer
from .table import nearest

LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class WeightSummary:
    """One matrix weight's row of a `Summary`.

    Attributes:
        name: of its module in the model; with the parameter's name where that is not `weight`.
        kind: the module's class.
        shape: of the dense weight.
        nnz: how many of its values are used: all of a dense one.
        layout: how it is stored; None: dense, as PyTorch stores it.
        why: why it is stored so, or why it stays dense.
        multiplied: False for embeddings: they are looked up, and no matrix weight.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nnz: int
    layout: str | None
    why: str
    multiplied: bool = True

    @property
    def size(self) -> int:
        """Number of positions."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Summary:
    """A model's matrix weights: parameters of two dimensions or more. `str()` formats it as a table.

    Attributes:
        weights: one row for each, in the model's order; one that several modules share is counted once.
    """

    weights: tuple[WeightSummary, ...]

    @property
    def size(self) -> int:
        """Positions of all matrix weights together, embeddings aside."""
        return sum(row.size for row in self.weights if row.multiplied)

    @property
    def dense_share(self) -> float:
        """Which share of these positions belongs to weights that stay dense."""
        return sum(row.size for row in self.weights if row.multiplied and row.layout is None) / max(1, self.size)

    @property
    def density(self) -> float:
        """Values that are used, over positions, sparse and dense weights together."""
        return sum(row.nnz for row in self.weights if row.multiplied) / max(1, self.size)

    def __str__(self) -> str:
        names, kinds = ([getattr(row, key) for row in self.weights] for key in ("name", "kind"))
        shapes = [" x ".join(map(str, row.shape)) for row in self.weights]
        wide = [max(map(len, [title, *cells])) for title, cells in (("weight", names), ("class", kinds), ("shape", shapes))]
        lines = [f"{'weight':<{wide[0]}}  {'class':<{wide[1]}}  {'shape':>{wide[2]}}  {'nnz':>10}  density  layout"]
        for row, shape in zip(self.weights, shapes, strict=True):
            lines.append(
                f"{row.name:<{wide[0]}}  {row.kind:<{wide[1]}}  {shape:>{wide[2]}}  {row.nnz:>10}"
                f"  {row.nnz / max(1, row.size):>7.2%}  {row.layout or 'dense'} ({row.why})"
            )
        total = f"{self.size} positions of matrix weights, {self.dense_share:.1%} of them dense; density {self.density:.2%}"
        return "\n".join([*lines, total])


def summary(model: nn.Module) -> Summary:
    """What of a model is sparse, what stays dense and why, and which share of its matrix weights that is.

    Embeddings are listed, too, but they are looked up, not multiplied: no share counts them. Why `sparsify_` left a layer out,
    a copy of the model no longer knows. A quantizer may leave sparse layers alone, as it looks for `nn.Linear`: `densify_`
    the model first, then quantize it.

    Args:
        model: converted or not. It stays as it is.

    Returns:
        A `Summary`: `print` it, or read its rows.

    Example:
        print(summary(sparsify_(model, 0.9)))
    """
    return weights_of(model, obstacles(model))


def weights_of(model: nn.Module, reasons: dict[str, str]) -> Summary:
    """The model's summary, with these reasons by name for layers that cannot be replaced."""
    seen: set[int] = set()
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, SparseLayer):
            kind, shape = type(module).__name__, module.product.weight_shape
            rows.append(WeightSummary(name, kind, shape, module.nnz, module.layout, module.layout_reason))
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen and _is_matrix(module, key, parameter):
                seen.add(id(parameter))
                full = ".".join(filter(None, [name, "" if key == "weight" else key]))
                owner = name.partition(".parametrizations.")[0]
                rows.append(_dense_row(full, model.get_submodule(owner), tuple(parameter.shape), reasons.get(owner)))
    return Summary(tuple(rows))


def _is_matrix(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a layer's weight, or has two dimensions or more and is no bias, of which experts have one each."""
    if is_lazy(parameter):
        return False
    of_a_layer = name == "weight" and nearest(module) is not None
    return of_a_layer or (sum(size != 1 for size in parameter.shape) >= 2 and "bias" not in name)


def _dense_row(name: str, module: nn.Module, shape: tuple[int, ...], obstacle: str | None) -> WeightSummary:
    kind = type(module).__name__
    if isinstance(module, LOOKED_UP):
        return WeightSummary(name, kind, shape, math.prod(shape), None, "looked up, not multiplied", False)
    why = WHY_DENSE.get(module) or obstacle
    if why is None:
        why = "not converted" if nearest(module) is not None else f"nothing replaces {kind}; see register_layer"
    return WeightSummary(name, kind, shape, math.prod(shape), None, why)


def much_stays_dense(before: Summary, replaced: Iterable[str], asked_for: Iterable[str]) -> list[str]:
    """A sentence that names what stays dense, if that is more than half of the matrix weights; none if it is less.

    Args:
        before: of the model before its conversion.
        replaced: names of the layers that become sparse.
        asked_for: reasons, of which the caller of the conversion knows.
    """
    gone, known = set(replaced), set(asked_for)
    sizes: Counter[str] = Counter()
    for row in before.weights:
        if row.multiplied and row.layout is None and row.name not in gone and row.why not in known:
            sizes[row.kind] += row.size
    share = sum(sizes.values()) / max(1, before.size)
    if share <= 0.5:
        return []
    kinds = ", ".join(f"{kind} ({size})" for kind, size in sizes.most_common(4))
    return [f"sparsify_: {share:.0%} of matrix weights stay dense: {kinds}; summary(model) lists them with the reasons"]
