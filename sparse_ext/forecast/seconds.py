"""How fast sparse products will be beside dense ones, by the ratios that `python -m sparse_ext calibrate` has measured."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from sparse_ext.ops import LAYOUTS, Kernels, auto
from sparse_ext.train.flops.work import Work

from .result import Speed

PRODUCTS = ("forward", "grad_input", "grad_weight")
DENSE = Speed(1.0, 1.0, 1.0, 1.0)


class Measured:
    """The rows of a table that have ratios, for one device.

    Attributes:
        device: as the table names it.
    """

    def __init__(self, device: str) -> None:
        rows = {key: tuple(row for row in found if row.ratios) for key, found in auto.POLICY.table.items()}
        self.device, self._policy = device, auto.Policy({key: found for key, found in rows.items() if found})

    def source(self) -> str | None:
        """The device whose measurements serve; None: there are none."""
        found = [self._policy.rows(self.device, dtype, product) for _, dtype, product in self._policy.table]
        return next((name for name, rows in found if rows), None)

    def speed(self, work: Work, density: float, tokens: int, dtype: torch.dtype) -> Speed:
        """Of a layer with this density that multiplies so many tokens in a step.

        Between two measured densities the ratio is taken to be a power of the density, as `calibrate` takes it, and so it is
        above the largest one. Below the smallest one it is taken to be as there: fewer entries are not slower.
        """
        made = LAYOUTS[work.layout].products.get(type(work.product), Kernels)
        names = made.in_table(work.product)
        if work.rule is not None or not any(names):
            kind = "a dense weight in " if work.rule is not None else ""
            return Speed(None, None, None, None, f"nothing was measured of {kind}layout {work.layout!r} ({work.product.name})")
        found = [None if name is None else self._ratio(name, made, work, density, tokens, dtype) for name in names]
        missing = [product for product, ratio in zip(PRODUCTS, found, strict=True) if ratio is None]
        step = None if missing else sum(one for one in found if one is not None) / len(found)
        why = f"no ratios were measured of {', '.join(missing)} in layout {work.layout!r} ({work.product.name})"
        return Speed(found[0], found[1], found[2], step, f"{why} on a {self.device.split()[0]}" if missing else None)

    def _ratio(
        self, name: str, made: type[Kernels], work: Work, density: float, tokens: int, dtype: torch.dtype
    ) -> float | None:
        _, rows = self._policy.rows(self.device, dtype, name)
        if not rows:
            return None
        near = auto.nearest(rows, max(1, tokens), max(1, work.positions), torch.get_num_threads())[0]
        # Unpacking the weight takes about as long at any density.
        return at(near.ratios, min(density, near.density) if made.UNPACKS else density)


def at(ratios: tuple[tuple[float, float], ...], density: float) -> float:
    """The ratio at this density, of (density, ratio) in ascending order."""
    first, last = ratios[0], ratios[-1]
    if density <= first[0] or first is last:
        return first[1]
    (d0, r0), (d1, r1) = next((pair for pair in pairwise(ratios) if density <= pair[1][0]), ratios[-2:])
    return r0 * (density / d0) ** (math.log(r1 / r0) / math.log(d1 / d0))
