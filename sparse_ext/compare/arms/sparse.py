"""The arm that is sparse: any method, layout and sparsity."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import nn

from sparse_ext.methods import METHODS, Method
from sparse_ext.nn import sparsify_

from ..quiet import quiet
from ..task import Task
from .base import Contender, Size


@dataclass(frozen=True)
class Sparse(Contender):
    """A sparse network.

    Attributes:
        method: a name in METHODS. choices: {field: value} of its arguments.
        layout, sparsity, distribution, init, exclude: as of `sparsify_`.
        keeps_layers: the method trains the dense layers as they are, without `sparsify_`.
    """

    KIND: ClassVar[str] = "sparse"

    method: str = "rigl"
    choices: dict[str, Any] = field(default_factory=dict)
    layout: str = "auto"
    sparsity: float | None = None
    distribution: str = "erk"
    init: str = "variance"
    exclude: tuple[str, ...] = ()
    keeps_layers: bool = False

    def check(self, task: Task) -> None:
        super().check(task)
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        known = [one.name for one in fields(METHODS[self.method])]
        if unknown := sorted(set(self.choices) - set(known)):
            raise ValueError(
                f"choices: expected arguments of {self.method} ({', '.join(known) or 'it has none'}), got {unknown[0]!r}"
            )
        self.all_choices  # noqa: B018  the method checks their values
        with quiet():  # what it warns of is said when the arm is trained
            self.model(task, Size(1), torch.device("cpu"))

    @property
    def trained_by(self) -> Method:
        return METHODS[self.method](**self.choices)

    @property
    def all_choices(self) -> dict[str, Any]:
        """The method's arguments, defaults as well."""
        return asdict(self.trained_by)

    def model(self, task: Task, size: Size, device: torch.device) -> nn.Module:
        model = super().model(task, size, device)
        if self.keeps_layers:
            return model
        return sparsify_(
            model,
            self.sparsity,
            distribution=self.distribution,
            layout=self.layout,
            method=self.trained_by,
            init=self.init,
            exclude=self.exclude,
        )

    def about(self, size: Size) -> str:
        zeros = "the layout's own" if self.sparsity is None else f"{self.sparsity:.4g}"
        what = "dense layers as they are" if self.keeps_layers else f"layout {self.layout!r}, sparsity {zeros}"
        return f"{what}, trained by {self.method} in {self.precision}"
