"""unfired_first, SNFS and MEST equal a dense model under a mask, step by step: reference/methods.md 2.1 to 2.5 once more."""

import math

import pytest
import torch
from masked import NETWORKS, OPTIMIZERS, MaskedTraining, compare, mask_of, ranked

import sparse_ext as sx
from sparse_ext.ops import reference

STEPS, INTERVAL, ALPHA, T_END = 60, 4, 0.4, 0.75
CHOICES = {"drop_fraction": ALPHA, "update_interval": INTERVAL, "t_end": T_END}
COEFFICIENT, GROWTH = 0.8, 1.5
UNTIL, MUTATION, LAMBDA = (0.4, 0.7), (0.3, 0.1), 2.0
SNFS = {**CHOICES, "momentum": COEFFICIENT, "largest_growth": GROWTH, "last_fraction": 0.02}
MEST = {"mutation": MUTATION, "until": UNTIL, "update_interval": INTERVAL, "gradient_weight": LAMBDA}


def cosine(step):
    return (1 + math.cos(math.pi * step / (T_END * STEPS))) / 2


def replaced(mask, keep, grow, drop, count, fours=False):
    """The mask without its `drop` lowest by `keep`, and with `count` others by `grow`. fours: as many for every four."""
    stays = mask_of(ranked(keep, mask)[: int(mask.sum()) - drop], mask)
    if not fours:
        return stays | mask_of(ranked(grow, ~stays)[:count], mask)
    lost = (mask.reshape(-1, 4).sum(1) - stays.reshape(-1, 4).sum(1)).tolist()
    chosen = []
    for at in ranked(grow, ~stays):
        if lost[at // 4]:
            lost[at // 4] -= 1
            chosen.append(at)
    return stays | mask_of(chosen, mask)


class Definition(MaskedTraining):
    fours = False

    def due(self, step):
        return step % INTERVAL == 0 and step < T_END * STEPS

    def random(self, name, step):
        return reference.random_u32(self.stream(name, step), self.masks[name].numel())


class UnfiredSet(Definition):
    def update(self, step, gradients):
        self.ever = getattr(self, "ever", dict(self.masks))
        for name, gradient in gradients.items() if self.due(step) else ():
            mask, count = self.masks[name], math.floor(ALPHA * cosine(step) * int(self.masks[name].sum()))
            score, ever = self.score(name, step, gradient).flatten().tolist(), self.ever[name].flatten().tolist()
            order = sorted(range(len(score)), key=lambda at: (ever[at], -score[at], at))
            rank = torch.empty(len(order), dtype=torch.long)
            rank[order] = torch.arange(len(order), 0, -1)
            self.change(name, replaced(mask, self.weight(name).abs(), rank.view_as(mask), count, count, self.fours))
            self.ever = {**self.ever, name: self.ever[name] | self.masks[name]}

    def score(self, name, step, gradient):
        return self.random(name, step)


class UnfiredRigl(UnfiredSet):
    def score(self, name, step, gradient):
        return gradient.abs()


class Snfs(Definition):
    shares = True

    def update(self, step, gradients):
        old = getattr(self, "mean", dict.fromkeys(gradients, 0.0))
        self.mean = {name: COEFFICIENT * old[name] + (1 - COEFFICIENT) * gradient for name, gradient in gradients.items()}
        if not self.due(step):
            return
        p = 0.02 + (ALPHA - 0.02) * cosine(step)
        nnz = {name: int(mask.sum()) for name, mask in self.masks.items()}
        drop = grow = {name: math.ceil(p * count) for name, count in nnz.items()}
        if self.shares:
            grow = self.shared(drop, nnz)
            assert sum(grow.values()) == sum(drop.values())
        for name, mask in list(self.masks.items()):
            mean = self.mean[name].abs()
            self.change(name, replaced(mask, self.weight(name).abs(), mean, drop[name], grow[name], self.fours))

    def shared(self, drop, nnz):
        """The level at which min(room, level * mean momentum) sums to all that was dropped; then the largest remainders."""
        total, room, mean = sum(drop.values()), {}, {}
        for name, count in nnz.items():
            size, limit = self.masks[name].numel(), round(GROWTH * self.targets[name])
            room[name] = max(count, min(limit, size)) - count + drop[name]
            mean[name] = float(self.mean[name].abs()[self.masks[name]].mean())
        low, high = 0.0, 1e30
        for _ in range(400):
            level = (low + high) / 2
            if sum(min(room[name], level * mean[name]) for name in nnz) < total:
                low = level
            else:
                high = level
        share = {name: min(room[name], high * mean[name]) for name in nnz}
        counts = {name: math.floor(share[name] + 1e-9) for name in nnz}
        for name in sorted(nnz, key=lambda name: counts[name] - share[name])[: total - sum(counts.values())]:
            counts[name] += 1
        return counts


class SnfsAlone(Snfs):
    shares = False


class Mest(Definition):
    soft = False

    def update(self, step, gradients):
        last = math.ceil(UNTIL[-1] * STEPS)
        if step % INTERVAL and not (self.soft and step == last):
            return
        m = next((m for m, t in zip(MUTATION, UNTIL, strict=True) if step < t * STEPS), 0.0)
        for name, gradient in gradients.items():
            mask, target = self.masks[name], self.targets[name]
            drop = grow = math.floor(m * int(mask.sum()))
            if self.soft:
                drop, grow = int(mask.sum()) - target, math.floor(m * target)
            score = self.weight(name).abs() + LAMBDA * gradient.abs()
            self.change(name, replaced(mask, score, self.random(name, step), drop, grow, self.fours))


class MestSoft(Mest):
    soft = True


RUNS = {
    "set": (sx.SET(**CHOICES, unfired_first=True), UnfiredSet),
    "rigl": (sx.RigL(**CHOICES, unfired_first=True), UnfiredRigl),
    "snfs": (sx.SNFS(**SNFS), Snfs),
    "snfs alone": (sx.SNFS(**SNFS, redistribute=False), SnfsAlone),
    "mest": (sx.MEST(**MEST), Mest),
    "mest soft": (sx.MEST(**MEST, soft=True), MestSoft),
}
FIXED = [name for name, (method, _) in RUNS.items() if not method.changes_density]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", RUNS)
def test_pattern_sequence_equals_a_masked_dense_model(name, optimizer, network):
    method, definition = RUNS[name]
    _, sparsifier, masked, history = compare(method, definition, network=network, optimizer=optimizer, steps=STEPS)
    assert len(set(history)) > 8
    sums = {sum(mask) for mask in history}
    targets = sum(masked.targets.values())
    assert sums == {targets} or name == "mest soft"
    assert sum(history[-1]) == targets
    report = {row.name: row for row in sparsifier.report().layers}
    if name == "mest soft":
        assert all(row.nnz == masked.targets[layer] for layer, row in report.items())
        assert max(sums) > 1.2 * targets
    if name == "snfs":  # layers exchange weights, as far as they have room
        assert any(row.nnz != masked.targets[layer] for layer, row in report.items())
        assert all(row.nnz <= GROWTH * masked.targets[layer] + 1 for layer, row in report.items())


@pytest.mark.parametrize("name", FIXED)
def test_pattern_sequence_within_fours(name):
    method, definition = RUNS[name]
    kind = type("Fours", (definition,), {"fours": True})
    *_, history = compare(method, kind, steps=STEPS, sparsity=0.5, layout="2:4")
    assert len(set(history)) > 8


@pytest.mark.parametrize("name", [name for name in RUNS if name not in FIXED])
def test_what_changes_densities_is_refused_where_there_is_one_only(name):
    model = torch.nn.Sequential(sx.SparseLinear(16, 8, layout="2:4"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kind = type(RUNS[name][0]).__name__
    with pytest.raises(ValueError, match=f"{kind} changes the density of layers, got layers whose layout has one density"):
        sx.Sparsifier(model, optimizer, RUNS[name][0], total_steps=9)
