"""The arms of the demo, as tables of a config, and the config of an example."""

from __future__ import annotations

from typing import Any

from sparse_ext.compare import Config

from .example import Example

Table = dict[str, Any]
LEAST_SEEDS = 3  # fewer are a trial


def dense(**choices: Any) -> Table:
    """The dense network, which the others are compared with."""
    return {"name": "dense", "kind": "dense", **choices}


def sparse(task: Example, name: str, method: str, choices: Table | None = None, **others: Any) -> Table:
    """A sparse arm with the example's settings, or with others."""
    settings = {"sparsity": task.sparsity, "init": task.init, "exclude": list(task.exclude)}
    return {"name": name, "kind": "sparse", "method": method, "choices": choices or {}, **settings, **others}


def rigl(task: Example, name: str = "RigL", **others: Any) -> Table:
    """RigL with the example's settings."""
    choices = {"update_interval": task.update_interval, "gradient_steps": task.gradient_steps}
    return sparse(task, name, "rigl", choices, **others)


def csr_arms(task: Example) -> list[Table]:
    """Dense; dense with RigL's FLOPs, and with its seconds; smaller dense networks that take as long; static; RigL."""
    rivals = {
        "dense, equal FLOPs": "equal flops",
        "dense, equal seconds": "equal seconds",
        "narrower": "narrower",
        "low rank": "low rank",
    }
    matched: list[Table] = [{"name": name, "kind": kind, "matches": "RigL"} for name, kind in rivals.items()]
    if task.low_rank_lr is not None:
        matched[-1]["lr"] = task.low_rank_lr
    return [dense(), *matched, sparse(task, "static", "static"), rigl(task)]


def nm24_arms(task: Example) -> list[Table]:
    """Dense, and every way to train 2:4: FST, S-STE and SR-STE with a dense weight, RigL with a packed one."""
    common = {"layout": "2:4", "sparsity": 0.5, "lr": task.nm24_lr}
    methods = {"FST": "fst", "S-STE": "s-ste", "SR-STE": "sr-ste"}
    kept = [sparse(task, name, method, **common) for name, method in methods.items()]
    return [dense(lr=task.nm24_lr), *kept, rigl(task, "RigL, packed", **common)]


def config_of(task: Example, arms: list[Table], **changes: Any) -> Config:
    """A comparison of these arms on an example."""
    kind = type(task)
    settings: Table = {
        "title": task.name,
        "task": f"{kind.__module__}:{kind.__qualname__}",
        "steps": task.steps,
        "tolerance": task.tolerance,
        "arm": tuple(arms),
        "repeats": task.seeds,
        "trial": task.seeds < LEAST_SEEDS,
        **changes,
    }
    return Config(**settings)
