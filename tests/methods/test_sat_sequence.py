"""SAT equals a dense model whose frozen part is put back after every step: reference/methods.md 2.10 (C), in plain PyTorch."""

import itertools

import pytest
import torch
from masked import NETWORKS, OPTIMIZERS, MaskedTraining, compare, mask_of, ranked
from torch import nn

import sparse_ext as sx

ACTIVE, INTERVAL, H, SMOOTHING = 0.3, 5, 0.2, 0.6
CHOICES = {"active": ACTIVE, "update_interval": INTERVAL, "hysteresis": H, "smoothing": SMOOTHING}


class Frozen(MaskedTraining):
    """Frozen parts are copied before a step, and put back after it; at an update they are chosen anew."""

    granularity, score = "element", "taylor"

    def __init__(self, model, masks, *rest):
        dense = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        super().__init__(
            model, {name: masks.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in dense.items()}, *rest
        )
        self.trained = {name: torch.ones_like(mask) for name, mask in self.masks.items()}
        self.whole = dict.fromkeys(self.masks, True)
        self.importance, self.now = {}, 0

    def parameters(self):
        for name in self.masks:
            layer = self.model.get_submodule(name)
            yield layer.weight, self.trained[name]
            if layer.bias is not None:
                yield layer.bias, torch.full_like(layer.bias, self.whole[name], dtype=torch.bool)

    def regularize(self):
        self.now += 1
        for name in self.masks if self.now % INTERVAL == 0 else ():
            weight = self.weight(name).detach()
            gradient = self.weight(name).grad
            score = gradient**2 if self.score == "square" else (weight * gradient).abs()
            before = self.importance.get(name, score)
            self.importance[name] = SMOOTHING * before + (1 - SMOOTHING) * score
        self.kept = []
        for parameter, trained in self.parameters():
            state = {key: v.clone() for key, v in self.optimizer.state[parameter].items() if v is not None and v.dim()}
            self.kept.append((parameter.detach().clone(), state))
            parameter.grad *= trained

    def update(self, step, gradients):
        for (parameter, trained), (value, state) in zip(self.parameters(), self.kept, strict=True):
            parameter.copy_(torch.where(trained, parameter, value))
            for key, tensor in self.optimizer.state[parameter].items():
                if tensor is not None and tensor.dim():
                    tensor.copy_(torch.where(trained, tensor, state.get(key, torch.zeros_like(tensor))))
        self.patterns(step, gradients)
        if step % INTERVAL == 0:
            self.choose()

    def patterns(self, step, gradients):
        pass

    def favoured(self, score, trained):
        return score / torch.where(trained, 1 - H, 1 + H)

    def choose(self):
        for name, mask in self.masks.items():
            importance, trained = self.importance[name] * mask, self.trained[name]
            count = round(ACTIVE * int(mask.sum()))
            if self.granularity == "element":
                self.trained[name] = mask_of(ranked(self.favoured(importance, trained), mask)[:count], mask)
            if self.granularity == "row":
                counts = mask.flatten(1).sum(1)
                means = self.favoured(importance.flatten(1).sum(1) / counts.clamp(min=1), trained.flatten(1).any(1))
                order = sorted(range(len(means)), key=lambda row: (-float(means[row]), row))
                self.trained[name] = torch.zeros_like(mask)
                self.trained[name][nearest(order, counts.tolist(), ACTIVE)] = True
        if self.granularity == "layer":
            names = list(self.masks)
            counts = [int(self.masks[name].sum()) for name in names]
            means = [float((self.importance[n] * self.masks[n]).sum()) / c for n, c in zip(names, counts, strict=True)]
            scores = [mean / (1 - H if self.whole[name] else 1 + H) for mean, name in zip(means, names, strict=True)]
            order = sorted(range(len(names)), key=lambda at: -scores[at])
            taken = nearest(order, counts, ACTIVE)
            for at, name in enumerate(names):
                self.whole[name] = at in taken
                self.trained[name] = torch.full_like(self.masks[name], at in taken)


def nearest(order, counts, share):
    """The first so many of the order whose counts sum up to nearest to the share; at least one."""
    sums = list(itertools.accumulate(counts[at] for at in order))
    best = min(range(len(sums)), key=lambda number: (abs(sums[number] - share * sum(counts)), number))
    return order[: best + 1]


def check_parts(sparsifier, definition):
    for managed in sparsifier._layers:
        part, expected = managed.part, definition.trained[managed.name]
        if part.by == "layer":
            assert bool(part.trained) == definition.whole[managed.name]
        elif part.by == "row":
            assert torch.equal(part.trained, expected.flatten(1).any(1))
        else:
            at = managed.layer.slots()
            assert torch.equal(part.trained[at >= 0], expected.flatten()[at[at >= 0]])


@pytest.mark.parametrize("layout", ["csr", "masked"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("by", "score"), [("element", "taylor"), ("row", "square"), ("layer", "taylor")])
def test_equals_a_dense_model_with_frozen_parts(by, score, optimizer, network, layout):
    definition = type("Definition", (Frozen,), {"granularity": by, "score": score})
    method = sx.SAT(granularity=by, score=score, **CHOICES)
    _, sparsifier, run, _ = compare(method, definition, network=network, optimizer=optimizer, layout=layout, steps=30)
    check_parts(sparsifier, run)
    assert sparsifier.report().updates == 6


@pytest.mark.parametrize("by", ["element", "row"])
def test_equals_it_on_2_4(by):
    definition = type("Definition", (Frozen,), {"granularity": by})
    _, sparsifier, run, _ = compare(sx.SAT(granularity=by, **CHOICES), definition, layout="2:4", sparsity=0.5, steps=30)
    check_parts(sparsifier, run)


class WithRigL(Frozen):
    """New weights train. As RigL in test_pattern_sequence, with a constant share."""

    def patterns(self, step, gradients):
        if step % 4 or step >= 24:
            return
        for name, gradient in gradients.items():
            weight, mask = self.weight(name), self.masks[name]
            if mask.all():
                continue
            k = int(0.3 * int(mask.sum()))
            keep = mask_of(ranked(weight.abs(), mask)[: int(mask.sum()) - k], mask)
            new = keep | mask_of(ranked(gradient.abs(), ~keep)[:k], mask)
            grown = new & ~mask
            self.change(name, new)
            self.trained[name] = (self.trained[name] & new) | grown
            if name in self.importance:
                self.importance[name] = self.importance[name] * (new & ~grown)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("layout", ["csr", "masked"])
def test_together_with_rigl(layout, network):
    rigl = sx.RigL(drop_fraction=0.3, update_interval=4, t_end=24, schedule="constant")
    method = sx.Together(sx.SAT(**CHOICES), rigl)
    _, sparsifier, run, history = compare(method, WithRigL, network=network, layout=layout, steps=30)
    check_parts(sparsifier, run)
    assert len(set(history)) == 6
