"""A Sparsifier's state, as checkpoints hold it: names, the method, and whether a state belongs to this Sparsifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import Any

from sparse_ext.methods import Method

from .coverage import check_coverage
from .form import check_form, check_numbers, same_choices
from .names import shortened

VERSION = 3  # of a Sparsifier's state


def methods_by_name(method: Method | Mapping[str, Method], names: list[str], frozen: Collection[str] = ()) -> dict[str, Method]:
    """{name: method} of layers; of a mapping from name patterns the first that matches counts.

    Args:
        names: of the layers.
        frozen: those among them that need no method.

    Raises:
        ValueError: no pattern matches a layer, or a pattern matches none.
    """
    if isinstance(method, Method):
        return dict.fromkeys(names, method)
    found = {name: next((p for p in method if fnmatchcase(name, p)), None) for name in names}
    if lost := [name for name, pattern in found.items() if pattern is None and name not in frozen]:
        raise ValueError(f"expected a method for every sparse layer, got none for {', '.join(lost)}; add '*': Static()")
    if idle := [pattern for pattern in method if pattern not in found.values()]:
        raise ValueError(f"expected patterns that match layers, got {', '.join(map(repr, idle))}, which match none")
    return {name: method[pattern] for name, pattern in found.items() if pattern is not None}


def list_of(method: Method | Mapping[str, Method]) -> list[Method]:
    """The methods, TypeError unless these are some."""
    methods = list(method.values()) if isinstance(method, Mapping) else [method]
    if wrong := [one for one in methods if not isinstance(one, Method)]:
        raise TypeError(f"expected a method such as RigL(), or {{name pattern: method}}, got {wrong[0]!r}")
    return methods


def described(method: Method | Mapping[str, Method]) -> dict[str, Any]:
    """The method's name and choices, as plain values, see `methods.base.LATER`; of a mapping, by pattern."""
    if isinstance(method, Method) and len(method.parts) > 1:
        return {"name": type(method).__name__, **{type(part).__name__: described(part) for part in method.parts}}
    if isinstance(method, Method):
        known = [one for one in fields(method) if not (one.metadata.get("later") and getattr(method, one.name) == one.default)]
        return {"name": type(method).__name__, **{one.name: getattr(method, one.name) for one in known}}
    return {pattern: described(one) for pattern, one in method.items()}


def upgraded(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """A state in the form of today's version, for layers of these names; ValueError if it is of a later one.

    Version 1 held the sums of RigL's gradients as `growth`, and `draws` for `offsets`. Version 2 had shorter names, and
    coverage as bits alone.
    """
    if (version := state.get("version", 1)) > VERSION:
        raise ValueError(
            f"expected a Sparsifier's state of version {VERSION} or older, got version {version}: a newer sparse_ext wrote it; "
            "upgrade sparse_ext to load it"
        )
    state = dict(state)
    if "growth" in state:
        state["signals"] = {name: {"gradient": {"total": total}} for name, total in state.pop("growth").items()}
    if "draws" in state:
        state["offsets"] = state.pop("draws")
    state.setdefault("observed", dict.fromkeys(state.get("signals", {}), 1))
    state.setdefault("spoiled", [])
    state.setdefault("stamps", {})
    if "executed" not in state:  # nothing is known of the steps so far
        layers = list(state.get("shapes", {}))
        state |= {"executed": {name: [0, 0, 0, 0] for name in layers}, "uncounted": state.get("step", 0)}
        state["shares"] = {name: [1.0, 1.0] for name in layers}
    state.setdefault("trained", {})
    if isinstance(state.get("postponed_to"), int):
        state["postponed_to"] = [state["postponed_to"]]
    return state if version >= 3 else _renamed(state, {shortened(name): name for name in names})


def with_frozen(state: dict[str, Any], own: Mapping[str, Any], frozen: Collection[str]) -> dict[str, Any]:
    """The state, in which layers that are frozen now may be missing, as earlier versions left them out."""
    if missing := [name for name in frozen if name not in state.get("shapes", frozen)]:
        for key in ("shapes", "replaced", "replaced_last", "flips", "coverage", "executed", "shares"):
            if isinstance(state.get(key), Mapping):
                state[key] = state[key] | {name: own[key][name] for name in missing}
    return state


def _renamed(state: dict[str, Any], today: Mapping[str, str]) -> dict[str, Any]:
    """The state with today's names of its layers in place of shortened ones."""

    def name(old: str) -> str:
        return today.get(shortened(old), old)

    by_name = {key: value for key, value in state.items() if isinstance(value, Mapping) and key != "method"}
    renamed = {key: {name(old): value for old, value in values.items()} for key, values in by_name.items()}
    return {**state, **renamed, "spoiled": [name(old) for old in state["spoiled"]]}


def read(state: Any, own: Mapping[str, Any], frozen: Collection[str]) -> dict[str, Any]:
    """The state in today's form, if it is one of a Sparsifier with this `own` state, of which some layers are frozen.

    Raises:
        ValueError: it belongs to other layers or another method, is corrupt, or of a later version.
        TypeError: an entry is of another type.
    """
    check_form(state)
    state = with_frozen(upgraded(state, list(own["shapes"])), own, frozen)
    check_state(state, own)
    return state


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """ValueError unless the state is one of a Sparsifier with the layers and the method of this `own` state."""
    if missing := own.keys() - state.keys() - {"version"}:
        raise ValueError(f"expected a Sparsifier's state, got one without {', '.join(sorted(missing))}")
    if not same_choices(own["method"], state["method"]):
        raise ValueError(f"expected the state of method {own['method']}, got {state['method']}")
    if state["shapes"].keys() != own["shapes"].keys():
        raise ValueError(f"expected the state of layers {list(own['shapes'])}, got {list(state['shapes'])}")
    if state["shapes"] != own["shapes"]:
        raise ValueError(f"expected the state of layers of shapes {own['shapes']}, got {state['shapes']}")
    check_numbers(state, own)
    for name, signals in state["signals"].items():
        for signal, tensors in signals.items():
            shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
            if any(shape != own["shapes"].get(name) for shape in shapes.values()):
                raise ValueError(f"expected signals of shapes {own['shapes']}, got {signal!r} of {name!r} with {shapes}")
    for name, bits in state["coverage"].items():
        check_coverage(name, bits, *own["shapes"].get(name, (0, 0)))
