"""A dry run of a method over plain numbers: what its layers' products will cost in a whole run, if it goes as planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sparse_ext.methods import Action, LayerNumbers, Layers, Method, Regrow, Time
from sparse_ext.ops import LAYOUTS

from ..signals import signal_classes
from ..storage import room_of
from .work import Entries, Executed, Work, after


class Trained(Protocol):
    """A layer, with the name, the method and the first layout that a Sparsifier's `ManagedLayer` has."""

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> Any: ...
    @property
    def method(self) -> Method: ...
    @property
    def home(self) -> str: ...


@dataclass(frozen=True)
class Planned:
    """One layer's run as planned.

    Attributes:
        sums: what all steps together cost. Of a step that observes the dense gradient, the weight gradient costs all positions:
            the sparse one is a part of it.
        observed: how many steps do.
        begin, end: the layer before the first step, and after the last one.
    """

    sums: Entries
    observed: int
    begin: Work
    end: Work


def planned(groups: Sequence[tuple[Method, Sequence[Trained]]], total_steps: int) -> dict[str, Planned]:
    """{name: its run} of all layers, from step 0 to total_steps; groups: each method, and the layers that it trains.

    What depends on values is taken as if all positions were alike: a total over a signal's scores is the number of positions,
    and of the smallest magnitudes of all layers each one has a share in proportion to its nnz.
    """
    now = {managed.name: Executed(_start(managed)) for _, group in groups for managed in group}
    runs = [_DryRun(method, group, now) for method, group in groups]
    for run in runs:
        first = run.plan(Time(0, total_steps))
        run.carry_out(0, {name: one for name, one in first.items() if not isinstance(one, Regrow)})
    begin = {name: one.work for name, one in now.items()}
    for steps in zip(*(_steps(run.method, total_steps) for run in runs), strict=True):
        for run, (time, due, observed) in zip(runs, steps, strict=True):
            if due or (observed and run.watching):
                run.step(time, due, observed and bool(run.watching))
    ends = {name: one.settled(total_steps) for name, one in now.items()}
    return {name: Planned(one.sums, one.observed, begin[name], one.work) for name, one in ends.items()}


def _asks_for(signals: set[str], action: Action | None) -> bool:
    """Whether the action ranks positions by one of these signals."""
    return isinstance(action, Regrow) and not signals.isdisjoint((action.grow_by, action.keep_by))


def _steps(method: Method, total_steps: int) -> Iterator[tuple[Time, bool, bool]]:
    """(time, whether patterns may change, whether signals observe) of each step from 1 on."""
    ahead = max(1, method.observed_steps())
    due = [method.is_update(Time(step, total_steps)) for step in range(1, total_steps + ahead)]
    usual = type(method).observes is Method.observes
    following: list[int] = [0] * len(due)  # the next step, this one included, that is due
    after_all = total_steps + 2 * ahead
    for index in reversed(range(len(due))):
        after_all = following[index] = index + 1 if due[index] else after_all
    for step in range(1, total_steps + 1):
        time = Time(step, total_steps)
        near = following[step - 1] - step < method.observed_steps() if usual else method.observes(time)
        yield time, due[step - 1], near


