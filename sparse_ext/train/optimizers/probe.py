"""`probe`: tries out on a small weight whether an optimizer's state can follow a changing pattern, and how state begins."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from sparse_ext.ops.pattern import taken

from .found import find, obstacle
from .state import Fresh, OptimizerState
from .twin import described, twin_of
from .wrappers import group_of, without_delegates

SHAPE, SMALL = (4, 6), 24  # of the first weight on which an optimizer is tried out
STEPS = 6  # before an update of the pattern, and after it: so many that Lookahead, or the correction of RAdam, comes to act
QUANTIZED = 4096  # from this length on, optimizers may keep state in blocks of fewer bits; the blocks' lengths divide it
_WEIGHT = ("weight",)  # its path, among those of state


class Probed(NamedTuple):
    """What a trial has shown.

    Attributes:
        fresh: what state tensors hold of a weight that got no gradient yet, where that is not 0.
        reason: why the optimizer's state cannot follow a changing pattern; None: it can.
    """

    fresh: Fresh
    reason: str | None


_KNOWN: WeakKeyDictionary[type, dict[str, Probed]] = WeakKeyDictionary()


def probe(optimizer: Any, weight: torch.Tensor) -> Probed:
    """Trains small weights by an optimizer of the same class and options, one of them with an update of the pattern.

    That one must end as another one that had the new pattern from the start, whose new elements got no gradient before. So
    state is all found, and one value per weight. A matrix must end as its elements in a flat weight do. Takes some
    milliseconds, once for a class with its options. Leaves the optimizer, hooks and random numbers alone.

    Args:
        weight: one of the optimizer's parameters; its length, dtype and device count.
    """
    group = group_of(optimizer, weight)
    assert group is not None
    optimizer = without_delegates(optimizer)
    options = {name: value for name, value in group.items() if name != "params"}
    device = torch.device("cpu") if weight.is_meta else weight.device
    make = _Maker(optimizer, options, weight.dtype, device, False)
    length = weight.numel() if weight.numel() < 2 * QUANTIZED else QUANTIZED + weight.numel() % QUANTIZED
    known = _KNOWN.setdefault(type(optimizer), {})
    choices = f"{options} {described(optimizer)} {weight.dtype} {device}"
    probed = Probed({}, None)
    for tried in (SMALL, length) if length != SMALL else (SMALL, SMALL + 1):
        key = f"{tried} {choices}"
        if key not in known:
            known[key] = _probe(make, tried)
        probed = known[key]
        if probed.reason is not None:
            break
    return probed


class _Maker(NamedTuple):
    """What twins of an optimizer are made from."""

    optimizer: Any
    options: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    closure: bool  # whether its step asks for one


class _Refused(Exception):
    """The reason why state cannot follow."""


class _Trial:
    """A weight of these values, and a second parameter, which a twin of the optimizer trains by gradients that are given."""

    def __init__(self, make: _Maker, values: torch.Tensor) -> None:
        self.weight = torch.nn.Parameter(values.clone())
        self.bias = torch.nn.Parameter(values.new_ones(3))
        self.optimizer = twin_of(make.optimizer, make.options, [self.weight, self.bias])
        self.state = OptimizerState([self.optimizer])
        self.closure = make.closure
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimizers
            train()

    def step(self, gradient: torch.Tensor) -> None:
        def closure() -> torch.Tensor:
            self.weight.grad = gradient.clone().view_as(self.weight)
            self.bias.grad = torch.full_like(self.bias, 0.5)
            return gradient.sum()

        closure()
        if self.closure:
            self.optimizer.step(closure)
        else:
            self.optimizer.step()

    def tensors(self) -> dict[tuple[str, ...], torch.Tensor]:
        """The weight, and its state; _Refused where that has another form."""
        found = find([self.optimizer], [self.weight])
        if problem := obstacle(found, [self.weight]):
            raise _Refused(problem[1])
        state = {one.path: one.tensor for one in found if one.tensor.shape == self.weight.shape}
        return {_WEIGHT: self.weight.detach().view(-1), **state}


def _probe(make: _Maker, length: int) -> Probed:
    with ExitStack() as around:
        around.enter_context(torch.no_grad())
        around.enter_context(torch.random.fork_rng([make.device] if make.device.type == "cuda" else []))
        around.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        around.enter_context(_without_global_hooks())
        if "torch._dynamo" in sys.modules:  # compiling takes seconds
            around.enter_context(torch.compiler.set_stance("force_eager"))
        # What an optimizer does shows in float64, where little is rounded; how it does that may depend on the dtype, too.
        steps, dtypes = (STEPS, (torch.float64, make.dtype)) if length == SMALL else (2, (make.dtype,))
        reason = ""
        for dtype, closure in product(dtypes, (False, True)):
            try:
                return Probed(_updated_in_the_middle(make._replace(dtype=dtype, closure=closure), length, steps), None)
            except _Refused as refused:
                return Probed({}, str(refused))
            except Exception as error:  # whatever an optimizer may raise that cannot be made, or asks for a closure
                reason = reason or f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0] or 'no message'}"
    return Probed({}, f"it could not be tried out on a small weight ({reason})")


def _updated_in_the_middle(make: _Maker, length: int, steps: int) -> Fresh:
    """Trains a weight whose pattern is updated in the middle, and one that had the new pattern from the start.

    Returns:
        What new state begins with.

    Raises:
        _Refused: the two do not end alike, or not as a matrix would.
        Exception: whatever the optimizer raises.
    """
    random = torch.Generator().manual_seed(length)
    values, *gradients = torch.randn(1 + 2 * steps, length, generator=random, device="cpu").to(make.device, make.dtype)
    order = torch.randperm(length, generator=random, device="cpu").to(make.device)
    values *= 0.1  # small, so that small steps show
    silent, unused = order[0], order[-1]  # the first gets gradients after it was dropped and grown again, the other never
    source = order.roll(length // 2)
    grown, source = source == silent, torch.where(source == silent, -1, source)
    for number, tensor in enumerate((values, *gradients)):
        tensor[unused] = 0
        if number <= steps:
            tensor[silent] = 0
    straight_gradients = [taken(gradient, source) for gradient in gradients[:steps]]
    for gradient in gradients[steps:]:  # these are of the new pattern
        straight_gradients.append(taken(gradient, order.roll(length // 2)) + grown)

    updated, straight = _Trial(make, values), _Trial(make, taken(values, source))
    fresh: dict[tuple[str, ...], float] = {}
    for number, (gradient, moved) in enumerate(zip(gradients, straight_gradients, strict=True)):
        if number == steps:
            updated.state.learn(updated.weight, fresh)
            updated.state.move_(updated.weight, source)
        updated.step(gradient if number < steps else moved)
        straight.step(moved)
        if number < steps:
            for path, tensor in updated.tensors().items():
                if path not in fresh:
                    fresh[path] = float(tensor[silent])
    _compare(updated.tensors(), straight.tensors(), source == unused)
    if torch.equal(straight.weight, taken(values, source)):
        if steps < STEPS:
            return _updated_in_the_middle(make, length, STEPS)
        raise _Refused("its steps change no weight of a trial")
    if length == SMALL:
        _compare_with_matrix(make, taken(values, source), straight_gradients, straight.weight)
    return {path: value for path, value in fresh.items() if value}


def _compare(updated: dict[Any, torch.Tensor], straight: dict[Any, torch.Tensor], unused: torch.Tensor) -> None:
    """_Refused unless both weights have ended alike."""
    if straight[_WEIGHT][unused].any():
        raise _Refused("it changes weights that are 0 and got no gradient, such as unused slots")
    for path, tensor in straight.items():
        if path not in updated or not _close(updated[path], tensor):
            raise _Refused(f"after an update of the pattern its {path[-1]} is not that of a weight that had it from the start")


def _compare_with_matrix(make: _Maker, values: torch.Tensor, gradients: list[torch.Tensor], expected: torch.Tensor) -> None:
    """_Refused unless these steps bring a matrix to the expected values."""
    matrix = _Trial(make, values.view(SHAPE))
    for gradient in gradients:
        matrix.step(gradient)
    if not _close(matrix.weight.view(-1), expected):
        raise _Refused("it treats matrices otherwise than flat weights, such as those of sparse layers")


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal, but for the order in which norms are summed; and in float64, but for what float32 would not show."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    single = torch.finfo(torch.float32).eps
    tolerance = {8: single, 4: 64 * single}.get(one.element_size(), 8 * torch.finfo(one.dtype).eps)
    scale = float(other.detach().abs().max())
    return scale < math.inf and bool(((one - other).abs() <= tolerance * scale).all())


@contextmanager
def _without_global_hooks() -> Iterator[None]:
    """Trials are none of the steps that hooks on all optimizers wait for."""
    module = vars(sys.modules[torch.optim.Optimizer.__module__])
    hooks = [module.get(name, {}) for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")]
    before = [dict(one) for one in hooks]
    for one in hooks:
        one.clear()
    try:
        yield
    finally:
        for one, kept in zip(hooks, before, strict=True):
            one.update(kept)
