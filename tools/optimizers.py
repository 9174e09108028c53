"""Writes docs/optimizers.md: which optimizers a Sparsifier takes, of those of the packages that are installed.

    python tools/optimizers.py

Every class is made with its defaults and given to a Sparsifier. `tests/train/test_optimizers.py` and `tests/zoo` train with
those that it takes.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import sparse_ext as sx

TARGET = Path(__file__).parent.parent / "docs" / "optimizers.md"
PACKAGES = {  # a module with optimizers: the distribution that it is from
    "torch.optim": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "schedulefree": "schedulefree",
    "bitsandbytes.optim": "bitsandbytes",
    "torchao.optim": "torchao",
}
HEADER = """# Optimizers

Which optimizers a `Sparsifier` takes, by trial; written by `python tools/optimizers.py`.

At construction, a small weight is trained by an optimizer of the same class and options, and its pattern is updated in the
middle. It must end as a weight that had the new pattern from the start. So all state is found and follows; and a new connection
moves as one would that had been there from the start, without a gradient. A matrix must be trained as its elements in a flat
weight are: optimizers that would treat the flat weight of a sparse layer like a bias are refused, too. `trust_optimizer=True`
takes any optimizer. Then state of the weight's shape follows, and all other state is left alone.

**right**: taken, and tested. **refused**: at construction, with this reason. **not made**: it cannot be made with its defaults
for a flat weight.
"""
INNER = {"optimizer", "base"}  # arguments of wrappers that take an optimizer,
INNER_CLASS = {"base_optimizer", "optimizer_class"}  # and those that take a class
VALUES = {"lr": 0.01, "num_iterations": 100, "num_data": 100, "momentum": 0.9}


def optimizers(module: str) -> dict[str, Any]:
    """{name: class} of a module's public optimizers, wrappers that are no torch.optim.Optimizer included."""
    found = {name: one for name, one in vars(importlib.import_module(module)).items() if inspect.isclass(one)}
    return {
        name: kind
        for name, kind in sorted(found.items(), key=lambda pair: pair[0].lower())
        if name[0] != "_" and kind is not torch.optim.Optimizer and callable(getattr(kind, "step", None))
        if not name.endswith(("Scheduler", "LR"))
    }


def made(kind: Any, parameters: list[torch.nn.Parameter]) -> Any:
    """An optimizer with its defaults; what it requires besides has values by name. Whatever the class raises."""
    given: list[Any] = []
    keywords: dict[str, Any] = {}
    for number, one in enumerate(inspect.signature(kind).parameters.values()):
        required = one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        if one.name in INNER and required:
            value: Any = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        elif one.name in INNER_CLASS and (required or number):
            value = torch.optim.SGD
        elif number == 0:
            value = [{"params": parameters, "use_muon": False}] if "muon" in kind.__module__.lower() else parameters
        elif one.name in VALUES and (required or not one.default):  # SGD has state with momentum only
            value = VALUES[one.name]
        else:
            continue
        if number == 0:
            given.append(value)
        else:
            keywords[one.name] = value
    if any(value is torch.optim.SGD for value in keywords.values()):
        keywords.setdefault("lr", 0.01)
    return kind(*given, **keywords)


def verdict(kind: Any) -> tuple[str, str]:
    """(right, refused or not made; the reason)."""
    layer = sx.SparseLinear(128, 64, sparsity=0.5)  # so many weights that 8-bit state is in use
    try:
        optimizer = made(kind, list(layer.parameters()))
    except Exception as error:
        return "not made", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    try:
        sx.Sparsifier(torch.nn.Sequential(layer), optimizer, sx.SET(), total_steps=1000)
    except ValueError as error:
        return "refused", str(error).partition(f", got {type(optimizer).__name__}: ")[2].partition("; use such an optimizer")[0]
    return "right", ""


def table(module: str) -> str:
    """The rows of a module's optimizers."""
    rows = [f"| `{name}` | {' | '.join(verdict(kind))} |" for name, kind in optimizers(module).items()]
    return "\n".join(["| optimizer | verdict | reason |", "|---|---|---|", *rows])


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    parts = [
        f"## {module}, of {name} {version(name).partition('+')[0]}\n\n{table(module)}\n" for module, name in PACKAGES.items()
    ]
    TARGET.write_text("\n".join([HEADER, *parts]))


if __name__ == "__main__":
    main()
