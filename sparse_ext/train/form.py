"""The form of a Sparsifier's state: which entries there are, and what they consist of.

It comes from a file. So every value is looked at before the first is used, and a state that is refused has changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# What an entry consists of: a type, a list of it, or a dict of it by name; `object` is anything.
_COUNTS = {str: int}
FORM: dict[str, Any] = {
    "version": int,
    "step": int,
    "updates": int,
    "postponed_to": [int],
    "total_steps": int,
    "seed": int,
    "method": {str: object},
    "shapes": {str: [int]},
    "stamps": {str: str},
    "signals": {str: {str: {str: torch.Tensor}}},
    "observed": _COUNTS,
    "spoiled": [str],
    "offsets": _COUNTS,
    "trained": {str: {str: torch.Tensor}},
    "replaced": _COUNTS,
    "replaced_last": _COUNTS,
    "flips": _COUNTS,
    "coverage": {str: torch.Tensor},
    "updated_at": [int],
    "executed": {str: [int]},
    "uncounted": int,
    "shares": {str: [float]},
}
# Version 1 had these in place of signals and offsets, and one number for all methods.
_FORM_1 = {"growth": {str: torch.Tensor}, "draws": _COUNTS}


def check_form(state: Any) -> None:
    """TypeError unless every entry of a Sparsifier's state, of any version, consists of what it should."""
    if not isinstance(state, Mapping):
        raise TypeError(f"expected a Sparsifier's state, a dict, got {type(state).__name__}")
    for key, form in {**FORM, **_FORM_1}.items():
        if key == "postponed_to" and type(state.get(key)) is int:
            form = int
        if key in state and not _fits(state[key], form):
            raise TypeError(f"{key}: expected {_words(form)}, got {_short(state[key])}")


def check_numbers(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """ValueError unless the counts of a state in today's form are possible for the layers of this `own` state."""
    for key in ("step", "updates", "observed", "offsets", "replaced", "replaced_last", "flips", "postponed_to", "updated_at"):
        if any(number < 0 for number in _numbers(state[key])):
            raise ValueError(f"{key}: expected no number below 0, got {_short(state[key])}")
    if state["total_steps"] < 1:
        raise ValueError(f"total_steps: expected 1 or more, got {state['total_steps']}")
    for key in ("postponed_to", "updated_at"):
        if len(state[key]) != len(own[key]):
            raise ValueError(f"{key}: expected {len(own[key])} numbers, got {len(state[key])}")
    before, last = state["updated_at"]
    if not (before < last <= state["step"] or before == last == 0):
        raise ValueError(f"updated_at: expected two steps up to {state['step']}, one after the other, got {[before, last]}")
    _check_executed(state)
    layers = own["shapes"].keys()
    for key in ("replaced", "replaced_last", "flips", "coverage", "executed", "shares"):
        if state[key].keys() != layers:
            raise ValueError(f"{key}: expected layers {', '.join(layers)}, got {', '.join(state[key])}")
    for key in ("signals", "observed", "offsets", "spoiled", "trained"):
        if unknown := [name for name in state[key] if name not in layers]:
            raise ValueError(f"{key}: expected layers among {', '.join(layers)}, got {', '.join(unknown)}")


def _check_executed(state: Mapping[str, Any]) -> None:
    if not 0 <= state["uncounted"] <= state["step"]:
        raise ValueError(f"uncounted: expected a number of steps from 0 to {state['step']}, got {state['uncounted']}")
    for name, numbers in state["executed"].items():
        if len(numbers) != 4 or min(numbers) < 0:
            raise ValueError(f"executed: expected four numbers, none below 0, got {_short(numbers)} for {name}")
    for name, shares in state["shares"].items():
        if len(shares) != 2 or not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError(f"shares: expected two numbers from 0 to 1, got {_short(shares)} for {name}")


def same_choices(own: Any, got: Any) -> bool:
    """Whether a method's choices, plain values and dicts of them, are the same."""
    if isinstance(own, Mapping):
        return isinstance(got, Mapping) and own.keys() == got.keys() and all(same_choices(own[key], got[key]) for key in own)
    return type(got) in (type(own), int, float) and bool(got == own)


def _fits(value: Any, form: Any) -> bool:
    if isinstance(form, dict):
        ((key, inner),) = form.items()
        return isinstance(value, Mapping) and all(_fits(k, key) and _fits(v, inner) for k, v in value.items())
    if isinstance(form, list):
        return isinstance(value, list | tuple) and all(_fits(one, form[0]) for one in value)
    if form is int:  # int64 holds it; True is none
        return type(value) is int and -(2**63) <= value < 2**63
    if form is torch.Tensor:
        return isinstance(value, torch.Tensor) and not value.is_meta and value.layout is torch.strided
    return isinstance(value, form)


def _words(form: Any) -> str:
    if isinstance(form, dict):
        return f"a dict from names to {_words(next(iter(form.values())))}"
    if isinstance(form, list):
        return f"a list of {_words(form[0])}"
    return {int: "int64", float: "float", str: "str", object: "values", torch.Tensor: "a tensor"}[form]


def _numbers(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value.values() if isinstance(value, Mapping) else value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]} ..."
