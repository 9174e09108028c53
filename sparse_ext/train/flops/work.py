"""`Work`: what a training step costs one layer, in entries of its weight; EFFECTS: how a method's actions change that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sparse_ext.methods import Action, Choose, Freeze, Regrow, RegrowEvenly, Switch
from sparse_ext.nn import SparseLayer
from sparse_ext.ops import LAYOUTS, Product

if TYPE_CHECKING:
    from ..trained_part import TrainedPart

Count = int | torch.Tensor  # int64 [], on the layer's device, where reading it would wait for that


class Entries(NamedTuple):
    """How many entries of a weight each product multiplies a token by; or the sums of that over steps."""

    forward: Count
    grad_input: Count
    grad_weight: Count


NOTHING = Entries(0, 0, 0)


@dataclass(frozen=True)
class Work:
    """A layer as plain numbers, as its products see it.

    Attributes:
        product: its operation.
        layout: how the weight is stored.
        rule: which chose the positions of a dense weight; None: the weight is packed.
        nnz: number of positions in use.
        sampled: whether the weight gradient is estimated from a sample of the output gradient.
        home: the layout to which a choice of positions of a dense weight returns, and `home_nnz` how many these are.
        input_share, weight_share: of the input gradient's and the weight gradient's entries, the share that is computed. Less
            than 1 where a method freezes weights.
    """

    product: Product
    layout: str
    rule: str | None
    nnz: Count
    sampled: bool = False
    home: str = ""
    home_nnz: int = 0
    input_share: float = 1.0
    weight_share: float = 1.0

    @property
    def positions(self) -> int:
        """Of the dense weight."""
        return self.product.rows * self.product.cols

    @property
    def entries(self) -> Entries:
        """Of one step."""
        of_input, of_weight = LAYOUTS[self.layout].backward_entries(self.product, self.nnz, self.rule, self.sampled)
        return Entries(self.nnz, _share(of_input, self.input_share), _share(of_weight, self.weight_share))


def work_of(layer: SparseLayer) -> Work:
    """The layer as it is now. Synchronises with the device."""
    return as_now(Work(layer.product, layer.layout, None, layer.nnz), layer)


def as_now(work: Work, layer: SparseLayer) -> Work:
    """This, with what the layer says of itself without synchronising: all but nnz and the shares."""
    rule = layer.chosen_by
    return replace(work, layout=layer.layout, rule=None if rule is None else rule.name, sampled=layer.rng is not None)


def in_part(work: Work, part: TrainedPart) -> Work:
    """The same, of which so much trains as `part` says. Synchronises with the device."""
    if part.trained is None:
        return replace(work, weight_share=1.0)
    if part.by == "layer":
        return replace(work, weight_share=float(part.trained))
    index, rows = part.at()
    entries = index.numel() * (1 if rows is None else work.product.cols)
    whole = replace(work, weight_share=1.0).entries.grad_weight
    return replace(work, weight_share=entries / max(1, int(whole)))


def plus(one: Count, other: Count) -> Count:
    """The sum; on the second one's device, as the model may be on another by now."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        one = one.to(other.device)
    return one + other


def _share(count: Any, share: float) -> Any:
    if share == 1.0:
        return count
    return (count * share).round().long() if isinstance(count, torch.Tensor) else round(count * share)


# ---- what actions change ---------------------------------------------------------------------------------------------------


def regrow(work: Work, action: Regrow) -> Work:
    """So many more positions, so many fewer."""
    return replace(work, nnz=work.nnz + action.grow - action.drop)


def regrow_evenly(work: Work, action: RegrowEvenly) -> Work:
    """Equally many positions in each row, of which none is given up. Half of a position is rounded up."""
    rows = work.product.rows
    return replace(work, nnz=rows * min((2 * action.nnz + rows) // max(1, 2 * rows), work.product.cols))


def choose(work: Work, action: Choose) -> Work:
    """Other positions of a dense weight, but as many; from another layout it returns home."""
    if work.rule is None:
        work = replace(work, layout=work.home, nnz=work.home_nnz)
    share = 1.0 if action.trained is None else action.trained / max(1, work.positions)
    return replace(work, rule=action.rule, weight_share=share)


def freeze(work: Work, action: Freeze) -> Work:
    """The weight gradient of what trains, and of nothing else."""
    return replace(work, weight_share=float(action.trained > 0) if action.by == "layer" else action.trained)


def switch(work: Work, action: Switch) -> Work:
    """Another layout holds the same positions; one with a density of its own holds as many as that says."""
    if action.layout == work.layout:
        return work
    pattern, product = LAYOUTS[action.layout].pattern, work.product
    nnz = work.nnz if work.rule is None else work.positions
    if not pattern.VARIABLE:
        nnz = pattern.sizes(product.rows, product.cols, pattern.SPARSITY, None).nnz
    return replace(work, layout=action.layout, rule=None, nnz=nnz)


EFFECTS: dict[type[Action], Callable[[Work, Any], Work]] = {
    Regrow: regrow,
    RegrowEvenly: regrow_evenly,
    Choose: choose,
    Switch: switch,
    Freeze: freeze,
}


def after(work: Work, action: Action) -> Work:
    """What the layer is after this action; of a class of actions without a row, the nearest base class counts."""
    effect = next((EFFECTS[kind] for kind in type(action).__mro__ if kind in EFFECTS), None)
    return work if effect is None else effect(work, action)


# ---- what was executed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Executed:
    """What a layer's products have cost since the start, in entries per token. It waits for no device.

    Attributes:
        work: since the step `since`.
        sums: of the steps up to `since`.
        observed: how many steps have computed the dense gradient, too.
    """

    work: Work
    since: int = 0
    sums: Entries = NOTHING
    observed: int = 0

    def settled(self, step: int) -> Executed:
        """The same with the sums over all steps up to this one."""
        steps = step - self.since
        sums = (plus(total, steps * one) for total, one in zip(self.sums, self.work.entries, strict=True))
        return replace(self, since=step, sums=Entries(*sums)) if steps else self

    def with_whole_gradient(self) -> Executed:
        """One more step so far has computed the gradient of all weights, though a part of them is frozen."""
        more = plus(replace(self.work, weight_share=1.0).entries.grad_weight, -1 * self.work.entries.grad_weight)
        return replace(self, sums=self.sums._replace(grad_weight=plus(self.sums.grad_weight, more)))

    def changed(self, step: int, work: Work) -> Executed:
        """From the step after this one on, the layer is so."""
        return replace(self.settled(step), work=work)

    def numbers(self) -> list[int]:
        """The sums, and the number of observed steps, as checkpoints hold them."""
        return [*map(int, self.sums), self.observed]

    def resumed(self, step: int, numbers: Sequence[int], shares: Sequence[float]) -> Executed:
        """After this step, with these `numbers` and shares; the rest of the work stays."""
        work = replace(self.work, input_share=shares[0], weight_share=shares[1])
        return Executed(work, step, Entries(*numbers[:3]), numbers[3])
