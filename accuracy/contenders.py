"""What is compared: every method of sparse_ext.METHODS. One needs a row in CHOICES only where the defaults do not serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import sparse_ext as sx
from examples.example import Example
from sparse_ext.methods import Method

DENSE = "dense"


@dataclass(frozen=True)
class Contender:
    """A method with its choices.

    Attributes:
        method: name in METHODS; "": the contender's own.
        choices: {task, or "*" for all: {field: value}}; update_interval is the task's, unless it is here.
        sparsities: in place of the task's.
        tasks: where it is run; None: everywhere.
        layout: of the sparse layers.
        keeps_layers: trains the dense layers as they are, without `sparsify_`.
    """

    method: str = ""
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sparsities: tuple[float, ...] | None = None
    tasks: tuple[str, ...] | None = None
    layout: str = "auto"
    keeps_layers: bool = False


# 2:4 has one sparsity, and no gain on this machine: two tasks show that it trains.
_NM24 = Contender(sparsities=(0.5,), tasks=("digits", "digits-gcn"), layout="2:4")
# A run at other sparsities would leave the published setting, whose last phase has 10 to 15 % of the weights.
_EST = (0.875,)

CHOICES: dict[str, Contender] = {
    "sr-ste": _NM24,
    "fst": _NM24,
    "s-ste": _NM24,
    "est-dgm": Contender(sparsities=_EST),
    "est-dgm (literal)": Contender("est-dgm", {"*": {"selection": "literal"}}, sparsities=_EST),
    # The articles' whole window, and to the end: only where the interval is that long.
    "est-dgm (literal by 16 steps)": Contender(
        "est-dgm",
        {"*": {"selection": "literal", "gradient_steps": 16, "t_end": 1.0}},
        sparsities=_EST,
        tasks=("digits", "digits-cnn"),
    ),
    "rigl (8 steps)": Contender("rigl", {"*": {"gradient_steps": 8}}, tasks=("chars",)),
    "rigl (unfired first)": Contender("rigl", {"*": {"unfired_first": True}}),
    "est-dgm (blend)": Contender("est-dgm", {"*": {"selection": "blend"}}, sparsities=_EST),
    "est-dgm (1 cycle)": Contender("est-dgm", {"*": {"cycles": 1}}, sparsities=_EST),
    "sat": Contender(sparsities=(0.0,), keeps_layers=True),
    "sat (rows)": Contender("sat", {"*": {"granularity": "row"}}, sparsities=(0.0,), keeps_layers=True),
    "gmp (global)": Contender("gmp", {"*": {"scope": "global"}}),
}

# Schedules of constant density, for the second table.
CONSTANT = ("static", "rigl")


def contenders() -> dict[str, Contender]:
    """{name: contender}: the registered methods in their order, then the other rows of CHOICES, whose method is registered."""
    own = {name: CHOICES.get(name, Contender()) for name in sx.METHODS}
    others = {name: row for name, row in CHOICES.items() if name not in own and row.method in sx.METHODS}
    return own | others


def schedules() -> list[str]:
    """What the second table compares: two constant densities, and all that change with time."""
    changing = [name for name, row in contenders().items() if sx.METHODS[row.method or name].changes_density]
    return [*CONSTANT, *changing]


def method_of(name: str, contender: Contender, task: Example) -> Method:
    """The method with its choices for a task."""
    kind: Any = sx.METHODS[contender.method or name]
    known = {one.name for one in fields(kind)}
    chosen: dict[str, Any] = {"update_interval": task.update_interval} if "update_interval" in known else {}
    chosen |= {**contender.choices.get("*", {}), **contender.choices.get(task.name, {})}
    if "gradient_steps" in chosen:  # a run of `--quick` has fewer steps between updates
        chosen["gradient_steps"] = min(chosen["gradient_steps"], chosen["update_interval"])
    method: Method = kind(**chosen)
    return method
