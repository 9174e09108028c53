"""How a model's sparsity is shared among its layers: DISTRIBUTIONS maps a name to shapes -> densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from .arguments import check_sparsity

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """The same density everywhere."""
    return dict.fromkeys(shapes, 1.0 - sparsity)


def _in_proportion(shapes: Shapes, sparsity: float, raw: Mapping[str, float]) -> dict[str, float]:
    """density = epsilon * raw, with the epsilon that gives the requested total.

    Where a density would exceed 1, the layers of largest `raw` become dense and epsilon is computed again for the others, as in
    `sparse_utils` of google-research/rigl.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    zeros = {name: math.floor(sparsity * size) for name, size in sizes.items()}
    dense: set[str] = set()
    while len(dense) < len(shapes):
        rest = [name for name in shapes if name not in dense]
        nonzeros = sum(sizes[name] - zeros[name] for name in rest) - sum(zeros[name] for name in dense)
        weight = sum(raw[name] * sizes[name] for name in rest)
        epsilon = nonzeros / weight if weight else 0.0
        largest = max(raw[name] for name in rest)
        if epsilon * largest <= 1.0:
            return {name: 1.0 if name in dense else max(0.0, epsilon * raw[name]) for name in shapes}
        dense |= {name for name in rest if raw[name] == largest}
    return dict.fromkeys(shapes, 1.0)


def er(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Erdos-Renyi: density in proportion to (n_in + n_out) / (n_in * n_out) (Mocanu et al. 2018)."""
    return _in_proportion(shapes, sparsity, {name: sum(s[:2]) / max(1, math.prod(s[:2])) for name, s in shapes.items()})


def erk(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Erdos-Renyi-Kernel: in proportion to sum(shape) / prod(shape), kernel sizes included (Evci et al. 2020, section 3)."""
    return _in_proportion(shapes, sparsity, {name: sum(s) / max(1, math.prod(s)) for name, s in shapes.items()})


DISTRIBUTIONS: dict[str, Callable[[Shapes, float], dict[str, float]]] = {"uniform": uniform, "er": er, "erk": erk}


def densities(shapes: Shapes, sparsity: float, distribution: str) -> dict[str, float]:
    """{name: density in [0, 1]}, whose mean, weighted by layer size, is 1 - sparsity; ValueError for a wrong argument."""
    sparsity = check_sparsity(sparsity)
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(map(repr, DISTRIBUTIONS))
        raise ValueError(f"expected distribution to be one of {known}, got {distribution!r}")
    return DISTRIBUTIONS[distribution](shapes, sparsity)