class _DryRun:
    """The layers of one method as plain numbers.

    Attributes:
        now: {name: what the layer has cost so far, and is now}, of all methods' layers.
        watching: the method's signals that observe gradients.
    """

    def __init__(self, method: Method, group: Sequence[Trained], now: dict[str, Executed]) -> None:
        self.now, self.method = now, method
        kinds = signal_classes(method.signals)
        self.watching = {name for name, kind in kinds.items() if kind.OBSERVES}
        self._streams = method.observed_steps() == 1 and all(kinds[name].STREAMS for name in self.watching)
        self._names = [managed.name for managed in group]
        self._capacities = {managed.name: room_of(managed.layer) for managed in group}
        self._targets = {managed.name: managed.layer.target_nnz for managed in group}
        self._numbers: Layers | None = None
        self._idle: dict[str, Action] = {}  # by layer, what changes nothing, such as a choice by the present rule

    def plan(self, time: Time) -> dict[str, Action]:
        """What the method orders at this step."""
        if self._numbers is None:
            self._numbers = Layers({name: self._seen(name) for name in self._names}, self._smallest)
        return self.method.plan(self._numbers, time)

    def step(self, time: Time, due: bool, observed: bool) -> None:
        """A step at which the method may change something, or its signals observe."""
        actions = self.plan(time) if due or self._streams else {}
        if observed:
            asked = [name for name in self._names if not self._streams or _asks_for(self.watching, actions.get(name))]
            self.observe(asked)
        if due and self.method.importance is not None:  # it scores the gradient of all weights
            self.now.update({name: self.now[name].with_whole_gradient() for name in self._names})
        if due:
            self.carry_out(time.step, actions)

    def _seen(self, name: str) -> LayerNumbers:
        work = self.now[name].work
        return LayerNumbers(
            rows=work.product.rows,
            cols=work.product.cols,
            capacity=self._capacities[name],
            layout=work.layout,
            dense_weight=work.rule is not None,
            count=lambda: int(self.now[name].work.nnz),
            total=lambda signal: float(work.positions),
            shape=work.product.weight_shape,
            target=self._targets[name],
            total_in_use=lambda signal: float(self.now[name].work.nnz),
            share=lambda: self.now[name].work.weight_share,
        )

    def _smallest(self, count: int) -> dict[str, int]:
        return in_proportion({name: int(self.now[name].work.nnz) for name in self._names}, count)

    def observe(self, names: Sequence[str]) -> None:
        """A step that computes these layers' dense gradients: of it, the weight gradient costs all positions."""
        for name in names:
            one = self.now[name]
            more = max(0, one.work.positions - int(one.work.entries.grad_weight))
            sums = one.sums._replace(grad_weight=one.sums.grad_weight + more)
            self.now[name] = replace(one, sums=sums, observed=one.observed + 1)

    def carry_out(self, step: int, actions: Mapping[str, Action]) -> None:
        """These actions, at the end of this step."""
        for name, action in actions.items():
            if self._idle.get(name) == action:
                continue
            before = self.now[name].work
            work, self._idle[name] = after(before, action), action
            if work != before:
                del self._idle[name]
                self.now[name] = self.now[name].changed(step, work)
                if (work.layout, work.rule is None) != (before.layout, before.rule is None):
                    self._numbers = None


def _start(managed: Trained) -> Work:
    """The layer as it is, or was, before the first step."""
    layer, method, home = managed.layer, managed.method, managed.home
    pattern, product = LAYOUTS[home].pattern, layer.product
    positions = product.rows * product.cols
    if not pattern.VARIABLE:
        nnz = pattern.sizes(product.rows, product.cols, pattern.SPARSITY, None).nnz
    elif method.changes_density or layer.layout != home:
        nnz = round(method.initial_density(layer.target_nnz / max(1, positions)) * positions)
    else:
        nnz = layer.nnz
    rule = pattern.RULES[0] if method.dense_weight else None
    if layer.layout == home and layer.chosen_by is not None:
        rule = layer.chosen_by.name
    return Work(product, home, rule, nnz, method.samples_gradient, home, nnz)


def in_proportion(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` things, shared in proportion to these sizes, and exactly so many; what is left over goes to the largest rests.

    ValueError unless count is from 0 to the sum.
    """
    total = sum(sizes.values())
    if not 0 <= count <= total:
        raise ValueError(f"expected a count between 0 and {total} (positions in use), got {count}")
    shares = {name: count * size // max(1, total) for name, size in sizes.items()}
    left = count - sum(shares.values())
    for name in sorted(sizes, key=lambda name: -(count * sizes[name] % max(1, total)))[:left]:
        shares[name] += 1
    return shares
