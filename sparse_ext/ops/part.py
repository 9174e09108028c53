"""`Part`: the part of a weight that trains. The rest is frozen: products use it, and no gradient of it is computed.

PARTS maps a kind of part to the function that computes the weight gradient there alone; it is 0 elsewhere. A room adds a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Part(NamedTuple):
    """What of a weight trains.

    Attributes:
        kind: a key of PARTS.
        tensors: what says where.
        live: [1], 1 or 0, by which the gradients of weight and bias are multiplied; None: they are not.
    """

    kind: str
    tensors: tuple[torch.Tensor, ...]
    live: torch.Tensor | None = None


Gradient = Callable[..., torch.Tensor]  # (product, length of the weight, dy, x, *tensors) -> dw [length]
PARTS: dict[str, Gradient] = {}


def rows_part(rows: torch.Tensor) -> Part:
    """Some rows of a weight with a slot for every position, of a product without groups; int64, ascending."""
    return Part("rows", (_of_any_length(rows),))


def _gradient_of_rows(product: Any, length: int, dy: torch.Tensor, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """By the dense product of these rows alone."""
    part = product._replace(rows=rows.shape[0])
    dw = dy.new_zeros(product.rows, product.cols)
    return dw.index_copy_(0, rows, part.dense_grad(dy.index_select(1, rows), x)).view(-1)


def _of_any_length(tensor: torch.Tensor) -> torch.Tensor:
    """Marks the length as one that a compiler takes for a variable, so that one program serves parts of every length."""
    tensor._dynamo_weak_dynamic_indices = {0}  # type: ignore[attr-defined]  # as maybe_mark_dynamic, which loads the compiler
    return tensor


PARTS["rows"] = _gradient_of_rows
