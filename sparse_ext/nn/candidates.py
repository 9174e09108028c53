"""Which layers of a model `sparsify_` replaces, which it leaves dense, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sparse_ext.ops import FLOATING, layout_named

from .foreign import is_computed
from .layer import SparseLayer
from .partly import PartlyTrained
from .readers import readers
from .replacement import has_own_forward
from .table import nearest, replacement_of

HOOKS = "its hooks would be lost"
# Why a conversion left a module dense, where nobody could tell afterwards.
WHY_DENSE: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class Candidates(NamedTuple):
    """Attributes:
    layers: {name: layer}, those to replace.
    obstacles: {name: reason}, of layers that cannot be replaced, though others of their kind can.
    excluded: the modules that the caller excluded.
    """

    layers: dict[str, Any]
    obstacles: dict[str, str]
    excluded: set[nn.Module]


def candidates(model: nn.Module, exclude: Iterable[str], layout: str) -> Candidates:
    """The layers that `sparsify_` replaces by some of this layout; TypeError or ValueError if `exclude` names nothing."""
    kind, excluded, reasons = layout_named(layout), _excluded(model, exclude), obstacles(model)
    found: dict[str, Any] = {}
    kept: dict[str, str] = {}
    for name, module in model.named_modules():
        if nearest(module) is None or module in excluded:
            continue
        sparse = replacement_of(module)
        if why := reasons.get(name) or (kind.obstacle(sparse.product_of(module)) if sparse else None):
            kept[name] = why
        else:
            found[name] = module
    return Candidates(found, kept, excluded)


def obstacles(model: nn.Module) -> dict[str, str]:
    """{name: reason} of the layers that cannot be replaced, whatever the layout, though others of their kind can."""
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    read = {module: f"{where} reads its weight as a dense matrix" for module, where in readers(model).items()}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            read |= dict.fromkeys(module.modules(), "nn.MultiheadAttention reads its weight as a dense matrix")
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        if nearest(module) is None:
            continue
        if why := read.get(module) or _of_weight(module) or _of_class(module):
            reasons[name] = why
        elif uses[id(module.weight)] > 1:
            reasons[name] = "its weight is tied to another module's"
        elif names[id(module)] > 1:
            reasons[name] = "the model uses it under several names"
    return reasons


def _of_weight(module: Any) -> str | None:
    """Why there is no sparse weight for that of the layer."""
    if parametrize.is_parametrized(module):
        return "its weight is parametrized"
    if is_computed(module):
        return "its weight is computed by a hook"
    if is_lazy(module.weight):
        return "it has no weight before its first batch: run one through the model"
    if is_traceable_wrapper_subclass(module.weight):
        return f"its weight is of class {type(module.weight).__name__}"
    if module.weight.dtype not in FLOATING:
        return f"there are no kernels for {module.weight.dtype}"
    return None


def _of_class(module: nn.Module) -> str | None:
    """What the layer does that its replacement would not."""
    if isinstance(module, PartlyTrained):
        return "a Sparsifier trains a part of it: convert the model before you make that one"
    if replacement_of(module) is None:
        return f"{type(module).__name__} is a subclass with behaviour of its own; register_layer tells how to replace it"
    if has_own_forward(module, type(module)):
        return "its forward is another function than its class's, and would be lost"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return HOOKS
    return None


def _excluded(model: nn.Module, exclude: Iterable[str]) -> set[nn.Module]:
    """The modules that are excluded, each with what it contains."""
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"expected exclude to hold names of layers, or patterns of names, got {type(pattern).__name__}")
    names = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    found: set[nn.Module] = set()
    for pattern in patterns:
        matched = [module for name, module in names.items() if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(
                f"expected exclude to name modules of the model, got {pattern!r}, which matches none; "
                f"{_advice(pattern, list(names))}"
            )
        found.update(inner for module in matched for inner in module.modules())
    return found


def _advice(pattern: str, names: list[str]) -> str:
    """Names that may have been meant."""
    near = [name for name in names if name.endswith(f".{pattern}")] or get_close_matches(pattern, names)
    last = {name.rpartition(".")[2]: name for name in names}
    near = near or [last[name] for name in get_close_matches(pattern.rpartition(".")[2], last)]
    if near:
        return f"did you mean {' or '.join(map(repr, near[:3]))}?"
    return "model.named_modules() lists the names; '*.head' matches a last part"


def already_sparse(model: nn.Module) -> str | None:
    """The model's sparse layers and their shares of zeros, as words; None if there are none."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SparseLayer)}
    shown = [f"{name!r} ({1 - layer.density:.1%} zeros)" for name, layer in list(layers.items())[:3]]
    if len(layers) > len(shown):
        shown.append(f"{len(layers) - len(shown)} more")
    return ", ".join(shown) or None
